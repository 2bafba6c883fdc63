"""Smaller vectors: truncation, float16, int8 and binary, as indexes that really are that small."""

from __future__ import annotations

import json
import operator
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from workbench import evaluate, ranking
from workbench._util import checked, unit
from workbench.errors import WorkbenchError

PRECISIONS = {"float32": 32, "float16": 16, "int8": 8, "binary": 1}  # bits a dimension
_FORMAT = "workbench-index-1"
_DEPTH = 100
_BLOCK_VALUES = 20_000_000  # signs that are unpacked at once, 80 MB


@dataclass(frozen=True)
class IndexSpec:
    """A point on the curve of size and quality.

    Attributes:
        dimensions: the first so many are kept; None keeps all.
        precision: "float32", "float16", "int8" (256 levels between the least and the greatest value
            of each dimension among the documents) or "binary" (signs).
    """

    dimensions: int | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise WorkbenchError(f"precision {self.precision!r}: choose from {', '.join(PRECISIONS)}")
        if self.dimensions is not None:
            object.__setattr__(self, "dimensions", _whole("dimensions", self.dimensions))

    def of(self, width: int) -> IndexSpec:
        """Return this point for vectors of a width, or say why it has none there."""
        dimensions = width if self.dimensions is None else self.dimensions
        if dimensions > width:
            raise WorkbenchError(f"{dimensions} dimensions are asked for and the vectors have {width}")
        if self.precision == "binary" and dimensions % 8:
            raise WorkbenchError(
                f"binary codes fill whole bytes: {dimensions} is not a multiple of 8, take {max(8, dimensions // 8 * 8)}"
            )
        return IndexSpec(dimensions, self.precision)

    @property
    def bytes_per_document(self) -> int:
        """Size of one document's code; `dimensions` must be given."""
        return self.dimensions * PRECISIONS[self.precision] // 8


