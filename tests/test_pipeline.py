import json
import threading
from dataclasses import asdict

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from tests.conftest import sentences
from workbench import pipeline, student
from workbench._util import PROJECT
from workbench.cache import TargetCache
from workbench.data import Text
from workbench.errors import DataError, ModelError, TrainingError
from workbench.teachers import ArrayTeacher
from workbench.train import TrainingConfig


@pytest.fixture
def tiny(tmp_path, monkeypatch, tiny_model, other_tiny_model):
    """Options of `distill` for tiny models, a few steps, and a folder of its own."""
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    models = {"teacher": str(other_tiny_model), "base": str(tiny_model), "max_length": 40}
    return models | {"epochs": 1, "progress": False, "precision": "float32"}


def test_recipes_can_be_printed_copied_changed_and_read_from_files():
    for name, recipe in pipeline.RECIPES.items():
        assert recipe.name == name and json.loads(json.dumps(asdict(recipe)))["config"]
    changed = pipeline.TOUR.change(learning_rate=1e-6, epochs=3, base=None)
    assert changed.config.final_learning_rate == 1e-6 and changed.base == pipeline.TOUR.base
    assert pipeline.IN_DOMAIN.change(epochs=3).steps == 0  # the passes that were asked for
    assert pipeline.find_recipe(None, 300) is pipeline.IN_DOMAIN
    assert pipeline.find_recipe(None, 9000) is pipeline.TOUR
    paper = pipeline.find_recipe(PROJECT / "recipes" / "redact-ir.toml")
    assert (paper.start, paper.config.precision, paper.config.epochs) == ("random", "float32", 10)
    fast = pipeline.find_recipe(PROJECT / "recipes" / "redact-mt-fast.toml")
    assert fast.config.group_by_length and fast.start == "closed-form" and not fast.bias


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"learning_rat": 1}, "learning_rat"),
        ({"recipe": "turo"}, "tour"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_wrong_changes_are_refused(tiny, changes, word):
    with pytest.raises(TrainingError, match=word):
        pipeline.distill(sentences(30), **tiny | changes)


def test_few_texts_are_passed_over_more_often():
    assert TrainingConfig(batch_size=16, epochs=2, restarts=1).with_steps(1500, 240).epochs == 100
    assert TrainingConfig(batch_size=16, epochs=2, restarts=3).with_steps(1500, 250).epochs == 32
    assert TrainingConfig(epochs=2, restarts=1).with_steps(1500, 1_000_000).epochs == 2


def test_texts_become_a_student_and_the_same_call_returns_it(tiny, monkeypatch):
    texts = sentences(60, seed=8)
    first = pipeline.distill(texts, **tiny)
    assert isinstance(first, SentenceTransformer) and not first.training
    assert first.get_embedding_dimension() == 48
    for name in ("workbench.train.train_student", "workbench.student.fit_head"):
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("made again"))
    again = pipeline.distill(texts, **tiny)
    for name, tensor in first.state_dict().items():
        assert tensor.equal(again.state_dict()[name])
    (folder,) = (pipeline.home() / "students").iterdir()
    provenance = student.read_provenance(folder)
    assert folder.name.startswith("in-domain-") and provenance["finished"]
    assert provenance["base"] == tiny["base"] and provenance["head_fit"]["texts"] > 0
    with pytest.raises(pytest.fail.Exception):
        pipeline.distill(texts, **tiny | {"seed": 1})


def test_plain_strings_and_one_role_are_enough(tiny, tmp_path):
    plain = [f"{text.text} and the garden by the river" for text in sentences(20, seed=8)]
    model = pipeline.distill(plain, **tiny, output=tmp_path / "mine")
    assert model.encode_query(["a garden"]).shape == (1, 48)
    roles = student.read_provenance(tmp_path / "mine")["texts_by_role"]
    assert 15 <= roles["document"] <= 20 and roles["query"] > 20  # cropped from the documents


@pytest.mark.parametrize(("texts", "error"), [(["the same"] * 50, TrainingError), ([], DataError)])
def test_too_few_texts_are_refused(tiny, texts, error):
    with pytest.raises(error):
        pipeline.distill(texts, **tiny)


def test_a_stopped_run_continues_to_the_same_student(tiny, tmp_path):
    texts, stop = sentences(200, seed=8), threading.Event()
    cache = TargetCache(tmp_path / "cache", tiny["teacher"])
    recipe = pipeline.TOUR.change(base=tiny["base"], max_length=40, precision="float32", epochs=2)

    def run(output, **more):
        return pipeline.run(texts, cache, recipe, tmp_path / output, progress=False, **more)

    whole = run("whole")
    stopped = run("parts", stop=stop, on_step=lambda step: step.step == 7 and stop.set())
    assert stopped.result.stopped and not stopped.provenance["finished"]
    done = run("parts")
    assert done.provenance["finished"]
    assert done.provenance["head_fit"] == whole.provenance["head_fit"]
    for name, tensor in whole.student.state_dict().items():
        assert tensor.equal(done.student.state_dict()[name])
    assert not list(tmp_path.glob(".parts*"))
    stop.set()
    with pytest.raises(TrainingError, match="stopped"):
        run("other", stop=stop)


def test_a_damaged_student_is_made_again(tiny, tmp_path, capsys):
    options = tiny | {"output": tmp_path / "mine", "progress": True, "learning_rate": 1.0}
    pipeline.distill(sentences(60, seed=8), **options)
    assert "did not improve" in capsys.readouterr().out
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"cut short")
    with pytest.warns(UserWarning, match="made again"):
        pipeline.distill(sentences(60, seed=8), **options)
    assert student.load(tmp_path / "mine")


def test_existing_vectors_of_documents_are_enough(tiny, tmp_path):
    """No queries are cropped, and a wrong length shows before the cache is filled."""
    texts = [text.text for text in sentences(40)]
    vectors = np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32)
    teacher = ArrayTeacher(vectors, [Text(text) for text in texts])
    model = pipeline.distill(texts, **tiny | {"teacher": teacher})
    assert model.encode_document(texts[:2]).shape == (2, 16)
    teacher = ArrayTeacher(vectors, [Text(text) for text in texts], "other")
    with pytest.raises(ModelError, match="99"):
        pipeline.distill(texts, **tiny | {"teacher": teacher, "max_length": 99})
    assert not list((tmp_path / "home" / "cache").glob("other-*/*.safetensors"))
