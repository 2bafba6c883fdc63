"""Smaller vectors: truncation, float16, int8 and binary, as indexes that really are that small."""

from __future__ import annotations

import json
import operator
import time
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
from workbench._util import checked, need, unit, write_whole
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    import faiss

PRECISIONS = {"float32": 32, "float16": 16, "int8": 8, "binary": 1}  # bits a dimension
_FORMAT = "workbench-index-1"
_DEPTH = 100
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
            raise WorkbenchError(f"precision {self.precision!r} is unknown: choose from {', '.join(PRECISIONS)}")
        if self.dimensions is not None:
            object.__setattr__(self, "dimensions", _whole("dimensions", self.dimensions))

    def of(self, width: int) -> IndexSpec:
        """Return this spec with its dimensions filled in for vectors of a width; WorkbenchError if it does not fit."""
        dimensions = width if self.dimensions is None else self.dimensions
        if dimensions > width:
            raise WorkbenchError(
                f"{dimensions} dimensions are asked for and the vectors have {width}: take {width} or fewer"
            )
        if self.precision == "binary" and dimensions % 8:
            raise WorkbenchError(
                f"binary codes need a multiple of 8 dimensions: {dimensions} is not a multiple of 8, take {max(8, dimensions // 8 * 8)}"
            )
        return IndexSpec(dimensions, self.precision)

    @property
    def bytes_per_document(self) -> int:
        """Bytes of one document's code; `dimensions` must not be None."""
        return self.dimensions * PRECISIONS[self.precision] // 8


