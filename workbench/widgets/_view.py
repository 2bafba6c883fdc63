"""What every view shares: colors, style, selection, closing, and a picture for readers without a kernel."""

from __future__ import annotations

import abc
import base64
import colorsys
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
from workbench.data import Text, as_texts
from workbench.errors import WorkbenchError

# From Okabe and Ito's palette, which the color-blind can tell apart, and legible on white and on black. A color means a
# model or a category; rises and falls are told by marks.
CATEGORIES = [
    "#3A8FD0",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#D55E00",
    "#56B4E9",
    "#B5A642",
    "#8C6BB1",
]
COLORS = {"teacher": "#D55E00", "student": "#3A8FD0", "asymmetric": "#009E73", "base": "#999999"}
COLORS["symmetric"] = COLORS["student"]
MOST_CATEGORIES = 30
# Low to high: magenta, which is where models agree least, to light blue; all are seen on white and on black.
SCALE = ["#C2185B", "#E07B39", "#E6B84A", "#9CC3A5", "#56B4E9"]
OTHER = "#8A8A8A"  # of what has no color of its own


def palette(count: int) -> list[str]:
    """Return colors of so many categories: the eight of `CATEGORIES`, then hues at golden steps in three lightnesses."""
    more = range(max(0, count - len(CATEGORIES)))
    hues = [(colorsys.hls_to_rgb(i * 0.618034 % 1, (0.45, 0.62, 0.36)[i % 3], 0.6)) for i in more]
    return [
        *CATEGORIES[:count],
        *("#" + "".join(f"{round(255 * part):02X}" for part in hue) for hue in hues),
    ]


def model_colors(names: Sequence[str]) -> dict[str, str]:
    """Return a color for each model or mode: its own where it has one, another otherwise."""
    own = {name: COLORS[name] for name in names if name in COLORS}
    taken = set(own.values())
    free = iter(
        [color for color in dict.fromkeys([*COLORS.values(), *palette(40)]) if color not in taken]
    )
    return {name: own[name] if name in own else next(free, OTHER) for name in names}


# Mode of retrieval: whose queries, whose documents.
MODES = {
    "teacher": ("teacher", "teacher"),
    "symmetric": ("student", "student"),
    "asymmetric": ("student", "teacher"),
}
STATIC = Path(__file__).parent / "static"
STYLE = (STATIC / "view.css").read_text(encoding="utf-8")

_NOTICE = (
    "This view has not started in the browser. Wait a little if the machine is busy. If it stays away, start it again, "
    "or reload the page and run its cell."
)
_LATE = "{ display: flex; animation: workbench-late 0s 8s both; }"
_PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
    "<title>{title}</title><style>{style} :root {{ font-family: system-ui, sans-serif; }}"
    " table {{ border-collapse: collapse; }} td, th {{ padding: 2px 8px; text-align: left; vertical-align: top; }}"
    " @media (prefers-color-scheme: dark) {{ .workbench {{ --ink: #ddd; --paper: #111; }} }}"
    '</style><body class="workbench">{body}</body></html>'
)


_OF_A_WIDGET = {
    *ipywidgets.DOMWidget.class_traits(sync=True),
    "_esm",
    "_css",
    "_anywidget_id",
    "_id",
    "_revision",
}
# In place of a kernel: the state, with its bytes, and nobody who hears what is sent.
_ALONE = """
const bare = (key, value) => value?.base64 === undefined ? value
  : new DataView(Uint8Array.from(atob(value.base64), (letter) => letter.charCodeAt(0)).buffer);
const state = JSON.parse(JSON.stringify(STATE), bare);
front.render({ el: document.currentScript.previousElementSibling,
  model: { get: (name) => state[name], on() {}, off() {}, send() {} } });
"""


