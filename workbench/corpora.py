"""Texts and retrieval collections; every text carries its role, query or document."""

from __future__ import annotations

import ast
import hashlib
import heapq
import importlib.util
import json
import random
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import CorpusError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

DATA = Path(__file__).resolve().parent.parent / "data"

# Enough for any real document; a longer "text" is almost always a file read whole by mistake, and
# would hold up the tokenizer for minutes to use its first few hundred tokens.
MAX_CHARACTERS = 10_000_000

TEXT_SUFFIXES = (".parquet", ".jsonl", ".ndjson")  # of the files that `read_texts` reads

# Large, carefully documented libraries that this project's own dependencies bring along, so that the
# corpus is the same wherever the same versions are installed.
DOCSTRING_LIBRARIES = (
    "IPython", "accelerate", "datasets", "fsspec", "huggingface_hub", "jupyter_server", "networkx",
    "numpy", "pandas", "pyarrow", "rich", "scipy", "sentence_transformers", "sklearn", "tornado",
    "traitlets",
)  # fmt: skip


class Role(StrEnum):
    """What a text is in a search: its teacher may embed the two differently."""

    QUERY = "query"
    DOCUMENT = "document"


@dataclass(frozen=True, slots=True)
class Text:
    """One text and its role.

    Raises:
        CorpusError: the text is no string, is longer than `MAX_CHARACTERS`, is binary, or has
            characters that are no valid Unicode; or the role is neither query nor document.
    """

    text: str
    role: Role

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "role", Role(self.role))
        except ValueError:
            raise CorpusError(f"role {self.role!r}: it must be 'query' or 'document'") from None
        if problem := text_problem(self.text):
            raise CorpusError(f"a {self.role} {problem}")


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


@dataclass(frozen=True)
class Collection:
    """A retrieval collection: documents, queries and graded judgments.

    Attributes:
        name: what reports call it.
        documents: document id to text (a title, if there is one, in front).
        queries: query id to text, judged queries only.
        qrels: query id to document id to grade; a grade of 0 means judged and not relevant.
    """

    name: str
    documents: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    query_metadata: dict[str, dict] = field(default_factory=dict)

    def document_texts(self) -> list[Text]:
        """Return the documents, in the order of `documents`."""
        return [Text(text, Role.DOCUMENT) for text in self.documents.values()]

    def query_texts(self) -> list[Text]:
        """Return the queries, in the order of `queries`."""
        return [Text(text, Role.QUERY) for text in self.queries.values()]


def tutorial() -> Collection:
    """Return the small collection of everyday passages that this project ships in `data/tutorial`."""
    return beir(DATA / "tutorial")


