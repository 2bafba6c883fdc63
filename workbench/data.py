"""Texts and retrieval data sets from lists, tables, files, folders and the Hugging Face hub."""

import codecs
import csv
import gzip
import hashlib
import importlib.util
import json
import os
import random
import re
import warnings
import zlib
from array import array
from collections import ChainMap, Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import reduce
from heapq import nsmallest
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import TextIO

import jmespath
import numpy as np
from jmespath.exceptions import JMESPathError
from semantic_text_splitter import TextSplitter

from workbench._texts import RetrievalDataset, Role, StoredTexts, Text, joined, list_or_store
from workbench._util import PROJECT, counted, expanded, need, spread, whole_number
from workbench.errors import DataError

DATA = PROJECT / "data"
SUFFIXES = (".csv", ".tsv", ".txt", ".md", ".parquet", ".jsonl", ".ndjson", ".json")
IN_MEMORY = 100_000  # texts; more of them go to a file
EXAMPLE_QUERIES = 50

csv.field_size_limit(1 << 30)

READING = "column", "role", "encoding", "limit", "sample"  # options of `read_texts`
# Columns that are never taken for the texts unless they are named.
_NO_TEXT = {"id", "_id", "title", "role", "lang", "language", "label"}
_CONVERTED = ".pdf", ".docx", ".pptx", ".html", ".htm"
Record = tuple[str, object]  # a row's name and its value


def read_texts(
    source: object,
    *,
    column: str | Sequence[str] | None = None,
    role: Role | str | None = None,
    encoding: str | None = None,
    limit: int | None = None,
    sample: int | None = None,
) -> Sequence[Text]:
    """Read texts without blank ones and duplicates of the same role, which a warning names.

    Each keeps its `id` (a column `id` or `_id`, else file and row), its title, and the other
    columns of its row as `fields`. 100,000 texts and more are held in a temporary file that goes
    with the process. DataError if there are no texts, or a text cannot be used.

    Args:
        source: strings or `Text` objects (a list, Series, array, generator), a table (DataFrame,
            pyarrow, `datasets.Dataset`, list of dictionaries), a `RetrievalDataset`, or the name
            of a file (.csv, .tsv, .jsonl, .json, .parquet; .txt and .md are one text each; also
            .gz; with the extra `files` .pdf, .docx, .pptx and .html), of a folder of files or in
            BEIR layout, "docstrings", "tutorial", "factbook" or "hub:owner/name".
        column: the column with the texts, several (title and text), or a path into nested ones,
            such as "ticket.text" or "messages[].content"; by default `text`, or the only one.
        role: of all texts; by default what the column `role` says, otherwise document.
        encoding: of files that are not UTF-8.
        sample: draw so many texts evenly from files and roles; a larger sample holds a smaller.

    Example:
        >>> wb.read_texts(["A river.", "A bridge."])[0]
        Text(text='A river.', role=<Role.DOCUMENT: 'document'>, id='0', title='')
    """
    for name, count in (("limit", limit), ("sample", sample)):
        if count is not None:
            whole_number(count, name, error=DataError)
    left_out = _LeftOut()
    stream = islice(_stream(source, left_out, column, role, encoding), limit)
    texts = _unique(stream, left_out) if sample is None else _sample(stream, sample)
    if not len(texts):
        where = f" in {column!r}" if column else ""
        count = counted(left_out["blank"], "blank one")
        raise DataError(f"the source has no texts{where} but {count}")
    left_out.warn()
    return texts


def checked_options(options: Mapping, others: Collection[str] = ()) -> None:
    """Raise DataError for an option that is neither of `read_texts` nor one of `others`."""
    unknown = options.keys() - {*READING, *others}
    if unknown:
        known = ", ".join([*others, *READING])
        raise DataError(f"unknown option {', '.join(sorted(unknown))}: expected one of {known}")


