"""A training run as it goes on: loss against the lines to beat, cosine by role, learning rate, and a Stop button."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Mapping
from dataclasses import asdict, fields, replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench._util import duration
from workbench.errors import WorkbenchError
from workbench.train import Result, TrainingStep
from workbench.widgets._html import hover, shown
from workbench.widgets._job import Job
from workbench.widgets._view import CATEGORIES, COLORS
from workbench.widgets.chart import Chart, figure

_MOST_POINTS = 500  # a curve
_NAMES = [field.name for field in fields(TrainingStep)]  # the last three are held-out figures


class TrainingMonitor(Job):
    """Show a training: pass the monitor itself as `on_step` and `monitor.stop` as `stop`.

    The end is seen at the last step. After a stop, call `finished` with the result, or train in a `with monitor:` block,
    which tells an error too. A monitor may see several runs: one that starts at step 0 replaces what is drawn, one
    resumed from a checkpoint goes on. After a stop, call `monitor.resume()` before the next.

    Args:
        lines: held-out losses to beat by name, mean squared L2 distance, drawn as horizontal lines.

    Attributes:
        stop: `threading.Event`; when set, training ends between two steps and keeps the best student.
        chart: the figure.

    Raises:
        WorkbenchError: a line is no finite number.
    """

    _noun = "training"

    def __init__(self, lines: Mapping[str, float] | None = None) -> None:
        self.lines = {str(name): _number(value) for name, value in (lines or {}).items()}
        if None in self.lines.values():
            raise WorkbenchError(f"lines to beat are losses, finite numbers; got {dict(lines)}")
        self._rows: dict[
            int, tuple[TrainingStep, float | None]
        ] = {}  # by step, with the smoothed loss
        self._held_out: dict[int, TrainingStep] = {}  # the evaluations among them
        self._last: tuple[TrainingStep, float | None] | None = (
            None  # a resumed run can be behind the last step drawn
        )
        self._result: Result | None = None
        self._began = 0.0, 0  # seconds, step: for the time left, evaluations included
        super().__init__("End training after this step and keep the best student so far")
        self.chart = Chart(self._empty_chart())
        self.children = (
            *self.children,
            self._row(self.bar, self.stop_button),
            self.status,
            self.chart,
        )
        self._draw()

    def __call__(self, event: TrainingStep) -> None:
        """Take one event; nothing that goes wrong here reaches the training."""
        with self._reporting():
            self._put(event)
            if self._due():
                self._draw()

    def finished(self, result: Result | None = None) -> None:
        """Say that training has ended, and with which student.

        Args:
            result: what `train_student` returned; None for what the events tell.
        """
        with self._reporting():
            self._result = result
            self._end(None)

    @property
    def history(self) -> pd.DataFrame:
        """All events, one row each in the order of steps; the columns are the fields of `TrainingStep`."""
        with self._lock:
            return pd.DataFrame(
                [asdict(self._rows[step][0]) for step in sorted(self._rows)], columns=_NAMES
            )

    def figures(self) -> list[go.Figure]:
        """Return the curves, up to the last event."""
        with self._reporting():
            self._draw()
        return [self.chart.figure]

    def _cut_short(self) -> bool:
        return not self._at_end() if self._result is None else self._result.stopped

    def _put(self, event: TrainingStep) -> None:
        step = operator.index(event.step)
        figures = {name: _number(getattr(event, name)) for name in _NAMES}
        event = replace(
            event, **figures | {"step": step}
        )  # from here on, figures are finite or None
        if step == 0:
            self._rows, self._held_out, self._trouble = {}, {}, None
        if self._state != "running" or step <= self._last[0].step:
            self._began = (time.monotonic(), step)
        before = self._rows.get(step - 1, (None, None))[1]
        smooth = before if event.loss is None else event.loss
        if event.loss is not None and before is not None:
            # Over about a fiftieth of the run and never so many that it lags; a plain mean at first, or the first
            # steps would weigh too much.
            span = min(50.0, max(5.0, (event.steps or 0) / 50))
            losses = len(self._rows) + (0 not in self._rows)  # step 0 has none
            smooth = before + (event.loss - before) / min(float(losses), span)
        self._rows[step] = self._last = event, smooth
        if any(
            value is not None
            for value in (event.held_out_loss, event.cosine_query, event.cosine_document)
        ):
            self._held_out[step] = event
        self._state, self._result, self._error = "done" if self._at_end() else "running", None, None

    def _at_end(self) -> bool:
        return (
            self._last is not None
            and self._last[0].steps is not None
            and self._last[0].step >= self._last[0].steps
        )

    def _best(self) -> tuple[int, float] | None:
        """Step and held-out loss of the student that is kept; None without held-out texts."""
        if self._result is not None:
            return (
                None
                if self._result.best_loss is None
                else (self._result.best_step, self._result.best_loss)
            )
        losses = [
            (each.held_out_loss, step)
            for step, each in self._held_out.items()
            if each.held_out_loss is not None
        ]
        return min(losses)[::-1] if losses else None

    def _share(self) -> float:
        return (
            min(1.0, self._last[0].step / self._last[0].steps)
            if self._last and self._last[0].steps
            else 0.0
        )

    def _headline(self) -> str:
        best = self._best()
        kept = (
            "the last student is kept"
            if best is None
            else f"the student of step {best[0]:,} is kept"
        )
        ends = (
            "before its first step"
            if self._state == "ready"
            else "after this step and keeps the best student"
        )
        return {
            "ready": "No step yet: training has not begun, or its start is being measured.",
            "running": "Training.",
            "stopping": f"Stopping: training ends {ends}.",
            "stopped": f"Stopped: {kept}.",
            "done": f"Finished: {kept}.{self._unbeaten()}",
            "failed": "Failed.",
        }[self._now]

    def _unbeaten(self) -> str:
        """Say that training did not beat its start, if so."""
        best = self._best()
        return (
            " Training did not improve on its start." if best is not None and best[0] == 0 else ""
        )

    def _show(self) -> None:
        super()._show()
        if self._state == "done" and self._unbeaten():
            self.bar.bar_style = "warning"

    def _figures(self) -> list[str]:
        if self._last is None:
            return []
        event, smooth = self._last
        best, left = self._best(), None
        if self._state == "running" and event.steps is not None and event.step > self._began[1]:
            seconds, first = self._began
            left = (time.monotonic() - seconds) / (event.step - first) * (event.steps - event.step)
        now = [
            f"step {event.step:,}" + ("" if event.steps is None else f" of {event.steps:,.0f}"),
            _figure("epoch {:.2f}", event.epoch),
            _figure("training loss {:.4f}", smooth),
            _figure("learning rate {:.2e}", event.learning_rate),
            _figure("{:,.0f} texts/s", event.texts_per_second or None),
            "" if left is None else f"{duration(left)} left",
        ]
        latest = (
            self._held_out[max(self._held_out)]
            if self._held_out
            else TrainingStep(0, 0, 0, None, 0, 0)
        )
        held_out = [
            _figure("held-out loss {:.4f}", latest.held_out_loss),
            "" if best is None else f"best {best[1]:.4f} at step {best[0]:,}",
            _figure("cosine {:.3f} on queries", latest.cosine_query),
            _figure("cosine {:.3f} on documents", latest.cosine_document),
        ]
        for name, value in self.lines.items():
            beaten = " (beaten)" if best is not None and best[1] < value else ""
            held_out.append(f"{shown(name, 60)} {value:.4f}{beaten}")
        return [" · ".join(filter(None, parts)) for parts in (now, held_out) if any(parts)]

    def _empty_chart(self) -> go.Figure:
        chart = figure(height=460, x="training step", y="squared L2 distance, mean over texts")
        grid = {
            name: chart.layout.xaxis[name] for name in ("gridcolor", "zerolinecolor", "automargin")
        }
        panels = [[{"rowspan": 2}, {}], [None, {}]]
        chart.set_subplots(
            2,
            2,
            specs=panels,
            column_widths=[0.62, 0.38],
            shared_xaxes="all",
            horizontal_spacing=0.1,
        )
        chart.update_xaxes(**grid, showticklabels=True)
        chart.update_yaxes(**grid)
        chart.update_yaxes(rangemode="tozero", row=1, col=1)
        chart.update_yaxes(title_text="cosine to target, mean", row=1, col=2)
        chart.update_yaxes(
            title_text="learning rate", rangemode="tozero", exponentformat="e", row=2, col=2
        )
        chart.update_xaxes(title_text="training step", row=2, col=2)
        markers = {"mode": "lines+markers"}
        for name, color, (row, col), options in (
            ("training loss, each step", COLORS["student"], (1, 1), {"opacity": 0.45}),
            ("training loss, smoothed", COLORS["student"], (1, 1), {}),
            ("held-out loss", CATEGORIES[1], (1, 1), markers),
            ("cosine, queries", CATEGORIES[3], (1, 2), markers),
            ("cosine, documents", CATEGORIES[2], (1, 2), markers),
            ("learning rate", COLORS["base"], (2, 2), {"showlegend": False}),
        ):
            options = {
                "mode": "lines",
                "hovertemplate": "step %{x:,}: %{y:.4g}",
                "line": {"color": color},
            } | options
            chart.add_scatter(name=name, x=[], y=[], row=row, col=col, **options)
        for number, (name, value) in enumerate(self.lines.items()):
            label = f"{hover(name, 40)} {value:.4f}"
            # Labels at both ends in turn, so that lines close to each other can be told apart.
            text, side = ([label, ""], "top right") if number % 2 else (["", label], "top left")
            chart.add_scatter(
                name=hover(name), x=[0, 1], y=[value, value], mode="lines+text", text=text, textposition=side,
                line={"color": COLORS["base"], "dash": "dash"}, showlegend=False, cliponaxis=False,
                hovertemplate="%{y:.4f}",
            )  # fmt: skip
        return chart

    def _draw(self) -> None:
        self._show()
        rows = [self._rows[step] for step in _thin(sorted(self._rows))]
        held_out = [self._held_out[step] for step in _thin(sorted(self._held_out))]
        curves = [
            [(event.step, event.loss) for event, _ in rows],
            [(event.step, smooth) for event, smooth in rows],
            *[[(each.step, getattr(each, name)) for each in held_out] for name in _NAMES[-3:]],
            [
                (event.step, event.learning_rate) for event, _ in rows if event.step
            ],  # step 0 has none of its own
        ]
        last = max([1, *self._rows])
        with self.chart.edit() as chart:
            for trace, points in zip(chart.data, curves, strict=False):
                known = [(step, y) for step, y in points if y is not None]
                trace.x, trace.y = [step for step, _ in known], [y for _, y in known]
            for trace in chart.data[len(curves) :]:
                trace.x = [0, last]


def _figure(words: str, value: float | None) -> str:
    return "" if value is None else words.format(value)


def _number(value: object) -> float | None:
    """Return a finite number, and None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _thin(steps: list[int]) -> list[int]:
    """Return at most `_MOST_POINTS` steps, the first and the last among them."""
    places = np.linspace(0, len(steps) - 1, min(len(steps), _MOST_POINTS)).round().astype(int)
    return [steps[place] for place in places]
