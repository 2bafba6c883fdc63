"""Smaller vectors: truncation, float16, int8 and binary, as indexes that really are that small."""

from __future__ import annotations

import json
import timeit
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from workbench import evaluate, ranking
from workbench._util import checked, need, unit, whole, write_whole
from workbench.agreement import principal_axes
from workbench.data import RetrievalDataset
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    import faiss

PRECISIONS = {"float32": 32, "float16": 16, "int8": 8, "binary": 1}  # bits a dimension
_FACTORY = {"float32": "Flat", "float16": "SQfp16", "int8": "SQ8"}  # faiss's names
_FORMAT = "workbench-index-1"
_BLOCK_VALUES = 20_000_000  # signs that are unpacked at once, 80 MB


@dataclass(frozen=True)
class IndexSpec:
    """How the vectors of an index are truncated and quantized.

    Attributes:
        dimensions: number of leading dimensions that are kept; None keeps all.
        precision: "float32", "float16", "int8" (256 levels between the minimum and the maximum of each dimension
            among the documents) or "binary" (signs).

    Raises:
        WorkbenchError: the precision is unknown, or dimensions is not an integer above 0.
    """

    dimensions: int | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise WorkbenchError(
                f"precision {self.precision!r} is unknown: choose from {', '.join(PRECISIONS)}"
            )
        if self.dimensions is not None:
            object.__setattr__(self, "dimensions", whole(self.dimensions, "dimensions"))

    def of(self, width: int) -> IndexSpec:
        """Return this spec with its dimensions filled in for vectors of a width; WorkbenchError if it does not fit."""
        dimensions = self.dimensions or width
        if dimensions > width:
            raise WorkbenchError(
                f"{dimensions} dimensions are asked for and the vectors have {width}"
            )
        if self.precision == "binary" and dimensions % 8:
            near = max(8, dimensions // 8 * 8)
            raise WorkbenchError(
                f"binary codes: {dimensions} dimensions are not a multiple of 8, take {near}"
            )
        return IndexSpec(dimensions, self.precision)

    @property
    def bytes_per_document(self) -> int:
        """Bytes of one document's code; `dimensions` must not be None."""
        return self.dimensions * PRECISIONS[self.precision] // 8


class CompressedIndex:
    """Truncated and quantized documents in a faiss index.

    Scores are cosines of the truncated vectors. Queries are quantized with the documents' ranges. Documents may be the
    teacher's and queries the student's.

    Args:
        documents: float of shape (n, d).
        spec: dimensions and precision; all dimensions in float32 if None.
        space: JSON values that identify the vector space: the teacher's identity, or for a student's documents the
            fingerprint of `models.resolve`. They are stored with the index, and a search that names another space
            is refused.

    Raises:
        WorkbenchError: the spec does not fit the vectors, or faiss (the extra `quantize`) is not installed.
    """

    def __init__(
        self, documents: np.ndarray, spec: IndexSpec | None = None, *, space: Mapping | None = None
    ) -> None:
        documents = checked(documents, "documents")
        self.width = documents.shape[1]
        self.spec = (spec or IndexSpec()).of(self.width)
        self.space = _as_json(space or {})
        self._index = _empty(self.spec)
        documents = truncate(documents, self.spec.dimensions)
        if self.spec.precision == "binary":
            self._index.add(np.packbits(documents > 0, axis=1))
        else:
            self._index.train(documents)  # finds the ranges of int8
            self._index.add(documents)

    def __len__(self) -> int:
        return self._index.ntotal

    def search(
        self,
        queries: np.ndarray,
        k: int = 100,
        *,
        space: Mapping | None = None,
        rescore_multiplier: int = 10,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the k best documents for each query.

        Args:
            queries: float of shape (q, d), not truncated.
            k: number of results; all documents if there are fewer.
            space: JSON values that identify the queries' space; not checked if None.
            rescore_multiplier: candidates for each result with binary codes. They are found by Hamming distance and
                ordered by the cosine of the float32 query with the documents' signs (the reranking of Yamada et al.
                2021, without its training).

        Returns:
            Scores, float32, and positions, int64, both of shape (q, min(k, n)), best first. Equal scores are in the
            order of the documents.

        Raises:
            WorkbenchError: the queries have another width or name another space, or k is below 1.
        """
        if space is not None and (space := _as_json(space)) != self.space:
            other = [
                name for name in {**self.space, **space} if self.space.get(name) != space.get(name)
            ]
            raise WorkbenchError(
                f"the index was built in another space than the queries' ({', '.join(map(str, other))} differ): encode "
                "its documents again with a model of the queries' space"
            )
        queries = checked(queries, "queries")
        if queries.shape[1] != self.width:
            raise WorkbenchError(
                f"queries are {queries.shape[1]} wide and the index is of vectors {self.width} wide"
            )
        k, rescore_multiplier = (
            min(whole(k, "k"), len(self)),
            whole(rescore_multiplier, "rescore_multiplier"),
        )
        queries = truncate(queries, self.spec.dimensions)
        if self.spec.precision != "binary":
            return self._search(self._as_documents(queries), k, min(2 * k, len(self)))
        _, found = self._index.search(
            np.packbits(queries > 0, axis=1), min(k * rescore_multiplier, len(self))
        )
        codes = _codes(self._index)
        exact = np.empty(found.shape, dtype=np.float32)
        block = max(1, _BLOCK_VALUES // (found.shape[1] * self.spec.dimensions))
        for rows in (slice(start, start + block) for start in range(0, len(queries), block)):
            signs = np.unpackbits(codes[found[rows]], axis=-1).astype(np.float32) * 2 - 1
            exact[rows] = np.einsum("qcd,qd->qc", signs, queries[rows]) / np.sqrt(
                self.spec.dimensions
            )
        return ranking.order(exact, found.astype(np.int64), k)

    def save(self, path: str | Path) -> Path:
        """Write codes, ranges, spec and space into one safetensors file, completely or not at all; return its path."""
        tensors = {"codes": _codes(self._index)}
        if self.spec.precision == "int8":
            tensors["ranges"] = need("faiss", "quantize").vector_to_array(self._index.sq.trained)
        stated = json.dumps(
            {
                "format": _FORMAT,
                "point": asdict(self.spec),
                "width": self.width,
                "space": self.space,
            }
        )
        metadata = {"about": stated, "checksum": _checksum(stated, tensors)}
        try:
            return write_whole(path, lambda scratch: save_file(tensors, scratch, metadata))
        except SafetensorError as error:
            raise WorkbenchError(f"{path} cannot be written: {error}") from None

    @classmethod
    def load(cls, path: str | Path) -> CompressedIndex:
        """Read an index that `save` wrote; WorkbenchError if the file is damaged or something else."""
        try:
            with safe_open(path, "numpy") as file:
                stated = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = json.loads(stated.get("about", "null"))
            if not isinstance(about, dict) or about.get("format") != _FORMAT:
                raise WorkbenchError(f"{path} is no index of this workbench")
            if stated.get("checksum") != _checksum(stated["about"], tensors):
                raise WorkbenchError(
                    f"{path} is damaged (its checksum is another): build it again from the vectors"
                )
            index = cls.__new__(cls)
            index.spec, index.width, index.space = (
                IndexSpec(**about["point"]),
                about["width"],
                about["space"],
            )
            index._index = _empty(index.spec)
            if index.spec.precision == "binary":
                index._index.add(tensors["codes"])
                return index
            if "ranges" in tensors:
                need("faiss", "quantize").copy_array_to_vector(
                    tensors["ranges"], index._index.sq.trained
                )
            index._index.is_trained = True
            index._index.add_sa_codes(tensors["codes"])
        except WorkbenchError:
            raise
        except Exception as error:  # safetensors, JSON, numpy and faiss each have their own
            raise WorkbenchError(f"{path} is no index that can be read: {error}") from None
        return index

    def _search(self, queries: np.ndarray, k: int, depth: int) -> tuple[np.ndarray, np.ndarray]:
        scores, found = self._index.search(queries, depth)
        best = ranking.order(scores, found.astype(np.int64), k)
        # faiss returns equal scores in any order: search deeper where a tie at the k-th place may go on.
        tied = np.flatnonzero(scores[:, k - 1] - scores[:, -1] < 1e-6)
        if depth < len(self) and len(tied):
            for part, deeper in zip(
                best, self._search(queries[tied], k, min(4 * depth, len(self))), strict=True
            ):
                part[tied] = deeper
        return best

    def _as_documents(self, queries: np.ndarray) -> np.ndarray:
        return self._index.sa_decode(self._index.sa_encode(queries))


def truncate(vectors: np.ndarray, dimensions: int | None) -> np.ndarray:
    """Return the first dimensions of each row, scaled to unit norm, float32 of shape (n, dimensions); None keeps all."""
    vectors = checked(vectors, "vectors")
    return np.ascontiguousarray(
        unit(vectors[:, : IndexSpec(dimensions).of(vectors.shape[1]).dimensions])
    )


def principal_rotation(vectors: np.ndarray) -> np.ndarray:
    """Return the rotation onto the principal axes, largest first, float32 of shape (d, d).

    `vectors @ rotation` has the same distances and cosines, and its first m dimensions preserve the inner products
    better than any other m directions (Eckart and Young 1936). Rotated vectors of a teacher that was not trained for
    truncation can be truncated, and so can those of a student that is trained on the rotated targets. Of vectors of
    shape (n, d), n should be several times d.
    """
    vectors = unit(vectors).astype(np.float64)
    return principal_axes(vectors.T @ vectors)


def sweep(
    data: RetrievalDataset,
    sides: Mapping[str, tuple[np.ndarray, np.ndarray]],
    specs: Iterable[IndexSpec],
    *,
    timed: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure quality, size and query time of each index spec for each mode.

    Args:
        data: ids and judgments.
        sides: mode to its vectors of all queries and all documents, in the data set's order. Shares refer to "teacher".
        timed: number of documents to measure search times with: the given ones, repeated or cut. All given ones if
            None. Times of a small collection do not predict those of a large one.
        on_progress: called after each row with the number of rows done and of all rows.

    Returns:
        One row per mode and spec: `mode`, `dimensions`, `precision`, the columns of `evaluate.summarize` with the
        share of the teacher's uncompressed `nDCG@10`, `bytes_per_document`, and `query_ms`: the median milliseconds to
        search `documents` documents for one query, without encoding it. It is measured once per spec, for all modes.

    Raises:
        WorkbenchError: `sides` has no "teacher", vectors and texts differ in number, a spec does not fit, or the
            teacher finds no judged document.
    """
    if "teacher" not in sides:
        raise WorkbenchError(f'sides has no "teacher", only {", ".join(sides) or "nothing"}')
    sides = {mode: evaluate.checked_pair(pair, data, f" of {mode}") for mode, pair in sides.items()}
    asked, searched = sides["teacher"]
    specs = list(specs)
    if not specs:
        raise WorkbenchError("no specs were given: give some, such as grid(width)")
    specs = {
        mode: list(dict.fromkeys(p.of(d.shape[1]) for p in specs)) for mode, (_, d) in sides.items()
    }
    timed = len(searched) if timed is None else whole(timed, "timed")
    measured = {"uncompressed": evaluate.score(data, asked, searched)}
    if not measured["uncompressed"]["ndcg_at_10"].sum() > 0:
        raise WorkbenchError(
            "the teacher finds nothing that was judged: check that the ids of the judgments are those of the collection"
        )
    try:
        repeated = np.resize(searched, (timed, searched.shape[1]))
        query_ms = {spec: _ms(CompressedIndex(repeated, spec), asked) for spec in specs["teacher"]}
    except (MemoryError, ValueError):
        raise WorkbenchError(f"{timed:,} documents do not fit into memory: time fewer") from None
    described = []
    for mode, spec in ((name, spec) for name, some in specs.items() for spec in some):
        queries, documents = sides[mode]
        positions = CompressedIndex(documents, spec).search(queries)[1]
        # Zeros find and are found by nothing.
        there = documents.any(axis=1)[positions] & queries.any(axis=1, keepdims=True)
        measured[mode, spec] = evaluate.score_ranking(data, np.where(there, positions, -1))
        size, ms = spec.bytes_per_document, query_ms.get(spec, np.nan)
        more = {"bytes_per_document": size, "documents": timed, "query_ms": ms}
        described.append({"mode": mode, **asdict(spec), **more})
        if on_progress:
            on_progress(len(described), sum(map(len, specs.values())))
    rows = (
        evaluate.summarize(measured, teacher="uncompressed", seed=seed)
        .iloc[1:]
        .drop(columns="mode")
    )
    return pd.concat([pd.DataFrame(described), rows.reset_index(drop=True)], axis=1)


def grid(width: int, least: int = 48) -> list[IndexSpec]:
    """Return specs for a `sweep`: the width and its halves down to `least` dimensions, in every precision that fits."""
    dimensions = [whole(width, "width")]
    while dimensions[-1] % 2 == 0 and dimensions[-1] // 2 >= least:
        dimensions.append(dimensions[-1] // 2)
    return [IndexSpec(d, p) for p in PRECISIONS for d in dimensions if p != "binary" or d % 8 == 0]


def pareto_mask(
    rows: pd.DataFrame, costs: Sequence[str] = ("bytes_per_document", "query_ms")
) -> np.ndarray:
    """Return which rows are on the Pareto front, bool of shape (n,).

    A row of `sweep` is dominated by another that is at least as good in `share_of_teacher` and in every cost (less is
    better), and better in one.
    """
    values = np.column_stack([-rows["share_of_teacher"], *(rows[cost] for cost in costs)])
    no_worse = (values[:, None] >= values[None]).all(axis=2)
    better = (values[:, None] > values[None]).any(axis=2)
    return ~(no_worse & better).any(axis=1)


def format_table(rows: pd.DataFrame) -> str:
    """Format the rows of `sweep` for a terminal: a line per spec, the shares of the modes side by side."""
    index = ["dimensions", "precision", "bytes_per_document"]
    wide = rows.pivot_table(index=index, columns="mode", values="share_of_teacher", sort=False)
    return wide.map("{:.1%}".format).reset_index().rename_axis(columns=None).to_string(index=False)


def _ms(index: CompressedIndex, queries: np.ndarray) -> float:
    """Median over queries of the least milliseconds of three searches: threads that wait for others take a hundredfold."""
    times = [
        min(timeit.repeat(lambda query=query: index.search(query[None], 10), repeat=3, number=1))
        for query in queries[:50]
    ]
    return 1000 * float(np.median(times))


def _as_json(space: Mapping) -> dict:
    """Return a space as it will be read back from a file."""
    try:
        return json.loads(json.dumps(dict(space)))
    except (TypeError, ValueError) as error:
        raise WorkbenchError(
            f"space must be JSON values, as a teacher's identity is: {error}"
        ) from None


def _checksum(stated: str, tensors: Mapping[str, np.ndarray]) -> str:
    digest = xxhash.xxh3_128(stated.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()


def _empty(spec: IndexSpec) -> faiss.Index | faiss.IndexBinary:
    faiss = need("faiss", "quantize")
    if spec.precision == "binary":
        return faiss.IndexBinaryFlat(spec.dimensions)
    return faiss.index_factory(
        spec.dimensions, _FACTORY[spec.precision], faiss.METRIC_INNER_PRODUCT
    )


def _codes(index: faiss.Index | faiss.IndexBinary) -> np.ndarray:
    held = index.codes if hasattr(index, "codes") else index.xb
    return need("faiss", "quantize").vector_to_array(held).reshape(index.ntotal, -1)
