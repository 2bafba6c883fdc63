"""Texts and retrieval data sets from whatever people have: lists, tables, files, folders, data sets of the hub."""

from __future__ import annotations

import hashlib
import random
import re
import warnings
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
import xxhash

from workbench import _files
from workbench._files import hub_rows, parquet_rows
from workbench._retrieval import DATA, RetrievalDataset, read_dataset, tutorial
from workbench._texts import MAX_CHARACTERS, Role, Text, text_problem
from workbench.errors import DataError

__all__ = [
    "DATA", "MAX_CHARACTERS", "RetrievalDataset", "Role", "Text", "add_cropped_queries", "as_texts", "crop_queries", "cut",
    "hub_rows", "parquet_rows", "read_dataset", "read_texts", "stream_texts", "text_problem", "tutorial",
]  # fmt: skip

IN_MEMORY = 100_000  # texts; more of them go to a file

_NAMES = "'tutorial', 'docstrings', or a data set of the hub: owner/name with column=, or hub:NAME:COLUMN:ROLE"


def read_texts(
    source: object,
    *,
    column: str | None = None,
    role: Role | str | None = None,
    passages: int | None = None,
    encoding: str | None = None,
    split: str = "train",
    limit: int | None = None,
    sample: int | None = None,
) -> Sequence[Text]:
    """Read texts from whatever holds them.

    Blank texts and exact duplicates (of the same role) are left out, counted and reported in a warning.

    Args:
        source: strings or `Text`s (a list, Series, generator, ...), a DataFrame, a `datasets.Dataset`, a
            `RetrievalDataset` (its documents), or the name of:
            a file (.csv, .tsv, .parquet, .jsonl, .json; a .txt or .md file is one text), a folder of such files and
            folders, a folder in BEIR layout (its documents), "docstrings" (of the installed libraries), "tutorial", or
            a data set of the Hugging Face hub ("owner/name" with `column`, or "hub:NAME:COLUMN:ROLE").
        column: the column with the texts; None for `text`, or the only column of strings.
        role: of all texts. None: of each text by itself, by the column `role` where there is one; else document.
        passages: cut longer texts into passages of about so many words, at ends of sentences.
        encoding: of files that are not UTF-8 (or UTF-16 with a byte-order mark).
        split: of a data set of the hub.
        limit: stop after this many texts.
        sample: draw this many texts instead, evenly from the files and roles, shuffled. A larger sample holds the
            smaller one.

    Returns:
        A list. From 100,000 texts on, a sequence that reads them from a temporary file, which goes with the process.

    Raises:
        DataError: there are no texts, the source is of another kind, or one text is unusable (with where it is).

    Example:
        >>> import workbench as wb
        >>> wb.read_texts(["A river.", "A bridge."])
        [Text(text='A river.', role=<Role.DOCUMENT: 'document'>), Text(text='A bridge.', role=<Role.DOCUMENT: 'document'>)]
    """
    from workbench._stored import StoredTexts, hold

    if min(sample or 1, limit or 1) < 1 or 0 in (sample, limit) or (sample and limit):
        raise DataError(f"sample={sample}, limit={limit}: give one of them, at least 1")
    counts, keys = Counter(), array("Q")
    parts = _parts(source, counts, column=column, role=role, passages=passages, encoding=encoding, split=split)
    if sample is not None:
        texts = _draw(parts, sample, counts)
    else:
        stream = islice(chain.from_iterable(texts for _, texts in parts), limit)
        # Duplicates are found by hashes of 64 bits. Should two texts ever share one, a text is left out.
        texts = hold((keys.append(_hash(text)) or text for text in stream), IN_MEMORY)
        first = np.unique(np.array(keys, np.uint64), return_index=True)[1]
        counts["duplicate"] = len(texts) - len(first)
        if counts["duplicate"]:
            rows = np.sort(first)
            texts = texts.subset(rows) if isinstance(texts, StoredTexts) else [texts[i] for i in rows]
    _report(counts)
    if not len(texts):
        if counts["blank"]:
            raise DataError(f"all {counts['blank']:,} texts are blank")
        raise DataError("there are no texts" + " (an iterator can be read once only)" * isinstance(source, Iterator))
    return texts


def stream_texts(source: object, *, limit: int | None = None, **options: object) -> Iterator[Text]:
    """Stream the texts that `read_texts` reads, with the same options, duplicates included and nothing held."""
    counts = Counter()
    yield from islice(chain.from_iterable(texts for _, texts in _parts(source, counts, **options)), limit)
    _report(counts)


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
    if (columns := getattr(texts, "columns", None)) is not None:
        raise DataError(f"{what}: got a table; choose one of its columns ({', '.join(map(str, columns))})")
    if isinstance(texts, bytes | bytearray | Mapping) or not isinstance(texts, Iterable):
        raise DataError(f"{what}: expected a list of strings, got {type(texts).__name__}")
    found = texts if isinstance(texts, list) else list(texts)
    if not found:
        once = " (an iterator can be read once only)" if isinstance(texts, Iterator) else ""
        raise DataError(f"{what}: got no texts{once}; at least one is needed")
    return found if all(type(text) is Text for text in found) else [_as_text(*each, what) for each in enumerate(found)]


