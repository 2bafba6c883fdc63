"""Tables of benchmark results: scores, differences to the teacher, means, published figures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workbench.data import DATA
from workbench.errors import BenchmarkError
from workbench.evaluate import bootstrap_means, interval

if TYPE_CHECKING:
    from workbench.extras.benchmark import TaskResult


def scores(results: Iterable[TaskResult]) -> pd.DataFrame:
    """Return a row per task (index: its name): `kind`, `metric` and the score of each label."""
    rows: dict[str, dict] = {}
    for result in results:
        row = rows.setdefault(result.task, {"kind": result.kind, "metric": result.metric})
        row[result.label] = result.score
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("task")


def differences(
    results: Sequence[TaskResult], teacher: str = "teacher", *, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Compare every model with the teacher, task by task.

    Args:
        results: from `benchmark.run`.
        teacher: label of the model that the others are compared with.
        resamples: of the paired percentile bootstrap (Efron and Tibshirani, 1993) over queries,
            pairs of sentences, or mteb's ten experiments (their spread, not that of the texts).
        seed: of the resampling.

    Returns:
        A row for each task and label but the teacher's: `task`, `kind`, `label`, `score`,
        `teacher`, `share_of_teacher` (ratio), its 95 % interval `share_low` and `share_high`,
        `difference`, its interval `low` and `high`, and `samples`, the number that was resampled.
        Intervals are NaN where there are no scores per sample.

    Raises:
        BenchmarkError: the teacher has no result for a task.
    """
    by_task = {result.task: result for result in results if result.label == teacher}
    rows = []
    for result in results:
        if result.label == teacher:
            continue
        if result.task not in by_task:
            raise BenchmarkError(f"there is no score of {teacher!r} on {result.task}: run it too")
        reference = by_task[result.task]
        row = {
            "task": result.task,
            "kind": result.kind,
            "label": result.label,
            "score": result.score,
            "teacher": reference.score,
            "share_of_teacher": result.score / reference.score if reference.score > 0 else np.nan,
            **dict.fromkeys(("share_low", "share_high", "low", "high"), np.nan),
            "difference": result.score - reference.score,
            "samples": 0,
        }
        resampled = _resample(result.per_sample, reference.per_sample, resamples, seed)
        if resampled:
            model, teachers, row["samples"] = resampled
            row["low"], row["high"] = interval(model - teachers)
            if teachers.min() > 0:
                row["share_low"], row["share_high"] = interval(model / teachers)
        rows.append(row)
    return pd.DataFrame(rows)


def score_of(samples: Mapping) -> float:
    """Return the score that `TaskResult.per_sample` comes to."""
    if "values" in samples:
        return float(np.mean(samples["values"]))
    return _metric(samples["metric"], samples["scores"], samples["gold"])


def _metric(name: str, cosines: Sequence[float], gold: Sequence[float]) -> float:
    """Return the "spearman" correlation or the "average_precision" of pairs."""
    if name == "spearman":
        from scipy.stats import spearmanr

        return float(spearmanr(cosines, gold).statistic)
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(gold, cosines))


def _resample(
    model: Mapping | None, teacher: Mapping | None, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Return both scores on the same resamples, and the number of samples; None if they differ."""
    if not model or not teacher:
        return None
    if "values" in model:
        columns = [pd.Series(samples["values"], samples["ids"]) for samples in (model, teacher)]
        table = pd.concat(columns, axis=1, keys=["model", "teacher"])
        # Experiments that all use every text have no spread, and an interval would mislead.
        if table.isna().any(axis=None) or not np.ptp(table.to_numpy(), axis=0).any():
            return None
        means = bootstrap_means([table["model"], table["teacher"]], resamples, seed)
        return *means, len(table)
    gold = np.asarray(model["gold"])
    if not np.array_equal(gold, teacher["gold"]):
        return None
    rng = np.random.default_rng(seed)
    cosines = [np.asarray(samples["scores"]) for samples in (model, teacher)]
    results = np.empty((2, resamples))
    for number in range(resamples):
        rows = rng.integers(len(gold), size=len(gold))
        results[:, number] = [_metric(model["metric"], c[rows], gold[rows]) for c in cosines]
    return results[0], results[1], len(gold)


def by_kind(results: Iterable[TaskResult], teacher: str = "teacher") -> pd.DataFrame:
    """Return mean scores by kind of task, and the two averages of leaderboards.

    Only tasks that every label was run on count, so all means are over the same tasks.

    Returns:
        A row per kind, then `mean over tasks` and `mean over kinds`. Columns: `tasks`, and for each
        label its mean score and (except for the teacher) `LABEL share` of the teacher's mean.
    """
    table = scores(results)
    labels = [column for column in table.columns if column not in ("kind", "metric")]
    table = table.dropna(subset=labels)
    means = table.groupby("kind", sort=False)[labels].mean()
    counts = table["kind"].value_counts().reindex(means.index)
    means.loc["mean over kinds"] = means.mean()
    means.loc["mean over tasks"] = table[labels].mean()
    means = means.reindex([*counts.index, "mean over tasks", "mean over kinds"])
    means.insert(0, "tasks", [*counts, len(table), len(table)])
    for label in labels:
        if teacher in labels and label != teacher:
            means[f"{label} share"] = means[label] / means[teacher].where(means[teacher] > 0)
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
