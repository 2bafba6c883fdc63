"""Models on benchmark tasks: pick, run, watch, and see the scores beside the teacher's and beside published ones."""

from __future__ import annotations

import contextlib
import functools
import html
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import ipywidgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.errors import BenchmarkError, WorkbenchError
from workbench.extras import benchmark
from workbench.extras.benchmark import EvalModel, Progress, TaskResult
from workbench.widgets._view import CATEGORIES, View, cut, figure, hover, note, shown, works_while_busy
from workbench.widgets.table import Table

if TYPE_CHECKING:
    from mteb import AbsTask

_VIEWS = ("share of the teacher", "beside published scores", "beside published averages")
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")


class BenchmarkBoard(View):
    """Run models on tasks and compare them with their teacher and with published figures.

    Args:
        models: from `benchmark.of_model`, `of_teacher` and `of_pair`; the teacher is labeled "teacher".
        tasks: from `workbench.extras.tasks.tasks`.
        folder: for results; what is there already is shown at once when it is run.
        published: what `benchmark.published` returned; None for the figures that come with the workbench.
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

    def __init__(
        self,
        models: Sequence[EvalModel],
        tasks: Sequence[AbsTask],
        folder: str,
        *,
        published: pd.DataFrame | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self._entrants = {model.label: model for model in models}
        self._tasks = {task.metadata.name: task for task in tasks}
        if not self._entrants or not self._tasks:
            raise WorkbenchError("at least one model and one task are needed")
        if len(self._entrants) < len(models):
            raise WorkbenchError("two models share a label: give each its own")
        self.folder = folder
        self.outcomes: list[TaskResult] = []
        self._compared: dict[tuple[str, str], tuple[list[TaskResult], pd.DataFrame]] = {}
        self.stop = threading.Event()
        self._published = benchmark.published() if published is None else published
        self._aliases = dict(aliases or {})
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()  # a run reports on one thread while the view is used on another
        self._build()

    def run(self, labels: Sequence[str] | None = None, tasks: Sequence[str] | None = None) -> list[TaskResult]:
        """Run models on tasks and wait for the end.

        Args:
            labels: which models; those picked in the view if None.
            tasks: names of tasks; those picked if None.

        Returns:
            The outcomes of this run; `outcomes` keeps those of earlier ones too.

        Raises:
            BenchmarkError: as `benchmark.run`, or a run is going on, or a name is unknown.
        """
        labels, names = labels or self.models.value, tasks or self.tasks.value
        for wanted, known in ((labels, self._entrants), (names, self._tasks)):
            if unknown := [name for name in wanted if name not in known]:
                raise BenchmarkError(f"{unknown[0]!r} is not on this board; it has {', '.join(known)}")
        if self._thread is not None and self._thread.is_alive() and self._thread is not threading.current_thread():
            raise BenchmarkError("a run is going on: stop it first")
        self.stop.clear()
        self._set_running(True)
        try:
            done = benchmark.run(
                [self._entrants[label] for label in labels],
                [self._tasks[name] for name in names],
                self.folder,
                on_progress=self._progress,
                on_outcome=self._put,
                stop=self.stop,
            )
        except BaseException as error:
            kind = "note" if isinstance(error, benchmark.Stopped) else "error"
            self.status.value = f'<span class="{kind}">{shown(error, 1000)}</span>'
            raise
        finally:
            self._set_running(False)
        self.status.value = f"{len(done)} evaluations done; results in mteb's format are in {shown(self.folder)}."
        return done

    @property
    def scores(self) -> pd.DataFrame:
        """What `benchmark.scores` says of the outcomes."""
        return benchmark.scores(self.outcomes)

    @property
    def differences(self) -> pd.DataFrame:
        """What `benchmark.differences` says of the outcomes, for tasks that the teacher has run."""
        held = {each.task: each for each in self.outcomes if each.label == "teacher"}
        rows = []
        for each in self.outcomes:
            if each.label == "teacher" or each.task not in held:
                continue
            pair, key = [held[each.task], each], (each.task, each.label)
            if self._compared.get(key, (None,))[0] != pair:  # the bootstraps are made once
                self._compared[key] = pair, benchmark.differences(pair)
            rows.append(self._compared[key][1])
        return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()

    def close(self) -> None:
        """Stop a run and free the parts."""
        if hasattr(self, "stop_button"):
            self.stop.set()
            for part in (self.rows, self.kinds, self.chart):
                part.close()
        super().close()

    def summary(self) -> str:
        """Return the scores as a table of HTML."""
        if not self.outcomes:
            return "No task has been run yet."
        table = self.scores
        head = "".join(f'<th dir="auto">{shown(name, 60)}</th>' for name in ("task", *table.columns))
        body = ""
        for name, row in zip(table.index, table.itertuples(index=False), strict=True):
            cells = (f"{v:.3f}" if isinstance(v, float) else shown(v, 60) for v in row)
            body += (
                f'<tr><td dir="auto">{shown(name, 60)}</td>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
            )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def figures(self) -> list[go.Figure]:
        """Return the figure that is shown."""
        return [self.chart]

    # --- parts ---

    def _build(self) -> None:
        def pick(names: Sequence[str], what: str) -> ipywidgets.SelectMultiple:
            return ipywidgets.SelectMultiple(
                options=[(cut(name, 60), name) for name in names],
                value=tuple(names),
                description=what,
                rows=min(8, max(3, len(names))),
                layout={"flex": "1 1 260px", "width": "auto"},
            )

        self.models, self.tasks = pick(list(self._entrants), "Models"), pick(list(self._tasks), "Tasks")
        self.run_button = ipywidgets.Button(description="Run", icon="play", tooltip="Evaluate what is picked")
        self.stop_button = ipywidgets.Button(
            description="Stop", icon="stop", tooltip="End soon; finished evaluations are kept", disabled=True
        )
        self.run_button.on_click(lambda _: self._run_clicked())
        self.stop_button.on_click(lambda _: self.stop.set())
        self.bar = ipywidgets.FloatProgress(min=0, max=1, layout={"flex": "1 1 200px", "width": "auto"})
        self.status = note("Pick models and tasks with Ctrl or Shift, then Run.")
        self.rows, self.kinds = Table(label="tasks"), Table(label="kinds of task and averages")
        self.view = ipywidgets.ToggleButtons(options=_VIEWS, description="Show", style={"button_width": "auto"})
        self.view.observe(lambda _: self._draw(), "value")
        # A height of its own for each view would end plotly's following of the page's width.
        self.chart, self.caption = figure(height=190 + 40 * max(6, len(self._tasks))), note()
        wrap = {"flex_flow": "row wrap", "align_items": "center", "width": "100%"}
        super().__init__(
            ipywidgets.HBox([self.models, self.tasks], layout=wrap),
            ipywidgets.HBox([self.run_button, self.stop_button, self.bar], layout=wrap),
            self.status,
            self.rows,
            self.kinds,
            self.view,
            self.chart,
            self.caption,
        )
        works_while_busy(self.stop_button)
        self._draw()

    def _run_clicked(self) -> None:
        def work() -> None:
            with contextlib.suppress(WorkbenchError):  # the status says it
                self.run()

        if self._thread is None or not self._thread.is_alive():
            self._set_running(True)
            self._thread = threading.Thread(target=work, daemon=True)
            self._thread.start()

    def _set_running(self, running: bool) -> None:
        self.run_button.disabled, self.stop_button.disabled = running, not running

    def _progress(self, progress: Progress) -> None:
        self.bar.value = progress.done / progress.total
        if progress.task is not None:
            texts = f", {progress.texts:,} texts" if progress.texts else ""
            self.status.value = f"{progress.done} of {progress.total} done; now {shown(progress.label, 60)} on {shown(progress.task, 60)}{texts}"

    def _put(self, outcome: TaskResult) -> None:
        with self._lock:
            key = outcome.task, outcome.label
            self.outcomes = [each for each in self.outcomes if (each.task, each.label) != key] + [outcome]
            self._draw()

    def _draw(self) -> None:
        with self._lock:
            self.rows.show(self._score_rows())
            self.kinds.show(
                benchmark.by_kind(self.outcomes).rename_axis("kind").reset_index() if self.outcomes else pd.DataFrame()
            )
            draw = dict(zip(_VIEWS, (self._shares, self._beside, self._averages), strict=True))[self.view.value]
            self.chart.data, self.chart.layout.shapes = (), ()
            draw()

    def _score_rows(self) -> pd.DataFrame:
        if not self.outcomes:
            return pd.DataFrame({"task": [], "kind": [], "metric": []})
        return self.scores.reset_index()

    # --- figures ---

    def _shares(self) -> None:
        found = self.differences if self.outcomes else pd.DataFrame()
        names = list(dict.fromkeys(found["task"])) if len(found) else []
        labels = list(dict.fromkeys(found["label"])) if len(found) else []
        for number, label in enumerate(labels):
            rows = found[found["label"] == label]
            share = rows["share_of_teacher"].to_numpy(dtype=float)
            ends = np.nan_to_num(np.stack([rows["share_high"] - share, share - rows["share_low"]]))
            self._points(
                label, number, share, [names.index(name) + self._shift(number, len(labels)) for name in rows["task"]],
                text=[f"{hover(task)}: {score:.3f}, teacher {teacher:.3f}" for task, score, teacher in
                      zip(rows["task"], rows["score"], rows["teacher"], strict=True)],
                error={"type": "data", "symmetric": False, "array": ends[0], "arrayminus": ends[1]},
            )  # fmt: skip
        self._axes(names, "share of the teacher's score, 95 % interval")
        if names:
            line = {"color": "rgba(128,128,128,.7)", "dash": "dot"}
            self.chart.layout.shapes = [
                {"type": "line", "x0": 1, "x1": 1, "y0": 0, "y1": 1, "xref": "x", "yref": "paper", "line": line}
            ]
        self.caption.value = (
            "Intervals: paired bootstrap over queries or pairs of sentences; for classification and clustering only over "
            "mteb's ten experiments."
        )

    def _beside(self) -> None:
        known = self._published[self._published["task"].notna()]
        lower = {name.lower(): name for name in known["task"]}
        ours = (
            {name: lower.get(self._aliases.get(name, name).lower()) for name in self.scores.index}
            if self.outcomes
            else {}
        )
        ours = {name: task for name, task in ours.items() if task}
        tasks = list(dict.fromkeys(ours.values()))
        rows = known[known["task"].isin(tasks)]
        models = list(dict.fromkeys(zip(rows["model"], rows["mode"], strict=True)))
        for number, (model, mode) in enumerate(models):
            mine = rows[(rows["model"] == model) & (rows["mode"] == mode)]
            self._points(
                f"{model}, {mode}" if mode != "symmetric" else model, number, mine["score"].to_numpy(dtype=float),
                [tasks.index(task) for task in mine["task"]], text=list(mine["source"]), size=8, hollow=True,
            )  # fmt: skip
        for number, label in enumerate(self._labels()):
            scores = {task: self.scores[label].get(name) for name, task in ours.items()}
            scores = {task: score for task, score in scores.items() if pd.notna(score)}
            self._points(
                f"{label} (here)", number, list(scores.values()), [tasks.index(task) for task in scores],
                text=["run here"] * len(scores), size=13,
            )  # fmt: skip
        self._axes(tasks, "score")
        self.caption.value = (
            "Hollow: published, each with its source. Filled: run here, with the length and precision of these models."
            if tasks
            else "None of the tasks that were run has a published figure here."
        )

    def _averages(self) -> None:
        known = self._published[self._published["average"].isin(["by task", "by kind"])]
        groups = list(dict.fromkeys(zip(known["benchmark"], known["average"], known["source"], strict=True)))
        names = [f"{bench}, mean {average}" for bench, average, _ in groups]
        models = list(dict.fromkeys(zip(known["model"], known["mode"], strict=True)))
        for number, (model, mode) in enumerate(models):
            mine = known[(known["model"] == model) & (known["mode"] == mode)]
            places = [groups.index(key) for key in zip(mine["benchmark"], mine["average"], mine["source"], strict=True)]
            self._points(
                f"{model}, {mode}" if mode != "symmetric" else model, number, mine["score"].to_numpy(dtype=float), places,
                text=list(mine["source"]), size=8, hollow=True,
            )  # fmt: skip
        for number, label in enumerate(self._labels()):
            own = {
                place: value for place, group in enumerate(groups) if (value := self._own_average(label, *group[:2]))
            }
            if own:
                text = ["run here"] * len(own)
                self._points(f"{label} (here)", number, list(own.values()), list(own), text=text, size=13)
        self._axes(names, "mean score")
        self.caption.value = (
            "Each row is an average of its own, over other tasks or taken in another way than the next: compare within a "
            "row, never between rows. A model run here appears where all tasks of the row have been run."
        )

    def _own_average(self, label: str, bench: str, average: str) -> float | None:
        """Return the mean over a benchmark's tasks, if this model has run them all."""
        known = self._published
        base = bench.partition(", ")[0] if bench.startswith("BEIR") else bench
        wanted = set(known.loc[(known["benchmark"] == base) & known["task"].notna(), "task"])
        if bench == "BEIR, 14 sets":
            wanted -= {"MSMARCO"}
        if bench.startswith("MTEB"):
            wanted = _names(bench)
        mine = [each for each in self.outcomes if each.label == label and each.task in wanted]
        if not wanted or len(mine) < len(wanted):
            return None
        means = benchmark.by_kind(mine)
        return float(means.loc["mean over kinds" if average == "by kind" else "mean over tasks", label])

    def _labels(self) -> list[str]:
        return list(dict.fromkeys(each.label for each in self.outcomes))

    @staticmethod
    def _shift(number: int, count: int) -> float:
        return (number - (count - 1) / 2) * min(0.2, 0.7 / max(1, count))

    def _points(self, name, number, x, y, *, text, size=9, hollow=False, error=None) -> None:
        symbol = _SYMBOLS[number % len(_SYMBOLS)]
        self.chart.add_scatter(
            x=x, y=y, mode="markers", name=html.escape(cut(name, 40), quote=False), text=text, error_x=error,
            marker={"size": size, "color": CATEGORIES[number % len(CATEGORIES)], "symbol": symbol + "-open" * hollow},
            hovertemplate="%{text}<br>%{x:.3f}<extra>%{fullData.name}</extra>",
        )  # fmt: skip

    def _axes(self, names: Sequence[str], title: str) -> None:
        self.chart.update_xaxes(title_text=title)
        self.chart.update_yaxes(
            tickvals=list(range(len(names))),
            ticktext=[html.escape(cut(name, 34), quote=False) for name in names],
            range=[len(names) - 0.5, -0.5] if names else [0.5, -0.5],
        )


@functools.cache
def _names(bench: str) -> set[str]:
    from workbench.extras.tasks import tasks

    return {task.metadata.name for task in tasks([bench])}
