import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import sentences
from sentence_transformers import SentenceTransformer

from workbench import models, student
from workbench.data import Text
from workbench.errors import ModelError, TrainingError
from workbench.models import encode
from workbench.train import TrainingConfig, train_student, validate

TESTS = Path(__file__).parent
FAST = TrainingConfig(
    batch_size=8, learning_rate=2e-3, final_learning_rate=1e-4, precision="float32"
)


def build(tiny_model, **options):
    return student.build(tiny_model, 48, max_length=40, device="cpu", **options)


def test_a_student_is_transformer_pooling_head_normalize(tiny_model):
    model = build(tiny_model, prompts={"query": "q: ", "document": ""})
    kinds = [type(module).__name__ for module in model.children()]
    assert kinds == ["Transformer", "Pooling", "Dense", "Normalize"]
    assert [type(m).__name__ for m in build(tiny_model, normalize=False).children()] == kinds[:3]
    vectors = encode(model, sentences(10))
    assert vectors.shape == (10, 48)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert not torch.equal(build(tiny_model, seed=1)[2].linear.weight, model[2].linear.weight)
    assert torch.equal(build(tiny_model, seed=0)[2].linear.weight, model[2].linear.weight)
    with pytest.raises(ModelError, match="max_length"):
        student.build(tiny_model, 48, max_length=500)


@pytest.mark.parametrize(("normalize", "bias"), [(True, True), (False, True), (True, False)])
def test_closed_form_start_beats_the_random_start_by_far(tiny_model, lesson, normalize, bias):
    train, targets, held_out, wanted = lesson
    model = build(tiny_model, normalize=normalize, bias=bias)
    random = validate(model, held_out, wanted)
    fit = student.fit_head(model, train, targets)
    after = validate(model, held_out, wanted)
    assert after["loss"] < 0.5 * random["loss"]
    assert fit["found"] >= fit["found_by_rotation"] > 0.3
    assert set(after) == {"loss", "cosine", "cosine_query", "cosine_document"}


def test_the_head_is_the_ridge_regression_of_the_backbones_features(tiny_model, lesson):
    train, targets, *_ = lesson
    model = build(tiny_model, normalize=False, prompts={"query": "q: ", "document": "q: "})
    fit = student.fit_head(model, train, targets, kind="ridge")
    features = student.pooled(model, train).astype(np.float64)
    is_document = np.array(
        [text.role == "document" for text in train]
    )  # they alone give directions
    scaled = (features / features.std(0, ddof=1))[is_document]
    scaled -= scaled.mean(0)
    penalty = np.sqrt(fit["alpha"] * (scaled**2).sum() / scaled.shape[1])
    padded = np.vstack([scaled, penalty * np.eye(scaled.shape[1])])  # as least squares
    outputs = targets[is_document] - targets[is_document].mean(0)
    outputs = np.vstack([outputs, np.zeros((scaled.shape[1], targets.shape[1]))])
    weight = np.linalg.lstsq(padded, outputs, rcond=None)[0] / features.std(0, ddof=1)[:, None]
    np.testing.assert_allclose(model[2].linear.weight.detach().numpy(), weight.T, atol=1e-3)
    queries = [text for text in train if text.role == "query"]  # they say where their mean belongs
    mean = encode(model, queries, precision="float32").mean(0)
    np.testing.assert_allclose(mean, targets[~is_document].mean(0), atol=1e-2)
    backbone = SentenceTransformer(modules=list(model.children())[:2], device="cpu")
    atol = 2e-2 if models.best_dtype("cpu") == torch.bfloat16 else 1e-5
    plain = backbone.encode([model.prompts[text.role.value] + text.text for text in train])
    np.testing.assert_allclose(features, plain, atol=atol)
    for change in (targets[:-1], targets[:, 1:]):
        with pytest.raises(TrainingError, match="do not fit"):
            student.fit_head(model, train, change)


def test_saved_students_load_with_plain_sentence_transformers(tiny_model, lesson, tmp_path):
    train, targets, *_ = lesson
    model = build(tiny_model, prompts={"query": "q: ", "document": ""})
    student.fit_head(model, train, targets)
    student.save(model, tmp_path / "student")
    student.save(model, tmp_path / "student", {"base": "b", "teacher_name": "t"})  # replaces it
    assert student.read_provenance(tmp_path / "student") == {"base": "b", "teacher_name": "t"}
    assert student.read_provenance(tiny_model) == {}
    plain = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    texts = ["bread in the oven", "a river"]
    vectors = plain.encode_query(texts)
    np.testing.assert_allclose(vectors, model.encode_query(texts), atol=1e-6)
    ours = encode(model, [Text(t, "query") for t in texts], precision="float32")
    np.testing.assert_allclose(vectors, ours, atol=1e-5)
    assert not list(tmp_path.glob(".*"))


