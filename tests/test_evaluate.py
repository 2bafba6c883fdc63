import numpy as np
import pandas as pd
import pytest

from workbench import evaluate, ranking
from workbench.errors import WorkbenchError


def test_search_is_exact_and_in_order():
    rng = np.random.default_rng(0)
    queries, documents = rng.standard_normal((7, 12)), rng.standard_normal((300, 12)) * 5
    scores, positions = ranking.top_k(queries, documents, k=20)
    unit = lambda a: a / np.linalg.norm(a, axis=1, keepdims=True)  # noqa: E731
    full = unit(queries) @ unit(documents).T
    np.testing.assert_array_equal(positions, np.argsort(-full, axis=1)[:, :20])
    np.testing.assert_allclose(scores, np.take_along_axis(full, positions, 1), atol=1e-6)


def test_search_in_blocks_and_with_ties(monkeypatch):
    rng = np.random.default_rng(0)
    queries, documents = rng.standard_normal((9, 4)), np.repeat(rng.standard_normal((5, 4)), 2, axis=0)
    whole = ranking.top_k(queries, documents, 100)[1]
    monkeypatch.setattr(ranking, "_BLOCK_SCORES", 20)
    np.testing.assert_array_equal(ranking.top_k(queries, documents, 100)[1], whole)
    assert (whole[:, 0] % 2 == 0).all()  # of two equal documents the first one leads
    assert ranking.top_k([[1, 0]], np.tile([[1.0, 0.0]], (1000, 1)), k=5)[1].tolist() == [[0, 1, 2, 3, 4]]


def test_scores_by_hand():
    documents = np.eye(4)
    queries = np.array([[1.0, 0.9, 0.1, 0.0], [0.0, 0.0, 0.9, 1.0]])
    qrels = {"a": {"d1": 2, "d2": 1}, "b": {"d0": 1}}
    table = evaluate.score(qrels, ["a", "b"], ["d0", "d1", "d2", "d3"], queries, documents)
    ideal = 2 / np.log2(2) + 1 / np.log2(3)
    assert table.loc["a", "ndcg_at_10"] == pytest.approx((2 / np.log2(3) + 1 / np.log2(4)) / ideal)
    assert table.loc["a", "mrr_at_10"] == pytest.approx(1 / 2)
    # d0 and d1 are equally far from b; the first of the two is ranked third.
    assert table.loc["b", "mrr_at_10"] == pytest.approx(1 / 3)
    assert (table["recall_at_100"] == 1).all()


def test_compare_shares_and_intervals():
    rng = np.random.default_rng(0)
    teacher = pd.DataFrame({m: rng.uniform(0.3, 1, 200) for m in evaluate.MEASURES.values()})
    student = teacher * 0.9
    noisy = teacher * rng.uniform(0.6, 1.2, (200, 1))
    rows = evaluate.summarize({"teacher": teacher, "symmetric": student, "asymmetric": noisy}).set_index("mode")
    assert rows.loc["teacher", "share_of_teacher"] == 1
    # Paired: a student that is 0.9 of its teacher on every query has no uncertainty in its share.
    assert rows.loc["symmetric", ["share_low", "share_of_teacher", "share_high"]].tolist() == pytest.approx([0.9] * 3)
    low, share, high = rows.loc["asymmetric", ["share_low", "share_of_teacher", "share_high"]]
    assert low < share < high and high - low < 0.1
    again = evaluate.summarize({"teacher": teacher, "symmetric": student, "asymmetric": noisy}).set_index("mode")
    pd.testing.assert_frame_equal(rows, again)


def test_a_teacher_that_finds_nothing_has_no_share():
    nothing = pd.DataFrame({m: [0.0, 0.0] for m in evaluate.MEASURES.values()})
    rows = evaluate.summarize({"teacher": nothing, "symmetric": nothing})
    assert rows["share_of_teacher"].isna().all()


@pytest.mark.parametrize(
    ("queries", "documents", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), "not in one space"),
        (np.full((1, 3), np.nan), np.ones((2, 3)), "the first is row 0"),
        (np.ones((1, 3)), np.empty((0, 3)), "n and d at least 1"),
        (np.ones(3), np.ones((2, 3)), r"shape \(n, d\)"),
    ],
)
def test_search_errors(queries, documents, message):
    with pytest.raises(WorkbenchError, match=message):
        ranking.top_k(queries, documents, 100)


def test_score_errors():
    with pytest.raises(WorkbenchError, match="out of step"):
        evaluate.score({}, ["a"], ["d"], np.ones((2, 3)), np.ones((1, 3)))
    one = pd.DataFrame({m: [1.0] for m in evaluate.MEASURES.values()}, index=["a"])
    with pytest.raises(WorkbenchError, match="other queries"):
        evaluate.summarize({"teacher": one, "symmetric": one.rename({"a": "b"})})
