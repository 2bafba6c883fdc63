"""Models on benchmark tasks, beside their teacher and beside published scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import ipywidgets
import pandas as pd
import plotly.express

from workbench._util import counted
from workbench.errors import WorkbenchError
from workbench.extras import benchmark
from workbench.extras.benchmark import EvalModel, EvalProgress, TaskResult
from workbench.widgets._html import cut, hover, html_table, shown
from workbench.widgets._job import Job
from workbench.widgets._view import CATEGORIES, note
from workbench.widgets.chart import Chart, figure
from workbench.widgets.table import Table

if TYPE_CHECKING:
    from mteb import AbsTask

_SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross", "star"]
_SHARES, _PUBLISHED = "share of the teacher", "beside published scores"
_CAPTIONS = {
    _SHARES: ("Intervals: paired bootstrap over queries or pairs of sentences."),
    _PUBLISHED: (
        "Hollow: published, each with its source. Filled: run here, with the length and precision "
        "of these models. Tasks without a published score are left out."
    ),
}


class BenchmarkBoard(Job):
    """Run models on tasks and compare them with their teacher and with published scores.

    Args:
        models: from `benchmark.of_model`, `of_teacher` (labeled "teacher") and `of_pair`.
        tasks: from `workbench.extras.tasks.tasks`.
        folder: for results; those that are there already are not computed again.
        aliases: name of a task here to its name in `benchmark.published`, where they differ.

    Attributes:
        outcomes: what has been run, a list of `benchmark.TaskResult`.
        stop: `threading.Event`; when set, a run ends soon, and what it finished is kept.
        rows: the table of scores.
        chart: the figure.

    Raises:
        WorkbenchError: two models share a label.
    """

    _stopped_by = (benchmark.Stopped,)

    def __init__(
        self,
        models: Sequence[EvalModel],
        tasks: Sequence[AbsTask],
        folder: str,
        *,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self._models = {model.label: model for model in models}
        self._tasks = {task.metadata.name: task for task in tasks}
        if len(self._models) < len(models):
            raise WorkbenchError("two models share a label: give each its own")
        self.folder, self._aliases = folder, aliases or {}
        self.outcomes: list[TaskResult] = []
        self._progress: EvalProgress | None = None
        self._differences: dict[str, pd.DataFrame] = {}  # by task
        self._published = benchmark.published().dropna(subset="task")
        super().__init__("End soon; finished evaluations are kept")
        self.models, self.tasks = _choices(self._models, "Models"), _choices(self._tasks, "Tasks")
        self.run_button = self._button("Run", "play", "Evaluate what is selected", self.start)
        self.rows = Table(label="tasks")
        self.view = ipywidgets.ToggleButtons(
            options=list(_CAPTIONS), description="Show", style={"button_width": "auto"}
        )
        self.view.observe(lambda _: self._draw(), "value")
        self.chart = Chart(figure(height=190 + 40 * max(6, len(self._tasks))))
        self.caption = note()
        choices = self._row(self.models, self.tasks)
        controls = self._row(self.run_button, self.stop_button, self.bar)
        results = self.rows, self.view, self.chart, self.caption
        self.children = (*self.children, choices, controls, self.status, *results)
        self._draw()

    def run(self) -> list[TaskResult]:
        """Run what is selected and wait for the end; interrupting this stops the run.

        Returns:
            The outcomes of this run; `outcomes` keeps those of earlier ones too.

        Raises:
            WorkbenchError: as `benchmark.run`, or a run is going on.
        """
        self.start()
        try:
            return self.wait()
        except KeyboardInterrupt:
            self.stop.set()
            raise

    def start(self) -> None:
        """Run what is selected in the background; `wait` returns the outcomes."""
        models = [self._models[label] for label in self.models.value]
        tasks = [self._tasks[name] for name in self.tasks.value]
        reports = {"on_progress": self._report, "on_outcome": self._put, "stop": self.stop}
        self._start(lambda: benchmark.run(models, tasks, self.folder, **reports))

    def summary(self) -> str:
        """Return the scores as a table of HTML."""
        return html_table(benchmark.scores(self.outcomes).reset_index())

    def _share(self) -> float:
        return self._progress.done / self._progress.total if self._progress else 0.0

    def _headline(self) -> str:
        progress = self._progress
        if self._state == "ready":
            return "Select models and tasks with Ctrl or Shift, then Run."
        if self._state == "stopped":
            return shown(self._error, 1000)
        if self._state == "done":
            folder = shown(self.folder)
            return f"{counted(progress.total, 'evaluation')} done; results are in {folder}."
        if progress is None or progress.task is None:
            return ""
        now = f"{shown(progress.label, 60)} on {shown(progress.task, 60)}"
        return f"{progress.done} of {progress.total} done; now {now}, {progress.texts:,} texts"

    def _show(self) -> None:
        super()._show()
        self.run_button.disabled = self._state == "running"
        self.stop_button.disabled = self._state != "running"

    def _report(self, progress: EvalProgress) -> None:
        with self._reporting():
            self._progress = progress
            if self._due():
                self._show()

    def _put(self, outcome: TaskResult) -> None:
        with self._reporting():
            key = outcome.task, outcome.label
            others = [result for result in self.outcomes if (result.task, result.label) != key]
            self.outcomes = [*others, outcome]
            # A bootstrap of this task alone: of all tasks, it would take longer with each outcome.
            results = [result for result in self.outcomes if result.task == outcome.task]
            if len(results) > 1 and "teacher" in [result.label for result in results]:
                self._differences[outcome.task] = benchmark.differences(results)
            self._draw()

    def _draw(self) -> None:
        with self._lock:
            self._show()
            self.rows.show(benchmark.scores(self.outcomes).reset_index())
            self.caption.value = _CAPTIONS[self.view.value]
            with self.chart.edit() as chart:
                chart.data, chart.layout.shapes = (), ()
                if self.view.value == _SHARES and self._differences:
                    self._draw_shares()
                if self.view.value == _PUBLISHED and self.outcomes:
                    self._draw_published()

    def _draw_shares(self) -> None:
        rows = pd.concat(self._differences.values(), ignore_index=True)
        rows = rows.rename(columns={"share_of_teacher": "value"})
        rows["above"] = (rows["share_high"] - rows["value"]).fillna(0)
        rows["below"] = (rows["value"] - rows["share_low"]).fillna(0)
        tasks, spread = rows["task"].unique().tolist(), 0.6 / rows["label"].nunique()
        errors = {"error_x": "above", "error_x_minus": "below"}
        self._points(rows, tasks, 9, min(0.2, spread), hover_data=["task"], **errors)
        self.chart.figure.add_vline(1, line_color="rgba(128,128,128,.7)", line_dash="dot")
        self.chart.figure.update_xaxes(title_text="share of the teacher's score, 95 % interval")

    def _draw_published(self) -> None:
        names = {name.lower(): name for name in self._published["task"]}
        scores = benchmark.scores(self.outcomes).drop(columns=["kind", "metric"])
        scores.index = [names.get(self._aliases.get(task, task).lower()) for task in scores.index]
        scores = scores[scores.index.notna()].rename_axis("task").reset_index()
        here = scores.melt("task", var_name="label", value_name="value").dropna()
        here["label"] += " (here)"
        tasks = here["task"].unique().tolist()
        published = self._published[self._published["task"].isin(tasks)]
        modes = (", " + published["mode"]).where(published["mode"] != "symmetric", "")
        published = published.assign(label=published["model"] + modes, value=published["score"])
        hollow = [f"{symbol}-open" for symbol in _SYMBOLS]
        self._points(published, tasks, 8, symbol_sequence=hollow, hover_name="source")
        self._points(here, tasks, 13, hover_data=["task"])
        self.chart.figure.update_xaxes(title_text="score")

    def _points(
        self,
        rows: pd.DataFrame,
        tasks: list[str],
        size: int,
        spread: float = 0.0,
        **options: object,
    ) -> None:
        """Add a point for each row's `task`, `label` and `value`, with `spread` between labels."""
        labels = rows["label"].unique().tolist()
        shift = rows["label"].map(labels.index) - (len(labels) - 1) / 2
        place = rows["task"].map(tasks.index) + spread * shift
        rows = rows.assign(label=rows["label"].map(hover), place=place)
        axes = {"x": "value", "y": "place", "color": "label", "symbol": "label"}
        style = {"symbol_sequence": _SYMBOLS, "color_discrete_sequence": CATEGORIES}
        drawing = plotly.express.scatter(rows, **axes, **style | options)
        drawing.update_traces(marker_size=size)
        self.chart.figure.add_traces(drawing.data)
        names, ends = [hover(task, 34) for task in tasks], [len(tasks) - 0.5, -0.5]
        places = list(range(len(tasks)))
        self.chart.figure.update_yaxes(tickvals=places, ticktext=names, range=ends)


def _choices(names: Mapping[str, object], title: str) -> ipywidgets.SelectMultiple:
    return ipywidgets.SelectMultiple(
        options=[(cut(name, 60), name) for name in names],
        value=tuple(names),
        description=title,
        rows=min(8, max(3, len(names))),
        layout={"flex": "1 1 260px", "width": "auto"},
    )
