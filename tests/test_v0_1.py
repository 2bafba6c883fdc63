"""What version 0.1 wrote still opens: a cache, a student, two indexes."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import sentences
from workbench import quantize, student
from workbench.cache import TargetCache
from workbench.teachers import LocalTeacher

WRITTEN = Path(__file__).parent / "v0.1"
TEXTS = sentences(40)


@pytest.fixture
def old(tmp_path):
    return Path(shutil.copytree(WRITTEN, tmp_path / "v0.1"))


def test_a_cache_opens_with_nothing_missing(old):
    teacher = LocalTeacher(str(old / "teacher"), max_length=40, precision="float32", device="cpu")
    stated = next((old / "cache").glob("*/identity.json")).read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache = TargetCache(old / "cache", teacher)
        assert not cache.missing(TEXTS) and cache.fill(TEXTS).hits == 40
        targets = cache.targets(TEXTS)[:]
    assert (
        next((old / "cache").glob("*/identity.json")).read_bytes() == stated
        and len(list((old / "cache").iterdir())) == 1
    )
    made = np.concatenate([teacher.encode([text.text], text.role) for text in TEXTS])
    np.testing.assert_allclose(targets, made, atol=1e-3)


def test_a_student_loads_and_gives_the_same_vectors(old):
    model = student.load(old / "student", device="cpu")
    vectors = model.encode_document([text.text for text in TEXTS[:5]])
    np.testing.assert_allclose(vectors, np.load(old / "student-vectors.npy"), atol=1e-5)
    assert student.read_provenance(old / "student")["teacher_name"]


@pytest.mark.parametrize(
    "precision, first", [("int8", [0, 1, 2, 3, 4]), ("binary", [0, 9, 2, 3, 4])]
)
def test_an_index_loads_and_searches(old, precision, first):
    index = quantize.CompressedIndex.load(old / f"index-{precision}.safetensors")
    assert len(index) == 40 and index.width == 16
    teacher = LocalTeacher(str(old / "teacher"), max_length=40, precision="float32", device="cpu")
    space = TargetCache(old / "cache", teacher).identity
    scores, positions = index.search(np.load(old / "student-vectors.npy"), 3, space=space)
    assert scores.shape == (5, 3) and positions[:, 0].tolist() == first
    np.testing.assert_allclose(scores[:, 0], {"int8": 1, "binary": 0.785}[precision], atol=0.03)