def stream_texts(source: object, *, limit: int | None = None, **options: object) -> Iterator[Text]:
    """Stream what `read_texts` reads, with its options; duplicates stay, and nothing is held."""
    left_out = _LeftOut()
    for _, text in islice(_stream(source, left_out, **options), limit):
        yield text
    left_out.warn()


def as_texts(texts: Iterable, what: str = "texts") -> Sequence[Text]:
    """Return strings (as documents), `Text` objects or rows as a sequence of `Text`."""
    if isinstance(texts, StoredTexts):
        return texts
    items = _items(texts, what)
    items = items if isinstance(items, list) else list(items)
    if not len(items):
        raise DataError(f"{what}: at least one text is needed")
    if all(type(item) is Text for item in items):
        return items
    records = ((str(row), item) for row, item in enumerate(items))
    return list(_texts(records, None, None, what))


class _LeftOut(Counter):
    """How many texts are left out and why, and the names of the first ones."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.names = 0, defaultdict(list)

    def add(self, kind: str, name: str) -> None:
        self[kind] += 1
        if self[kind] <= 3:
            self.names[kind].append(name)

    def warn(self) -> None:
        parts = [f"{self[kind]:,} {kind} ({', '.join(self.names[kind])})" for kind in self]
        if parts:
            message = f"left out of {self.read:,} texts: {', '.join(parts)}"
            warnings.warn(message, stacklevel=3)


def _stream(
    source: object,
    left_out: _LeftOut,
    column: str | Sequence[str] | None = None,
    role: Role | str | None = None,
    encoding: str | None = None,
) -> Iterator[tuple[str, Text]]:
    """Stream texts, each with its part of the source."""
    for part, records in _parts(source, encoding):
        for text in _texts(records, column, role, part or "the source", left_out):
            yield part, text


def _texts(
    records: Iterable[Record],
    column: str | Sequence[str] | None,
    role: Role | str | None,
    source: str,
    left_out: _LeftOut | None = None,
) -> Iterator[Text]:
    """Turn rows into texts; without `left_out`, blank ones stay."""
    columns = None
    for name, item in records:
        values = {"text": item, "id": name}
        if isinstance(item, Mapping):
            columns = columns or _columns(item, column, source)
            values = _from_row(item, columns, name)
        if left_out is not None:
            left_out.read += 1
            if is_blank(item.text if isinstance(item, Text) else values["text"]):
                left_out.add("blank", values["id"])
                continue
        changes = {} if role is None else {"role": role}
        try:
            if isinstance(item, Text):
                yield replace(item, **changes) if changes else item
            else:
                yield Text(**values | changes)
        except DataError as error:
            raise DataError(f"{source}, {values['id']}: {error}") from None


def _columns(record: Mapping, column: str | Sequence[str] | None, source: str) -> tuple:
    """Return the paths to titles and text, the text last, and the columns of id and role."""
    names = {str(name).lower(): name for name in record}
    if column is None:
        others = [name for lower, name in names.items() if lower not in _NO_TEXT]
        body = names.get("text", others[0] if len(others) == 1 else "text")
        has_title = isinstance(record.get(names.get("title")), str)
        paths = [names["title"], body] if has_title else [body]
    else:
        paths = list(column) or ["[]"] if isinstance(column, list | tuple) else [column]
    for path in paths:
        value = _value_at(record, path)
        top = str(path).partition(".")[0].removesuffix("[]")
        if not {path, top} & record.keys() or not (isinstance(value, str) or is_blank(value)):
            choices = ", ".join(dict.fromkeys(_paths(record))) or "none"
            raise DataError(
                f"{source} has no column {path!r} of texts: name one with column=, of {choices}"
            )
    own_id = names.get("id", names.get("_id", "id"))
    return tuple(paths), own_id, names.get("role", "role")


def _from_row(row: Mapping, columns: tuple, name: str) -> dict:
    """Return what a row is as a text; the columns that are not used become its fields."""
    paths, own_id, role = columns
    *titles, body = [_value_at(row, path) for path in paths]
    for path, value in zip(paths, [*titles, body], strict=True):
        if _is_nested(value) or isinstance(value, list):
            raise DataError(
                f"{name}: {path!r} is no text but {str(value)[:60]}: name a path into it"
            )
    titles = [str(title).strip() for title in titles if not is_blank(title)]
    parts = titles if is_blank(body) else [*titles, body]
    used = {*paths, own_id, role}
    return {
        "text": reduce(joined, parts) if parts else body,
        "role": Role.DOCUMENT if is_blank(row.get(role)) else row[role],
        "id": name if is_blank(row.get(own_id)) else f"{row[own_id]}".removesuffix(".0"),
        "title": titles[0] if titles else "",
        "fields": {k: v for k, v in row.items() if k not in used and not _is_nested(v)},
    }


def _is_nested(value: object) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_is_nested, value))
    return isinstance(value, Mapping | np.ndarray)


def _value_at(row: Mapping, path: object) -> object:
    """Return what stands in a column or at a path, texts of a list joined; None if nothing."""
    value = row.get(path)
    if path not in row:
        with suppress(JMESPathError):
            value = jmespath.search(str(path), _lists(row))
    is_list = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return "\n".join(value) if is_list else value


def _lists(value: object) -> object:
    """Return a value of a table with lists where parquet files left arrays."""
    if isinstance(value, Mapping):
        return {key: _lists(inner) for key, inner in value.items()}
    return [_lists(inner) for inner in value] if isinstance(value, list | np.ndarray) else value


def _paths(value: object, path: str = "") -> Iterator[str]:
    """Yield the paths to strings in a record."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _paths(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple | np.ndarray) and len(value):
        yield from _paths(value[0], f"{path}[]")


