"""Texts and retrieval data sets from lists, tables, files, folders and the Hugging Face hub."""

from __future__ import annotations

import hashlib
import os
import random
import re
import warnings
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import nsmallest
from itertools import islice
from pathlib import Path

import numpy as np

from workbench import _files
from workbench._files import DATA, hub_rows, is_dataset, read_dataset, tutorial
from workbench._texts import RetrievalDataset, Role, StoredTexts, Text, hold
from workbench._util import counted, expanded, whole
from workbench.errors import DataError

__all__ = [
    "DATA", "RetrievalDataset", "Role", "StoredTexts", "Text", "as_texts", "crop_queries", "cut",
    "hold", "hub_rows", "is_dataset", "read_dataset", "read_texts", "stream_texts", "tutorial",
]  # fmt: skip

IN_MEMORY = 100_000  # texts; more of them go to a file


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
    """Read texts from whatever holds them, without blank texts and duplicates of the same role.

    Warnings count what is left out, also the empty files of a folder and those of other formats.
    100,000 texts and more are held in a temporary file that goes with the process.

    Args:
        source: strings or `Text` objects (a list, Series, array, generator), a table (a DataFrame,
            pyarrow table, `datasets.Dataset`, list of dictionaries), a `RetrievalDataset`, or the
            name of a file (.csv, .tsv, .jsonl, .json, .parquet; .txt and .md are one text each;
            all but .parquet also as .gz), of a folder of such files or in BEIR layout,
            "docstrings" (of the installed libraries), "tutorial", or "hub:owner/name".
        column: the column with the texts; by default `text`, or the only one.
        role: of all texts; by default what the column `role` says, otherwise document.
        passages: cut longer texts into passages of about so many words, at ends of sentences.
        encoding: of files that are not UTF-8.
        limit: stop after this many texts.
        sample: draw this many texts, evenly from the files and roles, and shuffle them. A larger
            sample holds the smaller one.

    Raises:
        DataError: there are no texts, the source is of another kind, or a text is unusable.

    Example:
        >>> import workbench as wb
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
    """Return texts as a sequence of `Text`, position by position; a plain string is a document.

    Stored texts and a list of `Text` objects are returned as they are. DataError if `texts` are
    not strings and `Text` objects (a list, array, Series, generator), or none; `what` names them.
    """
    if isinstance(texts, StoredTexts):
        return texts
    is_list = isinstance(texts, Iterable) and not isinstance(texts, str | Mapping)
    if not is_list or hasattr(texts, "columns"):
        raise DataError(f"{what}: expected a list of texts, got {type(texts).__name__}")
    items = texts if isinstance(texts, list) else list(_plain(texts))
    if not items:
        raise DataError(f"{what}: at least one text is needed")
    if all(type(item) is Text for item in items):
        return items
    return [_text(item, Role.DOCUMENT, f"{what}, item {i:,}") for i, item in enumerate(items)]


# --- how a source becomes texts -----------------------------------------------------------------


def _stream(
    source: object,
    counts: Counter,
    column: str | None = None,
    role: Role | str | None = None,
    passages: int | None = None,
    encoding: str | None = None,
) -> Iterator[tuple[str, Text]]:
    """Stream texts, each with the part of the source that it is from; count what is left out."""
    for part, rows in _parts(source, column, encoding):
        for where, item, row_role in rows:
            if isinstance(item, Text) and (role is not None or passages is not None):
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
) -> Iterator[tuple[str, Iterable[_files.Row]]]:
    """Yield the files of a folder, each with its name, or all of another source as one part."""
    if isinstance(source, RetrievalDataset):
        source = source.document_texts()
    elif isinstance(source, str | Path):
        path = expanded(source)
        if os.path.exists(path):
            for file in _files.files_in(path) if path.is_dir() else [path]:
                yield str(file), _files.file_rows(file, column, encoding)
            return
        source = _named(str(source), column)
    items = _plain(source)
    if isinstance(items, Mapping) or not isinstance(items, Iterable):
        kind = type(source).__name__
        raise DataError(f"expected texts in a list, a table, a file or a folder, got {kind}")
    records = ((f"item {number:,}", item) for number, item in enumerate(items))
    yield "", _files.record_rows(records, column, "the source")


def _named(name: str, column: str | None) -> Iterable[Text | dict]:
    """Return the texts of a source that has a name and is no file."""
    if name == "docstrings":
        from workbench.docstrings import docstring_corpus

        return docstring_corpus().train
    if name == "tutorial":
        return tutorial().document_texts()
    if name.startswith("hub:"):
        return hub_rows(name.removeprefix("hub:"), *([column] if column else []))
    raise DataError(
        f"there is no file or folder {name:.80}. Other sources are 'tutorial', 'docstrings' and "
        "'hub:owner/name'. A single text goes in a list"
    )


def _plain(source: Iterable) -> Iterable:
    """Return arrays, columns and tables as Python values, the rows of tables as dictionaries."""
    if hasattr(source, "to_pylist"):  # pyarrow
        return source.to_pylist()
    if hasattr(source, "itertuples"):  # a DataFrame
        names = list(source.columns)
        return (dict(zip(names, row, strict=True)) for row in source.itertuples(False, None))
    return source.tolist() if hasattr(source, "tolist") else source


def _text(item: object, role: Role | str, where: str) -> Text:
    if isinstance(item, Text):
        return item
    try:
        return Text(item, role)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _is_blank(value: object) -> bool:
    value = value.text if isinstance(value, Text) else value
    if isinstance(value, str):
        return not value.strip()
    is_nan = isinstance(value, float) and value != value
    return value is None or is_nan or type(value).__name__ == "NAType"


def _report(counts: Counter) -> None:
    left_out = [f"{counts[kind]:,} {kind}" for kind in ("blank", "duplicate") if counts[kind]]
    if left_out:
        message = f"left out of {counts['read']:,} texts: {', '.join(left_out)}"
        warnings.warn(message, stacklevel=3)


def _unique(stream: Iterable[tuple[str, Text]], counts: Counter) -> Sequence[Text]:
    """Return the texts without duplicates, in a file if they are many."""
    hashes = array("q")  # of 64 bits: should two texts ever share one, one of them is left out

    def hashed() -> Iterator[Text]:
        for _, text in stream:
            hashes.append(hash(text))
            yield text

    texts = hold(hashed(), IN_MEMORY)
    first = np.sort(np.unique(np.array(hashes, np.int64), return_index=True)[1])
    counts["duplicate"] = len(texts) - len(first)
    if not counts["duplicate"]:
        return texts
    return texts.subset(first) if isinstance(texts, StoredTexts) else [texts[i] for i in first]


def _sample(stream: Iterable[tuple[str, Text]], size: int) -> list[Text]:
    """Draw texts evenly from parts and roles, and shuffle them; a small group gives all it has.

    Texts are drawn in the order of their hashes, so a larger sample holds the smaller one.
    """
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


# --- texts made of texts ------------------------------------------------------------------------

# Chinese and Japanese are written without spaces: a character counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")
_SENTENCE = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？])|\n\s*\n")


def cut(text: str, words: int) -> list[str]:
    """Cut a text at ends of sentences into passages of `words` words or up to 1.25 times as many.

    A text that has no more stays whole. A longer sentence is cut between words.
    """
    whole(words, "passages", 10, DataError)
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
    """Make queries from documents: sentences, whole or a run of 5 to 25 words. None comes twice.

    A document gives up to `count`, whatever the others are.
    """
    queries: dict[str, None] = {}
    for text in texts:
        if text.role is not Role.DOCUMENT:
            continue
        sentences = [sentence.split() for sentence in re.split(r"(?<=[.!?])\s+", text.text)]
        sentences = [words for words in sentences if len(words) >= 5]
        rng = random.Random(f"0\0{text.text}")
        for _ in range(count if sentences else 0):
            words, most = rng.choice(sentences), rng.randint(5, 25)
            first = 0
            if len(words) > most and rng.random() < 0.5:
                first = rng.randint(0, len(words) - most)
            queries[" ".join(words[first : first + most])] = None
    return [Text(query, Role.QUERY) for query in queries]
