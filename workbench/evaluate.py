"""Scores, and the four rows every comparison shows. Arrays in, dataframes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ir_measures
import numpy as np
import pandas as pd
from ir_measures import RR, R, nDCG
from sentence_transformers import SentenceTransformer

from workbench import ranking
from workbench.cache import TargetCache
from workbench.data import RetrievalDataset
from workbench.errors import WorkbenchError
from workbench.models import encode

# Measure and its column, as trec_eval computes them (recall and MRR count grades of 1 and more).
MEASURES = {nDCG @ 10: "ndcg_at_10", R @ 100: "recall_at_100", RR @ 10: "mrr_at_10"}
_DEPTH = 100


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
    return score_ranking(qrels, query_ids, document_ids, ranking.top_k(queries, documents, _DEPTH)[1])


def score_ranking(
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


def summarize(
    scores: Mapping[str, pd.DataFrame], *, teacher: str = "teacher", resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Summarize per-query scores beside the teacher's.

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


LABELS = {
    "teacher": "teacher",
    "base": "untrained base",
    "symmetric": "student, symmetric",
    "asymmetric": "student, asymmetric",
}
COLUMNS = {
    "ndcg_at_10": "nDCG@10",
    "recall_at_100": "recall@100",
    "mrr_at_10": "MRR@10",
    "share_of_teacher": "share of teacher",
}


def mode_vectors(
    collection: RetrievalDataset,
    cache: TargetCache,
    student: SentenceTransformer,
    base: SentenceTransformer | None = None,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Embed a collection once for every mode.

    Args:
        collection: documents and queries.
        cache: holds the teacher's vectors of the collection (fill it first).
        student: embeds queries and documents.
        base: what the student started from; left out if None.

    Returns:
        Mode to its vectors of queries and of documents, float32 of shapes (q, d) and (n, d): teacher,
        base, symmetric, asymmetric.

    Raises:
        WorkbenchError: the student is not as wide as the teacher.
    """
    queries, documents = collection.query_texts(), collection.document_texts()
    if student.get_embedding_dimension() != cache.dimension:
        raise WorkbenchError(
            f"the student's vectors are {student.get_embedding_dimension()} wide, the teacher's {cache.dimension}: "
            "it was distilled from another teacher, or truncated since"
        )
    sides = {"teacher": (np.asarray(cache.targets(queries)), np.asarray(cache.targets(documents)))}
    if base is not None:
        sides["base"] = encode(base, queries), encode(base, documents)
    sides["symmetric"] = encode(student, queries), encode(student, documents)
    sides["asymmetric"] = sides["symmetric"][0], sides["teacher"][1]
    return sides


def score_modes(collection: RetrievalDataset, sides: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
    """Return what `evaluate.summarize` says of the modes that `vectors` embedded."""
    ids = list(collection.queries), list(collection.corpus)
    return summarize({mode: score(collection.qrels, *ids, *side) for mode, side in sides.items()})


def compare_modes(
    collection: RetrievalDataset, cache: TargetCache, base: SentenceTransformer, student: SentenceTransformer
) -> pd.DataFrame:
    """Score teacher, untrained base, student on both sides, and student on the teacher's documents.

    Args:
        collection: documents, queries and judgments.
        cache: holds the teacher's vectors of the collection (fill it first).
        base: what the student started from; it searches in a space of its own.
        student: embeds queries, and in the symmetric mode documents too.

    Returns:
        What `evaluate.summarize` returns, for the modes teacher, base, symmetric and asymmetric.
    """
    return score_modes(collection, mode_vectors(collection, cache, student, base))


def report(
    collection: RetrievalDataset, rows: pd.DataFrame, curves: pd.DataFrame | None = None, **more: object
) -> dict:
    """Return what was measured on a collection as JSON values: what `workbench evaluate` writes and a card reads.

    Args:
        collection: that was searched.
        rows: what `compare` returned.
        curves: what `quantize.sweep` returned.
        more: to be said besides.
    """
    said = {"collection": collection.name, "documents": len(collection.corpus), "queries": len(collection.queries)}
    return said | more | {"rows": as_rows(rows)} | ({} if curves is None else {"curves": as_rows(curves)})


def format_table(rows: pd.DataFrame, labels: Mapping[str, str] = LABELS) -> str:
    """Format rows for a terminal, shares with their 95 % interval."""
    shown = pd.DataFrame({"": [labels.get(mode, mode) for mode in rows["mode"]]})
    for column, title in COLUMNS.items():
        shown[title] = [f"{value:.3f}" if column != "share_of_teacher" else f"{value:.1%}" for value in rows[column]]
    shown["95 % interval"] = [
        "" if low == high else f"{low:.1%} to {high:.1%}"
        for low, high in zip(rows["share_low"], rows["share_high"], strict=True)
    ]
    return shown.to_string(index=False)


def as_rows(rows: pd.DataFrame) -> list[dict]:
    """Return rows as JSON values; what is not defined (a share of nothing) is null."""
    return [{name: _json(value) for name, value in row.items()} for row in rows.to_dict("records")]


def _json(value: object) -> object:
    if isinstance(value, str | bool | int):
        return value
    return round(float(value), 6) if np.isfinite(value) else None
