import numpy as np
import pytest
import torch
from conftest import sentences

from workbench import student
from workbench.cache import TargetCache
from workbench.data import Role, StoredTexts, Text
from workbench.errors import DataError
from workbench.train import TrainingConfig, train_student

TEXTS = [*sentences(40), Text("", Role.QUERY), Text("é\n🙂", Role.DOCUMENT)]


def test_stored_texts_are_a_sequence_like_the_list(tmp_path):
    stored = StoredTexts.write(iter(TEXTS), tmp_path / "new" / "texts.arrow")
    assert list(stored) == TEXTS and len(stored) == 42
    assert stored[-1] == TEXTS[-1] and stored[3:9:2] == TEXTS[3:9:2]
    assert stored[np.int64(4)] == TEXTS[4] and TEXTS[41] in stored
    subset = stored.subset(np.array([7, 41, 0, 7]))
    assert list(subset) == [TEXTS[i] for i in (7, 41, 0, 7)] and subset[-3] == TEXTS[41]
    assert list(subset.subset(np.array([1, 3]))) == [TEXTS[41], TEXTS[7]]
    for index in (4, -5):
        with pytest.raises(IndexError):
            subset[index]
    (tmp_path / "new" / "texts.arrow").unlink()
    assert stored[41] == TEXTS[41], "what is mapped stays readable"
    assert list(StoredTexts.write([], tmp_path / "none.arrow")) == []


def test_a_stream_that_fails_leaves_the_earlier_file(tmp_path):
    StoredTexts.write(TEXTS[:3], tmp_path / "texts.arrow")
    with pytest.raises(DataError, match="user"):
        StoredTexts.write((Text("x", role) for role in ("query", "user")), tmp_path / "texts.arrow")
    assert len(list(tmp_path.iterdir())) == 1
    assert list(StoredTexts(tmp_path / "texts.arrow")) == TEXTS[:3]


def test_cache_and_training_do_with_stored_texts_what_they_do_with_a_list(
    tmp_path, tiny_model, hash_teacher
):
    texts = sentences(260)
    stored = StoredTexts.write(texts, tmp_path / "texts.arrow")
    cache = TargetCache(tmp_path / "cache", hash_teacher)
    cache.fill(stored)
    assert (cache.keys(stored) == cache.keys(texts)).all() and not cache.missing(texts)
    states = []
    for source in (texts, stored):
        model = student.build(tiny_model, 16, max_length=24, normalize=False, device="cpu")
        # Targets are noise to the student, but for a direction that the check can find.
        targets = cache.targets(source)[:] * 0.01 + np.array([[len(t.text)] for t in texts]) / 100
        config = TrainingConfig(batch_size=16, epochs=1, restarts=1, precision="float32")
        train_student(model, source, targets.astype(np.float32), config)
        states.append(model.state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name])
