"""Kinds of texts: found and named, compared with all other texts, and more texts like them from a pool."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import xxhash

from workbench._util import counted, unit, whole
from workbench.data import Text, as_texts, read_texts
from workbench.errors import WorkbenchError

LEAST_TEXTS = 50
_SMALLEST = 5  # texts; of fewer no interval can be said
_MOST = 40
_DIMENSIONS = 50
_NAMED_FROM = 10_000  # texts that are read for names; reading them keeps Python from other work
_WORDS = r"(?u)\b[^\W\d_]{3,}\b"
_AT_ONCE = 2_048  # texts of a pool that are embedded together
# All are better when higher.
MEASURES = "overlap", "cosine", "ndcg_gain"


def find_regions(
    vectors: np.ndarray, texts: Sequence[str | Text], *, count: int | None = None, seed: int = 0
) -> np.ndarray:
    """Divide texts into kinds by a model's vectors, and name each kind by its words.

    k-means on the unit vectors' first 50 principal components. A name is the two or three words or pairs of words that
    set a region's texts apart (c-TF-IDF, Grootendorst 2022, of the number of texts that have the word); its shortest
    text where it has no words.

    Args:
        vectors: float of shape (n, d), the reference model's.
        texts: the n texts.
        count: number of regions; by default the square root of n / 4, 4 at least and 40 at most.
        seed: of the k-means; the same input gives the same regions.

    Returns:
        Name of each text's region, str objects of shape (n,).

    Raises:
        WorkbenchError: there are fewer than 50 texts or as many regions as texts, or all texts have one vector.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans

    from workbench.agreement import centered_product, principal_axes

    texts = as_texts(texts)
    points = unit(vectors)
    if len(points) != len(texts):
        raise WorkbenchError(f"{len(points):,} vectors were given for {len(texts):,} texts")
    if len(texts) < LEAST_TEXTS:
        raise WorkbenchError(
            f"{len(texts)} texts are too few to find regions in: at least {LEAST_TEXTS} are needed"
        )
    count = min(_MOST, max(4, round((len(texts) / 4) ** 0.5))) if count is None else count
    if not 2 <= count < len(texts):
        raise WorkbenchError(
            f"count is {count}: expected 2 regions or more, and fewer than the {len(texts):,} texts"
        )
    product = centered_product(points, points)
    if np.trace(product) < 1e-6 * len(points):
        raise WorkbenchError("all texts have the same vector, so there are no regions")
    points = (points - points.mean(axis=0)) @ principal_axes(product)[:, :_DIMENSIONS]
    kind = KMeans if len(points) <= 20_000 else MiniBatchKMeans
    labels = kind(count, n_init=3, random_state=seed).fit_predict(points)
    order = np.random.default_rng(seed).permutation(
        len(texts)
    )  # some texts of each region are read
    some = order[pd.Series(order).groupby(labels[order]).head(_NAMED_FROM // count).index]
    return np.asarray(_names([texts[i].text for i in some], labels[some], count), dtype=object)[
        labels
    ]


def _names(texts: list[str], labels: np.ndarray, count: int) -> list[str]:
    """Return a name for each label below `count`."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer

    vectorizer = CountVectorizer(
        token_pattern=_WORDS,
        ngram_range=(1, 2),
        binary=True,
        min_df=2,
        stop_words=list(ENGLISH_STOP_WORDS),
    )
    try:
        found = vectorizer.fit_transform([text[:2000] for text in texts])
    except ValueError:  # no word is in two texts
        return _unlike([_shortest(texts, labels == label) for label in range(count)])
    words = vectorizer.get_feature_names_out()
    sizes = np.bincount(labels, minlength=count)
    inside = np.stack(
        [np.asarray(found[labels == label].sum(axis=0)).ravel() for label in range(count)]
    )
    # A pair of words says more than one word; how much more it counts is by eye.
    pairs = np.array([1.3 if " " in word else 1.0 for word in words])
    weight = (
        inside / np.maximum(sizes, 1)[:, None] * np.log1p(len(texts) / inside.sum(axis=0)) * pairs
    )
    names = []
    for label in range(count):
        chosen: list[str] = []
        for place in np.argsort(-weight[label], kind="stable")[:30]:
            if inside[label, place] < max(2, 0.05 * sizes[label]):
                continue
            stems = {word[:4] for word in words[place].split()}
            if not any(stems & {word[:4] for word in each.split()} for each in chosen):
                chosen.append(words[place])
            if len(" ".join(chosen).split()) >= 3:
                break
        names.append(", ".join(chosen) or _shortest(texts, labels == label))
    return _unlike(names)


def _shortest(texts: list[str], mask: np.ndarray) -> str:
    text = " ".join(min((texts[i] for i in np.flatnonzero(mask)), key=len, default="").split())
    return text[:40] or "(no words)"


def _unlike(names: list[str]) -> list[str]:
    """Return names of which no two are equal."""
    seen: dict[str, int] = {}
    for place, name in enumerate(names):
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            names[place] = f"{name} ({seen[name]})"
    return names


def compare_regions(
    table: pd.DataFrame,
    column: str | Sequence = "region",
    *,
    measures: Sequence[str] | None = None,
    bins: int = 5,
) -> pd.DataFrame:
    """Compare the texts of each region with all other texts, sorted by the upper end of the first measure's interval.

    Intervals are 95 % simultaneous over the regions (Student's t with the larger of the two variances, Bonferroni), so a small
    region rarely comes first by chance. A region is worse than the rest where `high` is below 0. Measures are not corrected
    for each other, and overlaps of texts that share neighbors are not independent.

    Args:
        table: one row a text with measures for which higher is better, such as `overlap` and `cosine` from
            `agreement.per_text`, or `nDCG@10` less the reference's as `ndcg_gain`; NaN where a text has none.
        column: name of the column that says each text's region, or its n values. Floats of more than 10 values, and whole
            numbers of more than 50, are cut into `bins` regions of equal size.
        measures: columns to compare; overlap, cosine and ndcg_gain, those that are there, if None. The first decides
            the order.

    Returns:
        One row a region (index: its name): `texts`, their number, and for each measure its mean, and `MEASURE_difference`, the
        mean less the mean of all other texts, with `MEASURE_low` and `MEASURE_high`, NaN with fewer than 5 known values;
        and `MEASURE_texts`, how many texts have a value, where these are not all.

    Raises:
        WorkbenchError: a column is missing, or there is nothing to compare.
    """
    if isinstance(column, str):
        if column not in table:
            raise WorkbenchError(
                f"the table has no column {column!r}: choose from {', '.join(map(str, table.columns))}"
            )
        groups = table[column]
    else:
        groups = pd.Series(list(column), name="region")
        if len(groups) != len(table):
            raise WorkbenchError(f"{len(groups):,} regions were given for {len(table):,} texts")
    if measures is None:
        measures = [name for name in MEASURES if name in table and table[name].notna().any()]
    for name in measures:
        if name not in table or not pd.api.types.is_numeric_dtype(table[name]):
            raise WorkbenchError(f"the table has no column of numbers {name!r}")
    if not measures:
        raise WorkbenchError(
            f"there is nothing to compare: the table has none of {', '.join(MEASURES)}"
        )
    if pd.api.types.is_numeric_dtype(groups) and groups.nunique() > (
        10 if pd.api.types.is_float_dtype(groups) else 50
    ):
        groups = pd.qcut(groups, bins, duplicates="drop")
    codes, names = pd.factorize(labels(groups), sort=True)
    result = pd.DataFrame({"texts": np.bincount(codes, minlength=len(names))}, index=names)
    for name in measures:
        values = table[name].to_numpy(dtype=float)
        for part, found in _against_the_rest(values, codes, len(names)).items():
            result[f"{name}_{part}" if part else name] = found
        if not np.isfinite(values).all():
            result[f"{name}_texts"] = np.bincount(codes[np.isfinite(values)], minlength=len(names))
    result = result.sort_values([f"{measures[0]}_high", measures[0]], kind="stable")
    return result.rename_axis("region" if groups.name in result else groups.name)


def labels(groups: pd.Series) -> np.ndarray:
    """Return the name of each row's region, str objects of shape (n,)."""
    return groups.astype(object).where(groups.notna(), "(none)").astype(str).to_numpy(dtype=object)


def _against_the_rest(values: np.ndarray, codes: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Return mean, difference and interval of each group."""
    from scipy.special import stdtrit  # scipy.stats, which has it too, takes two seconds to import

    known = np.isfinite(values)
    values, codes = values[known], codes[known]

    def total(of: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(codes, of, count).astype(float)

    inside, sums, squares = total(), total(values), total(values**2)
    outside = len(values) - inside
    with np.errstate(divide="ignore", invalid="ignore"):
        mean, other = sums / inside, (sums.sum() - sums) / outside
        spread = [
            np.maximum(square / n - center**2, 0) * n / (n - 1)
            for square, n, center in (
                (squares, inside, mean),
                (squares.sum() - squares, outside, other),
            )
        ]
        error = np.sqrt(np.maximum(*spread) * (1 / inside + 1 / outside))
        tested = (inside >= _SMALLEST) & (outside >= _SMALLEST)
        error[~tested] = np.nan
        wide = error * stdtrit(
            np.maximum(np.minimum(inside, outside) - 1, 1), 1 - 0.025 / max(1, tested.sum())
        )
    return {
        "": mean,
        "difference": mean - other,
        "low": mean - other - wide,
        "high": mean - other + wide,
    }


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

    The pool is read once, a part at a time. A text's resemblance is its highest cosine to one of `texts`.

    Args:
        texts: those to resemble, such as a region's.
        pool: what `read_texts` takes, or an iterable of texts.
        count: how many to pick; fewer where the pool has no more.
        model: anything that `wb.compare` takes and that embeds: a base model is quick; vectors of a `Teacher` are kept.
        avoid: texts that are evaluated. Neither they, nor `texts`, nor near-duplicates of them are picked; how many of
            the pool were left out for that is said in a warning.
        same: texts of at least this cosine are near-duplicates.

    Returns:
        Texts, most alike first.

    Raises:
        WorkbenchError: there is no text to resemble, the pool is empty, or the model embeds nothing.
    """
    from workbench.evaluate import prepared, vectors

    texts, avoid = as_texts(texts), as_texts(avoid) if avoid is not None and len(avoid) else []
    whole(count, "count")
    if not isinstance(same, Real) or not 0 < same <= 1:
        raise WorkbenchError(f"same is {same!r}: it must be a cosine above 0, 1 at most")
    model = prepared(model, texts)
    if isinstance(model, np.ndarray):
        raise WorkbenchError("vectors cannot embed a pool: give a model or its name")
    wanted = unit(vectors(model, texts))
    known = np.concatenate([wanted, unit(vectors(model, avoid))]) if len(avoid) else wanted
    given = {_bare(text.text) for text in itertools.chain(texts, avoid)}
    seen = set(given)
    best: list[tuple[float, Text, np.ndarray]] = []
    empty, left_out = True, 0
    source = iter(
        pool
        if isinstance(pool, Sequence | Iterator) and not isinstance(pool, str)
        else read_texts(pool)
    )
    while part := list(itertools.islice(source, _AT_ONCE)):
        empty = False
        part = as_texts(part)
        bare = [_bare(text.text) for text in part]
        left_out += sum(each in given for each in bare)
        part = [
            text
            for text, each in zip(part, bare, strict=True)
            if text.text.strip() and not (each in seen or seen.add(each))
        ]
        if not part:
            continue
        found = unit(vectors(model, part))
        for start in range(0, len(found), 512):
            rows = found[start : start + 512]
            fresh = np.flatnonzero((rows @ known.T).max(axis=1) < same)
            left_out += len(rows) - len(fresh)
            alike = (rows[fresh] @ wanted.T).max(axis=1)
            best += [
                (float(a), part[start + i], rows[i].copy())
                for i, a in zip(fresh, alike, strict=True)
            ]
        best = sorted(best, key=lambda one: -one[0])[: 4 * count + _AT_ONCE]
    if empty:
        raise WorkbenchError("the pool has no text")
    if left_out:
        warnings.warn(
            f"{counted(left_out, 'text')} of the pool left out: given to resemble or to avoid, or a near-duplicate of such",
            stacklevel=2,
        )
    picked: list[Text] = []
    kept = np.empty((0, wanted.shape[1]), np.float32)
    for _, text, vector in best:
        if len(picked) == count:
            break
        if not len(kept) or (kept @ vector).max() < same:
            picked.append(text)
            kept = np.concatenate([kept, vector[None]])
    return picked


def _bare(text: str) -> int:
    """Return a hash of a text without case, punctuation and spaces, by which copies are known."""
    return xxhash.xxh3_64_intdigest(
        (re.sub(r"\W+", "", text).casefold() or text).encode("utf-8", "surrogatepass")
    )