class CompressedIndex:
    """Documents as codes in a faiss index, and queries that are coded as the documents are.

    Vectors are cut to the first dimensions and brought back to unit norm, so that scores are
    cosines of what is left. Documents may be the teacher's and queries the student's.

    Args:
        documents: float of shape (n, d).
        point: how many dimensions, in which precision.
        space: what names the space, as JSON values: the teacher's identity, or for documents of a
            student the fingerprint that `models.resolve` gives; kept with the index, and queries that
            name another are refused.

    Raises:
        WorkbenchError: the vectors have no such point.
    """

    def __init__(self, documents: np.ndarray, point: IndexSpec | None = None, *, space: Mapping | None = None) -> None:
        documents = checked(documents, "documents")
        self.width = documents.shape[1]
        self.point = (point or IndexSpec()).of(self.width)
        self.space = _as_json(space or {})
        self._index = _empty(self.point)
        documents = truncate(documents, self.point.dimensions)
        if self.point.precision == "binary":
            self._index.add(_signs(documents))
        else:
            self._index.train(documents)  # int8 finds its ranges here; the others need none
            self._index.add(documents)

    def __len__(self) -> int:
        return self._index.ntotal

    def search(
        self, queries: np.ndarray, k: int = _DEPTH, *, space: Mapping | None = None, rescore_multiplier: int = 10
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the k best documents for each query.

        Args:
            queries: float of shape (q, d), d the width before truncation.
            k: how many; all documents if there are fewer.
            space: what names the queries' space; None does not ask.
            rescore_multiplier: with binary codes, rescore_multiplier * k documents are found by Hamming distance and
                put in order by the cosine of the query, not coded, and the documents' signs
                (Yamada et al. 2021, without the learning).

        Returns:
            Scores, float32, and positions, int64, both of shape (q, min(k, n)), best first.
        """
        space = None if space is None else _as_json(space)
        if space is not None and space != self.space:
            other = [name for name in {**self.space, **space} if self.space.get(name) != space.get(name)]
            raise WorkbenchError(
                f"the index was built in another space than the queries' ({', '.join(map(str, other))} differ): encode "
                "its documents again, with the model that these queries belong to"
            )
        queries = checked(queries, "queries")
        if queries.shape[1] != self.width:
            raise WorkbenchError(f"queries are {queries.shape[1]} wide and the index is of vectors {self.width} wide")
        k, rescore_multiplier = min(_whole("k", k), len(self)), _whole("rescore_multiplier", rescore_multiplier)
        queries = truncate(queries, self.point.dimensions)
        if self.point.precision != "binary":
            return self._search(self._as_documents(queries), k, min(2 * k, len(self)))
        _, found = self._index.search(_signs(queries), min(k * rescore_multiplier, len(self)))
        codes = faiss.vector_to_array(self._index.xb).reshape(len(self), -1)
        exact = np.empty(found.shape, dtype=np.float32)
        block = max(1, _BLOCK_VALUES // (found.shape[1] * self.point.dimensions))
        for rows in (slice(start, start + block) for start in range(0, len(queries), block)):
            signs = np.unpackbits(codes[found[rows]], axis=-1).astype(np.float32) * 2 - 1
            exact[rows] = np.einsum("qcd,qd->qc", signs, queries[rows]) / np.sqrt(self.point.dimensions)
        return ranking.order(exact, found.astype(np.int64), k)

    def save(self, path: str | Path) -> Path:
        """Write codes, ranges and what they belong to into one safetensors file, whole or not at all."""
        tensors = {"codes": _codes(self._index)}
        if self.point.precision == "int8":
            tensors["ranges"] = faiss.vector_to_array(self._index.sq.trained)
        about = {"format": _FORMAT, "point": asdict(self.point), "width": self.width, "space": self.space}
        path = Path(path)
        scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stated = json.dumps(about)
            save_file(tensors, scratch, {"about": stated, "checksum": _checksum(stated, tensors)})
            os.replace(scratch, path)
        except (OSError, SafetensorError) as error:
            scratch.unlink(missing_ok=True)
            raise WorkbenchError(f"{path} cannot be written: {error}") from None
        return path

    @classmethod
    def load(cls, path: str | Path) -> CompressedIndex:
        """Read an index that `save` wrote; anything else, and a damaged one, raises WorkbenchError."""
        try:
            with safe_open(path, "numpy") as file:
                stated = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = json.loads(stated.get("about", "null"))
            if not isinstance(about, dict) or about.get("format") != _FORMAT:
                raise WorkbenchError(f"{path} is no index of this workbench")
            if stated.get("checksum") != _checksum(stated["about"], tensors):
                raise WorkbenchError(f"{path} is damaged: its checksum is another. Build it again from the vectors.")
            index = cls.__new__(cls)
            index.point, index.width, index.space = IndexSpec(**about["point"]), about["width"], about["space"]
            index._index = _filled(index.point, tensors["codes"], tensors.get("ranges"))
        except WorkbenchError:
            raise
        except Exception as error:  # a file can be wrong in more ways than its reader names
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
        if self.point.precision == "float32":
            return queries
        return self._index.sa_decode(self._index.sa_encode(queries))


def truncate(vectors: np.ndarray, dimensions: int | None) -> np.ndarray:
    """Return the first dimensions of each row at unit norm, float32 of shape (n, dimensions); None keeps all."""
    vectors = checked(vectors, "vectors")
    return np.ascontiguousarray(unit(vectors[:, : IndexSpec(dimensions).of(vectors.shape[1]).dimensions]))


def principal_rotation(vectors: np.ndarray) -> np.ndarray:
    """Return the rotation that sorts a space by how much of it each direction holds, float32 of shape (d, d).

    `vectors @ rotation` has the same distances and cosines, and the first m dimensions keep more of the
    inner products than any other m directions (Eckart and Young 1936). A teacher that was not
    trained for truncation gains it this way, and so does a student that learns the rotated targets.

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
    points: Iterable[IndexSpec],
    *,
    timed: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure quality, size and query time of each point for each mode.

    Args:
        qrels: query id to document id to grade.
        query_ids: ids of the rows of all query vectors.
        document_ids: ids of the rows of all document vectors.
        sides: mode to its vectors of queries and documents; "teacher" is what shares refer to.
        points: what to measure.
        timed: search times are measured among so many documents, the collection's repeated; among the
            collection's as they are if None. A small collection says little of a large one's times.
        on_progress: called after each row with the rows done and the rows in all.
        seed: of the bootstrap.

    Returns:
        One row a mode and point: `mode`, `dimensions`, `precision`, the columns of
        `evaluate.summarize` with the share of the teacher's uncompressed nDCG@10 and its 95 %
        interval, `bytes_per_document`, and `query_ms`, the median milliseconds of one search among
        `documents`, one query at a time, without the encoding and the same for every mode.
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
    points = list(points)
    if not points:
        raise WorkbenchError("there are no points to measure: give some, such as those of grid(width)")
    points = {mode: list(dict.fromkeys(p.of(d.shape[1]) for p in points)) for mode, (_, d) in sides.items()}
    timed = len(searched) if timed is None else _whole("timed", timed)
    whole = {"uncompressed": evaluate.score(qrels, query_ids, document_ids, *sides["teacher"])}
    if not whole["uncompressed"]["ndcg_at_10"].sum() > 0:
        raise WorkbenchError(
            "the teacher finds nothing that was judged: do the ids of the judgments fit the collection?"
        )
    try:
        repeated = np.resize(searched, (timed, searched.shape[1]))
        query_ms = {point: _ms(CompressedIndex(repeated, point), asked) for point in points["teacher"]}
    except (MemoryError, ValueError):
        raise WorkbenchError(f"{timed:,} documents do not fit into memory: time fewer") from None
    measured, about = {}, []
    for mode, (queries, documents) in sides.items():
        for point in points[mode]:
            index = CompressedIndex(documents, point)
            positions = index.search(queries)[1]
            label = f"{mode} {point.dimensions} {point.precision}"
            measured[label] = evaluate.score_ranking(qrels, query_ids, document_ids, positions)
            about.append(
                {
                    "mode": mode,
                    **asdict(point),
                    "bytes_per_document": point.bytes_per_document,
                    "documents": timed,
                    "query_ms": query_ms.get(point, np.nan),
                }
            )
            if on_progress:
                on_progress(len(about), sum(map(len, points.values())))
    rows = evaluate.summarize(whole | measured, teacher="uncompressed", seed=seed).iloc[1:].drop(columns="mode")
    return pd.concat([pd.DataFrame(about), rows.reset_index(drop=True)], axis=1)


def grid(width: int, least: int = 48) -> list[IndexSpec]:
    """Return points to measure: the width, its halves down to `least`, in every precision that fits.

    Args:
        width: of the vectors.
        least: no point has fewer dimensions, but the whole width is always there.
    """
    dimensions = [_whole("width", width)]
    while dimensions[-1] % 2 == 0 and dimensions[-1] // 2 >= least:
        dimensions.append(dimensions[-1] // 2)
    return [IndexSpec(d, p) for p in PRECISIONS for d in dimensions if p != "binary" or d % 8 == 0]


def pareto_mask(rows: pd.DataFrame, costs: Sequence[str] = ("bytes_per_document", "query_ms")) -> np.ndarray:
    """Say which points no other point dominates, bool of shape (n,).

    A point is dominated by one that is at least as good in `share_of_teacher` and in every cost, and better
    in one of them (Pareto's order).

    Args:
        rows: from `sweep`.
        costs: columns of which less is better.
    """
    values = np.column_stack([-rows["share_of_teacher"], *(rows[cost] for cost in costs)])
    no_worse = (values[:, None] >= values[None]).all(axis=2)
    better = (values[:, None] > values[None]).any(axis=2)
    return ~(no_worse & better).any(axis=1)


def format_table(rows: pd.DataFrame) -> str:
    """Format what `sweep` returned for a terminal: a line a point, the modes' shares of the teacher side by side."""
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
        raise WorkbenchError(f"{name} is {value!r}: a whole number is needed") from None
    if number < 1:
        raise WorkbenchError(f"{name} is {number}: at least 1 is needed")
    return number


def _as_json(space: Mapping) -> dict:
    """Return what names a space as it comes back from a file."""
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


def _empty(point: IndexSpec) -> faiss.Index | faiss.IndexBinary:
    if point.precision == "binary":
        return faiss.IndexBinaryFlat(point.dimensions)
    if point.precision == "float32":
        return faiss.IndexFlatIP(point.dimensions)
    kinds = {"float16": faiss.ScalarQuantizer.QT_fp16, "int8": faiss.ScalarQuantizer.QT_8bit}
    return faiss.IndexScalarQuantizer(point.dimensions, kinds[point.precision], faiss.METRIC_INNER_PRODUCT)


def _codes(index: faiss.Index | faiss.IndexBinary) -> np.ndarray:
    held = index.xb if isinstance(index, faiss.IndexBinaryFlat) else index.codes
    return faiss.vector_to_array(held).reshape(index.ntotal, -1)


def _filled(point: IndexSpec, codes: np.ndarray, ranges: np.ndarray | None) -> faiss.Index | faiss.IndexBinary:
    """Return an index of codes that were made before."""
    index = _empty(point)
    codes = np.ascontiguousarray(codes, np.uint8)
    if point.precision == "binary":
        index.add(codes)
        return index
    if ranges is not None:
        faiss.copy_array_to_vector(ranges.astype(np.float32), index.sq.trained)
    index.is_trained = True
    index.add_sa_codes(codes)
    return index