class Selection(traitlets.HasTraits):
    """A view or table whose rows can be selected.

    Views of the same rows are linked by `traitlets.link((one, "selected"), (other, "selected"))`. A view that shows one
    row at a time shows the first that is selected, and goes on showing it when nothing is selected.

    Attributes:
        selected: positions of the selected rows, a tuple of int; to be set and observed.
    """

    selected = traitlets.Tuple()
    _index = pd.RangeIndex(0)  # labels of the rows; the view sets it before anything is selected

    def select(self, rows: int | str | Iterable | pd.DataFrame | pd.Series = ()) -> None:
        """Select rows: positions, labels (ids), a boolean mask, or rows of a dataframe by their index; none to clear.

        Raises:
            WorkbenchError: there are no such rows.
        """
        self.selected = tuple(np.unique(_positions(rows, self._index)).tolist())

    @traitlets.validate("selected")
    def _valid(self, proposal: dict) -> tuple[int, ...]:
        return tuple(_positions(proposal["value"], self._index).tolist())


class Part(anywidget.AnyWidget):
    """A part of a view with a module of its own in the browser. What it shows is set by `put` alone.

    A module that starts late, on a busy machine, asks for what it has missed: see `static/common.js`.
    """

    _id = traitlets.Unicode().tag(sync=True)
    _revision = traitlets.Int().tag(sync=True)

    def __init__(self, **traits: object) -> None:
        name = uuid.uuid4().hex
        super().__init__(model_id=name, _id=name, **traits)
        self.mark = f"part-{name}"  # stays when the part starts again
        for each in (
            "workbench",
            "workbench-part",
            self.mark,
        ):  # the style's, also where a part is shown by itself
            self.add_class(each)
        works_while_busy(self)
        self.on_msg(self._heard)

    def put(self, **traits: object) -> None:
        """Set traits, all in one message to the browser."""
        with self.hold_sync():
            for name, value in traits.items():
                setattr(self, name, value)
            self._revision += 1

    def start_again(self) -> None:
        """Start the module in the browser anew; the view that holds the part shows it again."""
        self.comm.close()
        self.comm, self._model_id = None, uuid.uuid4().hex
        self._id = self._model_id
        self.open()
        works_while_busy(self)

    def to_html(self) -> str:
        """Return the part as it is, for a page without a kernel: what needs none, such as a map's zoom, works there."""
        state = {name: getattr(self, name) for name in self.keys if name not in _OF_A_WIDGET}
        packed = json.dumps(
            state, default=lambda value: {"base64": base64.b64encode(value).decode()}
        )
        # A text must not end the script.
        packed, code = (
            packed.replace("<", "\\u003c"),
            str(self._esm).replace("export default", "const front ="),
        )
        return f"<div></div><script>(() => {{{code}{_ALONE.replace('STATE', packed)}}})()</script>"

    def _heard(self, _: object, message: dict, buffers: list) -> None:
        if message.get("kind") != "started":
            self._received(message, buffers)
        elif message.get("revision") != self._revision:
            self.send_state()

    def _received(self, message: dict, buffers: list) -> None:
        """Take what the user has done in the browser."""


def module(name: str) -> str:
    """Return a module of `static` with what all of them share in front."""
    return "".join((STATIC / f"{each}.js").read_text(encoding="utf-8") for each in ("common", name))


class _Abstract(abc.ABCMeta, type(ipywidgets.VBox)):
    """Lets a widget class have abstract methods."""


