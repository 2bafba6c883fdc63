"""Texts on disk, for more of them than memory should hold."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from workbench.corpora import Role, Text
from workbench.errors import CorpusError

_SCHEMA = pa.schema([("text", pa.large_string()), ("query", pa.bool_())])
_ROWS = 16_384


class StoredTexts(Sequence[Text]):
    """Texts in an Arrow file, memory-mapped: a sequence like a list of them, made as they are asked for.

    Args:
        path: what `write` wrote.

    Raises:
        CorpusError: the file cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self._rows: np.ndarray | None = None  # None: all, in order
        try:
            self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            self._texts, self._query = self._table["text"], self._table["query"]
        except (OSError, KeyError, pa.ArrowException) as error:
            raise CorpusError(f"{path} cannot be read as stored texts: {error}") from None

    @classmethod
    def write(cls, texts: Iterable[Text], path: str | Path) -> StoredTexts:
        """Store a stream of texts and return them.

        Raises:
            CorpusError: the file cannot be written; nothing is left of it.
        """
        path, stream = Path(path), iter(texts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as file:
                while rows := list(islice(stream, _ROWS)):
                    columns = [[t.text for t in rows], [t.role is Role.QUERY for t in rows]]
                    file.write_batch(
                        pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, _SCHEMA, strict=True)], _SCHEMA)
                    )
        except BaseException as error:
            with contextlib.suppress(OSError):
                path.unlink()
            if not isinstance(error, OSError):
                raise
            raise CorpusError(f"the texts cannot be stored in {path}: {error.strerror or error}") from None
        return cls(path)

    def subset(self, rows: np.ndarray) -> StoredTexts:
        """Return some of the texts, by row numbers, int of shape (m,)."""
        some = copy.copy(self)
        some._rows = rows if self._rows is None else self._rows[rows]
        return some

    def __len__(self) -> int:
        return len(self._table) if self._rows is None else len(self._rows)

    def __getitem__(self, index: int | slice) -> Text | list[Text]:
        """Return one text, or a list for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        row = index % len(self) if self._rows is None else self._rows[index]
        return Text(self._texts[int(row)].as_py(), Role.QUERY if self._query[int(row)].as_py() else Role.DOCUMENT)

    def __iter__(self) -> Iterator[Text]:
        for start in range(0, len(self), _ROWS):
            yield from self[start : start + _ROWS]
