"""Texts and retrieval data sets from lists, tables, files, folders and the Hugging Face hub."""

import csv
import gzip
import hashlib
import json
import os
import random
import re
import warnings
import zlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from heapq import nsmallest
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np

from workbench._texts import RetrievalDataset, Role, StoredTexts, Text, list_or_store
from workbench._util import PROJECT, counted, expanded, need, whole_number
from workbench.errors import DataError

DATA = PROJECT / "data"
SUFFIXES = (".csv", ".tsv", ".txt", ".md", ".parquet", ".jsonl", ".ndjson", ".json")
IN_MEMORY = 100_000  # texts; more of them go to a file

csv.field_size_limit(1 << 30)


def read_texts(
    source: object,
    *,
    column: str | None = None,
    role: Role | str | None = None,
    passages: int | None = None,
    encoding: str | None = None,
    limit: int | None = None,
    sample: int | None = None,
) -> Sequence[Text]:
    """Read texts without blank ones and duplicates of the same role, which a warning counts.

    100,000 texts and more are held in a temporary file that goes with the process. DataError if
    there are no texts, the source is of another kind, or a text is unusable.

    Args:
        source: strings or `Text` objects (a list, Series, array, generator), a table (DataFrame,
            pyarrow, `datasets.Dataset`, list of dictionaries), a `RetrievalDataset`, or the name
            of a file (.csv, .tsv, .jsonl, .json, .parquet; .txt and .md are one text each; also
            .gz), of a folder of files or in BEIR layout, "docstrings", "tutorial" or
            "hub:owner/name".
        column: the column with the texts; by default `text`, or the only one.
        role: of all texts; by default what the column `role` says, otherwise document.
        passages: cut longer texts into passages of about so many words, at ends of sentences.
        encoding: of files that are not UTF-8.
        sample: draw so many texts evenly from files and roles; a larger sample holds a smaller.

    Example:
        >>> wb.read_texts(["A river.", "A bridge."])[0]
        Text(text='A river.', role=<Role.DOCUMENT: 'document'>)
    """
    counts = Counter()
    stream = islice(_stream(source, counts, column, role, passages, encoding), limit)
    texts = _unique(stream, counts) if sample is None else _sample(stream, sample)
    if not len(texts):
        raise DataError(f"the source has no texts but {counted(counts['blank'], 'blank one')}")
    _report(counts)
    return texts


def stream_texts(source: object, *, limit: int | None = None, **options: object) -> Iterator[Text]:
    """Stream what `read_texts` reads, with its options; duplicates stay, and nothing is held."""
    counts = Counter()
    for _, text in islice(_stream(source, counts, **options), limit):
        yield text
    _report(counts)


def as_texts(texts: Iterable[str | Text], what: str = "texts") -> Sequence[Text]:
    """Return strings (as documents) and `Text` objects as a sequence of `Text`, else DataError."""
    if isinstance(texts, StoredTexts):
        return texts
    items = texts if isinstance(texts, list) else list(_items(texts, what))
    if not items:
        raise DataError(f"{what}: at least one text is needed")
    if all(type(item) is Text for item in items):
        return items
    return [_text(item, Role.DOCUMENT, f"{what}, item {i:,}") for i, item in enumerate(items)]


def _stream(
    source: object,
    counts: Counter,
    column: str | None = None,
    role: Role | str | None = None,
    passages: int | None = None,
    encoding: str | None = None,
) -> Iterator[tuple[str, Text]]:
    """Stream texts, each with its part of the source; count what is left out."""
    for part, records in _parts(source, column, encoding):
        for where, item, row_role in _rows(records, column, part or "the source"):
            if isinstance(item, Text):
                item, row_role = item.text, item.role
            pieces = cut(item, passages) if passages and isinstance(item, str) else [item]
            for piece in pieces:
                counts["read"] += 1
                if _is_blank(piece):
                    counts["blank"] += 1
                else:
                    document = Role.DOCUMENT if _is_blank(row_role) else row_role
                    yield part, _text(piece, role or document, where)


def _parts(
    source: object, column: str | None, encoding: str | None
) -> Iterator[tuple[str, Iterable[tuple[str, object]]]]:
    """Yield the files of a folder, each with its name, or all of another source as one part."""
    if isinstance(source, RetrievalDataset):
        source = source.document_texts()
    elif isinstance(source, str | Path):
        path, name = _path(source), str(source)
        if os.path.exists(path):
            for file in _files_in(path) if path.is_dir() else [path]:
                yield str(file), _file_records(file, encoding)
            return
        if name == "docstrings":
            from workbench.docstrings import docstring_corpus

            source = docstring_corpus().train
        elif name.startswith("hub:"):
            source = hub_rows(name.removeprefix("hub:"), *([column] if column else []))
        else:
            others = "'tutorial', 'docstrings' and 'hub:owner/name'. A single text goes in a list"
            raise DataError(f"there is no file {name:.80}. Other sources are {others}")
    items = enumerate(_items(source, "the source"))
    yield "", ((f"item {number:,}", item) for number, item in items)


def _items(source: object, what: str) -> Iterable:
    """Return arrays, columns and tables as Python values, the rows of tables as dictionaries."""
    if hasattr(source, "to_pylist"):  # pyarrow
        return source.to_pylist()
    if hasattr(source, "itertuples"):  # a DataFrame
        return source.to_dict("records")
    if isinstance(source, str | Mapping) or not isinstance(source, Iterable):
        raise DataError(f"{what}: expected a list or table of texts, got {type(source).__name__}")
    return source.tolist() if hasattr(source, "tolist") else source