class View(ipywidgets.VBox, metaclass=_Abstract):
    """A widget of several parts that follows the page's theme.

    Whatever shows no widgets (an exported notebook, a code host) shows `summary()` instead.
    """

    def __init__(self, *parts: ipywidgets.Widget) -> None:
        again = ipywidgets.Button(description="Start again", layout={"width": "auto"})
        again.on_click(lambda _: self._start_again())
        notice = ipywidgets.HBox([ipywidgets.HTML(_NOTICE), again])
        name = f"notice-{uuid.uuid4().hex}"
        for each in ("workbench-notice", name):
            notice.add_class(each)
        super().__init__([ipywidgets.HTML(layout={"display": "none"}), notice, *parts])
        self._notice = name
        self.observe(lambda _: self._watch_parts(), "children")
        self._watch_parts()
        self.add_class("workbench")

    def _watch_parts(self) -> None:
        """Show the notice until all parts are there; one whose module failed is not on the page at all."""
        marks = [part.mark for part in _parts(self) if isinstance(part, Part)]
        late = ", ".join(
            f".workbench:not(:has(.{mark}.workbench-started)) > .{self._notice}" for mark in marks
        )
        self.children[0].value = f"<style>{STYLE} {late or '.none'} {_LATE}</style>"

    @abc.abstractmethod
    def summary(self) -> str:
        """Return a few lines of HTML that say what the view shows."""

    def introduction(self) -> str:
        """Return what stands above the parts on a page: the summary, or less where a part has the rest."""
        return self.summary()

    def figures(self) -> list[go.Figure]:
        """Return the figures for the page that stands alone: those that the view shows."""
        return [part.figure for part in _parts(self) if hasattr(part, "figure")]

    def body(self, *, plotlyjs: bool = False) -> str:
        """Return introduction, maps, tables and figures as HTML, with plotly.js in it or for a page that has it."""
        parts = "".join(
            part.to_html()
            for part in _parts(self)
            if isinstance(part, Part) and not hasattr(part, "figure")
        )
        return f"{self.introduction()}{parts}" + "".join(
            figure.to_html(full_html=False, include_plotlyjs=plotlyjs and number == 0)
            for number, figure in enumerate(self.figures())
        )

    def to_html(self, path: str | Path | None = None) -> str:
        """Return a page that needs neither kernel nor network; with a path, write it there too."""
        page = _PAGE.format(title=type(self).__name__, style=STYLE, body=self.body(plotlyjs=True))
        if path is not None:
            write_whole(path, page.encode())
        return page

    def _start_again(self) -> None:
        boxes = [self, *(part for part in _parts(self) if isinstance(part, ipywidgets.Box))]
        for part in _parts(self):
            if isinstance(part, Part):
                part.start_again()
        for box in boxes:
            box.send_state("children")

    def close(self) -> None:
        """Close the view and all its parts."""
        for part in _parts(self):  # none where the arguments were refused
            part.close()
        super().close()

    def __repr__(self) -> str:
        return f'<{type(self).__name__}: seen in a notebook; to_html("view.html") writes a page that stands alone>'

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
    placeholder: str, found: Callable[[str], None], description: str = "Search"
) -> ipywidgets.Text:
    """Return a field that calls `found` with what was typed on Enter, also when it was typed before."""
    box = ipywidgets.Text(placeholder=placeholder, description=description, continuous_update=False)
    box.observe(lambda change: found(change["new"]), "value")
    box.on_msg(lambda _, message, __: message.get("event") == "submit" and found(box.value))
    return box


def note(text: str = "") -> ipywidgets.HTML:
    """Return a small line of text (HTML: escape what is not your own), read out when it changes."""
    line = ipywidgets.HTML(text)
    line.add_class("note")
    return line


def own_columns(
    texts: object, columns: pd.DataFrame | None
) -> tuple[Sequence[Text], pd.DataFrame | None]:
    """Return texts, of which a dataframe has one column, and what else is known of them; no row is left out."""
    if not isinstance(texts, pd.DataFrame):
        return as_texts(texts), columns
    if not texts.columns.is_unique or texts.columns.nlevels > 1:
        raise WorkbenchError(
            f"column names have to be plain and different; they are {list(texts.columns)}"
        )
    names = [name for name in texts if any(isinstance(value, str) for value in texts[name])]
    if "text" not in texts and len(names) != 1:
        raise WorkbenchError(
            f"which column has the texts? Give texts=frame[name]; the columns are {list(texts)}"
        )
    name = "text" if "text" in texts else names[0]
    if (missing := np.flatnonzero(texts[name].isna())).size:
        raise WorkbenchError(
            f"{len(missing):,} of {len(texts):,} texts in column {name!r} are missing, the first in row {missing[0]:,}: "
            f"give frame.dropna(subset=[{name!r}])"
        )
    return as_texts(texts[name]), texts.drop(columns=name) if columns is None else columns


