"""A training run as it goes on: losses and cosines, and a Stop button."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench._util import duration, spread
from workbench.train import TrainingStep
from workbench.widgets._html import hover, shown
from workbench.widgets._job import Job
from workbench.widgets._view import CATEGORIES, COLORS, wrapped
from workbench.widgets.chart import Chart, figure

_MOST_POINTS = 500  # of a curve
_DOTTED = {"mode": "lines+markers"}
_CURVES = {  # name, color, column of the panel, style
    "loss": ("training loss, each step", COLORS["student"], 1, {"opacity": 0.45}),
    "smoothed": ("training loss, smoothed", COLORS["student"], 1, {}),
    "held_out_loss": ("held-out loss", CATEGORIES[1], 1, _DOTTED),
    "cosine_query": ("cosine, queries", CATEGORIES[3], 2, _DOTTED),
    "cosine_document": ("cosine, documents", CATEGORIES[2], 2, _DOTTED),
}
_MESSAGES = {
    "ready": "No step yet: training has not begun, or its start is being measured.",
    "running": "Training.",
    "stopping": "Stopping: training ends before its next step.",
    "stopped": "Stopped: the best student so far is kept.",
    "done": "Finished: the best student is kept.",
    "failed": "Failed.",
}


class TrainingMonitor(Job):
    """Show a training: `run` or `start` a function that trains with the monitor as `on_step`.

    Give the training `monitor.stop` as `stop`. `lines` are held-out losses to beat by name, mean
    squared L2 distance.
    """

    _last: TrainingStep | None = None  # a resumed run can be behind the last step drawn
    _first = 0.0, 0  # time and step of this run's first report, for the time left

    def __init__(self, lines: Mapping[str, float] | None = None) -> None:
        self.lines = lines or {}
        self._values: dict[str, dict[int, float]] = defaultdict(dict)  # by field and step
        super().__init__("End training after this step and keep the best student so far")
        self.chart = Chart(self._empty_chart())
        row = wrapped(self.bar, self.stop_button)
        self.children = (*self.children, row, self.status, self.chart)
        self._draw()

    def start(self, work: Callable[[], object]) -> None:
        """Train in the background; `wait` returns the result."""
        self._start(work)

    def __call__(self, event: TrainingStep) -> None:
        """Take one event."""
        with self._reporting():
            if event.step == 0:
                self._values.clear()
            if self._first[0] <= self._began:
                self._first = time.monotonic(), event.step
            for name, value in vars(event).items():
                if value is not None:
                    self._values[name][event.step] = value
            self._last = event
            self._draw_soon(self._draw)

    def _share(self) -> float:
        return self._last.step / self._last.steps if self._last else 0.0

    def _headline(self) -> str:
        return _MESSAGES[self._now]

    def _curve(self, name: str) -> pd.Series:
        values = self._values["loss" if name == "smoothed" else name]
        curve = pd.Series(values, dtype=float).sort_index()
        if name == "smoothed" and self._last:
            curve = curve.ewm(alpha=np.clip(50 / self._last.steps, 0.05, 0.2)).mean()
        return curve

    def _figures(self) -> list[str]:
        event, losses = self._last, self._curve("held_out_loss")
        if event is None:
            return []
        now = [f"step {event.step:,} of {event.steps:,}", f"epoch {event.epoch:.2f}"]
        if event.loss is not None:
            now.append(f"training loss {self._curve('smoothed')[event.step]:.4f}")
            now.append(f"learning rate {event.learning_rate:.2e}")
            now.append(f"{event.texts_per_second:,.0f} texts/s")
        began, first = self._first
        if self._now == "running" and event.step > first:
            step_seconds = (time.monotonic() - began) / (event.step - first)
            now.append(f"{duration(step_seconds * (event.steps - event.step))} left")
        held_out = []
        for field in ("held_out_loss", "cosine_query", "cosine_document"):
            if self._values[field]:
                held_out.append(f"{_CURVES[field][0]} {self._curve(field).iloc[-1]:.4f}")
        if len(losses):
            held_out.append(f"best {losses.min():.4f} at step {losses.idxmin():,}")
        for name, value in self.lines.items():
            beaten = " (beaten)" if losses.min() < value else ""
            held_out.append(f"{shown(name, 60)} {value:.4f}{beaten}")
        return [" · ".join(now), " · ".join(held_out)]

    def _empty_chart(self) -> go.Figure:
        chart = figure(height=400, x="training step", y="squared L2 distance, mean over texts")
        axis = chart.layout.xaxis.to_plotly_json()
        chart.set_subplots(1, 2, column_widths=[0.62, 0.38], horizontal_spacing=0.1)
        chart.update_xaxes(axis, matches="x")
        chart.update_yaxes(rangemode="tozero", col=1)
        chart.update_yaxes(axis | {"title_text": "cosine to target, mean"}, col=2)
        for name, color, column, style in _CURVES.values():
            style = {"mode": "lines", "hovertemplate": "step %{x:,}: %{y:.4g}"} | style
            chart.add_scatter(name=name, line_color=color, row=1, col=column, **style)
        style = {"line_color": COLORS["base"], "line_dash": "dash", "row": 1, "col": 1}
        for name, value in self.lines.items():
            chart.add_hline(value, annotation_text=f"{hover(name, 40)} {value:.4f}", **style)
        return chart

    def _draw(self) -> None:
        self._show()
        with self.chart.edit() as chart:
            chart.update_xaxes(showticklabels=bool(self._last))
            chart.update_yaxes(showticklabels=bool(self._last))
            for trace, name in zip(chart.data, _CURVES, strict=True):
                curve = self._curve(name)
                curve = curve.iloc[spread(len(curve), _MOST_POINTS)]
                trace.x, trace.y = curve.index.tolist(), curve.tolist()
