"""How far two models agree, text by text and as a whole. Arrays in, dataframes out, no drawing.

Every function takes vectors whose rows are the same texts in the same order. `teacher` is the reference and `student`
the other model; any two models do. Cosines and distances between the two need one width. All other measures also
compare spaces of different widths.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from workbench import ranking
from workbench._util import paired, spearman, unit, whole
from workbench.errors import WorkbenchError

EXACT_TEXTS = 50_000  # above this, neighbors are approximate unless asked otherwise; below, exact ones are faster
_BLOCK_SCORES = 20_000_000  # similarities held at once, 80 MB
_RANKED_AGAINST = 5_000  # texts that a rank is estimated against where neighbors are approximate


class Neighbors(NamedTuple):
    """Nearest neighbors by cosine."""

    positions: np.ndarray  # int64 of shape (n, k), nearest first
    cosines: np.ndarray  # float32 of shape (n, k)
    method: str  # "exact" or "approximate (pynndescent)"


def neighbors(
    vectors: np.ndarray,
    k: int = 10,
    *,
    among: np.ndarray | None = None,
    exact: bool | None = None,
    seed: int = 0,
) -> Neighbors:
    """Find each row's k nearest rows among the others. Exact neighbors of equal cosine are in the order of the rows.

    Args:
        vectors: float of shape (n, d).
        among: float of shape (m, d); search these rows instead of the other rows of `vectors`.
        exact: True, False for NN-descent (Dong et al. 2011, by pynndescent), or None to choose by size.

    Raises:
        WorkbenchError: k is out of range, the widths differ, or an array is empty or contains NaN.
    """
    vectors = unit(vectors)
    pool = vectors if among is None else unit(among, "among")
    if pool.shape[1] != vectors.shape[1]:
        raise WorkbenchError(
            f"vectors are {vectors.shape[1]} wide and `among` is {pool.shape[1]} wide"
        )
    most = len(pool) - (among is None)
    if whole(k, "k") > most:
        raise WorkbenchError(
            f"k is {k}: {len(pool)} texts allow 1 to {most}"
            if most
            else "one text has no neighbors"
        )
    if exact or (exact is None and len(pool) <= EXACT_TEXTS):
        cosines, positions = ranking.top_k(
            vectors, pool, k, exclude_self=among is None, normalized=True
        )
        return Neighbors(positions, cosines, "exact")
    from pynndescent import NNDescent

    # Without an angular split, cosine and Euclidean distance order unit vectors alike.
    index = NNDescent(
        pool, metric="euclidean", n_neighbors=max(30, k + 10), random_state=seed, n_jobs=-1
    )
    if among is None:
        positions, distances = index.neighbor_graph
        own = positions == np.arange(len(pool))[:, None]
        own[~own.any(axis=1), -1] = True  # among duplicates a text may miss itself
        keep = np.argsort(own, axis=1, kind="stable")[:, :k]
        positions, distances = (
            np.take_along_axis(positions, keep, 1),
            np.take_along_axis(distances, keep, 1),
        )
    else:
        positions, distances = index.query(vectors, k=k)
    cosines = (1 - distances**2 / 2).astype(np.float32)
    return Neighbors(positions.astype(np.int64), cosines, "approximate (pynndescent)")


def per_text(
    teacher: np.ndarray,
    student: np.ndarray,
    *,
    k: int = 10,
    among: tuple[np.ndarray, np.ndarray] | None = None,
    columns: pd.DataFrame | None = None,
    exact: bool | None = None,
    found: tuple[Neighbors, Neighbors] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure the agreement on every text.

    Args:
        teacher: the reference model's vectors, float of shape (n, d).
        student: the other model's vectors of the same texts, float of shape (n, e).
        k: neighbors to compare; fewer where there are fewer texts. 0 compares none.
        among: both models' vectors of other texts to find neighbors in, such as documents where the texts are
            queries. For asymmetric retrieval pass the reference's document vectors twice.
        columns: dataframe of n rows that describe the texts, returned beside the measures.
        found: both models' neighbors, where they are known already.

    Returns:
        One row per text, after `columns`:
        `cosine` (-1 to 1; 1 is the same direction) and `squared_distance` (squared L2 distance, the training loss;
        0 is the same place), both NaN where the widths differ;
        `overlap`, the share of the k nearest neighbors that both models find (0 to 1);
        `nearest_rank`, the rank that the other model gives to the reference's nearest neighbor (1 is best).
        `attrs` has `k`, `neighbors` ("exact" or the method) and `ranks` ("exact" or how they were estimated).

    Raises:
        WorkbenchError: the arrays do not have the same rows, are empty or contain NaN, or k is negative.
    """
    whole(k, "k", 0)
    teacher, student = paired(teacher, student)
    if columns is not None and len(columns) != len(teacher):
        raise WorkbenchError(
            f"columns have {len(columns):,} rows and there are {len(teacher):,} texts"
        )
    table = (
        pd.DataFrame(index=pd.RangeIndex(len(teacher)))
        if columns is None
        else columns.reset_index(drop=True)
    )
    same = teacher.shape[1] == student.shape[1]
    t, s = unit(teacher), unit(student)
    table["cosine"] = (t * s).sum(axis=1) if same else np.nan
    table["squared_distance"] = ((teacher - student) ** 2).sum(axis=1) if same else np.nan
    pools = (t, s) if among is None else tuple(map(unit, paired(*among)))
    k = min(k, len(pools[0]) - (among is None))
    if k < 1:
        table["overlap"] = table["nearest_rank"] = np.nan
        table.attrs |= {"k": 0, "neighbors": "none", "ranks": "none"}
        return table
    first, second = found or (
        neighbors(v, k, among=None if among is None else p, exact=exact, seed=seed)
        for v, p in zip((t, s), pools, strict=True)
    )
    table["overlap"] = overlap(first.positions, second.positions)
    count = len(pools[1])
    against = sample(count, count if first.method == "exact" else _RANKED_AGAINST, seed)
    ranks = _ranks(s, pools[1], first.positions[:, 0], against, among is None)
    table["nearest_rank"] = np.round(ranks).astype(int)
    how = "exact" if len(against) == count else f"estimated against {len(against):,} texts"
    table.attrs |= {"k": k, "neighbors": first.method, "ranks": how}
    return table


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the share of entries that the rows of two integer arrays of shape (n, k) share, float of shape (n,)."""
    both = np.sort(np.concatenate([first, second], axis=1), axis=1)
    return (both[:, 1:] == both[:, :-1]).sum(axis=1) / first.shape[1]


# Name: good values, bad values, source.
# fmt: off
MEASURES = {
    "cosine": ("near 1: same directions", "below 0.7: only roughly similar", "mean"),
    "squared_distance": ("near 0", "near 2: as far as unrelated texts", "mean squared L2 distance, the training loss"),
    "overlap": ("near 1: both find the same neighbors", "below 0.3: searches differ", "mean at k"),
    "nearest_rank": ("1", "far beyond k: the best hit drops out of sight", "median"),
    "cka": ("near 1: one geometry up to rotation and scale", "below 0.8", "linear CKA, Kornblith et al. 2019"),
    "rank_correlation": ("near 1: pairs are ordered alike by similarity", "below 0.6",
                         "Spearman over random pairs; Kriegeskorte et al. 2008"),
    "relative_distance": ("near 0: same places without rotation",
                          "1 or more: no better than putting all texts at the origin", "||T - S||^2 / ||T||^2"),
    "procrustes": ("near 0; far below `relative_distance`, the student is rotated, not different",
                   "as large as `relative_distance`: no rotation helps",
                   "orthogonal Procrustes (Schönemann 1966), fitted on one half of the texts, measured on the other"),
    "hubness_teacher": ("near 0: each text is a neighbor about equally often",
                        "above 2: a few texts are everyone's neighbors",
                        "skewness of k-occurrence, Radovanović et al. 2010"),
    "hubness_student": ("as the teacher's", "well above the teacher's", "the same of the student"),
    "effective_rank_teacher": ("the number of dimensions in use", "a handful: collapsed",
                               "exponential of the entropy of singular values, Roy and Vetterli 2007"),
    "effective_rank_student": ("as the teacher's", "far below: the student collapsed", "the same of the student"),
    "centroid_shift": ("near 0: both means coincide",
                       "above 0.2: the means lie apart, which hurts asymmetric search first",
                       "||mean(T) - mean(S)|| over the root mean square norm of T"),
}
# fmt: on
# Measure to how to read it, in one line.
READING = {name: "good: {}; bad: {} ({})".format(*how) for name, how in MEASURES.items()}


def summary(
    teacher: np.ndarray,
    student: np.ndarray,
    table: pd.DataFrame | None = None,
    *,
    k: int = 10,
    exact: bool | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure the agreement of two models as a whole.

    Args:
        teacher: as in `per_text`, like `student` and `exact`.
        table: the result of `per_text` for the same vectors; computed if None.
        k: neighbors for overlap and hubness.

    Returns:
        Index: the names of `MEASURES`. Columns: `value`, `good` and `bad` (how to read it) and `source`. A measure
        is NaN where it is not defined: a distance between different widths, a rotation from too few texts.
        `attrs` are those of `per_text`.

    Raises:
        WorkbenchError: as `per_text`, or the table has another number of rows.
    """
    teacher, student = paired(teacher, student)
    if table is None:
        table = per_text(teacher, student, k=k, exact=exact, seed=seed)
    if len(table) != len(teacher):
        raise WorkbenchError(
            f"the table has {len(table):,} rows and there are {len(teacher):,} texts"
        )
    values = {
        **table[["cosine", "squared_distance", "overlap"]].mean(),
        "nearest_rank": table["nearest_rank"].median(),
        "cka": cka(teacher, student),
        "rank_correlation": rank_correlation(teacher, student, seed=seed),
        "relative_distance": relative_distance(teacher, student),
        "procrustes": procrustes(teacher, student, seed=seed),
        "hubness_teacher": hubness(teacher, k=k, exact=exact, seed=seed),
        "hubness_student": hubness(student, k=k, exact=exact, seed=seed),
        "effective_rank_teacher": effective_rank(spectrum(teacher)),
        "effective_rank_student": effective_rank(spectrum(student)),
        "centroid_shift": centroid_shift(teacher, student),
    }
    result = pd.DataFrame.from_dict(
        MEASURES, orient="index", columns=["good", "bad", "source"]
    ).rename_axis("measure")
    result.insert(0, "value", pd.Series(values))
    result.attrs |= table.attrs
    return result


