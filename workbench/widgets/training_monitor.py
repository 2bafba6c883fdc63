"""A training run as it goes on: loss against the lines to beat, cosine by role, learning rate, and a Stop button."""

from __future__ import annotations

import math
import operator
import time
from bisect import bisect_left
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
from workbench.widgets._view import CATEGORIES, COLORS, wrapped
from workbench.widgets.chart import figure

_MOST_POINTS = 500  # a curve
_NAMES = [field.name for field in fields(TrainingStep)]


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
        self.lines: dict[str, float] = {}
        for name, value in (lines or {}).items():
            if (loss := _number(value)) is None:
                raise WorkbenchError(f"the line {name!r} is {value!r}: give a loss, a finite number")
            self.lines[str(name)] = loss
        self._rows: list[tuple[TrainingStep, float | None]] = []  # with the smoothed loss, in the order of steps
        self._held_out: list[tuple[TrainingStep, None]] = []  # the evaluations among them
        self._last: tuple[TrainingStep, float | None] | None = None  # a resumed run can be behind the last step drawn
        self._result: Result | None = None
        self._began: tuple[float, int] | None = None  # seconds, step: for the time left, evaluations included
        super().__init__("End training after this step and keep the best student so far")
        self.chart = self._empty_chart()
        row = wrapped(self.bar, self.stop_button, align_items="center", width="100%")
        self.children = (*self.children, row, self.status, self.chart)
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
            return pd.DataFrame([asdict(event) for event, _ in self._rows], columns=_NAMES)

    def figures(self) -> list[go.Figure]:
        """Return the curves, up to the last event."""
        with self._reporting():
            self._draw()
        return [self.chart]

    # --- events ---

    def _end(self, error: BaseException | None) -> None:
        self._began = None
        super()._end(error)

    def _cut_short(self) -> bool:
        if self._result is not None:
            return self._result.stopped
        return not self._at_end()

    def _put(self, event: TrainingStep) -> None:
        step = operator.index(event.step)
        figures = {name: _number(getattr(event, name)) for name in _NAMES}
        event = replace(event, **figures | {"step": step})  # from here on, figures are finite or None
        if step == 0:
            self._rows.clear()
            self._held_out.clear()
            self._trouble = None
        if self._began is None or self._last is None or step <= self._last[0].step:
            self._began = (time.monotonic(), step)
        place = _place(self._rows, step)
        before = self._rows[place - 1][1] if place else None
        smooth = before if event.loss is None else event.loss
        if event.loss is not None and before is not None:
            # Over about a fiftieth of the run and never so many that it lags; a plain mean at first, or the first
            # steps would weigh too much.
            span = min(50.0, max(5.0, (event.steps or 0) / 50))
            losses = place + (self._rows[0][0].step > 0)  # step 0 has none
            smooth = before + (event.loss - before) / min(float(losses), span)
        self._last = (event, smooth)
        _insert(self._rows, place, self._last)
        if any(value is not None for value in (event.held_out_loss, event.cosine_query, event.cosine_document)):
            _insert(self._held_out, _place(self._held_out, step), (event, None))
        self._state, self._result, self._error = "running", None, None
        if self._at_end():
            self._state, self._began = "done", None

    def _at_end(self) -> bool:
        return self._last is not None and self._last[0].steps is not None and self._last[0].step >= self._last[0].steps

    def _best(self) -> tuple[int, float] | None:
        """Step and held-out loss of the student that is kept; None without held-out texts."""
        if self._result is not None:
            return None if self._result.best_loss is None else (self._result.best_step, self._result.best_loss)
        losses = [(event.held_out_loss, event.step) for event, _ in self._held_out if event.held_out_loss is not None]
        return min(losses)[::-1] if losses else None

    # --- what is shown ---

    def _share(self) -> float:
        return min(1.0, self._last[0].step / self._last[0].steps) if self._last and self._last[0].steps else 0.0

    def _headline(self) -> str:
        best = self._best()
        kept = "the last student is kept" if best is None else f"the student of step {best[0]:,} is kept"
        return {
            "ready": "No training yet.",
            "running": "Training.",
            "stopping": "Stopping: training ends after this step and keeps the best student."
            if self._state == "running"
            else "Training will end before its first step.",
            "stopped": f"Stopped: {kept}.",
            "done": f"Finished: {kept}.",
            "failed": "Failed.",
        }[self._now]

    def _figures(self) -> list[str]:
        if self._last is None:
            return []
        event, smooth = self._last
        best, left = self._best(), None
        if self._state == "running" and self._began and event.steps is not None and event.step > self._began[1]:
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
        latest = self._held_out[-1][0] if self._held_out else TrainingStep(0, 0, 0, None, 0, 0)
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

    def _empty_chart(self) -> go.FigureWidget:
        chart = figure(height=460, x="training step", y="squared L2 distance, mean over texts")
        across, up = chart.layout.xaxis.to_plotly_json(), chart.layout.yaxis.to_plotly_json()
        chart.update_layout(
            xaxis={"domain": [0, 0.56]},
            yaxis={"rangemode": "tozero"},
            xaxis2={**across, "domain": [0.66, 1], "anchor": "y2", "matches": "x", "title": {"text": ""}},
            yaxis2={**up, "domain": [0.56, 1], "anchor": "x2", "title": {"text": "cosine to target, mean"}},
            xaxis3={**across, "domain": [0.66, 1], "anchor": "y3", "matches": "x"},
            yaxis3={
                **up, "domain": [0, 0.44], "anchor": "x3", "title": {"text": "learning rate"},
                "rangemode": "tozero", "exponentformat": "e",
            },
            uirevision="kept",
        )  # fmt: skip

        def add(name: str, color: str, panel: str = "", mode: str = "lines", **options: object) -> None:
            chart.add_scatter(
                name=name, x=[], y=[], mode=mode, line={"color": color}, xaxis=f"x{panel}", yaxis=f"y{panel}",
                hovertemplate="step %{x:,}: %{y:.4g}", **options,
            )  # fmt: skip

        add("training loss, each step", COLORS["student"], opacity=0.45)
        add("training loss, smoothed", COLORS["student"])
        add("held-out loss", CATEGORIES[1], mode="lines+markers")
        add("cosine, queries", CATEGORIES[3], "2", mode="lines+markers")
        add("cosine, documents", CATEGORIES[2], "2", mode="lines+markers")
        add("learning rate", COLORS["base"], "3", showlegend=False)
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
        rows, held_out = _thin(self._rows), _thin(self._held_out)
        curves = [
            [(event.step, event.loss) for event, _ in rows],
            [(event.step, smooth) for event, smooth in rows],
            [(event.step, event.held_out_loss) for event, _ in held_out],
            [(event.step, event.cosine_query) for event, _ in held_out],
            [(event.step, event.cosine_document) for event, _ in held_out],
            [(event.step, event.learning_rate) for event, _ in rows if event.step],  # step 0 has none of its own
        ]
        last = max(1, self._rows[-1][0].step) if self._rows else 1
        with self.chart.batch_update():  # one message for all curves
            for trace, points in zip(self.chart.data, curves, strict=False):
                known = [(step, y) for step, y in points if y is not None]
                trace.x, trace.y = [step for step, _ in known], [y for _, y in known]
            for trace in self.chart.data[len(curves) :]:
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


def _place(rows: list[tuple], step: int) -> int:
    return bisect_left(rows, step, key=lambda row: row[0].step)


def _insert(rows: list[tuple], place: int, row: tuple) -> None:
    """Put a row in; it takes the place of the same step's, which a resumed run reports again."""
    same = place < len(rows) and rows[place][0].step == row[0].step
    rows[place : place + same] = [row]


def _thin(rows: list[tuple]) -> list[tuple]:
    """Return at most `_MOST_POINTS` rows, the first and the last among them."""
    if len(rows) <= _MOST_POINTS:
        return rows
    return [rows[i] for i in np.linspace(0, len(rows) - 1, _MOST_POINTS).astype(int)]
