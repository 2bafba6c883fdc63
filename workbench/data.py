"""Texts and retrieval collections; every text carries its role, query or document."""

from __future__ import annotations

import hashlib
import heapq
import json
import random
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import DataError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

DATA = Path(__file__).resolve().parent.parent / "data"

# Enough for any real document; a longer "text" is almost always a file read whole by mistake, and
# would hold up the tokenizer for minutes to use its first few hundred tokens.
MAX_CHARACTERS = 10_000_000

TEXT_SUFFIXES = (".parquet", ".jsonl", ".ndjson")  # of the files that `read_texts` reads


class Role(StrEnum):
    """What a text is in a search: its teacher may embed the two differently."""

    QUERY = "query"
    DOCUMENT = "document"


@dataclass(frozen=True, slots=True)
class Text:
    """One text and its role, a document unless it is said to be a query.

    Raises:
        DataError: the text is no string, is longer than `MAX_CHARACTERS`, is binary, or has
            characters that are no valid Unicode; or the role is neither query nor document.
    """

    text: str
    role: Role = Role.DOCUMENT

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "role", Role(self.role))
        except ValueError:
            raise DataError(f"role {self.role!r}: it must be 'query' or 'document'") from None
        if problem := text_problem(self.text):
            raise DataError(f"a {self.role} {problem}")


def text_problem(text: object) -> str | None:
    """Say why `text` cannot be embedded, or return None if it can."""
    if not isinstance(text, str):
        return f"is of type {type(text).__name__}, not a string"
    if len(text) > MAX_CHARACTERS:
        return f"has {len(text):,} characters; split it, the limit is {MAX_CHARACTERS:,}"
    if "\0" in text:
        return f"is binary: it contains a NUL character ({text[:40]!r})"
    # Lone surrogates are what json.loads makes of a broken escape; no tokenizer takes them.
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            return f"is not valid Unicode at character {error.start:,} ({text[:40]!r})"
    return None


def as_texts(texts: Iterable[str | Text], what: str = "texts") -> Sequence[Text]:
    """Return texts as a sequence of `Text`, position by position; a plain string is a document.

    Args:
        texts: strings and `Text`s, mixed: a list, tuple, array, pandas Series, stored texts or a generator (which is
            read into a list).
        what: what an error calls them.

    Raises:
        DataError: `texts` is something else or empty, or an item is neither a string nor a `Text` (with its position).
    """
    from workbench._stored import StoredTexts

    if isinstance(texts, StoredTexts):
        return texts
    if isinstance(texts, str | Text):
        raise DataError(f"{what}: got one text where a list of texts is expected; put it in a list")
    columns = getattr(texts, "columns", None)
    if columns is not None:
        raise DataError(f"{what}: got a table; choose one of its columns ({', '.join(map(str, columns))})")
    if isinstance(texts, bytes | bytearray | Mapping) or not isinstance(texts, Iterable):
        raise DataError(f"{what}: expected a list of strings, got {type(texts).__name__}")
    found = texts if isinstance(texts, list) else list(texts)
    if not found:
        raise DataError(f"{what}: got no texts; at least one is needed")
    return found if all(type(text) is Text for text in found) else [_as_text(*each, what) for each in enumerate(found)]


def _as_text(position: int, item: object, what: str) -> Text:
    if isinstance(item, Text):
        return item
    if not isinstance(item, str):
        missing = item is None or type(item).__name__ == "NAType" or (isinstance(item, float) and item != item)
        raise DataError(
            f"{what}: item {position:,} is {'missing' if missing else f'of type {type(item).__name__}'}, and a string is "
            "expected"
        )
    try:
        return Text(str(item))
    except DataError as error:
        raise DataError(f"{what}, item {position:,}: {error}") from None