def cka(first: np.ndarray, second: np.ndarray) -> float:
    """Linear centered kernel alignment (Kornblith et al. 2019), 0 to 1.

    Rotation, scale and translation do not change it. NaN if all vectors of a model are the same.
    """
    first, second = paired(first, second)
    cross = centered_product(first, second)
    below = np.linalg.norm(centered_product(first, first)) * np.linalg.norm(
        centered_product(second, second)
    )
    return float(np.linalg.norm(cross) ** 2 / below) if below > 1e-20 else np.nan


def rank_correlation(
    first: np.ndarray, second: np.ndarray, *, pairs: int = 200_000, seed: int = 0
) -> float:
    """Spearman correlation of the cosines of random pairs of texts in both spaces: -1 to 1."""
    first, second = paired(first, second)
    if len(first) < 3:
        return np.nan
    rng = np.random.default_rng(seed)
    left = rng.integers(0, len(first), pairs)
    right = (left + rng.integers(1, len(first), pairs)) % len(first)
    parts = [slice(i, i + 8192) for i in range(0, pairs, 8192)]
    cosines = [
        np.concatenate(
            [np.einsum("ij,ij->i", vectors[left[part]], vectors[right[part]]) for part in parts]
        )
        for vectors in (unit(first), unit(second))
    ]
    if np.ptp(cosines[0]) < 1e-6 or np.ptp(cosines[1]) < 1e-6:
        return np.nan
    return spearman(*cosines)


