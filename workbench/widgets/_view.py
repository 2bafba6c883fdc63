"""What every view shares: colors, themes, figures, and a picture for readers without a kernel."""

from __future__ import annotations

import html
from copy import deepcopy
from pathlib import Path

import anywidget
import ipywidgets
import plotly.graph_objects as go

from workbench.errors import WorkbenchError

# From Okabe and Ito's palette, which the color-blind can tell apart, and legible on white and on black.
COLORS = {"teacher": "#D55E00", "student": "#3A8FD0", "asymmetric": "#009E73", "base": "#999999"}
CATEGORIES = ["#3A8FD0", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#999999"]
SHOWN_CHARACTERS = 300

STYLE = """
.workbench { --ink: var(--jp-ui-font-color1, var(--vscode-editor-foreground, #333));
  --paper: var(--jp-layout-color1, var(--vscode-editor-background, #fff));
  --line: var(--jp-border-color2, #8886); --accent: var(--jp-brand-color1, #1976d2);
  color: var(--ink); padding: 4px 2px; }
.workbench .widget-label, .workbench .widget-readout, .workbench .widget-html-content { color: var(--ink); }
.workbench .main-svg text { fill: var(--ink) !important; }
.workbench .hoverlayer text { fill: #111 !important; }
.workbench .hoverlayer .hovertext path { fill: #f5f5f5 !important; }
.workbench .selectionlayer path { pointer-events: none !important; } /* a new lasso may start inside the old */
.workbench .modebar-group { background: transparent !important; }
.workbench .modebar-btn path { fill: var(--ink) !important; }
.workbench > *, .workbench .plotly-graph-div, .workbench .js-plotly-plot { min-width: 0; max-width: 100%; }
.workbench .js-plotly-plot, .workbench .plot-container { width: 100%; }
.workbench :focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
.workbench .widget-html-content { line-height: 1.4; }
.workbench .note { opacity: .8; font-size: 90%; line-height: 1.4; }
.workbench .error { border-left: 3px solid #D55E00; padding-left: 6px; }
.workbench mark { background: #E69F0055; color: inherit; }
"""


# A figure drawn before its place has a width keeps a width of its own until the window says that it was resized.
_FIT = """
export default { render({ el }) {
  let width = 0;
  const watch = new ResizeObserver(([entry]) => {
    if (entry.contentRect.width === width) return;
    width = entry.contentRect.width;
    window.dispatchEvent(new Event("resize"));
  });
  watch.observe(el);
  return () => watch.disconnect();
} };
"""


class _Page(anywidget.AnyWidget):
    """Style and width of a view; shows nothing."""

    _esm = _FIT
    _css = STYLE


class View(ipywidgets.VBox):
    """A widget of several parts that follows the page's theme.

    A view leaves two things for readers without a kernel: `to_html()` gives a page that stands alone, and
    whatever shows no widgets (an exported notebook, a code host) shows `summary()`.
    """

    def __init__(self, *parts: ipywidgets.Widget) -> None:
        super().__init__([_Page(layout={"width": "100%", "height": "0", "margin": "0"}), *parts])
        self.add_class("workbench")

    def summary(self) -> str:
        """Return a few lines of HTML that say what the view shows."""
        raise NotImplementedError

    def figures(self) -> list[go.Figure]:
        """Return the figures for the page that stands alone."""
        return []

    def body(self, *, plotlyjs: bool = False) -> str:
        """Return summary and figures as HTML for a page that has plotly.js already, or gets it with them."""
        figures = [
            figure.to_html(full_html=False, include_plotlyjs=plotlyjs and number == 0)
            for number, figure in enumerate(self.figures())
        ]
        return "".join([self.summary(), *figures])

    def to_html(self, path: str | Path | None = None) -> str:
        """Return a page that needs neither kernel nor network; with a path, write it there too."""
        page = (
            '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
            f"<title>{type(self).__name__}</title><style>{STYLE} :root {{ font-family: system-ui, sans-serif; }}"
            " table { border-collapse: collapse; } td, th { padding: 2px 8px; text-align: left; vertical-align: top; }"
            " @media (prefers-color-scheme: dark) { .workbench { --ink: #ddd; --paper: #111; } }"
            f'</style><body class="workbench">{self.body(plotlyjs=True)}</body></html>'
        )
        if path is not None:
            try:
                Path(path).write_text(page, encoding="utf-8")
            except OSError as error:
                raise WorkbenchError(f"{path} cannot be written: {error.strerror}") from None
        return page

    def _repr_mimebundle_(self, **options: object) -> dict:
        bundle = super()._repr_mimebundle_(**options)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data:
            data["text/html"] = self.summary()
        return bundle


class _Figure(go.FigureWidget):
    """A figure whose state is what it shows, for pages that open later: a reloaded one, or one of Voilà.

    plotly brings the state up to date only for a figure that a cell shows by itself, not inside of another widget.
    """

    def get_state(self, key: object = None, drop_defaults: bool = False) -> dict:
        state = super().get_state(key, drop_defaults)
        if key is None and "_layout_obj" in vars(self):  # not while it is being made
            for name, shown in (("_widget_data", self._data), ("_widget_layout", self._layout_obj._props)):
                state[name] = self.trait_metadata(name, "to_json")(deepcopy(shown), self)
        return state


def figure(*, height: int = 420, x: str = "", y: str = "", **layout: object) -> go.FigureWidget:
    """Return an empty figure whose colors come from the page, in light and in dark."""
    grid = {"gridcolor": "rgba(128,128,128,.25)", "zerolinecolor": "rgba(128,128,128,.4)", "automargin": True}
    chart = _Figure()
    chart._config = chart._config | {"responsive": True, "displaylogo": False}  # plotly has no public way in a widget
    chart.layout.template = "none"
    chart.update_layout(
        height=height,
        autosize=True,
        margin={"l": 50, "r": 10, "t": 34, "b": 40},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"size": 12, "color": "#888"},
        xaxis={"title": {"text": x}, **grid},
        yaxis={"title": {"text": y}, **grid},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hoverlabel={"align": "left"},
    )
    chart.update_layout(**layout)
    return chart


def shown(text: object, most: int = SHOWN_CHARACTERS) -> str:
    """Return text for HTML: cut to `most` characters and escaped, so that markup is shown and not run."""
    return html.escape(cut(text, most))


def cut(text: object, most: int = SHOWN_CHARACTERS) -> str:
    """Cut a long text; what goes where markup is not read needs nothing else."""
    text = str(text)
    return text if len(text) <= most else text[:most] + " …"


def hover(text: object) -> str:
    """Return text for a plotly hover label, which reads a little markup of its own."""
    return html.escape(cut(text, 120)).replace("\n", " ")


def note(text: str = "") -> ipywidgets.HTML:
    """Return a small line of text (HTML: escape what is not your own), read out when it changes."""
    line = ipywidgets.HTML(text)
    line.add_class("note")
    return line


def works_while_busy(widget: ipywidgets.Widget) -> None:
    """Let what is done to a widget reach Python while a cell runs, where browser and kernel have subshells.

    ipykernel 7.4 sends it to the shell that used the widget last instead, and a cell keeps that busy.
    """
    if widget.comm is not None:
        widget.comm._reply_subshell_for = lambda data, subshell: subshell  # the one that the browser asks for