def beir(folder: str | Path, split: str = "test") -> Collection:
    """Read a folder in BEIR layout: corpus.jsonl, queries.jsonl and qrels/<split>.tsv.

    Documents without any text are kept (a ranking must be able to contain them) and counted in a
    warning; queries without judgments in this split are left out, as in BEIR.

    Args:
        folder: the collection's folder; its name becomes the collection's name.
        split: which judgments to read.

    Raises:
        CorpusError: a file is missing or empty, a line is no JSON object (with its number), an id
            comes twice, a text is unusable, or judgments name unknown ids.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CorpusError(f"no collection at {folder}: there is no such folder")
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
        raise CorpusError(f"{folder / 'queries.jsonl'}: judged query {empty[0]!r} is empty")
    return Collection(folder.name, documents, queries, qrels, {i: metadata[i] for i in queries})


def read_texts(path: str | Path) -> Iterator[Text]:
    """Stream texts from a parquet or JSON-lines file with the columns `text` and `role`.

    Blank texts are skipped and counted in a warning at the end.

    Raises:
        CorpusError: the file is missing or of another kind, a column is missing, or a row is
            unusable (with its number).
    """
    path = Path(path)
    if not path.is_file():
        raise CorpusError(f"no texts at {path}: there is no such file")
    if path.suffix == ".parquet":
        rows = parquet_rows(path, "text", "role")
    elif path.suffix in TEXT_SUFFIXES:
        rows = json_lines(path)
    else:
        raise CorpusError(f"{path}: texts are read from .parquet or .jsonl files")
    blank = 0
    for where, row in rows:
        text, role = _string(where, row, "text"), row.get("role")
        if not text.strip():
            blank += 1
            continue
        try:
            yield Text(text, role)
        except CorpusError as error:
            raise CorpusError(f"{where}: {error}") from None
    if blank:
        warnings.warn(f"{path}: skipped {blank:,} blank texts", stacklevel=2)


def read_folder(folder: str | Path) -> Iterator[Text]:
    """Stream the texts of all .parquet and .jsonl files of a folder, file after file; see `read_texts`.

    Raises:
        CorpusError: there is no such file, or one is unusable.
    """
    for path in text_files(folder):
        yield from read_texts(path)


def text_files(folder: str | Path) -> list[Path]:
    """Return the files that `read_folder` reads, by name.

    Raises:
        CorpusError: there is none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CorpusError(f"no texts at {folder}: there is no such folder")
    paths = sorted(p for p in folder.iterdir() if p.suffix in TEXT_SUFFIXES and p.name[0] != "." and p.is_file())
    if not paths:
        raise CorpusError(f"no texts in {folder}: neither .parquet nor .jsonl files are there")
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
        CorpusError: as `read_folder`.
    """
    if count < 1:
        raise CorpusError(f"{count} texts: at least 1 is needed")
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


def query_forms(texts: Iterable[Text], count: int = 1, seed: int = 0) -> list[Text]:
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


def at_least(texts: Sequence[Text], least: int) -> Sequence[Text]:
    """Return the texts, joined by as many queries made of each document as bring fewer than `least` up to it."""
    if not texts or len(texts) >= least:
        return texts
    return [*texts, *query_forms(texts, -(-least // len(texts)) - 1)]


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
        CorpusError: the data set cannot be reached, or has no such column.
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
        CorpusError: the data set cannot be reached, or has no such column.
    """
    from datasets import load_dataset

    try:
        rows = load_dataset(name, config, split=split, streaming=True)
        rows = rows.skip(skip) if skip else rows
        for row in rows if limit is None else rows.take(limit):
            if missing := [column for column in columns if column not in row]:
                raise CorpusError(f"data set {name}: no column {missing[0]!r}; it has {', '.join(row)}")
            yield {column: row[column] for column in columns}
    except CorpusError:
        raise
    except Exception as error:  # datasets raises a dozen kinds, most of them bare
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CorpusError(
            f"data set {name} ({split}) could not be read: {reason}. Check the name, the network and, "
            "for a gated data set, HF_TOKEN; a local .parquet or .jsonl file needs no hub."
        ) from None


# --- docstrings ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class DocstringCorpus:
    """Pairs of a docstring's summary (query) and the rest of it (document), split once.

    Attributes:
        train: the training texts, both roles, pair after pair.
        held_out: the other pairs as a collection; each query's one relevant document is its own.
    """

    train: list[Text]
    held_out: Collection


def docstrings(
    pairs: int | None = None, held_out: int = 500, libraries: Iterable[str] = DOCSTRING_LIBRARIES
) -> DocstringCorpus:
    """Build a corpus from the docstrings of installed libraries, without importing any of them.

    A docstring's first sentence becomes a query; the rest of its prose becomes the document, with
    the signature, the object's name, code and the summary itself taken out, so that a search has to
    understand rather than copy. Which pair goes where depends on a hash of its content, so the same
    versions of the libraries give the same corpus on every machine.

    Args:
        pairs: how many training pairs to keep, all of them if None.
        held_out: how many pairs to hold out.
        libraries: top-level names of installed packages.

    Raises:
        CorpusError: a library is not installed, or there are too few pairs.
    """
    if held_out < 0 or (pairs is not None and pairs < 1):
        raise CorpusError(f"pairs={pairs}, held_out={held_out}: at least 1 and 0 are needed")
    libraries = [libraries] if isinstance(libraries, str) else libraries
    found: dict[str, tuple[str, str]] = {}
    for library in sorted(set(libraries)):
        for summary, body in _library_pairs(library):
            # Inherited and templated docstrings repeat: one pair for each opening and each summary.
            for key in (_words_key(summary), _words_key(body)):
                if key in found:
                    break
            else:
                found[_words_key(summary)] = found[_words_key(body)] = (summary, body)
    ordered = sorted(set(found.values()), key=lambda pair: hashlib.sha256("\n".join(pair).encode()).digest())
    wanted = held_out + (pairs or 1)
    if len(ordered) < wanted:
        raise CorpusError(
            f"{len(ordered):,} docstring pairs found, {wanted:,} wanted: name more libraries or ask for fewer pairs"
        )
    kept_out, rest = ordered[:held_out], ordered[held_out:]
    train = [t for query, body in rest[:pairs] for t in (Text(query, Role.QUERY), Text(body, Role.DOCUMENT))]
    collection = Collection(
        "docstrings",
        documents={f"d{i}": body for i, (_, body) in enumerate(kept_out)},
        queries={f"q{i}": query for i, (query, _) in enumerate(kept_out)},
        qrels={f"q{i}": {f"d{i}": 1} for i in range(len(kept_out))},
    )
    return DocstringCorpus(train, collection)


