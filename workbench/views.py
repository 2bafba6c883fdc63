"""Views of your own texts in one call."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from workbench import agreement, data, pipeline, ranking
from workbench._util import home, spread
from workbench.cache import TargetCache, Targets
from workbench.data import RetrievalDataset, Role, Text
from workbench.errors import DataError
from workbench.models import encode
from workbench.pipeline import ADAPT
from workbench.student import through_head
from workbench.widgets import AgreementExplorer, RetrievalExplorer

EXAMPLE_QUERIES = 50


def explore(models: Mapping[str, object], texts: object, **options: object) -> AgreementExplorer:
    """Show where models agree on texts: a map, the text with its neighbors, a table.

    Args:
        models: two or more by name: anything that `wb.compare` takes. The first is the reference.
        texts: a list of texts, a dataframe, or a file or folder that `read_texts` reads.
        options: of `widgets.AgreementExplorer`: `k`, `umap`, `most`.

    Example:
        >>> texts = wb.read_texts("tutorial", limit=60)
        >>> view = wb.explore({"large": "all-mpnet-base-v2", "small": "all-MiniLM-L6-v2"}, texts)
    """
    # A list keeps its duplicates: vectors and columns have a row for each text.
    texts = data.read_texts(texts) if isinstance(texts, str | Path) else texts
    return AgreementExplorer(models, texts, **options)


def search(
    source: object,
    documents: object = None,
    queries: object = None,
    *,
    progress: bool = True,
    **options: object,
) -> RetrievalExplorer:
    """Search texts with two models side by side; type a query, or pick one.

    One model embeds the documents and the other the queries (asymmetric search). Each model on both
    sides is shown beside it. Of texts without queries, pieces become example queries.

    Args:
        source: a retrieval data set, or what `read_texts` takes.
        documents: a `Teacher`, a loaded model, a folder or a name; all-mpnet-base-v2 if None.
        queries: the same; the ready student, which learns these documents first, if None.
        options: of `read_texts`, such as `column="body"` for a CSV or `passages=200`.

    Example:
        >>> texts = wb.read_texts("tutorial", limit=60)
        >>> view = wb.search(texts, documents="all-mpnet-base-v2", queries="all-MiniLM-L6-v2")
    """
    dataset, texts, about = _dataset(source, options)
    names = ["teacher", "student"]
    for place, model in enumerate([documents, queries]):
        if isinstance(model, str | Path) and Path(model).name not in names:
            names[place] = Path(model).name
    if queries is None:
        vectors, encoders, learned = _adapted(dataset, texts, documents, progress)
        models = dict(zip(names, vectors, strict=True))
        encoders, about = dict(zip(names, encoders, strict=True)), f"{about} {learned}".strip()
    else:
        if documents is None:
            documents = pipeline.teacher_of(None, ADAPT)
        models, encoders = {names[0]: documents, names[1]: queries}, {}
    return RetrievalExplorer(dataset, models, encode=encoders, about=about)


def _adapted(dataset: RetrievalDataset, texts: list, teacher: object, progress: bool) -> tuple:
    """Let the ready student learn documents.

    Returns of teacher and student the vectors of queries and documents, and what embeds a typed
    query; and a sentence on what it finds.
    """
    cache = TargetCache(home() / "cache", pipeline.teacher_of(teacher, ADAPT))
    ADAPT.check_teacher(cache)
    index = cache.embed(texts, progress=progress)
    asked = cache.embed(dataset.query_texts(), progress=progress)
    k = min(10, len(index))

    def embedded(student: SentenceTransformer, targets: Targets) -> np.ndarray:
        return through_head(student, pipeline.features_of(student, ADAPT, cache).embed(targets))

    if len(index) < pipeline.LEAST_TEXTS:
        student = pipeline.load_student(ADAPT.start)
        learned = "The ready student has not learned so few documents"
    else:
        options = {"source": dataset.name, "progress": progress}
        student = pipeline.run(index, cache, ADAPT, **options).student
        learned = "The student has learned these documents"
    vectors = embedded(student, asked), embedded(student, index)
    nearest = ranking.top_k(asked, index, k)[1]
    share = agreement.overlap(nearest, ranking.top_k(vectors[0], index, k)[1]).mean()
    learned += f": its queries find {share:.0%} of the teacher's {k} nearest."
    encoders = (
        lambda text: cache.teacher.encode([text], Role.QUERY)[0],
        lambda text: encode(student, [text], Role.QUERY)[0],
    )
    return ((np.asarray(asked), np.asarray(index)), vectors), encoders, learned


def _dataset(source: object, options: dict) -> tuple[RetrievalDataset, list[Text], str]:
    """Return a data set, its documents as texts, and a sentence on queries that were made."""
    if isinstance(source, RetrievalDataset) or data.is_dataset(source):
        if options:
            raise DataError(f"{', '.join(options)}: only for texts, and this is a data set")
        dataset = data.read_dataset(source)
        return dataset, dataset.document_texts(), ""
    texts = data.read_texts(source, **options)
    documents = [text for text in texts if text.role is Role.DOCUMENT]
    if not documents:
        raise DataError("there are only queries among the texts: a search needs documents")
    queries = {f"q{i}": text.text for i, text in enumerate(texts) if text.role is Role.QUERY}
    about, qrels = "", {}
    if not queries:
        about = "The queries are pieces of documents, judged relevant to their own: easy to find."
        for place in spread(len(documents), EXAMPLE_QUERIES):
            # A document that is too short to crop stands for itself.
            query = [*data.crop_queries([documents[place]]), documents[place]][0]
            queries[f"q{place}"], qrels[f"q{place}"] = query.text, {f"d{place}": 1}
    name = Path(source).stem if isinstance(source, str | Path) else "texts"
    corpus = {f"d{i}": text.text for i, text in enumerate(documents)}
    return RetrievalDataset(name, corpus, queries, qrels), documents, about