def test_no_other_folder_is_replaced_or_loaded(tiny_model, tmp_path):
    model = build(tiny_model)
    with pytest.raises(ModelError, match="no student"):
        student.load(tiny_model)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for folder in (tmp_path / "full", shutil.copytree(tiny_model, tmp_path / "base"), Path.cwd()):
        with pytest.raises(ModelError, match="choose"):
            student.save(model, folder)
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"


def test_training_lowers_the_held_out_loss_and_reports(tiny_model, lesson):
    train, targets, held_out, wanted = lesson
    model = build(tiny_model)
    before, events = validate(model, held_out, wanted), []
    result = train_student(
        model, train, targets, FAST, held_out=(held_out, wanted), on_step=events.append
    )
    after = validate(model, held_out, wanted)
    assert after["loss"] < 0.9 * before["loss"] and after["cosine_query"] > before["cosine_query"]
    assert result.best_loss == pytest.approx(after["loss"], rel=1e-3)
    assert [e.step for e in events] == list(range(61)) == result.history["step"].tolist()
    assert events[0].held_out_loss == pytest.approx(before["loss"], rel=1e-3)
    assert sum(e.held_out_loss is not None for e in events) == 5
    assert events[1].learning_rate == pytest.approx(2e-3)
    assert events[-1].learning_rate == pytest.approx(1e-4)
    assert events[-1].texts_per_second > 0 and not result.stopped


def test_learning_rate_starts_again_in_each_cycle(tiny_model, lesson):
    config = replace(FAST, restarts=3, epochs=1, batch_size=60)
    result = train_student(build(tiny_model), *lesson[:2], config)
    rates = result.history["learning_rate"][1:].tolist()
    assert rates[::4] == pytest.approx([2e-3] * 3) and rates[3::4] == pytest.approx([1e-4] * 3)


def test_the_loop_is_the_method_in_plain_torch(tiny_model, lesson):
    """The package's loop and a few plain lines of torch end in the same student."""
    train, targets, *_ = lesson
    config = replace(FAST, batch_size=240, epochs=3, learning_rate=1e-3, final_learning_rate=1e-3)
    ours, plain = build(tiny_model), build(tiny_model)
    train_student(ours, train, targets, config)

    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.01)
    features = plain.preprocess([t.text for t in train])
    plain.eval()  # no dropout
    for _ in range(3):
        output = plain(features)["sentence_embedding"]
        loss = (output - torch.from_numpy(targets)).pow(2).sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
    vectors = [encode(model, train, precision="float32") for model in (ours, plain)]
    np.testing.assert_allclose(*vectors, atol=2e-3)


def test_resuming_gives_the_student_of_an_undisturbed_run(tiny_model, lesson, tmp_path):
    train, targets, held_out, wanted = lesson
    config = replace(FAST, dropout=0.1)  # so that the random state matters
    runs = {}
    for name, stops in (("undisturbed", []), ("disturbed", [7, 31])):
        for stop_at in [*stops, None]:
            model, stop = build(tiny_model), threading.Event()
            result = train_student(
                model, train, targets, config, held_out=(held_out, wanted), checkpoints=tmp_path / name, stop=stop,
                on_step=lambda e, at=stop_at, stop=stop: e.step == at and stop.set(),
            )  # fmt: skip
            assert result.stopped == (stop_at is not None)
        runs[name] = model.state_dict(), result
    for name, tensor in runs["undisturbed"][0].items():
        torch.testing.assert_close(runs["disturbed"][0][name], tensor, rtol=0, atol=0)
    history, again = (runs[name][1].history for name in runs)
    assert history["loss"].equals(again["loss"])
    files = [path for path in (tmp_path / "disturbed").rglob("*") if path.is_file()]
    assert len({path.parent for path in files}) == 2  # the newest two checkpoints
    assert {path.suffix for path in files} == {".safetensors", ".json"}


def test_a_stopped_run_keeps_the_best_student(tiny_model, lesson):
    train, targets, held_out, wanted = lesson
    model, stop = build(tiny_model), threading.Event()
    student.fit_head(model, train, targets)
    wild = replace(FAST, learning_rate=1.0, final_learning_rate=1.0, max_grad_norm=None)
    before = validate(model, held_out, wanted)["loss"]
    result = train_student(
        model, train, targets, wild, held_out=(held_out, wanted), stop=stop,
        on_step=lambda e: e.step == 20 and stop.set(),
    )  # fmt: skip
    assert result.stopped and result.best_step == 0
    assert validate(model, held_out, wanted)["loss"] == pytest.approx(before, rel=1e-3)