def _library_pairs(library: str) -> Iterator[tuple[str, str]]:
    # For a top-level name this locates without importing; for a dotted one it would import.
    spec = importlib.util.find_spec(library) if "." not in library else None
    if spec is None or not spec.submodule_search_locations:
        raise CorpusError(f"library {library!r} is not installed: install it or leave it out of `libraries`")
    root = Path(next(iter(spec.submodule_search_locations)))
    for path in sorted(root.rglob("*.py")):
        if {"tests", "test", "testing", "_vendor"} & set(path.relative_to(root).parts):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # templates and files for other Python versions
            continue
        for node in _definitions(tree):
            docstring = ast.get_docstring(node)
            if docstring and (pair := _split_docstring(docstring, node.name)):
                yield pair


def _definitions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Walk the classes, methods and functions, nested statements included, expressions not."""
    for node in getattr(tree, "body", []):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node
            continue
        if isinstance(node, ast.ClassDef):
            yield node
        yield from _definitions(node)


_SECTION_RULE = re.compile(r"^\s*[-=~^`]{3,}\s*$")
_FIELD = re.compile(r"^\s*(:\w+[^:]*:|\.\. [\w-]+::.*|@\w+.*)")
_ROLE_MARKUP = re.compile(r":[\w:+-]+:`~?([^`<]*)(?:<[^>]*>)?`")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


def _split_docstring(docstring: str, name: str) -> tuple[str, str] | None:
    paragraphs = re.split(r"\n\s*\n", docstring.strip())
    while len(paragraphs) > 1 and re.match(rf"^\W*[\w.]*{re.escape(name)}\s*\(", paragraphs[0]):
        paragraphs = paragraphs[1:]  # a signature line above the summary
    first = _plain(paragraphs[0].splitlines())
    summary, *more = _SENTENCE_END.split(first, maxsplit=1)
    body_lines = [line for paragraph in paragraphs[1:] for line in paragraph.splitlines()]
    body = " ".join([*more, _plain(body_lines)])
    for copied in (summary, summary.rstrip(".")):
        body = body.replace(copied, " ")
    if len(name) > 2:
        body = re.sub(rf"(?<!\w)[\w.]*(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])(\([^)]*\))?", " ", body)
    body = re.sub(r"\s+", " ", body).strip()
    if not 4 <= len(summary.split()) <= 40 or not summary[0].isupper() or ", optional" in summary:
        return None
    if len(body.split()) < 20 or len(body) > 20_000:
        return None
    letters = sum(c.isalpha() or c.isspace() for c in body)
    return (summary, body) if letters > 0.75 * len(body) else None


def _plain(lines: list[str]) -> str:
    """Join docstring lines into prose: without doctests, section rules, field markers and markup."""
    kept = []
    for line in lines:
        stripped = line.strip()
        if stripped.startswith((">>>", "...", "```")) or _SECTION_RULE.match(line):
            continue
        kept.append(_FIELD.sub("", line).strip())
    text = _ROLE_MARKUP.sub(r"\1", " ".join(kept))
    return re.sub(r"\s+", " ", re.sub(r"[`*|]+", "", text)).strip()


def _words_key(text: str) -> str:
    return " ".join(re.findall(r"[a-z]+", text.lower())[:12])


# --- files --------------------------------------------------------------------------------------


def json_lines(path: Path) -> Iterator[tuple[str, dict]]:
    """Stream the objects of a JSON-lines file, each with where it is.

    Raises:
        CorpusError: the file is missing or empty, or a line is no JSON object.
    """
    if not path.is_file():
        raise CorpusError(f"{path} is missing")
    empty = True
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except UnicodeDecodeError as error:
                raise CorpusError(f"{where}: not UTF-8 text ({error.reason} at byte {error.start})") from None
            except json.JSONDecodeError as error:
                raise CorpusError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None
            except (ValueError, RecursionError) as error:  # absurd numbers and nesting
                raise CorpusError(f"{where}: not JSON that can be read ({error})") from None
            if not isinstance(row, dict):
                raise CorpusError(f"{where}: a JSON object is expected, not {type(row).__name__}")
            empty = False
            yield where, row
    if empty:
        raise CorpusError(f"{path} is empty")


def parquet_file(path: Path, *columns: str) -> pq.ParquetFile:
    """Open a parquet file and see that it has the columns.

    Raises:
        CorpusError: the file is missing or damaged, or has no such column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise CorpusError(f"{path} cannot be read as parquet: {error}") from None
    if missing := set(columns) - set(file.schema_arrow.names):
        raise CorpusError(
            f"{path} has no column {' or '.join(sorted(missing))}; it has {', '.join(file.schema_arrow.names)}"
        )
    return file


