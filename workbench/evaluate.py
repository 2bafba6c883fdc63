"""Scores, and the comparison of any models on any texts. Arrays in, dataframes out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench import agreement, ranking
from workbench._util import checked, home, whole
from workbench.cache import TargetCache
from workbench.data import RetrievalDataset, Text, as_texts, is_dataset, read_dataset, read_texts
from workbench.errors import WorkbenchError
from workbench.models import encode, load_model
from workbench.teachers import Teacher

# The name of ir_measures to ours.
MEASURES = {"nDCG@10": "ndcg_at_10", "R@100": "recall_at_100", "RR@10": "mrr_at_10"}
LABELS = {
    "teacher": "teacher",
    "base": "untrained base",
    "symmetric": "student, symmetric",
    "asymmetric": "student, asymmetric",
}
_DEPTH = 100
_AGREEMENT = ["cosine", "squared_distance", "overlap", "rank_correlation", "cka"]


def score(data: RetrievalDataset, queries: np.ndarray, documents: np.ndarray) -> pd.DataFrame:
    """Search by cosine and score every judged query.

    Args:
        data: ids and judgments.
        queries: float of shape (q, d), in the order of `data.queries`.
        documents: float of shape (n, d), in the order of `data.corpus`.

    Returns:
        One row per query (index: query id) with `ndcg_at_10`, `recall_at_100` and `mrr_at_10`, from
        0 to 1, computed by `ir_measures` as trec_eval does. Recall and MRR count grades of 1 and
        more. A vector of zeros stands for none: it is not found, and finds nothing.

    Raises:
        WorkbenchError: texts and vectors differ in number, or the vectors cannot be searched.
    """
    queries, documents = checked_pair((queries, documents), data)
    rows = np.flatnonzero(documents.any(axis=1))
    positions = rows[ranking.top_k(queries, documents[rows], _DEPTH)[1]]
    positions[~queries.any(axis=1)] = -1
    return score_ranking(data, positions)


def score_ranking(data: RetrievalDataset, positions: np.ndarray) -> pd.DataFrame:
    """Score any search as `score` does.

    `positions` are those of each query's documents, best first, int of shape (q, k); -1 for none.
    """
    import ir_measures

    ids = list(data.corpus)
    run = {}
    for query, row in zip(data.queries, positions, strict=True):
        # ir_measures orders equal scores by id. A score that falls with the rank keeps our order.
        run[query] = {ids[p]: float(len(row) - rank) for rank, p in enumerate(row) if p >= 0}
    judgments = {}
    for query in data.queries:
        if query in data.qrels:  # grades must be Python's own integers
            judgments[query] = {id_: int(grade) for id_, grade in data.qrels[query].items()}
    measures = [ir_measures.parse_measure(name) for name in MEASURES]
    scores: dict[str, dict[str, float]] = {query: {} for query in judgments}
    for metric in ir_measures.iter_calc(measures, judgments, run):
        scores[metric.query_id][MEASURES[str(metric.measure)]] = metric.value
    return pd.DataFrame.from_dict(scores, orient="index", columns=list(MEASURES.values()))


def bootstrap_means(
    columns: Sequence[np.ndarray], resamples: int = 2000, seed: int = 0
) -> np.ndarray:
    """Return the means of m columns on the same bootstrap resamples of their rows, (m, resamples).

    The `interval` of a difference or a ratio of two of the means is that of the paired percentile
    bootstrap (Efron and Tibshirani, 1993). Row i of each column belongs to the same query or text.
    """
    columns = np.stack([np.asarray(column, dtype=np.float64) for column in columns])
    rng, count = np.random.default_rng(seed), columns.shape[1]
    means = np.empty((len(columns), resamples))
    batch = max(1, 4_000_000 // count)
    for start in range(0, resamples, batch):
        draws = rng.integers(0, count, (min(batch, resamples - start), count))
        means[:, start : start + len(draws)] = columns[:, draws].mean(axis=2)
    return means


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 2.5 % and the 97.5 % quantile of values; NaN if one of them is not finite."""
    if not np.isfinite(values).all():
        return np.nan, np.nan
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def summarize(scores: Mapping[str, pd.DataFrame], *, teacher: str = "teacher") -> pd.DataFrame:
    """Average scores per query, and compare them with the teacher's.

    Args:
        scores: mode to the result of `score`, all on the same queries.
        teacher: the mode that the others are compared with.

    Returns:
        One row per mode: the mean of each measure, `share_of_teacher` (ratio of mean `nDCG@10`),
        and its 95 % interval `share_low` to `share_high` by `bootstrap_means` over queries. All
        three are NaN if the teacher's mean is 0; the interval also if it is 0 on some resample.

    Raises:
        WorkbenchError: a mode was scored on other queries than the teacher.
    """
    reference, rows = scores[teacher]["ndcg_at_10"], []
    for mode, table in scores.items():
        ndcg = table["ndcg_at_10"]
        if not ndcg.index.equals(reference.index):
            raise WorkbenchError(f"mode {mode!r} was scored on other queries than {teacher!r}")
        share = ndcg.mean() / reference.mean() if reference.mean() > 0 else np.nan
        low = high = share
        if mode != teacher and len(reference) > 1:
            with np.errstate(invalid="ignore", divide="ignore"):
                low, high = interval(np.divide(*bootstrap_means([ndcg, reference])))
        shares = {"share_of_teacher": share, "share_low": low, "share_high": high}
        rows.append({"mode": mode, **table.mean(), **shares})
    return pd.DataFrame(rows)


