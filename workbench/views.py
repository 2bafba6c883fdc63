"""Views of your own texts in one call."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from workbench import agreement, data, evaluate, pipeline, ranking
from workbench._util import home, spread
from workbench.cache import TargetCache, Targets
from workbench.data import RetrievalDataset, Role
from workbench.models import encode
from workbench.passages import Reader, in_passages
from workbench.pipeline import ADAPT
from workbench.ready import load_ready
from workbench.student import through_head
from workbench.widgets import AgreementExplorer, RetrievalExplorer

LETTERS_PER_TOKEN = 3.0  # English has 4 to 5, other languages that the tokenizer knows less fewer


def explore(
    texts: object,
    models: Mapping[str, object] | None = None,
    *,
    passages: bool = True,
    **options: object,
) -> AgreementExplorer:
    """Show where models agree on texts: a map, the text with its neighbors, a table.

    Args:
        texts: what `read_texts` takes. The other columns of a table color, sort and group.
        models: two or more by name: anything that `wb.compare` takes. The first is the reference;
            the ready student's teacher and the ready student if None.
        passages: cut documents into passages that all models read whole, a row each; with vectors,
            never.
        options: of `read_texts`, and of `widgets.AgreementExplorer`: `color`, `k`, `umap`, `most`.

    Example:
        >>> texts = wb.read_texts("tutorial", limit=60)
        >>> view = wb.explore(texts, {"large": "all-mpnet-base-v2", "small": "all-MiniLM-L6-v2"})
    """
    data.checked_options(options, ("color", "k", "umap", "most"))
    reading = {name: options.pop(name) for name in data.READING if name in options}
    if reading or not isinstance(texts, list):  # a list keeps its duplicates, as vectors do
        has_vectors = models and any(hasattr(model, "__array__") for model in models.values())
        read = data.stream_texts if has_vectors else data.read_texts  # vectors have every row
        texts = read(texts, **reading)
    texts = data.as_texts(texts)
    if models is None:
        teacher = pipeline.teacher_of(None, ADAPT)
        models = {"teacher": teacher, "student": load_ready()}
    models = evaluate.same_models(models, texts)
    texts, unread_part = evaluate.cut_for(models, texts, passages)
    if unread_part:
        warnings.warn(unread_part, stacklevel=2)
    return AgreementExplorer(models, texts, **options)


def search(
    source: object,
    documents: object = None,
    queries: object = None,
    *,
    passages: bool = True,
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
        passages: cut documents into passages that both models read whole. A document is as near as
            its nearest passage.
        options: of `read_texts`, such as `column=["subject", "body"]` for a table.

    Example:
        >>> texts = wb.read_texts("tutorial", limit=60)
        >>> view = wb.search(texts, documents="all-mpnet-base-v2", queries="all-MiniLM-L6-v2")
    """
    data.checked_options(options)
    dataset, is_cropped = data.as_dataset(source, options)
    easy = "The queries are pieces of documents, judged relevant to their own: easy to find. "
    about = easy if is_cropped else ""
    names = ["teacher", "student"]
    for place, model in enumerate([documents, queries]):
        if isinstance(model, str | Path) and Path(model).name not in names:
            names[place] = Path(model).name
    if queries is not None:
        documents = pipeline.teacher_of(None, ADAPT) if documents is None else documents
        models = evaluate.same_models({names[0]: documents, names[1]: queries}, dataset)
        dataset, unread_part = evaluate.cut_for(models, dataset, passages)
        return RetrievalExplorer(dataset, models, about=about + unread_part)
    cache = TargetCache(home() / "cache", pipeline.teacher_of(documents, ADAPT))
    readers = ADAPT.readers(cache.teacher)
    about += _language(dataset, readers[1])
    dataset, unread_part = in_passages(dataset, readers, passages)
    about += unread_part
    vectors, encoders, learned = _adapted(dataset, cache, progress)
    models, encoders = (dict(zip(names, pair, strict=True)) for pair in (vectors, encoders))
    return RetrievalExplorer(dataset, models, encode=encoders, about=f"{about} {learned}".strip())


def _language(dataset: RetrievalDataset, reader: Reader) -> str:
    """Say if the ready student hardly knows the language of most documents."""
    texts = dataset.document_texts()
    texts = [texts[row].text for row in spread(len(texts), 200)]
    tokens = np.maximum(1, reader.sizes(texts) - reader.sizes([""]))
    letters = np.array([len(text) for text in texts]) / tokens
    if np.median(letters) >= LETTERS_PER_TOKEN:
        return ""
    return (
        "Most documents look as if they are not English, which is what these models know: name a "
        "multilingual base (documents=, queries=), such as paraphrase-multilingual-MiniLM-L12-v2. "
    )


def _adapted(dataset: RetrievalDataset, cache: TargetCache, progress: bool) -> tuple:
    """Let the ready student learn documents.

    Returns (queries, documents) of teacher and student, their encoders of a query, and a sentence
    on what the student finds.
    """
    documents = dataset.document_texts()
    lesson = cache.embed(pipeline.with_queries(documents), progress=progress)
    index = lesson.subset(np.arange(len(documents)))
    asked = cache.embed(dataset.query_texts(), progress=progress)
    k = min(10, len(dataset.corpus))

    def embedded(student: SentenceTransformer, targets: Targets) -> np.ndarray:
        return through_head(student, pipeline.features_of(student, ADAPT, cache).embed(targets))

    if len(index) < pipeline.LEAST_TEXTS:
        ADAPT.change(start="ready").check_teacher(cache)
        student = load_ready()
        learned = "The ready student has not learned so few documents"
    else:
        options = {"source": dataset.name, "progress": progress}
        done = pipeline.run(lesson, cache, ADAPT, **options)
        student, form = done.student, pipeline.form_of(done.provenance["head_fit"])
        learned = f"The student has learned these documents ({form})"
    vectors = embedded(student, asked), embedded(student, index)
    nearest, hits = (
        ranking.top_k(queries, index, k, rows=dataset.rows)[1] for queries in (asked, vectors[0])
    )
    share = agreement.overlap(nearest, hits).mean()
    learned += f": its queries find {share:.0%} of the teacher's {k} nearest."
    encoders = (
        lambda text: cache.teacher.encode([text], Role.QUERY)[0],
        lambda text: encode(student, [text], Role.QUERY)[0],
    )
    return ((np.asarray(asked), np.asarray(index)), vectors), encoders, learned