def known(
    texts: Sequence[Text], columns: pd.DataFrame | None, chosen: np.ndarray, taken: Sequence[str]
) -> pd.DataFrame:
    """Return what is known of the chosen texts before they are measured; `taken` are names that no column may have."""
    if columns is not None and not isinstance(columns, pd.DataFrame):
        raise WorkbenchError(f"columns: expected a dataframe, got {type(columns).__name__}")
    if columns is not None and len(columns) != len(texts):
        raise WorkbenchError(
            f"columns have {len(columns):,} rows and there are {len(texts):,} texts"
        )
    texts = [texts[i] for i in chosen]
    frame = pd.DataFrame({"text": [text.text for text in texts]})
    frame["length"] = frame["text"].str.len()
    if len({text.role for text in texts}) > 1:
        frame["role"] = [text.role.value for text in texts]
    if columns is None:
        return frame
    columns = columns.iloc[chosen].reset_index(drop=True)
    frame = frame[[name for name in frame if name == "text" or name not in columns]]
    names = [*frame, *taken, *columns]
    if twice := [name for name in columns if names.count(name) > 1]:
        raise WorkbenchError(
            f"the column {twice[0]!r} is there twice, or the view has one of that name: rename it"
        )
    for name in columns:  # lists, dicts and arrays cannot be counted or sorted
        if pd.api.types.is_numeric_dtype(columns[name]):
            continue
        values = columns[name].astype(object)  # also Arrow's lists and structs
        if not values.map(pd.api.types.is_hashable).all():
            columns[name] = values.map(str, na_action="ignore")
    return frame.join(columns)


def works_while_busy(widget: ipywidgets.Widget) -> None:
    """Let clicks reach Python while a cell runs; the one private use of comm.

    ipykernel 7.4 sends them to the shell that used the widget last, which a cell keeps busy.
    """
    if widget.comm is not None:
        widget.comm._reply_subshell_for = lambda data, subshell: (
            subshell
        )  # the one that the browser asks for


def _positions(rows: object, index: pd.Index) -> np.ndarray:
    """Return the positions of rows in an index, int64, in the order given."""
    if isinstance(rows, pd.DataFrame) or (isinstance(rows, pd.Series) and rows.dtype != bool):
        rows = rows.index
    elif isinstance(rows, str | int | np.integer):
        rows = [rows]
    try:
        array = rows if isinstance(rows, pd.Index) else np.asarray(list(rows))
    except TypeError:
        raise WorkbenchError(f"a selection is a list of positions, not {rows!r}") from None
    if not len(array):
        return np.empty(0, dtype=int)
    if isinstance(array, pd.Index) or (
        array.dtype.kind in "OU" and not pd.api.types.is_numeric_dtype(index)
    ):
        positions = index.get_indexer_for(array)
        if (positions < 0).any():
            unknown, known = (
                pd.Index(array).difference(index).tolist()[0],
                next(iter(index.tolist()), "none"),
            )
            what = index.name or "row"
            raise WorkbenchError(
                f"there is no {what} {unknown!r}; there are {len(index):,}, such as {known!r}"
            )
    elif array.dtype == bool:
        if len(array) != len(index):
            raise WorkbenchError(
                f"the mask has {len(array):,} values, and there are {len(index):,} rows"
            )
        positions = np.flatnonzero(array)
    elif array.dtype.kind in "iu" and array.ndim == 1:
        positions = array.astype(int)
    else:
        raise WorkbenchError(
            f"a selection is of positions, whole numbers, not {str(array.flat[0])[:40]!r}"
        )
    if ((positions < 0) | (positions >= len(index))).any():
        raise WorkbenchError(f"a selection is of positions 0 to {len(index) - 1:,}")
    return positions
