"""Kinds of texts: found, named and compared with all other texts."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from workbench._util import unit
from workbench.data import Text, as_texts
from workbench.errors import WorkbenchError

_NAMED_FROM = 10_000  # texts that are read for names
MEASURES = "overlap", "cosine", "ndcg_gain"  # all are better when higher


def find_regions(
    vectors: np.ndarray, texts: Sequence[str | Text], *, count: int | None = None
) -> np.ndarray:
    """Divide texts into kinds by k-means on a model's vectors, and return each text's kind.

    Its name is the words that set it apart (c-TF-IDF, Grootendorst 2022) or its shortest text.
    Vectors are float of shape (n, d), n at least 50; `count` is by default from 4 to 40.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.decomposition import PCA

    texts, points = as_texts(texts), unit(vectors)
    if len(points) != len(texts):
        raise WorkbenchError(f"{len(points):,} vectors for {len(texts):,} texts")
    if len(texts) < 50:
        raise WorkbenchError(f"{len(texts)} texts are too few for regions: give 50 or more")
    count = count or min(40, max(4, round((len(texts) / 4) ** 0.5)))
    points = PCA(min(50, *points.shape), random_state=0).fit_transform(points)
    algorithm = KMeans if len(points) <= 20_000 else MiniBatchKMeans
    codes = algorithm(count, n_init=3, random_state=0).fit_predict(points)
    order = pd.Series(np.random.default_rng(0).permutation(len(texts)))
    read = order[order.groupby(codes[order]).cumcount() < _NAMED_FROM // count].to_numpy()
    names = _names([texts[row].text for row in read], codes[read], count)
    return np.array(names, dtype=object)[codes]


def _names(texts: list[str], codes: np.ndarray, count: int) -> list[str]:
    """Return a different name for each region."""
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(
        token_pattern=r"(?u)\b[^\W\d_]{3,}\b",
        ngram_range=(1, 2),
        binary=True,
        min_df=2,
        stop_words="english",
    )
    try:
        counts = vectorizer.fit_transform([text[:2000] for text in texts])
        words = vectorizer.get_feature_names_out()
    except ValueError:  # no word is in two texts
        counts, words = np.zeros((len(texts), 0)), []
    inside = np.stack([np.ravel(counts[codes == code].sum(axis=0)) for code in range(count)])
    # A pair of words says more than one word; how much more is by eye.
    pairs = np.array([1.3 if " " in word else 1.0 for word in words])
    rarity = np.log1p(len(texts) / inside.sum(axis=0)) * pairs
    names = []
    for code in range(count):
        members = np.flatnonzero(codes == code)
        chosen, stems = [], set()
        for place in np.argsort(-inside[code] * rarity, kind="stable")[:30]:
            new_stems = {word[:4] for word in words[place].split()}
            is_common = inside[code, place] >= max(2, 0.05 * len(members))
            if is_common and len(stems) < 3 and not stems & new_stems:
                chosen.append(words[place])
                stems |= new_stems
        shortest = min((texts[row] for row in members), key=len, default="")
        names.append(", ".join(chosen) or " ".join(shortest.split())[:40] or "(no words)")
    for code in reversed(range(count)):  # the second region of a name gets a number
        if earlier := names[:code].count(names[code]):
            names[code] += f" ({earlier + 1})"
    return names


def compare_regions(table: pd.DataFrame, column: str | Sequence = "region") -> pd.DataFrame:
    """Compare the texts of each region with all other texts, the worst first.

    Intervals are 95 % over all regions together (Student's t with the larger variance, Bonferroni).
    A region is worse than the rest where `high` is below 0.

    Args:
        table: one row a text with some of `MEASURES`, the first of which decides the order.
        column: name of the column of regions, or its n values.

    Returns:
        One row a region (index: its name): `texts`, their number, and each measure's mean, its
        `_difference` from all other texts, `_low` and `_high`; NaN with fewer than 5 values.
    """
    measures = [name for name in MEASURES if name in table and table[name].notna().any()]
    if not measures or (isinstance(column, str) and column not in table):
        raise WorkbenchError(f"the table has {list(table)}: nothing to compare by {column}")
    groups = table[column] if isinstance(column, str) else pd.Series(list(column), name="region")
    names = labels(groups)
    result = pd.DataFrame({"texts": pd.Series(names).value_counts().sort_index()})
    for measure in measures:
        values = pd.Series(table[measure].to_numpy(dtype=float)).where(np.isfinite)
        mean, difference, width = _against_the_rest(values, names)
        result[measure], result[f"{measure}_difference"] = mean, difference
        result[f"{measure}_low"] = difference - width
        result[f"{measure}_high"] = difference + width
    result = result.sort_values([f"{measures[0]}_high", measures[0]], kind="stable")
    return result.rename_axis("region" if groups.name in result else groups.name)


def labels(groups: pd.Series) -> np.ndarray:
    """Return each row's region as str, objects of shape (n,)."""
    return groups.astype(object).where(groups.notna(), "(none)").astype(str).to_numpy(dtype=object)


def _against_the_rest(values: pd.Series, names: np.ndarray) -> tuple[pd.Series, ...]:
    """Return each region's mean, its difference, and half the width of the interval."""
    from scipy.special import stdtrit  # scipy.stats, which has it too, takes two seconds to import

    sums = pd.DataFrame({"texts": values.notna(), "sum": values, "square": values**2})
    inside = sums.groupby(names).sum()
    outside = inside.sum() - inside
    for side in (inside, outside):
        side["mean"] = side["sum"] / side["texts"]
        squares = (side["square"] - side["texts"] * side["mean"] ** 2).clip(lower=0)
        side["variance"] = squares / (side["texts"] - 1)
    smaller = np.minimum(inside["texts"], outside["texts"])
    tested = smaller >= 5
    variance = np.maximum(inside["variance"], outside["variance"])
    error = np.sqrt(variance * (1 / inside["texts"] + 1 / outside["texts"]))
    quantile = stdtrit(smaller.clip(lower=2) - 1, 1 - 0.025 / max(1, tested.sum()))
    difference = inside["mean"] - outside["mean"]
    return inside["mean"], difference, (error * quantile).where(tested)