def relative_distance(teacher: np.ndarray, student: np.ndarray) -> float:
    """Sum of squared distances over the sum of the reference's squared norms; NaN if the widths differ."""
    teacher, student = paired(teacher, student)
    if teacher.shape[1] != student.shape[1]:
        return np.nan
    return float(((teacher - student) ** 2).sum() / (teacher**2).sum())


def procrustes(teacher: np.ndarray, student: np.ndarray, *, seed: int = 0) -> float:
    """Return `relative_distance` after the best orthogonal map of the other model onto the reference.

    The map (Schönemann 1966) is fitted on a random half of the texts and measured on the other half, since some
    rotation always fits as many texts as dimensions. The narrower space is padded with zeros. NaN with fewer than
    four texts per dimension.
    """
    teacher, student = paired(teacher, student)
    width = max(teacher.shape[1], student.shape[1])
    if len(teacher) < 4 * width:
        return np.nan
    teacher, student = (np.pad(v, ((0, 0), (0, width - v.shape[1]))) for v in (teacher, student))
    fit, judge = np.array_split(np.random.default_rng(seed).permutation(len(teacher)), 2)
    left, _, right = np.linalg.svd(student[fit].T.astype(np.float64) @ teacher[fit])
    return relative_distance(teacher[judge], (student[judge] @ (left @ right)).astype(np.float32))