def _text(item: object, role: Role | str, where: str) -> Text:
    if isinstance(item, Text):
        return item
    try:
        return Text(item, role)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _is_blank(value: object) -> bool:
    if isinstance(value, str):
        return not value.strip()
    is_nan = isinstance(value, float) and value != value
    return value is None or is_nan or type(value).__name__ == "NAType"


def _report(counts: Counter) -> None:
    left_out = [f"{counts[kind]:,} {kind}" for kind in ("blank", "duplicate") if counts[kind]]
    if left_out:
        reasons = ", ".join(left_out)
        warnings.warn(f"left out of {counts['read']:,} texts: {reasons}", stacklevel=3)


def _unique(stream: Iterable[tuple[str, Text]], counts: Counter) -> Sequence[Text]:
    """Return the texts without duplicates, in a file if they are many."""
    hashes = array("q")  # of 64 bits: should two texts ever share one, one of them is left out

    def hashed() -> Iterator[Text]:
        for _, text in stream:
            hashes.append(hash(text))
            yield text

    texts = list_or_store(hashed(), IN_MEMORY)
    first = np.sort(np.unique(np.array(hashes, np.int64), return_index=True)[1])
    counts["duplicate"] = len(texts) - len(first)
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
    drawn: dict[bytes, Text] = {}
    for index, key in enumerate(sorted(groups, key=sizes.get)):  # the smallest first
        group = groups[key]
        share = -(-(size - len(drawn)) // (len(groups) - index))
        drawn |= {digest: group[digest] for digest in sorted(group.keys() - drawn)[:share]}
    # Shuffled, always in the same way: backwards, the digests are in another order.
    return [drawn[digest] for digest in sorted(drawn, key=lambda digest: digest[::-1])]


def _file_records(path: Path, encoding: str | None) -> Iterator[tuple[str, object]]:
    """Stream the rows of one file, each with its place; DataError if it cannot be read."""
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
        yield from records


def _files_in(folder: Path) -> list[Path]:
    """Return the files of texts below a folder, in BEIR layout only the corpus; warn of others."""
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


def _rows(records: Iterable, column: str | None, source: str) -> Iterator[tuple]:
    """Yield place, text and role; of dictionaries `column`, else `text`, else the only column."""
    columns = None
    for where, record in records:
        if not isinstance(record, Mapping):
            yield where, record, None
            continue
        if columns is None:
            columns = {str(name).lower(): name for name in record}
            role = columns.get("role", "role")
            if column is None:
                others = [name for name in record if name != role]
                column = columns.get("text", others[0] if len(others) == 1 else "text")
            if column not in record:
                names = ", ".join(map(str, record))
                raise DataError(f"{source} has no column {column!r}; choose one of {names}")
        yield where, record.get(column), None if column == role else record.get(role)


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
        reader = csv.DictReader(file, delimiter=max(",;\t|", key=header.count), strict=True)
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
        for batch in file.iter_batches(4096, columns=names):
            for row in batch.to_pylist():
                yield str(path), row


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
    corpus = _texts_by_id(_member(folder, "corpus.jsonl"))
    queries = _texts_by_id(_member(folder, "queries.jsonl"))
    qrels = _qrels(_member(folder, f"qrels/{split}.tsv"), queries, corpus)
    queries = {name: text for name, text in queries.items() if name in qrels}
    return RetrievalDataset(folder.name, corpus, queries, qrels)


def is_dataset(source: object) -> bool:
    """Return whether a source names a retrieval data set, and not merely texts."""
    return isinstance(source, str | Path) and os.path.isdir(_path(source) / "qrels")


def _path(source: str | Path) -> Path:
    return DATA / "tutorial" if source == "tutorial" else expanded(source)


def _member(folder: Path, name: str) -> Path:
    """Return the path of a file, or that of its .gz form where only this exists."""
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
        if "text" not in row:
            raise DataError(f"{where} has no 'text'; it has {', '.join(row)}")
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


# Chinese and Japanese are written without spaces: a character counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")
_SENTENCE = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？])|\n\s*\n")


def cut(text: str, words: int) -> list[str]:
    """Cut a text at ends of sentences into passages of about `words` words, at most 1.25 times."""
    whole_number(words, "passages", 10, DataError)
    starts = np.array([match.start() for match in _WORD.finditer(text)])
    most = words * 5 // 4
    # The number of words before each end of a sentence.
    ends = np.searchsorted(starts, [match.end() for match in _SENTENCE.finditer(text)])
    pieces, first = [], 0
    while len(starts) - first > most:
        left = len(starts) - first
        target = first + left / -(-left // words)  # so that all pieces are about as long
        low, high = np.searchsorted(ends, [first + 1, first + most + 1])
        near = ends[low:high]
        last = int(near[np.abs(near - target).argmin()]) if len(near) else first + words
        pieces.append(text[starts[first] : starts[last]].strip())
        first = last
    return [*pieces, text[starts[first] :].strip()] if pieces else [text]


def crop_queries(texts: Iterable[Text], count: int = 1) -> list[Text]:
    """Make up to `count` queries of each document: sentences, whole or a run of 5 to 25 words."""
    queries: dict[str, None] = {}
    for document in (text.text for text in texts if text.role is Role.DOCUMENT):
        sentences = [sentence.split() for sentence in re.split(r"(?<=[.!?])\s+", document)]
        sentences = [words for words in sentences if len(words) >= 5]
        rng = random.Random(f"0\0{document}")
        for _ in range(count if sentences else 0):
            words, most = rng.choice(sentences), rng.randint(5, 25)
            is_whole = len(words) <= most or rng.random() >= 0.5
            first = 0 if is_whole else rng.randint(0, len(words) - most)
            queries[" ".join(words[first : first + most])] = None
    return [Text(query, Role.QUERY) for query in queries]