def test_checkpoints_that_are_damaged_or_of_another_run(tiny_model, lesson, tmp_path):
    train, targets, *_ = lesson
    undisturbed, other = build(tiny_model), replace(FAST, seed=1)
    train_student(undisturbed, train, targets, FAST, checkpoints=tmp_path)
    with pytest.raises(TrainingError, match="different config"):
        train_student(build(tiny_model), train, targets, other, checkpoints=tmp_path)
    with pytest.raises(TrainingError, match="different texts and targets"):
        train_student(build(tiny_model), train[:-8], targets[:-8], FAST, checkpoints=tmp_path)
    first_steps = []
    for damaged in (1, 2):  # the newest, then both
        for folder in sorted(tmp_path.glob("step-*"))[-damaged:]:
            content = bytearray((folder / "student.safetensors").read_bytes())
            content[-50] ^= 1
            (folder / "student.safetensors").write_bytes(content)
        again, steps = build(tiny_model), []
        with pytest.warns(UserWarning, match="damaged"):
            train_student(
                again, train, targets, FAST, checkpoints=tmp_path,
                on_step=lambda event, steps=steps: steps.append(event.step),
            )  # fmt: skip
        first_steps.append(steps[0])
        for name, tensor in undisturbed.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[name])
    assert first_steps == [46, 0]  # after the one before, and from the start
    train_student(build(tiny_model), train, targets, other, checkpoints=tmp_path, resume=False)


PROCESS = """
import sys; sys.path.insert(0, {tests!r})
import os, threading, numpy as np, torch
from conftest import sentences
from test_train import FAST
from workbench import student
from workbench.train import train_student
torch.set_num_threads(1)
targets, held_out = np.load("targets.npy"), (sentences(60, seed=4), np.load("wanted.npy"))
for stop_at in 10, None:
    model, stop = student.build({base!r}, 48, max_length=40, device="cpu"), threading.Event()
    result = train_student(
        model, sentences(235, seed=3), targets, FAST, held_out=held_out, checkpoints="checkpoints", stop=stop,
        on_step=lambda event: event.step == stop_at and stop.set(),
    )
    assert result.stopped == (stop_at is not None)
if os.environ["RANK"] == "0":
    student.save(model, "student")
"""


def test_two_processes_train_the_student_of_one_and_can_be_stopped(tiny_model, lesson, tmp_path):
    train, targets, held_out, wanted = lesson
    targets = targets[:235]  # the last batch has 3 texts: an uneven share
    np.save(tmp_path / "targets.npy", targets)
    np.save(tmp_path / "wanted.npy", wanted)
    (tmp_path / "process.py").write_text(PROCESS.format(tests=str(TESTS), base=str(tiny_model)))
    command = "-m torch.distributed.run --standalone --nproc-per-node=2 process.py"
    subprocess.run([sys.executable, *command.split()], cwd=tmp_path, check=True, timeout=300)
    alone = build(tiny_model)
    train_student(alone, train[:235], targets, FAST, held_out=(held_out, wanted))
    both = student.load(tmp_path / "student", device="cpu")
    vectors = [encode(model, held_out, precision="float32") for model in (alone, both)]
    np.testing.assert_allclose(*vectors, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, v: (t, v[:-1]), "do not fit"),
        (lambda t, v: (t, np.where(np.arange(len(v))[:, None] == 9, np.nan, v)), "target 9 .*NaN"),
        (lambda t, v: (t, v * 3), "normalize=False"),
        (lambda t, v: (t, v[np.random.default_rng(0).permutation(len(v))]), "seem misaligned"),
        (lambda t, v: (t, np.roll(v, 2, axis=0)), "seem misaligned"),
    ],
)
def test_what_would_spoil_a_run_is_found_before_it(tiny_model, lesson, change, message):
    train, targets, *_ = lesson
    with pytest.raises(TrainingError, match=message):
        train_student(build(tiny_model), *change(train, targets), FAST)


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"restarts": True}, {"learning_rate": 1e-6}, {"precision": "int8"}]
)
def test_a_config_that_makes_no_sense(wrong):
    with pytest.raises(TrainingError, match=next(iter(wrong))):
        TrainingConfig(**wrong)


def test_a_loss_that_is_no_number_stops_the_run(tiny_model, lesson):
    train, targets, *_ = lesson
    model = build(tiny_model)
    with torch.no_grad():
        model[2].linear.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="loss is nan"):
        train_student(model, train, targets, FAST)
