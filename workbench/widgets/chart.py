"""Figures that take their colors from the page. All private uses of plotly are here."""

from __future__ import annotations

from copy import deepcopy

import plotly.graph_objects as go


class _Figure(go.FigureWidget):
    """A figure whose state is what it shows, for pages that open later (a reloaded notebook, Voilà).

    plotly updates the state only of a figure that a cell shows by itself, not of one inside another widget.
    """

    def get_state(self, key: object = None, drop_defaults: bool = False) -> dict:
        state = super().get_state(key, drop_defaults)
        if key is None and "_layout_obj" in vars(self):  # not while it is being made
            for name, shown in (("_widget_data", self._data), ("_widget_layout", self._layout_obj._props)):
                state[name] = self.trait_metadata(name, "to_json")(deepcopy(shown), self)
        return state


def figure(*, height: int = 420, x: str = "", y: str = "", **layout: object) -> go.FigureWidget:
    """Return an empty figure whose colors fit light and dark pages; `layout` goes to plotly's `update_layout`."""
    grid = {"gridcolor": "rgba(128,128,128,.25)", "zerolinecolor": "rgba(128,128,128,.4)", "automargin": True}
    chart = _Figure()
    chart._config = chart._config | {"responsive": True, "displaylogo": False}  # a widget has no public way to these
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


def remove_outline(chart: go.FigureWidget) -> None:
    """Remove the outline of a lasso or a brush, after which the browser reports an empty selection.

    While there is one, plotly selects by it again whenever the figure changes. Only the browser knows of it, so there is
    no public way.
    """
    chart._send_relayout_msg({"selections": []})
