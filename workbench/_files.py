"""Formats of files: texts as streams of rows, and retrieval data sets in BEIR layout."""

from __future__ import annotations

import csv
import gzip
import json
import os
import warnings
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from workbench._texts import RetrievalDataset
from workbench._util import PROJECT, counted, expanded, need
from workbench.errors import DataError

DATA = PROJECT / "data"
SUFFIXES = (".csv", ".tsv", ".txt", ".md", ".parquet", ".jsonl", ".ndjson", ".json")
Row = tuple[str, object, object]  # file and line, text, role

csv.field_size_limit(1 << 30)


def file_rows(path: Path, column: str | None, encoding: str | None) -> Iterator[Row]:
    """Stream the texts of one file; DataError if it cannot be read. See `data.read_texts`."""
    suffix = _suffix(path)
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: texts are read from files that end in {', '.join(SUFFIXES)}")
    with _readable(path):
        if suffix in (".txt", ".md"):
            with _open(path, encoding) as file:
                records = [(str(path), file.read().strip())]
        elif suffix == ".parquet":
            records = _parquet_records(path)
        elif suffix in (".csv", ".tsv"):
            records = _csv_records(path, encoding)
        else:
            records = _json_records(path, encoding)
        yield from record_rows(records, column, path)


def files_in(folder: Path) -> list[Path]:
    """Return the files of texts in a folder and below, and warn about empty and other files.

    Of a folder in BEIR layout only the corpus is listed, and hidden files are not listed at all.
    """
    paths, left_out = [], []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = [Path(root, name) for name in sorted(names) if not name.startswith(".")]
        if _is_beir(Path(root)):
            files = [_member(Path(root), "corpus.jsonl")]
            folders.clear()
        for path in files:
            has_texts = _suffix(path) in SUFFIXES and path.is_file() and path.stat().st_size
            (paths if has_texts else left_out).append(path)
    if left_out:
        count = counted(len(left_out), "empty or other file")
        warnings.warn(f"{folder}: {count} left out, such as {left_out[0]}", stacklevel=6)
    return paths


def record_rows(
    records: Iterable[tuple[str, object]], column: str | None, source: object
) -> Iterator[Row]:
    """Take the texts of records, each with its place: strings, `Text` objects or dictionaries.

    In dictionaries they are under `column`, else `text` (in any case), else the only column.
    """
    columns = None
    for where, record in records:
        if not isinstance(record, Mapping):
            yield where, record, None
            continue
        if columns is None:
            columns = {str(name).lower(): name for name in record}
            role = columns.get("role", "role")
            others = [name for name in record if name != role]
            if column is None:
                column = columns.get("text", others[0] if len(others) == 1 else "text")
            if column not in record:
                names = ", ".join(map(str, record))
                raise DataError(f"{source} has no column {column!r}; choose one of {names}")
        yield where, record.get(column), None if column == role else record.get(role)


def hub_rows(
    name: str,
    *columns: str,
    config: str | None = None,
    split: str = "train",
    skip: int = 0,
    limit: int | None = None,
) -> Iterator[dict]:
    """Stream rows of a data set of the hub, or of a folder that `datasets` can read.

    Of each row the `columns` are kept, or all if none is named.
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


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn an error of what reads a file into a DataError with its path."""
    try:
        yield
    except (OSError, EOFError, zlib.error, csv.Error, LookupError, ValueError) as error:
        hint = ". Name its encoding, such as cp1252" if isinstance(error, UnicodeError) else ""
        raise DataError(f"{path} cannot be read: {error}{hint}") from None


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _open(path: Path, encoding: str | None, newline: str | None = None) -> TextIO:
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    return opener(path, "rt", encoding=encoding or "utf-8-sig", newline=newline)


def _csv_records(path: Path, encoding: str | None) -> Iterator[tuple[str, dict]]:
    with _open(path, encoding, newline="") as file:
        header = file.readline()
        file.seek(0)
        # Strict: without it a quotation mark that is not closed swallows the rest of the file.
        delimiter = max(",;\t|", key=header.count)
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise DataError(f"{where}: expected {len(reader.fieldnames)} fields, as the header")
            yield where, row


def _parquet_records(path: Path) -> Iterator[tuple[str, dict]]:
    import pyarrow.parquet as pq

    kinds = ("string", "large_string", "dictionary")
    with pq.ParquetFile(path) as file:
        names = [field.name for field in file.schema_arrow if str(field.type).startswith(kinds)]
        number = 0
        for batch in file.iter_batches(4096, columns=names):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row


