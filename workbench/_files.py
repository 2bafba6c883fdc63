"""The formats of files of texts, each as a stream of rows; nothing here holds a whole large file."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from workbench._texts import MAX_CHARACTERS, Text
from workbench._util import need
from workbench.errors import DataError, WorkbenchError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

Row = tuple[str, object, object]  # where it is, its text, its role (None: not said)

SUFFIXES = (".csv", ".tsv", ".txt", ".md", ".parquet", ".jsonl", ".ndjson", ".json")
# Usual names of a column of texts, also in plural. The first line of a table with another name may well be a text.
_USUAL = """text sentence document passage content note body title query question abstract description answer article
    caption chunk comment headline input line message paragraph post prompt review string summary tweet word queries summaries""".split()
_BLOCK_LINES = 1000  # of a text file that is cut into passages
_LINE_CHARACTERS = 8 * MAX_CHARACTERS
_JSON_BYTES = 1 << 30  # of a .json file, which is parsed whole
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
         codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip


def file_rows(path: Path, column: str | None, encoding: str | None, cut: bool) -> Iterator[Row]:
    """Stream the texts of one file; with `cut`, a long text file comes in blocks. See `data.read_texts`.

    Raises:
        DataError: the file is of another kind, empty, damaged or in another encoding, or has no such column.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: texts are read from files that end in {', '.join(SUFFIXES)}")
    if not path.stat().st_size:
        raise DataError(f"{path} is empty")
    if suffix == ".parquet":
        return _parquet_texts(path, column)
    if suffix in (".csv", ".tsv"):
        return _table_rows(path, column, encoding)
    if suffix in (".txt", ".md"):
        return _text_rows(path, encoding, cut)
    if path.name == "corpus.jsonl" and (path.parent / "queries.jsonl").is_file():  # a BEIR folder: with titles
        return corpus_rows(path)
    return record_rows((_json_items if suffix == ".json" else json_lines)(path, encoding), column, str(path))