@dataclass(frozen=True)
class RetrievalDataset:
    """A retrieval collection: documents, queries and graded judgments.

    Attributes:
        name: what reports call it.
        corpus: document id to text (a title, if there is one, in front).
        queries: query id to text, judged queries only.
        qrels: query id to document id to grade; a grade of 0 means judged and not relevant.
    """

    name: str
    corpus: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    query_metadata: dict[str, dict] = field(default_factory=dict)

    def document_texts(self) -> list[Text]:
        """Return the documents, in the order of `corpus`."""
        return [Text(text, Role.DOCUMENT) for text in self.corpus.values()]

    def query_texts(self) -> list[Text]:
        """Return the queries, in the order of `queries`."""
        return [Text(text, Role.QUERY) for text in self.queries.values()]


def tutorial() -> RetrievalDataset:
    """Return the small collection of everyday passages that this project ships in `data/tutorial`."""
    return beir(DATA / "tutorial")


def beir(folder: str | Path, split: str = "test") -> RetrievalDataset:
    """Read a folder in BEIR layout: corpus.jsonl, queries.jsonl and qrels/<split>.tsv.

    Documents without any text are kept (a ranking must be able to contain them) and counted in a
    warning; queries without judgments in this split are left out, as in BEIR.

    Args:
        folder: the collection's folder; its name becomes the collection's name.
        split: which judgments to read.

    Raises:
        DataError: a file is missing or empty, a line is no JSON object (with its number), an id
            comes twice, a text is unusable, or judgments name unknown ids.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"no collection at {folder}: there is no such folder")
    documents: dict[str, str] = {}
    blank = 0
    for where, row in json_lines(folder / "corpus.jsonl"):
        identifier = _identifier(where, row, documents)
        title, text = _string(where, row, "title", ""), _string(where, row, "text")
        documents[identifier] = f"{title} {text}".strip()
        blank += not documents[identifier]
    if blank:
        warnings.warn(f"{folder.name}: {blank} of {len(documents):,} documents are empty", stacklevel=2)
    queries: dict[str, str] = {}
    metadata: dict[str, dict] = {}
    for where, row in json_lines(folder / "queries.jsonl"):
        identifier = _identifier(where, row, queries)
        queries[identifier] = _string(where, row, "text").strip()
        metadata[identifier] = row.get("metadata") or {}
    qrels = _qrels(folder / "qrels" / f"{split}.tsv", queries, documents)
    queries = {identifier: text for identifier, text in queries.items() if identifier in qrels}
    if empty := [identifier for identifier, text in queries.items() if not text]:
        raise DataError(f"{folder / 'queries.jsonl'}: judged query {empty[0]!r} is empty")
    return RetrievalDataset(folder.name, documents, queries, qrels, {i: metadata[i] for i in queries})


def read_texts(path: str | Path) -> Iterator[Text]:
    """Stream texts from a parquet or JSON-lines file with the columns `text` and `role`.

    Blank texts are skipped and counted in a warning at the end.

    Raises:
        DataError: the file is missing or of another kind, a column is missing, or a row is
            unusable (with its number).
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no texts at {path}: there is no such file")
    if path.suffix == ".parquet":
        rows = parquet_rows(path, "text", "role")
    elif path.suffix in TEXT_SUFFIXES:
        rows = json_lines(path)
    else:
        raise DataError(f"{path}: texts are read from .parquet or .jsonl files")
    blank = 0
    for where, row in rows:
        text, role = _string(where, row, "text"), row.get("role")
        if not text.strip():
            blank += 1
            continue
        try:
            yield Text(text, role)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
    if blank:
        warnings.warn(f"{path}: skipped {blank:,} blank texts", stacklevel=2)


def read_folder(folder: str | Path) -> Iterator[Text]:
    """Stream the texts of all .parquet and .jsonl files of a folder, file after file; see `read_texts`.

    Raises:
        DataError: there is no such file, or one is unusable.
    """
    for path in text_files(folder):
        yield from read_texts(path)


