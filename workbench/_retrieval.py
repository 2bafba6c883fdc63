"""Retrieval data sets and the BEIR layout; everyone else imports these names from `workbench.data`."""

from __future__ import annotations

import csv
import math
import os
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from numbers import Integral
from pathlib import Path

from workbench._files import json_objects, member, titled
from workbench._lines import lines_of
from workbench._texts import Role, Text, text_problem
from workbench._util import counted, expanded
from workbench.errors import DataError

DATA = Path(__file__).resolve().parent.parent / "data"


@dataclass(frozen=True)
class RetrievalDataset:
    """A retrieval data set: documents, queries and graded judgments.

    Attributes:
        name: what reports call it.
        corpus: document id to text (a title, if there is one, in front).
        queries: query id to text, judged queries only.
        qrels: query id to document id to grade; a grade of 0 means judged and not relevant.
        query_metadata: query id to what its source says about it.

    Raises:
        DataError: an attribute is not such a mapping, or judgments name an unknown document (judgments of
            queries that are not there are left out of account, so that a part of the queries can be taken).

    Example:
        >>> import workbench as wb
        >>> data = wb.RetrievalDataset("notes", {"d1": "Bread rises."}, {"q1": "why does bread rise?"}, {"q1": {"d1": 1}})
        >>> len(data.document_texts())
        1
    """

    name: str
    corpus: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    query_metadata: dict[str, dict] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what in ("corpus", "queries", "qrels", "query_metadata"):
            if not isinstance(given := getattr(self, what), Mapping):
                raise DataError(
                    f"{what} is of type {type(given).__name__}; expected a dictionary by id"
                )
        for what, texts in (("corpus", self.corpus), ("queries", self.queries)):
            for name, text in texts.items():
                if not isinstance(name, str) or not isinstance(text, str):
                    raise DataError(
                        f"{what}: {name!r} has {text!r:.60}; expected an id and a text, two strings"
                    )
        for query, judged in self.qrels.items():
            if not isinstance(judged, Mapping):
                raise DataError(
                    f"qrels: {query!r} has {judged!r:.60}; expected a query's grades by document id"
                )
            for document, grade in judged.items():
                if document not in self.corpus or not isinstance(grade, Integral):
                    raise DataError(
                        f"qrels of {query!r}: {document!r} has {grade!r}; expected a known document and a whole number"
                    )

    def document_texts(self) -> list[Text]:
        """Return the documents, in the order of `corpus`."""
        return [Text(text, Role.DOCUMENT) for text in self.corpus.values()]

    def query_texts(self) -> list[Text]:
        """Return the queries, in the order of `queries`."""
        return [Text(text, Role.QUERY) for text in self.queries.values()]


def tutorial() -> RetrievalDataset:
    """Return the small data set of everyday passages in `data/tutorial`."""
    return read_dataset(DATA / "tutorial")


