"""Exact search, scores, and the four rows every comparison shows. Arrays in, dataframes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ir_measures
import numpy as np
import pandas as pd
from ir_measures import RR, R, nDCG

from workbench.errors import WorkbenchError
from workbench.vectors import unit

# Measure and its column, as trec_eval computes them (recall and MRR count grades of 1 and more).
MEASURES = {nDCG @ 10: "ndcg_at_10", R @ 100: "recall_at_100", RR @ 10: "mrr_at_10"}
_DEPTH = 100
_BLOCK_SCORES = 50_000_000  # scores held at once, 200 MB


def search(queries: np.ndarray, documents: np.ndarray, k: int = _DEPTH) -> tuple[np.ndarray, np.ndarray]:
    """Find the k documents with the highest cosine for each query, exactly.

    Args:
        queries: float of shape (q, d).
        documents: float of shape (n, d).
        k: how many to return; n if that is less.

    Returns:
        Scores (float32) and document positions (int64), both of shape (q, min(k, n)), best first;
        equal scores are in the order of the documents.

    Raises:
        WorkbenchError: widths differ, there is nothing to search, or a vector has NaN.
    """
    queries, documents = unit(queries, "queries"), unit(documents, "documents")
    if queries.shape[1] != documents.shape[1]:
        raise WorkbenchError(
            f"queries are {queries.shape[1]} wide and documents {documents.shape[1]}: they are not in one space"
        )
    if k < 1:
        raise WorkbenchError(f"k is {k}; at least 1 is needed")
    k = min(k, len(documents))
    scores = np.empty((len(queries), k), dtype=np.float32)
    positions = np.empty((len(queries), k), dtype=np.int64)
    block = max(1, _BLOCK_SCORES // len(documents))
    for start in range(0, len(queries), block):
        all_scores = queries[start : start + block] @ documents.T
        keys = _ranking_keys(all_scores)
        top = np.argpartition(keys, len(documents) - k, axis=1)[:, len(documents) - k :]
        order = np.argsort(-np.take_along_axis(keys, top, axis=1), axis=1)
        top = np.take_along_axis(top, order, axis=1)
        positions[start : start + block] = top
        scores[start : start + block] = np.take_along_axis(all_scores, top, axis=1)
    return scores, positions


def score(
    qrels: Mapping[str, Mapping[str, int]],
    query_ids: Sequence[str],
    document_ids: Sequence[str],
    queries: np.ndarray,
    documents: np.ndarray,
) -> pd.DataFrame:
    """Search and score every judged query.

    Args:
        qrels: query id to document id to grade.
        query_ids: ids of the rows of `queries`.
        document_ids: ids of the rows of `documents`.
        queries: float of shape (q, d).
        documents: float of shape (n, d).

    Returns:
        One row a query (index: query id) with `ndcg_at_10`, `recall_at_100` and `mrr_at_10`,
        fractions from 0 to 1, by `ir_measures`. Queries are ranked among all documents.
    """
    if len(query_ids) != len(queries) or len(document_ids) != len(documents):
        raise WorkbenchError("ids and vectors are out of step: one id for each row is needed")
    return judged(qrels, query_ids, document_ids, search(queries, documents)[1])


def judged(
    qrels: Mapping[str, Mapping[str, int]], query_ids: Sequence[str], document_ids: Sequence[str], positions: np.ndarray
) -> pd.DataFrame:
    """Score results that some search has found.

    Args:
        qrels: query id to document id to grade.
        query_ids: ids of the rows of `positions`.
        document_ids: ids of all documents.
        positions: int of shape (q, k), positions of documents, best first.

    Returns:
        As `score`.
    """
    # Measures order equal scores by id; a falling rank keeps the order of the search instead.
    run = {
        query: {document_ids[p]: float(len(found) - rank) for rank, p in enumerate(found)}
        for query, found in zip(query_ids, positions, strict=True)
    }
    rows: dict[str, dict[str, float]] = {query: {} for query in query_ids if query in qrels}
    for value in ir_measures.iter_calc(list(MEASURES), {q: dict(qrels[q]) for q in rows}, run):
        rows[value.query_id][MEASURES[value.measure]] = value.value
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(MEASURES.values()))


def compare(
    scores: Mapping[str, pd.DataFrame], *, teacher: str = "teacher", resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Summarise per-query scores beside the teacher's.

    Args:
        scores: mode to what `score` returned for it, all on the same queries.
        teacher: the mode that the others are measured against.
        resamples: bootstrap resamples of the queries.
        seed: of the resampling.

    Returns:
        One row a mode: the mean of each measure, `share_of_teacher` (ratio of mean nDCG@10), and
        its 95 % interval `share_low` to `share_high` by the paired percentile bootstrap over queries
        (Efron and Tibshirani, 1993), in which one draw of queries serves both models.
    """
    from scipy.stats import bootstrap

    base = scores[teacher]["ndcg_at_10"]
    rows = []
    for mode, table in scores.items():
        if not table.index.equals(base.index):
            raise WorkbenchError(f"mode {mode!r} was scored on other queries than {teacher!r}")
        mine = table["ndcg_at_10"]
        row = {
            "mode": mode,
            **table.mean().to_dict(),
            "share_of_teacher": np.nan,
            "share_low": np.nan,
            "share_high": np.nan,
        }
        if base.mean() > 0:
            row["share_of_teacher"] = mine.mean() / base.mean()
            if mode == teacher or len(base) < 2:
                row["share_low"] = row["share_high"] = row["share_of_teacher"]
            else:
                with np.errstate(invalid="ignore", divide="ignore"):
                    interval = bootstrap(
                        (mine.to_numpy(), base.to_numpy()),
                        lambda a, b, axis: a.mean(axis=axis) / b.mean(axis=axis),
                        paired=True,
                        vectorized=True,
                        n_resamples=resamples,
                        method="percentile",
                        rng=np.random.default_rng(seed),
                        batch=256,
                    ).confidence_interval
                row["share_low"], row["share_high"] = interval.low, interval.high
        rows.append(row)
    return pd.DataFrame(rows)


def _ranking_keys(scores: np.ndarray) -> np.ndarray:
    """Return int64 keys that order as the scores do, and equal scores by their position."""
    bits = (scores + np.float32(0)).view(np.int32)  # adding zero turns -0 into 0
    rising = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits).astype(np.int64)
    return (rising << 32) - np.arange(scores.shape[1])