def _parts(source: object, encoding: str | None) -> Iterator[tuple[str, Iterable[Record]]]:
    """Yield the files of a folder, each with its name, or all of another source as one part."""
    if isinstance(source, RetrievalDataset):
        source = source.document_texts()
    elif isinstance(source, str | Path):
        path, name = _path(source), str(source)
        if name.strip() and os.path.exists(path):
            for file in _files_in(path) if path.is_dir() else [path]:
                short = file.relative_to(path).as_posix() if path.is_dir() else file.name
                yield str(file), _file_records(file, short, encoding)
            return
        if name == "docstrings":
            from workbench.docstrings import docstring_corpus

            source = docstring_corpus().train
        elif name.startswith("hub:"):
            source = hub_rows(name.removeprefix("hub:"))
        else:
            others = (
                "tutorial, factbook, docstrings and hub:owner/name. A single text goes in a list"
            )
            raise DataError(f"there is no file {name:.80}. Other sources are {others}")
    items = enumerate(_items(source, "the source"))
    yield "", ((str(row), item) for row, item in items)


def _items(source: object, what: str) -> Iterable:
    """Return arrays, columns and tables as Python values, the rows of tables as dictionaries."""
    if hasattr(source, "to_pylist"):  # pyarrow
        return source.to_pylist()
    if hasattr(source, "itertuples"):  # a DataFrame
        return source.to_dict("records")
    if isinstance(source, str | Mapping) or not isinstance(source, Iterable):
        raise DataError(f"{what}: expected a list or table of texts, got {type(source).__name__}")
    first = source[0] if isinstance(source, list | tuple) and source else None
    if isinstance(first, str | Path) and _suffix(Path(first)) in SUFFIXES and os.path.isfile(first):
        raise DataError(f"{what}: a list of file names, such as {first}; give a file or a folder")
    return source.tolist() if hasattr(source, "tolist") else source


def is_blank(value: object) -> bool:
    """Say whether a value of a table is missing, or a text without content."""
    if isinstance(value, str):
        return not value.strip()
    is_nan = isinstance(value, float) and value != value
    return value is None or is_nan or type(value).__name__ == "NAType"