def files_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the files of texts in a folder and below, by name, and those that are left out.

    Files of other kinds, empty and binary files are left out, and all but the corpus of a BEIR folder. Hidden files
    and folders are in neither list.
    """
    found, left_out = [], []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        if {"corpus.jsonl", "queries.jsonl"} <= set(names):
            folders[:], names = [], ["corpus.jsonl"]
        for path in (Path(root, name) for name in sorted(names) if name[0] != "."):
            readable = path.suffix.lower() in SUFFIXES and path.is_file() and path.stat().st_size
            if readable and path.suffix.lower() != ".parquet":
                with path.open("rb") as file:
                    head = file.read(4096)
                readable = b"\0" not in head or _mark(head) or "UTF-16" in _guess(head)
            (found if readable else left_out).append(path)
    return found, left_out


def choose_column(names: Sequence[str], strings: Iterable[str], column: str | None, what: str) -> str:
    """Return the column that holds the texts: the one that is asked for, `text`, or the only one of strings.

    Raises:
        DataError: none of them is there, or several have its name.
    """
    strings = [name for name in strings if name != "role"]
    chosen = column or "text"
    if chosen not in names and not column and len(strings) == 1:
        chosen = strings[0]
    for name in (chosen, "role"):
        if (count := list(names).count(name)) > 1:
            raise DataError(f"{what} has {count} columns named {name!r}: rename all but one of them")
    if chosen in names:
        return chosen
    some = strings[0] if strings else "..."
    hint = "" if column or not len(names) else f". Choose the column with wb.read_texts(..., column={some!r})"
    has = ", ".join(map(str, names)) or "no columns"
    raise DataError(f"{what} has no column {column or 'text'!r}; it has {has}{hint}")


def record_rows(records: Iterable[tuple[str, object]], column: str | None, what: str) -> Iterator[Row]:
    """Take the texts of records, which are strings, `Text`s or dictionaries, each with where it is."""
    chosen = None
    for where, record in records:
        if isinstance(record, Text):
            yield where, record.text, record.role
        elif not isinstance(record, dict):
            yield where, record, None
        else:
            if chosen is None:
                strings = [name for name, value in record.items() if isinstance(value, str)]
                chosen = choose_column(list(record), strings, column, what)
            if chosen not in record:
                raise DataError(f"{where}: no {chosen!r}; it has {', '.join(map(str, record))}")
            yield where, record[chosen], record.get("role")


# --- lines --------------------------------------------------------------------------------------


def lines_of(path: Path, encoding: str | None = None) -> Iterator[str]:
    """Stream the lines of a text file with their ends: UTF-8, UTF-16 with a byte-order mark, or the encoding given.

    Raises:
        DataError: the file is missing, binary, or in another encoding (with the line and what it looks like).
    """
    if not path.is_file():
        raise DataError(f"{path} is missing")
    with path.open("rb") as file:
        head = file.read(4096)
        file.seek(0)
        if not encoding and not _mark(head) and b"\0" in head:
            raise DataError(
                f"{path} is binary, or text in {_guess(head)}: if it is text, read it with wb.read_texts(..., encoding=...)"
            )
        kind, number = encoding or _mark(head) or "utf-8", 0
        try:
            with io.TextIOWrapper(file, kind, newline="") as text:
                for number, line in enumerate(iter(lambda: text.readline(_LINE_CHARACTERS), ""), start=1):
                    if len(line) == _LINE_CHARACTERS:
                        raise DataError(f"{path}, line {number}: longer than {len(line):,} characters; is it text?")
                    yield line.removeprefix("\ufeff") if number == 1 else line
        except LookupError:
            raise DataError(f"encoding {encoding!r} is unknown; cp1252, utf-16 or shift_jis are some") from None
        except UnicodeError as error:
            if encoding or not isinstance(error, UnicodeDecodeError) or not kind.startswith("utf-8"):
                raise DataError(f"{path} is not {kind} text: {error}") from None
            # The block that cannot be decoded begins in the line after those that were read.
            number += 1 + error.object.count(b"\n", 0, error.start)
            reason = f"not UTF-8 text ({error.reason}). It looks like {_guess(error.object)}"
            raise DataError(f"{path}, line {number}: {reason}") from None


def is_utf8(path: Path) -> bool:
    """Say whether a whole file is text that needs no `encoding`."""
    try:
        return all(True for _ in lines_of(path))
    except DataError:
        return False


def _mark(head: bytes) -> str | None:
    """Return the encoding that a byte-order mark names."""
    return next((name for mark, name in _BOMS.items() if head.startswith(mark)), None)


def _guess(raw: bytes) -> str:
    even, odd = raw[::2].count(0), raw[1::2].count(0)
    if max(even, odd) > len(raw) // 4 and min(even, odd) < len(raw) // 50 + 1:
        kind = "utf-16-le" if odd > even else "utf-16-be"
        return f"UTF-16 without a byte-order mark: read it with {_encoding(kind)}"
    if b"\0" in raw:
        return "an unknown encoding"
    return f"Latin-1 or Windows-1252 (older Windows programs write it): read it with {_encoding('cp1252')}"


def _encoding(kind: str) -> str:
    return f"wb.read_texts(..., encoding={kind!r})"


# --- formats ------------------------------------------------------------------------------------


def _text_rows(path: Path, encoding: str | None, cut: bool) -> Iterator[Row]:
    if not cut and path.stat().st_size > 4 * MAX_CHARACTERS:
        raise DataError(
            f"{path} has {path.stat().st_size / 1e6:,.0f} MB, and a {path.suffix} file is read as one text: "
            "wb.read_texts(..., passages=200) cuts it into passages"
        )
    lines = lines_of(path, encoding)
    while block := "".join(islice(lines, _BLOCK_LINES if cut else None)):
        yield str(path), block.strip(), None


_NUMBER = re.compile(r"\s*([-+]?\d*\.?\d*(e[-+]?\d+)?|nan)?\s*", re.IGNORECASE)


def _table_rows(path: Path, column: str | None, encoding: str | None) -> Iterator[Row]:
    lines = lines_of(path, encoding)
    head = list(islice(lines, 100))
    if not "".join(head).strip():
        raise DataError(f"{path} is empty")
    csv.field_size_limit(max(csv.field_size_limit(), 4 * MAX_CHARACTERS))
    delimiter, (names, *some) = _separated(head, column or "text", "\t" if path.suffix.lower() == ".tsv" else ",")
    strings = [
        name
        for i, name in enumerate(names)
        if not some or not all(_NUMBER.fullmatch(record[i]) for record in some if i < len(record))
    ]
    try:
        chosen = choose_column(names, strings, column, f"{path} (columns separated by {delimiter!r})")
    except DataError as error:
        raise DataError(f"{error}. The names are its first line: if that is no header, put one above it") from None
    if chosen not in (column, "text"):
        _check_header(path, names, chosen)
    reader = csv.DictReader(chain(head, lines), names, delimiter=delimiter, strict=True)
    before = 0
    try:
        for number, record in enumerate(reader):
            where, before = f"{path}, line {before + 1}", reader.line_num
            if more := record.get(None):
                raise DataError(
                    f"{where}: {len(names) + len(more)} fields, and the header has {len(names)}; a field with "
                    f"{delimiter!r} in it needs quotes"
                )
            if number:  # the first is the header
                yield where, record[chosen], record.get("role")
    except csv.Error as error:
        raise DataError(f"{path}, line {before + 1}: not a table ({error}); are quotes opened and closed?") from None


def _check_header(path: Path, names: list[str], chosen: str) -> None:
    """Raise or warn where the first line of a table, which is taken as its header, may be a text."""
    if len(chosen.split()) > 5:
        raise DataError(
            f"{path} seems to have no header: its first line is {chosen[:60]!r}. Put a line `text` above it"
        )
    alone = len(names) == 1 or any(name.strip() and _NUMBER.fullmatch(name) for name in names)
    if alone and not {chosen.strip().lower(), chosen.strip().lower().removesuffix("s")} & set(_USUAL):
        warnings.warn(
            f"{path}: its first line, {chosen!r}, was taken as the column's name. If it is a text, put a line `text` "
            f"above it; if it is the name, wb.read_texts(..., column={chosen!r}) says so",
            stacklevel=2,
        )


def _separated(head: list[str], wanted: str, usual: str) -> tuple[str, list[list[str]]]:
    """Return what separates the columns (it gives the column wanted, or rows of one width), and the first records."""
    found = {}
    for delimiter in (usual, ",", ";", "\t", "|"):
        records = [record for record in csv.reader(head, delimiter=delimiter) if record]
        # The last record may go on after the head.
        found[delimiter] = records[:-1] if len(head) == 100 and len(records) > 1 else records
    named = [each for each, records in found.items() if wanted in records[0]]
    fits = [each for each, records in found.items() if len({len(r) for r in records}) == 1 < len(records[0])]
    chosen = [*named, *fits, usual][0]
    return chosen, found[chosen]


def json_lines(path: Path, encoding: str | None = None) -> Iterator[tuple[str, object]]:
    """Stream the values of a JSON-lines file, each with where it is.

    Raises:
        DataError: the file is missing or empty, or a line is not JSON.
    """
    empty = True
    for number, line in enumerate(lines_of(path, encoding), start=1):
        if line.strip():
            empty, where = False, f"{path}, line {number}"
            yield where, _json(line, where)
    if empty:
        raise DataError(f"{path} is empty")


def json_objects(path: Path) -> Iterator[tuple[str, dict]]:
    """Stream the objects of a JSON-lines file as `json_lines` does; a line that is no object is a DataError too."""
    for where, row in json_lines(path):
        if not isinstance(row, dict):
            raise DataError(f"{where}: a JSON object is expected, not {type(row).__name__}")
        yield where, row


def corpus_rows(path: Path) -> Iterator[Row]:
    """Stream the documents of a BEIR folder's corpus.jsonl, each with its title in front."""
    for where, row in json_objects(path):
        title, text = row.get("title") or "", row.get("text")
        yield where, f"{title} {text}".strip() if isinstance(title, str) and isinstance(text, str) else text, None