def text_files(folder: str | Path) -> list[Path]:
    """Return the files that `read_folder` reads, by name.

    Raises:
        DataError: there is none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"no texts at {folder}: there is no such folder")
    paths = sorted(p for p in folder.iterdir() if p.suffix in TEXT_SUFFIXES and p.name[0] != "." and p.is_file())
    if not paths:
        raise DataError(f"no texts in {folder}: neither .parquet nor .jsonl files are there")
    return paths


def sample(folder: str | Path, count: int, seed: int = 0) -> list[Text]:
    """Draw texts evenly from the files of a folder and the roles in each, shuffled.

    A large source cannot crowd out a small one: each gives the same number as long as it lasts. A larger
    `count` draws the same texts and more, so that what was made of them is of use again.

    Args:
        folder: see `read_folder`; it is read as a whole.
        count: how many texts to draw; all of them if there are fewer.
        seed: of the draw.

    Raises:
        DataError: as `read_folder`.
    """
    if count < 1:
        raise DataError(f"{count} texts: at least 1 is needed")
    groups: dict[tuple[str, Role], list[Text]] = {}
    seen: set[Text] = set()
    for path in text_files(folder):
        for text in read_texts(path):
            if text not in seen:
                seen.add(text)
                groups.setdefault((path.name, text.role), []).append(text)

    def place(text: Text, what: str = "draw") -> bytes:
        return hashlib.sha256(f"{what}\0{seed}\0{text.role}\0{text.text}".encode()).digest()

    left, drawn = count, []
    smallest_first = sorted(groups.values(), key=len)
    for index, group in enumerate(smallest_first):
        share = -(-left // (len(smallest_first) - index))
        drawn += heapq.nsmallest(min(share, left), group, key=place)
        left = count - len(drawn)
    return sorted(drawn, key=lambda text: place(text, "order"))


def crop_queries(texts: Iterable[Text], count: int = 1, seed: int = 0) -> list[Text]:
    """Make queries of documents: sentences of theirs, whole or a run of 5 to 25 words.

    They stand for queries that are not known yet: short, and on the documents' subjects. A document gives the same
    ones whatever is around it.

    Args:
        texts: documents; queries among them are passed over.
        count: how many to make of each, repeats dropped.
        seed: of the choice.

    Returns:
        Texts in the role of queries, none twice; fewer than `count` a document where it is short.
    """
    forms: dict[str, Text] = {}
    for text in texts:
        if text.role is not Role.DOCUMENT:
            continue
        sentences = [s.split() for s in re.split(r"(?<=[.!?])\s+", text.text) if len(s.split()) >= 5]
        if not sentences:
            continue
        rng = random.Random(f"{seed}\0{text.text}")
        for _ in range(count):
            words, most = rng.choice(sentences), rng.randint(5, 25)
            if len(words) > most:
                first = rng.randint(0, len(words) - most) if rng.random() < 0.5 else 0
                words = words[first : first + most]
            forms.setdefault(" ".join(words), Text(" ".join(words), Role.QUERY))
    return list(forms.values())


def with_at_least(texts: Sequence[Text], least: int) -> Sequence[Text]:
    """Return the texts, joined by as many queries made of each document as bring fewer than `least` up to it."""
    if not texts or len(texts) >= least:
        return texts
    return [*texts, *crop_queries(texts, -(-least // len(texts)) - 1)]


def hub_texts(
    name: str,
    column: str,
    role: Role | str,
    *,
    config: str | None = None,
    split: str = "train",
    limit: int | None = None,
) -> Iterator[Text]:
    """Stream one text column of a data set of the hub; nothing is downloaded whole.

    Args:
        name: the data set's name on the hub, or a local folder that `datasets` can read.
        column: the column that holds the text.
        role: the role of every text in it.
        config: the data set's configuration, where it has several.
        split: the split to read.
        limit: stop after this many texts.

    Raises:
        DataError: the data set cannot be reached, or has no such column.
    """
    for row in hub_rows(name, column, config=config, split=split, limit=limit):
        if (text := row[column]) and text.strip():
            yield Text(text, role)


def hub_rows(
    name: str,
    *columns: str,
    config: str | None = None,
    split: str = "train",
    skip: int = 0,
    limit: int | None = None,
) -> Iterator[dict]:
    """Stream columns of a data set of the hub row by row, empty ones too; otherwise as `hub_texts`.

    Args:
        name: the data set's name on the hub, or a local folder that `datasets` can read.
        *columns: those of each row to keep.
        config: the data set's configuration, where it has several.
        split: the split to read.
        skip: rows to leave out at first.
        limit: stop after this many rows.

    Raises:
        DataError: the data set cannot be reached, or has no such column.
    """
    from datasets import load_dataset

    try:
        rows = load_dataset(name, config, split=split, streaming=True)
        rows = rows.skip(skip) if skip else rows
        for row in rows if limit is None else rows.take(limit):
            if missing := [column for column in columns if column not in row]:
                raise DataError(f"data set {name}: no column {missing[0]!r}; it has {', '.join(row)}")
            yield {column: row[column] for column in columns}
    except DataError:
        raise
    except Exception as error:  # datasets raises a dozen kinds, most of them bare
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"data set {name} ({split}) could not be read: {reason}. Check the name, the network and, "
            "for a gated data set, HF_TOKEN; a local .parquet or .jsonl file needs no hub."
        ) from None


# --- files --------------------------------------------------------------------------------------


def json_lines(path: Path) -> Iterator[tuple[str, dict]]:
    """Stream the objects of a JSON-lines file, each with where it is.

    Raises:
        DataError: the file is missing or empty, or a line is no JSON object.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing")
    empty = True
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: not UTF-8 text ({error.reason} at byte {error.start})") from None
            except json.JSONDecodeError as error:
                raise DataError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None
            except (ValueError, RecursionError) as error:  # absurd numbers and nesting
                raise DataError(f"{where}: not JSON that can be read ({error})") from None
            if not isinstance(row, dict):
                raise DataError(f"{where}: a JSON object is expected, not {type(row).__name__}")
            empty = False
            yield where, row
    if empty:
        raise DataError(f"{path} is empty")


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
    if missing := set(columns) - set(file.schema_arrow.names):
        raise DataError(
            f"{path} has no column {' or '.join(sorted(missing))}; it has {', '.join(file.schema_arrow.names)}"
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
        for batch in file.iter_batches(batch_size=4096, columns=list(columns)):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged after row {number:,}: {error}") from None


def _identifier(where: str, row: dict, seen: dict) -> str:
    if row.get("_id") is None:
        raise DataError(f"{where}: no '_id'")
    identifier = str(row["_id"])
    if identifier in seen:
        raise DataError(f"{where}: id {identifier!r} comes twice; ids must be unique")
    return identifier


def _string(where: str, row: dict, key: str, default: str | None = None) -> str:
    value = row.get(key)
    if value is None:
        if default is None:
            raise DataError(f"{where}: no {key!r}")
        return default
    if problem := text_problem(value):
        raise DataError(f"{where}: {key!r} {problem}")
    return value


_GRADE = re.compile(r"-?\d{1,4}(\.0+)?")


def _qrels(path: Path, queries: dict[str, str], documents: dict[str, str]) -> dict[str, dict[str, int]]:
    if not path.is_file():
        splits = ", ".join(sorted(p.stem for p in path.parent.glob("*.tsv"))) or "none"
        raise DataError(f"{path} is missing (splits found: {splits})")
    qrels: dict[str, dict[str, int]] = {}
    unknown: list[str] = []
    lines = path.read_text(encoding="utf-8-sig", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        parts = [part.strip() for part in line.split("\t")]
        if not line.strip() or (number == 1 and len(parts) == 3 and not _GRADE.fullmatch(parts[2])):
            continue  # a header, whatever its names
        where = f"{path}, line {number}"
        if len(parts) != 3 or not _GRADE.fullmatch(parts[2]):
            raise DataError(f"{where}: expected query-id, corpus-id and an integer score, tab-separated")
        query, document, grade = parts[0], parts[1], int(float(parts[2]))
        if qrels.get(query, {}).get(document, grade) != grade:
            raise DataError(f"{where}: query {query!r} and document {document!r} were judged differently before")
        for kind, identifier, known in (("query", query, queries), ("document", document, documents)):
            if identifier not in known:
                unknown.append(f"line {number}: {kind} {identifier!r}")
        qrels.setdefault(query, {})[document] = grade
    if unknown:
        raise DataError(f"{path}: {len(unknown):,} unknown ids, first {unknown[0]}")
    if not qrels:
        raise DataError(f"{path} has no judgments")
    return qrels