class CompressedIndex:
    """Truncated and quantized documents in a faiss index.

    Vectors are cut to their first dimensions and scaled to unit norm, so scores are cosines of the truncated vectors.
    Queries are quantized with the documents' ranges. Documents may be the teacher's and queries the student's.

    Args:
        documents: float of shape (n, d).
        spec: dimensions and precision; all dimensions in float32 if None.
        space: JSON values that identify the vector space: the teacher's identity, or for a student's documents the
            fingerprint of `models.resolve`. They are stored with the index, and a search that names another space
            is refused.

    Attributes:
        width: dimensions of the vectors before truncation, d.
        spec: with its dimensions filled in.
        space: as given.

    Raises:
        WorkbenchError: the spec does not fit the vectors, or faiss (the extra `quantize`) is not installed.
    """

    def __init__(self, documents: np.ndarray, spec: IndexSpec | None = None, *, space: Mapping | None = None) -> None:
        documents = checked(documents, "documents")
        self.width = documents.shape[1]
        self.spec = (spec or IndexSpec()).of(self.width)
        self.space = _as_json(space or {})
        self._index = _empty(self.spec)
        documents = truncate(documents, self.spec.dimensions)
        if self.spec.precision == "binary":
            self._index.add(_signs(documents))
        else:
            self._index.train(documents)  # finds the ranges of int8
            self._index.add(documents)

    def __len__(self) -> int:
        return self._index.ntotal

    def search(
        self, queries: np.ndarray, k: int = _DEPTH, *, space: Mapping | None = None, rescore_multiplier: int = 10
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the k best documents for each query.

        Args:
            queries: float of shape (q, d), not truncated.
            k: number of results; all documents if there are fewer.
            space: JSON values that identify the queries' space; not checked if None.
            rescore_multiplier: with binary codes, rescore_multiplier * k candidates are found by Hamming distance and
                ordered by the cosine of the float32 query with the documents' signs (the reranking of Yamada et al.
                2021, without its training).

        Returns:
            Scores, float32, and positions, int64, both of shape (q, min(k, n)), best first. Equal scores are in the
            order of the documents.

        Raises:
            WorkbenchError: the queries have another width or name another space, or k is below 1.
        """
        space = None if space is None else _as_json(space)
        if space is not None and space != self.space:
            other = [name for name in {**self.space, **space} if self.space.get(name) != space.get(name)]
            raise WorkbenchError(
                f"the index was built in another space than the queries' ({', '.join(map(str, other))} differ): encode "
                "its documents again with a model of the queries' space"
            )
        queries = checked(queries, "queries")
        if queries.shape[1] != self.width:
            raise WorkbenchError(f"queries are {queries.shape[1]} wide and the index is of vectors {self.width} wide")
        k, rescore_multiplier = min(_whole("k", k), len(self)), _whole("rescore_multiplier", rescore_multiplier)
        queries = truncate(queries, self.spec.dimensions)
        if self.spec.precision != "binary":
            return self._search(self._as_documents(queries), k, min(2 * k, len(self)))
        _, found = self._index.search(_signs(queries), min(k * rescore_multiplier, len(self)))
        codes = _codes(self._index)
        exact = np.empty(found.shape, dtype=np.float32)
        block = max(1, _BLOCK_VALUES // (found.shape[1] * self.spec.dimensions))
        for rows in (slice(start, start + block) for start in range(0, len(queries), block)):
            signs = np.unpackbits(codes[found[rows]], axis=-1).astype(np.float32) * 2 - 1
            exact[rows] = np.einsum("qcd,qd->qc", signs, queries[rows]) / np.sqrt(self.spec.dimensions)
        return ranking.order(exact, found.astype(np.int64), k)

    def save(self, path: str | Path) -> Path:
        """Write codes, ranges, spec and space into one safetensors file, completely or not at all; return its path."""
        tensors = {"codes": _codes(self._index)}
        if self.spec.precision == "int8":
            tensors["ranges"] = _faiss().vector_to_array(self._index.sq.trained)
        stated = json.dumps({"format": _FORMAT, "point": asdict(self.spec), "width": self.width, "space": self.space})
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
                raise WorkbenchError(f"{path} is damaged (its checksum is another): build it again from the vectors")
            index = cls.__new__(cls)
            index.spec, index.width, index.space = IndexSpec(**about["point"]), about["width"], about["space"]
            index._index = _filled(index.spec, tensors["codes"], tensors.get("ranges"))
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
            for part, deeper in zip(best, self._search(queries[tied], k, min(4 * depth, len(self))), strict=True):
                part[tied] = deeper
        return best

    def _as_documents(self, queries: np.ndarray) -> np.ndarray:
        if self.spec.precision == "float32":
            return queries
        return self._index.sa_decode(self._index.sa_encode(queries))


def truncate(vectors: np.ndarray, dimensions: int | None) -> np.ndarray:
    """Return the first dimensions of each row, scaled to unit norm, float32 of shape (n, dimensions); None keeps all."""
    vectors = checked(vectors, "vectors")
    return np.ascontiguousarray(unit(vectors[:, : IndexSpec(dimensions).of(vectors.shape[1]).dimensions]))


def principal_rotation(vectors: np.ndarray) -> np.ndarray:
    """Return the rotation onto the principal axes, largest first, float32 of shape (d, d).

    `vectors @ rotation` has the same distances and cosines, and its first m dimensions preserve the inner products
    better than any other m directions (Eckart and Young 1936). Rotated vectors of a teacher that was not trained for
    truncation can be truncated, and so can those of a student that is trained on the rotated targets.

    Args:
        vectors: float of shape (n, d); n should be several times d.
    """
    vectors = unit(vectors).astype(np.float64)
    _, axes = np.linalg.eigh(vectors.T @ vectors)
    axes = axes[:, ::-1]
    return np.ascontiguousarray(axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(len(axes))]), np.float32)


def sweep(
    qrels: Mapping[str, Mapping[str, int]],
    query_ids: Sequence[str],
    document_ids: Sequence[str],
    sides: Mapping[str, tuple[np.ndarray, np.ndarray]],
    specs: Iterable[IndexSpec],
    *,
    timed: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure quality, size and query time of each index spec for each mode.

    Args:
        qrels: query id to document id to grade.
        query_ids: ids of the rows of all query vectors.
        document_ids: ids of the rows of all document vectors.
        sides: mode to its vectors (queries, documents). Shares refer to "teacher".
        specs: what to measure, such as `grid(width)`.
        timed: number of documents to measure search times with: the given ones, repeated or cut. All given ones if
            None. Times of a small collection do not predict those of a large one.
        on_progress: called after each row with the number of rows done and of all rows.
        seed: of the bootstrap.

    Returns:
        One row per mode and spec: `mode`, `dimensions`, `precision`, the columns of `evaluate.summarize` with the
        share of the teacher's uncompressed nDCG@10, `bytes_per_document`, and `query_ms`: the median milliseconds to
        search `documents` documents for one query, without encoding it. It is measured once per spec, for all modes.

    Raises:
        WorkbenchError: `sides` has no "teacher", vectors and ids differ in number, a spec does not fit, or the
            teacher finds no judged document.
    """
    if "teacher" not in sides:
        raise WorkbenchError(f'sides has no "teacher", only {", ".join(sides) or "nothing"}')
    sides = {mode: (checked(q, f"{mode}, queries"), checked(d, f"{mode}, documents")) for mode, (q, d) in sides.items()}
    for mode, (queries, documents) in sides.items():
        if (len(queries), len(documents)) != (len(query_ids), len(document_ids)):
            raise WorkbenchError(
                f"{mode} has {len(queries):,} queries and {len(documents):,} documents; there are ids for "
                f"{len(query_ids):,} and {len(document_ids):,}"
            )
    asked, searched = sides["teacher"]
    specs = list(specs)
    if not specs:
        raise WorkbenchError("no specs were given: give some, such as grid(width)")
    specs = {mode: list(dict.fromkeys(p.of(d.shape[1]) for p in specs)) for mode, (_, d) in sides.items()}
    timed = len(searched) if timed is None else _whole("timed", timed)
    whole = {"uncompressed": evaluate.score(qrels, query_ids, document_ids, *sides["teacher"])}
    if not whole["uncompressed"]["ndcg_at_10"].sum() > 0:
        raise WorkbenchError(
            "the teacher finds nothing that was judged: check that the ids of the judgments are those of the collection"
        )
    try:
        repeated = np.resize(searched, (timed, searched.shape[1]))
        query_ms = {spec: _ms(CompressedIndex(repeated, spec), asked) for spec in specs["teacher"]}
    except (MemoryError, ValueError):
        raise WorkbenchError(f"{timed:,} documents do not fit into memory: time fewer") from None
    measured, about = {}, []
    for mode, (queries, documents) in sides.items():
        for spec in specs[mode]:
            index = CompressedIndex(documents, spec)
            positions = index.search(queries)[1]
            label = f"{mode} {spec.dimensions} {spec.precision}"
            measured[label] = evaluate.score_ranking(qrels, query_ids, document_ids, positions)
            about.append(
                {
                    "mode": mode,
                    **asdict(spec),
                    "bytes_per_document": spec.bytes_per_document,
                    "documents": timed,
                    "query_ms": query_ms.get(spec, np.nan),
                }
            )
            if on_progress:
                on_progress(len(about), sum(map(len, specs.values())))
    rows = evaluate.summarize(whole | measured, teacher="uncompressed", seed=seed).iloc[1:].drop(columns="mode")
    return pd.concat([pd.DataFrame(about), rows.reset_index(drop=True)], axis=1)


