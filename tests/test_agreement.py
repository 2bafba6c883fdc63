import numpy as np
import pandas as pd
import pytest

from workbench import agreement
from workbench.errors import WorkbenchError


def cloud(n=400, d=16, seed=0):
    """Clustered unit vectors, as embeddings are."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((8, d))[rng.integers(0, 8, n)] + 0.5 * rng.standard_normal((n, d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def noisy(vectors, amount):
    noise = np.random.default_rng(2).standard_normal(vectors.shape).astype(np.float32)
    moved = vectors + amount * noise
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def test_neighbors_and_ranks_are_those_of_a_plain_sort():
    teacher = cloud(80)
    student = noisy(teacher, 0.3)
    table = agreement.per_text(teacher, student)
    neighbors = agreement.neighbors(teacher, 5)
    for row in range(80):
        nearest, scores = teacher @ teacher[row], student @ student[row]
        nearest[row] = scores[row] = -2
        assert set(neighbors[row]) == set(np.argsort(-nearest)[:5])
        rank = list(np.argsort(-scores)).index(nearest.argmax()) + 1
        assert table["nearest_rank"][row] == rank
    both = agreement.neighbors(teacher), agreement.neighbors(student)
    again = agreement.per_text(teacher, student, both_neighbors=both)
    pd.testing.assert_frame_equal(table, again)


def test_a_model_agrees_with_itself():
    vectors = cloud()
    table = agreement.per_text(vectors, vectors)
    assert np.allclose(table["cosine"], 1, atol=1e-5) and (table["squared_distance"] == 0).all()
    assert (table["overlap"] == 1).all() and (table["nearest_rank"] == 1).all()
    whole = agreement.summary(vectors, vectors, table)["value"]
    assert np.allclose(whole[["cka", "rank_correlation"]], 1)


def test_rotated_is_told_from_different():
    vectors = cloud()
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((16, 16)))[0]
    rotated = agreement.summary(vectors, vectors @ rotation.astype(np.float32))["value"]
    assert rotated["squared_distance"] > 1
    assert np.isclose(rotated["cka"], 1, atol=1e-4) and rotated["overlap"] > 0.99
    other = agreement.summary(vectors, cloud(seed=9))["value"]
    assert other["cka"] < 0.5 and other["overlap"] < 0.2


def test_more_noise_means_less_agreement_by_every_measure():
    vectors = cloud()
    near, far = (agreement.summary(vectors, noisy(vectors, a))["value"] for a in (0.05, 0.3))
    for measure in ("cosine", "overlap", "cka", "rank_correlation"):
        assert near[measure] > far[measure]
    for measure in ("squared_distance", "nearest_rank"):
        assert near[measure] <= far[measure]


def test_formulas_against_their_definitions():
    x, y = cloud(50, 6), cloud(50, 6, seed=5)
    by_hand = hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))
    assert np.isclose(agreement.cka(x, y), by_hand, atol=1e-5)


def hsic(x, y):
    """The unbiased estimator with its n x n kernels, as Song et al. write it."""
    n, ones = len(x), np.ones(len(x))
    k, m = (v.astype(float) @ v.astype(float).T for v in (x, y))
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    total = ones @ k @ ones * (ones @ m @ ones) / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + total - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))


def test_cka_of_unrelated_vectors_is_about_zero_however_few():
    rng = np.random.default_rng(0)
    few = [agreement.cka(*rng.standard_normal((2, 50, 384))) for _ in range(20)]
    assert abs(np.mean(few)) < 0.05


def test_spaces_of_different_widths():
    vectors = cloud(d=24)
    table = agreement.per_text(vectors, vectors[:, :16])
    assert table["cosine"].isna().all() and table["overlap"].notna().all()
    whole = agreement.summary(vectors, vectors[:, :16], table)["value"]
    assert np.isnan(whole["squared_distance"]) and np.isfinite(whole["cka"])


def test_queries_among_documents():
    documents, queries = cloud(300), cloud(20, seed=3)
    table = agreement.per_text(queries, noisy(queries, 0.1), among=(documents, documents), k=5)
    assert len(table) == 20 and table.attrs["k"] == 5 and table["overlap"].between(0, 1).all()


def test_identical_vectors_and_a_single_text():
    same = np.full((30, 8), 0.3, dtype=np.float32)
    values = agreement.summary(same, same)["value"]
    assert values["cosine"] == pytest.approx(1)
    assert values[["cka", "rank_correlation"]].isna().all()
    one = agreement.per_text(same[:1], same[:1])
    assert one["cosine"].item() == pytest.approx(1) and one["overlap"].isna().all()
    assert agreement.summary(same[:1], same[:1])["value"]["squared_distance"] == 0
    assert agreement.per_text(np.zeros((5, 3)), np.zeros((5, 3)))["cosine"].eq(0).all()


def test_bad_input_is_named():
    for student, message in ((np.ones((4, 2)), "3 vectors"), (np.full((3, 2), np.nan), "NaN")):
        with pytest.raises(WorkbenchError, match=message):
            agreement.per_text(np.ones((3, 2)), student)
    for k in (0, 5):
        with pytest.raises(WorkbenchError, match=f"k is {k}"):
            agreement.neighbors(cloud(5), k)
    assert agreement.per_text(cloud(5), cloud(5), k=50).attrs["k"] == 4
