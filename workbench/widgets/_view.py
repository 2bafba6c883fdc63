"""What every view shares: colors, style, closing, and a picture for readers without a kernel."""

from __future__ import annotations

import abc
import html
from collections.abc import Iterator, Sequence
from pathlib import Path

import anywidget
import ipywidgets
import numpy as np
import pandas as pd
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
SHOWN_CHARACTERS = 300
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


def note(text: str = "") -> ipywidgets.HTML:
    """Return a small line of text (HTML: escape what is not your own), read out when it changes."""
    line = ipywidgets.HTML(text)
    line.add_class("note")
    return line


# --- texts ---


def same_texts(texts: Sequence[str | Text], vectors: np.ndarray) -> Sequence[Text]:
    """Return texts of which each has a row of vectors.

    Raises:
        WorkbenchError: they are no texts, or there are more or fewer than vectors.
    """
    texts = as_texts(texts)
    if len(texts) != len(vectors):
        raise WorkbenchError(f"{len(texts):,} texts and {len(vectors):,} vectors: rows must be the same texts")
    return texts


class Markup(str):
    """A string that is HTML already."""


def cut(text: object, most: int = SHOWN_CHARACTERS) -> str:
    """Cut a long text; what goes where markup is not read needs nothing else."""
    text = str(text)
    return text if len(text) <= most else text[:most] + " …"


def shown(text: object, most: int = SHOWN_CHARACTERS) -> str:
    """Return text for HTML: cut to `most` characters and escaped, so that markup is shown and not run."""
    return html.escape(cut(text, most))


def hover(text: object, most: int = 120) -> str:
    """Return text for plotly's labels, which read a little markup: cut, escaped and in one line."""
    return html.escape(cut(text, most), quote=False).replace("\n", " ")


def error_line(error: BaseException | str, before: str = "", after: str = "") -> str:
    """Return an error as a line of HTML."""
    return f'<span class="error">{before}{shown(error, 1000)}{after}</span>'


def cell(value: object) -> str:
    """Return a value as a table shows it: numbers to three decimals, nothing for a missing one, long texts cut."""
    if value is None or value is pd.NA or (isinstance(value, float | np.floating) and np.isnan(value)):
        return ""
    if isinstance(value, float | np.floating):
        return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}"
    return cut(value, 200)


def html_table(frame: pd.DataFrame, caption: str = "", style: str = "") -> str:
    """Return the columns of a dataframe as a table of HTML; whatever is not `Markup` is escaped."""
    head = "".join(f'<th dir="auto">{shown(name, 120)}</th>' for name in frame.columns)
    rows = "".join(
        "<tr>" + "".join(f'<td dir="auto">{v if isinstance(v, Markup) else shown(cell(v))}</td>' for v in row) + "</tr>"
        for row in frame.itertuples(index=False, name=None)
    )
    caption = f'<caption style="text-align:left"><b>{shown(caption)}</b></caption>' if caption else ""
    return f'<table style="{style}">{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


# --- the kernel ---


def works_while_busy(widget: ipywidgets.Widget) -> None:
    """Let clicks reach Python while a cell runs, where browser and kernel have subshells.

    ipykernel 7.4 sends them to the shell that used the widget last instead, and a cell keeps that busy. This is the one
    private use of comm.
    """
    if widget.comm is not None:
        widget.comm._reply_subshell_for = lambda data, subshell: subshell  # the one that the browser asks for
