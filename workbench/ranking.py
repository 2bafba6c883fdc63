"""Exact search by cosine. Equal scores are in the order of the documents."""

import numpy as np
import torch

from workbench._util import unit

BLOCK_SCORES = 20_000_000  # scores held at once, 80 MB
_DECIMALS = 6  # of scores; float32 products differ by up to 5e-7, which would reorder duplicates


def top_k(
    queries: np.ndarray,
    documents: np.ndarray,
    k: int,
    *,
    exclude_self: bool = False,
    normalized: bool = False,
    rows: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k documents with the highest cosine for each query, exactly.

    Vectors are float of shapes (q, d) and (n, d); `normalized` ones are float32 of norm 1, and not
    copied. With `exclude_self` they are the same rows, and no row finds itself. If `rows` are
    given, the document of each vector, int of shape (n,) and sorted, its best vector counts.
    Returns scores (float32, rounded to 1e-6) and positions of documents (int64) of shape
    (q, min(k, n)), best first.
    """
    if not normalized:
        queries, documents = unit(queries, "queries"), unit(documents, "documents")
    names = np.arange(len(documents)) if rows is None else np.unique(rows)
    k = min(k, len(names) - exclude_self)
    scores = np.empty((len(queries), k), dtype=np.float32)
    positions = np.empty((len(queries), k), dtype=np.int64)
    size = max(1, BLOCK_SCORES // len(documents))
    for start in range(0, len(queries), size):
        products = torch.from_numpy(queries[start : start + size]) @ torch.from_numpy(documents).T
        block = products.round_(decimals=_DECIMALS)
        if len(names) < len(documents):
            block = torch.from_numpy(best(block.numpy(), rows))
        if exclude_self:
            block[:, start:].fill_diagonal_(-torch.inf)
        lowest = block.topk(k, dim=1).values[:, -1].numpy()
        for row, row_scores in enumerate(block.numpy()):
            # All documents that tie at the k-th place are candidates: topk picks any of them.
            candidates = np.flatnonzero(row_scores >= lowest[row])
            first = candidates[np.argsort(-row_scores[candidates], kind="stable")[:k]]
            scores[start + row], positions[start + row] = row_scores[first], names[first]
    return scores, positions


def best(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return each document's best score, of scores (q, n) and their documents, (n,) and sorted."""
    return np.maximum.reduceat(scores, np.unique(rows, return_index=True)[1], axis=1)


def order(scores: np.ndarray, positions: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best of scores and positions, both of shape (q, m), ordered as by `top_k`."""
    scores = scores.round(_DECIMALS)
    places = np.lexsort((positions, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, places, 1), np.take_along_axis(positions, places, 1)
