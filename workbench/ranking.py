"""Exact search by cosine, with one rule for ties: equal scores are in the order of the documents."""

from __future__ import annotations

import numpy as np

from workbench._util import unit, whole
from workbench.errors import WorkbenchError

_BLOCK_SCORES = 20_000_000  # scores held at once, 80 MB
# Scores nearer than this are computed again in float64: a float32 product of unit vectors rounds by up to about 5e-7,
# differently for one query and for many, and would order duplicates at random.
_NEAR = 1e-6


def top_k(
    queries: np.ndarray,
    documents: np.ndarray,
    k: int,
    *,
    exclude_self: bool = False,
    normalized: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k documents with the highest cosine for each query, exactly.

    Args:
        queries: float of shape (q, d).
        documents: float of shape (n, d).
        k: number of results for each query; all documents if there are fewer.
        exclude_self: queries and documents are the same rows; no row finds itself.
        normalized: all are float32 and of norm 1 already; they are not checked or copied.

    Returns:
        Scores (float32) and document positions (int64), both of shape (q, min(k, n)), best first. Equal scores are in
        the order of the documents, and of those equal to the k-th score the first documents are returned.

    Raises:
        WorkbenchError: the widths differ, k is below 1, or the arrays are empty or contain NaN.
    """
    import torch

    if not normalized:
        documents = unit(documents, "documents")
        queries = documents if exclude_self else unit(queries, "queries")
    if queries.shape[1] != documents.shape[1]:
        raise WorkbenchError(
            f"queries are {queries.shape[1]} wide and documents {documents.shape[1]}: they are not in one space"
        )
    whole(k, "k")
    count = len(documents) - exclude_self
    k = min(k, count)
    scores = np.empty((len(queries), k), dtype=np.float32)
    positions = np.empty((len(queries), k), dtype=np.int64)
    if not k:
        return scores, positions
    columns = torch.from_numpy(documents).T
    rows = max(1, _BLOCK_SCORES // len(documents))
    for start in range(0, len(queries), rows):
        block = queries[start : start + rows]
        all_scores = torch.from_numpy(block) @ columns
        if exclude_self:
            all_scores[:, start:].fill_diagonal_(-torch.inf)
        best, found = (part.numpy() for part in all_scores.topk(min(k + 1, count), dim=1))
        near = best[:, :-1] - best[:, 1:] < _NEAR  # of each result and the next
        border = np.flatnonzero(near[:, k - 1]) if count > k else np.empty(0, int)
        best, found, near = best[:, :k].copy(), found[:, :k].copy(), near[:, : k - 1]
        _settle(best, found, near, block, documents)
        some = max(1, _BLOCK_SCORES // (4 * len(documents)))
        for part in (border[i : i + some] for i in range(0, len(border), some)):
            near = (all_scores[part] >= torch.from_numpy(best[part, -1:]) - 2 * _NEAR).any(dim=0)
            own = start + part if exclude_self else None
            best[part], found[part] = _search_again(
                block[part], documents, np.flatnonzero(near.numpy()), k, own
            )
        scores[start : start + rows], positions[start : start + rows] = best, found
    return scores, positions


def order(scores: np.ndarray, positions: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best of scores and positions, both of shape (q, m); equal scores are in the order of positions."""
    places = np.lexsort((positions, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, places, 1), np.take_along_axis(positions, places, 1)


def _settle(
    best: np.ndarray,
    found: np.ndarray,
    near: np.ndarray,
    queries: np.ndarray,
    documents: np.ndarray,
) -> None:
    """Compute scores that are near each other again in float64 and put them in order, in place."""
    again = np.zeros(best.shape, dtype=bool)
    again[:, :-1] |= near
    again[:, 1:] |= near
    rows, places = np.nonzero(again)
    for part in (slice(i, i + 8192) for i in range(0, len(rows), 8192)):
        q, d = queries[rows[part]], documents[found[rows[part], places[part]]]
        best[rows[part], places[part]] = (q.astype(np.float64) * d).sum(axis=1)
    if len(rows := np.unique(rows)):
        best[rows], found[rows] = order(best[rows], found[rows], best.shape[1])


def _search_again(
    queries: np.ndarray, documents: np.ndarray, among: np.ndarray, k: int, own: np.ndarray | None
):
    """Search some documents in float64, for queries where documents tie at the k-th place."""
    queries, exact = (
        queries.astype(np.float64),
        np.empty((len(queries), len(among)), dtype=np.float32),
    )
    for part in (slice(i, i + 8192) for i in range(0, len(among), 8192)):
        exact[:, part] = queries @ documents[among[part]].T.astype(np.float64)
    if own is not None:
        exact[own[:, None] == among] = -np.inf
    places = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(exact, places, 1), among[places]
