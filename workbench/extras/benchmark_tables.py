"""Tables of benchmark results: scores, differences to the teacher with intervals, means, published figures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workbench.data import DATA
from workbench.errors import BenchmarkError
from workbench.evaluate import interval
from workbench.extras import per_sample

if TYPE_CHECKING:
    from workbench.extras.benchmark import TaskResult


def scores(results: Iterable[TaskResult]) -> pd.DataFrame:
    """Return a row per task (index: its name) with `kind`, `metric` and a column of scores for each label."""
    rows: dict[str, dict] = {}
    for each in results:
        rows.setdefault(each.task, {"kind": each.kind, "metric": each.metric})[each.label] = (
            each.score
        )
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("task")


def differences(
    results: Sequence[TaskResult], teacher: str = "teacher", *, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Compare every model with the teacher, task by task.

    Args:
        results: from `benchmark.run`.
        teacher: label of the model that the others are compared with.
        resamples: of the paired percentile bootstrap (Efron and Tibshirani, 1993) over `TaskResult.per_sample`:
            queries, pairs of sentences, or mteb's ten experiments. Over experiments, the interval covers the spread
            of the experiments and not that of the texts.
        seed: of the resampling.

    Returns:
        A row for each task and label but the teacher's: `task`, `kind`, `label`, `score`, `teacher`,
        `share_of_teacher` (ratio), its 95 % interval `share_low` and `share_high`, `difference`, its interval `low`
        and `high`, and `samples`, the number that was resampled. Intervals are NaN where `per_sample` is None.

    Raises:
        BenchmarkError: the teacher has no result for a task.
    """
    held = {each.task: each for each in results if each.label == teacher}
    rows = []
    for each in results:
        if each.label == teacher:
            continue
        if each.task not in held:
            raise BenchmarkError(f"there is no score of {teacher!r} on {each.task}: run it too")
        against = held[each.task]
        share = each.score / against.score if against.score > 0 else np.nan
        row = {
            "task": each.task,
            "kind": each.kind,
            "label": each.label,
            "score": each.score,
            "teacher": against.score,
        }
        row |= {
            "share_of_teacher": share,
            **dict.fromkeys(("share_low", "share_high", "low", "high"), np.nan),
        }
        row |= {"difference": each.score - against.score, "samples": 0}
        if pairs := per_sample.resample(each.per_sample, against.per_sample, resamples, seed):
            mine, theirs, row["samples"] = pairs
            row["low"], row["high"] = interval(mine - theirs)
            if theirs.min() > 0:
                row["share_low"], row["share_high"] = interval((mine / theirs)[np.isfinite(mine)])
        rows.append(row)
    return pd.DataFrame(rows)


def share_table(rows: pd.DataFrame) -> str:
    """Format the rows of `differences` for a terminal."""
    if not len(rows):
        return "no model to compare with the teacher"
    shown = rows[["task", "label", "score", "teacher"]].round(4)
    shown["share of teacher"] = rows["share_of_teacher"].map("{:.1%}".format, na_action="ignore")
    intervals = rows.agg("{0[share_low]:.1%} to {0[share_high]:.1%}".format, axis=1)
    shown["95 % interval"] = intervals.where(rows["share_low"].notna())
    return shown.to_string(index=False, na_rep="")


def by_kind(results: Iterable[TaskResult], teacher: str = "teacher") -> pd.DataFrame:
    """Return mean scores by kind of task, and the two averages of leaderboards.

    Only tasks that every label was run on count; otherwise the means would be over different tasks.

    Returns:
        A row per kind, then `mean over tasks` and `mean over kinds`. Columns: `tasks`, and for each label its mean
        score and (except for the teacher) `LABEL share`, the ratio of that mean to the teacher's.
    """
    table = scores(results)
    labels = [column for column in table.columns if column not in ("kind", "metric")]
    table = table.dropna(subset=labels)
    kinds = table.groupby("kind", sort=False)[labels].mean()
    both = pd.DataFrame(
        {"mean over tasks": table[labels].mean(), "mean over kinds": kinds.mean()}
    ).T
    counts = table["kind"].value_counts().reindex(kinds.index)
    means = pd.concat([kinds, both])
    means.insert(0, "tasks", [*counts, len(table), len(table)])
    for label in labels:
        if teacher in labels and label != teacher:
            means[f"{label} share"] = means[label] / means[teacher].where(means[teacher] > 0)
    return means


def published(path: str | Path = DATA / "published.json") -> pd.DataFrame:
    """Return published figures. Averages of different sources are over different tasks and must not be compared.

    Returns:
        `benchmark`, `task` (None for an average), `average` ("by task", "by kind" or None), `model`, `mode`
        ("symmetric", "asymmetric" or "teacher"), `score` (0 to 1) and `source`.
    """
    content = json.loads(Path(path).read_text())
    table = pd.DataFrame(content["figures"])
    table["score"] = table["score"] / 100
    table["source"] = table["source"].map(content["sources"])
    return table.astype({"task": object, "average": object}).where(table.notna(), None)
