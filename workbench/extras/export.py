"""Export a search: the documents, the teacher's index of them, the student, and a server."""

import json
import os
import warnings
from pathlib import Path

import jinja2
import numpy as np
from sentence_transformers import SentenceTransformer

from workbench import agreement, data, evaluate, models, pipeline, ranking
from workbench._util import counted, one_of, whole_folder
from workbench.cache import TargetCache
from workbench.errors import ModelError
from workbench.extras import publish
from workbench.extras.card import cell, public
from workbench.teachers import ArrayTeacher, Teacher

PRECISIONS = "float32", "int8"
_PART = Path(__file__).with_name
_LEAST_FIRST = 0.2  # a student of another teacher finds hardly any


def export(
    student: str | Path | SentenceTransformer,
    texts: object,
    folder: str | Path,
    *,
    teacher: object = None,
    passages: bool = True,
    precision: str = "float32",
    **reading: object,
) -> Path:
    """Write a new folder that answers queries by itself, and return its path.

    It has the documents, `index.npy` with the teacher's vectors of them, the student for
    sentence-transformers and as ONNX (extra `onnx`), a README, and `serve.py`, which needs
    onnxruntime, tokenizers and numpy. The README also says which score of the student corresponds
    to one of the teacher, by queries among the texts, or else by ones cropped from documents.

    Args:
        student: the model for queries: a folder, a name, "ready", or a loaded model.
        texts: what `read_texts` takes, or a retrieval data set.
        teacher: the model for documents: what `Teacher` takes, or stored vectors of the texts,
            float of shape (n, dimension). None for the teacher that a student's folder names.
        passages: cut documents into passages that both models read whole; never with vectors.
        precision: of the index, "float32" or "int8" (a quarter of its size).
        reading: options of `read_texts`.

    Example:
        >>> import tempfile
        >>> small, texts = "all-MiniLM-L6-v2", wb.read_texts("tutorial", limit=20)
        >>> folder = wb.export(small, texts, tempfile.mkdtemp(), teacher=small)  # on both sides
        >>> sorted(path.name for path in folder.iterdir())
        ['README.md', 'documents.jsonl', 'index.npy', 'model', 'serve.py']
    """
    folder = publish.check_folder(folder)
    data.checked_options(reading)
    one_of(precision, "precision", PRECISIONS)
    about = pipeline.provenance_of(student) if isinstance(student, str | Path) else {}
    model = pipeline.load_student(student) if about else models.load_model(student)
    publish.check_onnx(model)
    if hasattr(teacher, "__array__"):
        teacher = Teacher(teacher, texts=list(data.stream_texts(texts, **reading)))
    cache = _cache_of(teacher, model, about)
    width = model.get_embedding_dimension()
    if width != cache.dimension:
        raise ModelError(f"{cache.teacher.name} has {cache.dimension} dimensions, not {width}")
    dataset, is_cropped = data.as_dataset(texts, reading)
    both = {"teacher": cache, "student": model}
    has_vectors = isinstance(cache.teacher, ArrayTeacher)  # of whole documents, and of no others
    if not has_vectors:
        dataset, cost = evaluate.cut_for(both, dataset, passages)
        if cost:
            warnings.warn(cost, stacklevel=2)
    documents = dataset.document_texts()
    index = evaluate.vectors(cache, documents)
    kept = np.flatnonzero(index.any(axis=1))  # the cache may skip some
    index, rows = index[kept], dataset.rows[kept]
    measured = None
    if not has_vectors:
        queries = (pipeline.with_new_queries(dataset) if is_cropped else dataset).query_texts()
        asked = [evaluate.vectors(each, queries) for each in both.values()]
        measured = _measure(*asked, index, rows) | {"queries": len(queries), "cropped": is_cropped}
        if measured["first"] < _LEAST_FIRST:
            share = f"the student finds the teacher's first for {measured['first']:.0%} of queries"
            warnings.warn(f"{share}: is it a student of {cache.teacher.name}?", stacklevel=2)
    names = list(dataset.corpus)
    with whole_folder(folder) as scratch:
        with (scratch / "documents.jsonl").open("w", encoding="utf-8") as file:
            for row, place in zip(rows, kept, strict=True):
                file.write(_line(names[row], documents[place]))
        np.save(scratch / "index.npy", _int8(index) if precision == "int8" else index)
        publish.save_student(model, scratch / "model", onnx=True)
        (scratch / "serve.py").write_text(_PART("serve.py").read_text())
        readme = jinja2.Template(_PART("export.md").read_text(), trim_blocks=True).render(
            teacher=cell(public(cache.teacher.name)),
            documents=counted(len(np.unique(rows)), "document"),
            passages=counted(len(rows), "passage"),
            precision=precision,
            width=width,
            measured=measured,
        )
        (scratch / "README.md").write_text(readme, encoding="utf-8")
    return folder


def _cache_of(teacher: object, student: SentenceTransformer, about: dict) -> TargetCache:
    """Return the cache of a teacher, by default of the one that a student's provenance names."""
    if isinstance(teacher, TargetCache):
        cache = teacher
    else:
        teacher = about.get("teacher_name") if teacher is None else teacher
        if teacher is None:
            raise ModelError("name the teacher: only a student's own folder says which it had")
        length = about.get("teacher", {}).get("max_length") or student.max_seq_length
        recipe = pipeline.TOUR.change(max_length=length, prompts=about.get("prompts"))
        cache = evaluate.as_model(pipeline.teacher_of(teacher, recipe), [])
    if about and not pipeline.has_teacher(about, cache):
        name = about["teacher_name"]
        raise ModelError(f"the student's teacher is {name}, and not {cache.teacher.name}")
    return cache


def _measure(teacher: np.ndarray, student: np.ndarray, index: np.ndarray, rows: np.ndarray) -> dict:
    """Return what a student finds of the teacher's first and ten nearest documents, and `scores`.

    They are (documents a query, teacher, student): the scores that let so many through on average.
    """
    (high, nearest), (low, hits) = (
        ranking.top_k(queries, index, 100, rows=rows) for queries in (teacher, student)
    )
    first, found = (agreement.overlap(nearest[:, :k], hits[:, :k]).mean() for k in (1, 10))
    high, low = (np.sort(scores, axis=None)[::-1] for scores in (high, low))
    counts = [count for count in (1, 3, 10, 30) if count < nearest.shape[1]]
    places = [count * len(teacher) - 1 for count in counts]
    scores = list(zip(counts, high[places], low[places], strict=True))
    return {"first": first, "found": found, "scores": scores}


def _int8(vectors: np.ndarray) -> np.ndarray:
    """Return each row scaled to its largest value and rounded; cosines need no scale."""
    return np.rint(vectors * (127 / np.abs(vectors).max(axis=1, keepdims=True))).astype(np.int8)


def _line(name: str, text: data.Text) -> str:
    """Return a passage as a line of JSON, without this machine's paths."""
    fields = {key: value for key, value in text.fields.items() if not data.is_blank(value)}
    if os.path.isabs(str(fields.get("file", ""))):
        del fields["file"]
    row = {"id": name, "title": text.title, "text": text.text, "fields": fields}
    return json.dumps(row, ensure_ascii=False, default=str) + "\n"
