"""A training run as it goes on: losses, cosines, learning rate, and a Stop button."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import fields

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench._util import duration
from workbench.train import TrainingStep
from workbench.widgets._html import hover, shown
from workbench.widgets._job import Job
from workbench.widgets._view import CATEGORIES, COLORS
from workbench.widgets.chart import Chart, figure

_MOST_POINTS = 500  # of a curve
_DOTTED = {"mode": "lines+markers"}
_CURVES = {  # field of a step: name, color, row and column of the panel, style
    "loss": ("training loss, each step", COLORS["student"], (1, 1), {"opacity": 0.45}),
    "smoothed": ("training loss, smoothed", COLORS["student"], (1, 1), {}),
    "held_out_loss": ("held-out loss", CATEGORIES[1], (1, 1), _DOTTED),
    "cosine_query": ("cosine, queries", CATEGORIES[3], (1, 2), _DOTTED),
    "cosine_document": ("cosine, documents", CATEGORIES[2], (1, 2), _DOTTED),
    "learning_rate": ("learning rate", COLORS["base"], (2, 2), {"showlegend": False}),
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
    """Show a training: pass the monitor itself as `on_step` and `monitor.stop` as `stop`.

    Train in a `with monitor:` block, which sees a stop and an error. A run that starts at step 0
    replaces what is drawn; one that is resumed from a checkpoint continues it. After a stop, call
    `monitor.resume()` before the next run.

    Args:
        lines: held-out losses to beat by name, mean squared L2 distance, drawn as lines.

    Attributes:
        stop: `threading.Event`; when set, training ends and keeps the best student.
        chart: the figure.
    """

    _last: TrainingStep | None = None  # a resumed run can be behind the last step drawn
    _began = 0.0, 0  # seconds and step, for the time left

    def __init__(self, lines: Mapping[str, float] | None = None) -> None:
        self.lines = dict(lines or {})
        self._values: dict[str, dict[int, float]] = defaultdict(dict)  # by field and step
        super().__init__("End training after this step and keep the best student so far")
        self.chart = Chart(self._empty_chart())
        row = self._row(self.bar, self.stop_button)
        self.children = (*self.children, row, self.status, self.chart)
        self._draw()

    def __call__(self, event: TrainingStep) -> None:
        """Take one event; an error in here does not reach the training."""
        with self._reporting():
            if event.step == 0:
                self._values.clear()
            if self._state != "running":
                self._began = time.monotonic(), event.step
            for name, value in vars(event).items():
                if value is not None:
                    self._values[name][event.step] = value
            if event.loss is not None:
                smoothed = self._values["smoothed"]
                before = smoothed.get(event.step - 1, event.loss)
                # A plain mean at first, or the first steps would weigh too much.
                span = min(len(smoothed) + 1, max(5, event.steps // 50), 50)
                smoothed[event.step] = before + (event.loss - before) / span
            self._last = event
            self._state = "done" if event.step >= event.steps else "running"
            if self._due():
                self._draw()

    @property
    def history(self) -> pd.DataFrame:
        """All events, one row each by step; the columns are the fields of `TrainingStep`."""
        with self._lock:
            names = [field.name for field in fields(TrainingStep)]
            return pd.DataFrame(self._values, columns=names).sort_index()

    def _cut_short(self) -> bool:
        return self._share() < 1

    def _share(self) -> float:
        return self._last.step / self._last.steps if self._last else 0.0

    def _headline(self) -> str:
        return _MESSAGES[self._now]

    def _figures(self) -> list[str]:
        event, losses = self._last, self._values["held_out_loss"]
        if event is None:
            return []
        now = [f"step {event.step:,} of {event.steps:,}", f"epoch {event.epoch:.2f}"]
        if event.loss is not None:
            now.append(f"training loss {self._values['smoothed'][event.step]:.4f}")
            now.append(f"learning rate {event.learning_rate:.2e}")
            now.append(f"{event.texts_per_second:,.0f} texts/s")
        seconds, first = self._began
        if self._state == "running" and event.step > first:
            step_seconds = (time.monotonic() - seconds) / (event.step - first)
            now.append(f"{duration(step_seconds * (event.steps - event.step))} left")
        held_out = []
        for field in ("held_out_loss", "cosine_query", "cosine_document"):
            if values := self._values[field]:
                held_out.append(f"{_CURVES[field][0]} {values[max(values)]:.4f}")
        best = min(losses, key=losses.get, default=None)
        if best is not None:
            held_out.append(f"best {losses[best]:.4f} at step {best:,}")
        for name, value in self.lines.items():
            beaten = " (beaten)" if best is not None and losses[best] < value else ""
            held_out.append(f"{shown(name, 60)} {value:.4f}{beaten}")
        return [" · ".join(now), " · ".join(held_out)]

    def _empty_chart(self) -> go.Figure:
        chart = figure(height=460, x="training step", y="squared L2 distance, mean over texts")
        names = ("gridcolor", "zerolinecolor", "automargin")
        grid = {name: chart.layout.xaxis[name] for name in names}
        panels, widths = [[{"rowspan": 2}, {}], [None, {}]], [0.62, 0.38]
        chart.set_subplots(2, 2, specs=panels, column_widths=widths, horizontal_spacing=0.1)
        chart.update_xaxes(**grid, matches="x")
        chart.update_yaxes(**grid)
        chart.update_yaxes(rangemode="tozero", col=1)
        chart.update_yaxes(title_text="cosine to target, mean", row=1, col=2)
        scale = {"title_text": "learning rate", "rangemode": "tozero", "exponentformat": "e"}
        chart.update_yaxes(**scale, row=2, col=2)
        chart.update_xaxes(title_text="training step", row=2, col=2)
        for name, color, (row, column), style in _CURVES.values():
            style = {"mode": "lines", "hovertemplate": "step %{x:,}: %{y:.4g}"} | style
            chart.add_scatter(name=name, line_color=color, row=row, col=column, **style)
        dashed = {"color": COLORS["base"], "dash": "dash"}
        style = {"mode": "lines+text", "line": dashed, "showlegend": False, "cliponaxis": False}
        for number, (name, value) in enumerate(self.lines.items()):
            label = f"{hover(name, 40)} {value:.4f}"
            # Labels are at either end in turn, so lines close to each other can be told apart.
            text, side = ([label, ""], "top right") if number % 2 else (["", label], "top left")
            chart.add_scatter(
                name=hover(name), y=[value] * 2, text=text, textposition=side, **style
            )
        return chart

    def _draw(self) -> None:
        self._show()
        with self.chart.edit() as chart:
            for trace, field in zip(chart.data, _CURVES, strict=False):
                values = self._values[field]
                steps = sorted(values)
                # Evenly spread, with the first and the last step among them.
                places = np.linspace(0, len(steps) - 1, min(len(steps), _MOST_POINTS)).astype(int)
                trace.x = [steps[place] for place in places]
                trace.y = [values[step] for step in trace.x]
            for trace in chart.data[len(_CURVES) :]:
                trace.x = [0, max(self._values["step"], default=1)]
