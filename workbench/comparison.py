"""One student on one collection: the rows that every report shows side by side."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from sentence_transformers import SentenceTransformer

from workbench import retrieval
from workbench.cache import TargetCache
from workbench.corpora import Collection
from workbench.distill import embed
from workbench.errors import WorkbenchError

LABELS = {
    "teacher": "teacher",
    "base": "untrained base",
    "standard": "student, standard",
    "asymmetric": "student, asymmetric",
}
COLUMNS = {
    "ndcg_at_10": "nDCG@10",
    "recall_at_100": "recall@100",
    "mrr_at_10": "MRR@10",
    "share_of_teacher": "share of teacher",
}


def vectors(
    collection: Collection, cache: TargetCache, student: SentenceTransformer, base: SentenceTransformer | None = None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Embed a collection once for every mode.

    Args:
        collection: documents and queries.
        cache: holds the teacher's vectors of the collection (fill it first).
        student: embeds queries and documents.
        base: what the student started from; left out if None.

    Returns:
        Mode to its vectors of queries and of documents, float32 of shapes (q, d) and (n, d): teacher,
        base, standard, asymmetric.

    Raises:
        WorkbenchError: the student is not as wide as the teacher.
    """
    queries, documents = collection.query_texts(), collection.document_texts()
    if student.get_embedding_dimension() != cache.dimension:
        raise WorkbenchError(
            f"the student's vectors are {student.get_embedding_dimension()} wide, the teacher's {cache.dimension}: "
            "it was distilled from another teacher, or shortened since"
        )
    sides = {"teacher": (np.asarray(cache.targets(queries)), np.asarray(cache.targets(documents)))}
    if base is not None:
        sides["base"] = embed(base, queries), embed(base, documents)
    sides["standard"] = embed(student, queries), embed(student, documents)
    sides["asymmetric"] = sides["standard"][0], sides["teacher"][1]
    return sides


def scored(collection: Collection, sides: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
    """Return what `retrieval.compare` says of the modes that `vectors` embedded."""
    ids = list(collection.queries), list(collection.documents)
    return retrieval.compare({mode: retrieval.score(collection.qrels, *ids, *side) for mode, side in sides.items()})


def compare(
    collection: Collection, cache: TargetCache, base: SentenceTransformer, student: SentenceTransformer
) -> pd.DataFrame:
    """Score teacher, untrained base, student on both sides, and student on the teacher's documents.

    Args:
        collection: documents, queries and judgments.
        cache: holds the teacher's vectors of the collection (fill it first).
        base: what the student started from; it searches in a space of its own.
        student: embeds queries, and in the standard mode documents too.

    Returns:
        What `retrieval.compare` returns, for the modes teacher, base, standard and asymmetric.
    """
    return scored(collection, vectors(collection, cache, student, base))


def report(collection: Collection, rows: pd.DataFrame, curves: pd.DataFrame | None = None, **more: object) -> dict:
    """Return what was measured on a collection as JSON values: what `workbench evaluate` writes and a card reads.

    Args:
        collection: that was searched.
        rows: what `compare` returned.
        curves: what `compression.curve` returned.
        more: to be said besides.
    """
    said = {"collection": collection.name, "documents": len(collection.documents), "queries": len(collection.queries)}
    return said | more | {"rows": as_rows(rows)} | ({} if curves is None else {"curves": as_rows(curves)})


def table(rows: pd.DataFrame, labels: Mapping[str, str] = LABELS) -> str:
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


def write_json(path: str | Path, content: dict) -> Path:
    """Write a report, whole or not at all."""
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(json.dumps(content, indent=2) + "\n")
        os.replace(scratch, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise WorkbenchError(f"{path} cannot be written: {error.strerror or error}") from None
    return path
