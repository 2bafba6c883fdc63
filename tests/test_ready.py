"""The student that comes with the package: whole or refused, and the start of a student of one's own texts."""

import json

import numpy as np
import pytest
from conftest import sentences
from test_train import build

import workbench as wb
from bench import ready as bench
from workbench import models, pipeline, ready, student
from workbench._util import home
from workbench.cache import TargetCache
from workbench.cli import main
from workbench.errors import ModelError, TrainingError, WorkbenchError
from workbench.models import encode
from workbench.pipeline import ADAPT
from workbench.student import FrozenFeatures, through_head
from workbench.teachers import Teacher
from workbench.train import provenance


@pytest.fixture
def small(tiny_model, other_tiny_model, tmp_path, monkeypatch):
    """A small ready student, its folder and the cache of its teacher."""
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    cache = TargetCache(tmp_path / "home" / "cache", Teacher(other_tiny_model, max_length=40))
    texts = sentences(200, seed=1)
    cache.fill(texts)
    model = build(tiny_model, hidden=16, pooling=("mean", "cls"))
    student.fit_head(model, texts, cache.targets(texts), kind="rotation")
    about = provenance(cache, texts, base=str(tiny_model), source="sentences")
    return model, bench.save_ready(model, tmp_path / "ready", about), cache


def test_what_is_written_is_read_and_what_was_altered_is_refused(small, other_tiny_model):
    model, folder, _ = small
    assert sorted(path.name for path in folder.iterdir()) == ["head.safetensors", "provenance.json"]
    loaded, texts = ready.load_ready(folder, device="cpu"), sentences(20)
    vectors = [encode(one, texts, precision="float32") for one in (model, loaded)]
    assert (vectors[0] * vectors[1]).sum(axis=1).min() > 0.9999  # the head is kept in int8
    assert bench.build_options(loaded) == bench.build_options(model)
    head, about = folder / "head.safetensors", folder / "provenance.json"
    content, statement = head.read_bytes(), json.loads(about.read_text())
    head.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    with pytest.raises(ModelError, match="altered"):
        ready.load_ready(folder)
    head.write_bytes(content)
    changed_build = statement["build"] | {"normalize": False}
    for change in ({"base": str(other_tiny_model)}, {"build": changed_build}):
        about.write_text(json.dumps(statement | change))
        with pytest.raises(ModelError):
            ready.load_ready(folder)
    about.write_text(json.dumps(statement))
    head.unlink()
    with pytest.raises(ModelError, match="head.safetensors"):
        ready.load_ready(folder)


def test_a_closed_form_leaves_the_base_and_is_found_again(small, tiny_model, monkeypatch):
    *_, cache = small
    texts = sentences(300, seed=5)
    recipe = ADAPT.change(base=str(tiny_model), max_length=40, hidden=16, others=0)
    made = pipeline.run(texts, cache, recipe, progress=False)
    assert made.result is None and made.provenance["settings"] is None
    base = models.load_model(tiny_model, device="cpu")[0].state_dict()
    for name, tensor in made.student[0].state_dict().items():
        assert np.array_equal(base[name], tensor.cpu())
    monkeypatch.setattr(student, "fit_head", None)
    pipeline.run(texts, cache, recipe, progress=False)  # finished, and loaded
    with pytest.raises(TrainingError, match="epochs: recipe adapt does not train"):
        recipe.change(epochs=3)


def test_a_student_goes_on_from_another_one(small, tiny_model, tmp_path):
    model, alone, cache = small
    about = provenance(cache, sentences(10), base="a/base-that-is-gone", source="sentences")
    folder = student.save(model, tmp_path / "student", about)
    texts = sentences(300, seed=6)
    recipe = ADAPT.change(start=folder, texts=20, epochs=3, batch_size=32)
    for start in (folder, alone):  # a whole student, and a head alone
        made = pipeline.run(texts, cache, recipe.change(start=str(start)), progress=False)
        losses = made.result.history["loss"]
        assert losses[-10:].mean() < losses[1:11].mean()
    with pytest.raises(TrainingError):  # of another teacher
        pipeline.run(texts, TargetCache(tmp_path, Teacher(tiny_model)), recipe, progress=False)
    with pytest.raises(TrainingError, match="hidden, max_length"):
        recipe.change(hidden=16, max_length=48)


