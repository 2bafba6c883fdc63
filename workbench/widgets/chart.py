"""Charts by plotly, in the colors of the page."""

import base64
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
    """plotly.js, sent to a page once, in base64: a saved notebook loses a widget's bytes."""

    _model_module = traitlets.Unicode("@jupyter-widgets/base").tag(sync=True)
    _model_name = traitlets.Unicode("WidgetModel").tag(sync=True)
    code = traitlets.Unicode().tag(sync=True)


@functools.cache
def _library() -> _Library:
    return _Library(code=base64.b64encode(gzip.compress(get_plotlyjs().encode())).decode())


class Chart(Part):
    """A plotly figure in a view; `with chart.edit() as figure` changes it.

    `on_click` is called with the positions of a trace and of its point, `on_brush` with those of
    the first trace's points. plotly's own widget would bring 5 MB of JavaScript for each figure.
    """

    _esm = module("chart")
    _figure = traitlets.Unicode().tag(sync=True)
    _library = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        figure: go.Figure,
        *,
        on_click: Callable[[int, int], object] = lambda trace, point: None,
        on_brush: Callable[[list[int]], object] = lambda points: None,
    ) -> None:
        self.figure, self._on_click, self._on_brush = figure, on_click, on_brush
        super().__init__(_figure=figure.to_json(), _library=_library().model_id)
        self.layout.min_width = "0"

    @contextlib.contextmanager
    def edit(self) -> Iterator[go.Figure]:
        """Change the figure, and show it then."""
        yield self.figure
        self.put(_figure=self.figure.to_json())

    def to_html(self) -> str:
        """Return the figure for a page that has plotly.js."""
        return self.figure.to_html(full_html=False, include_plotlyjs=False)

    def _received(self, message: dict, buffers: list) -> None:
        if message["kind"] == "click":
            self._on_click(message["trace"], message["point"])
        else:
            self._on_brush(message["points"])


def figure(*, height: int = 420, x: str = "", y: str = "", **layout: object) -> go.Figure:
    """Return an empty figure for light and dark pages; `layout` goes to `update_layout`."""
    grid = {"gridcolor": "rgba(128,128,128,.25)", "zerolinecolor": "rgba(128,128,128,.4)"}
    chart = go.Figure(layout={"template": "none", "height": height, "uirevision": "kept"})
    return chart.update_layout(
        margin={"l": 50, "r": 10, "t": 34, "b": 40},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"size": 12, "color": "#888"},
        xaxis={"title": {"text": x}, "automargin": True, **grid},
        yaxis={"title": {"text": y}, "automargin": True, **grid},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hoverlabel={"align": "left"},
        **layout,
    )
