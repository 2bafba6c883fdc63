"""What every view shares: colors, style, selection, closing, and a page that needs no kernel."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import anywidget
import ipywidgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import traitlets

from workbench._util import write_whole
from workbench.errors import WorkbenchError

# From Okabe and Ito's palette: the color-blind can tell them apart, on white and on black.
CATEGORIES = "#3A8FD0 #E69F00 #009E73 #CC79A7 #D55E00 #56B4E9 #B5A642 #8C6BB1".split()
COLORS = {"teacher": "#D55E00", "student": "#3A8FD0", "asymmetric": "#009E73", "base": "#999999"}
COLORS["symmetric"] = COLORS["student"]
MOST_CATEGORIES = 30
# Low to high: magenta, which is where models agree least, to light blue.
SCALE = ["#C2185B", "#E07B39", "#E6B84A", "#9CC3A5", "#56B4E9"]
OTHER = "#8A8A8A"  # of what has no color of its own

# Mode of retrieval: whose queries, whose documents.
MODES = {
    "teacher": ("teacher", "teacher"),
    "symmetric": ("student", "student"),
    "asymmetric": ("student", "teacher"),
}

STATIC = Path(__file__).parent / "static"
STYLE = (STATIC / "view.css").read_text(encoding="utf-8")
# Runs a part on a page without a kernel: its state, with bytes, and nobody who gets messages.
_ALONE = """
const decode = (key, value) => value?.base64 === undefined ? value
  : new DataView(Uint8Array.from(atob(value.base64), (letter) => letter.charCodeAt(0)).buffer);
const state = JSON.parse(JSON.stringify(STATE), decode);
front.render({ el: document.currentScript.previousElementSibling,
  model: { get: (name) => state[name], on() {}, off() {}, send() {} } });