def grid(width: int, least: int = 48) -> list[IndexSpec]:
    """Return index specs for a `sweep`: the width and its halves down to `least`, in every precision that fits.

    Args:
        width: of the vectors.
        least: fewest dimensions; the full width is always included.
    """
    dimensions = [_whole("width", width)]
    while dimensions[-1] % 2 == 0 and dimensions[-1] // 2 >= least:
        dimensions.append(dimensions[-1] // 2)
    return [IndexSpec(d, p) for p in PRECISIONS for d in dimensions if p != "binary" or d % 8 == 0]


def pareto_mask(rows: pd.DataFrame, costs: Sequence[str] = ("bytes_per_document", "query_ms")) -> np.ndarray:
    """Return which rows are on the Pareto front, bool of shape (n,).

    A row is dominated by another that is at least as good in `share_of_teacher` and in every cost, and better in one.

    Args:
        rows: from `sweep`.
        costs: columns in which less is better.
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
    """Median milliseconds of a search for one query."""
    times = []
    for query in queries[:50]:
        started = time.perf_counter()
        index.search(query[None], 10)
        times.append(1000 * (time.perf_counter() - started))
    return float(np.median(times))


def _whole(name: str, value: object) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise WorkbenchError(f"{name} is {value!r}: an integer is needed") from None
    if number < 1:
        raise WorkbenchError(f"{name} is {number}: at least 1 is needed")
    return number


def _as_json(space: Mapping) -> dict:
    """Return a space as it will be read back from a file."""
    try:
        return json.loads(json.dumps(dict(space)))
    except (TypeError, ValueError) as error:
        raise WorkbenchError(f"space must be JSON values, as a teacher's identity is: {error}") from None


def _checksum(stated: str, tensors: Mapping[str, np.ndarray]) -> str:
    digest = xxhash.xxh3_128(stated.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()


def _signs(vectors: np.ndarray) -> np.ndarray:
    return np.packbits(vectors > 0, axis=1)


def _faiss():
    return need("faiss", "quantize")


def _empty(spec: IndexSpec) -> faiss.Index | faiss.IndexBinary:
    faiss = _faiss()
    if spec.precision == "binary":
        return faiss.IndexBinaryFlat(spec.dimensions)
    if spec.precision == "float32":
        return faiss.IndexFlatIP(spec.dimensions)
    kinds = {"float16": faiss.ScalarQuantizer.QT_fp16, "int8": faiss.ScalarQuantizer.QT_8bit}
    return faiss.IndexScalarQuantizer(spec.dimensions, kinds[spec.precision], faiss.METRIC_INNER_PRODUCT)


def _codes(index: faiss.Index | faiss.IndexBinary) -> np.ndarray:
    faiss = _faiss()
    held = index.xb if isinstance(index, faiss.IndexBinaryFlat) else index.codes
    return faiss.vector_to_array(held).reshape(index.ntotal, -1)


def _filled(spec: IndexSpec, codes: np.ndarray, ranges: np.ndarray | None) -> faiss.Index | faiss.IndexBinary:
    """Return an index that holds existing codes."""
    index = _empty(spec)
    codes = np.ascontiguousarray(codes, np.uint8)
    if spec.precision == "binary":
        index.add(codes)
        return index
    if ranges is not None:
        _faiss().copy_array_to_vector(ranges.astype(np.float32), index.sq.trained)
    index.is_trained = True
    index.add_sa_codes(codes)
    return index
