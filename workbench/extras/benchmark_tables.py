"""Tables of benchmark results: scores, differences to the teacher, means, published figures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workbench.data import DATA
from workbench.errors import BenchmarkError
from workbench.evaluate import interval

if TYPE_CHECKING:
    from workbench.extras.benchmark import TaskResult

_RESAMPLES = 1000


def scores(results: Iterable[TaskResult]) -> pd.DataFrame:
    """Return a row per task (index: its name): `kind`, `metric` and the score of each label."""
    rows: dict[str, dict] = {}
    for result in results:
        row = rows.setdefault(result.task, {"kind": result.kind, "metric": result.metric})
        row[result.label] = result.score
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("task")


def differences(results: Sequence[TaskResult]) -> pd.DataFrame:
    """Compare every model with the one labeled "teacher", task by task.

    Returns:
        A row for each task and other label: `task`, `kind`, `label`, `score`, `teacher`,
        `share_of_teacher` (ratio), its 95 % interval `share_low` and `share_high`, `difference`,
        its interval `low` and `high`, and `samples`. Intervals are by the paired percentile
        bootstrap (Efron and Tibshirani, 1993) over so many queries or pairs of sentences, and NaN
        for other kinds of tasks.

    Raises:
        BenchmarkError: the teacher has no result for a task.
    """
    teachers = {result.task: result for result in results if result.label == "teacher"}
    rows = []
    for result in results:
        if result.label == "teacher":
            continue
        if result.task not in teachers:
            raise BenchmarkError(f"there is no score of the teacher on {result.task}: run it too")
        teacher = teachers[result.task]
        row = {"task": result.task, "kind": result.kind, "label": result.label}
        row |= {"score": result.score, "teacher": teacher.score}
        row["share_of_teacher"] = result.score / teacher.score if teacher.score > 0 else np.nan
        row |= dict.fromkeys(("share_low", "share_high", "low", "high"), np.nan)
        row |= {"difference": result.score - teacher.score, "samples": 0}
        samples = [result.per_sample, teacher.per_sample]
        if all(samples) and samples[0]["keys"] == samples[1]["keys"]:
            row["samples"] = len(samples[0]["keys"])
            model, reference = _resampled(samples)
            row["low"], row["high"] = interval(model - reference)
            if reference.min() > 0:
                row["share_low"], row["share_high"] = interval(model / reference)
        rows.append(row)
    return pd.DataFrame(rows)


def _resampled(samples: Sequence[Mapping]) -> np.ndarray:
    """Return the scores of several models on the same resamples, (models, resamples)."""
    rng, count = np.random.default_rng(0), len(samples[0]["keys"])
    keys = np.asarray(samples[0]["keys"])
    values = [np.asarray(model["values"]) for model in samples]
    results = np.empty((len(samples), _RESAMPLES))
    for number in range(_RESAMPLES):
        rows = rng.integers(count, size=count)
        for model, column in enumerate(values):
            results[model, number] = score_of(samples[0]["metric"], column[rows], keys[rows])
    return results


def score_of(metric: str, values: Sequence[float], keys: Sequence) -> float:
    """Return the score that samples come to; see `TaskResult.per_sample`."""
    if metric == "spearman":
        from scipy.stats import spearmanr

        return float(spearmanr(values, keys).statistic)
    if metric == "average_precision":
        from sklearn.metrics import average_precision_score

        return float(average_precision_score(keys, values))
    return float(np.mean(values))


def by_kind(results: Iterable[TaskResult]) -> pd.DataFrame:
    """Return mean scores by kind of task, over the tasks that every label was run on.

    Returns:
        A row per kind, then `mean over tasks` and `mean over kinds`. Columns: `tasks`, and for each
        label its mean score and (except for the teacher) `LABEL share` of the teacher's mean.
    """
    table = scores(results)
    labels = [column for column in table.columns if column not in ("kind", "metric")]
    table = table.dropna(subset=labels)
    means = table.groupby("kind", sort=False)[labels].mean()
    over_kinds, over_tasks = means.mean(), table[labels].mean()
    means.insert(0, "tasks", table["kind"].value_counts())
    means.loc["mean over tasks"] = over_tasks
    means.loc["mean over kinds"] = over_kinds
    means["tasks"] = means["tasks"].fillna(len(table)).astype(int)
    for label in labels:
        if label != "teacher":
            means[f"{label} share"] = means[label] / means["teacher"].where(means["teacher"] > 0)
    return means


def published() -> pd.DataFrame:
    """Return published figures. Averages of different sources are over different tasks.

    Returns:
        `benchmark`, `task` (None for an average), `average` ("by task", "by kind" or None),
        `model`, `mode` ("symmetric", "asymmetric" or "teacher"), `score` (0 to 1) and `source`.
    """
    content = json.loads((DATA / "published.json").read_text())
    table = pd.DataFrame(content["figures"])
    table["score"] = table["score"] / 100
    table["source"] = table["source"].map(content["sources"])
    return table.astype({"task": object, "average": object}).where(table.notna(), None)
