"""Texts, in memory and on disk, and retrieval data sets; others import them from `data`."""

from __future__ import annotations

import copy
import json
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from workbench._util import home, write_whole
from workbench.errors import DataError

_STRINGS = "text", "id", "title", "fields"  # columns of a file; fields are JSON
_SCHEMA = pa.schema([("query", pa.bool_()), *((name, pa.large_string()) for name in _STRINGS)])
_BATCH = 16_384  # rows; only the last batch of a file may have fewer


class Role(StrEnum):
    """What a text is in a search. A teacher may embed queries and documents differently."""

    QUERY = "query"
    DOCUMENT = "document"

    @classmethod
    def _missing_(cls, value: object) -> Role:
        raise DataError(f"role {value!r:.80}: expected 'query' or 'document'")


@dataclass(frozen=True, slots=True)
class Text:
    """One text and its role. DataError if the text is not a string of valid Unicode.

    Its name and what else is known of it come along; texts are equal without them.

    Example:
        >>> wb.Text("how does a sail work?", "query").role.value
        'query'
    """

    text: str
    role: Role = Role.DOCUMENT
    id: str = field(default="", compare=False)  # such as a file's name; need not be unique
    title: str = field(default="", compare=False)  # the text begins with it
    fields: Mapping[str, object] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "role", Role(self.role))
        if not isinstance(self.text, str) or "\0" in self.text:
            raise DataError(f"expected a string without NUL characters, got {self.text!r:.60}")
        try:
            self.text.encode()
        except UnicodeEncodeError as error:  # a lone surrogate, of a broken escape in JSON
            raise DataError(f"not valid Unicode: {error}") from None


def joined(title: str, body: str) -> str:
    """Return a title and a text as two sentences."""
    ends = unicodedata.category(title[-1:] or ".").startswith("P")
    return f"{title}{'' if ends else '.'} {body}"


@dataclass(frozen=True)
class Passages:
    """Passages of n documents, in document order."""

    texts: Sequence[Text]
    documents: np.ndarray  # the position of each one's document, int of shape (p,)
    spans: np.ndarray  # where it begins and ends in its document, int of shape (p, 2)


@dataclass(frozen=True)
class RetrievalDataset:
    """A retrieval data set: documents and queries by their ids, and graded judgments.

    `qrels` maps query id to document id to a whole number; 0 means judged and not relevant.
    Documents that were read have titles and fields in `details`. With `passages`, models embed
    these, and a document is as good as its best one.

    Example:
        >>> documents, queries = {"d1": "Bread rises."}, {"q1": "why does bread rise?"}
        >>> data = wb.RetrievalDataset("notes", documents, queries, {"q1": {"d1": 1}})
        >>> len(data.document_texts())
        1
    """

    name: str
    corpus: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    details: Mapping[str, Text] = field(default_factory=dict, repr=False)
    passages: Passages | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for grades in self.qrels.values():
            for document in grades.keys() - self.corpus.keys():
                raise DataError(f"the judged document {document!r} is not in corpus")

    def document_texts(self) -> Sequence[Text]:
        """Return the documents, or their passages, in their order."""
        if self.passages is not None:
            return self.passages.texts
        texts = []
        for name, text in self.corpus.items():
            read = self.details.get(name)
            texts.append(read if read is not None and read.text == text else Text(text, id=name))
        return texts

    def query_texts(self) -> list[Text]:
        """Return the queries in their order."""
        return [Text(text, Role.QUERY, name) for name, text in self.queries.items()]

    @property
    def rows(self) -> np.ndarray:
        """The position of the document of each of `document_texts`, int of shape (n,)."""
        is_cut = self.passages is not None
        return self.passages.documents if is_cut else np.arange(len(self.corpus))


class StoredTexts(Sequence[Text]):
    """Texts in a memory-mapped Arrow file: a sequence that reads its items when asked for them."""

    def __init__(self, path: str | Path) -> None:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        self._batches = [file.get_batch(i) for i in range(file.num_record_batches)]
        self._rows = np.arange(sum(map(len, self._batches)))

    @classmethod
    def write(cls, texts: Iterable[Text], path: str | Path) -> StoredTexts:
        """Store a stream of texts and return them; if it fails, an earlier file stays."""
        stream = iter(texts)

        def content(scratch: Path) -> None:
            with pa.OSFile(str(scratch), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as file:
                while batch := list(islice(stream, _BATCH)):
                    fields = [json.dumps(dict(text.fields), default=str) for text in batch]
                    strings = [[getattr(t, name) for t in batch] for name in _STRINGS[:3]]
                    columns = [[t.role is Role.QUERY for t in batch], *strings, fields]
                    file.write_batch(pa.record_batch(columns, schema=_SCHEMA))

        return cls(write_whole(path, content))

    def subset(self, rows: np.ndarray) -> StoredTexts:
        """Return the texts of these row numbers, int of shape (m,)."""
        texts = copy.copy(self)
        texts._rows = self._rows[rows]
        return texts

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int | slice) -> Text | list[Text]:
        if isinstance(index, slice):
            return list(self._read(self._rows[index]))
        return next(self._read(self._rows[[index]]))

    def __iter__(self) -> Iterator[Text]:
        for start in range(0, len(self), _BATCH):
            yield from self._read(self._rows[start : start + _BATCH])

    def _read(self, rows: np.ndarray) -> Iterator[Text]:
        # Neighbors in one batch are taken at once.
        for part in np.split(rows, np.flatnonzero(np.diff(rows // _BATCH)) + 1):
            if len(part):
                batch = self._batches[part[0] // _BATCH].take(pa.array(part % _BATCH))
                for row in batch.to_pylist():
                    is_query, fields = row.pop("query"), json.loads(row.pop("fields"))
                    role = Role.QUERY if is_query else Role.DOCUMENT
                    yield Text(role=role, fields=fields, **row)


def list_or_store(texts: Iterable[Text], in_memory: int) -> Sequence[Text]:
    """Return texts as a list, or `in_memory` and more in a file that goes with the process."""
    stream = iter(texts)
    first = list(islice(stream, in_memory))
    if len(first) < in_memory:
        return first
    home().mkdir(parents=True, exist_ok=True)
    # What is mapped stays readable after the folder is deleted.
    with tempfile.TemporaryDirectory(".texts", dir=home(), ignore_cleanup_errors=True) as folder:
        return StoredTexts.write(chain(first, stream), Path(folder, "texts.arrow"))
