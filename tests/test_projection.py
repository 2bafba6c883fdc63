import threading

import numpy as np
import pytest
from scipy.stats import spearmanr

from workbench import agreement, projection

RNG = np.random.default_rng(0)
TOPICS = RNG.standard_normal((12, 24))[RNG.integers(0, 12, 400)]
TEACHER = 2 * TOPICS + RNG.standard_normal((400, 24))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A map of the teacher, and the folder where it is kept: each fit takes a while."""
    folder = tmp_path_factory.mktemp("maps")
    return projection.umap(TEACHER, folder=folder), folder


def test_pca_is_the_plane_of_largest_variance():
    drawn = projection.pca(TEACHER)
    unit = TEACHER / np.linalg.norm(TEACHER, axis=1, keepdims=True)
    values = np.linalg.svd(unit - unit.mean(axis=0), compute_uv=False)[:2]
    assert np.allclose(np.linalg.norm(drawn.points, axis=0), values, atol=1e-3)
    assert drawn.method == "PCA" and drawn.points.shape == (400, 2) and drawn.landings is None


def test_umap_is_kept_and_repeatable(fitted):
    first, folder = fitted
    (path,) = folder.iterdir()
    written = path.stat().st_mtime_ns
    assert first.method == "UMAP" and np.isfinite(first.points).all()
    assert np.array_equal(projection.umap(TEACHER, folder=folder).points, first.points)
    assert path.stat().st_mtime_ns == written
    path.write_bytes(b"damaged")
    assert np.array_equal(projection.umap(TEACHER, folder=folder).points, first.points)


def test_a_text_lands_among_its_neighbors_for_the_other_model():
    drawn = projection.TextMap(np.array([[0, 0], [2, 0], [0, 2], [8, 8]], np.float32), "PCA")
    first = np.array([[1, 2], [0, 2], [0, 1], [1, 2]])
    landed = drawn.landed(first, np.array([[2, 1], [0, 3], [3, 1], [2, 1]]))
    # The same neighbors in any order: at home. Half of them strangers: halfway to them.
    np.testing.assert_allclose(landed.landings, [[0, 0], [5, 4], [4, 5], [8, 8]], rtol=1e-6)
    # Strangers on two sides: as far as they are in the mean, not the mean of their places.
    points = np.array([[0, 0], [3, 0], [-1, 0], [9, 9], [8, 9]], np.float32)
    two = projection.TextMap(points, "PCA").landed(np.array([[3, 4]] * 5), np.array([[1, 2]] * 5))
    np.testing.assert_allclose(two.landings[0], [2, 0], rtol=1e-6)


def test_the_length_of_a_line_follows_the_loss_of_neighbors(fitted):
    """Noise of many sizes on texts of twelve topics."""
    rng = np.random.default_rng(1)
    student = TEACHER + rng.uniform(0, 3, (400, 1)) * rng.standard_normal(TEACHER.shape)
    near = [agreement.neighbors(vectors, 10) for vectors in (TEACHER, student)]
    lengths = np.linalg.norm(fitted[0].landed(*near).landings - fitted[0].points, axis=1)
    assert spearmanr(lengths, 1 - agreement.overlap(*near)).statistic > 0.6


def test_a_fit_can_be_stopped(tmp_path):
    stop = threading.Event()
    stop.set()
    assert projection.umap(TEACHER, folder=tmp_path, stop=stop) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("vectors", [np.ones((40, 8)), np.ones((1, 4)), RNG.random((3, 5))])
def test_what_makes_no_neighborhoods_is_drawn_by_pca(vectors, tmp_path):
    drawn = projection.umap(vectors, folder=tmp_path)
    assert drawn.method == "PCA" and np.isfinite(drawn.points).all()


@pytest.mark.slow
def test_duplicates_do_not_kill_umap(tmp_path):
    vectors = np.repeat(RNG.standard_normal((4, 8)), 10, axis=0)
    assert np.isfinite(projection.umap(vectors, folder=tmp_path).points).all()