def compare(
    models: Mapping[str, Any], data: Any, *, reference: str | None = None, k: int = 10
) -> pd.DataFrame:
    """Compare models with a reference, on texts or on a retrieval data set.

    Args:
        models: name to model, at least two. A model is a name, a folder or a loaded
            `SentenceTransformer`; a `Teacher`, whose vectors are kept in a cache; a `TargetCache`;
            or vectors, an array for texts and a pair (queries, documents) for a data set.
        data: texts, a file or folder of them, a `RetrievalDataset`, or a folder in BEIR's layout.
            A student looks too good on texts that it was trained on.
        reference: what the others are compared with: "teacher", or else the first, if None.
        k: neighbors to compare on texts.

    Returns:
        On texts, one row per model: `model`, `dimension`, and its agreement with the reference:
        `cosine`, `squared_distance`, `overlap`, `rank_correlation` and `cka`. `attrs["reading"]`
        says how to read each, and `attrs["notes"]` why a value is NaN or a row is missing.

        On a data set, one row per model and mode: `model`, `mode` and the columns of `summarize`.
        The modes are "teacher" (the reference), "symmetric" (the model embeds queries and
        documents) and "asymmetric" (its queries, the reference's documents, if equally wide). A
        model named "base" has one row of mode "base".

    Raises:
        WorkbenchError: there are fewer than two models or texts, a model or the data cannot be
            read, or vectors and texts differ in number; before anything is embedded.

    Example:
        >>> import workbench as wb
        >>> texts = wb.read_texts("tutorial", limit=60)
        >>> table = wb.compare({"large": "all-mpnet-base-v2", "small": "all-MiniLM-L6-v2"}, texts)
        >>> table["dimension"].tolist()
        [768, 384]
        >>> table.attrs["notes"]
        ['small has 384 dimensions and large 768: cosine and squared_distance are NaN']
    """
    whole(k, "k")
    data = _read(data)
    models = same_models(models, data)
    if reference is None:
        reference = "teacher" if "teacher" in models else next(iter(models))
    if reference not in models:
        raise WorkbenchError(f"reference {reference!r} is not among {', '.join(models)}")
    if isinstance(data, RetrievalDataset):
        return compare_retrieval(models, data, reference)
    return compare_texts(models, data, reference, k)


