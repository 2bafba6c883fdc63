"""The formats of files of texts, each as a stream of rows; nothing here holds a whole large file."""

from __future__ import annotations

import csv
import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from workbench._lines import is_packed, joined, lines_of, looks_like_text
from workbench._texts import MAX_CHARACTERS, Text
from workbench._util import need
from workbench.errors import DataError, WorkbenchError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

Row = tuple[str, object, object]  # where it is, its text, its role (None: not said)

SUFFIXES = (".csv", ".tsv", ".txt", ".md", ".parquet", ".jsonl", ".ndjson", ".json")
PACKED = " (all but .parquet also as .gz)"
# Usual names of a column of texts, also in plural. The first line of a table with another name may well be a text.
_USUAL = """text sentence document passage content note body title query question abstract description answer article
    caption chunk comment headline input line message paragraph post prompt review string summary tweet word queries summaries""".split()
_BLOCK_LINES = 1000  # of a text file that is cut into passages
_HEAD_RECORDS = 1000  # in which a first string is looked for
_JSON_BYTES = 1 << 30  # of a .json file, which is parsed whole


def file_rows(path: Path, column: str | None, encoding: str | None, cut: bool) -> Iterator[Row]:
    """Stream the texts of one file; with `cut`, a long text file comes in blocks. See `data.read_texts`.

    Raises:
        DataError: the file is of another kind, empty, damaged or in another encoding, or has no such column.
    """
    suffix = _suffix(path)
    if suffix not in SUFFIXES:
        raise DataError(
            f"{path}: texts are read from files that end in {', '.join(SUFFIXES)}{PACKED}"
        )
    if not path.stat().st_size:
        raise DataError(f"{path} is empty")
    if suffix == ".parquet":
        return _parquet_texts(path, column)
    if suffix in (".csv", ".tsv"):
        return _table_rows(path, column, encoding)
    if suffix in (".txt", ".md"):
        return _text_rows(path, encoding, cut)
    is_corpus = path.name.lower().removesuffix(".gz") == "corpus.jsonl" and path == member(
        path.parent, "corpus.jsonl"
    )
    if is_corpus and member(path.parent, "queries.jsonl").is_file():
        return corpus_rows(path, encoding)  # a BEIR folder: with titles
    return record_rows(
        (_json_items if suffix == ".json" else json_lines)(path, encoding), column, str(path)
    )


