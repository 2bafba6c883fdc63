import json
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

from workbench import models, pipeline, student
from workbench._checks import check
from workbench.data import Role, Text
from workbench.errors import ModelError, TrainingError
from workbench.models import encode
from workbench.student import Tokens
from workbench.train import TrainingConfig, train_student, validate

TESTS = Path(__file__).parent
FAST = TrainingConfig(
    batch_size=8,
    learning_rate=2e-3,
    final_learning_rate=1e-4,
    epochs=2,
    restarts=1,
    precision="float32",
)


@pytest.fixture(scope="module")
def lesson(tiny_model, other_tiny_model):
    """Training texts and held-out texts with targets of a random 48-wide teacher."""
    teacher = models.load(other_tiny_model, device="cpu")
    train, held_out = sentences(240, seed=3), sentences(60, seed=4)
    return (
        train,
        teacher.encode([t.text for t in train]),
        held_out,
        teacher.encode([t.text for t in held_out]),
    )


def build(tiny_model, **options):
    return student.build(tiny_model, 48, max_length=40, device="cpu", **options)


def test_a_student_is_transformer_mean_pooling_head_normalize(tiny_model):
    model = build(tiny_model, prompts={"query": "q: ", "document": ""})
    assert [type(m).__name__ for m in model.children()] == [
        "Transformer",
        "Pooling",
        "Dense",
        "Normalize",
    ]
    assert [type(m).__name__ for m in build(tiny_model, normalize=False).children()][-1] == "Dense"
    vectors = encode(model, sentences(10))
    assert vectors.shape == (10, 48)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert not torch.equal(build(tiny_model, seed=1)[2].linear.weight, model[2].linear.weight)
    assert torch.equal(build(tiny_model, seed=0)[2].linear.weight, model[2].linear.weight)


@pytest.mark.parametrize(("normalize", "bias"), [(True, True), (False, True), (True, False)])
def test_warm_start_beats_the_random_start_by_far(tiny_model, lesson, normalize, bias):
    train, targets, held_out, wanted = lesson
    model = build(tiny_model, normalize=normalize, bias=bias)
    random = validate(model, held_out, wanted)
    warm = student.fit_head(model, train, targets)
    after = validate(model, held_out, wanted)
    assert after["loss"] < 0.5 * random["loss"]
    assert after["loss"] == pytest.approx(warm.held_out_loss, rel=0.4)
    assert set(after) == {"loss", "cosine", "cosine_query", "cosine_document"}


def test_warm_start_solves_the_ridge_equation(tiny_model, lesson):
    train, targets, *_ = lesson
    model = build(tiny_model, normalize=False)
    student.fit_head(model, train, targets, alphas=[0.01])
    features = student.pooled(model, train).astype(np.float64)
    centered = features - features.mean(0)
    gram = centered.T @ centered
    strength = 0.01 * np.trace(gram) / len(gram)
    weight = np.linalg.solve(
        gram + strength * np.eye(len(gram)), centered.T @ (targets - targets.mean(0))
    )
    np.testing.assert_allclose(model[2].linear.weight.detach().numpy(), weight.T, atol=1e-3)


def test_saved_students_load_with_plain_sentence_transformers(tiny_model, lesson, tmp_path):
    train, targets, *_ = lesson
    model = build(tiny_model, prompts={"query": "q: ", "document": ""})
    student.fit_head(model, train, targets)
    student.save(model, tmp_path / "student")
    student.save(model, tmp_path / "student")  # replaces itself
    plain = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    texts = ["bread in the oven", "a river"]
    np.testing.assert_allclose(plain.encode_query(texts), model.encode_query(texts), atol=1e-6)
    np.testing.assert_allclose(
        plain.encode_query(texts),
        encode(model, [Text(t, "query") for t in texts], precision="float32"),
        atol=1e-5,
    )
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(ModelError, match="no student"):
        student.load(tiny_model)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="not empty"):
        student.save(model, tmp_path / "full")
    with pytest.raises(ModelError, match="holds no student"):
        student.save(model, shutil.copytree(tiny_model, tmp_path / "base"))


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
    assert events[1].learning_rate == pytest.approx(2e-3) and events[
        -1
    ].learning_rate == pytest.approx(1e-4)
    assert events[-1].texts_per_second > 0 and not result.stopped


