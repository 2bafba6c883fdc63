"""What every view shares: colors, style, selection, closing, and a picture for readers without a kernel."""

from __future__ import annotations

import abc
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

# From Okabe and Ito's palette, which the color-blind can tell apart, and legible on white and on black.
COLORS = {"teacher": "#D55E00", "student": "#3A8FD0", "asymmetric": "#009E73", "base": "#999999"}
COLORS["symmetric"] = COLORS["student"]
CATEGORIES = ["#3A8FD0", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#999999"]
# Mode of retrieval: whose queries, whose documents.
MODES = {"teacher": ("teacher", "teacher"), "symmetric": ("student", "student"), "asymmetric": ("student", "teacher")}
STATIC = Path(__file__).parent / "static"
STYLE = (STATIC / "view.css").read_text(encoding="utf-8")

_PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
    "<title>{title}</title><style>{style} :root {{ font-family: system-ui, sans-serif; }}"
    " table {{ border-collapse: collapse; }} td, th {{ padding: 2px 8px; text-align: left; vertical-align: top; }}"
    " @media (prefers-color-scheme: dark) {{ .workbench {{ --ink: #ddd; --paper: #111; }} }}"
    '</style><body class="workbench">{body}</body></html>'
)


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


class _Page(anywidget.AnyWidget):
    """Style and width of a view; shows nothing."""

    _esm = STATIC / "view.js"
    _css = STATIC / "view.css"


class _Abstract(abc.ABCMeta, type(ipywidgets.VBox)):
    """Lets a widget class have abstract methods."""


class View(ipywidgets.VBox, metaclass=_Abstract):
    """A widget of several parts that follows the page's theme.

    Whatever shows no widgets (an exported notebook, a code host) shows `summary()` instead.
    """

    def __init__(self, *parts: ipywidgets.Widget) -> None:
        super().__init__([_Page(layout={"width": "100%", "height": "0", "margin": "0"}), *parts])
        self.add_class("workbench")

    @abc.abstractmethod
    def summary(self) -> str:
        """Return a few lines of HTML that say what the view shows."""

    def figures(self) -> list[go.Figure]:
        """Return the figures for the page that stands alone: those that the view shows."""
        return [part for part in _parts(self) if isinstance(part, go.FigureWidget)]

    def body(self, *, plotlyjs: bool = False) -> str:
        """Return summary and figures as HTML, with plotly.js in it or for a page that has it."""
        return self.summary() + "".join(
            figure.to_html(full_html=False, include_plotlyjs=plotlyjs and number == 0)
            for number, figure in enumerate(self.figures())
        )

    def to_html(self, path: str | Path | None = None) -> str:
        """Return a page that needs neither kernel nor network; with a path, write it there too."""
        page = _PAGE.format(title=type(self).__name__, style=STYLE, body=self.body(plotlyjs=True))
        if path is not None:
            write_whole(path, page.encode())
        return page

    def close(self) -> None:
        """Close the view and all its parts."""
        for part in _parts(self):  # none where the arguments were refused
            part.close()
        super().close()

    def _repr_mimebundle_(self, **options: object) -> dict:
        return super()._repr_mimebundle_(**options) | {"text/html": self.summary()}


def _parts(box: ipywidgets.Widget) -> Iterator[ipywidgets.Widget]:
    for part in box.children if isinstance(box, ipywidgets.Box) else ():
        yield from _parts(part)
        yield part


def wrapped(*parts: ipywidgets.Widget, **layout: object) -> ipywidgets.HBox:
    """Return a row of widgets that breaks where the page is too narrow."""
    return ipywidgets.HBox(parts, layout={"flex_flow": "row wrap"} | layout)


def search_box(placeholder: str, found: Callable[[str], None], description: str = "Search") -> ipywidgets.Text:
    """Return a field that calls `found` with what was typed on Enter."""
    box = ipywidgets.Text(placeholder=placeholder, description=description, continuous_update=False)
    box.observe(lambda change: found(change["new"]), "value")
    return box


def note(text: str = "") -> ipywidgets.HTML:
    """Return a small line of text (HTML: escape what is not your own), read out when it changes."""
    line = ipywidgets.HTML(text)
    line.add_class("note")
    return line


def same_texts(texts: Sequence[str | Text], vectors: np.ndarray) -> Sequence[Text]:
    """Return the texts as `Text`; raise WorkbenchError if there are more or fewer than vectors."""
    texts = as_texts(texts)
    if len(texts) != len(vectors):
        raise WorkbenchError(f"{len(texts):,} texts and {len(vectors):,} vectors: rows must be the same texts")
    return texts


def works_while_busy(widget: ipywidgets.Widget) -> None:
    """Let clicks reach Python while a cell runs; the one private use of comm.

    ipykernel 7.4 sends them to the shell that used the widget last, which a cell keeps busy.
    """
    if widget.comm is not None:
        widget.comm._reply_subshell_for = lambda data, subshell: subshell  # the one that the browser asks for


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
    if isinstance(array, pd.Index) or (array.dtype.kind in "OU" and not pd.api.types.is_numeric_dtype(index)):
        positions = index.get_indexer_for(array)
        if (positions < 0).any():
            unknown, known = pd.Index(array).difference(index).tolist()[0], next(iter(index.tolist()), "none")
            what = index.name or "row"
            raise WorkbenchError(f"there is no {what} {unknown!r}; there are {len(index):,}, such as {known!r}")
    elif array.dtype == bool:
        if len(array) != len(index):
            raise WorkbenchError(f"the mask has {len(array):,} values, and there are {len(index):,} rows")
        positions = np.flatnonzero(array)
    elif array.dtype.kind in "iu" and array.ndim == 1:
        positions = array.astype(int)
    else:
        raise WorkbenchError(f"a selection is of positions, whole numbers, not {str(array.flat[0])[:40]!r}")
    if ((positions < 0) | (positions >= len(index))).any():
        raise WorkbenchError(f"a selection is of positions 0 to {len(index) - 1:,}")
    return positions