def _unique(stream: Iterable[tuple[str, Text]], left_out: _LeftOut) -> Sequence[Text]:
    """Return the texts without duplicates, in a file if they are many."""
    hashes = array("q")  # of 64 bits: should two texts ever share one, one of them is left out

    def hashed() -> Iterator[Text]:
        for _, text in stream:
            hashes.append(hash(text))
            yield text

    texts = list_or_store(hashed(), IN_MEMORY)
    first = np.sort(np.unique(np.array(hashes, np.int64), return_index=True)[1])
    for row in np.setdiff1d(np.arange(len(texts)), first):
        left_out.add("duplicate", texts[row].id if left_out["duplicate"] < 3 else "")
    return texts.subset(first) if isinstance(texts, StoredTexts) else [texts[i] for i in first]


def _sample(stream: Iterable[tuple[str, Text]], size: int) -> list[Text]:
    """Draw texts evenly from parts and roles in the order of their hashes, and shuffle them."""
    groups: dict[tuple[str, Role], dict[bytes, Text]] = defaultdict(dict)
    sizes = Counter()
    for part, text in stream:
        key = part, text.role
        sizes[key] += 1
        digest = hashlib.sha256(f"draw\x000\0{text.role}\0{text.text}".encode()).digest()
        groups[key][digest] = text
        if len(groups[key]) > 2 * size + 1000:  # more than can be drawn from it
            groups[key] = dict(nsmallest(size, groups[key].items()))
    turns = zip_longest(*(sorted(groups[key]) for key in sorted(groups, key=sizes.get)))
    digests = dict.fromkeys(chain.from_iterable(turns))  # a text of two groups comes once
    texts = ChainMap(*groups.values())
    drawn = {digest: texts[digest] for digest in islice(filter(None, digests), size)}
    # Shuffled, always in the same way: backwards, the digests are in another order.
    return [drawn[digest] for digest in sorted(drawn, key=lambda digest: digest[::-1])]


def _file_records(path: Path, name: str, encoding: str | None) -> Iterator[Record]:
    """Stream the rows of one file, each with its name; DataError if it cannot be read."""
    suffix = _suffix(path)
    if suffix not in (*SUFFIXES, *_CONVERTED):
        raise DataError(f"{path}: texts are read from files that end in {', '.join(SUFFIXES)}")
    with _readable(path):
        if suffix in (".txt", ".md", *_CONVERTED):
            if suffix in _CONVERTED:
                content = _converted(path)
            else:
                with _open(path, encoding) as file:
                    content = file.read()
            yield name, _whole_file(path, content.strip(), name)
            return
        if suffix == ".parquet":
            rows = _parquet_rows(path)
        elif suffix in (".csv", ".tsv"):
            rows = _csv_rows(path, encoding)
        else:
            rows = _json_rows(path, encoding)
        for number, row in enumerate(rows, start=1):
            yield f"{name}:{number}", row


def _converted(path: Path) -> str:
    """Return a document of an office as Markdown."""
    converter = need("markitdown", "files").MarkItDown()  # without plugins
    try:
        return converter.convert_local(path).markdown
    except Exception as error:  # one kind for each kind of file
        reason = str(error).strip().partition("\n")[0]
        raise DataError(f"{path} cannot be converted, leave it out: {reason}") from None


def _whole_file(path: Path, content: str, name: str) -> Text | str:
    """Return a file as one text; a heading in front is its title."""
    lines = content.splitlines()
    if _suffix(path) == ".txt" and len(lines) >= 50 and all(map(str.strip, lines)):
        way = "read_texts(open(path)) reads a text each"
        warnings.warn(f"{path}: {len(lines):,} lines are one text; {way}", stacklevel=2)
    title = ""
    if content.startswith("# "):
        title, content = lines[0].removeprefix("# ").strip(), "\n".join(lines[1:]).strip()
        content = joined(title, content) if content else title
    fields = {"file": str(path.resolve())}
    return Text(content, id=name, title=title, fields=fields) if content else content


