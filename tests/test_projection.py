import threading

import numpy as np
import pytest

from workbench import projection
from workbench.errors import WorkbenchError

RNG = np.random.default_rng(0)
TEACHER = RNG.standard_normal((60, 12)).astype(np.float32)
STUDENT = TEACHER + 0.2 * RNG.standard_normal((60, 12)).astype(np.float32)


def test_pca_is_the_plane_of_largest_variance():
    drawn = projection.pca(TEACHER, STUDENT)
    both = np.concatenate([v / np.linalg.norm(v, axis=1, keepdims=True) for v in (TEACHER, STUDENT)])
    values = np.linalg.svd(both - both.mean(axis=0), compute_uv=False)[:2]
    points = np.concatenate([drawn.teacher, drawn.student])
    assert np.allclose(np.linalg.norm(points - points.mean(axis=0), axis=0), values, atol=1e-3)
    assert drawn.method == "PCA" and drawn.teacher.shape == (60, 2)


def test_umap_is_repeatable_kept_and_tells_its_progress(tmp_path):
    shares = []
    first = projection.umap(TEACHER, STUDENT, folder=tmp_path / "a", on_progress=shares.append)
    again = projection.umap(TEACHER, STUDENT, folder=tmp_path / "b")
    assert first.method == "UMAP" and np.array_equal(first.teacher, again.teacher)
    assert shares == sorted(shares) and shares[-1] > 0.9
    kept = list((tmp_path / "a").iterdir())
    assert [path.suffix for path in kept] == [".safetensors"]
    written = kept[0].stat().st_mtime_ns
    projection.umap(TEACHER, STUDENT, folder=tmp_path / "a")
    assert kept[0].stat().st_mtime_ns == written
    kept[0].write_bytes(b"damaged")
    assert np.array_equal(projection.umap(TEACHER, STUDENT, folder=tmp_path / "a").student, first.student)


def test_a_fit_can_be_stopped(tmp_path):
    stop = threading.Event()
    stop.set()
    assert projection.umap(TEACHER, STUDENT, folder=tmp_path, stop=stop) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("vectors", [np.ones((40, 8)), np.ones((1, 4)), RNG.random((3, 5)), np.zeros((9, 3))])
def test_what_makes_no_neighborhoods_is_drawn_by_pca(vectors, tmp_path):
    drawn = projection.umap(vectors, vectors, folder=tmp_path)
    assert drawn.method == "PCA" and np.isfinite(drawn.teacher).all() and np.isnan(drawn.displacement_correlation)


def test_duplicates_do_not_kill_umap(tmp_path):
    vectors = np.repeat(RNG.standard_normal((4, 8)), 10, axis=0)
    assert np.isfinite(projection.umap(vectors, vectors, folder=tmp_path).student).all()


def test_two_spaces_have_no_joint_map():
    with pytest.raises(WorkbenchError, match="12 wide and the student's 6"):
        projection.pca(TEACHER, STUDENT[:, :6])
