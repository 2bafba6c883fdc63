"""What every view shares: colors, style, closing, and a picture for readers without a kernel."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import anywidget
import ipywidgets
import numpy as np
import plotly.graph_objects as go

from workbench.data import Text, as_texts
from workbench.errors import WorkbenchError

# From Okabe and Ito's palette, which the color-blind can tell apart, and legible on white and on black.
COLORS = {
    "teacher": "#D55E00",
    "student": "#3A8FD0",
    "symmetric": "#3A8FD0",
    "asymmetric": "#009E73",
    "base": "#999999",
}
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


class _Page(anywidget.AnyWidget):
    """Style and width of a view; shows nothing."""

    _esm = STATIC / "view.js"
    _css = STATIC / "view.css"


class _Abstract(abc.ABCMeta, type(ipywidgets.VBox)):
    """Lets a widget class have abstract methods."""


class View(ipywidgets.VBox, metaclass=_Abstract):
    """A widget of several parts that follows the page's theme.

    A view leaves two things for readers without a kernel: `to_html()` returns a page that stands alone, and whatever
    shows no widgets (an exported notebook, a code host) shows `summary()`.
    """

    def __init__(self, *parts: ipywidgets.Widget) -> None:
        super().__init__([_Page(layout={"width": "100%", "height": "0", "margin": "0"}), *parts])
        self.add_class("workbench")

    @abc.abstractmethod
    def summary(self) -> str:
        """Return a few lines of HTML that say what the view shows."""

    def figures(self) -> list[go.Figure]:
        """Return the figures for the page that stands alone."""
        return []

    def body(self, *, plotlyjs: bool = False) -> str:
        """Return summary and figures as HTML, with plotly.js in it or for a page that has it."""
        figures = [
            figure.to_html(full_html=False, include_plotlyjs=plotlyjs and number == 0)
            for number, figure in enumerate(self.figures())
        ]
        return "".join([self.summary(), *figures])

    def to_html(self, path: str | Path | None = None) -> str:
        """Return a page that needs neither kernel nor network; with a path, write it there too."""
        page = _PAGE.format(title=type(self).__name__, style=STYLE, body=self.body(plotlyjs=True))
        if path is not None:
            try:
                Path(path).write_text(page, encoding="utf-8")
            except OSError as error:
                raise WorkbenchError(f"{path} cannot be written: {error.strerror}") from None
        return page

    def close(self) -> None:
        """Close the view and all its parts."""
        for part in _parts(self):  # none where the arguments were refused
            part.close()
        super().close()

    def _repr_mimebundle_(self, **options: object) -> dict:
        bundle = super()._repr_mimebundle_(**options)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data:
            data["text/html"] = self.summary()
        return bundle


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
    """Return texts of which each has a row of vectors.

    Raises:
        WorkbenchError: they are no texts, or there are more or fewer than vectors.
    """
    texts = as_texts(texts)
    if len(texts) != len(vectors):
        raise WorkbenchError(f"{len(texts):,} texts and {len(vectors):,} vectors: rows must be the same texts")
    return texts


def works_while_busy(widget: ipywidgets.Widget) -> None:
    """Let clicks reach Python while a cell runs, where browser and kernel have subshells.

    ipykernel 7.4 sends them to the shell that used the widget last instead, and a cell keeps that busy. This is the one
    private use of comm.
    """
    if widget.comm is not None:
        widget.comm._reply_subshell_for = lambda data, subshell: subshell  # the one that the browser asks for