def test_learning_rate_starts_again_in_each_cycle(tiny_model, lesson):
    train, targets, *_ = lesson
    events = []
    config = replace(FAST, restarts=3, epochs=1, batch_size=60)
    train_student(build(tiny_model), train, targets, config, on_step=events.append)
    rates = [e.learning_rate for e in events[1:]]
    assert len(rates) == 12
    assert rates[0] == rates[4] == rates[8] == pytest.approx(2e-3)
    assert rates[3] == rates[7] == rates[11] == pytest.approx(1e-4)


def test_the_loop_is_the_method_in_plain_torch(tiny_model, lesson):
    """The package's loop and a few plain lines of torch end in the same student."""
    train, targets, *_ = lesson
    config = replace(FAST, batch_size=240, epochs=3, learning_rate=1e-3, final_learning_rate=1e-3)
    ours, plain = build(tiny_model), build(tiny_model)
    train_student(ours, train, targets, config)

    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.01)
    features = plain.preprocess([t.text for t in train])
    wanted = torch.from_numpy(targets)
    plain.eval()  # no dropout
    for _ in range(3):
        loss = (plain(features)["sentence_embedding"] - wanted).pow(2).sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
    np.testing.assert_allclose(
        encode(ours, train, precision="float32"),
        encode(plain, train, precision="float32"),
        atol=2e-3,
    )


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
    assert len(list((tmp_path / "disturbed").glob("step-*"))) == 2
    assert not [
        p for p in (tmp_path / "disturbed").rglob("*") if p.suffix in (".pt", ".pkl", ".bin")
    ]


def test_a_stopped_run_keeps_the_best_student(tiny_model, lesson):
    train, targets, held_out, wanted = lesson
    model, stop = build(tiny_model), threading.Event()
    student.fit_head(model, train, targets)
    wild = replace(FAST, learning_rate=1.0, final_learning_rate=1.0, max_grad_norm=None)
    before = validate(model, held_out, wanted)["loss"]
    result = train_student(
        model,
        train,
        targets,
        wild,
        held_out=(held_out, wanted),
        stop=stop,
        on_step=lambda e: e.step == 20 and stop.set(),
    )
    assert result.stopped and result.best_step == 0
    assert validate(model, held_out, wanted)["loss"] == pytest.approx(before, rel=1e-3)


def test_checkpoints_of_another_run_are_refused(tiny_model, lesson, tmp_path):
    train, targets, *_ = lesson
    train_student(build(tiny_model), train, targets, FAST, checkpoints=tmp_path)
    with pytest.raises(TrainingError, match="another run .different config."):
        train_student(
            build(tiny_model), train, targets, replace(FAST, seed=1), checkpoints=tmp_path
        )
    with pytest.raises(TrainingError, match="another run .different texts, targets."):
        train_student(build(tiny_model), train[:-8], targets[:-8], FAST, checkpoints=tmp_path)
    assert not train_student(
        build(tiny_model), train, targets, replace(FAST, seed=1), checkpoints=tmp_path, resume=False
    ).stopped


def test_a_damaged_or_half_written_checkpoint(tiny_model, lesson, tmp_path):
    train, targets, *_ = lesson
    undisturbed = build(tiny_model)
    train_student(undisturbed, train, targets, FAST, checkpoints=tmp_path)
    earlier, newest = sorted(tmp_path.glob("step-*"))
    shutil.copytree(newest, tmp_path / ".writing-1" / "new")  # a killed process's scratch folder
    assert not train_student(build(tiny_model), train, targets, FAST, checkpoints=tmp_path).stopped
    assert not list(tmp_path.glob(".writing-*"))

    def damage(folder):
        content = bytearray((folder / "student.safetensors").read_bytes())
        content[-50] ^= 1
        (folder / "student.safetensors").write_bytes(content)

    damage(newest)
    again = build(tiny_model)
    with pytest.warns(
        UserWarning, match=f"{newest.name} is damaged.*continues from {earlier.name}"
    ):
        train_student(again, train, targets, FAST, checkpoints=tmp_path)
    for name, tensor in undisturbed.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    for folder in tmp_path.glob("step-*"):
        damage(folder)
    with pytest.raises(TrainingError, match="damaged.*and so is any other"):
        train_student(build(tiny_model), train, targets, FAST, checkpoints=tmp_path)