def read_dataset(source: str | Path | RetrievalDataset, split: str = "test") -> RetrievalDataset:
    """Read a folder in BEIR layout: corpus.jsonl, queries.jsonl and qrels/<split>.tsv, each also as .gz.

    Documents without any text are kept (a ranking must be able to contain them) and counted in a warning; queries
    without judgments in this split are left out, as in BEIR. Ids are under `_id` or `id`; a title may be a list.
    Judgments are lines of query, document and grade, or the four columns of TREC, separated by tabs, commas (also in
    .csv and .txt files) or spaces, with or without a header, quotes and comments (#). Those of unknown ids are left out
    and counted in a warning, up to 1 % of them. So are relevant documents whose text stands under another id without a judgment.

    Args:
        source: the folder, whose name becomes the data set's, or "tutorial"; a `RetrievalDataset` is returned as it is.
        split: which judgments to read.

    Raises:
        DataError: a file is missing or empty, a line is not a JSON object (with its number), an id comes twice, a text
            is unusable, a grade is no whole number, or more than 1 % of the judgments name unknown ids.

    Example:
        >>> import workbench as wb
        >>> len(wb.read_dataset("tutorial").corpus)
        192
    """
    if isinstance(source, RetrievalDataset):
        return source
    if not isinstance(source, str | Path):
        raise DataError(
            f"a retrieval data set is read from a folder in BEIR layout; got {type(source).__name__}"
        )
    folder = expanded(source)
    if source == "tutorial" and not folder.exists():
        return tutorial()
    if not os.path.isdir(folder):
        raise DataError(
            f"no data set at {folder}: there is no such folder. It needs corpus.jsonl, queries.jsonl and qrels/"
        )
    documents, asked, judged = files_of(folder, split)
    corpus = {name: row["text"] for name, row in _rows(documents)}
    if blank := sum(not text for text in corpus.values()):
        warnings.warn(
            f"{folder.name}: {blank} of {len(corpus):,} documents are empty", stacklevel=2
        )
    rows = dict(_rows(asked))
    qrels = _qrels(judged, rows, corpus)
    queries = {name: row["text"] for name, row in rows.items() if name in qrels}
    if empty := [name for name, text in queries.items() if not text]:
        raise DataError(f"{asked}: judged query {empty[0]!r} is empty")
    if twins := _unjudged_twins(corpus, qrels):
        warnings.warn(
            f"{folder.name}: {counted(twins, 'relevant document')} of a query {'has' if twins == 1 else 'have'} a twin, the same "
            "text under another id, that is not judged for it: a search that finds the twin counts as wrong",
            stacklevel=2,
        )
    metadata = {name: rows[name].get("metadata") or {} for name in queries}
    return RetrievalDataset(folder.name, corpus, queries, qrels, metadata)


def _unjudged_twins(corpus: Mapping[str, str], qrels: Mapping[str, Mapping[str, int]]) -> int:
    """Count judgments of relevance whose text is in the corpus once more, under an id that the query has no judgment of."""
    named: dict[str, list[str]] = {}
    for name, text in corpus.items():
        named.setdefault(text, []).append(name)
    relevant = (
        (name, grades) for grades in qrels.values() for name, grade in grades.items() if grade > 0
    )
    return sum(
        any(twin not in grades for twin in named[corpus[name]])
        for name, grades in relevant
        if corpus[name]
    )


def files_of(folder: Path, split: str) -> list[Path]:
    """Return the files of documents, of queries and of judgments of a BEIR folder, where they are or would be."""
    qrels = member(folder / "qrels", *(f"{split}.{kind}" for kind in ("tsv", "csv", "txt")))
    return [member(folder, "corpus.jsonl"), member(folder, "queries.jsonl"), qrels]


def is_dataset(source: object) -> bool:
    """Return whether a source names a retrieval data set, and not merely texts."""
    if not isinstance(source, str | Path):
        return False
    folder = expanded(source)
    return source == "tutorial" or (
        member(folder, "corpus.jsonl").is_file() and os.path.isdir(folder / "qrels")
    )


def _rows(path: Path) -> Iterator[tuple[str, dict]]:
    """Stream the objects of corpus.jsonl or queries.jsonl, each with its id; `text` has the title in front."""
    seen = set()
    for where, row in json_objects(path):
        key = "id" if row.get("_id") is None and "id" in row else "_id"
        if (name := row.get(key)) is None:
            raise DataError(f"{where}: no '_id'")
        if (
            isinstance(name, bool)
            or not isinstance(name, str | int | float)
            or text_problem(name := str(name))
        ):
            raise DataError(f"{where}: {key!r} is {name!r:.60}; expected a string or a number")
        if name in seen:
            raise DataError(f"{where}: id {name!r} comes twice; ids must be unique")
        seen.add(name)
        if "text" not in row:
            raise DataError(f"{where}: no 'text'")
        text = titled(where, row) or ""  # null, like an empty text, is counted
        if problem := text_problem(text):
            raise DataError(f"{where}: 'text' {problem}")
        yield name, row | {"text": text.strip()}


# --- judgments ----------------------------------------------------------------------------------

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?(nan|inf)", re.ASCII | re.IGNORECASE)
_MOST_UNKNOWN = 0.01  # of the judgments


