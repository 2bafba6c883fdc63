"""Retrieval scores, and the comparison of any models on any texts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from workbench import agreement, ranking
from workbench._util import checked, home, one_of, unit
from workbench.cache import TargetCache
from workbench.data import (
    RetrievalDataset,
    Text,
    as_texts,
    checked_options,
    is_dataset,
    read_dataset,
    read_texts,
    stream_texts,
)
from workbench.errors import WorkbenchError
from workbench.models import check_cosine, encode, load_model
from workbench.passages import in_passages, reader_of
from workbench.teachers import Teacher

# Names of ir_measures, and ours.
MEASURES = {"nDCG@10": "ndcg_at_10", "R@100": "recall_at_100", "RR@10": "mrr_at_10"}
LABELS = {
    "teacher": "teacher",
    "base": "untrained base",
    "symmetric": "student, symmetric",
    "asymmetric": "student, asymmetric",
}
CAUSES = {
    "query": "the query moved",
    "relevant": "the relevant documents moved away",
    "others": "other documents moved closer",
    "together": "no single cause",
}
_LEAST_LOSS = 0.05  # of `nDCG@10`, for a query to count as served worse


def score(data: RetrievalDataset, queries: np.ndarray, documents: np.ndarray) -> pd.DataFrame:
    """Search by cosine and score every judged query (index: its id) by `ir_measures`.

    Vectors are float of shapes (q, d) and (n, d), in the order of `data`; zeros find nothing, and
    are not found. Returns `ndcg_at_10`, `recall_at_100` and `mrr_at_10` (grades of 1 and more).
    """
    return score_ranking(data, _search(data, checked_pair((queries, documents), data)))


def _search(data: RetrievalDataset, pair: tuple[np.ndarray, np.ndarray], k: int = 0) -> np.ndarray:
    """Return each query's documents, best first, at least as many as are scored; -1 for none."""
    queries, documents = pair
    exists = documents.any(axis=1)
    # One more than is scored, since a query's own document is no hit.
    depth = max(101, k)
    positions = ranking.top_k(queries, documents[exists], depth, rows=data.rows[exists])[1]
    positions[~queries.any(axis=1)] = -1
    return positions


def score_ranking(data: RetrievalDataset, positions: np.ndarray) -> pd.DataFrame:
    """Score each query's documents, positions of shape (q, k), best first; -1 stands for none.

    A document with the query's own id is no hit (BEIR's rule, for ArguAna and Quora).
    """
    import ir_measures

    ids = list(data.corpus)
    run = {}
    for query, row in zip(data.queries, positions, strict=True):
        # ir_measures orders equal scores by id. A score that falls with the rank keeps our order.
        # Backwards, because of a document that comes again only the best rank counts.
        ranks = reversed(list(enumerate(row)))
        run[query] = {
            ids[p]: float(len(row) - rank) for rank, p in ranks if p >= 0 and ids[p] != query
        }
    judgments = {}
    for query in data.queries:
        if query in data.qrels:  # grades must be Python's own integers
            judgments[query] = {id_: int(grade) for id_, grade in data.qrels[query].items()}
    measures = [ir_measures.parse_measure(name) for name in MEASURES]
    scores = {query: {} for query in judgments}
    for metric in ir_measures.iter_calc(measures, judgments, run):
        scores[metric.query_id][MEASURES[str(metric.measure)]] = metric.value
    return pd.DataFrame.from_dict(scores, orient="index", columns=list(MEASURES.values()))


def interval(values: np.ndarray, reference: np.ndarray | None = None) -> tuple[float, float]:
    """Return the 95 % interval of a mean, or of the ratio of the means of paired values.

    Student's t, for a ratio by the delta method. With 20 to 50 queries it covers 93 to 97 %, where
    the bootstrap's percentiles cover 70 to 94 (docs/measured.md). NaN for fewer than two values.
    """
    values = np.asarray(values, dtype=np.float64)
    scale, center = 1.0, values.mean()
    if reference is not None:
        scale = np.mean(reference)
        center, values = center / scale, values - center / scale * np.asarray(reference)
    if len(values) < 2 or not np.isfinite(center):
        return np.nan, np.nan
    error = values.std(ddof=1) / np.sqrt(len(values)) / scale
    width = float(stdtrit(len(values) - 1, 0.975) * error)
    return float(center) - width, float(center) + width


