"""Texts and retrieval data sets from whatever people have: lists, tables, files, folders, data sets of the hub."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import warnings
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import nsmallest
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path

import numpy as np
import xxhash

from workbench import _files, _lines
from workbench._files import hub_rows, parquet_rows, text_columns
from workbench._retrieval import DATA, RetrievalDataset, is_dataset, read_dataset, tutorial
from workbench._texts import MAX_CHARACTERS, Role, Text, text_problem
from workbench._util import counted, expanded, whole
from workbench.errors import DataError

__all__ = [
    "DATA", "MAX_CHARACTERS", "RetrievalDataset", "Role", "Text", "add_cropped_queries", "as_texts", "crop_queries", "cut",
    "hub_rows", "is_dataset", "parquet_rows", "read_dataset", "read_texts", "stream_texts", "text_columns", "text_problem",
    "tutorial",
]  # fmt: skip

IN_MEMORY = 100_000  # texts; more of them go to a file

_ONCE = " (an iterator can be read once only)"
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

    Blank and missing texts, exact duplicates (of the same role) and files of a folder that cannot be read are left out,
    counted and reported in a warning.

    Args:
        source: strings or `Text` objects (a list, Series, generator, ...), a DataFrame, a `datasets.Dataset`, a
            `RetrievalDataset` (its documents), or the name of:
            a file (.csv, .tsv, .parquet, .jsonl, .json; a .txt or .md file is one text; all but .parquet also packed,
            as .gz), a folder of such files and folders, a folder in BEIR layout (its documents), "docstrings" (of the
            installed libraries), "tutorial", or a data set of the Hugging Face hub ("owner/name" with `column`, or
            "hub:NAME:COLUMN:ROLE"). Bytes are taken as UTF-8.
        column: the column with the texts; None for `text`, or the only column of strings.
        role: of all texts. None: of each text by itself, by the column `role` where there is one and it says
            something; else document. `text`, `role`, `query` and `document` may be in capitals.
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

    if isinstance(source, str) and not source.strip():
        raise DataError(
            "the source is an empty string: give the name of a file or folder, or texts in a list"
        )
    if column is not None and not (isinstance(column, str) and column):
        raise DataError(f"column is {column!r}: give a column's name")
    if sample is not None and limit is not None:
        raise DataError(f"sample={sample}, limit={limit}: give one of them")
    if sample is not None:
        sample = whole(sample, "sample", error=DataError)
    counts, keys = Counter(), array("Q")
    parts = _parts(
        source, counts, column=column, role=role, passages=passages, encoding=encoding, split=split
    )
    if sample is not None:
        texts = _draw(parts, sample, counts)
    else:
        stream = _first(limit, parts)
        # Duplicates are found by hashes of 64 bits. Should two texts ever share one, a text is left out.
        texts = hold((keys.append(_hash(text)) or text for text in stream), IN_MEMORY)
        first = np.sort(np.unique(np.array(keys, np.uint64), return_index=True)[1])
        if duplicates := len(texts) - len(first):
            counts["duplicate"] = duplicates
            texts = (
                texts.subset(first) if isinstance(texts, StoredTexts) else [texts[i] for i in first]
            )
    if not len(texts) and counts["blank"]:
        raise DataError(
            "the text is blank"
            if counts["blank"] == 1
            else f"all {counts['blank']:,} texts are blank"
        )
    if not len(texts):
        where = (
            f" in {source}"
            if isinstance(source, str | Path)
            else _ONCE * isinstance(source, Iterator)
        )
        raise DataError(f"there are no texts{where}")
    _report(counts)
    return texts


def stream_texts(source: object, *, limit: int | None = None, **options: object) -> Iterator[Text]:
    """Stream the texts that `read_texts` reads, with the same options, duplicates included and nothing held."""
    counts = Counter()
    yield from _first(limit, _parts(source, counts, **options))
    _report(counts)


def _first(limit: int | None, parts: Iterable[tuple[str, Iterable[Text]]]) -> Iterator[Text]:
    limit = None if limit is None else whole(limit, "limit", error=DataError)
    return islice(chain.from_iterable(texts for _, texts in parts), limit)


def as_texts(texts: Iterable[str | Text], what: str = "texts") -> Sequence[Text]:
    """Return texts as a sequence of `Text`, position by position; a plain string is a document.

    Args:
        texts: strings and `Text` objects, mixed: a list, tuple, array, pandas Series, stored texts or a generator.
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
        raise DataError(
            f"{what}: got a table; choose one of its columns ({', '.join(map(str, columns))})"
        )
    wrong = isinstance(texts, bytes | bytearray | Mapping) or not isinstance(texts, Iterable)
    if wrong or getattr(texts, "ndim", 1) == 0:
        raise DataError(f"{what}: expected a list of strings, got {type(texts).__name__}")
    found = texts if isinstance(texts, list) else list(texts)
    if not found:
        raise DataError(
            f"{what}: got no texts{_ONCE * isinstance(texts, Iterator)}; at least one is needed"
        )
    return (
        found
        if all(type(text) is Text for text in found)
        else [_as_text(*each, what) for each in enumerate(found)]
    )


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
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating) and bool(value != value)