def _json_items(path: Path, encoding: str | None) -> Iterator[tuple[str, object]]:
    try:
        by_line = isinstance(next(json_lines(path, encoding))[1], dict)
    except DataError:
        by_line = False
    if by_line:
        yield from json_lines(path, encoding)
        return
    if path.stat().st_size > _JSON_BYTES:
        raise DataError(f"{path} is larger than 1 GB: write one object a line, into a .jsonl file")
    items = _json("".join(lines_of(path, encoding)), str(path))
    if not isinstance(items, list):
        raise DataError(f"{path}: a list of strings or objects is expected, not {type(items).__name__}")
    yield from ((f"{path}, item {number}", item) for number, item in enumerate(items, start=1))


def _json(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers and nesting beyond what Python reads
        reason = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else error
        raise DataError(f"{where}: not JSON ({reason})") from None


def parquet_file(path: Path, *columns: str) -> pq.ParquetFile:
    """Open a parquet file and see that it has the columns.

    Raises:
        DataError: the file is missing or damaged, or has no such column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read as parquet: {error}") from None
    names = file.schema_arrow.names
    if missing := set(columns) - set(names):
        raise DataError(f"{path} has no column {' or '.join(sorted(missing))}; it has {', '.join(names)}")
    return file


def parquet_rows(path: Path, *columns: str) -> Iterator[tuple[str, dict]]:
    """Stream columns of a parquet file, each row with where it is.

    Raises:
        DataError: the file is missing, empty or damaged, or has no such column.
    """
    import pyarrow as pa

    file = parquet_file(path, *columns)
    if not file.metadata.num_rows:
        raise DataError(f"{path} is empty")
    number = 0
    try:
        batches = file.iter_batches(batch_size=4096, columns=list(columns))
        for number, row in enumerate(chain.from_iterable(map(pa.RecordBatch.to_pylist, batches)), start=1):
            yield f"{path}, row {number}", row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged after row {number:,}: {error}") from None


def text_columns(path: Path, column: str | None) -> list[str]:
    """Return the column of a parquet file that holds the texts (see `choose_column`), then `role` if it has one."""
    with parquet_file(path) as file:
        kinds = {field.name: str(getattr(field.type, "value_type", field.type)) for field in file.schema_arrow}
    chosen = choose_column([*kinds], [name for name, kind in kinds.items() if "string" in kind], column, str(path))
    return [chosen, *({"role"} & set(kinds) - {chosen})]


def _parquet_texts(path: Path, column: str | None) -> Iterator[Row]:
    columns = text_columns(path, column)
    return record_rows(parquet_rows(path, *columns), columns[0], str(path))


def hub_rows(
    name: str,
    *columns: str,
    config: str | None = None,
    split: str = "train",
    skip: int = 0,
    limit: int | None = None,
) -> Iterator[dict]:
    """Stream rows of a data set of the Hugging Face hub; nothing is downloaded whole.

    Args:
        name: the data set's name on the hub, or a local folder that `datasets` can read.
        *columns: those of each row to keep; all if none is named.
        config: the data set's configuration, where it has several.
        split: the split to read.
        skip: rows to leave out at first.
        limit: stop after this many rows.

    Raises:
        DataError: the data set cannot be reached, or has no such column.
        WorkbenchError: the extra `hub` is not installed.
    """
    load_dataset = need("datasets", "hub").load_dataset
    try:
        rows = load_dataset(name, config, split=split, streaming=True)
        rows = rows.skip(skip) if skip else rows
        for row in rows if limit is None else rows.take(limit):
            if missing := [column for column in columns if column not in row]:
                raise DataError(f"data set {name}: no column {missing[0]!r}; it has {', '.join(row)}")
            yield {column: row[column] for column in columns or row}
    except WorkbenchError:
        raise
    except Exception as error:  # datasets raises a dozen kinds, most of them bare
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"data set {name} ({split}) could not be read: {reason}. Check the name, the network and, "
            "for a gated data set, HF_TOKEN; a local file or folder needs no hub."
        ) from None