def compare_texts(
    models: Mapping[str, Any], texts: Sequence[Text], reference: str, k: int
) -> pd.DataFrame:
    """Compare models, as `same_models` returns them, on texts; see `compare`."""
    if len(texts) < 2:
        raise WorkbenchError("agreement is about how texts lie to each other: give 2 at least")
    embedded = {name: vectors(model, texts) for name, model in models.items()}
    notes = _width_notes(embedded, reference, "cosine and squared_distance are NaN")
    kept = np.ones(len(texts), dtype=bool)
    for name, model in models.items():
        has_vector = embedded[name].any(axis=1)
        if isinstance(model, TargetCache) and not has_vector.all():
            missing = f"{name} has no vector of {(~has_vector).sum():,} of the texts"
            notes.append(f"{missing}: they are left out for all models")
            kept &= has_vector
    first, rows = embedded[reference][kept], []
    for name in models:
        second = embedded[name][kept]
        values = dict.fromkeys(_AGREEMENT, 1.0) | {"squared_distance": 0.0}
        if name != reference:
            table = agreement.per_text(first, second, k=k)
            values = table[_AGREEMENT[:3]].mean().to_dict()
            values["rank_correlation"] = agreement.rank_correlation(first, second)
            values["cka"] = agreement.cka(first, second)
        rows.append({"model": name, "dimension": second.shape[1], **values})
        for measure in ("rank_correlation", "cka"):
            if np.isnan(values[measure]):
                notes.append(f"{name}: {measure} is NaN: too few texts, or all are equally similar")
    reading = {name: agreement.READING[name] for name in _AGREEMENT}
    counts = {"texts": len(first), "k": min(k, len(first) - 1)}
    table = pd.DataFrame(rows)
    table.attrs |= {"reference": reference, "notes": notes, "reading": reading, **counts}
    return table


def compare_retrieval(
    models: Mapping[str, Any], data: RetrievalDataset, reference: str
) -> pd.DataFrame:
    """Compare models, as `same_models` returns them, on a data set; see `compare`."""
    embedded = {name: vectors(model, data) for name, model in models.items()}
    query_vectors = {name: queries for name, (queries, _) in embedded.items()}
    notes = _width_notes(query_vectors, reference, "no asymmetric row")
    reference_documents, sides = embedded[reference][1], {}
    for name, (queries, documents) in embedded.items():
        mode = "teacher" if name == reference else "base" if name == "base" else "symmetric"
        sides[name, mode] = queries, documents
        if mode == "symmetric" and queries.shape[1] == reference_documents.shape[1]:
            sides[name, "asymmetric"] = queries, reference_documents
        for kind, side in (("queries", queries), ("documents", documents)):
            if missing := (~side.any(axis=1)).sum():
                notes.append(f"{name} has no vector of {missing:,} of the {kind}: no hits there")
    scores = {key: score(data, *pair) for key, pair in sides.items()}
    table = summarize(scores, teacher=(reference, "teacher"))
    if table["share_of_teacher"].isna().all():
        notes.append(f"the nDCG@10 of {reference} is 0, or nothing is judged: shares are NaN")
    table["mode"] = [mode for _, mode in sides]
    table.insert(0, "model", [name for name, _ in sides])
    counts = {"queries": len(scores[reference, "teacher"]), "documents": len(data.corpus)}
    table.attrs |= {"reference": reference, "notes": notes, "dataset": data.name, **counts}
    return table


def _width_notes(embedded: Mapping[str, np.ndarray], reference: str, consequence: str) -> list[str]:
    width = embedded[reference].shape[1]
    return [
        f"{name} has {array.shape[1]} dimensions and {reference} {width}: {consequence}"
        for name, array in embedded.items()
        if array.shape[1] != width
    ]


def same_models(models: object, data: RetrievalDataset | Sequence[Text]) -> dict[str, Any]:
    """Return two or more models by name, each as `prepared` does; WorkbenchError for others."""
    if not isinstance(models, Mapping) or len({str(name) for name in models}) < 2:
        raise WorkbenchError('expected 2 or more models by name, {"teacher": ..., "student": ...}')
    ready = {}
    for name, model in models.items():
        try:
            ready[str(name)] = prepared(model, data)
        except WorkbenchError as error:
            raise WorkbenchError(f"model {name!r}: {error}") from None
    return ready


