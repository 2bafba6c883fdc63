"""Models on benchmark tasks, beside their teacher."""

from collections.abc import Iterable, Sequence

import ipywidgets
import pandas as pd
import plotly.express
import plotly.graph_objects as go

from workbench._util import counted
from workbench.extras import benchmark
from workbench.extras.benchmark import EvalModel, EvalProgress, TaskResult
from workbench.widgets._html import cut, hover, html_table, shown
from workbench.widgets._job import Job
from workbench.widgets._view import CATEGORIES, note, wrapped
from workbench.widgets.chart import Chart, figure
from workbench.widgets.table import Table

_SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross", "star"]
_SPREAD = 0.12  # between the models of a task


class BenchmarkBoard(Job):
    """Run models on tasks and compare them with their teacher.

    Args:
        models: from `benchmark.of_model`, `of_teacher` (labeled "teacher") and `of_pair`.
        tasks: from `workbench.extras.tasks.tasks`.
        folder: for results; those that are there already are not computed again.

    Attributes:
        outcomes: task and label of the model to a `benchmark.TaskResult`.
    """

    _stopped_by = (benchmark.Stopped,)
    _progress: EvalProgress | None = None

    def __init__(self, models: Sequence[EvalModel], tasks: Sequence, folder: str) -> None:
        self.folder = folder
        self.outcomes: dict[tuple[str, str], TaskResult] = {}
        self._differences: dict[str, pd.DataFrame] = {}  # by task
        super().__init__("End soon; finished evaluations are kept")
        self.models = _choices([(model.label, model) for model in models], "Models")
        self.tasks = _choices([(task.metadata.name, task) for task in tasks], "Tasks")
        self.run_button = self._button("Run", "play", "Evaluate what is selected", self.start)
        self.rows = Table(label="tasks")
        share = "share of the teacher's score, 95 % interval"
        self.chart = Chart(figure(height=190 + 40 * max(6, len(tasks)), x=share))
        choices = wrapped(self.models, self.tasks)
        controls = wrapped(self.run_button, self.stop_button, self.bar)
        caption = note("Intervals: over queries or pairs of sentences, 95 %.")
        results = self.rows, self.chart, caption
        self.children = (*self.children, choices, controls, self.status, *results)
        self._draw()

    def start(self) -> None:
        """Run what is selected in the background; `wait` returns the outcomes."""
        selected = self.models.value, self.tasks.value
        reports = {"on_progress": self._report, "stop": self.stop}
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
            self._progress, before = progress, len(self.outcomes)
            self.outcomes |= {(result.task, result.label): result for result in progress.results}
            if len(self.outcomes) > before:
                # Of one task: of all, it would take longer with each outcome.
                name = progress.results[-1].task
                results = [result for (task, _), result in self.outcomes.items() if task == name]
                if len(results) > 1 and (name, "teacher") in self.outcomes:
                    self._differences[name] = benchmark.differences(results)
                self._draw()
            else:
                self._draw_soon(self._show)

    def _draw(self) -> None:
        with self._lock:
            self._show()
            self._table = benchmark.scores(self.outcomes.values()).reset_index()
            self.rows.show(self._table)
            with self.chart.edit() as chart:
                chart.data, chart.layout.shapes = (), ()
                if self._differences:
                    self._draw_shares(chart)

    def _draw_shares(self, chart: go.Figure) -> None:
        rows = pd.concat(self._differences.values(), ignore_index=True)
        share = rows["share_of_teacher"]
        rows["above"] = (rows["share_high"] - share).fillna(0)
        rows["below"] = (share - rows["share_low"]).fillna(0)
        tasks, labels = (rows[name].unique().tolist() for name in ("task", "label"))
        shift = rows["label"].map(labels.index) - (len(labels) - 1) / 2
        rows["place"] = rows["task"].map(tasks.index) + _SPREAD * shift
        rows["label"] = rows["label"].map(hover)
        axes = {"x": "share_of_teacher", "y": "place", "color": "label", "symbol": "label"}
        style = {"symbol_sequence": _SYMBOLS, "color_discrete_sequence": CATEGORIES}
        errors = {"error_x": "above", "error_x_minus": "below"}
        drawing = plotly.express.scatter(rows, **axes, **style, **errors, hover_data=["task"])
        chart.add_traces(drawing.update_traces(marker_size=9).data)
        chart.add_vline(1, line_color="rgba(128,128,128,.7)", line_dash="dot")
        names, ends = [hover(task, 34) for task in tasks], [len(tasks) - 0.5, -0.5]
        chart.update_yaxes(tickvals=list(range(len(tasks))), ticktext=names, range=ends)


def _choices(options: Iterable[tuple[str, object]], title: str) -> ipywidgets.SelectMultiple:
    return ipywidgets.SelectMultiple(
        options=[(cut(label, 60), value) for label, value in options],
        value=[value for _, value in options],
        description=title,
        layout={"flex": "1 1 260px", "width": "auto"},
    )