def summarize(scores: Mapping[str, pd.DataFrame], *, teacher: str = "teacher") -> pd.DataFrame:
    """Average what `score` returned, by mode, and compare it with the teacher's.

    Returns one row per mode: the mean of each measure, `share_of_teacher` (of mean `nDCG@10`), and
    its 95 % `interval` over queries, `share_low` to `share_high`.
    """
    reference, rows = scores[teacher]["ndcg_at_10"], []
    for mode, table in scores.items():
        ndcg = table["ndcg_at_10"]
        share = ndcg.mean() / reference.mean() if reference.mean() > 0 else np.nan
        low = high = share
        if mode != teacher and len(reference) > 1:
            with np.errstate(invalid="ignore", divide="ignore"):
                low, high = interval(ndcg, reference)
        shares = {"share_of_teacher": share, "share_low": low, "share_high": high}
        rows.append({"mode": mode, **table.mean(), **shares})
    return pd.DataFrame(rows)


def compare(
    models: Mapping[str, Any],
    data: Any,
    *,
    reference: str | None = None,
    baseline: str | None = None,
    k: int = 10,
    passages: bool = True,
    **reading: object,
) -> pd.DataFrame:
    """Compare models with a reference, on texts or on a retrieval data set.

    Args:
        models: two or more by name: a name, a folder or a loaded `SentenceTransformer`, a
            `Teacher`, a `TargetCache`, or vectors: an array for texts, a pair (queries, documents)
            for a data set.
        reference: the model with whose space the others are compared; by default the one named
            "teacher", or else the first.
        baseline: a model to compare the others with, text by text, in the same mode.
        data: texts, a file or folder of them, a `RetrievalDataset`, or a folder in BEIR's layout.
        passages: cut documents into passages that all models read whole; with vectors, never.
        reading: options of `read_texts`.

    Returns:
        On texts, a row per model with measures of `agreement.READING`; texts that a cache skips are
        left out. On a data set, a row per model and mode with the columns of `summarize`: "teacher"
        (the reference), "symmetric" (the model embeds queries and documents), "asymmetric" (its
        queries, the reference's documents) and "base" (a model of this name). `overlap` is the
        share of the reference's k nearest that is found; `nearest_rank` a median. With a baseline,
        `gain` is the mean difference to it of `overlap` or `ndcg_at_10`, `gain_low` and `gain_high`
        its 95 % `interval`.

    Example:
        >>> texts = wb.read_texts("tutorial", limit=60)
        >>> table = wb.compare({"large": "all-mpnet-base-v2", "small": "all-MiniLM-L6-v2"}, texts)
        >>> table["dimension"].tolist()
        [768, 384]
        >>> table.attrs["notes"]
        ['small has 384 dimensions and large 768: cosine and squared_distance are NaN']
    """
    checked_options(reading)
    values = models.values() if isinstance(models, Mapping) else ()
    has_vectors = any(hasattr(model, "__array__") for model in values)
    data = _read(data, reading, has_vectors)
    models = same_models(models, data)
    data, cost = cut_for(models, data, passages)
    reference = reference or ("teacher" if "teacher" in models else next(iter(models)))
    one_of(reference, "reference", list(models))
    one_of(baseline or reference, "baseline", list(models))
    embedded = {name: vectors(model, data) for name, model in models.items()}
    if isinstance(data, RetrievalDataset):
        table = _compare_searches(embedded, data, reference, baseline, k)
        consequence = "no asymmetric row"
    else:
        kept = np.ones(len(data), dtype=bool)
        for name, model in models.items():
            if isinstance(model, TargetCache):
                kept &= embedded[name].any(axis=1)
        embedded = {name: array[kept] for name, array in embedded.items()}
        table = _compare_vectors(embedded, reference, baseline, k)
        consequence = "cosine and squared_distance are NaN"
    widths = {name: rows[0].shape[-1] for name, rows in embedded.items()}  # rows, or a pair
    expected = f"dimensions and {reference} {widths[reference]}"
    others = {name: width for name, width in widths.items() if width != widths[reference]}
    notes = [f"{name} has {width} {expected}: {consequence}" for name, width in others.items()]
    table.attrs |= {"reference": reference, "notes": [*notes, *filter(None, [cost])]}
    return table


def _compare_vectors(
    embedded: dict[str, np.ndarray], reference: str, baseline: str | None, k: int
) -> pd.DataFrame:
    first, rows, overlaps = embedded[reference], [], {}
    for name, second in embedded.items():
        values = dict.fromkeys(agreement.READING, 1.0) | {"squared_distance": 0.0}
        overlaps[name] = pd.Series(np.ones(len(first)))
        if name != reference:
            table = agreement.per_text(first, second, k=k)
            overlaps[name] = table["overlap"]
            values = agreement.summary(first, second, table)["value"]
        rows.append({"model": name, "dimension": second.shape[1], **values})
    table = pd.DataFrame(rows).join(_gains(overlaps, overlaps.get(baseline)))
    table.attrs |= {"texts": len(first), "k": min(k, len(first) - 1)}
    return table