def _quoted(separator: str) -> Callable[[str], list[str]]:
    def split(line: str) -> list[str]:
        try:
            return next(csv.reader([line], delimiter=separator), [])
        except csv.Error:
            return []

    return split


_SPLITS = (lambda line: line.split("\t"), _quoted("\t"), _quoted(","), str.split)


def _qrels(
    path: Path, queries: Collection[str], corpus: Collection[str]
) -> dict[str, dict[str, int]]:
    if not path.is_file():
        names = sorted({Path(each.removesuffix(".gz")).stem for each in _names(path.parent)})
        raise DataError(f"{path} is missing (splits found: {', '.join(names) or 'none'})")

    def fields(split: Callable, line: str) -> tuple[str, str, str] | None:
        """Return query, document and grade; an id as it stands if it is known, else without outer spaces."""
        if len(parts := split(line.rstrip("\r\n"))) not in (3, 4):
            return None
        query, document = (
            name if name in known else name.strip()
            for name, known in ((parts[0], queries), (parts[-2], corpus))
        )
        return query, document, parts[-1].strip()

    def fit(split: Callable) -> tuple[int, int]:
        found = [
            each for line in head if (each := fields(split, line)) and _NUMBER.fullmatch(each[2])
        ]
        return sum(query in queries and document in corpus for query, document, _ in found), len(
            found
        )

    lines = lines_of(path)
    head = list(islice(lines, 100))
    split = max(_SPLITS, key=fit)  # the first of those that are as good
    qrels: dict[str, dict[str, int]] = {}
    widths, count, lost, first = set(), 0, 0, ""
    for number, line in enumerate(chain(head, lines), start=1):
        found, where = fields(split, line), f"{path}, line {number}"
        known = found is not None and found[0] in queries and found[1] in corpus
        if not line.strip() or (line.lstrip().startswith("#") and not known):
            continue
        if (
            not widths
            and found
            and not _NUMBER.fullmatch(found[2])
            and found[0] not in queries
            and found[1] not in corpus
        ):
            widths.add(0)  # a header, whatever its names
            continue
        widths.add(len(split(line)))
        grade = float(found[2]) if found and _NUMBER.fullmatch(found[2]) else math.nan
        if not grade.is_integer() or abs(grade) > 9999 or len(widths - {0}) > 1:
            raise DataError(
                f"{where}: expected query-id, corpus-id and an integer score (or the four columns of TREC), separated "
                f"by tabs, commas or spaces and the same in every line; got {line.strip()[:80]!r}"
            )
        query, document, count = found[0], found[1], count + 1
        if not known:
            kind, name, there = (
                ("document", document, corpus) if query in queries else ("query", query, queries)
            )
            lost, first = lost + 1, first or f"line {number}: {kind} {name!r}{_nearly(name, there)}"
        elif qrels.setdefault(query, {}).setdefault(document, int(grade)) != grade:
            raise DataError(
                f"{where}: query {query!r} and document {document!r} were judged differently before"
            )
    if lost:
        said = f"{path}: {lost:,} of {count:,} judgments have unknown ids, first {first}"
        if lost > _MOST_UNKNOWN * count:
            raise DataError(
                f"{said}. No more than 1 % may be left out: correct the ids, or take the judgments out"
            )
        warnings.warn(f"{said}. They are left out", stacklevel=3)
    if not qrels:
        raise DataError(f"{path} has no judgments")
    return qrels


def _names(folder: Path) -> list[str]:
    return [each for each in os.listdir(folder) if each[0] != "."] if os.path.isdir(folder) else []


def _nearly(name: str, known: Collection[str]) -> str:
    """Say which known id differs from one that is not known only by outer spaces or in how a number is written."""

    def plain(each: str) -> str:
        return re.sub(r"^([-+]?\d+)\.0*$", r"\1", each.strip())

    same = next((each for each in known if plain(each) == plain(name)), None)
    if same is None:
        return ""
    by = "outer spaces" if same.strip() == name.strip() else "how the number is written"
    return f" (there is {same!r}, which differs only by {by}: write both alike)"