def test_adapt_serves_any_teacher_and_the_ready_student_its_own(
    small, tiny_model, other_tiny_model, capsys
):
    texts, teacher = sentences(30), Teacher(other_tiny_model, max_length=40)
    with pytest.raises(WorkbenchError, match="all-mpnet-base-v2"):
        wb.search(texts[:10], documents=teacher, progress=False)
    model = wb.distill(texts, teacher, base=tiny_model, recipe="adapt", max_length=40)
    said = capsys.readouterr().out
    assert "The head is a r" in said and "ready" not in said
    vectors, targets = (
        model.encode_document([t.text for t in texts]),
        teacher.encode([t.text for t in texts]),
    )
    assert (vectors * targets).sum(axis=1).mean() > 0.9


def test_the_ready_student_is_kept_where_it_finds_more(small, tiny_model, monkeypatch):
    model, _, cache = small
    monkeypatch.setattr(pipeline, "has_teacher", lambda about, cache: True)
    monkeypatch.setattr(pipeline, "load_ready", lambda: model)
    of_base = {"base_fingerprint": models.resolve(tiny_model).fingerprint}
    monkeypatch.setattr(pipeline, "provenance_of", lambda name: of_base)
    monkeypatch.setattr(pipeline, "_FEW_PASSAGES", 0)
    recipe = ADAPT.change(base=str(tiny_model), hidden=16, max_length=40)
    for better in (False, True):
        monkeypatch.setattr(pipeline, "found", lambda *_, share=2.0 * better: share)
        made = pipeline.run(sentences(60, seed=6 + better), cache, recipe, progress=False)
        assert (made.student is model) == better
        said = pipeline.form_of(made.provenance["head_fit"])
        assert said == "the ready student's" if better else said.startswith("a r")


def test_mirrored_units_are_not_stored(small, tiny_model, tmp_path):
    model, *_ = small
    texts = [text.text for text in sentences(300, seed=3)]
    features = FrozenFeatures(model).encode(texts)
    made = bench.with_base_space(model, features, str(tiny_model))
    vectors, sizes = through_head(made, features), {}
    assert student.head_of(made)[0].out_features == student.head_of(model)[0].out_features + 64
    for mirrored in (0, 32):  # units that differ by the sign alone need not be stored
        folder, about = tmp_path / str(mirrored), {"base": str(tiny_model)}
        loaded = ready.load_ready(bench.save_ready(made, folder, about, mirrored=mirrored))
        assert (through_head(loaded, features) * vectors).sum(axis=1).min() > 0.9999
        sizes[mirrored] = (folder / "head.safetensors").stat().st_size
    assert sizes[32] < sizes[0] - 32 * 32


@pytest.mark.models
def test_the_ready_student_searches_what_the_teacher_embedded():
    """With a student of the right space the share is near 1; the base's vectors would find nothing."""
    assert sum(path.stat().st_size for path in ready.READY.iterdir()) < 8e6
    teacher = wb.Teacher("all-mpnet-base-v2", max_length=96)
    table = wb.compare({"teacher": teacher, "student": wb.load_ready()}, "tutorial")
    shares = table.set_index("mode")["share_of_teacher"]
    assert shares["asymmetric"] > 0.85 and shares["symmetric"] > 0.85
    assert main.main(["evaluate", "--student", "ready"]) == 0
    measured = json.loads((home() / "evaluate-tutorial.json").read_text())["rows"]
    row = next(row for row in measured if row["mode"] == "asymmetric")
    assert row["share_of_teacher"] == pytest.approx(shares["asymmetric"], abs=1e-3)


@pytest.mark.models
def test_a_search_without_models_adapts_the_ready_student(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    view = wb.search(wb.read_texts("tutorial", limit=60), progress=False)
    assert "The student has learned these documents" in view.status.value
    assert view.scores["asymmetric"].mean() > 0.8