def _gains(values: Mapping[Any, pd.Series], baseline: pd.Series | None) -> pd.DataFrame:
    """Return the mean difference of paired values to a baseline's, with its interval."""
    if baseline is None:
        return pd.DataFrame(index=range(len(values)))
    gains = [column - baseline for column in values.values()]
    rows = [[gain.mean(), *interval(gain)] for gain in gains]
    return pd.DataFrame(rows, columns=["gain", "gain_low", "gain_high"])


def _compare_searches(
    embedded: Mapping[str, tuple[np.ndarray, np.ndarray]],
    data: RetrievalDataset,
    reference: str,
    baseline: str | None,
    k: int,
) -> pd.DataFrame:
    reference_documents, searches = embedded[reference][1], {}
    for name, (queries, documents) in embedded.items():
        mode = "teacher" if name == reference else "base" if name == "base" else "symmetric"
        searches[name, mode] = queries, documents
        if mode == "symmetric" and queries.shape[1] == reference_documents.shape[1]:
            searches[name, "asymmetric"] = queries, reference_documents
    hits = {row: _search(data, pair, k) for row, pair in searches.items()}
    scores = {row: score_ranking(data, positions) for row, positions in hits.items()}
    table = summarize(scores, teacher=(reference, "teacher"))
    table["mode"] = [mode for _, mode in scores]
    table.insert(0, "model", [name for name, _ in scores])
    nearest = hits[reference, "teacher"][:, :k]
    overlaps = []
    for positions in hits.values():
        found = (nearest[:, 0] >= 0) & (positions[:, 0] >= 0)  # queries that both have a vector of
        overlaps.append(agreement.overlap(nearest[found], positions[found, :k]).mean())
    table["overlap"] = overlaps
    ndcg = {row: scored["ndcg_at_10"] for row, scored in scores.items()}
    if baseline is None:
        return table
    only = [row for row in ndcg if row[0] == baseline and row[1] in ("teacher", "base")]
    gains = []
    for (name, mode), values in ndcg.items():
        other = ndcg[only[0]] if only else ndcg.get((baseline, mode), values * np.nan)
        gains.append(_gains({name: values}, other))
    return table.join(pd.concat(gains, ignore_index=True))


def same_models(models: object, data: RetrievalDataset | Sequence[Text]) -> dict[str, Any]:
    """Return two or more models by name, each `prepared`; WorkbenchError for others."""
    if not isinstance(models, Mapping) or len({str(name) for name in models}) < 2:
        raise WorkbenchError('expected 2 or more models by name, {"teacher": ..., "student": ...}')
    ready = {}
    for name, model in models.items():
        try:
            ready[str(name)] = as_model(model, data)
        except WorkbenchError as error:
            raise WorkbenchError(f"model {name!r}: {error}") from None
    return ready