def _as_text(position: int, item: object, what: str) -> Text:
    if isinstance(item, Text):
        return item
    if not isinstance(item, str):
        is_a = "missing" if _is_missing(item) else f"of type {type(item).__name__}"
        raise DataError(f"{what}: item {position:,} is {is_a}, and a string is expected")
    try:
        return Text(str(item))
    except DataError as error:
        raise DataError(f"{what}, item {position:,}: {error}") from None


def _is_missing(value: object) -> bool:
    return value is None or type(value).__name__ == "NAType" or (isinstance(value, float) and value != value)


# --- how a source becomes texts -----------------------------------------------------------------


def _parts(
    source: object,
    counts: Counter,
    *,
    role: Role | str | None = None,
    passages: int | None = None,
    column: str | None = None,
    encoding: str | None = None,
    split: str = "train",
) -> Iterator[tuple[str, Iterator[Text]]]:
    """Give the parts of a source, each with a name: the files of a folder, or the whole of anything else."""
    for name, rows in _row_parts(source, column, encoding, split, passages is not None):
        yield name, _texts(rows, role, passages, counts)


def _row_parts(
    source: object, column: str | None, encoding: str | None, split: str, cut: bool
) -> Iterator[tuple[str, Iterator[_files.Row]]]:
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if _files.exists(path):
            yield from _path_parts(path, column, encoding, cut)
        else:
            yield "", _named(str(source), column, split)
        return
    if isinstance(source, RetrievalDataset):
        source = source.document_texts()
    if type(source).__module__.startswith("pyarrow."):
        source = source.to_pandas()
    if type(source).__module__.startswith("datasets."):
        yield "", _dataset_rows(source, column, split)
    elif (names := getattr(source, "columns", None)) is not None:
        yield "", _frame_rows(source, list(names), column)
    elif isinstance(source, bytes | bytearray | Mapping | Text) or not isinstance(source, Iterable):
        raise DataError(
            f"expected a list of strings, a table, or the name of a file or folder; got {type(source).__name__}"
        )
    else:
        yield "", _files.record_rows(((f"item {i:,}", item) for i, item in enumerate(source)), column, "the list")


def _path_parts(path: Path, column: str | None, encoding: str | None, cut: bool):
    if path.is_file():
        yield path.name, _files.file_rows(path, column, encoding, cut)
        return
    paths, left_out = _files.files_in(path)
    some = ", ".join(str(p.relative_to(path)) for p in left_out[:3]) + ", ..." * (len(left_out) > 3)
    if not paths:
        raise DataError(f"no texts in {path}: it has no files that end in {', '.join(_files.SUFFIXES)}")
    if left_out:
        warnings.warn(f"{path}: {len(left_out):,} empty, binary or other files left out ({some})", stacklevel=5)
    for each in paths:
        known = encoding if encoding and not _files.is_utf8(each) else None
        yield str(each.relative_to(path)), _files.file_rows(each, column, known, cut)


def _named(name: str, column: str | None, split: str) -> Iterator[_files.Row]:
    if name == "docstrings":
        from workbench.docstrings import docstring_corpus

        return _files.record_rows(((name, text) for text in docstring_corpus().train), None, name)
    if name == "tutorial":
        return _files.corpus_rows(DATA / "tutorial" / "corpus.jsonl")
    role = None
    if name.startswith("hub:"):
        parts = name.removeprefix("hub:").rsplit(":", 2)
        if len(parts) != 3:
            raise DataError(f"{name}: expected hub:NAME:COLUMN:ROLE")
        name, column, role = parts
    elif column is None or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        short = name if len(name) <= 80 else f"{name[:80]}..."
        raise DataError(
            f"no texts at {short}: there is no such file or folder. Other names are {_NAMES}. One text goes in a list."
        )
    rows = hub_rows(name, column, split=split)
    return ((f"{name}, row {number}", row[column], role) for number, row in enumerate(rows, start=1))


def _dataset_rows(source, column: str | None, split: str) -> Iterator[_files.Row]:
    if isinstance(source, Mapping):  # splits
        if split not in source:
            raise DataError(f"the data set has no split {split!r}; it has {', '.join(source)}")
        source = source[split]
    first = next(iter(source), {})
    chosen = _files.choose_column(
        list(first), [name for name in first if isinstance(first[name], str)], column, "the data set"
    )
    source = source.select_columns([chosen, *({"role"} & set(first) - {chosen})])
    return ((f"row {i:,}", row[chosen], row.get("role")) for i, row in enumerate(source))


def _frame_rows(frame, names: list, column: str | None) -> Iterator[_files.Row]:
    strings = [n for n in names if isinstance(next((v for v in frame[n] if not _is_missing(v)), None), str)]
    chosen = _files.choose_column(names, strings, column, "the table")
    roles = frame["role"] if "role" in names else [None] * len(frame)
    return ((f"row {i:,}", *row) for i, row in enumerate(zip(frame[chosen], roles, strict=True)))


