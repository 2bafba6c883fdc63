"""Charts by plotly, in the colors of the page."""

from __future__ import annotations

import contextlib
import functools
import gzip
from collections.abc import Callable, Iterator

import ipywidgets
import plotly.graph_objects as go
import traitlets
from plotly.offline import get_plotlyjs

from workbench.widgets._view import Part, module


class _Library(ipywidgets.Widget):
    """plotly.js, sent to a page once."""

    _model_module = traitlets.Unicode("@jupyter-widgets/base").tag(sync=True)
    _model_name = traitlets.Unicode("WidgetModel").tag(sync=True)
    code = traitlets.Bytes().tag(sync=True)


@functools.cache
def _library() -> _Library:
    return _Library(code=gzip.compress(get_plotlyjs().encode(), 3))


class Chart(Part):
    """A figure of plotly's in a view.

    plotly's own widget brings 5 MB of JavaScript for each figure, for which anywidget does not wait on a busy machine.

    Attributes:
        figure: a `plotly.graph_objects.Figure`; to be changed in `with chart.edit() as figure`.
    """

    _esm = module("chart")
    _figure = traitlets.Unicode().tag(sync=True)
    _height = traitlets.Int().tag(sync=True)
    _library = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        figure: go.Figure,
        *,
        on_click: Callable[[int, int], object] | None = None,
        on_brush: Callable[[list[int]], object] | None = None,
        on_clear: Callable[[], object] | None = None,
    ) -> None:
        """Show a figure.

        Args:
            on_click: called with the positions of a trace and of its point.
            on_brush: called with the positions of the first trace's points that were brushed over.
            on_clear: called after a double click.
        """
        self.figure, self._on_click, self._on_brush, self._on_clear = (
            figure,
            on_click,
            on_brush,
            on_clear,
        )
        height = figure.layout.height
        super().__init__(
            _figure=figure.to_json(),
            _height=height,
            _library=_library().model_id,
            layout={"min_width": "0"},
        )

    @contextlib.contextmanager
    def edit(self) -> Iterator[go.Figure]:
        """Change the figure, and show it then."""
        yield self.figure
        self.put(_figure=self.figure.to_json())

    def _received(self, message: dict, buffers: list) -> None:
        match message:
            case {"kind": "click", "trace": trace, "point": point} if self._on_click:
                self._on_click(trace, point)
            case {"kind": "brush", "points": points} if self._on_brush:
                self._on_brush([point["point"] for point in points if point["trace"] == 0])
            case {"kind": "clear"} if self._on_clear:
                self._on_clear()


def figure(*, height: int = 420, x: str = "", y: str = "", **layout: object) -> go.Figure:
    """Return an empty figure whose colors fit light and dark pages; `layout` goes to plotly's `update_layout`."""
    grid = {
        "gridcolor": "rgba(128,128,128,.25)",
        "zerolinecolor": "rgba(128,128,128,.4)",
        "automargin": True,
    }
    made = go.Figure()
    made.layout.template = "none"
    made.update_layout(
        height=height,
        margin={"l": 50, "r": 10, "t": 34, "b": 40},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"size": 12, "color": "#888"},
        xaxis={"title": {"text": x}, **grid},
        yaxis={"title": {"text": y}, **grid},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hoverlabel={"align": "left"},
        uirevision="kept",
    )
    made.update_layout(**layout)
    return made