PROCESS = """
import sys; sys.path.insert(0, {tests!r})
import numpy as np, torch
from conftest import sentences
from workbench import student
from workbench.train import TrainingConfig, train_student
torch.set_num_threads(1)
model = student.build({base!r}, 48, max_length=40, device="cpu")
targets = np.load({targets!r})
config = TrainingConfig(batch_size=8, learning_rate=2e-3, final_learning_rate=1e-4, epochs=1, restarts=1, precision="float32")
held_out = (sentences(60, seed=4), np.load({wanted!r}))
class Stop:  # after ten steps, the first time
    steps = 0
    def is_set(self): return self.steps >= {steps}
def count(event): Stop.steps += event.loss is not None
result = train_student(
    model, sentences(235, seed=3), targets, config, held_out=held_out, checkpoints={folder!r}, on_step=count, stop=Stop()
)
import os
if os.environ.get("RANK", "0") == "0":
    student.save(model, {output!r})
    print(result.best_loss)
"""


def test_two_processes_train_the_student_of_one_and_can_be_stopped(tiny_model, lesson, tmp_path):
    _, targets, held_out, wanted = lesson
    np.save(tmp_path / "targets.npy", targets[:235])  # the last batch has 3 texts: an uneven share
    np.save(tmp_path / "wanted.npy", wanted)
    vectors = {}
    for processes, steps in ((1, 1000), (2, 10), (2, 1000)):  # two are stopped, and go on
        output = tmp_path / f"student-{processes}"
        script = tmp_path / f"train-{processes}.py"
        script.write_text(
            PROCESS.format(
                tests=str(TESTS), base=str(tiny_model), targets=str(tmp_path / "targets.npy"), output=str(output),
                wanted=str(tmp_path / "wanted.npy"), folder=str(tmp_path / f"checkpoints-{processes}"),
                steps=steps,
            )
        )  # fmt: skip
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={processes}",
            str(script),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        assert steps > 10 or (tmp_path / f"checkpoints-{processes}" / "step-00000010").exists()
        vectors[processes] = encode(
            student.load(output, device="cpu"), held_out, precision="float32"
        )
    np.testing.assert_allclose(vectors[1], vectors[2], atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, v: (t[:5], v[:5]), "5 training texts are too few"),
        (lambda t, v: (t, v[:-1]), "out of step"),
        (lambda t, v: (t, v[:, :-1]), "47 wide and the student's vectors 48"),
        (
            lambda t, v: (t, np.where(np.arange(len(v))[:, None] == 9, np.nan, v)),
            "target 9 contains NaN",
        ),
        (lambda t, v: (t, v * 3), "norm 3.000: build it with normalize=False"),
        (lambda t, v: ([*t[:-1], Text(" ", Role.QUERY)], v), "1 of 240 training texts are blank"),
        (lambda t, v: (t, v[np.random.default_rng(0).permutation(len(v))]), "look out of step"),
        (lambda t, v: (t, np.roll(v, 1, axis=0)), "look out of step"),
        (lambda t, v: (t, np.roll(v, 2, axis=0)), "look out of step"),
    ],
)
def test_checks_before_anything_expensive(tiny_model, lesson, change, message):
    train, targets, *_ = lesson
    with pytest.raises(TrainingError, match=message):
        check(build(tiny_model), *change(train, targets), batch_size=8)


