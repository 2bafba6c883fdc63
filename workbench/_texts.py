"""Texts, in memory and on disk, and retrieval data sets; others import them from `data`."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from workbench._util import home, write_whole
from workbench.errors import DataError

_SCHEMA = pa.schema([("text", pa.large_string()), ("query", pa.bool_())])
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

    Example:
        >>> wb.Text("how does a sail work?", "query").role.value
        'query'
    """

    text: str
    role: Role = Role.DOCUMENT

    def __post_init__(self) -> None:
        object.__setattr__(self, "role", Role(self.role))
        if not isinstance(self.text, str) or "\0" in self.text:
            raise DataError(f"expected a string without NUL characters, got {self.text!r:.60}")
        try:
            self.text.encode()
        except UnicodeEncodeError as error:  # a lone surrogate, of a broken escape in JSON
            raise DataError(f"not valid Unicode: {error}") from None


@dataclass(frozen=True)
class RetrievalDataset:
    """A retrieval data set: documents and queries by their ids, and graded judgments.

    `qrels` maps query id to document id to a whole number; 0 means judged and not relevant.

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

    def __post_init__(self) -> None:
        for grades in self.qrels.values():
            for document in grades.keys() - self.corpus.keys():
                raise DataError(f"the judged document {document!r} is not in corpus")

    def document_texts(self) -> list[Text]:
        """Return the documents in their order."""
        return [Text(text, Role.DOCUMENT) for text in self.corpus.values()]

    def query_texts(self) -> list[Text]:
        """Return the queries in their order."""
        return [Text(text, Role.QUERY) for text in self.queries.values()]


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
                    columns = [[t.text for t in batch], [t.role is Role.QUERY for t in batch]]
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
                    yield Text(row["text"], Role.QUERY if row["query"] else Role.DOCUMENT)


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
