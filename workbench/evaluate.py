"""Scores, and the comparison of any models on any texts. Arrays in, dataframes out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from workbench import agreement, ranking
from workbench._util import checked, counted, home, whole
from workbench.cache import TargetCache
from workbench.data import RetrievalDataset, Text, as_texts, is_dataset, read_dataset, read_texts
from workbench.errors import WorkbenchError
from workbench.models import BAR_AFTER, encode, load_model
from workbench.teachers import Teacher

MEASURES = {
    "nDCG@10": "ndcg_at_10",
    "R@100": "recall_at_100",
    "RR@10": "mrr_at_10",
}  # ir_measures' name to column
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
_DEPTH = 100
_AGREEMENT = ("cosine", "squared_distance", "overlap", "rank_correlation", "cka")


def score(data: RetrievalDataset, queries: np.ndarray, documents: np.ndarray) -> pd.DataFrame:
    """Search by cosine and score every judged query.

    Args:
        data: ids and judgments.
        queries: float of shape (q, d), in the order of `data.queries`.
        documents: float of shape (n, d), in the order of `data.corpus`.

    Returns:
        One row per query (index: query id) with `ndcg_at_10`, `recall_at_100` and `mrr_at_10`, from 0 to 1, computed
        by `ir_measures` as trec_eval does. Each query is ranked among all documents. Recall and MRR count grades of
        1 and more. A vector of zeros stands for none: no query finds such a document, and such a query finds nothing.

    Raises:
        WorkbenchError: texts and vectors differ in number, or the vectors cannot be searched (see `ranking.top_k`).
    """
    queries, documents = checked_pair((queries, documents), data)
    has = documents.any(
        axis=1
    )  # a row of zeros has no direction: nothing finds it, and it finds nothing
    if has.all() and queries.any(axis=1).all():
        return score_ranking(data, ranking.top_k(queries, documents, _DEPTH)[1])
    found = (
        np.flatnonzero(has)[ranking.top_k(queries, documents[has], _DEPTH)[1]]
        if has.any()
        else np.empty((len(queries), 0))
    )
    return score_ranking(data, np.where(queries.any(axis=1, keepdims=True), found, -1))


def score_ranking(data: RetrievalDataset, positions: np.ndarray) -> pd.DataFrame:
    """Score the results of any search as `score` does: int positions of documents, best first, (q, k), -1 for none."""
    import ir_measures

    # ir_measures orders equal scores by id. A score that falls with the rank keeps the order of the search.
    ids = list(data.corpus)
    run = {
        query: {ids[p]: float(len(found) - rank) for rank, p in enumerate(found) if p >= 0}
        for query, found in zip(data.queries, positions, strict=True)
    }
    # It takes grades of Python's own type only.
    judged = {
        q: {d: int(grade) for d, grade in data.qrels[q].items()}
        for q in data.queries
        if q in data.qrels
    }
    rows: dict[str, dict[str, float]] = {query: {} for query in judged}
    measures = [ir_measures.parse_measure(name) for name in MEASURES]
    for value in ir_measures.iter_calc(measures, judged, run):
        rows[value.query_id][MEASURES[str(value.measure)]] = value.value
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(MEASURES.values()))


def bootstrap_means(
    columns: Sequence[np.ndarray], resamples: int = 2000, seed: int = 0
) -> np.ndarray:
    """Return the means of paired columns on the same bootstrap resamples of their rows.

    The 2.5 % and 97.5 % quantiles of a difference or a ratio of two of the means are its 95 % interval by the paired
    percentile bootstrap (Efron and Tibshirani, 1993).

    Args:
        columns: m arrays of shape (n,); row i of each belongs to the same query or text.

    Returns:
        float64 of shape (m, resamples).
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
    """Return the 2.5 % and the 97.5 % quantile of resampled values; NaN if one of them is not defined or infinite."""
    if not np.isfinite(values).all():
        return np.nan, np.nan
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def summarize(
    scores: Mapping[str, pd.DataFrame], *, teacher: str = "teacher", seed: int = 0
) -> pd.DataFrame:
    """Average scores per query, and compare them with the teacher's.

    Args:
        scores: mode to the result of `score`, all on the same queries.
        teacher: the mode that the others are compared with.

    Returns:
        One row per mode: the mean of each measure, `share_of_teacher` (ratio of mean `nDCG@10`), and its 95 % interval
        `share_low` to `share_high` by `bootstrap_means` over queries. All three are NaN if the teacher's mean is 0; the
        interval also if it is 0 on some resample, as it is where few queries have a score.

    Raises:
        WorkbenchError: a mode was scored on other queries than the teacher.
    """
    base, rows = scores[teacher]["ndcg_at_10"], []
    for mode, table in scores.items():
        if not table.index.equals(base.index):
            raise WorkbenchError(f"mode {mode!r} was scored on other queries than {teacher!r}")
        low = high = share = table["ndcg_at_10"].mean() / base.mean() if base.mean() > 0 else np.nan
        if base.mean() > 0 and mode != teacher and len(base) > 1:
            with np.errstate(invalid="ignore", divide="ignore"):
                low, high = interval(
                    np.divide(*bootstrap_means([table["ndcg_at_10"], base], seed=seed))
                )
        figures = {"share_of_teacher": share, "share_low": low, "share_high": high}
        rows.append({"mode": mode, **table.mean().to_dict(), **figures})
    return pd.DataFrame(rows)


