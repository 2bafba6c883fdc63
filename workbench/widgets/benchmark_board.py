"""Models on benchmark tasks, beside their teacher and beside published scores."""

from collections.abc import Iterable, Mapping, Sequence

import ipywidgets
import pandas as pd
import plotly.express

from workbench._util import counted
from workbench.extras import benchmark
from workbench.extras.benchmark import EvalModel, EvalProgress, TaskResult
from workbench.widgets._html import cut, hover, html_table, shown
from workbench.widgets._job import Job
from workbench.widgets._view import CATEGORIES, note, wrapped
from workbench.widgets.chart import Chart, figure
from workbench.widgets.table import Table

_SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross", "star"]
_SHARES, _PUBLISHED = "share of the teacher", "beside published scores"
_CAPTIONS = {
    _SHARES: "Intervals: paired bootstrap over queries or pairs of sentences.",
    _PUBLISHED: "Hollow: published, each with its source. Filled: run here.",
}


class BenchmarkBoard(Job):
    """Run models on tasks and compare them with their teacher and with published scores.

    Args:
        models: from `benchmark.of_model`, `of_teacher` (labeled "teacher") and `of_pair`.
        tasks: from `workbench.extras.tasks.tasks`.
        folder: for results; those that are there already are not computed again.
        aliases: name of a task here to its name in `benchmark.published`, where they differ.

    Attributes:
        outcomes: task and label of the model to a `benchmark.TaskResult`.
    """

    _stopped_by = (benchmark.Stopped,)
    _progress: EvalProgress | None = None

    def __init__(
        self,
        models: Sequence[EvalModel],
        tasks: Sequence,
        folder: str,
        *,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self._aliases = folder, aliases or {}
        self.outcomes: dict[tuple[str, str], TaskResult] = {}
        self._differences: dict[str, pd.DataFrame] = {}  # by task
        self._published = benchmark.published().dropna(subset="task")
        super().__init__("End soon; finished evaluations are kept")
        self.models = _choices([(model.label, model) for model in models], "Models")
        self.tasks = _choices([(task.metadata.name, task) for task in tasks], "Tasks")
        self.run_button = self._button("Run", "play", "Evaluate what is selected", self.start)
        self.rows = Table(label="tasks")
        self.view = ipywidgets.ToggleButtons(options=_CAPTIONS, style={"button_width": "auto"})
        self.view.observe(lambda _: self._draw(), "value")
        self.chart = Chart(figure(height=190 + 40 * max(6, len(tasks))))
        self.caption = note()
        choices = wrapped(self.models, self.tasks)
        controls = wrapped(self.run_button, self.stop_button, self.bar)
        results = self.rows, self.view, self.chart, self.caption
        self.children = (*self.children, choices, controls, self.status, *results)
        self._draw()

    def run(self) -> list[TaskResult]:
        """Run what is selected and wait for its outcomes; an interrupt stops the run."""
        self.start()
        try:
            return self.wait()
        except KeyboardInterrupt:
            self.stop.set()
            raise

    def start(self) -> None:
        """Run what is selected in the background; `wait` returns the outcomes."""
        selected = self.models.value, self.tasks.value
        reports = {"on_progress": self._report, "on_outcome": self._put, "stop": self.stop}
        self._start(lambda: benchmark.run(*selected, self.folder, **reports))

    def summary(self) -> str:
        """Return what is shown, as HTML."""
        return html_table(self._table)

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
            self.outcomes[outcome.task, outcome.label] = outcome
            # A bootstrap of this task alone: of all tasks, it would take longer with each outcome.
            results = [r for (task, _), r in self.outcomes.items() if task == outcome.task]
            if len(results) > 1 and (outcome.task, "teacher") in self.outcomes:
                self._differences[outcome.task] = benchmark.differences(results)
            self._draw()

    def _draw(self) -> None:
        with self._lock:
            self._show()
            self._table = benchmark.scores(self.outcomes.values()).reset_index()
            self.rows.show(self._table)
            self.caption.value = self.view.value
            with self.chart.edit() as chart:
                chart.data, chart.layout.shapes = (), ()
                if self.view.label == _SHARES and self._differences:
                    self._draw_shares()
                if self.view.label == _PUBLISHED and self.outcomes:
                    self._draw_published()

    def _draw_shares(self) -> None:
        rows = pd.concat(self._differences.values(), ignore_index=True)
        value = rows["value"] = rows["share_of_teacher"]
        rows["above"] = (rows["share_high"] - value).fillna(0)
        rows["below"] = (value - rows["share_low"]).fillna(0)
        tasks = rows["task"].unique().tolist()
        self._points(rows, tasks, 9, 0.12, error_x="above", error_x_minus="below")
        self.chart.figure.add_vline(1, line_color="rgba(128,128,128,.7)", line_dash="dot")
        self.chart.figure.update_xaxes(title_text="share of the teacher's score, 95 % interval")

    def _draw_published(self) -> None:
        scores = self._table.drop(columns=["kind", "metric"]).replace({"task": self._aliases})
        here = scores.melt("task", var_name="label", value_name="value").dropna()
        here = here[here["task"].isin(self._published["task"])]
        here = here.assign(label=here["label"] + " (here)")
        tasks = here["task"].unique().tolist()
        published = self._published[self._published["task"].isin(tasks)]
        modes = (", " + published["mode"]).where(published["mode"] != "symmetric", "")
        published = published.assign(label=published["model"] + modes, value=published["score"])
        hollow = [f"{symbol}-open" for symbol in _SYMBOLS]
        self._points(published, tasks, 8, symbol_sequence=hollow, hover_name="source")
        self._points(here, tasks, 13)
        self.chart.figure.update_xaxes(title_text="score")

    def _points(
        self, rows: pd.DataFrame, tasks: list, size: int, spread: float = 0, **options: object
    ) -> None:
        """Draw rows of `task`, `label` and `value`, with `spread` between labels."""
        labels = rows["label"].unique().tolist()
        shift = rows["label"].map(labels.index) - (len(labels) - 1) / 2
        place = rows["task"].map(tasks.index) + spread * shift
        rows = rows.assign(label=rows["label"].map(hover), place=place)
        axes = {"x": "value", "y": "place", "color": "label", "symbol": "label"}
        style = {"symbol_sequence": _SYMBOLS, "color_discrete_sequence": CATEGORIES}
        drawing = plotly.express.scatter(rows, **axes, **style | options, hover_data=["task"])
        self.chart.figure.add_traces(drawing.update_traces(marker_size=size).data)
        names, ends = [hover(task, 34) for task in tasks], [len(tasks) - 0.5, -0.5]
        places = list(range(len(tasks)))
        self.chart.figure.update_yaxes(tickvals=places, ticktext=names, range=ends)


def _choices(options: Iterable[tuple[str, object]], title: str) -> ipywidgets.SelectMultiple:
    return ipywidgets.SelectMultiple(
        options=[(cut(label, 60), value) for label, value in options],
        value=[value for _, value in options],
        description=title,
        layout={"flex": "1 1 260px", "width": "auto"},
    )