"""


def palette(count: int) -> list[str]:
    """Return `count` colors: those of `CATEGORIES`, then hues at golden steps."""
    more = range(count - len(CATEGORIES))
    hues = [f"hsl({step * 222.5 % 360:.0f}, 60%, {(45, 62, 36)[step % 3]}%)" for step in more]
    return [*CATEGORIES[:count], *hues]


def model_colors(names: Sequence[str]) -> dict[str, str]:
    """Return a color for each model or mode: that of `COLORS`, or another one."""
    taken = {COLORS[name] for name in names if name in COLORS}
    candidates = dict.fromkeys([*COLORS.values(), *palette(40)])
    free = iter([color for color in candidates if color not in taken])
    return {name: COLORS.get(name) or next(free, OTHER) for name in names}


class Selection(traitlets.HasTraits):
    """A view or table whose rows can be selected; `selected` holds their positions.

    `traitlets.link((one, "selected"), (other, "selected"))` links two views of the same rows. A
    view of one row shows the first that is selected, and keeps it when nothing is selected.
    """

    selected = traitlets.Tuple()
    _index = pd.RangeIndex(0)  # labels of the rows; a view sets its own before any selection

    def select(self, rows: int | str | Iterable | pd.DataFrame | pd.Series = ()) -> None:
        """Select rows: positions, labels (ids), a boolean mask, or a dataframe's index; () clears.

        Raises:
            WorkbenchError: there are no such rows.
        """
        self.selected = tuple(np.unique(_positions(rows, self._index)).tolist())

    @traitlets.validate("selected")
    def _valid(self, proposal: dict) -> tuple[int, ...]:
        return tuple(_positions(proposal["value"], self._index).tolist())


def _positions(rows: object, index: pd.Index) -> np.ndarray:
    """Return the positions of rows in an index, int64, in the order given."""
    if isinstance(rows, int | str | np.integer):
        rows = [rows]
    elif isinstance(rows, pd.DataFrame) or (isinstance(rows, pd.Series) and rows.dtype != bool):
        rows = rows.index
    array = rows if isinstance(rows, pd.Index) else np.asarray(list(rows))
    if not len(array):
        return np.empty(0, dtype=int)
    try:
        if isinstance(array, pd.Index) or array.dtype.kind in "OU":
            array = index.get_indexer_for(array)
        elif array.dtype == bool:
            array = np.arange(len(index))[array]
        if (array < 0).any():
            raise IndexError("a position is negative, or a label is not there")
        return np.arange(len(index))[array]
    except IndexError as error:
        raise WorkbenchError(f"cannot select {str(rows)[:80]}: {error}") from None


class Part(anywidget.AnyWidget):
    """A part of a view with its own module in the browser. `put` alone changes what it shows.

    A module that starts late asks for what it has missed: see `static/common.js`.
    """

    _id = traitlets.Unicode().tag(sync=True)
    _revision = traitlets.Int().tag(sync=True)

    def __init__(self, **traits: object) -> None:
        name = uuid.uuid4().hex
        super().__init__(model_id=name, _id=name, **traits)
        self.add_class("workbench")  # the style also where a part is shown by itself
        works_while_busy(self)
        self.on_msg(self._heard)

    def put(self, **traits: object) -> None:
        """Set traits, all in one message to the browser."""
        with self.hold_sync():
            for name, value in traits.items():
                setattr(self, name, value)
            self._revision += 1

    def to_html(self) -> str:
        """Return the part for a page without a kernel, where a map still zooms."""
        hidden = {*Part.class_traits(sync=True), "_esm", "_css", "_anywidget_id"}
        state = {name: getattr(self, name) for name in self.keys if name not in hidden}
        packed = json.dumps(
            state, default=lambda value: {"base64": base64.b64encode(value).decode()}
        )
        packed = packed.replace("<", "\\u003c")  # a text must not end the script
        code = str(self._esm).replace("export default", "const front =")
        return f"<div></div><script>(() => {{{code}{_ALONE.replace('STATE', packed)}}})()</script>"

    def _heard(self, _: object, message: dict, buffers: list) -> None:
        if message.get("kind") != "started":
            self._received(message, buffers)
        elif message.get("revision") != self._revision:
            self.send_state()

    def _received(self, message: dict, buffers: list) -> None:
        """Take what the user has done in the browser."""


def module(name: str) -> str:
    """Return a module of `static`, with what all of them share in front."""
    return "".join((STATIC / f"{file}.js").read_text(encoding="utf-8") for file in ("common", name))


class View(ipywidgets.VBox):
    """A widget of several parts that follows the page's theme.

    Where no widgets are shown (an exported notebook, a code host), `summary()` is.
    """

    def __init__(self, *parts: ipywidgets.Widget) -> None:
        style = ipywidgets.HTML(f"<style>{STYLE}</style>", layout={"display": "none"})
        super().__init__([style, *parts])
        self.add_class("workbench")

    def summary(self) -> str:
        """Return a few lines of HTML that say what the view shows."""
        raise NotImplementedError

    def introduction(self) -> str:
        """Return what stands above the parts on a page: less than `summary` where a part has it."""
        return self.summary()

    def figures(self) -> list[go.Figure]:
        """Return the figures for a page that stands alone."""
        return [part.figure for part in _parts(self) if hasattr(part, "figure")]

    def body(self, *, plotlyjs: bool = False) -> str:
        """Return introduction, maps, tables and figures as HTML, with or without plotly.js."""
        parts = [part for part in _parts(self) if isinstance(part, Part)]
        pieces = [part.to_html() for part in parts if not hasattr(part, "figure")]
        for number, figure in enumerate(self.figures()):
            script = plotlyjs and number == 0
            pieces.append(figure.to_html(full_html=False, include_plotlyjs=script))
        return "".join([self.introduction(), *pieces])

    def to_html(self, path: str | Path | None = None) -> str:
        """Return a page that needs neither kernel nor network; with a path, write it there too."""
        page = (
            '<!doctype html><html lang="en"><meta charset="utf-8">'
            '<meta name="color-scheme" content="light dark">'
            f"<title>{type(self).__name__}</title><style>{STYLE}</style>"
            f'<body class="workbench">{self.body(plotlyjs=True)}</body></html>'
        )
        if path is not None:
            write_whole(path, page.encode())
        return page

    def close(self) -> None:
        """Close the view and all its parts."""
        for part in _parts(self):
            part.close()
        super().close()

    def __repr__(self) -> str:
        return f'<{type(self).__name__}: shown in a notebook; to_html("view.html") writes a page>'

    def _repr_mimebundle_(self, **options: object) -> dict:
        return super()._repr_mimebundle_(**options) | {"text/html": self.summary()}


def _parts(box: ipywidgets.Widget) -> Iterator[ipywidgets.Widget]:
    for part in box.children if isinstance(box, ipywidgets.Box) else ():
        yield from _parts(part)
        yield part


def wrapped(*parts: ipywidgets.Widget, **layout: object) -> ipywidgets.HBox:
    """Return a row of widgets that breaks where the page is too narrow."""
    return ipywidgets.HBox(parts, layout={"flex_flow": "row wrap"} | layout)


def search_box(
    placeholder: str, search: Callable[[str], None], description: str = "Search"
) -> ipywidgets.Text:
    """Return a field that calls `search` on Enter, also with the same words again."""
    box = ipywidgets.Text(placeholder=placeholder, description=description, continuous_update=False)
    box.observe(lambda change: search(change["new"]), "value")
    box.on_msg(lambda _, message, __: message.get("event") == "submit" and search(box.value))
    return box


def note(text: str = "") -> ipywidgets.HTML:
    """Return a small line of HTML."""
    line = ipywidgets.HTML(text)
    line.add_class("note")
    return line


def works_while_busy(widget: ipywidgets.Widget) -> None:
    """Let clicks reach Python while a cell runs; the one private use of comm.

    ipykernel 7.4 sends them to the shell that used the widget last, which a cell keeps busy.
    """
    if widget.comm is not None:  # the subshell that the browser asks for
        widget.comm._reply_subshell_for = lambda data, subshell: subshell