def compare(
    models: Mapping[str, Any],
    data: Any,
    *,
    reference: str | None = None,
    k: int = 10,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare models with a reference, on texts or on a retrieval data set.

    Args:
        models: name to model, at least two. A model is a name, a folder or a loaded `SentenceTransformer`; a
            `Teacher`, whose vectors are kept in a cache; a `TargetCache`; or vectors, an array of shape (n, d) for
            texts and a pair (queries, documents) for a data set.
        data: a list of texts, a file or folder of texts (see `data.read_texts`), a `RetrievalDataset`, or a folder in
            BEIR's layout. On the texts that it was trained on, a student looks better than it is: keep some out.
        reference: name of the model that the others are compared with: "teacher" or else the first if None.
        k: neighbors to compare on texts.

    Returns:
        On texts, one row per model: `model`, `dimension`, and its agreement with the reference: `cosine`,
        `squared_distance`, `overlap`, `rank_correlation` and `cka`. `attrs["reading"]` says how to read each.

        On a data set, one row per model and mode: `model`, `mode` and the columns of `summarize`. The modes are
        "teacher" (the reference), "symmetric" (the model embeds queries and documents) and "asymmetric" (its
        queries, the reference's documents, if equally wide). A model named "base" has one row of mode "base".

        `attrs["reference"]` is the reference's name; `attrs["notes"]` says why a value is NaN or a row is missing.

    Raises:
        WorkbenchError: there are fewer than two models or two texts, the reference is not one of them, a model or the
            data cannot be read, or vectors and texts differ in number. All this is checked before anything is embedded.

    Example:
        >>> import workbench as wb
        >>> texts = wb.read_texts("tutorial", limit=60)
        >>> table = wb.compare({"large": "all-mpnet-base-v2", "small": "all-MiniLM-L6-v2"}, texts)
        >>> table["dimension"].tolist()
        [768, 384]
        >>> table.attrs["notes"]
        ['small has 384 dimensions and large 768: cosine and squared_distance are NaN']
    """
    models = _by_name(models)
    if reference is None:
        reference = "teacher" if "teacher" in models else next(iter(models))
    elif reference not in models:
        raise WorkbenchError(
            f"reference {reference!r} is not one of the models: choose from {', '.join(models)}"
        )
    whole(k, "k")
    data = _data(data)
    if not isinstance(data, RetrievalDataset) and len(data) < 2:
        raise WorkbenchError(
            "1 text was given: agreement is about how texts lie to each other, and needs at least 2"
        )
    ready = same_models(models, data)
    embedded = {name: vectors(model, data) for name, model in ready.items()}
    retrieval = isinstance(data, RetrievalDataset)
    without = _without_vectors(
        embedded
        if retrieval
        else {n: v for n, v in embedded.items() if isinstance(ready[n], TargetCache)}
    )
    if without and not retrieval:
        kept = np.all([embedded[name].any(axis=1) for name in without], axis=0)
        embedded = {name: found[kept] for name, found in embedded.items()}
        data = [text for text, keep in zip(data, kept, strict=True) if keep]
    table = (_retrieved if retrieval else _agreed)(embedded, data, reference, k, seed)
    missing = "no asymmetric row" if retrieval else "cosine and squared_distance are NaN"
    undefined = (
        _unscored(table, data, reference) if retrieval else _undefined(table, embedded, reference)
    )
    widths = {name: found[0].shape[-1] for name, found in embedded.items()}
    table.attrs["reference"] = reference
    table.attrs["notes"] = [
        f"{name} has {width} dimensions and {reference} {widths[reference]}: {missing}"
        for name, width in widths.items()
        if width != widths[reference]
    ] + undefined
    lost = (
        "such a document is never found, and such a query finds none"
        if retrieval
        else "they are left out for all models"
    )
    table.attrs["notes"] += [
        f"{name} has no vector of {count}: {lost}" for name, count in without.items()
    ]
    return table


def _by_name(models: object) -> dict[str, object]:
    if not isinstance(models, Mapping) or len(models) < 2:
        given = (
            counted(len(models), "model")
            if isinstance(models, Mapping)
            else f"a {type(models).__name__}"
        )
        raise WorkbenchError(
            f'expected 2 or more models by name, {{"teacher": ..., "student": ...}}, got {given}'
        )
    if len(set(map(str, models))) < len(models):
        raise WorkbenchError(f"two models have the same name: {', '.join(map(str, models))}")
    return {str(name): model for name, model in models.items()}


def same_models(models: object, data: Any) -> dict[str, object]:
    """Return two or more models by name: vectors of these texts or this data set, checked, or what can embed them.

    Raises:
        WorkbenchError: there are fewer, or one is neither a model nor vectors of these texts.
    """
    found = {}
    for name, model in _by_name(models).items():
        try:
            found[name] = prepared(model, data)
        except WorkbenchError as error:
            raise WorkbenchError(f"model {name!r}: {error}") from None
    return found


def _without_vectors(embedded: Mapping[str, Any]) -> dict[str, str]:
    """Return how many queries, documents or texts have zeros in the place of a vector, by model, in words."""
    said = {}
    for name, found in embedded.items():
        sides = (
            {"queries": found[0], "documents": found[1]}
            if isinstance(found, tuple)
            else {"texts": found}
        )
        counts = {
            what: int((~side.any(axis=1)).sum()) for what, side in sides.items() if side.any()
        }
        if any(counts.values()):
            said[name] = " and ".join(f"{n:,} of the {what}" for what, n in counts.items() if n)
    return said


def _undefined(
    table: pd.DataFrame, embedded: Mapping[str, np.ndarray], reference: str
) -> list[str]:
    """Say why correlations of vectors are NaN."""
    notes = []
    for row in table.itertuples():
        if missing := [
            name for name in ("rank_correlation", "cka") if np.isnan(getattr(row, name))
        ]:
            flat = [
                f"all vectors of {name} are {how}"
                for name in (row.model, reference)
                if (how := _flat(embedded[name]))
            ]
            few = (
                "there are fewer than 3 texts"
                if len(embedded[reference]) < 3
                else "all pairs of texts are equally similar"
            )
            verb = "are" if len(missing) > 1 else "is"
            notes.append(
                f"{row.model}: {' and '.join(missing)} {verb} NaN, because {[*flat, few][0]}"
            )
    return notes


def _flat(found: np.ndarray) -> str:
    return "zero" if not found.any() else "the same" if np.ptp(found, axis=0).max() < 1e-6 else ""


def _unscored(table: pd.DataFrame, data: RetrievalDataset, reference: str) -> list[str]:
    """Say why scores or shares are NaN."""
    if not any(data.qrels.values()):
        return [f"{data.name} has no judgments: all scores are NaN"]
    none = table.loc[table["mode"] == "teacher", "ndcg_at_10"].max() == 0
    return (
        [f"{reference} has an nDCG@10 of 0: no model has a share of it, and shares are NaN"]
        if none
        else []
    )


def vectors(
    model: Any, data: Any, *, filled: bool = False
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Embed any data that `compare` takes with any model that it takes. What a cache lacks is encoded and kept.

    Args:
        model, data: as for `compare`.
        filled: a cache was filled with the data just now: what it lacks was skipped, and is not asked for again.

    Returns:
        float32 of shape (n, d) for texts; a pair for a data set, the vectors of its queries and of its documents. A text
        that a cache's fill skips, see `TargetCache`, has a row of zeros.

    Raises:
        WorkbenchError: the model or the data cannot be read, or vectors and texts differ in number.
    """
    data = _data(data)
    model = prepared(model, data)
    if isinstance(model, np.ndarray | tuple):
        return model
    retrieval = isinstance(data, RetrievalDataset)
    texts = data.query_texts() + data.document_texts() if retrieval else data
    if isinstance(model, TargetCache):
        if not filled:
            with tqdm(
                total=len(texts), desc="embedding", unit=" texts", delay=BAR_AFTER, leave=False
            ) as bar:
                model.fill(texts, on_progress=lambda progress: bar.update(progress.done - bar.n))
        keys = model.keys(texts)
        has = model.known(keys)
        found = np.zeros((len(texts), model.dimension), dtype=np.float32)
        found[has] = model.targets([text for text, is_in in zip(texts, has, strict=True) if is_in])
    else:
        found = encode(model, texts, progress=True)
    return (found[: len(data.queries)], found[len(data.queries) :]) if retrieval else found


def _data(data: Any) -> RetrievalDataset | Sequence[Text]:
    if isinstance(data, RetrievalDataset):
        return data
    if is_dataset(data):
        return read_dataset(data)
    # Only sources that are no sequence are read: `read_texts` drops duplicates, and arrays have a row for each text.
    return read_texts(data) if isinstance(data, str | Path | pd.DataFrame) else as_texts(data)


def prepared(model: Any, data: RetrievalDataset | Sequence[Text]) -> Any:
    """Return a loaded model, a cache, or checked vectors; nothing is embedded."""
    if isinstance(model, Teacher):
        return TargetCache(home() / "cache", model)
    if isinstance(model, TargetCache):
        return model
    if not (isinstance(model, list | tuple) or hasattr(model, "__array__")):
        return load_model(model)
    if not isinstance(data, RetrievalDataset):
        return _counted(model, len(data), "texts")
    if not isinstance(model, list | tuple) or len(model) != 2:
        raise WorkbenchError(
            "expected a pair of arrays for a data set: (vectors of queries, vectors of documents)"
        )
    return checked_pair(model, data)


def checked_pair(
    pair: tuple, data: RetrievalDataset, of: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors of queries and documents as float32; WorkbenchError if they are not those of a data set."""
    queries = _counted(pair[0], len(data.queries), f"queries{of}")
    documents = _counted(pair[1], len(data.corpus), f"documents{of}")
    if queries.shape[1] != documents.shape[1]:
        raise WorkbenchError(
            f"queries{of} are {queries.shape[1]} wide and documents {documents.shape[1]}"
        )
    return queries, documents


def _counted(array: Any, count: int, what: str) -> np.ndarray:
    array = checked(array, what)
    if len(array) != count:
        raise WorkbenchError(
            f"{len(array):,} vectors were given for {count:,} {what}: expected one per text, in order"
        )
    return array


def _agreed(
    embedded: Mapping[str, np.ndarray], texts: Sequence[Text], reference: str, k: int, seed: int
):
    """Return a row of agreement per model."""
    own, rows, attrs = embedded[reference], [], {}
    for name, other in embedded.items():
        found = dict.fromkeys(_AGREEMENT, 1.0) | {"squared_distance": 0.0}
        if name != reference:
            per_text = agreement.per_text(own, other, k=k, seed=seed)
            found = per_text[["cosine", "squared_distance", "overlap"]].mean().to_dict()
            found["rank_correlation"] = agreement.rank_correlation(own, other, seed=seed)
            found["cka"], attrs = agreement.cka(own, other), per_text.attrs
        rows.append({"model": name, "dimension": other.shape[1], **found})
    table = pd.DataFrame(rows)
    reading = {name: agreement.READING[name] for name in _AGREEMENT}
    table.attrs |= {
        "texts": len(texts),
        "k": attrs["k"],
        "neighbors": attrs["neighbors"],
        "reading": reading,
    }
    return table


def _retrieved(
    embedded: Mapping[str, tuple], data: RetrievalDataset, reference: str, k: int, seed: int
):
    """Return a row of retrieval per model and mode."""
    own, sides = embedded[reference], {}
    for name, pair in embedded.items():
        mode = "teacher" if name == reference else "base" if name == "base" else "symmetric"
        sides[name, mode] = pair
        if mode == "symmetric" and pair[0].shape[1] == own[1].shape[1]:
            sides[name, "asymmetric"] = pair[0], own[1]
    scores = {key: score(data, *pair) for key, pair in sides.items()}
    rows = summarize(scores, teacher=(reference, "teacher"), seed=seed)
    rows["mode"] = [mode for _, mode in sides]
    rows.insert(0, "model", [name for name, _ in sides])
    rows.attrs |= {
        "dataset": data.name,
        "queries": len(scores[reference, "teacher"]),
        "documents": len(data.corpus),
    }
    return rows


def report(
    dataset: RetrievalDataset,
    rows: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    **more: object,
) -> dict:
    """Return the results of `compare` and of `quantize.sweep` on a data set as JSON values, as a model card reads them."""
    said = {
        "collection": dataset.name,
        "documents": len(dataset.corpus),
        "queries": len(dataset.queries),
    }
    return (
        said
        | more
        | {"rows": as_rows(rows)}
        | ({} if curves is None else {"curves": as_rows(curves)})
    )


def format_table(rows: pd.DataFrame) -> str:
    """Format the retrieval rows of `compare` or `summarize` for a terminal, shares with their 95 % interval."""
    labels = [LABELS.get(mode, mode) for mode in rows["mode"]]
    if "model" in rows:
        named = {"teacher": "{}", "symmetric": "{}, symmetric", "asymmetric": "{}, asymmetric"}
        labels = [
            named.get(mode, LABELS.get(mode, mode)).format(name)
            for name, mode in rows[["model", "mode"]].values
        ]
    shown = pd.DataFrame({"": labels})
    for column, title in COLUMNS.items():
        form = "{:.1%}" if column == "share_of_teacher" else "{:.3f}"
        shown[title] = [
            form.format(value) if np.isfinite(value) else "undefined" for value in rows[column]
        ]
    shown["95 % interval"] = [
        ""
        if low == high
        else f"{low:.1%} to {high:.1%}"
        if np.isfinite(high - low)
        else "undefined"
        for low, high in rows[["share_low", "share_high"]].values
    ]
    return shown.to_string(index=False)


def as_rows(rows: pd.DataFrame) -> list[dict]:
    """Return rows as JSON values, rounded to 6 decimals; NaN and infinity are null."""
    return json.loads(rows.to_json(orient="records", double_precision=6))