def _texts(
    rows: Iterable[_files.Row], role: Role | str | None, passages: int | None, counts: Counter
) -> Iterator[Text]:
    for where, value, own in rows:
        kind = role or (Role.DOCUMENT if _is_missing(own) or own == "" else own)
        pieces = cut(value, passages) if passages is not None and isinstance(value, str) else [value]
        for piece in pieces:
            counts["read"] += 1
            if _is_missing(piece) or (isinstance(piece, str) and not piece.strip()):
                counts["blank"] += 1
                continue
            try:
                yield Text(str(piece) if isinstance(piece, str) else piece, kind)
            except DataError as error:
                hint = "" if role or kind in list(Role) else "; role= sets the role of all texts"
                raise DataError(f"{where}: {error}{hint}") from None


def _report(counts: Counter) -> None:
    said = " and ".join(f"{counts[kind]:,} {kind}" for kind in ("blank", "duplicate") if counts[kind])
    if said and counts["blank"] < counts["read"]:
        warnings.warn(f"{said} texts of {counts['read']:,} left out", stacklevel=3)


def _hash(text: Text) -> int:
    return xxhash.xxh3_64_intdigest(f"{text.role}\0{text.text}".encode())


def _draw(parts: Iterable[tuple[str, Iterable[Text]]], count: int, counts: Counter) -> list[Text]:
    """Draw texts evenly from the parts and the roles in each, shuffled.

    A large part cannot crowd out a small one: each gives the same number as long as it lasts. A larger `count` draws
    the same texts and more, so what was computed for them is of use again.
    """

    def place(text: Text, what: str = "draw") -> bytes:
        return hashlib.sha256("\0".join([what, "0", text.role, text.text]).encode()).digest()

    groups: dict[tuple[str, Role], list[tuple[bytes, Text]]] = {}
    sizes, seen = Counter(), set()
    for name, texts in parts:
        for text in texts:
            if (key := _hash(text)) in seen:
                counts["duplicate"] += 1
                continue
            seen.add(key)
            sizes[name, text.role] += 1
            group = groups.setdefault((name, text.role), [])
            group.append((place(text), text))
            if len(group) > 2 * count + 1000:  # more than can be drawn from it
                group.sort(key=lambda each: each[0])
                del group[count:]
    drawn: list[Text] = []
    for index, key in enumerate(sorted(groups, key=lambda key: sizes[key])):  # the smallest first
        left = count - len(drawn)
        share = min(left, -(-left // (len(groups) - index)))
        drawn += [text for _, text in sorted(groups[key], key=lambda each: each[0])[:share]]
    return sorted(drawn, key=lambda text: place(text, "order"))


# --- texts made of texts ------------------------------------------------------------------------

# Chinese and Japanese are written without spaces: a character counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")
_SENTENCE = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？])|\n\s*\n")


def cut(text: str, words: int) -> list[str]:
    """Cut a text into passages of about `words` words, at ends of sentences.

    Passages have at most 1.25 times as many, and a text that has no more stays whole. A longer sentence is cut between
    words.

    Raises:
        DataError: `words` is not a whole number of at least 10.
    """
    if not isinstance(words, int) or words < 10:
        raise DataError(f"passages={words!r}: a number of words is expected, at least 10")
    starts = np.array([match.start() for match in _WORD.finditer(text)])
    if len(starts) <= (most := words * 5 // 4):
        return [text]
    ends = np.searchsorted(starts, [match.end() for match in _SENTENCE.finditer(text)])  # words before each end
    pieces, first = [], 0
    while (left := len(starts) - first) > most:
        target = left / -(-left // words)
        near = ends[(ends > first) & (ends <= first + most)]
        last = int(near[np.abs(near - first - target).argmin()]) if len(near) else first + words
        pieces.append(text[starts[first] : starts[last]].strip())
        first = last
    return [*pieces, text[starts[first] :].strip()]


def crop_queries(texts: Iterable[Text], count: int = 1, seed: int = 0) -> list[Text]:
    """Make queries from documents: sentences, whole or a run of 5 to 25 words.

    They stand in for queries that are not known yet: short, and on the documents' subjects. The queries of a document
    do not depend on the other documents.

    Args:
        texts: documents; queries among them are passed over.
        count: how many to make of each document.
        seed: of the choice.

    Returns:
        Queries, none twice; fewer than `count` of a short document.
    """
    made: dict[str, Text] = {}
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
            made.setdefault(" ".join(words), Text(" ".join(words), Role.QUERY))
    return list(made.values())


def add_cropped_queries(texts: Sequence[Text], at_least: int) -> Sequence[Text]:
    """Add cropped queries (see `crop_queries`) until there are about `at_least` texts; enough texts stay as they are."""
    if not texts or len(texts) >= at_least:
        return texts
    return [*texts, *crop_queries(texts, -(-at_least // len(texts)) - 1)]