# --- how a source becomes texts -----------------------------------------------------------------


def _parts(
    source, counts: Counter, *, role=None, passages=None, column=None, encoding=None, split="train"
):
    """Give the parts of a source, a name and a stream of texts each: the files of a folder, or all of anything else."""
    if isinstance(source, str | Path) and os.path.exists(path := expanded(source)):
        parts = _path_parts(path, column, encoding, passages is not None)
    else:
        parts = [("", _rows(source, column, split))]
    for name, rows in parts:
        yield name, _texts(rows, role, passages, counts)


def _path_parts(path: Path, column: str | None, encoding: str | None, cut: bool):
    if path.is_file():
        yield "", _files.file_rows(path, column, encoding, cut)
        return
    paths, left_out = _files.files_in(path)
    if not paths:
        ends = f"has no files that end in {', '.join(_files.SUFFIXES)}{_files.PACKED}"
        found = (
            f"; {left_out[0].name} and others are empty, binary or of other kinds"
            if left_out
            else ""
        )
        raise DataError(f"no texts in {path}: it {ends}, or none that can be read{found}")
    if left_out:
        some = ", ".join(str(p.relative_to(path)) for p in left_out[:3]) + ", ..." * (
            len(left_out) > 3
        )
        warnings.warn(
            f"{path}: {counted(len(left_out), 'empty, binary or other file')} left out ({some})",
            stacklevel=4,
        )
    for each in paths:
        known = encoding if encoding and not _lines.is_utf8(each) else None
        yield str(each), _files.file_rows(each, column, known, cut)


def _rows(source: object, column: str | None, split: str) -> Iterator[_files.Row]:
    """Stream the rows of what is no file or folder."""
    if isinstance(source, str | Path):
        return _named_rows(str(source), column, split)
    if isinstance(source, RetrievalDataset):
        source = source.document_texts()
    if type(source).__module__.startswith("pyarrow.") and hasattr(source, "to_pandas"):
        try:
            source = source.to_pandas()
        except (
            ValueError,
            TypeError,
            ArithmeticError,
            NotImplementedError,
        ) as error:  # also all of pyarrow's own
            raise DataError(
                f"the {type(source).__name__} cannot be read: {error}. Select the column of texts"
            ) from None
    if type(source).__module__.startswith("datasets.") and (
        isinstance(source, Mapping)
        or hasattr(source, "select_columns")  # and no column of a data set, which is a list
    ):
        return _dataset_rows(source, column, split)
    if (names := getattr(source, "columns", None)) is not None:
        firsts = {n: next((v for v in source[n] if not _is_missing(v)), None) for n in names}
        chosen, role = _files.choose_column(
            list(names), _files.strings_in(firsts), column, "the table"
        )
        roles = [None] * len(source) if role is None else source[role]
        return (
            (f"row {i:,}", *row) for i, row in enumerate(zip(source[chosen], roles, strict=True))
        )
    wrong = isinstance(source, bytes | bytearray | Mapping | Text) or not isinstance(
        source, Iterable
    )
    if wrong or getattr(source, "ndim", 1) == 0:
        given = type(source).__name__
        raise DataError(
            f"expected a list of strings, a table, or the name of a file or folder; got {given}"
        )
    return _files.record_rows(
        ((f"item {i:,}", item) for i, item in enumerate(source)), column, "the list"
    )


