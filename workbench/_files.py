"""The formats of files of texts, each read as a stream of rows."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from workbench._util import need
from workbench.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".csv", ".tsv", ".txt", ".md", ".parquet", ".jsonl", ".ndjson", ".json")


class Row(NamedTuple):
    """A text as its source has it. `where` names its file and line in error messages."""

    where: str
    text: object
    role: object = None


def file_rows(path: Path, column: str | None, encoding: str | None) -> Iterator[Row]:
    """Stream the texts of one file; DataError if it cannot be read. See `data.read_texts`."""
    kind = _suffix(path)
    if kind not in SUFFIXES:
        raise DataError(f"{path}: texts are read from files that end in {', '.join(SUFFIXES)}")
    with readable(path):
        if kind in (".txt", ".md"):
            with _open(path, encoding) as file:
                yield Row(str(path), file.read().strip())
        elif kind in (".csv", ".tsv"):
            yield from _csv_rows(path, column, encoding)
        elif kind == ".parquet":
            yield from _parquet_rows(path, column)
        elif _is_beir(path.parent) and path == member(path.parent, "corpus.jsonl"):
            for where, row in json_objects(path, encoding):
                yield Row(where, titled(row))
        else:
            yield from record_rows(_json_items(path, encoding), column, path)


def files_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the files of texts in a folder and below, and those that are empty or of other kinds.

    Of a folder in BEIR layout only the corpus is listed, and hidden files are not listed at all.
    """
    paths, left_out = [], []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = [Path(root, name) for name in sorted(names) if not name.startswith(".")]
        if _is_beir(Path(root)):
            files = [member(Path(root), "corpus.jsonl")]
            folders.clear()
        for path in files:
            usable = _suffix(path) in SUFFIXES and path.is_file() and path.stat().st_size
            (paths if usable else left_out).append(path)
    return paths, left_out


def member(folder: Path, name: str) -> Path:
    """Return the path of a file in a folder, or that of its .gz form where only this exists."""
    path, packed = folder / name, folder / f"{name}.gz"
    return packed if packed.is_file() and not path.is_file() else path


def choose_column(
    names: Sequence[str], strings: Sequence[str], column: str | None, source: object
) -> tuple[str, str | None]:
    """Return the column with the texts, and that with their roles or None.

    The texts are in `column`, else in `text` (in any case), else in the only column of strings.
    """
    lower = {str(name).lower(): name for name in names}
    role = lower.get("role")
    if column is None:
        strings = [name for name in strings if name != role]
        column = lower.get("text", strings[0] if len(strings) == 1 else None)
    if column not in names:
        columns = ", ".join(map(str, names))
        raise DataError(f"{source} has no column {column or 'text'!r}; choose one of {columns}")
    return column, None if role == column else role


def record_rows(
    records: Iterable[tuple[str, object]], column: str | None, source: object
) -> Iterator[Row]:
    """Take the texts of records, each with its place: strings, `Text` objects or dictionaries."""
    text = role = None
    for where, record in records:
        if not isinstance(record, Mapping):
            yield Row(where, record)
            continue
        if text is None:
            strings = [name for name, value in record.items() if isinstance(value, str)]
            text, role = choose_column(list(record), strings, column, source)
        yield Row(where, record.get(text), record.get(role or "role"))


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn an error of what reads a file into a DataError with its path; so is an empty file."""
    try:
        if not path.stat().st_size:
            raise DataError(f"{path} is empty")
        yield
    except (OSError, EOFError, zlib.error, LookupError, ValueError) as error:
        is_encoding = isinstance(error, UnicodeError) or "UTF8" in str(error)
        hint = ". Name its encoding, such as cp1252" if is_encoding else ""
        raise DataError(f"{path} cannot be read: {error}{hint}") from None


# --- formats ------------------------------------------------------------------------------------


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _is_beir(folder: Path) -> bool:
    return all(member(folder, name).is_file() for name in ("corpus.jsonl", "queries.jsonl"))


def _open(path: Path, encoding: str | None) -> TextIO:
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    return opener(path, "rt", encoding=encoding or "utf-8-sig")


def _csv_rows(path: Path, column: str | None, encoding: str | None) -> Iterator[Row]:
    from pyarrow import csv, string

    with _open(path, encoding) as file:
        header = file.readline()
    # Unlike pandas, pyarrow refuses a row with more or fewer fields than the header.
    parse = csv.ParseOptions(delimiter=max(",;\t|", key=header.count), newlines_in_values=True)
    # A row must fit into a block.
    read = csv.ReadOptions(encoding=encoding or "utf8", block_size=1 << 24)
    columns = _text_columns(csv.open_csv(path, read, parse).schema, column, path)
    types = dict.fromkeys(columns, string())
    convert = csv.ConvertOptions(include_columns=columns, column_types=types)
    yield from _table_rows(path, columns, csv.open_csv(path, read, parse, convert))


def json_objects(path: Path, encoding: str | None = None) -> Iterator[tuple[str, dict]]:
    """Stream the objects of a JSON-lines file, each with its place."""
    with readable(path), _open(path, encoding) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                value = json.loads(line)
            except ValueError as error:
                raise DataError(f"{where}: not JSON ({error})") from None
            if not isinstance(value, dict):
                raise DataError(f"{where}: expected a JSON object, got {type(value).__name__}")
            yield where, value


def titled(row: dict) -> str:
    """Return the text of a document of a BEIR corpus with its title in front."""
    return f"{row.get('title') or ''} {row.get('text') or ''}".strip()


def _json_items(path: Path, encoding: str | None) -> Iterator[tuple[str, object]]:
    """Stream the items of a JSON file that is one list, or the objects of JSON lines."""
    with _open(path, encoding) as file:
        if not file.read(100).lstrip().startswith("["):
            yield from json_objects(path, encoding)
            return
        file.seek(0)
        for number, item in enumerate(json.load(file), start=1):
            yield f"{path}, item {number}", item


def _parquet_rows(path: Path, column: str | None) -> Iterator[Row]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        columns = _text_columns(file.schema_arrow, column, path)
        yield from _table_rows(path, columns, file.iter_batches(4096, columns=columns))


def _text_columns(schema: pa.Schema, column: str | None, path: Path) -> list[str]:
    """Return the column of a table with the texts, then that with their roles if there is one."""
    from pyarrow import types

    checks = (types.is_string, types.is_large_string, types.is_dictionary)
    strings = [field.name for field in schema if any(check(field.type) for check in checks)]
    text, role = choose_column(schema.names, strings, column, path)
    return [text] if role is None else [text, role]


def _table_rows(path: Path, columns: list[str], batches: Iterable[pa.RecordBatch]) -> Iterator[Row]:
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield Row(f"{path}, row {number}", *(row[name] for name in columns))


def hub_rows(
    name: str,
    *columns: str,
    config: str | None = None,
    split: str = "train",
    skip: int = 0,
    limit: int | None = None,
) -> Iterator[dict]:
    """Stream rows of a data set of the Hugging Face hub, or of a folder that `datasets` can read.

    Of each row the `columns` are kept, or all if none is named. The first `skip` rows are left
    out, and at most `limit` are read.
    """
    load_dataset = need("datasets", "hub").load_dataset
    try:
        rows = load_dataset(name, config, split=split, streaming=True).skip(skip)
        rows = rows.select_columns(list(columns)) if columns else rows
        yield from rows if limit is None else rows.take(limit)
    except Exception as error:  # `datasets` raises a dozen kinds
        raise DataError(
            f"data set {name} cannot be read: {error}. Check its name, the network and, for a "
            "gated data set, HF_TOKEN"
        ) from None