def _files_in(folder: Path) -> list[Path]:
    """Return the files of texts below a folder, in BEIR layout only the corpus; warn of others."""
    paths, left_out, to_convert = [], [], []
    can_convert = importlib.util.find_spec("markitdown") is not None
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = [Path(root, name) for name in sorted(names) if not name.startswith((".", "~$"))]
        if _is_beir(Path(root)):
            files = [_member(Path(root), "corpus.jsonl")]
            folders.clear()
        for path in files:
            is_full = path.is_file() and path.stat().st_size
            if is_full and _suffix(path) in SUFFIXES:
                paths.append(path)
            elif is_full and _suffix(path) in _CONVERTED:
                (paths if can_convert else to_convert).append(path)
            else:
                left_out.append(path)
    hint = " (pip install 'teacher-aligned-workbench[files]' reads them)"
    for others, why in ((left_out, ""), (to_convert, hint)):
        if others:
            names = ", ".join(path.relative_to(folder).as_posix() for path in others[:3])
            count = counted(len(others), "other or empty file")
            warnings.warn(f"{folder}: {count} left out, such as {names}{why}", stacklevel=6)
    return paths


def hub_rows(
    name: str, *columns: str, config: str | None = None, split: str = "train", skip: int = 0
) -> Iterator[dict]:
    """Stream rows of a data set of the hub, or of a folder that `datasets` can read."""
    load_dataset = need("datasets", "hub").load_dataset
    try:
        rows = load_dataset(name, config, split=split, streaming=True).skip(skip)
        yield from rows.select_columns(list(columns)) if columns else rows
    except Exception as error:  # `datasets` raises a dozen kinds
        hint = "Check its name, the network and, for a gated data set, HF_TOKEN"
        raise DataError(f"data set {name} cannot be read: {error}. {hint}") from None


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn an error of what reads a file into a DataError with its path."""
    try:
        yield
    except (OSError, EOFError, zlib.error, csv.Error, LookupError, ValueError) as error:
        hint = (
            ". Name its encoding (--encoding), such as cp1252"
            if isinstance(error, UnicodeError)
            else ""
        )
        raise DataError(f"{path} cannot be read: {error}{hint}") from None


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _open(path: Path, encoding: str | None, newline: str | None = None) -> TextIO:
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    if encoding is None:
        with opener(path, "rb") as file:
            start = file.read(1000)
        if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            encoding = "utf-16"
        elif b"\0" in start:
            raise DataError(f"{path} is not UTF-8: name its encoding, such as utf-16-le")
    return opener(path, "rt", encoding=encoding or "utf-8-sig", newline=newline)


def _csv_rows(path: Path, encoding: str | None) -> Iterator[dict]:
    with _open(path, encoding, newline="") as file:
        header = file.readline()
        excel = re.fullmatch(r'"?sep=(.)"?\r?\n', header)  # its first line names the delimiter
        if not excel:
            file.seek(0)
        delimiter = excel[1] if excel else max(",;\t|", key=re.sub('"[^"]*"', "", header).count)
        # Strict: without it a quotation mark that is not closed swallows the rest of the file.
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        line = first = 3 if excel else 2
        for row in reader:
            where = f"{path}, line {line}"
            if None in row or None in row.values():
                raise DataError(f"{where}: expected {len(reader.fieldnames)} fields, as the header")
            if _has_rows_inside(list(row.values()), delimiter):
                message = (
                    "a field holds what looks like other rows: a quotation mark without its pair?"
                )
                raise DataError(f"{where}: {message} Mend it, or give a DataFrame")
            line = reader.line_num + first - 1
            yield row


def _has_rows_inside(values: list[str], delimiter: str) -> bool:
    """Say whether a field has lines that look like rows: as many fields, an id of the same form."""

    def form(text: str) -> str:
        return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", text))

    lines = [line.split(delimiter) for value in values for line in value.splitlines()[1:]]
    form_of_id = form(values[0].partition("\n")[0])
    is_clear = delimiter == "\t"  # texts have commas, and hardly ever tabs
    return len(values) > 1 and any(
        len(line) >= len(values)
        and (is_clear or ("9" in form_of_id and form(line[0]) == form_of_id))
        for line in lines
    )


def _parquet_rows(path: Path) -> Iterator[dict]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def is_read(kind: pa.DataType) -> bool:  # vectors and images are not
        is_vector = hasattr(kind, "value_type") and pa.types.is_primitive(kind.value_type)
        return not is_vector and "binary" not in str(kind)

    with pq.ParquetFile(path) as file:
        names = [field.name for field in file.schema_arrow if is_read(field.type)]
        for batch in file.iter_batches(4096, columns=names):
            yield from batch.to_pylist()


def _json_rows(path: Path, encoding: str | None) -> Iterator[object]:
    """Stream the items of a JSON file that is one list, or the objects of JSON lines."""
    with _open(path, encoding) as file:
        if not file.read(100).lstrip().startswith("["):
            yield from (row for _, row in _json_objects(path, encoding))
            return
        file.seek(0)
        yield from json.load(file)


def _json_objects(path: Path, encoding: str | None = None) -> Iterator[tuple[str, dict]]:
    with _readable(path), _open(path, encoding) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            value = None
            with suppress(json.JSONDecodeError):
                value = json.loads(line)
            if not isinstance(value, dict):
                raise DataError(f"{path}, line {number}: not a JSON object ({line[:60]!r})")
            yield f"{path}, line {number}", value


def read_dataset(source: str | Path | RetrievalDataset, split: str = "test") -> RetrievalDataset:
    """Read a folder in BEIR layout: corpus.jsonl, queries.jsonl, qrels/<split>.tsv, also as .gz.

    Judgments have the columns of BEIR (query, document, grade) or TREC (one more in between), with
    or without a header. Queries without a judgment are left out, and so are judgments of unknown
    ids, which a warning counts. DataError if a file is missing or damaged.

    Example:
        >>> len(wb.read_dataset("tutorial").corpus)
        192
    """
    if isinstance(source, RetrievalDataset):
        return source
    folder = _path(source)
    documents = _texts_by_id(_member(folder, "corpus.jsonl"))
    queries = _texts_by_id(_member(folder, "queries.jsonl"))
    path = _member(folder, f"qrels/{split}.tsv")
    if not path.is_file():
        names = ", ".join(sorted(other.name for other in path.parent.glob("*"))) or "nothing"
        raise DataError(f"{path} is missing: .tsv and .tsv.gz are read, and there is {names}")
    qrels = _qrels(path, queries, documents)
    corpus = {name: text.text for name, text in documents.items()}
    queries = {name: text.text for name, text in queries.items() if name in qrels}
    return RetrievalDataset(folder.name, corpus, queries, qrels, documents)


def is_dataset(source: object) -> bool:
    """Return whether a source names a retrieval data set, and not merely texts."""
    return isinstance(source, str | Path) and os.path.isdir(_path(source) / "qrels")


def _path(source: str | Path) -> Path:
    return DATA / source if source in ("tutorial", "factbook") else expanded(source)


def _member(folder: Path, name: str) -> Path:
    """Return the path of a file, or that of its .gz form where only this exists."""
    path, packed = folder / name, folder / f"{name}.gz"
    return packed if packed.is_file() and not path.is_file() else path


def _is_beir(folder: Path) -> bool:
    return all(_member(folder, name).is_file() for name in ("corpus.jsonl", "queries.jsonl"))


def _texts_by_id(path: Path) -> dict[str, Text]:
    texts = {}
    for where, row in _json_objects(path):
        name = str(row.get("_id", row.get("id", "")))
        if not name or name in texts:
            raise DataError(f"{where}: id {name!r}; expected an id under '_id' that is unique")
        if "text" not in row:
            raise DataError(f"{where} has no 'text'; it has {', '.join(row)}")
        title, body = (str(row.get(key) or "").strip() for key in ("title", "text"))
        fields = {key: row[key] for key in row.keys() - {"_id", "id", "title", "text"}}
        text = joined(title, body) if title and body else title or body
        texts[name] = Text(text, Role.DOCUMENT, name, title, fields)
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
    exists = table["query"].isin(list(queries)) & table["document"].isin(list(corpus))
    if not exists.any():
        raise DataError(f"{path} has no judgments of the queries and documents beside it")
    if not exists.all():
        count = f"{(~exists).sum():,} of {len(table):,} judgments"
        warnings.warn(f"{path}: {count} have unknown ids and are left out", stacklevel=3)
    qrels: dict[str, dict[str, int]] = {}
    for query, document, grade in table[exists].itertuples(index=False, name=None):
        qrels.setdefault(query, {})[document] = grade
    return qrels


def as_dataset(source: object, options: Mapping = {}) -> tuple[RetrievalDataset, bool]:
    """Return a data set, and whether its queries are cropped from documents since there are none.

    `source` is one, or what `read_texts` takes with these options. Cropped queries are judged
    relevant to their own document.
    """
    if isinstance(source, RetrievalDataset) or is_dataset(source):
        if options:
            raise DataError(f"{', '.join(options)}: only for texts, and this is a data set")
        return read_dataset(source), False
    documents: dict[str, Text] = {}
    queries: dict[str, str] = {}
    times = Counter()
    for row, text in enumerate(read_texts(source, **options)):
        names, name = (queries if text.role is Role.QUERY else documents), text.id or str(row)
        times[text.role, name] += 1
        if times[text.role, name] > 1:
            name += f" ({times[text.role, name]})"
        names[name] = text.text if names is queries else text
    if not documents:
        raise DataError("there are only queries among the texts: a search needs documents")
    qrels, is_cropped = {}, not queries
    if is_cropped:
        items = list(documents.items())
        for name, document in [items[place] for place in spread(len(items), EXAMPLE_QUERIES)]:
            # A document that is too short to crop stands for itself.
            query = [*crop_queries([document]), document][0]
            queries[f"piece of {name}"], qrels[f"piece of {name}"] = query.text, {name: 1}
    name = Path(source).stem if isinstance(source, str | Path) else "texts"
    corpus = {name: text.text for name, text in documents.items()}
    return RetrievalDataset(name, corpus, queries, qrels, documents), is_cropped


# A letter of these scripts has three bytes.
_UNSPACED = TextSplitter.from_callback(lambda text: len(text.encode()), (60, 150))


def crop_queries(texts: Iterable[Text], count: int = 1) -> list[Text]:
    """Make up to `count` queries of each document: sentences, whole or a run of 5 to 25 words."""
    queries: dict[str, str] = {}
    for text in (text for text in texts if text.role is Role.DOCUMENT):
        document = text.text
        sentences = [sentence.split() for sentence in re.split(r"(?<=[.!?])\s+", document)]
        sentences = [words for words in sentences if len(words) >= 5]
        if not sentences and len(document) >= 40:  # without spaces, as in Chinese or Thai
            sentences = [[piece] for piece in _UNSPACED.chunks(document)]
        rng = random.Random(f"0\0{document}")
        for _ in range(count if sentences else 0):
            words, most = rng.choice(sentences), rng.randint(5, 25)
            is_whole = len(words) <= most or rng.random() >= 0.5
            first = 0 if is_whole else rng.randint(0, len(words) - most)
            queries[" ".join(words[first : first + most])] = group(text)
    return [Text(query, Role.QUERY, name) for query, name in queries.items()]


def group(text: Text) -> str:
    """Return what a document shares with its passages and the queries that are cropped from it."""
    return text.id or hashlib.sha256(text.text.encode()).hexdigest()[:16]
