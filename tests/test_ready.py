"""The student that comes with the package: whole or refused, and the start of a student of one's own texts."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import sentences
from safetensors.torch import load_file, save_file
from test_train import build

import workbench as wb
from bench import ready as bench
from workbench import models, pipeline, ready, student
from workbench._util import home
from workbench.cache import TargetCache
from workbench.cli import main
from workbench.errors import ModelError, TrainingError, WorkbenchError
from workbench.head import FrozenFeatures, through_head
from workbench.models import encode
from workbench.pipeline import ADAPT, BROAD
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
    student.fit_head(model, texts, cache.targets(texts))
    made = provenance(cache, texts, base=str(tiny_model), source="sentences")
    return model, ready.save_ready(model, tmp_path / "ready", made), cache


def test_what_is_written_is_what_is_read(small):
    model, folder, _ = small
    assert sorted(path.name for path in folder.iterdir()) == ["head.safetensors", "provenance.json"]
    loaded, texts = ready.load_ready(folder, device="cpu"), sentences(20)
    first, second = (encode(each, texts, precision="float32") for each in (model, loaded))
    assert (first * second).sum(axis=1).min() > 0.9999  # the head is kept in float16 and int8
    assert loaded.max_seq_length == model.max_seq_length and dict(loaded.prompts) == dict(
        model.prompts
    )


def test_what_was_altered_or_is_missing_is_refused(small, tmp_path, other_tiny_model):
    _, folder, _ = small
    head, stated = folder / "head.safetensors", folder / "provenance.json"
    content = bytearray(head.read_bytes())
    content[-3] ^= 1
    head.write_bytes(content)
    with pytest.raises(ModelError, match="is not what was written: the SHA-256 of both"):
        ready.load_ready(folder)
    content[-3] ^= 1
    head.write_bytes(content)
    ready.load_ready(folder)
    before = json.loads(stated.read_text())
    for change, words in (
        ({"base": "no-such-model"}, "was not found"),
        ({"base": str(other_tiny_model)}, "needs the weights of"),
        ({"head_sha256": None}, "is not what was written"),
        ({"build": before["build"] | {"normalize": False}}, "is not what was written"),
        (
            {"build": {}, "head_sha256": ready._digest(bytes(content), {})},
            "is not the one that its provenance.json describes",
        ),
    ):
        stated.write_text(json.dumps(before | change))
        with pytest.raises(ModelError, match=words):
            ready.load_ready(folder)
    # A head that fits its checksum and not its student.
    kept = load_file(head)
    for change in (
        {"0.columns": None}, {"1.place": None}, {"extra": kept["0.bias"].clone()}, {"0.bias": kept["0.bias"][:1]},
        {"0.scale": kept["0.scale"] * float("nan")}, {"1.weight": kept["1.weight"].float()}, {"0.place": kept["0.place"] + 10**6},
    ):  # fmt: skip
        save_file({name: part for name, part in (kept | change).items() if part is not None}, head)
        digest = ready._digest(head.read_bytes(), before["build"])
        stated.write_text(json.dumps(before | {"head_sha256": digest}))
        with pytest.raises(ModelError, match="is not the one that its provenance.json describes"):
            ready.load_ready(folder)
    head.write_bytes(content)
    with pytest.raises(ModelError, match="got an object of type int"):
        ready.load_ready(5)
    stated.write_text("{}")
    with pytest.raises(
        ModelError, match="provenance.json cannot be read .KeyError: 'base'.: restore it"
    ):
        ready.load_ready(folder)
    stated.write_text(json.dumps(before))
    head.unlink()
    with pytest.raises(ModelError, match="head.safetensors cannot be read"):
        ready.load_ready(folder)


def test_a_frozen_recipe_learns_the_head_alone_and_is_found_again(
    small, tiny_model, other_tiny_model
):
    *_, cache = small
    texts = sentences(300, seed=5)
    recipe = BROAD.change(
        base=str(tiny_model),
        teacher=str(other_tiny_model),
        max_length=40,
        hidden=16,
        epochs=3,
        batch_size=32,
    )
    made = pipeline.run(texts, cache, recipe, progress=False)
    assert (
        made.result.history["held_out_loss"].notna().all()
        and made.provenance["settings"]["epochs"] == 3
    )
    base = models.load(tiny_model, device="cpu")[0].state_dict()
    assert all(
        np.array_equal(base[name], tensor.cpu())
        for name, tensor in made.student[0].state_dict().items()
    )
    assert pipeline.run(texts, cache, recipe, progress=False).result is None  # finished, and loaded


def test_a_student_goes_on_from_another_one(small, tiny_model, other_tiny_model, tmp_path):
    model, alone, cache = small
    made = provenance(cache, sentences(10), base="a/base-that-is-gone", source="sentences")
    folder = student.save(model, tmp_path / "student", made)
    texts = sentences(300, seed=6)
    recipe = ADAPT.change(start=folder, texts=20, epochs=3, batch_size=32)
    found = pipeline.run(texts, cache, recipe, progress=False)
    assert found.result.history["loss"].iloc[-1] < found.result.history["loss"].iloc[1]
    assert found.provenance["base"] == "a/base-that-is-gone"
    again = pipeline.run(
        texts, cache, recipe.change(start=str(alone)), progress=False
    )  # of a head that was saved alone
    assert again.result.history["loss"].iloc[-1] < again.result.history["loss"].iloc[1]
    with pytest.raises(TrainingError, match="learned the vectors of"):
        pipeline.run(texts, TargetCache(tmp_path, Teacher(tiny_model)), recipe, progress=False)
    shutil.copytree(tiny_model, tmp_path / "bare")
    with pytest.raises(TrainingError, match="does not name"):
        pipeline.run(texts, cache, ADAPT.change(start=str(tmp_path / "bare")), progress=False)
    with pytest.raises(TrainingError, match="start"):
        ADAPT.change(start="best")
    with pytest.raises(
        TrainingError, match="hidden, max_length: decided by the student to start from"
    ):
        ADAPT.change(hidden=16, max_length=48)
    with pytest.raises(WorkbenchError, match="learned the vectors of"):
        wb.search(texts[:10], documents=Teacher(other_tiny_model), progress=False)
    with pytest.raises(TrainingError, match="learned the vectors of"):
        wb.distill(texts, Teacher(other_tiny_model), recipe="adapt", progress=False)


def test_the_bases_space_is_added(small, tiny_model, tmp_path):
    model, *_ = small
    texts = [text.text for text in sentences(300, seed=3)]
    features = FrozenFeatures(model).encode(texts)
    learned, own = through_head(model, features), features[:, :32]
    left, _, right = np.linalg.svd(own.T @ learned, full_matrices=False)
    turned = own @ left @ right
    first, last = (module.linear for module in student.head_of(model))
    with torch.no_grad():
        raw = last(torch.nn.functional.gelu(first(torch.from_numpy(features)))).numpy()
    parts = (each / np.linalg.norm(each, axis=1).mean() for each in (raw, turned))
    both = sum(
        share * part for share, part in zip((1 - bench.SHARE, bench.SHARE), parts, strict=True)
    )
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    made = bench.with_base_space(model, features, str(tiny_model))
    assert student.head_of(made)[0].out_features == student.head_of(model)[0].out_features + 64
    assert (through_head(made, features) * both).sum(axis=1).min() > 1 - 1e-5
    sizes = {}
    for mirrored in (0, 32):  # units that differ by the sign alone need not be stored
        folder = ready.save_ready(
            made, tmp_path / str(mirrored), {"base": str(tiny_model)}, mirrored=mirrored
        )
        loaded = ready.load_ready(folder)
        assert (through_head(loaded, features) * both).sum(axis=1).min() > 0.9999
        sizes[mirrored] = (folder / "head.safetensors").stat().st_size
    assert sizes[32] < sizes[0] - 32 * 32


@pytest.mark.models
def test_the_ready_student_searches_what_the_teacher_embedded():
    """With a student of the right space the share is near 1; the base's vectors would find nothing."""
    assert sum(path.stat().st_size for path in ready.READY.iterdir()) < 8e6
    table = wb.compare(
        {"teacher": wb.Teacher("all-mpnet-base-v2", max_length=96), "student": wb.load_ready()},
        "tutorial",
    )
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
    assert "The student has learned these documents: for" in view.status.value
    assert view.scores["asymmetric"].mean() > 0.8
