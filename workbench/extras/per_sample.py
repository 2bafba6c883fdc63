"""The scores of one evaluation sample by sample, over which intervals are drawn.

Samples are {"ids", "values"} whose mean is the score (queries, or mteb's repeated experiments), or {"scores", "gold",
"metric"} of pairs of texts.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.evaluate import bootstrap_means

if TYPE_CHECKING:
    from mteb import AbsTask


def is_sound(samples: object) -> bool:
    """Say whether stored samples have a shape that `differences` can use."""
    if samples is None:
        return True
    ids, values = ("ids", "values") if "values" in samples else ("scores", "gold")
    return len(samples[ids]) == len(samples[values]) and all(map(math.isfinite, samples[values]))


def of_result(task: AbsTask, result, predictions: Path) -> dict | None:
    """Return the scores per sample if they reproduce mteb's score, else None."""
    if len(result.scores) != 1 or len(task.hf_subsets) != 1:
        return None
    (split,), (subset,) = result.scores, task.hf_subsets
    score, found = result.scores[split][0], None
    path = predictions / task.prediction_file_name
    predicted = json.loads(path.read_text())[subset][split] if path.is_file() else None
    kind = task.metadata.type
    if kind == "Retrieval" and predicted is not None:
        found = _query_samples(
            task.dataset[subset][split]["relevant_docs"], predicted, task.metadata.main_score
        )
    elif kind in ("STS", "PairClassification") and predicted is not None:
        column = "score" if kind == "STS" else task.label_column_name
        gold = [float(value) for value in task.dataset[subset][split][column]]
        metric = "spearman" if kind == "STS" else "average_precision"
        found = {"metric": metric, "scores": predicted["cosine_scores"], "gold": gold}
    elif kind == "Classification" and "scores_per_experiment" in score:
        found = _numbered(
            [each[task.metadata.main_score] for each in score["scores_per_experiment"]]
        )
    elif kind == "Clustering" and isinstance(score.get("v_measures"), dict):
        found = _numbered(np.mean(list(score["v_measures"].values()), axis=0).tolist())
    return found if found and abs(_value(found) - score["main_score"]) <= 1e-3 else None


def _numbered(values: list[float]) -> dict:
    return {"ids": [str(number) for number in range(len(values))], "values": values}


def _query_samples(qrels: Mapping, predicted: Mapping, metric: str) -> dict | None:
    import ir_measures

    if not (name := re.fullmatch(r"(ndcg|map|mrr|recall)_at_(\d+)", metric)):
        return None
    measure = {
        "ndcg": ir_measures.nDCG,
        "map": ir_measures.AP,
        "mrr": ir_measures.RR,
        "recall": ir_measures.R,
    }
    judged = {
        query: {doc: int(grade) for doc, grade in grades.items()} for query, grades in qrels.items()
    }
    found = ir_measures.iter_calc([measure[name[1]] @ int(name[2])], judged, predicted)
    values = {each.query_id: each.value for each in found if each.query_id in predicted}
    return {"ids": list(values), "values": list(values.values())}


def _value(samples: Mapping) -> float:
    if "values" in samples:
        return float(np.mean(samples["values"]))
    return _metric(samples["metric"], samples["scores"], samples["gold"])


def _metric(name: str, scores: Sequence[float], gold: Sequence[float]) -> float:
    """Return the "spearman" correlation or the "average_precision" of pairs."""
    from scipy.stats import spearmanr
    from sklearn.metrics import average_precision_score

    return float(
        spearmanr(scores, gold).statistic
        if name == "spearman"
        else average_precision_score(gold, scores)
    )


def resample(
    mine: Mapping | None, theirs: Mapping | None, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Return both models' scores on the same resamples and the number of samples; None if the samples differ."""
    if not mine or not theirs:
        return None
    if "values" in mine:
        values = [dict(zip(each["ids"], each["values"], strict=True)) for each in (mine, theirs)]
        if set(values[0]) != set(values[1]) or len(values[0]) < 2:
            return None
        columns = [np.array([each[key] for key in values[0]]) for each in values]
        if not any(
            np.ptp(column) for column in columns
        ):  # experiments that all use every text have no spread
            return None
        return *bootstrap_means(columns, resamples, seed), len(columns[0])
    gold = np.asarray(mine["gold"])
    if not np.array_equal(gold, theirs["gold"]):
        return None
    rng = np.random.default_rng(seed)
    columns = [np.asarray(each["scores"]) for each in (mine, theirs)]
    pairs = np.empty((2, resamples))
    for number in range(resamples):
        draw = rng.integers(len(gold), size=len(gold))
        pairs[:, number] = [_metric(mine["metric"], column[draw], gold[draw]) for column in columns]
    return pairs[0], pairs[1], len(gold)
