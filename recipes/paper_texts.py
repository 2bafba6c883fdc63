"""Fetch the paper's mixture of texts from the hub into parquet files, each text with its role.

    python recipes/paper_texts.py --output FOLDER [--dry-run]

`workbench.read_texts(FOLDER)` reads the result. After a failure or Ctrl-C the same command continues.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from workbench import data
from workbench._util import write_whole
from workbench.data import Role
from workbench.errors import DataError, WorkbenchError

PART_ROWS = 100_000  # of a file
_BLOCK_ROWS = 4096  # written at once
CHARACTERS = (
    4000  # more than 512 tokens of nearly any English text; the rest is cut off to save room
)


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


# The paper (arXiv 2509.12539) names its sources and their sizes, but no data sets of the hub; these hold the same texts.
# Its definitions of 470,000 English words are not published, so they are missing: 5.7 of its 6.7 million texts are here.
# Of MS MARCO only the training queries are taken, because BEIR judges the others.
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
) -> Path:
    """Stream sources into `folder`, as parquet files of `PART_ROWS` rows with the columns `text`, `role` and `source`.

    A file appears when it is complete, and a file that is there is not fetched again.

    Args:
        sources: such as `PAPER`.
        folder: made if it does not exist.
        elsewhere: name of a data set to another one, or to a folder, of the same configuration, split and column.
        on_progress: called with the source and the number of its rows that are done.

    Returns:
        The folder.

    Raises:
        DataError: a data set cannot be reached or has no such column, or two sources are the same.
        WorkbenchError: the folder cannot be written.
    """
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise DataError(
            "two sources are of the same data set, configuration, split and column: join them"
        )
    folder = Path(folder).expanduser()
    for source in sources:
        done = 0
        while done < source.texts and _part(folder, source, done).is_file():
            done = min(done + PART_ROWS, source.texts)
            if on_progress:
                on_progress(source, done)
        if done == source.texts:
            continue
        name, before = (elsewhere or {}).get(source.data, source.data), done
        rows = data.hub_rows(
            name, source.column, config=source.config, split=source.split, skip=done
        )
        texts = (row[source.column] for row in islice(rows, source.texts - done))
        while written := _write(source, _part(folder, source, done), texts, done, on_progress):
            done += written
        if before < done < source.texts:
            warnings.warn(
                f"{source.data} has {done:,} rows, not {source.texts:,}: all are taken",
                stacklevel=2,
            )
    return folder


def _part(folder: Path, source: Source, first: int) -> Path:
    return folder / f"{source.name}-{first // PART_ROWS:04}.parquet"


def _write(source: Source, path: Path, rows: Iterator[str | None], done: int, on_progress) -> int:
    """Write one file and return how many rows it took, 0 at the end of the source."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("text", pa.string()), ("role", pa.string()), ("source", pa.string())])
    part, written = islice(rows, PART_ROWS), 0
    block = list(islice(part, _BLOCK_ROWS))

    def content(scratch: Path) -> None:
        nonlocal block, written
        with pq.ParquetWriter(scratch, schema, compression="zstd") as writer:
            while block:
                if odd := [row for row in block if not isinstance(row, str | None)]:
                    raise DataError(
                        f"{source.data}: column {source.column!r} has {odd[0]!r}, which is not a text"
                    )
                # An unusable row is left out, as an empty one is: it must not end a fetch of millions.
                texts = [
                    t for row in block if row and (t := row[:CHARACTERS]).strip() and "\0" not in t
                ]
                columns = [texts, [source.role.value] * len(texts), [source.name] * len(texts)]
                writer.write_table(pa.table(columns, schema=schema))
                written += len(block)
                if on_progress:
                    on_progress(source, done + written)
                block = list(islice(part, _BLOCK_ROWS))

    if block:
        write_whole(path, content)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    from tqdm import tqdm

    parser = argparse.ArgumentParser(description="Fetch the paper's mixture of texts from the hub.")
    parser.add_argument("--output", required=True, type=Path, help="folder for the texts")
    parser.add_argument("--dry-run", action="store_true", help="only list the sources")
    options = parser.parse_args(arguments)
    total = sum(source.texts for source in PAPER)
    if options.dry_run:
        for source in PAPER:
            print(f"{source.texts:>9,}  {source.role.value:<8}  {source.name}")
        print(f"{total:>9,}  in all; nothing was fetched")
        return 0
    done: dict[str, int] = {}
    try:
        with tqdm(total=total, unit=" texts") as bar:

            def show(source: Source, texts: int) -> None:
                done[source.name] = texts
                bar.set_description(source.data, refresh=False)
                bar.update(sum(done.values()) - bar.n)

            fetch(PAPER, options.output, on_progress=show)
    except WorkbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "stopped; complete files are kept, and the same command continues behind them",
            file=sys.stderr,
        )
        return 130
    print(f"the texts are in {options.output}: workbench distill --texts {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
