"""A view of your own texts in one call: embed them with two models and open the view."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.cache import TargetCache
from workbench.data import RetrievalDataset, Role, Text, as_texts, crop_queries, read_dataset, read_texts
from workbench.errors import DataError, WorkbenchError
from workbench.evaluate import vectors
from workbench.models import load_model
from workbench.teachers import Teacher

if TYPE_CHECKING:
    import pandas as pd

    from workbench.widgets import AgreementExplorer, NeighborInspector, RetrievalExplorer

EXAMPLE_QUERIES = 50


def explore(
    models: Mapping[str, object], texts: object, *, columns: pd.DataFrame | None = None, k: int = 10
) -> AgreementExplorer | NeighborInspector:
    """Show where two models agree on texts: a map, a histogram and a table, linked.

    Two models that differ in width share no map. They get the view that compares their neighbors instead, and a warning
    says so.

    Args:
        models: two names, each with a model: a `Teacher`, a loaded model, a folder or a model's name. The first is the
            reference.
        texts: a list of texts, or the name of a file or folder that `read_texts` reads.
        columns: one row a text, anything known of the texts, to color and sort by.
        k: neighbors to compare.

    Example:
        >>> view = wb.explore({"teacher": teacher, "student": student}, texts)

    Raises:
        WorkbenchError: there are not two models, or the texts cannot be used.
    """
    if not isinstance(models, Mapping) or len(models) != 2:
        raise WorkbenchError('explore compares two models: {"teacher": model, "student": another}')
    texts = read_texts(texts) if isinstance(texts, str | Path) else as_texts(texts)  # a list stays row by row
    (first, reference), (second, other) = ((name, vectors(model, texts)) for name, model in models.items())
    from workbench import widgets

    if reference.shape[1] == other.shape[1]:
        return widgets.AgreementExplorer(reference, other, texts, columns=columns, k=k)
    warnings.warn(
        f"{first} has {reference.shape[1]} dimensions and {second} has {other.shape[1]}: they share no map, so their "
        "neighbors are compared",
        stacklevel=2,
    )
    return widgets.NeighborInspector(reference, other, texts, k=min(k, max(1, len(texts) - 1)))


def search(
    source: object, documents: object, queries: object, *, passages: int | None = None, k: int = 10
) -> RetrievalExplorer:
    """Search texts with two models side by side; type a query, or pick one.

    One model embeds the documents and the other the queries (asymmetric search). Each model on both sides is shown beside
    it. Of texts without queries, sentences become example queries, and each is judged relevant to the text that it is from.

    Args:
        source: a retrieval data set, or what `read_texts` takes.
        documents: the model that embeds documents: a `Teacher`, a loaded model, a folder or a model's name.
        queries: the model that embeds queries, of the same width.
        passages: cut long texts into passages of about so many words.
        k: results to show.

    Example:
        >>> view = wb.search(texts, documents=teacher, queries=student)

    Raises:
        WorkbenchError: the widths differ, or the texts cannot be used.
    """
    from workbench.widgets import RetrievalExplorer

    dataset = _dataset(source, passages)
    # Loaded once: every typed query asks these again.
    documents, queries = (
        model if isinstance(model, Teacher | TargetCache) else load_model(model) for model in (documents, queries)
    )
    first = [Text(next(iter(dataset.queries.values())), Role.QUERY)]
    widths = [vectors(model, first).shape[1] for model in (documents, queries)]
    if widths[0] != widths[1]:
        raise WorkbenchError(
            f"the model for documents has {widths[0]} dimensions and the one for queries {widths[1]}: they share no space. "
            "Distill a student of the first (wb.distill), or compare the two with wb.explore"
        )
    encode = {
        name: lambda text, model=model: vectors(model, [Text(text, Role.QUERY)])[0]
        for name, model in (("teacher", documents), ("student", queries))
    }
    return RetrievalExplorer(dataset, vectors(documents, dataset), vectors(queries, dataset), encode=encode, k=k)


def _dataset(source: object, passages: int | None) -> RetrievalDataset:
    if isinstance(source, RetrievalDataset):
        return source
    if isinstance(source, str | Path) and (source == "tutorial" or (Path(source) / "corpus.jsonl").is_file()):
        return read_dataset(source)
    texts = read_texts(source, passages=passages)
    documents = [text for text in texts if text.role is Role.DOCUMENT]
    if not documents:
        raise DataError("there are only queries among the texts: a search needs documents")
    queries, qrels = {f"q{i}": t.text for i, t in enumerate(t for t in texts if t.role is Role.QUERY)}, {}
    if not queries:  # sentences of some documents; short ones stand for themselves
        for place in np.linspace(0, len(documents) - 1, min(EXAMPLE_QUERIES, len(documents))).astype(int):
            query = [*crop_queries([documents[place]]), documents[place]][0]
            queries[f"q{place}"], qrels[f"q{place}"] = query.text, {f"d{place}": 1}
    name = Path(source).stem if isinstance(source, str | Path) else "texts"
    return RetrievalDataset(name, {f"d{i}": t.text for i, t in enumerate(documents)}, queries, qrels)