def _named_rows(name: str, column: str | None, split: str) -> Iterator[_files.Row]:
    if name == "docstrings":
        from workbench.docstrings import docstring_corpus

        return ((name, text.text, text.role) for text in docstring_corpus().train)
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
        where = "" if os.path.isabs(expanded(name)) else f" in {os.getcwd()}"
        raise DataError(
            f"no texts at {short}: there is no such file or folder{where}. Other names are {_NAMES}. One text goes in a list."
        )
    rows = hub_rows(name, column, split=split)
    return (
        (f"{name}, row {number}", row[column], role) for number, row in enumerate(rows, start=1)
    )


def _dataset_rows(source, column: str | None, split: str) -> Iterator[_files.Row]:
    if isinstance(source, Mapping):  # splits
        if split not in source:
            raise DataError(f"the data set has no split {split!r}; it has {', '.join(source)}")
        source = source[split]
    if kinds := source.features:  # no row is read: pictures and sounds need packages of their own
        kinds = {name: getattr(kind, "dtype", None) for name, kind in kinds.items()}
        strings, binary = (
            [n for n, kind in kinds.items() if kind in (of, f"large_{of}")]
            for of in ("string", "binary")
        )
        names, strings = list(kinds), strings or binary
    else:
        names = list(first := next(iter(source), {}))
        strings = _files.strings_in(first)
    chosen, role = _files.choose_column(names, strings, column, "the data set")
    source = source.select_columns([chosen, *([role] if role else [])])
    return ((f"row {i:,}", row[chosen], row.get(role)) for i, row in enumerate(source))


def _texts(
    rows: Iterable[_files.Row], role: str | None, passages: int | None, counts: Counter
) -> Iterator[Text]:
    for where, value, own in rows:
        value, own = _decoded(value), _decoded(own)
        if isinstance(value, bytes | bytearray):
            raise DataError(
                f"{where}: bytes that are not UTF-8; decode them first: value.decode('cp1252')"
            )
        kind = role or (
            Role.DOCUMENT if _is_missing(own) or (isinstance(own, str) and not own.strip()) else own
        )
        for piece in (
            cut(value, passages) if passages is not None and isinstance(value, str) else [value]
        ):
            counts["read"] += 1
            if _is_missing(piece) or (isinstance(piece, str) and not piece.strip()):
                counts["blank"] += 1
                continue
            try:
                yield Text(str(piece) if isinstance(piece, str) else piece, kind)
            except DataError as error:
                ignore = "; wb.read_texts(..., role='document') ignores the column `role`"
                hint = "" if role or not str(error).startswith("role ") else ignore
                raise DataError(f"{where}: {error}{hint}") from None


def _decoded(value: object) -> object:
    """Return the string that bytes are in UTF-8; anything else as it is."""
    if isinstance(value, bytes | bytearray):
        with contextlib.suppress(UnicodeDecodeError):
            return value.decode("utf-8")
    return value


def _report(counts: Counter) -> None:
    said = " and ".join(
        f"{counts[kind]:,} {kind}" for kind in ("blank", "duplicate") if counts[kind]
    )
    if said:
        plural = "s" * (counts["blank"] + counts["duplicate"] > 1)
        warnings.warn(f"{said} text{plural} of {counts['read']:,} left out", stacklevel=3)


def _hash(text: Text) -> int:
    return xxhash.xxh3_64_intdigest(f"{text.role}\0{text.text}".encode())


