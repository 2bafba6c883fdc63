"""What every view shares: colors, style, selection, closing, and a page that needs no kernel."""

import base64
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import anywidget
import ipywidgets
import numpy as np
import pandas as pd
import traitlets
from plotly.offline import get_plotlyjs

from workbench._util import write_whole
from workbench.errors import WorkbenchError

# Petroff's sequence of eight (arXiv 2107.02270), ordered for dark pages: the color-blind can tell
# them apart.
CATEGORIES = "#578DFF #FF5E02 #656364 #C849A9 #ADAD7D #C91F16 #1845FB #86C8DD".split()
COLORS = {"teacher": "#FF5E02", "student": "#578DFF", "asymmetric": "#C849A9", "base": "#ADAD7D"}
COLORS["symmetric"] = COLORS["student"]
OTHER = "#8A8A8A"  # of what has no color of its own
# After the categories, hues at golden steps.
_HUES = [f"hsl({step * 222.5 % 360:.0f}, 60%, {(45, 62, 36)[step % 3]}%)" for step in range(30)]
PALETTE = [*CATEGORIES, *_HUES]
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
  model: { get: (name) => state[name], on() {}, off() {}, send() {}, alone: true } });
"""


def model_colors(names: Sequence[str]) -> dict[str, str]:
    """Return a color for each model or mode: that of `COLORS`, or another one."""
    taken = {COLORS.get(name) for name in names}
    free = iter([color for color in PALETTE if color not in taken])
    return {name: COLORS.get(name) or next(free, OTHER) for name in names}


class Selection(traitlets.HasTraits):
    """A view or table whose rows can be selected; `selected` holds their positions."""

    selected = traitlets.Tuple()
    _index = pd.RangeIndex(0)  # labels of the rows; a view sets its own before any selection

    def select(self, rows: int | str | Sequence | np.ndarray | pd.DataFrame = ()) -> None:
        """Select rows by positions, ids, a boolean mask or a dataframe's index; () clears."""
        self.selected = tuple(np.unique(_positions(rows, self._index)).tolist())

    @traitlets.validate("selected")
    def _valid(self, proposal: dict) -> tuple[int, ...]:
        return tuple(_positions(proposal["value"], self._index).tolist())


def _positions(rows: object, index: pd.Index) -> np.ndarray:
    """Return the positions of rows in an index, int64."""
    is_frame = isinstance(rows, pd.DataFrame)
    array = np.atleast_1d(rows.index if is_frame else rows)
    if array.size == 0:
        return np.empty(0, dtype=int)
    if is_frame or array.dtype.kind in "OU":
        array = index.get_indexer_for(array)
    try:
        if array.dtype != bool and (array < 0).any():
            raise IndexError("a position is negative, or a label is not there")
        return np.arange(len(index))[array]
    except IndexError as error:
        raise WorkbenchError(f"cannot select {str(rows)[:80]}: {error}") from None


class Part(anywidget.AnyWidget):
    """A part of a view with its own module in the browser. `put` alone changes what it shows."""

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
        """Return the part as HTML that needs no kernel."""
        hidden = {*Part.class_traits(sync=True), "_esm", "_css", "_anywidget_id"}
        state = {name: getattr(self, name) for name in self.keys if name not in hidden}
        state |= self._alone()
        packed = json.dumps(state, default=lambda data: {"base64": base64.b64encode(data).decode()})
        packed = packed.replace("<", "\\u003c")  # a text must not end the script
        code = str(self._esm).replace("export default", "const front =")
        return f"<div></div><script>(() => {{{code}{_ALONE.replace('STATE', packed)}}})()</script>"

    def _alone(self) -> dict:
        """Return traits that are others where no kernel answers."""
        return {}

    def _heard(self, _: object, message: dict, buffers: list) -> None:
        # A module that starts late asks for what it has missed: see `static/common.js`.
        if message.get("kind") != "started":
            self._received(message, buffers)
        elif message.get("revision") != self._revision:
            self.send_state()

    def _received(self, message: dict, buffers: list) -> None:
        """Take what was done in the browser."""


def module(name: str) -> str:
    """Return a module of `static`, with what all of them share in front."""
    return "".join((STATIC / f"{file}.js").read_text(encoding="utf-8") for file in ("common", name))


class View(ipywidgets.VBox):
    """A widget of several parts; `summary()` is shown where no widgets are, as on a code host."""

    def __init__(self, *parts: ipywidgets.Widget) -> None:
        style = ipywidgets.HTML(f"<style>{STYLE}</style>", layout={"display": "none"})
        super().__init__([style, *parts])
        self.add_class("workbench")

    def body(self) -> str:
        """Return summary and parts as HTML that needs no kernel, but plotly.js for charts."""
        pieces = [part.to_html() for part in _parts(self) if isinstance(part, Part)]
        return "".join([self.summary(), *pieces])

    def to_html(self, path: str | Path | None = None) -> str | Path:
        """Return a page that needs neither kernel nor network; or write it, and return the path."""
        body = self.body()
        library = f"<script>{get_plotlyjs()}</script>" if "Plotly.newPlot" in body else ""
        page = (
            '<!doctype html><html lang="en"><meta charset="utf-8">'
            '<meta name="color-scheme" content="light dark">'
            '<meta name="viewport" content="width=device-width">'
            f"<title>{type(self).__name__}</title><style>{STYLE}</style>{library}"
            f'<body class="workbench">{body}</body></html>'
        )
        return page if path is None else write_whole(path, page.encode())

    def close(self) -> None:
        """Close the view and all its parts."""
        own = [value for value in vars(self).values() if isinstance(value, ipywidgets.Widget)]
        inner = (part for widget in [self, *own] for part in _parts(widget))
        for part in {*own, *inner}:  # a control that is not shown holds the view too
            part.close()
        super().close()

    def _repr_mimebundle_(self, **options: object) -> dict:
        return super()._repr_mimebundle_(**options) | {"text/html": self.summary()}


def _parts(box: ipywidgets.Widget) -> Iterator[ipywidgets.Widget]:
    for part in box.children if isinstance(box, ipywidgets.Box) else ():
        yield from _parts(part)
        yield part


def wrapped(*parts: ipywidgets.Widget, align_items: str = "center") -> ipywidgets.HBox:
    """Return a row of widgets that breaks where the page is too narrow."""
    return ipywidgets.HBox(parts, layout={"flex_flow": "row wrap", "align_items": align_items})


def search_box(
    placeholder: str, search: Callable[[str], None], description: str = "Search"
) -> ipywidgets.Text:
    """Return a field that calls `search` on Enter, also with the same words again."""
    names = {"placeholder": placeholder, "tooltip": placeholder, "description": description}
    box = ipywidgets.Text(continuous_update=False, **names)
    box.observe(lambda change: search(change["new"]), "value")
    box.on_msg(lambda _, message, __: message.get("event") == "submit" and search(box.value))
    return box


def note(text: str = "") -> ipywidgets.HTML:
    """Return a small line of HTML."""
    line = ipywidgets.HTML(text)
    line.add_class("note")
    return line


def works_while_busy(widget: ipywidgets.Widget) -> None:
    """Let clicks reach Python while a cell runs; the one private use of comm."""
    # ipykernel 7.4 sends them to the shell that used the widget last, which a cell keeps busy.
    if widget.comm is not None:
        widget.comm._reply_subshell_for = lambda data, subshell: subshell
