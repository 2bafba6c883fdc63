"""Smaller vectors in smaller indexes: truncation, float16, int8 and binary."""

from __future__ import annotations

import timeit
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product

import numpy as np
import pandas as pd

from workbench import evaluate, ranking
from workbench._util import need, one_of, unit
from workbench.data import RetrievalDataset
from workbench.errors import WorkbenchError

PRECISIONS = {"float32": 32, "float16": 16, "int8": 8, "binary": 1}  # bits a dimension
_FACTORY = {"float32": "Flat", "float16": "SQfp16", "int8": "SQ8"}  # faiss's names
_TIES = 100  # results that are searched beyond k, so that equal scores can be ordered


@dataclass(frozen=True)
class IndexSpec:
    """How the vectors of an index are truncated and quantized."""

    dimensions: int | None = None  # leading dimensions that are kept; None keeps all
    precision: str = "float32"  # a key of `PRECISIONS`

    def of(self, width: int) -> IndexSpec:
        """Return this spec with its dimensions filled in; WorkbenchError if it does not fit."""
        one_of(self.precision, "precision", list(PRECISIONS))
        dimensions = width if self.dimensions is None else self.dimensions
        if not 1 <= dimensions <= width:
            raise WorkbenchError(f"{dimensions} dimensions: expected 1 to {width}")
        return IndexSpec(dimensions, self.precision)

    @property
    def bytes_per_document(self) -> int:
        """Bytes of one document's code, once `dimensions` is filled in."""
        return self.dimensions * PRECISIONS[self.precision] // 8