def fitted(
    student: np.ndarray, teacher: np.ndarray, kind: str = "linear", *, seed: int = 0
) -> np.ndarray:
    """Return a model's vectors where a map fitted to the teacher's space puts them.

    The map is fitted on one half of the texts and applied to the other, and the reverse, so that no vector is placed by
    a map that has seen it.

    Args:
        student: float of shape (n, e).
        teacher: float of shape (n, d), the same texts.
        kind: "orthogonal" (Procrustes, Schönemann 1966; widths may differ) or "linear" (least squares with a little
            ridge).

    Returns:
        float32 of shape (n, d).

    Raises:
        WorkbenchError: there are fewer than 4 texts, or another kind.
    """
    teacher, student = paired(teacher, student)
    if kind not in ("orthogonal", "linear") or len(teacher) < 4:
        raise WorkbenchError(
            f"a {kind!r} fit of {len(teacher)} texts: expected orthogonal or linear, and 4 texts at least"
        )
    source, target = unit(student), unit(teacher)
    halves = np.array_split(np.random.default_rng(seed).permutation(len(teacher)), 2)
    placed = np.empty(target.shape, np.float32)
    for one, rest in (halves, halves[::-1]):
        if kind == "orthogonal":
            left, _, right = np.linalg.svd(source[one].T @ target[one], full_matrices=False)
            weights = left @ right
        else:
            gram = source[one].T @ source[one]
            ridge = 1e-2 * np.trace(gram) / len(gram) * np.eye(len(gram), dtype=np.float32)
            weights = np.linalg.solve(gram + ridge, source[one].T @ target[one])
        placed[rest] = source[rest] @ weights
    return placed


def hubness(vectors: np.ndarray, *, k: int = 10, exact: bool | None = None, seed: int = 0) -> float:
    """Skewness of the number of k-nearest-neighbor lists that contain a text (Radovanović et al. 2010)."""
    from scipy.stats import skew

    k = min(k, len(vectors) - 1)
    if k < 1:
        return np.nan
    found = neighbors(vectors, k, exact=exact, seed=seed).positions
    counts = np.bincount(found.ravel(), minlength=len(vectors))
    return float(skew(counts)) if np.ptp(counts) else 0.0


def spectrum(vectors: np.ndarray) -> np.ndarray:
    """Return the singular values of the centered vectors over their sum, float64 of shape (d,), largest first."""
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(centered_product(vectors, vectors))[::-1], 0))
    return values / values.sum() if values.sum() > 1e-6 else np.zeros_like(values)


def effective_rank(values: np.ndarray) -> float:
    """Exponential of the entropy of a `spectrum` (Roy and Vetterli 2007): 1 to d, 0 for a single point."""
    values = values[values > 0]
    return float(np.exp(-(values * np.log(values)).sum())) if len(values) else 0.0


def centroid_shift(teacher: np.ndarray, student: np.ndarray) -> float:
    """Distance between both means over the reference's root mean square norm; NaN if the widths differ."""
    teacher, student = paired(teacher, student)
    if teacher.shape[1] != student.shape[1]:
        return np.nan
    scale = np.sqrt((teacher**2).sum(axis=1).mean())
    return float(np.linalg.norm(teacher.mean(axis=0) - student.mean(axis=0)) / scale)


def sample(count: int, most: int, seed: int = 0) -> np.ndarray:
    """Return sorted positions of at most `most` of `count` texts, chosen at random, int64."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def _ranks(
    vectors: np.ndarray, pool: np.ndarray, wanted: np.ndarray, among: np.ndarray, skip_self: bool
) -> np.ndarray:
    """Return the 1-based rank of each wanted row of the pool, scaled up where `among` is a sample."""
    ranks = np.empty(len(vectors))
    part = torch.from_numpy(pool[among])
    size = max(1, _BLOCK_SCORES // len(among))
    for rows in (np.arange(i, min(i + size, len(vectors))) for i in range(0, len(vectors), size)):
        block = vectors[rows]
        scores = torch.from_numpy(block) @ part.T
        hit = torch.from_numpy((block * pool[wanted[rows]]).sum(axis=1, keepdims=True))
        better = (scores > hit + 1e-6).numpy()  # the two products round differently
        if skip_self:
            better[among[None, :] == rows[:, None]] = False
        ranks[rows] = better.sum(axis=1)
    scale = (len(pool) - skip_self) / max(1, len(among) - skip_self)
    return 1 + ranks * scale


def centered_product(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the centered cross-product, float64 of shape (d, e), a block of rows at a time."""
    means = first.mean(axis=0, dtype=np.float64), second.mean(axis=0, dtype=np.float64)
    parts = [slice(start, start + 8192) for start in range(0, len(first), 8192)]
    return sum((first[part] - means[0]).T @ (second[part] - means[1]) for part in parts)


def principal_axes(product: np.ndarray) -> np.ndarray:
    """Return the eigenvectors of a symmetric matrix as columns, largest eigenvalue first, float32; signs are fixed."""
    axes = np.linalg.eigh(product)[1][:, ::-1]
    return np.ascontiguousarray(
        axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(len(axes))]), np.float32
    )
