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
from workbench.errors import DataError, WorkbenchError

_SCHEMA = pa.schema([("text", pa.large_string()), ("query", pa.bool_())])
_ROWS = 16_384


class StoredTexts(Sequence[Text]):
    """Texts in a memory-mapped Arrow file that `write` wrote: a sequence whose items are read when they are asked for.

    Raises:
        DataError: the file cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self._rows: np.ndarray | None = None  # None: all, in order
        try:
            file = pa.ipc.open_file(pa.memory_map(str(path)))
            self._batches = [file.get_batch(i) for i in range(file.num_record_batches)]
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path} cannot be read as stored texts: {error}") from None

    @classmethod
    def write(cls, texts: Iterable[Text], path: str | Path) -> StoredTexts:
        """Store a stream of texts and return them.

        Raises:
            DataError: the file cannot be written; a file of that name stays what it was.
        """
        stream = iter(texts)

        def content(scratch: Path) -> None:
            with pa.OSFile(str(scratch), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as file:
                while rows := list(islice(stream, _ROWS)):
                    columns = {
                        "text": [t.text for t in rows],
                        "query": [t.role is Role.QUERY for t in rows],
                    }
                    file.write_batch(pa.RecordBatch.from_pydict(columns, _SCHEMA))

        try:
            return cls(write_whole(path, content))
        except WorkbenchError as error:
            raise (
                error
                if isinstance(error, DataError)
                else DataError(f"the texts cannot be stored: {error}")
            ) from None

    def subset(self, rows: np.ndarray) -> StoredTexts:
        """Return some of the texts, by row numbers, int of shape (m,)."""
        some = copy.copy(self)
        some._rows = rows if self._rows is None else self._rows[rows]
        return some

    def __len__(self) -> int:
        return sum(map(len, self._batches)) if self._rows is None else len(self._rows)

    def __getitem__(self, index: int | slice) -> Text | list[Text]:
        places = range(len(self))[index]  # also what raises IndexError
        found = list(self._read(places if isinstance(index, slice) else range(places, places + 1)))
        return found if isinstance(index, slice) else found[0]

    def __iter__(self) -> Iterator[Text]:
        for start in range(0, len(self), _ROWS):
            yield from self._read(range(start, min(start + _ROWS, len(self))))

    def _read(self, places: range) -> Iterator[Text]:
        rows = np.array(places, np.int64) if self._rows is None else self._rows[places]
        # All batches but the last have the same length, and neighbors in one are taken at once.
        for part in np.split(rows, np.flatnonzero(np.diff(rows // _ROWS)) + 1) if len(rows) else []:
            try:
                columns = (
                    self._batches[int(part[0]) // _ROWS].take(pa.array(part % _ROWS)).to_pydict()
                )
            except (UnicodeDecodeError, pa.ArrowException) as error:
                raise DataError(f"the stored texts are damaged: {error}") from None
            for text, query in zip(columns["text"], columns["query"], strict=True):
                yield Text(text, Role.QUERY if query else Role.DOCUMENT)


def hold(texts: Iterable[Text], in_memory: int) -> Sequence[Text]:
    """Return texts as a list if there are fewer than `in_memory`, else from a file that goes with the process."""
    stream = iter(texts)
    if len(few := list(islice(stream, in_memory))) < in_memory:
        return few
    try:
        home().mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(
            dir=home(), prefix=".texts-", ignore_cleanup_errors=True
        )
    except OSError as error:
        raise DataError(
            f"many texts are kept in {home()}, which cannot be written: {error.strerror or error}. Set WORKBENCH_HOME"
        ) from None
    with scratch as folder:  # what is mapped stays readable without its name
        return StoredTexts.write(chain(few, stream), Path(folder, "texts.arrow"))