class CompressedIndex:
    """Truncated and quantized documents, float of shape (n, d); `index` is faiss's own."""

    def __init__(self, documents: np.ndarray, spec: IndexSpec = IndexSpec()) -> None:
        faiss = need("faiss", "quantize")
        self.width = documents.shape[1]
        self.spec = spec.of(self.width)
        documents = unit(documents[:, : self.spec.dimensions], "documents")
        if self.spec.precision == "binary":
            self.index = faiss.IndexBinaryFlat(self.spec.dimensions)
            self.index.add(np.packbits(documents > 0, axis=1))
        else:
            name, metric = _FACTORY[self.spec.precision], faiss.METRIC_INNER_PRODUCT
            self.index = faiss.index_factory(self.spec.dimensions, name, metric)
            self.index.train(documents)  # finds the ranges of int8
            self.index.add(documents)

    def __len__(self) -> int:
        return self.index.ntotal

    def search(
        self,
        queries: np.ndarray,
        k: int = 100,
        *,
        rescore_multiplier: int = 10,
        vectors: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the k best documents for each query, float of shape (q, d) and not truncated.

        Returns cosines (float32) and positions (int64) of shape (q, min(k, n)), best first. With
        the documents' `vectors`, `rescore_multiplier` candidates a result are ordered by these.
        Binary search, which codes queries too, orders them by the cosine of query and code
        (Yamada et al. 2021). Other precisions code the documents alone.
        """
        if queries.shape[1] != self.width:
            raise WorkbenchError(f"queries are {queries.shape[1]} wide, the index is {self.width}")
        if vectors is not None:
            depth = min(k * rescore_multiplier, len(self))
            positions = self.search(queries, depth)[1]
            rows = vectors[positions]  # of the candidates alone
            norms = np.maximum(np.linalg.norm(rows, axis=2), np.finfo(np.float32).tiny)
            cosines = np.einsum("qd,qkd->qk", unit(queries, "queries"), rows) / norms
            return ranking.order(cosines, positions, k)
        queries = unit(queries[:, : self.spec.dimensions], "queries")
        k = min(k, len(self))
        if self.spec.precision != "binary":
            scores, positions = self.index.search(queries, min(k + _TIES, len(self)))
            return ranking.order(scores, positions, k)
        depth = min(k * rescore_multiplier, len(self))
        positions = self.index.search(np.packbits(queries > 0, axis=1), depth)[1].astype(np.int64)
        codes = need("faiss", "quantize").vector_to_array(self.index.xb).reshape(len(self), -1)
        cosines = np.empty(positions.shape, dtype=np.float32)
        for row, query in enumerate(queries):
            signs = np.unpackbits(codes[positions[row]], axis=1).astype(np.float32) * 2 - 1
            cosines[row] = signs @ query
        return ranking.order(cosines / self.spec.dimensions**0.5, positions, k)


def principal_rotation(vectors: np.ndarray) -> np.ndarray:
    """Return the rotation onto the principal axes, largest first, float32 of shape (d, d).

    The first m dimensions of `vectors @ rotation` keep inner products best (Eckart and Young 1936).
    """
    vectors = unit(vectors).astype(np.float64)
    axes = np.linalg.eigh(vectors.T @ vectors)[1][:, ::-1]
    # The sign of an axis is arbitrary: make its largest entry positive.
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(len(axes))])
    return np.ascontiguousarray(axes * signs, np.float32)


def sweep(
    data: RetrievalDataset,
    sides: Mapping[str, tuple[np.ndarray, np.ndarray]],
    specs: Iterable[IndexSpec],
    *,
    timed: int | None = None,
) -> pd.DataFrame:
    """Measure quality, size and query time of each index spec for each mode.

    Args:
        sides: mode, one of them "teacher", to vectors of all queries and of all documents.
        timed: number of documents to measure search times with, repeated or cut; None: as given.

    Returns:
        One row per mode and spec: `mode`, `dimensions`, `precision`, `bytes_per_document`,
        `documents` and `query_ms` (median for one encoded query), and `evaluate.summarize`.
    """
    sides = {mode: evaluate.checked_pair(pair, data) for mode, pair in sides.items()}
    teacher_queries, teacher_documents = sides["teacher"]
    scores = {"uncompressed": evaluate.score(data, teacher_queries, teacher_documents)}
    timed, specs = timed or len(teacher_documents), list(specs)
    repeated = np.resize(teacher_documents, (timed, teacher_documents.shape[1]))
    query_ms, rows = {}, []
    for spec in [spec.of(repeated.shape[1]) for spec in specs]:
        query_ms[spec] = _milliseconds(CompressedIndex(repeated, spec), teacher_queries)
    for mode, spec in product(sides, specs):
        queries, documents = sides[mode]
        spec = spec.of(documents.shape[1])
        depth = 100 * int(np.bincount(data.rows).max())  # rows that hold at least 100 documents
        positions = CompressedIndex(documents, spec).search(queries, depth)[1]
        # Zeros stand for no vector: they find and are found by nothing.
        exists = documents.any(axis=1)[positions] & queries.any(axis=1, keepdims=True)
        scores[mode, spec] = evaluate.score_ranking(
            data, np.where(exists, data.rows[positions], -1)
        )
        size, time = spec.bytes_per_document, query_ms.get(spec, np.nan)
        costs = {"bytes_per_document": size, "documents": timed, "query_ms": time}
        rows.append({"mode": mode, **asdict(spec), **costs})
    summary = evaluate.summarize(scores, teacher="uncompressed").iloc[1:]
    summary = summary.drop(columns="mode").reset_index(drop=True)
    return pd.concat([pd.DataFrame(rows), summary], axis=1)


def grid(width: int, least: int = 48) -> list[IndexSpec]:
    """Return specs: a width and its halves down to `least`, in every precision."""
    dimensions = [width]
    while dimensions[-1] % 2 == 0 and dimensions[-1] // 2 >= least:
        dimensions.append(dimensions[-1] // 2)
    specs = [IndexSpec(count, precision) for precision in PRECISIONS for count in dimensions]
    return [spec for spec in specs if spec.precision != "binary" or spec.dimensions % 8 == 0]


def pareto_mask(rows: pd.DataFrame, costs: Sequence[str]) -> np.ndarray:
    """Return which rows are on the Pareto front of `share_of_teacher` and costs, of shape (n,)."""
    values = np.column_stack([-rows["share_of_teacher"], *(rows[cost] for cost in costs)])
    no_worse = (values[:, None] >= values[None]).all(axis=2)
    better = (values[:, None] > values[None]).any(axis=2)
    return ~(no_worse & better).any(axis=1)


def format_table(rows: pd.DataFrame) -> str:
    """Format the rows of `sweep` for a terminal, with the modes side by side."""
    index = ["dimensions", "precision", "bytes_per_document"]
    wide = rows.pivot_table(index=index, columns="mode", values="share_of_teacher", sort=False)
    return wide.map("{:.1%}".format).reset_index().rename_axis(columns=None).to_string(index=False)


def _milliseconds(index: CompressedIndex, queries: np.ndarray) -> float:
    """Return the median milliseconds of a search."""
    seconds = []
    for query in queries[:50]:
        search = partial(index.search, query[None], 10)
        # The least of three: a thread that waits for others takes a hundred times as long.
        seconds.append(min(timeit.repeat(search, repeat=3, number=1)))
    return 1000 * float(np.median(seconds))
