import numpy as np
import pytest

from workbench import agreement, evaluate, ranking
from workbench.data import RetrievalDataset
from workbench.quantize import PRECISIONS, CompressedIndex, IndexSpec


def duplicates(kinds=7, copies=9, d=24, seed=0):
    """Unit vectors, each of them in several places."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((kinds, d))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return vectors[rng.permutation(np.repeat(np.arange(kinds), copies))]


def plain(queries, documents, exclude_self=False):
    """Order everything in float64, rounded as float32 scores are, with Python's stable sort."""
    scores = (queries.astype(np.float64) @ documents.T.astype(np.float64)).round(9)
    if exclude_self:
        np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")


@pytest.mark.parametrize("k", [1, 13, 100])
@pytest.mark.parametrize("exclude_self", [False, True])
def test_ties_are_in_document_order_also_at_the_last_place(k, exclude_self, monkeypatch):
    documents = duplicates()
    queries = documents if exclude_self else duplicates(seed=1)[:20]
    most = min(k, len(documents) - exclude_self)
    expected = plain(queries, documents, exclude_self)[:, :most]
    for block in (ranking.BLOCK_SCORES, 300, 1):
        monkeypatch.setattr(ranking, "BLOCK_SCORES", block)
        scores, positions = ranking.top_k(3 * queries, 5 * documents, k, exclude_self=exclude_self)
        np.testing.assert_array_equal(positions, expected)
        assert scores.dtype == np.float32 and (np.diff(scores, axis=1) <= 0).all()


def test_scores_are_exact_and_one_query_finds_what_many_find():
    rng = np.random.default_rng(0)
    queries, documents = rng.standard_normal((7, 12)), rng.standard_normal((300, 12)) * 5
    scores, positions = ranking.top_k(queries, documents, k=20)
    units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, documents)]
    cosines = units[0] @ units[1].T
    np.testing.assert_array_equal(positions, np.argsort(-cosines, axis=1)[:, :20])
    np.testing.assert_allclose(scores, np.take_along_axis(cosines, positions, 1), atol=2e-6)
    alone = np.concatenate([ranking.top_k(query[None], documents, 20)[1] for query in queries])
    np.testing.assert_array_equal(alone, positions)


def test_every_measure_score_and_index_orders_ties_alike():
    documents, k = duplicates(), 13
    queries = documents[[0, 5, 40]]
    expected = plain(queries, documents)[:, :k]
    ids = [f"d{i}" for i in range(len(documents))]
    asked = {f"q{i}": "query" for i in range(3)}
    judgments = {f"q{i}": {ids[expected[i, 9]]: 1} for i in range(3)}
    collection = RetrievalDataset("ties", dict.fromkeys(ids, "text"), asked, judgments)
    # Of equal documents, the one judged relevant is found at its place in the documents' order.
    np.testing.assert_allclose(evaluate.score(collection, queries, documents)["mrr_at_10"], 1 / 10)
    for precision in PRECISIONS:
        positions = CompressedIndex(documents, IndexSpec(precision=precision)).search(queries, k)[1]
        # The copies of the query come first; what follows depends on the precision.
        np.testing.assert_array_equal(positions[:, :9], expected[:, :9])
        assert (np.diff(positions[:, 9:]) > 0).all()
        index = CompressedIndex(documents[:3], IndexSpec(precision=precision))
        assert set(index.search(queries, k)[1][0]) == {0, 1, 2}  # more results than documents
    others = plain(documents, documents, exclude_self=True)[:, :k]
    np.testing.assert_array_equal(agreement.neighbors(documents, k), others)