def files_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the files of texts in a folder and below, by name, and those that are left out.

    Files of other kinds, empty and binary files are left out, and what else is in a BEIR folder than its corpus.
    Hidden files and folders, and the queries and judgments of a BEIR folder, are in neither list.
    """
    found, left_out, beir = [], [], None
    for root, folders, names in os.walk(
        folder, onerror=lambda error: left_out.append(Path(error.filename))
    ):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        if beir is None or not Path(root).is_relative_to(beir):
            corpus, queries = (
                member(Path(root), f"{name}.jsonl") for name in ("corpus", "queries")
            )
            beir = Path(root) if corpus.is_file() and queries.is_file() else None
        if beir == Path(root):
            folders[:] = [name for name in folders if name != "qrels"]
            names.remove(queries.name)
        for path in (Path(root, name) for name in sorted(names) if name[0] != "."):
            wanted = beir is None or path == corpus
            (found if wanted and _readable(path) else left_out).append(path)
    return found, left_out


def member(folder: Path, *names: str) -> Path:
    """Return the first of the names that a folder has, in any case and also as .gz; the first name if it has none."""
    try:
        there = {each.lower(): each for each in sorted(os.listdir(folder), reverse=True)}
    except (OSError, ValueError):  # also names that no folder can have
        there = {}
    some = (
        there[each]
        for name in names
        for each in (name.lower(), f"{name.lower()}.gz")
        if each in there
    )
    return Path(folder, next(some, names[0]))


def _suffix(path: Path) -> str:
    """Return what says which format a file has, in lower case and without .gz."""
    plain = Path(path.name.lower().removesuffix(".gz")).suffix
    return ".gz" if plain == ".parquet" and is_packed(path) else plain


def _readable(path: Path) -> bool:
    """Say whether a file of a folder has a known suffix, is not empty, and does not look binary."""
    if _suffix(path) not in SUFFIXES or not path.is_file() or not path.stat().st_size:
        return False
    return _suffix(path) == ".parquet" or looks_like_text(path)


def choose_column(
    names: Sequence[str], strings: Iterable[str], column: str | None, what: str
) -> tuple[str, str | None]:
    """Return the column that holds the texts (the one asked for, `text`, or the only one of strings), and that of roles.

    `text` and `role` may be in capitals; there may be no column of roles.

    Raises:
        DataError: no column holds the texts, or several have its name or that of the roles.
    """
    role = _named(names, "role", what)
    strings = [name for name in strings if name != role]
    chosen = _named(names, "text", what) if column is None else column
    if chosen is None and len(strings) == 1:
        chosen = strings[0]
    if chosen is not None and chosen in names:
        if (count := list(names).count(chosen)) > 1:
            raise DataError(
                f"{what} has {count} columns named {chosen!r}: rename all but one of them"
            )
        return chosen, None if role == chosen else role
    likely = [
        name for name in strings if str(name).lower() not in ("id", "_id", "key", "name", "url")
    ]
    some = [*[name for name in (*likely, *strings) if len(str(name).split()) < 6], "..."][
        0
    ]  # a text is no name
    hint = (
        ""
        if column or not len(names)
        else f". Choose the column with wb.read_texts(..., column={some!r})"
    )
    has = ", ".join(map(str, names)) or "no columns"
    raise DataError(f"{what} has no column {column or 'text'!r}; it has {has}{hint}")


def _named(names: Iterable[str], wanted: str, what: str) -> str | None:
    """Return the column of this name, or of this name in capitals."""
    same = [name for name in names if name == wanted] or [
        name for name in names if str(name).lower() == wanted
    ]
    if len(same) > 1:
        raise DataError(
            f"{what} has {len(same)} columns named {wanted!r}: rename all but one of them"
        )
    return same[0] if same else None


def record_rows(
    records: Iterable[tuple[str, object]], column: str | None, what: str
) -> Iterator[Row]:
    """Take the texts of records, which are strings, `Text`s or dictionaries, each with where it is."""
    chosen, role, before, records, head = None, None, (), iter(records), []
    for each in islice(records, _HEAD_RECORDS):  # until one has a string: others may have no text
        head.append(each)
        if not isinstance(each[1], dict) or strings_in(each[1]):
            break
    for where, record in chain(head, records):
        if isinstance(record, Text):
            yield where, record.text, record.role
        elif not isinstance(record, dict):
            yield where, record, None
        else:
            if chosen is None:
                first = head[-1][1] if isinstance(head[-1][1], dict) else record
                chosen, _ = choose_column(list(first), strings_in(first), column, what)
            if chosen not in record:
                raise DataError(f"{where}: no {chosen!r}; it has {', '.join(map(str, record))}")
            if (names := tuple(record)) != before:  # most records have the names of the one before
                before, role = names, "role" if "role" in record else _named(record, "role", where)
            yield where, record[chosen], None if role in (None, chosen) else record[role]


def strings_in(record: dict) -> list[str]:
    """Return the names of what may be texts in a record, the longest first: strings; if there are none, bytes."""
    strings, binary = (
        {name: value for name, value in record.items() if isinstance(value, kind)}
        for kind in (str, bytes)
    )
    return _longest_first(strings or binary)


def _longest_first(values: Mapping[str, str | bytes]) -> list[str]:
    return sorted(values, key=lambda name: len(values[name]), reverse=True)


# --- formats ------------------------------------------------------------------------------------


def _text_rows(path: Path, encoding: str | None, cut: bool) -> Iterator[Row]:
    lines = lines_of(path, encoding)
    if not cut:
        one = f"a {_suffix(path)} file is read as one text: wb.read_texts(..., passages=200) cuts it into passages"
        yield (
            str(path),
            joined(lines, 4 * MAX_CHARACTERS, f"{path} has more than 40 MB, and {one}").strip(),
            None,
        )
    while cut and (block := "".join(islice(lines, _BLOCK_LINES))):
        yield str(path), block.strip(), None


_NUMBER = re.compile(r"\s*([-+]?\d*\.?\d*(e[-+]?\d+)?|nan)?\s*", re.IGNORECASE)


def _table_rows(path: Path, column: str | None, encoding: str | None) -> Iterator[Row]:
    lines = lines_of(path, encoding)
    head = list(islice(lines, 100))
    if not "".join(head).strip():
        raise DataError(f"{path} is empty")
    csv.field_size_limit(max(csv.field_size_limit(), 4 * MAX_CHARACTERS))
    delimiter, (names, *some) = _separated(
        head, column or "text", "\t" if _suffix(path) == ".tsv" else ","
    )
    values = {
        name: [record[i] for record in some if i < len(record)] for i, name in enumerate(names)
    }
    strings = _longest_first(
        {
            name: "".join(own)
            for name, own in values.items()
            if not some or not all(map(_NUMBER.fullmatch, own))
        }
    )
    try:
        chosen, role = choose_column(
            names, strings, column, f"{path} (columns separated by {delimiter!r})"
        )
    except DataError as error:
        raise DataError(
            f"{error}. The names are its first line: if that is no header, put one above it"
        ) from None
    if chosen != column and chosen.lower() != "text":
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
                yield where, record[chosen], record.get(role)
    except csv.Error as error:
        raise DataError(
            f"{path}, line {before + 1}: not a table ({error}); are quotes opened and closed?"
        ) from None


def _check_header(path: Path, names: list[str], chosen: str) -> None:
    """Raise or warn where the first line of a table, which is taken as its header, may be a text."""
    if len(chosen.split()) > 5:
        raise DataError(
            f"{path} seems to have no header: its first line is {chosen[:60]!r}. Put a line `text` above it"
        )
    alone = len(names) == 1 or any(name.strip() and _NUMBER.fullmatch(name) for name in names)
    if alone and not {chosen.strip().lower(), chosen.strip().lower().removesuffix("s")} & set(
        _USUAL
    ):
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
    named = [
        each
        for each, records in found.items()
        if {wanted, wanted.upper(), wanted.title()} & {*records[0]}
    ]
    fits = [
        each
        for each, records in found.items()
        if len({len(r) for r in records}) == 1 < len(records[0])
    ]
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


def json_objects(path: Path, encoding: str | None = None) -> Iterator[tuple[str, dict]]:
    """Stream the objects of a JSON-lines file as `json_lines` does; a line that is no object is a DataError too."""
    for where, row in json_lines(path, encoding):
        if not isinstance(row, dict):
            raise DataError(f"{where}: a JSON object is expected, not {type(row).__name__}")
        yield where, row


def corpus_rows(path: Path, encoding: str | None = None) -> Iterator[Row]:
    """Stream the documents of a BEIR folder's corpus.jsonl, each with its title in front."""
    for where, row in json_objects(path, encoding):
        yield where, titled(where, row), None


