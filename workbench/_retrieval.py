"""Retrieval data sets and the BEIR layout; everyone else imports these names from `workbench.data`."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path

from workbench._files import json_objects
from workbench._texts import Role, Text, text_problem
from workbench.errors import DataError

DATA = Path(__file__).resolve().parent.parent / "data"


@dataclass(frozen=True)
class RetrievalDataset:
    """A retrieval data set: documents, queries and graded judgments.

    Attributes:
        name: what reports call it.
        corpus: document id to text (a title, if there is one, in front).
        queries: query id to text, judged queries only.
        qrels: query id to document id to grade; a grade of 0 means judged and not relevant.
        query_metadata: query id to what its source says about it.

    Raises:
        DataError: an attribute is not such a mapping, or judgments name an unknown document (judgments of
            queries that are not there are left out of account, so that a part of the queries can be taken).

    Example:
        >>> import workbench as wb
        >>> data = wb.RetrievalDataset("notes", {"d1": "Bread rises."}, {"q1": "why does bread rise?"}, {"q1": {"d1": 1}})
        >>> len(data.document_texts())
        1
    """

    name: str
    corpus: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    query_metadata: dict[str, dict] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what in ("corpus", "queries", "qrels", "query_metadata"):
            if not isinstance(given := getattr(self, what), Mapping):
                raise DataError(f"{what} is of type {type(given).__name__}; expected a dictionary by id")
        for what, texts in (("corpus", self.corpus), ("queries", self.queries)):
            for name, text in texts.items():
                if not isinstance(name, str) or not isinstance(text, str):
                    raise DataError(f"{what}: {name!r} has {text!r:.60}; expected an id and a text, two strings")
        for query, judged in self.qrels.items():
            if not isinstance(judged, Mapping):
                raise DataError(f"qrels: {query!r} has {judged!r:.60}; expected a query's grades by document id")
            for document, grade in judged.items():
                if document not in self.corpus or not isinstance(grade, Integral):
                    raise DataError(
                        f"qrels of {query!r}: {document!r} has {grade!r}; expected a known document and a whole number"
                    )

    def document_texts(self) -> list[Text]:
        """Return the documents, in the order of `corpus`."""
        return [Text(text, Role.DOCUMENT) for text in self.corpus.values()]

    def query_texts(self) -> list[Text]:
        """Return the queries, in the order of `queries`."""
        return [Text(text, Role.QUERY) for text in self.queries.values()]


def tutorial() -> RetrievalDataset:
    """Return the small data set of everyday passages in `data/tutorial`."""
    return read_dataset(DATA / "tutorial")


def read_dataset(source: str | Path | RetrievalDataset, split: str = "test") -> RetrievalDataset:
    """Read a folder in BEIR layout: corpus.jsonl, queries.jsonl and qrels/<split>.tsv.

    Documents without any text are kept (a ranking must be able to contain them) and counted in a warning; queries
    without judgments in this split are left out, as in BEIR.

    Args:
        source: the folder, whose name becomes the data set's, or "tutorial"; a `RetrievalDataset` is returned as it is.
        split: which judgments to read.

    Raises:
        DataError: a file is missing or empty, a line is not a JSON object (with its number), an id comes twice, a text
            is unusable, or judgments name unknown ids.

    Example:
        >>> import workbench as wb
        >>> len(wb.read_dataset("tutorial").corpus)
        192
    """
    if isinstance(source, RetrievalDataset):
        return source
    if not isinstance(source, str | Path):
        raise DataError(f"a retrieval data set is read from a folder in BEIR layout; got {type(source).__name__}")
    folder = Path(source).expanduser()
    if source == "tutorial" and not folder.exists():
        return tutorial()
    if not os.path.isdir(folder):
        raise DataError(
            f"no data set at {folder}: there is no such folder. It needs corpus.jsonl, queries.jsonl and qrels/"
        )
    corpus = {name: f"{row.get('title') or ''} {row['text']}".strip() for name, row in _rows(folder / "corpus.jsonl")}
    if blank := sum(not text for text in corpus.values()):
        warnings.warn(f"{folder.name}: {blank} of {len(corpus):,} documents are empty", stacklevel=2)
    rows = dict(_rows(folder / "queries.jsonl"))
    qrels = _qrels(folder / "qrels" / f"{split}.tsv", rows, corpus)
    queries = {name: row["text"].strip() for name, row in rows.items() if name in qrels}
    if empty := [name for name, text in queries.items() if not text]:
        raise DataError(f"{folder / 'queries.jsonl'}: judged query {empty[0]!r} is empty")
    metadata = {name: rows[name].get("metadata") or {} for name in queries}
    return RetrievalDataset(folder.name, corpus, queries, qrels, metadata)


def is_dataset(source: object) -> bool:
    """Return whether a source names a retrieval data set, and not merely texts."""
    if not isinstance(source, str | Path):
        return False
    folder = Path(source).expanduser()
    return source == "tutorial" or ((folder / "corpus.jsonl").is_file() and (folder / "qrels").is_dir())


def _rows(path: Path) -> Iterator[tuple[str, dict]]:
    """Stream the objects of corpus.jsonl or queries.jsonl, each with its id; texts and titles are checked."""
    seen = set()
    for where, row in json_objects(path):
        for key in ("_id", "text"):
            if row.get(key) is None:
                raise DataError(f"{where}: no {key!r}")
        if (name := str(row["_id"])) in seen:
            raise DataError(f"{where}: id {name!r} comes twice; ids must be unique")
        seen.add(name)
        for key in ("title", "text"):
            if row.get(key) is not None and (problem := text_problem(row[key])):
                raise DataError(f"{where}: {key!r} {problem}")
        yield name, row


_GRADE = re.compile(r"-?\d{1,4}(\.0+)?")


def _qrels(path: Path, queries: Container[str], corpus: Container[str]) -> dict[str, dict[str, int]]:
    if not path.is_file():
        splits = ", ".join(sorted(p.stem for p in path.parent.glob("*.tsv"))) or "none"
        raise DataError(f"{path} is missing (splits found: {splits})")
    qrels: dict[str, dict[str, int]] = {}
    unknown: list[str] = []
    for number, line in enumerate(path.read_text("utf-8-sig", "replace").split("\n"), start=1):
        parts = [part.strip() for part in line.split("\t")]
        is_judgment = len(parts) == 3 and _GRADE.fullmatch(parts[2])
        if not line.strip() or (number == 1 and len(parts) == 3 and not is_judgment):
            continue  # a header, whatever its names
        if not is_judgment:
            raise DataError(f"{path}, line {number}: expected query-id, corpus-id and an integer score, tab-separated")
        query, document, grade = parts[0], parts[1], int(float(parts[2]))
        if qrels.setdefault(query, {}).setdefault(document, grade) != grade:
            raise DataError(
                f"{path}, line {number}: query {query!r} and document {document!r} were judged differently before"
            )
        for kind, name, known in (("query", query, queries), ("document", document, corpus)):
            if name not in known:
                unknown.append(f"line {number}: {kind} {name!r}")
    if unknown:
        raise DataError(f"{path}: {len(unknown):,} unknown ids, first {unknown[0]}")
    if not qrels:
        raise DataError(f"{path} has no judgments")
    return qrels
