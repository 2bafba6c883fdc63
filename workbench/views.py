"""A view of your own texts in one call: embed them with two models and open the view."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench._util import home, spread, whole
from workbench.data import (
    RetrievalDataset,
    Role,
    crop_queries,
    is_dataset,
    read_dataset,
    read_texts,
)
from workbench.errors import DataError, WorkbenchError

if TYPE_CHECKING:
    from workbench.widgets import AgreementExplorer, RetrievalExplorer

EXAMPLE_QUERIES = 50
ASKED = 200  # pieces of documents that say what a student has gained


def explore(models: Mapping[str, object], texts: object, **options: object) -> AgreementExplorer:
    """Show where models agree on texts: a map, the text with its neighbors, and a table, linked.

    Models of different widths share no map and no cosine; their neighbors are compared.

    Args:
        models: two or more names, each with a model: a `Teacher`, a loaded model, a folder, a model's name or vectors.
            The first is the reference.
        texts: a list of texts, a dataframe, or the name of a file or folder that `read_texts` reads.
        options: as of `widgets.AgreementExplorer`: `columns`, `k`, `fit`, ...

    Example:
        >>> import workbench as wb
        >>> texts = wb.read_texts("tutorial", limit=60)
        >>> view = wb.explore({"large": "all-mpnet-base-v2", "small": "all-MiniLM-L6-v2"}, texts)

    Raises:
        WorkbenchError: there are not two models, or the texts cannot be used.
    """
    from workbench.widgets import AgreementExplorer

    texts = read_texts(texts) if isinstance(texts, str | Path) else texts  # a list stays row by row
    return AgreementExplorer(models, texts, **options)


def search(
    source: object,
    documents: object = None,
    queries: object = None,
    *,
    k: int = 10,
    progress: bool = True,
    **options: object,
) -> RetrievalExplorer:
    """Search texts with two models side by side; type a query, or pick one.

    One model embeds the documents and the other the queries (asymmetric search). Each model on both sides is shown beside
    it. Of texts without queries, pieces become example queries, and each is judged relevant to the text that it is from.

    Args:
        source: a retrieval data set, or what `read_texts` takes.
        documents: the model that embeds documents: a `Teacher`, a loaded model, a folder or a model's name;
            all-mpnet-base-v2 if None.
        queries: the model that embeds queries; of another width, each model searches with its own documents alone. None:
            the ready student, which learns these documents first (recipe "adapt"); the view says what it gained.
        k: results to show.
        progress: show bars.
        options: of `read_texts`, such as `column="body"` for a CSV or `passages=200` to cut long texts.

    Example:
        >>> import workbench as wb
        >>> texts = wb.read_texts("tutorial", limit=60)
        >>> view = wb.search(texts, documents="all-mpnet-base-v2", queries="all-MiniLM-L6-v2")

    Raises:
        WorkbenchError: a model cannot be read, or the texts cannot be used.
    """
    from workbench.widgets import RetrievalExplorer

    whole(k, "k")
    dataset, about = _dataset(source, options)
    judged = bool(dataset.qrels) and not about
    if documents is None:
        from workbench import pipeline

        documents = pipeline.teacher_of(None, pipeline.ADAPT)
    names, encode = [_label(documents, "teacher"), _label(queries, "student")], {}
    if names[0] == names[1]:
        names = ["documents", "queries"]
    if queries is None:
        documents, queries, run, gained = _adapted(dataset, documents, progress)
        about, encode = f"{about} {gained}".strip(), {names[1]: run}
    return RetrievalExplorer(
        dataset,
        dict(zip(names, (documents, queries), strict=True)),
        encode=encode,
        k=k,
        about=about,
        answers_first=not judged,
    )


def _adapted(dataset: RetrievalDataset, documents: object, progress: bool):
    """Let the ready student learn a data set's documents.

    Returns:
        The cache of the teacher; the student's vectors of queries and documents; what embeds a typed query; what it gained.
    """
    from workbench import agreement, pipeline, ranking
    from workbench.cache import TargetCache
    from workbench.head import FrozenFeatures, through_head
    from workbench.models import encode
    from workbench.ready import load_ready

    cache = TargetCache(home() / "cache", pipeline.teacher_of(documents, pipeline.ADAPT))
    try:
        pipeline.ADAPT.check_teacher(cache)
    except WorkbenchError:
        raise WorkbenchError(
            f"the ready student asks an index of all-mpnet-base-v2, and here {cache.teacher.name} embeds the documents: give "
            "queries=, a student of that model, or documents='all-mpnet-base-v2' (a loaded model counts as another one)"
        ) from None
    before, texts = load_ready(), [text for text in dataset.document_texts() if text.text.strip()]
    made, enough = before, len(texts) >= pipeline.LEAST_TEXTS
    if enough:
        made = pipeline.run(
            texts, cache, pipeline.ADAPT, source=dataset.name, progress=progress
        ).student
    asked = crop_queries([texts[i] for i in spread(len(texts), ASKED)]) if enough else []
    # Learning has kept the base's features, so the student's vectors cost next to nothing.
    features = TargetCache(cache.folder.parent, FrozenFeatures(before))
    if asked:
        pipeline.fill(cache, asked, progress=progress)
    pipeline.fill(
        features,
        [*asked, *dataset.query_texts(), *dataset.document_texts()],
        progress=progress,
        what="features",
    )
    vectors = tuple(
        through_head(made, features.targets(some))
        for some in (dataset.query_texts(), dataset.document_texts())
    )
    gained = "The student has learned these documents"
    if asked:
        index, k = np.asarray(cache.targets(texts)), min(10, len(texts))
        wanted, *found = (
            ranking.top_k(each, index, k)[1]
            for each in (
                cache.targets(asked),
                *(through_head(model, features.targets(asked)) for model in (before, made)),
            )
        )
        shares = [agreement.overlap(wanted, each).mean() for each in found]
        gained += (
            f": for {len(asked)} pieces of them it finds {shares[1]:.0%} of the teacher's {k} nearest documents, and "
            f"{shares[0]:.0%} before it had read them"
        )
    elif not enough:
        gained = (
            f"The student is the ready one: it learns from {pipeline.LEAST_TEXTS} documents or more"
        )
    return cache, vectors, lambda text: encode(made, [text], Role.QUERY)[0], f"{gained}."


def _label(model: object, otherwise: str) -> str:
    return Path(model).name if isinstance(model, str | Path) else otherwise


def _dataset(source: object, options: dict) -> tuple[RetrievalDataset, str]:
    """Return a data set, and what has to be said of it."""
    if isinstance(source, RetrievalDataset):
        return source, ""
    if is_dataset(source):
        return read_dataset(source), ""
    texts = read_texts(source, **options)
    documents = [text for text in texts if text.role is Role.DOCUMENT]
    if not documents:
        raise DataError("there are only queries among the texts: a search needs documents")
    about, qrels = "", {}
    queries = {f"q{i}": t.text for i, t in enumerate(t for t in texts if t.role is Role.QUERY)}
    if not queries:
        about = "The queries are pieces of documents, judged relevant to their own document: easy, so figures are high."
        # Short documents stand for themselves.
        for place in spread(len(documents), EXAMPLE_QUERIES):
            query = [*crop_queries([documents[place]]), documents[place]][0]
            queries[f"q{place}"], qrels[f"q{place}"] = query.text, {f"d{place}": 1}
    name = Path(source).stem if isinstance(source, str | Path) else "texts"
    return RetrievalDataset(
        name, {f"d{i}": t.text for i, t in enumerate(documents)}, queries, qrels
    ), about
