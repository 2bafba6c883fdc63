"""How far two models agree, text by text and as a whole.

Rows are the same texts in the same order. Cosines and distances between two models are NaN where
their widths differ.
"""

import numpy as np
import pandas as pd
import torch

from workbench import ranking
from workbench._util import paired, unit, whole_number
from workbench.errors import WorkbenchError

_PAIRS = 200_000  # pairs of texts whose similarities are compared


def neighbors(vectors: np.ndarray, k: int = 10, *, among: np.ndarray | None = None) -> np.ndarray:
    """Return the positions of each row's k nearest other rows by cosine, int64 of shape (n, k).

    The search is exact. `among`, of shape (m, d), is searched instead of the other rows.
    """
    vectors, exclude_self = unit(vectors), among is None
    pool = vectors if among is None else unit(among, "among")
    if whole_number(k, "k") > len(pool) - exclude_self:
        raise WorkbenchError(f"k is {k}, too many neighbors among {len(pool)} texts")
    return ranking.top_k(vectors, pool, k, exclude_self=exclude_self, normalized=True)[1]


def per_text(
    teacher: np.ndarray,
    student: np.ndarray,
    *,
    k: int = 10,
    among: tuple[np.ndarray, np.ndarray] | None = None,
    both_neighbors: tuple[np.ndarray, np.ndarray] | None = None,
) -> pd.DataFrame:
    """Measure the agreement on every text.

    `k` neighbors are compared, or all. `among` are both models' vectors of other texts to find them
    in, such as documents for queries; for asymmetric search the teacher's documents twice. Returns
    one row per text: `cosine`; `squared_distance` (L2); `overlap`, the share of neighbors that both
    find; `nearest_rank`, the student's rank of the teacher's nearest neighbor (1 is best).
    """
    teacher, student = paired(teacher, student)
    table = pd.DataFrame(index=pd.RangeIndex(len(teacher)))
    t, s = unit(teacher), unit(student)
    table[["cosine", "squared_distance", "overlap", "nearest_rank"]] = np.nan
    if t.shape == s.shape:
        table["cosine"] = (t * s).sum(axis=1)
        table["squared_distance"] = ((teacher - student) ** 2).sum(axis=1)
    pool = s if among is None else unit(among[1])
    k = table.attrs["k"] = min(k, len(pool) - (among is None))
    if k > 0:
        if both_neighbors is None:
            t_pool, s_pool = among or (None, None)
            both_neighbors = neighbors(t, k, among=t_pool), neighbors(s, k, among=s_pool)
        table["overlap"] = overlap(*both_neighbors)
        nearest = both_neighbors[0][:, 0]
        table["nearest_rank"] = _ranks(s, pool, nearest, exclude_self=among is None)
    return table


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the share of entries that the rows of two arrays of shape (n, k) have in common."""
    both = np.sort(np.concatenate([first, second], axis=1), axis=1)
    return (both[:, 1:] == both[:, :-1]).sum(axis=1) / first.shape[1]


# How to read the measures.
READING = {
    "cosine": "good: near 1, the same directions; bad: near 0, as unrelated texts (mean)",
    "squared_distance": "good: near 0; bad: near 2, as far as unrelated texts (mean)",
    "overlap": "good: near 1, the same neighbors; bad: near 0, searches differ (mean at k)",
    "nearest_rank": "good: 1; bad: far beyond k, the best hit drops out of sight (median)",
    "cka": "good: near 1, one geometry up to rotation and scale; bad: near 0, none in common",
    "rank_correlation": "good: near 1, similarities are ordered alike; bad: near 0 (Spearman)",
}


def summary(
    teacher: np.ndarray, student: np.ndarray, table: pd.DataFrame | None = None, *, k: int = 10
) -> pd.DataFrame:
    """Return `value`, NaN where not defined, and `reading` by measure; `table` is of `per_text`."""
    teacher, student = paired(teacher, student)
    if table is None:
        table = per_text(teacher, student, k=k)
    values = {
        **table[["cosine", "squared_distance", "overlap"]].mean(),
        "nearest_rank": table["nearest_rank"].median(),
        "cka": cka(teacher, student),
        "rank_correlation": rank_correlation(teacher, student),
    }
    return pd.DataFrame({"value": values, "reading": READING}).rename_axis("measure")


def cka(first: np.ndarray, second: np.ndarray) -> float:
    """Linear centered kernel alignment (Kornblith et al. 2019), about 0 to 1; NaN below 4 points.

    By the unbiased estimator of HSIC (Song et al. 2012): the biased one is near 1 for any vectors
    of few texts.
    """
    first, second = paired(first, second)
    if len(first) < 4:
        return np.nan
    pairs = (first, second), (first, first), (second, second)
    cross, *own = (_hsic(*pair) for pair in pairs)
    return float(cross / np.sqrt(np.prod(own))) if min(own) > 1e-12 else np.nan


def _hsic(first: np.ndarray, second: np.ndarray) -> float:
    """Return the unbiased HSIC of linear kernels (equation 5 of Song et al.) of centered rows."""
    n, product = len(first), 0.0
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    for start in range(0, n, 8192):  # few rows are in float64 at once
        rows = slice(start, start + 8192)
        product = product + first[rows].astype(np.float64).T @ second[rows]
    # Of centered rows the kernel's sums are those of its diagonal, which the estimator leaves out.
    x, y = ((v**2).sum(axis=1, dtype=np.float64) for v in (first, second))
    total = x.sum() * y.sum() / ((n - 1) * (n - 2))
    return float((product**2).sum() - (x @ y) * n / (n - 2) + total) / (n * (n - 3))


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman correlation of random pairs' cosines in both spaces (Kriegeskorte et al. 2008)."""
    first, second = map(unit, paired(first, second))
    if len(first) < 3:
        return np.nan
    rng = np.random.default_rng(0)
    left = rng.integers(0, len(first), _PAIRS)
    right = (left + rng.integers(1, len(first), _PAIRS)) % len(first)
    cosines = np.empty((_PAIRS, 2))
    for rows in np.array_split(np.arange(_PAIRS), 25):  # all at once would take a gigabyte
        for column, v in enumerate((first, second)):
            cosines[rows, column] = np.einsum("ij,ij->i", v[left[rows]], v[right[rows]])
    if np.ptp(cosines, axis=0).min() < 1e-6:
        return np.nan
    return float(pd.DataFrame(cosines).corr(method="spearman").iloc[0, 1])


def sample(count: int, most: int) -> np.ndarray:
    """Return sorted positions of at most `most` of `count` texts, chosen at random."""
    rng = np.random.default_rng(0)
    return np.sort(rng.choice(count, most, replace=False)) if count > most else np.arange(count)


def _ranks(
    vectors: np.ndarray, pool: np.ndarray, targets: np.ndarray, *, exclude_self: bool
) -> np.ndarray:
    """Return each vector's rank of its target, a row of the pool; 1 is the best."""
    ranks = np.empty(len(vectors), dtype=int)
    size = max(1, ranking.BLOCK_SCORES // len(pool))
    for start in range(0, len(vectors), size):
        rows = slice(start, start + size)
        scores = torch.from_numpy(vectors[rows]) @ torch.from_numpy(pool).T
        target_scores = (vectors[rows] * pool[targets[rows]]).sum(axis=1, keepdims=True)
        # The two products round differently.
        ranks[rows] = (scores.numpy() > target_scores + 1e-6).sum(axis=1)
    # A text that must not find itself has counted itself, unless its target is a duplicate.
    return np.maximum(1, ranks) if exclude_self else 1 + ranks