def vectors(
    model: Any, data: Any, *, filled: bool = False
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Embed any data that `compare` takes with any model that it takes.

    Args:
        model, data: as for `compare`.
        filled: a cache has just been filled with the data, so any number of texts may be missing.

    Returns:
        float32 of shape (n, d) for texts; a pair for a data set, of its queries and documents. What
        a cache lacks is encoded and kept; a text that its fill skips has a row of zeros.
    """
    data = _read(data)
    model = prepared(model, data)
    if isinstance(model, np.ndarray | tuple):
        return model
    if isinstance(data, RetrievalDataset):
        both = vectors(model, data.query_texts() + data.document_texts(), filled=filled)
        return both[: len(data.queries)], both[len(data.queries) :]
    if not isinstance(model, TargetCache):
        return encode(model, data, progress=True)
    progress = len(data) > 1 and not filled
    targets = model.embed(data, progress=progress, skip=1 if filled else None)
    if len(targets) == len(data):
        return targets[:]
    array = np.zeros((len(data), model.dimension), dtype=np.float32)
    array[np.isin(model.keys(data), targets.keys)] = targets[:]
    return array


def _read(data: Any) -> RetrievalDataset | Sequence[Text]:
    if isinstance(data, RetrievalDataset):
        return data
    if is_dataset(data):
        return read_dataset(data)
    # Sequences are not read: `read_texts` drops duplicates, and arrays have a row for each text.
    return read_texts(data) if isinstance(data, str | Path | pd.DataFrame) else as_texts(data)


def prepared(model: Any, data: RetrievalDataset | Sequence[Text]) -> Any:
    """Return a loaded model, a cache, or checked vectors of the data; nothing is embedded."""
    if isinstance(model, Teacher):
        return TargetCache(home() / "cache", model)
    if isinstance(model, TargetCache):
        return model
    if not (isinstance(model, list | tuple) or hasattr(model, "__array__")):
        return load_model(model)
    if not isinstance(data, RetrievalDataset):
        return _checked_rows(model, len(data), "texts")
    return checked_pair(model, data)


def checked_pair(pair: Any, data: RetrievalDataset) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors of queries and documents as float32; WorkbenchError if of other data."""
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise WorkbenchError("expected a pair for a data set: vectors of queries and of documents")
    queries = _checked_rows(pair[0], len(data.queries), "queries")
    documents = _checked_rows(pair[1], len(data.corpus), "documents")
    if queries.shape[1] != documents.shape[1]:
        raise WorkbenchError(
            f"queries are {queries.shape[1]} wide and documents {documents.shape[1]}"
        )
    return queries, documents


def _checked_rows(array: Any, count: int, what: str) -> np.ndarray:
    array = checked(array, what)
    if len(array) != count:
        raise WorkbenchError(f"{len(array):,} vectors of {count:,} {what}: give one for each")
    return array


def report(
    dataset: RetrievalDataset,
    rows: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    **more: object,
) -> dict:
    """Return the results of `compare` and of `quantize.sweep` on a data set as JSON values."""
    counts = {"documents": len(dataset.corpus), "queries": len(dataset.queries)}
    values = {"collection": dataset.name, **counts, **more, "rows": as_rows(rows)}
    return values if curves is None else values | {"curves": as_rows(curves)}


def format_table(rows: pd.DataFrame) -> str:
    """Format rows of `compare` on a data set, or of `summarize`, for a terminal."""
    labels = rows["mode"].replace(LABELS)
    if "model" in rows:
        named = rows["model"].where(rows["mode"] == "teacher", rows["model"] + ", " + rows["mode"])
        labels = labels.where(rows["mode"] == "base", named)
    shown = pd.DataFrame({"": labels})
    titles = "nDCG@10", "recall@100", "MRR@10"
    for title, column in zip(titles, MEASURES.values(), strict=True):
        shown[title] = rows[column].map("{:.3f}".format)
    shown["share of teacher"] = rows["share_of_teacher"].map("{:.1%}".format)
    low, high = rows["share_low"].map("{:.1%}".format), rows["share_high"].map("{:.1%}".format)
    shown["95 % interval"] = (low + " to " + high).mask(rows["share_low"] == rows["share_high"], "")
    return shown.to_string(index=False)


def as_rows(rows: pd.DataFrame) -> list[dict]:
    """Return rows as JSON values, rounded to 6 decimals; NaN and infinity are null."""
    return json.loads(rows.to_json(orient="records", double_precision=6))