def test_checks_warn_of_what_may_be_meant(tiny_model, lesson):
    train, targets, *_ = lesson
    with pytest.warns(UserWarning, match="normalize=True fits better"):
        check(build(tiny_model, normalize=False), train, targets, batch_size=8)
    documents = [i for i, t in enumerate(train) if t.role is Role.DOCUMENT]
    with pytest.warns(UserWarning, match="no query among"):
        check(build(tiny_model), [train[i] for i in documents], targets[documents], batch_size=8)
    with pytest.raises(TrainingError, match="47 wide"):
        check(build(tiny_model), train, targets, (train, targets[:, 1:]), batch_size=8)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"epochs": 0}, "epochs is 0; expected a whole number of at least 1"),
        ({"epochs": 1.5}, "epochs is 1.5; expected a whole number"),
        ({"epochs": "1"}, "epochs is '1'; expected a whole number"),
        ({"batch_size": None}, "batch_size is None; expected a whole number"),
        ({"restarts": True}, "restarts is True; expected a whole number"),
        ({"seed": -1}, "seed is -1; expected a whole number from 0"),
        ({"dropout": 2.0}, "dropout is 2.0; expected a number from 0 to below 1, or None"),
        ({"max_grad_norm": -1}, "max_grad_norm is -1; expected a number above 0"),
        ({"weight_decay": float("nan")}, "weight_decay is nan; expected a number"),
        ({"learning_rate": 0}, "learning_rate is 0; expected a number above 0"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'; expected a number above 0"),
        (
            {"final_learning_rate": 1},
            "final_learning_rate is 1; expected a number above 0, at most the learning_rate",
        ),
        ({"precision": "int8"}, "'int8'"),
    ],
)
def test_a_config_that_makes_no_sense(wrong, words):
    with pytest.raises(TrainingError, match=words):
        replace(FAST, **wrong)
    assert replace(FAST, epochs=np.int64(2), learning_rate=np.float32(0.5)).epochs == 2


def test_a_loss_that_is_no_number_stops_the_run(tiny_model, lesson):
    train, targets, *_ = lesson
    model = build(tiny_model)
    with torch.no_grad():
        model[2].linear.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="loss is nan at step 1"):
        train_student(model, train, targets, FAST)


def test_history_is_json(tiny_model, lesson):
    train, targets, *_ = lesson
    result = train_student(
        build(tiny_model), train, targets, replace(FAST, epochs=1, batch_size=80)
    )
    assert json.loads(result.history.to_json(orient="records"))[0]["step"] == 0


def test_the_default_is_the_tour():
    assert TrainingConfig() == pipeline.TOUR.config
    assert TrainingConfig().epochs * TrainingConfig().restarts == 2


def test_provenance_is_one_file_and_that_of_version_01_is_read(tiny_model, tmp_path):
    old = student.read_provenance(TESTS / "v0.1" / "student")
    assert old["teacher_name"] and old["base"]
    shutil.copytree(TESTS / "v0.1" / "student", tmp_path / "old")
    before = models.resolve(tmp_path / "old").fingerprint
    (tmp_path / "old" / "distillation.json").rename(tmp_path / "old" / "provenance.json")
    assert student.read_provenance(tmp_path / "old") == old
    assert models.resolve(tmp_path / "old").fingerprint == before  # it is no part of the model
    student.save(build(tiny_model), tmp_path / "new", {"base": "b", "teacher_name": "t"})
    assert student.read_provenance(tmp_path / "new") == {"base": "b", "teacher_name": "t"}
    assert student.read_provenance(tiny_model) == {}


def test_a_text_is_tokenized_once(tiny_model, lesson, monkeypatch):
    train, targets, *_ = lesson
    model, seen = build(tiny_model), []
    tokens = Tokens(model, train)
    monkeypatch.setattr(Tokens, "__init__", lambda *_: seen.append(1))
    student.fit_head(model, train, targets, tokens=tokens)
    train_student(model, train, targets, replace(FAST, epochs=1), tokens=tokens)
    assert not seen


def test_pooled_features_are_the_backbones(tiny_model):
    texts = sentences(50)
    model = build(tiny_model, prompts={"query": "q: ", "document": ""})
    backbone = SentenceTransformer(modules=list(model.children())[:2], device="cpu")
    wanted = np.concatenate(
        [backbone.encode([model.prompts[t.role.value] + t.text]) for t in texts]
    )
    np.testing.assert_allclose(
        student.pooled(model, texts),
        wanted,
        atol=2e-2 if models.best_dtype("cpu") == torch.bfloat16 else 1e-5,
    )
    np.testing.assert_array_equal(
        student.pooled(model, texts, np.arange(5, 9)), student.pooled(model, texts[5:9])
    )


def test_plain_strings_are_documents(tiny_model, lesson):
    train, targets, *_ = lesson
    plain, roles = [text.text for text in train], [Text(text.text) for text in train]
    states = []
    for texts in (plain, roles):
        model = build(tiny_model)
        with pytest.warns(
            UserWarning, match="no query among the training texts.*data.crop_queries"
        ):
            student.fit_head(model, texts, targets)
            train_student(model, texts, targets, replace(FAST, epochs=1))
        states.append(model.state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