def _draw(parts: Iterable[tuple[str, Iterable[Text]]], count: int, counts: Counter) -> list[Text]:
    """Draw texts evenly from the parts and the roles in each, shuffled: each gives as many as it has, up to its share.

    A larger `count` draws the same texts and more, so what was computed for them is of use again.
    """

    def place(text: Text, what: str = "draw") -> bytes:
        return hashlib.sha256("\0".join([what, "0", text.role, text.text]).encode()).digest()

    groups: dict[tuple[str, Role], list[tuple[bytes, Text]]] = defaultdict(list)
    sizes, seen = Counter(), set()
    for name, texts in parts:
        for text in texts:
            if (key := _hash(text)) in seen:
                counts["duplicate"] += 1
                continue
            seen.add(key)
            sizes[name, text.role] += 1
            group = groups[name, text.role]
            group.append((place(text), text))
            if len(group) > 2 * count + 1000:  # more than can be drawn from it
                group[:] = nsmallest(count, group, key=itemgetter(0))
    drawn: list[Text] = []
    for index, key in enumerate(sorted(groups, key=sizes.get)):  # the smallest first
        share = -(-(count - len(drawn)) // (len(groups) - index))
        drawn += [text for _, text in nsmallest(share, groups[key], key=itemgetter(0))]
    return sorted(drawn, key=lambda text: place(text, "order"))


# --- texts made of texts ------------------------------------------------------------------------

# Chinese and Japanese are written without spaces: a character counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")
_SENTENCE = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？])|\n\s*\n")


def cut(text: str, words: int) -> list[str]:
    """Cut a text into passages of about `words` words (at most 1.25 times as many), at ends of sentences.

    A text that has no more stays whole. A longer sentence is cut between words.

    Raises:
        DataError: `words` is not a whole number of at least 10.
    """
    whole(words, "passages, a number of words,", 10, DataError)
    starts = np.array([match.start() for match in _WORD.finditer(text)])
    if len(starts) <= (most := words * 5 // 4):
        return [text]
    ends = np.searchsorted(
        starts, [match.end() for match in _SENTENCE.finditer(text)]
    )  # words before each end
    pieces, first = [], 0
    while (left := len(starts) - first) > most:
        target = left / -(-left // words)
        near = ends[(ends > first) & (ends <= first + most)]
        last = int(near[np.abs(near - first - target).argmin()]) if len(near) else first + words
        pieces.append(text[starts[first] : starts[last]].strip())
        first = last
    return [*pieces, text[starts[first] :].strip()]


def crop_queries(texts: Iterable[Text], count: int = 1, seed: int = 0) -> list[Text]:
    """Make queries from documents: sentences, whole or a run of 5 to 25 words. They stand in for unknown real queries.

    Args:
        texts: documents; queries among them are passed over.
        count: how many to make of each document; a short one gives fewer. They do not depend on the other documents.
        seed: of the choice.

    Returns:
        Queries, none twice.
    """
    made: dict[str, None] = {}
    for text in (text.text for text in texts if text.role is Role.DOCUMENT):
        sentences = [s.split() for s in re.split(r"(?<=[.!?])\s+", text) if len(s.split()) >= 5]
        rng = random.Random(f"{seed}\0{text}")
        for _ in range(count if sentences else 0):
            words, most = rng.choice(sentences), rng.randint(5, 25)
            first = (
                rng.randint(0, len(words) - most) if len(words) > most and rng.random() < 0.5 else 0
            )
            made[" ".join(words[first : first + most])] = None
    return [Text(query, Role.QUERY) for query in made]


def add_cropped_queries(texts: Sequence[Text], at_least: int) -> Sequence[Text]:
    """Add cropped queries (see `crop_queries`) until there are about `at_least` texts; enough texts stay as they are."""
    if not texts or len(texts) >= at_least:
        return texts
    return [*texts, *crop_queries(texts, -(-at_least // len(texts)) - 1)]
