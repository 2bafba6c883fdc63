"""Models on benchmark tasks: pick, run, watch, and see the scores beside the teacher's and beside published ones."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import ipywidgets
import numpy as np
import pandas as pd

from workbench._util import counted
from workbench.errors import BenchmarkError, WorkbenchError
from workbench.extras import benchmark, benchmark_tables
from workbench.extras.benchmark import EvalModel, EvalProgress, TaskResult
from workbench.widgets._html import cut, hover, html_table, shown
from workbench.widgets._job import Job
from workbench.widgets._view import CATEGORIES, note
from workbench.widgets.chart import Chart, figure
from workbench.widgets.table import Table

if TYPE_CHECKING:
    from mteb import AbsTask

_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")


class BenchmarkBoard(Job):
    """Run models on tasks and compare them with their teacher and with published figures.

    Args:
        models: from `benchmark.of_model`, `of_teacher` and `of_pair`; the teacher is labeled "teacher".
        tasks: from `workbench.extras.tasks.tasks`.
        folder: for results; what is there already is shown at once when it is run.
        published: what `benchmark_tables.published` returned; None for the figures that come with the workbench.
        aliases: name of a task here to the name that it has among the published figures, where they differ by more
            than capitals.

    Attributes:
        outcomes: what has been run, a list of `benchmark.TaskResult`.
        stop: `threading.Event`; when set, a run ends soon, and what it finished is kept.
        rows: the table of scores.
        chart: the figure.

    Raises:
        WorkbenchError: there are no models or tasks, or two models share a label.
    """

    _noun = "run"
    _stopped_by = (benchmark.Stopped,)

    def __init__(
        self,
        models: Sequence[EvalModel],
        tasks: Sequence[AbsTask],
        folder: str,
        *,
        published: pd.DataFrame | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self._models = {model.label: model for model in models}
        self._tasks = {task.metadata.name: task for task in tasks}
        if not self._models or not self._tasks:
            raise WorkbenchError("at least one model and one task are needed")
        if len(self._models) < len(models):
            raise WorkbenchError("two models share a label: give each its own")
        self.folder = folder
        self.outcomes: list[TaskResult] = []
        self._progress: EvalProgress | None = None
        self._compared: dict[tuple[str, str], tuple[list[TaskResult], pd.DataFrame]] = {}
        self._published = benchmark_tables.published() if published is None else published
        self._aliases = dict(aliases or {})
        super().__init__("End soon; finished evaluations are kept")

        def choices(names: Mapping[str, object], what: str) -> ipywidgets.SelectMultiple:
            return ipywidgets.SelectMultiple(
                options=[(cut(name, 60), name) for name in names],
                value=tuple(names),
                description=what,
                rows=min(8, max(3, len(names))),
                layout={"flex": "1 1 260px", "width": "auto"},
            )

        self.models, self.tasks = choices(self._models, "Models"), choices(self._tasks, "Tasks")
        self.run_button = self._button("Run", "play", "Evaluate what is selected", self.start)
        self.rows, self.kinds = Table(label="tasks"), Table(label="kinds of task and averages")
        self._views = {
            "share of the teacher": self._shares,
            "beside published scores": self._beside,
            "beside published averages": self._averages,
        }
        self.view = ipywidgets.ToggleButtons(
            options=list(self._views), description="Show", style={"button_width": "auto"}
        )
        self.view.observe(lambda _: self._draw(), "value")
        self.chart, self.caption = Chart(figure(height=190 + 40 * max(6, len(self._tasks)))), note()
        lists, row = (
            self._row(self.models, self.tasks),
            self._row(self.run_button, self.stop_button, self.bar),
        )
        parts = lists, row, self.status, self.rows, self.kinds, self.view, self.chart, self.caption
        self.children = (*self.children, *parts)
        self._draw()

    def run(
        self, labels: Sequence[str] | None = None, tasks: Sequence[str] | None = None
    ) -> list[TaskResult]:
        """Run models on tasks and wait for the end; interrupting this stops the run.

        Args:
            labels: which models; those selected in the view if None.
            tasks: names of tasks; those selected if None.

        Returns:
            The outcomes of this run; `outcomes` keeps those of earlier ones too.

        Raises:
            WorkbenchError: as `benchmark.run`, or a run is going on, or a name is unknown.
        """
        self.start(labels, tasks)
        try:
            return self.wait()
        except KeyboardInterrupt:
            self.stop.set()
            raise

    def start(
        self, labels: Sequence[str] | None = None, tasks: Sequence[str] | None = None
    ) -> None:
        """Run in the background; arguments and errors as of `run`, and `wait` returns the outcomes."""
        labels, names = labels or self.models.value, tasks or self.tasks.value
        for wanted, known in ((labels, self._models), (names, self._tasks)):
            if unknown := [name for name in wanted if name not in known]:
                raise BenchmarkError(
                    f"{unknown[0]!r} is not on this board; it has {', '.join(known)}"
                )
        models, tasks = (
            [self._models[label] for label in labels],
            [self._tasks[name] for name in names],
        )

        def work() -> list[TaskResult]:
            self._progress = None
            return benchmark.run(
                models,
                tasks,
                self.folder,
                on_progress=self._report,
                on_outcome=self._put,
                stop=self.stop,
            )

        self._start(work)

    @property
    def scores(self) -> pd.DataFrame:
        """What `benchmark_tables.scores` says of the outcomes."""
        return benchmark_tables.scores(self.outcomes)

    @property
    def differences(self) -> pd.DataFrame:
        """What `benchmark_tables.differences` says of the outcomes, for tasks that the teacher has run."""
        held, rows = {each.task: each for each in self.outcomes if each.label == "teacher"}, []
        for each in self.outcomes:
            if each.label != "teacher" and each.task in held:
                pair, key = [held[each.task], each], (each.task, each.label)
                if self._compared.get(key, (None,))[0] != pair:  # the bootstraps are made once
                    self._compared[key] = pair, benchmark_tables.differences(pair)
                rows.append(self._compared[key][1])
        return (
            pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=["task", "label"])
        )

    def summary(self) -> str:
        """Return the scores as a table of HTML."""
        return (
            html_table(self.scores.reset_index()) if self.outcomes else "No task has been run yet."
        )

    def _share(self) -> float:
        return self._progress.done / self._progress.total if self._progress else self.bar.value

    def _headline(self) -> str:
        progress = self._progress
        if self._state == "done":
            return f"{counted(progress.total, 'evaluation')} done; results in mteb's format are in {shown(self.folder)}."
        if self._state == "stopped":
            return shown(self._error, 1000)
        if self._state == "ready":
            return "Select models and tasks with Ctrl or Shift, then Run."
        if progress is None or progress.task is None:
            return ""
        texts = f", {progress.texts:,} texts" if progress.texts else ""
        now = f"{shown(progress.label, 60)} on {shown(progress.task, 60)}{texts}"
        return f"{progress.done} of {progress.total} done; now {now}"

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
            self.outcomes = [each for each in self.outcomes if (each.task, each.label) != key] + [
                outcome
            ]
            self._draw()

    def _draw(self) -> None:
        with self._lock:
            self._show()
            self.rows.show(self.scores.reset_index())
            if self.outcomes:
                self.kinds.show(
                    benchmark_tables.by_kind(self.outcomes).rename_axis("kind").reset_index()
                )
            with self.chart.edit() as chart:
                chart.data, chart.layout.shapes = (), ()
                self._views[self.view.value]()

    def _shares(self) -> None:
        found = self.differences
        names, labels = (found[column].unique().tolist() for column in ("task", "label"))
        for number, label in enumerate(labels):
            rows = found[found["label"] == label]
            share = rows["share_of_teacher"].to_numpy(dtype=float)
            shift = (number - (len(labels) - 1) / 2) * min(0.2, 0.7 / len(labels))
            ends = np.nan_to_num(np.stack([rows["share_high"] - share, share - rows["share_low"]]))
            self._points(
                label, number, share, [names.index(name) + shift for name in rows["task"]],
                text=[f"{hover(task)}: {score:.3f}, teacher {teacher:.3f}" for task, score, teacher in
                      zip(rows["task"], rows["score"], rows["teacher"], strict=True)],
                error={"type": "data", "symmetric": False, "array": ends[0], "arrayminus": ends[1]},
            )  # fmt: skip
        self._axes(names, "share of the teacher's score, 95 % interval")
        if names:
            self.chart.figure.add_vline(1, line={"color": "rgba(128,128,128,.7)", "dash": "dot"})
        self.caption.value = (
            "Intervals: paired bootstrap over queries or pairs of sentences; for classification and clustering only over "
            "mteb's ten experiments."
        )

    def _beside(self) -> None:
        known, scores = self._published[self._published["task"].notna()], self.scores
        lower = {name.lower(): name for name in known["task"]}
        ours = {name: lower.get(self._aliases.get(name, name).lower()) for name in scores.index}
        tasks = list(dict.fromkeys(filter(None, ours.values())))
        self._published_points(known[known["task"].isin(tasks)], "task", tasks)
        self._own_points(
            lambda label: {
                tasks.index(task): scores[label].get(name) for name, task in ours.items() if task
            }
        )
        self._axes(tasks, "score")
        self.caption.value = (
            "Hollow: published, each with its source. Filled: run here, with the length and precision of these models."
            if tasks
            else "None of the tasks that were run has a published figure here."
        )

    def _averages(self) -> None:
        known = self._published[self._published["average"].isin(["by task", "by kind"])]
        known = known.assign(
            row=list(zip(known["benchmark"], known["average"], known["source"], strict=True))
        )
        groups = known["row"].unique().tolist()
        names = [f"{bench}, mean {average}" for bench, average, _ in groups]
        self._published_points(known, "row", groups)
        self._own_points(
            lambda label: {
                row: self._own_average(label, *each[:2]) for row, each in enumerate(groups)
            }
        )
        self._axes(names, "mean score")
        self.caption.value = (
            "Each row is an average of its own, over other tasks or taken in another way than the next: compare within a "
            "row, never between rows. A model run here appears where all tasks of the row have been run."
        )

    def _own_average(self, label: str, bench: str, average: str) -> float | None:
        """Return the mean over a benchmark's tasks, if this model has run them all."""
        known = self._published
        base = bench.partition(", ")[0] if bench.startswith("BEIR") else bench
        tasks = set(known.loc[(known["benchmark"] == base) & known["task"].notna(), "task"])
        without = {"MSMARCO"} if bench == "BEIR, 14 sets" else set()
        wanted = _names(bench) if bench.startswith("MTEB") else tasks - without
        mine = [each for each in self.outcomes if each.label == label and each.task in wanted]
        if not wanted or len(mine) < len(wanted):
            return None
        means = benchmark_tables.by_kind(mine)
        return float(
            means.loc["mean over kinds" if average == "by kind" else "mean over tasks", label]
        )

    def _published_points(self, rows: pd.DataFrame, column: str, places: list) -> None:
        for number, ((model, mode), mine) in enumerate(rows.groupby(["model", "mode"], sort=False)):
            name = model if mode == "symmetric" else f"{model}, {mode}"
            y = [places.index(each) for each in mine[column]]
            self._points(
                name, number, mine["score"], y, text=list(mine["source"]), size=8, hollow=True
            )

    def _own_points(self, scores_of: Callable[[str], dict[int, float | None]]) -> None:
        for number, label in enumerate(dict.fromkeys(each.label for each in self.outcomes)):
            if found := {
                place: score for place, score in scores_of(label).items() if pd.notna(score)
            }:
                text, x, y = ["run here"] * len(found), list(found.values()), list(found)
                self._points(f"{label} (here)", number, x, y, text=text, size=13)

    def _points(self, name, number, x, y, *, text, size=9, hollow=False, error=None) -> None:
        symbol = _SYMBOLS[number % len(_SYMBOLS)]
        self.chart.figure.add_scatter(
            x=x, y=y, mode="markers", name=hover(name, 40), text=text, error_x=error,
            marker={"size": size, "color": CATEGORIES[number % len(CATEGORIES)], "symbol": symbol + "-open" * hollow},
            hovertemplate="%{text}<br>%{x:.3f}<extra>%{fullData.name}</extra>",
        )  # fmt: skip

    def _axes(self, names: Sequence[str], title: str) -> None:
        self.chart.figure.update_xaxes(title_text=title)
        places, labels = list(range(len(names))), [hover(name, 34) for name in names]
        self.chart.figure.update_yaxes(
            tickvals=places, ticktext=labels, range=[max(1, len(names)) - 0.5, -0.5]
        )


@functools.cache
def _names(bench: str) -> set[str]:
    from workbench.extras.tasks import tasks

    return {task.metadata.name for task in tasks([bench])}