def _json_records(path: Path, encoding: str | None) -> Iterator[tuple[str, object]]:
    """Stream the items of a JSON file that is one list, or the objects of JSON lines."""
    is_corpus = _is_beir(path.parent) and path == _member(path.parent, "corpus.jsonl")
    with _open(path, encoding) as file:
        if not file.read(100).lstrip().startswith("["):
            for where, row in _json_objects(path, encoding):
                yield where, _titled(row) if is_corpus else row
            return
        file.seek(0)
        for number, item in enumerate(json.load(file), start=1):
            yield f"{path}, item {number}", item


def _json_objects(path: Path, encoding: str | None = None) -> Iterator[tuple[str, dict]]:
    with _readable(path), _open(path, encoding) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except json.JSONDecodeError:
                value = None
            if not isinstance(value, dict):
                raise DataError(f"{path}, line {number}: not a JSON object ({line[:60]!r})")
            yield f"{path}, line {number}", value


# --- retrieval data sets in BEIR layout ---------------------------------------------------------


def read_dataset(source: str | Path | RetrievalDataset, split: str = "test") -> RetrievalDataset:
    """Read a folder in BEIR layout: corpus.jsonl, queries.jsonl, qrels/<split>.tsv, also as .gz.

    Ids are under `_id` or `id`. Judgments have the columns of BEIR (query, document, grade) or of
    TREC (one more in between), with or without a header. Queries without a judgment are left out,
    and so are judgments of unknown ids, which a warning counts. "tutorial" is the packaged folder;
    a `RetrievalDataset` is returned as it is. DataError if a file is missing or damaged.

    Example:
        >>> import workbench as wb
        >>> len(wb.read_dataset("tutorial").corpus)
        192
    """
    if isinstance(source, RetrievalDataset):
        return source
    folder = _folder(source)
    corpus = _texts_by_id(_member(folder, "corpus.jsonl"))
    queries = _texts_by_id(_member(folder, "queries.jsonl"))
    qrels = _qrels(_member(folder, f"qrels/{split}.tsv"), queries, corpus)
    queries = {name: text for name, text in queries.items() if name in qrels}
    return RetrievalDataset(folder.name, corpus, queries, qrels)


def tutorial() -> RetrievalDataset:
    """Return the small data set of everyday passages in `data/tutorial`."""
    return read_dataset("tutorial")


def is_dataset(source: object) -> bool:
    """Return whether a source names a retrieval data set, and not merely texts."""
    return isinstance(source, str | Path) and os.path.isdir(_folder(source) / "qrels")


def _folder(source: str | Path) -> Path:
    return DATA / "tutorial" if source == "tutorial" else expanded(source)


def _member(folder: Path, name: str) -> Path:
    """Return the path of a file in a folder, or that of its .gz form where only this exists."""
    path, packed = folder / name, folder / f"{name}.gz"
    return packed if packed.is_file() and not path.is_file() else path


def _is_beir(folder: Path) -> bool:
    return all(_member(folder, name).is_file() for name in ("corpus.jsonl", "queries.jsonl"))


def _titled(row: dict) -> str:
    return f"{row.get('title') or ''} {row.get('text') or ''}".strip()


def _texts_by_id(path: Path) -> dict[str, str]:
    texts = {}
    for where, row in _json_objects(path):
        name = str(row.get("_id", row.get("id", "")))
        if not name or name in texts:
            raise DataError(f"{where}: id {name!r}; expected an id under '_id' that is unique")
        texts[name] = _titled(row)
    return texts


def _qrels(path: Path, queries: Collection[str], corpus: Collection[str]) -> dict:
    """Return query id to document id to grade, of the judgments whose ids exist."""
    import pandas as pd

    with _readable(path):
        table = pd.read_csv(path, sep=r"\s+", header=None, dtype=str, keep_default_na=False)
        table = table.iloc[:, [0, -2, -1]].set_axis(["query", "document", "grade"], axis=1)
        if table["grade"][0].isalpha():  # a header
            table = table[1:]
        table = table.astype({"grade": int})
    known = table["query"].isin(list(queries)) & table["document"].isin(list(corpus))
    if not known.any():
        raise DataError(f"{path} has no judgments of the queries and documents beside it")
    if not known.all():
        count = f"{(~known).sum():,} of {len(table):,} judgments have unknown ids"
        warnings.warn(f"{path}: {count}. They are left out", stacklevel=3)
    qrels: dict[str, dict[str, int]] = {}
    for query, document, grade in table[known].itertuples(index=False, name=None):
        qrels.setdefault(query, {})[document] = grade
    return qrels
