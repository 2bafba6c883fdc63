"""Retrieval data sets and the BEIR layout; import these names from `workbench.data`."""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from workbench._files import json_objects, member, readable, titled
from workbench._texts import Role, Text
from workbench._util import expanded
from workbench.errors import DataError

DATA = Path(__file__).resolve().parent.parent / "data"
_MOST_UNKNOWN = 0.01  # of the judgments


@dataclass(frozen=True)
class RetrievalDataset:
    """A retrieval data set: documents, queries and graded judgments.

    Attributes:
        name: what reports call it.
        corpus: document id to text (a title, if there is one, in front).
        queries: query id to text, judged queries only.
        qrels: query id to document id to grade; 0 means judged and not relevant. Judgments of
            queries that are not there are ignored.

    Raises:
        DataError: a judgment has an unknown document, or a grade that is no whole number.

    Example:
        >>> import workbench as wb
        >>> documents, queries = {"d1": "Bread rises."}, {"q1": "why does bread rise?"}
        >>> data = wb.RetrievalDataset("notes", documents, queries, {"q1": {"d1": 1}})
        >>> len(data.document_texts())
        1
    """

    name: str
    corpus: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]

    def __post_init__(self) -> None:
        for query, grades in self.qrels.items():
            for document, grade in grades.items():
                if document not in self.corpus or grade != int(grade):
                    raise DataError(
                        f"the judgment of {query!r} and {document!r} is {grade!r}; expected a "
                        "document of the corpus and a whole number"
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
    """Read a folder in BEIR layout: corpus.jsonl, queries.jsonl, qrels/<split>.tsv, also as .gz.

    Ids are under `_id` or `id`. Judgments have the columns of BEIR (query, document, grade) or of
    TREC (one more in between), with or without a header. Queries without a judgment are left out.
    Warnings count empty documents, which stay, and judgments of unknown ids, which do not.

    Args:
        source: the folder, whose name becomes the data set's, or "tutorial"; a `RetrievalDataset`
            is returned as it is.
        split: which judgments to read.

    Raises:
        DataError: a file is missing, empty or damaged, an id comes twice, a grade is no whole
            number, or over 1 % of the judgments have unknown ids.

    Example:
        >>> import workbench as wb
        >>> len(wb.read_dataset("tutorial").corpus)
        192
    """
    if isinstance(source, RetrievalDataset):
        return source
    folder = expanded(source)
    if source == "tutorial" and not folder.exists():
        return tutorial()
    corpus_file, queries_file, judgments = files_of(folder, split)
    corpus, queries = _texts_by_id(corpus_file), _texts_by_id(queries_file)
    empty = sum(not text for text in corpus.values())
    if empty:
        message = f"{folder.name}: {empty} of {len(corpus):,} documents are empty"
        warnings.warn(message, stacklevel=2)
    qrels = _qrels(judgments, queries, corpus)
    queries = {name: text for name, text in queries.items() if name in qrels}
    return RetrievalDataset(folder.name, corpus, queries, qrels)


def files_of(folder: Path, split: str) -> list[Path]:
    """Return the paths of the documents, queries and judgments of a folder in BEIR layout."""
    names = ("corpus.jsonl", "queries.jsonl", f"qrels/{split}.tsv")
    return [member(folder, name) for name in names]


def is_dataset(source: object) -> bool:
    """Return whether a source names a retrieval data set, and not merely texts."""
    if not isinstance(source, str | Path):
        return False
    folder = expanded(source)
    has_judgments = os.path.isdir(folder / "qrels") and member(folder, "corpus.jsonl").is_file()
    return source == "tutorial" or has_judgments


def _texts_by_id(path: Path) -> dict[str, str]:
    texts = {}
    for where, row in json_objects(path):
        name = str(row.get("_id", row.get("id", "")))
        if not name or name in texts:
            raise DataError(f"{where}: id {name!r}; expected an id under '_id' that is unique")
        texts[name] = titled(row)
    return texts


def _qrels(
    path: Path, queries: Collection[str], corpus: Collection[str]
) -> dict[str, dict[str, int]]:
    import pandas as pd

    with readable(path):
        table = pd.read_csv(path, sep=r"\s+", header=None, dtype=str, keep_default_na=False)
        table = table.iloc[:, [0, -2, -1]].set_axis(["query", "document", "grade"], axis=1)
    known = table["query"].isin(list(queries)) & table["document"].isin(list(corpus))
    table["grade"] = pd.to_numeric(table["grade"], errors="coerce")
    if pd.isna(table["grade"][0]) and not known[0]:  # a header
        table, known = table[1:], known[1:]
    wrong = table.index[~(table["grade"] % 1 == 0)]
    if len(wrong):
        raise DataError(f"{path}, row {wrong[0] + 1}: expected a grade that is a whole number")
    unknown = table[~known]
    if len(unknown):
        query, document, _ = unknown.iloc[0]
        message = (
            f"{path}: {len(unknown):,} of {len(table):,} judgments have unknown ids, the first "
            f"those of {query!r} and {document!r}"
        )
        if len(unknown) > _MOST_UNKNOWN * len(table):
            raise DataError(f"{message}. No more than 1 % may be left out")
        warnings.warn(f"{message}. They are left out", stacklevel=3)
    if not known.any():
        raise DataError(f"{path} has no judgments")
    qrels: dict[str, dict[str, int]] = defaultdict(dict)
    for query, document, grade in table[known].itertuples(index=False, name=None):
        qrels[query][document] = int(grade)
    return dict(qrels)
