"""Texts on disk, for more of them than memory should hold."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from workbench._texts import Role, Text
from workbench._util import home, write_whole

_SCHEMA = pa.schema([("text", pa.large_string()), ("query", pa.bool_())])
_ROWS = 16_384  # of a batch; only the last one may have fewer


class StoredTexts(Sequence[Text]):
    """Texts in a memory-mapped Arrow file: a sequence that reads its items when asked for them."""

    def __init__(self, path: str | Path) -> None:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        self._batches = [file.get_batch(i) for i in range(file.num_record_batches)]
        self._rows: np.ndarray | None = None  # None: all, in order

    @classmethod
    def write(cls, texts: Iterable[Text], path: str | Path) -> StoredTexts:
        """Store a stream of texts and return them; if it fails, an earlier file stays as it was."""
        stream = iter(texts)

        def content(scratch: Path) -> None:
            with pa.OSFile(str(scratch), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as file:
                while rows := list(islice(stream, _ROWS)):
                    columns = [[t.text for t in rows], [t.role is Role.QUERY for t in rows]]
                    file.write_batch(pa.record_batch(columns, schema=_SCHEMA))

        return cls(write_whole(path, content))

    def subset(self, rows: np.ndarray) -> StoredTexts:
        """Return the texts of these row numbers, int of shape (m,)."""
        texts = copy.copy(self)
        texts._rows = rows if self._rows is None else self._rows[rows]
        return texts

    def __len__(self) -> int:
        return sum(map(len, self._batches)) if self._rows is None else len(self._rows)

    def __getitem__(self, index: int | slice) -> Text | list[Text]:
        places = range(len(self))[index]  # also raises IndexError
        if isinstance(index, slice):
            return list(self._read(places))
        return next(self._read(range(places, places + 1)))

    def __iter__(self) -> Iterator[Text]:
        for start in range(0, len(self), _ROWS):
            yield from self._read(range(start, min(start + _ROWS, len(self))))

    def _read(self, places: range) -> Iterator[Text]:
        rows = np.array(places, np.int64) if self._rows is None else self._rows[places]
        # Neighbors in one batch are taken at once.
        for part in np.split(rows, np.flatnonzero(np.diff(rows // _ROWS)) + 1):
            if len(part):
                batch = self._batches[part[0] // _ROWS].take(pa.array(part % _ROWS))
                for row in batch.to_pylist():
                    yield Text(row["text"], Role.QUERY if row["query"] else Role.DOCUMENT)


def hold(texts: Iterable[Text], in_memory: int) -> Sequence[Text]:
    """Return texts as a list, or `in_memory` and more in a file that goes with the process."""
    stream = iter(texts)
    first = list(islice(stream, in_memory))
    if len(first) < in_memory:
        return first
    home().mkdir(parents=True, exist_ok=True)
    # What is mapped stays readable after the folder is deleted.
    with tempfile.TemporaryDirectory(".texts", dir=home(), ignore_cleanup_errors=True) as folder:
        return StoredTexts.write(chain(first, stream), Path(folder, "texts.arrow"))