def vectors(
    model: Any, data: Any, *, allow_missing: bool = False
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Embed data of `compare` with a model of it: float32 (n, d), a pair for a data set.

    A text that a cache skips has a row of zeros; with `allow_missing` it may skip any number.
    """
    data = _read(data)
    model = as_model(model, data)
    if isinstance(model, np.ndarray | tuple):
        return model
    if isinstance(data, RetrievalDataset):
        texts = [*data.query_texts(), *data.document_texts()]
        both = vectors(model, texts, allow_missing=allow_missing)
        return both[: len(data.queries)], both[len(data.queries) :]
    if not isinstance(model, TargetCache):
        return encode(model, data, progress=True)
    progress = len(data) > 1 and not allow_missing
    targets = model.embed(data, progress=progress, skip=1 if allow_missing else None)
    if len(targets) == len(data):
        return targets[:]
    array = np.zeros((len(data), model.dimension), dtype=np.float32)
    array[np.isin(model.keys(data), targets.keys)] = targets[:]
    return array


def _read(
    data: Any, reading: Mapping = {}, has_vectors: bool = False
) -> RetrievalDataset | Sequence[Text]:
    if isinstance(data, RetrievalDataset):
        return data
    if is_dataset(data):
        return read_dataset(data)
    # `read_texts` drops duplicates, and arrays have a row for each text.
    if reading or isinstance(data, str | Path | pd.DataFrame):
        return list(stream_texts(data, **reading)) if has_vectors else read_texts(data, **reading)
    return as_texts(data)


def cut_for(models: Mapping[str, Any], data: Any, wanted: bool = True) -> tuple[Any, str]:
    """Return `passages.in_passages` of data for models of `same_models`; with vectors uncut."""
    readers, has_vectors = [], False
    for model in models.values():
        if isinstance(model, np.ndarray | tuple):
            has_vectors = True
        elif isinstance(model, TargetCache):
            readers.append(model.teacher.reader)
        else:
            readers.append(reader_of(model))
    return in_passages(data, readers, wanted and not has_vectors)


def as_model(model: Any, data: RetrievalDataset | Sequence[Text]) -> Any:
    """Return a loaded model, a cache, or checked vectors of the data; nothing is embedded."""
    if isinstance(model, Teacher):
        return TargetCache(home() / "cache", model)
    if isinstance(model, TargetCache):
        return model
    if not (isinstance(model, list | tuple) or hasattr(model, "__array__")):
        model = load_model(model)
        check_cosine(model)
        return model
    if isinstance(data, RetrievalDataset):
        return checked_pair(model, data)
    array = checked(model, "vectors")
    if len(array) != len(data):
        raise WorkbenchError(f"{len(array):,} vectors of {len(data):,} texts: give one for each")
    return array


def checked_pair(pair: Any, data: RetrievalDataset) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors of queries and documents as float32; WorkbenchError if of other data."""
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise WorkbenchError("expected a pair: vectors of queries and of documents")
    queries, documents = checked(pair[0], "queries"), checked(pair[1], "documents")
    counts = len(data.queries), len(data.rows)
    if (len(queries), len(documents)) != counts or queries.shape[1] != documents.shape[1]:
        expected = f"{counts[0]:,} queries and {counts[1]:,} documents of one width"
        shapes = f"{queries.shape} and {documents.shape}"
        raise WorkbenchError(f"vectors of shapes {shapes}: expected {expected}")
    return queries, documents


def failures(
    dataset: RetrievalDataset,
    teacher: tuple[np.ndarray, np.ndarray],
    student: tuple[np.ndarray, np.ndarray],
    *,
    scores: tuple[pd.Series, pd.Series] | None = None,
) -> pd.DataFrame:
    """Say of each judged query that the student serves worse what went wrong.

    One at a time, the student gets the teacher's vectors of the query, of the relevant documents
    and of all others. What restores most of the `nDCG@10`, and a fifth at least, is the cause.
    Models are vectors of queries and documents, equally wide, `scores` their `nDCG@10`. Returns a
    row a query (index: its id), greatest `loss` first: what each cause restores, `cause`, `text`.
    """
    teacher, student = checked_pair(teacher, dataset), checked_pair(student, dataset)
    if scores is None:
        scores = tuple(score(dataset, *pair)["ndcg_at_10"] for pair in (teacher, student))
    loss = scores[0] - scores[1]
    failing = loss[loss >= _LEAST_LOSS].sort_values(ascending=False, kind="stable")
    (tq, td), (sq, sd) = map(unit, teacher), map(unit, student)

    def cosines(documents: np.ndarray, query: np.ndarray) -> np.ndarray:
        return ranking.best((documents @ query)[None], dataset.rows)[0]

    query_rows = {name: row for row, name in enumerate(dataset.queries)}
    restored = {cause: np.full((len(sq), 11), -1) for cause in ("query", "relevant", "others")}
    for name in failing.index:
        row, grades = query_rows[name], dataset.qrels[name]
        relevant = np.array([grades.get(document, 0) > 0 for document in dataset.corpus])
        by_student, by_teacher = cosines(sd, sq[row]), cosines(td, sq[row])
        variants = {
            "query": cosines(sd, tq[row]),
            "relevant": np.where(relevant, by_teacher, by_student),
            "others": np.where(relevant, by_student, by_teacher),
        }
        for cause, scores_of in variants.items():
            positions = np.arange(len(relevant))[None]
            best = ranking.order(scores_of[None], positions, 11)[1][0]
            restored[cause][row, : len(best)] = best
    table = pd.DataFrame({"loss": failing})
    for cause, positions in restored.items():
        gain = score_ranking(dataset, positions)["ndcg_at_10"] - scores[1]
        table[cause] = gain.reindex(failing.index)
    gains = table[list(restored)]
    enough = gains.max(axis=1) >= table["loss"] / 5
    table["cause"] = gains.idxmax(axis=1).where(enough, "together") if len(table) else ""
    table["text"] = [dataset.queries[name] for name in table.index]
    return table.rename_axis("query_id")


def report(dataset: RetrievalDataset, rows: pd.DataFrame, **more: object) -> dict:
    """Return what `compare` says of a data set, and `more`, as JSON values."""
    counts = {"documents": len(dataset.corpus), "queries": len(dataset.queries)}
    return {"collection": dataset.name, **counts, **more, "rows": as_rows(rows)}


def format_table(rows: pd.DataFrame) -> str:
    """Format what `compare` says of a data set for a terminal."""
    by_name = rows["mode"].isin(["teacher", "base"])
    shown = pd.DataFrame({"": rows["model"].where(by_name, rows["model"] + ", " + rows["mode"])})
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