def parquet_rows(path: Path, *columns: str) -> Iterator[tuple[str, dict]]:
    """Stream columns of a parquet file, each row with where it is.

    Raises:
        CorpusError: the file is missing, empty or damaged, or has no such column.
    """
    import pyarrow as pa

    file = parquet_file(path, *columns)
    if not file.metadata.num_rows:
        raise CorpusError(f"{path} is empty")
    number = 0
    try:
        for batch in file.iter_batches(batch_size=4096, columns=list(columns)):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} is damaged after row {number:,}: {error}") from None


def _identifier(where: str, row: dict, seen: dict) -> str:
    if row.get("_id") is None:
        raise CorpusError(f"{where}: no '_id'")
    identifier = str(row["_id"])
    if identifier in seen:
        raise CorpusError(f"{where}: id {identifier!r} comes twice; ids must be unique")
    return identifier


def _string(where: str, row: dict, key: str, default: str | None = None) -> str:
    value = row.get(key)
    if value is None:
        if default is None:
            raise CorpusError(f"{where}: no {key!r}")
        return default
    if problem := text_problem(value):
        raise CorpusError(f"{where}: {key!r} {problem}")
    return value


_GRADE = re.compile(r"-?\d{1,4}(\.0+)?")


def _qrels(path: Path, queries: dict[str, str], documents: dict[str, str]) -> dict[str, dict[str, int]]:
    if not path.is_file():
        splits = ", ".join(sorted(p.stem for p in path.parent.glob("*.tsv"))) or "none"
        raise CorpusError(f"{path} is missing (splits found: {splits})")
    qrels: dict[str, dict[str, int]] = {}
    unknown: list[str] = []
    lines = path.read_text(encoding="utf-8-sig", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        parts = [part.strip() for part in line.split("\t")]
        if not line.strip() or (number == 1 and len(parts) == 3 and not _GRADE.fullmatch(parts[2])):
            continue  # a header, whatever its names
        where = f"{path}, line {number}"
        if len(parts) != 3 or not _GRADE.fullmatch(parts[2]):
            raise CorpusError(f"{where}: expected query-id, corpus-id and an integer score, tab-separated")
        query, document, grade = parts[0], parts[1], int(float(parts[2]))
        if qrels.get(query, {}).get(document, grade) != grade:
            raise CorpusError(f"{where}: query {query!r} and document {document!r} were judged differently before")
        for kind, identifier, known in (("query", query, queries), ("document", document, documents)):
            if identifier not in known:
                unknown.append(f"line {number}: {kind} {identifier!r}")
        qrels.setdefault(query, {})[document] = grade
    if unknown:
        raise CorpusError(f"{path}: {len(unknown):,} unknown ids, first {unknown[0]}")
    if not qrels:
        raise CorpusError(f"{path} has no judgments")
    return qrels
