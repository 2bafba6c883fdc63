"""Kinds of texts: found and named, compared with all other texts, and more texts like them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from workbench._util import unit, whole
from workbench.data import Text, as_texts, read_texts
from workbench.errors import WorkbenchError

LEAST_TEXTS = 50
_SMALLEST = 5  # texts of a region; of fewer no interval can be said
_NAMED_FROM = 10_000  # texts that are read for names; reading them keeps Python from other work
_AT_ONCE = 2_048  # texts of a pool that are embedded together
# All are better when higher.
MEASURES = "overlap", "cosine", "ndcg_gain"


def find_regions(
    vectors: np.ndarray, texts: Sequence[str | Text], *, count: int | None = None, seed: int = 0
) -> np.ndarray:
    """Divide texts into kinds by a model's vectors, and name each kind by its words.

    k-means on the unit vectors' first 50 principal components. A name is the two or three words or
    pairs of words that set a region's texts apart (c-TF-IDF, Grootendorst 2022, of the number of
    texts that have the word); its shortest text where it has no words.

    Args:
        vectors: float of shape (n, d), the reference model's.
        texts: the n texts.
        count: number of regions; by default the square root of n / 4, 4 at least and 40 at most.
        seed: of the k-means; the same input gives the same regions.

    Returns:
        Name of each text's region, str objects of shape (n,).

    Raises:
        WorkbenchError: there are fewer than 50 texts, or all have one vector.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.decomposition import PCA

    texts, points = as_texts(texts), unit(vectors)
    if len(points) != len(texts):
        raise WorkbenchError(f"{len(points):,} vectors were given for {len(texts):,} texts")
    if len(texts) < LEAST_TEXTS:
        raise WorkbenchError(
            f"{len(texts)} texts are too few to find regions: give {LEAST_TEXTS} or more"
        )
    if points.var(axis=0).sum() < 1e-6:
        raise WorkbenchError("all texts have the same vector, so there are no regions")
    if count is None:
        count = min(40, max(4, round((len(texts) / 4) ** 0.5)))
    points = PCA(min(50, *points.shape), random_state=seed).fit_transform(points)
    algorithm = KMeans if len(points) <= 20_000 else MiniBatchKMeans
    codes = algorithm(count, n_init=3, random_state=seed).fit_predict(points)
    order = pd.Series(np.random.default_rng(seed).permutation(len(texts)))
    read = order[order.groupby(codes[order]).cumcount() < _NAMED_FROM // count].to_numpy()
    names = _names([texts[row].text for row in read], codes[read], count)
    return np.array(names, dtype=object)[codes]


def _names(texts: list[str], codes: np.ndarray, count: int) -> list[str]:
    """Return a different name for each region."""
    from sklearn.feature_extraction.text import CountVectorizer

    words, inside = np.array([], dtype=object), np.zeros((count, 0))
    vectorizer = CountVectorizer(
        token_pattern=r"(?u)\b[^\W\d_]{3,}\b",
        ngram_range=(1, 2),
        binary=True,
        min_df=2,
        stop_words="english",
    )
    with contextlib.suppress(ValueError):  # no word is in two texts
        counts = vectorizer.fit_transform([text[:2000] for text in texts])
        words = vectorizer.get_feature_names_out()
        inside = np.stack(
            [np.asarray(counts[codes == code].sum(axis=0))[0] for code in range(count)]
        )
    sizes = np.bincount(codes, minlength=count)
    # A pair of words says more than one word; how much more it counts is by eye.
    pairs = np.array([1.3 if " " in word else 1.0 for word in words])
    rarity = np.log1p(len(texts) / inside.sum(axis=0)) * pairs
    names: list[str] = []
    for code in range(count):
        chosen: list[str] = []
        stems: set[str] = set()
        for place in np.argsort(-inside[code] * rarity, kind="stable")[:30]:
            new_stems = {word[:4] for word in words[place].split()}
            common = inside[code, place] >= max(2, 0.05 * sizes[code])
            if common and len(stems) < 3 and not stems & new_stems:
                chosen.append(words[place])
                stems |= new_stems
        shortest = min((texts[row] for row in np.flatnonzero(codes == code)), key=len, default="")
        name = ", ".join(chosen) or " ".join(shortest.split())[:40] or "(no words)"
        names.append(name)
    # The second region of a name gets a number.
    return [
        f"{name} ({names[:code].count(name) + 1})" if name in names[:code] else name
        for code, name in enumerate(names)
    ]


def compare_regions(
    table: pd.DataFrame,
    column: str | Sequence = "region",
    *,
    measures: Sequence[str] | None = None,
    bins: int = 5,
) -> pd.DataFrame:
    """Compare the texts of each region with all other texts, the worst first.

    Intervals are 95 % simultaneous over the regions (Student's t with the larger of the two
    variances, Bonferroni), so a small region rarely comes first by chance. A region is worse than
    the rest where `high` is below 0. Measures are not corrected for each other, and overlaps of
    texts that share neighbors are not independent.

    Args:
        table: one row a text with measures for which higher is better, such as `overlap` and
            `cosine` from `agreement.per_text`, or `nDCG@10` less the reference's as `ndcg_gain`;
            NaN where a text has none.
        column: name of the column that says each text's region, or its n values. Floats of more
            than 10 values, and whole numbers of more than 50, are cut into `bins` equal regions.
        measures: columns to compare; those of `MEASURES` that are there if None. The first decides
            the order, by the upper end of its interval.

    Returns:
        One row a region (index: its name): `texts`, their number, and for each measure its mean,
        and `MEASURE_difference`, the mean less the mean of all other texts, with `MEASURE_low` and
        `MEASURE_high`, NaN with fewer than 5 values; and `MEASURE_texts`, how many texts have a
        value, where these are not all.

    Raises:
        WorkbenchError: there is no such column, or nothing to compare.
    """
    if measures is None:
        measures = [name for name in MEASURES if name in table and table[name].notna().any()]
    needed = [*measures, column] if isinstance(column, str) else measures
    if not measures or not set(needed) <= set(table.columns):
        raise WorkbenchError(
            f"the table has {', '.join(map(str, table.columns))}: "
            f"nothing to compare by {', '.join(needed) or ', '.join(MEASURES)}"
        )
    groups = table[column] if isinstance(column, str) else pd.Series(list(column), name="region")
    most = 10 if pd.api.types.is_float_dtype(groups) else 50
    if pd.api.types.is_numeric_dtype(groups) and groups.nunique() > most:
        groups = pd.qcut(groups, bins, duplicates="drop")
    names = labels(groups)
    result = pd.DataFrame({"texts": pd.Series(names).value_counts().sort_index()})
    for measure in measures:
        values = pd.Series(table[measure].to_numpy(dtype=float)).where(np.isfinite)
        result = result.join(_against_the_rest(values, names).add_prefix(f"{measure}_"))
        if values.notna().all():
            result = result.drop(columns=f"{measure}_texts")
    result = result.rename(columns={f"{measure}_mean": measure for measure in measures})
    result = result.sort_values([f"{measures[0]}_high", measures[0]], kind="stable")
    return result.rename_axis("region" if groups.name in result else groups.name)


def labels(groups: pd.Series) -> np.ndarray:
    """Return the name of each row's region, str objects of shape (n,)."""
    return groups.astype(object).where(groups.notna(), "(none)").astype(str).to_numpy(dtype=object)


def _against_the_rest(values: pd.Series, names: np.ndarray) -> pd.DataFrame:
    """Return mean, difference, interval and number of values of each region."""
    from scipy.special import stdtrit  # scipy.stats, which has it too, takes two seconds to import

    parts = pd.DataFrame({"texts": values.notna(), "sum": values, "square": values**2})
    inside = parts.groupby(names).sum()
    outside = inside.sum() - inside
    means, variances = [], []
    for side in (inside, outside):
        mean = side["sum"] / side["texts"]
        spread = side["square"] - side["texts"] * mean**2
        means.append(mean)
        variances.append(spread.clip(lower=0) / (side["texts"] - 1))
    smaller = np.minimum(inside["texts"], outside["texts"])
    tested = smaller >= _SMALLEST
    error = np.sqrt(np.maximum(*variances) * (1 / inside["texts"] + 1 / outside["texts"]))
    quantile = stdtrit(smaller.clip(lower=2) - 1, 1 - 0.025 / max(1, tested.sum()))
    width = (error * quantile).where(tested)
    difference = means[0] - means[1]
    ends = {"low": difference - width, "high": difference + width}
    columns = {"mean": means[0], "difference": difference, **ends, "texts": inside["texts"]}
    return pd.DataFrame(columns)


def more_like(
    texts: Sequence[str | Text],
    pool: Any,
    count: int,
    model: Any,
    *,
    avoid: Sequence[str | Text] = (),
    same: float = 0.95,
) -> list[Text]:
    """Pick texts from a pool that resemble others, without near-duplicates.

    A text's resemblance is its highest cosine to one of `texts`.

    Args:
        texts: those to resemble, such as a region's.
        pool: what `read_texts` takes.
        count: how many to pick, most alike first; fewer where the pool has no more.
        model: any model that `wb.compare` takes: a base model is quick; a `Teacher`'s are kept.
        avoid: texts that are evaluated. Neither they, nor `texts`, nor near-duplicates of them are
            picked.
        same: texts of at least this cosine are near-duplicates.
    """
    from workbench.evaluate import prepared, vectors

    texts, pool = as_texts(texts), read_texts(pool)
    whole(count, "count")
    model = prepared(model, texts)
    targets = unit(vectors(model, texts))
    taken = targets
    if len(avoid):
        taken = np.concatenate([targets, unit(vectors(model, as_texts(avoid)))])
    best: list[tuple[float, Text, np.ndarray]] = []
    for start in range(0, len(pool), _AT_ONCE):
        part = pool[start : start + _AT_ONCE]
        candidates = unit(vectors(model, part))
        resemblance = (candidates @ targets.T).max(axis=1)
        for row in np.flatnonzero((candidates @ taken.T).max(axis=1) < same):
            best.append((float(resemblance[row]), part[row], candidates[row].copy()))
        # More are kept than are picked, as some are near-duplicates of each other.
        best = sorted(best, key=lambda candidate: -candidate[0])[: 4 * count + _AT_ONCE]
    picked: list[Text] = []
    for _, text, vector in best:
        if len(picked) < count and (taken @ vector).max() < same:
            picked.append(text)
            taken = np.concatenate([taken, vector[None]])
    return picked