def titled(where: str, row: dict) -> object:
    """Return the text of a document with its title, a string or a list of them, in front; None if it has neither."""
    title, text = row.get("title"), row.get("text")
    parts = title if isinstance(title, list) else [title or ""]
    if wrong := [part for part in parts if not isinstance(part, str)]:
        raise DataError(f"{where}: 'title' is of type {type(wrong[0]).__name__}, not a string")
    if text is not None and not isinstance(text, str):
        return text
    return " ".join([*filter(None, parts), text or ""]).strip() or text


def _json_items(path: Path, encoding: str | None) -> Iterator[tuple[str, object]]:
    try:
        by_line = isinstance(next(json_lines(path, encoding))[1], dict)
    except DataError:
        by_line = False
    if by_line:
        yield from json_lines(path, encoding)
        return
    large = f"{path} is larger than 1 GB: write one object a line, into a .jsonl file"
    items = _json(joined(lines_of(path, encoding), _JSON_BYTES, large), str(path))
    if not isinstance(items, list):
        raise DataError(
            f"{path}: a list of strings or objects is expected, not {type(items).__name__}"
        )
    yield from ((f"{path}, item {number}", item) for number, item in enumerate(items, start=1))


def _json(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (
        ValueError,
        RecursionError,
    ) as error:  # also numbers and nesting beyond what Python reads
        reason = (
            f"{error.msg} at character {error.pos + 1}"
            if isinstance(error, json.JSONDecodeError)
            else error
        )
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
        names = file.schema_arrow.names
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as parquet: {error}") from None
    if missing := set(columns) - set(names):
        raise DataError(
            f"{path} has no column {' or '.join(sorted(missing))}; it has {', '.join(names)}"
        )
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
        for number, row in enumerate(
            chain.from_iterable(map(pa.RecordBatch.to_pylist, batches)), start=1
        ):
            yield f"{path}, row {number}", row
    except (pa.ArrowException, OSError, ValueError, ArithmeticError) as error:
        raise DataError(f"{path} is damaged after row {number:,}: {error}") from None


def text_columns(path: Path, column: str | None) -> list[str]:
    """Return the column of a parquet file that holds the texts (see `choose_column`), then that of roles if it has one."""
    with parquet_file(path) as file:
        fields = list(file.schema_arrow)
    kinds = [(each.name, str(each.type).removeprefix("dictionary<values=")) for each in fields]
    strings, binary = (
        [name for name, kind in kinds if re.match(f"(large_)?{of}", kind)]
        for of in ("string", "binary")
    )
    chosen, role = choose_column([name for name, _ in kinds], strings or binary, column, str(path))
    return [chosen, *([role] if role else [])]


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
                raise DataError(
                    f"data set {name}: no column {missing[0]!r}; it has {', '.join(row)}"
                )
            yield {column: row[column] for column in columns or row}
    except WorkbenchError:
        raise
    except Exception as error:  # datasets raises a dozen kinds, most of them bare
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"data set {name} ({split}) could not be read: {reason}. Check the name, the network and, "
            "for a gated data set, HF_TOKEN; a local file or folder needs no hub."
        ) from None
