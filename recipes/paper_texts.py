"""Text from many data sets of the hub, each with its role, kept on this machine as parquet."""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from workbench import data
from workbench.data import Role
from workbench.errors import DataError

PART_ROWS = 100_000  # of a file
_BLOCK_ROWS = 4096  # written at once
CHARACTERS = 4000  # more than 512 tokens of nearly any English text; what follows would only take room


@dataclass(frozen=True)
class Source:
    """One text column of a data set of the hub.

    Attributes:
        data: the data set's name on the hub, or a folder that `datasets` can read.
        column: the column that holds the text.
        role: of every text in it.
        texts: how many rows to take, from the first on.
        config: the data set's configuration, where it has several.
        split: the split to read.
    """

    data: str
    column: str
    role: Role
    texts: int
    config: str | None = None
    split: str = "train"

    @property
    def name(self) -> str:
        """What its files are called."""
        split = None if self.split == "train" else self.split
        parts = (self.data, self.config, split, self.column)
        return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(filter(None, parts)))


# The paper (arXiv 2509.12539) names what it took and how much of it, not the data sets of the hub; these are the ones
# that hold the same. Its definitions of 470,000 English words are published nowhere, so they are left out: 5.7 of its
# 6.7 million texts are here. Of MS MARCO only training queries: others are judged in BEIR.
PAPER = (
    Source("HuggingFaceFW/fineweb", "text", Role.DOCUMENT, 3_000_000, config="sample-10BT"),
    Source("vblagoje/cc_news", "text", Role.DOCUMENT, 900_000),
    Source("microsoft/ms_marco", "query", Role.QUERY, 502_000, config="v2.1"),
    Source("embedding-data/Amazon-QA", "query", Role.QUERY, 979_000),
    Source("qiaojin/PubMedQA", "question", Role.QUERY, 200_000, config="pqa_artificial"),
    Source("sentence-transformers/trivia-qa", "query", Role.QUERY, 73_000, config="pair"),
    Source("colbertv2/lotte", "query", Role.QUERY, 2_931, config="pooled", split="search_dev"),
    Source("colbertv2/lotte", "query", Role.QUERY, 3_869, config="pooled", split="search_test"),
    Source("colbertv2/lotte", "query", Role.QUERY, 10_097, config="pooled", split="forum_dev"),
    Source("colbertv2/lotte", "query", Role.QUERY, 10_025, config="pooled", split="forum_test"),
)


def fetch(
    sources: Sequence[Source],
    folder: str | Path,
    *,
    elsewhere: Mapping[str, str] | None = None,
    on_progress: Callable[[Source, int], None] | None = None,
    stop: threading.Event | None = None,
) -> Path:
    """Stream sources into `folder`, as parquet files of `PART_ROWS` rows with the columns `text`, `role` and `source`.

    A file appears when it is whole, and what is there is not fetched again: after a failure or a stop the same call
    goes on behind the last whole file. `data.read_texts` reads the result.

    Args:
        sources: such as `PAPER`.
        folder: made if it is not there.
        elsewhere: name of a data set to another one, or to a folder, of the same configuration, split and column.
        on_progress: called with the source and how many of its rows are done.
        stop: when set, it ends within some thousand texts.

    Returns:
        The folder.

    Raises:
        DataError: a data set cannot be reached or has no such column, two sources are one, the folder cannot be
            written to, or it was stopped.
    """
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise DataError("two sources are of the same data set, configuration, split and column: join them")
    folder = Path(folder).expanduser()
    for source in sources:
        done = 0
        while done < source.texts and _part(folder, source, done).is_file():
            done = min(done + PART_ROWS, source.texts)
            if on_progress:
                on_progress(source, done)
        if done == source.texts:
            continue
        name = (elsewhere or {}).get(source.data, source.data)
        rows = data.hub_rows(
            name, source.column, config=source.config, split=source.split, skip=done, limit=source.texts - done
        )
        before = done
        try:
            folder.mkdir(parents=True, exist_ok=True)
            texts = (row[source.column] for row in rows)
            while written := _write(source, _part(folder, source, done), texts, done, on_progress, stop):
                done += written
            if before < done < source.texts:
                warnings.warn(f"{source.data} has {done:,} rows, not {source.texts:,}: all are taken", stacklevel=2)
        except OSError as error:
            raise DataError(f"{folder} cannot be written to: {error.strerror or error}") from None
    return folder


def _part(folder: Path, source: Source, first: int) -> Path:
    return folder / f"{source.name}-{first // PART_ROWS:04}.parquet"


def _write(source: Source, path: Path, rows: Iterator[str | None], done: int, on_progress, stop) -> int:
    """Write one file, whole or not at all; return how many rows it took, 0 at the end of the source."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("text", pa.string()), ("role", pa.string()), ("source", pa.string())])
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    written = 0
    try:
        with pq.ParquetWriter(scratch, schema, compression="zstd") as writer:
            while block := list(islice(rows, min(_BLOCK_ROWS, PART_ROWS - written))):
                if stop is not None and stop.is_set():
                    raise DataError("stopped; whole files are kept, and the same command goes on behind them")
                if odd := [row for row in block if not isinstance(row, str | None)]:
                    raise DataError(f"{source.data}: column {source.column!r} has {odd[0]!r}, which is no text")
                # A row that no model can read is left out, as an empty one is: it must not end a fetch of millions.
                texts = [t for row in block if row and (t := row[:CHARACTERS]).strip() and not data.text_problem(t)]
                columns = [texts, [source.role.value] * len(texts), [source.name] * len(texts)]
                writer.write_table(pa.table(columns, schema=schema))
                written += len(block)
                if on_progress:
                    on_progress(source, done + written)
        if written:
            os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    return written
