import json
import threading
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from tests.conftest import HashTeacher, sentences
from workbench import pipeline, planning, student
from workbench.cache import TargetCache
from workbench.data import Text
from workbench.errors import DataError, TrainingError, WorkbenchError
from workbench.student import Tokens
from workbench.teachers import ArrayTeacher
from workbench.train import TrainingConfig


def test_recipes_can_be_printed_copied_and_changed():
    for name, recipe in pipeline.RECIPES.items():
        assert (
            recipe.name == name and json.loads(json.dumps(recipe.as_dict()))["config"]["batch_size"]
        )
    paper, fast = pipeline.REDACT_IR, pipeline.REDACT_IR_FAST
    assert (paper.start, paper.config.group_by_length, paper.config.precision) == (
        "random",
        False,
        "float32",
    )
    assert (fast.start, fast.config.group_by_length, fast.config.precision) == (
        "closed-form",
        True,
        "auto",
    )
    assert (paper.config.batch_size, paper.config.restarts, paper.config.epochs) == (32, 3, 10)
    assert not pipeline.REDACT_MT.bias and pipeline.REDACT_IR.bias
    with pytest.raises(TrainingError, match="nearest are redact-ir"):
        pipeline.find_recipe("redact_ir")


def test_few_texts_are_passed_over_more_often():
    assert TrainingConfig(batch_size=16, epochs=2, restarts=1).with_steps(1500, 240).epochs == 100
    assert (
        TrainingConfig(batch_size=16, epochs=2, restarts=3).with_steps(1500, 250).epochs == 32
    )  # of 16 steps, three restarts
    assert TrainingConfig(epochs=2, restarts=1).with_steps(1500, 1_000_000).epochs == 2
    assert pipeline.TOUR.steps == 0 < pipeline.IN_DOMAIN.steps


def test_a_plan_is_arithmetic_on_measured_speeds():
    plan = planning.plan(
        pipeline.REDACT_IR.config, planning.Speeds("A card", 1000, 2000), 6_700_000, 768
    )
    assert plan.passes == 30 and plan.steps == 30 * 209_375
    assert plan.teacher_seconds == 6700 and plan.student_seconds == 100_500
    assert plan.bytes == 6_700_000 * 1552 and "A card" in str(plan)
    assert (
        planning.plan(pipeline.REDACT_IR.config, plan.speeds, 100, 768, missing=10).bytes == 15_520
    )
    with pytest.raises(TrainingError, match="above 0"):
        planning.Speeds("nothing", 0, 1)


def test_speeds_are_measured_with_the_real_thing(tiny_model):
    teacher = HashTeacher(32)
    model = student.build(tiny_model, 32, max_length=48, device="cpu")
    speeds = planning.measure(teacher, model, sentences(100), TrainingConfig(batch_size=16))
    assert speeds.teacher > 0 and speeds.student > 0 and "threads" in speeds.device
    assert 100 <= len(teacher.encoded) <= 108
    with pytest.raises(TrainingError, match="too few"):
        planning.measure(teacher, model, sentences(5), TrainingConfig())


@pytest.fixture
def tiny(tmp_path, monkeypatch, tiny_model, other_tiny_model):
    """Options of `distill` for tiny models, a few steps, and a folder of its own."""
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    return {
        "teacher": str(other_tiny_model), "base": str(tiny_model), "max_length": 40, "epochs": 1, "progress": False,
        "precision": "float32",
    }  # fmt: skip


def forbid(monkeypatch, what):
    def never(*_, **__):
        raise AssertionError("this must not run again")

    monkeypatch.setattr(what, never)


def test_texts_become_a_student_and_the_same_call_returns_it(tiny, monkeypatch):
    texts = sentences(60, seed=8)
    first = pipeline.distill(texts, **tiny)
    assert (
        isinstance(first, SentenceTransformer)
        and first.get_embedding_dimension() == 48
        and not first.training
    )
    forbid(monkeypatch, "workbench.pipeline.train_student")
    forbid(monkeypatch, "workbench.student.fit_head")
    again = pipeline.distill(texts, **tiny | {"base": Path(tiny["base"])})
    for name, tensor in first.state_dict().items():
        assert tensor.equal(again.state_dict()[name])
    (folder,) = (Path(pipeline.home()) / "students").iterdir()
    found = student.read_provenance(folder)
    assert (
        folder.name.startswith("in-domain-") and found["finished"] and found["base"] == tiny["base"]
    )
    assert found["head_fit"]["texts"] > 0 and found["settings"]["epochs"] == 1
    with pytest.raises(AssertionError, match="not run again"):
        pipeline.distill(texts, **tiny | {"seed": 1})


def test_plain_strings_and_one_role_are_enough(tiny, tmp_path):
    plain = [f"{text.text} and the garden by the river" for text in sentences(20, seed=8)]
    student_of = pipeline.distill(plain, **tiny, output=tmp_path / "mine")
    assert student_of.encode_query(["a garden"]).shape == (1, 48)
    roles = student.read_provenance(tmp_path / "mine")["texts_by_role"]
    assert 15 <= roles["document"] <= 20 and roles["query"] > 20  # cropped from the documents
    queries = [Text(text, "query") for text in plain]
    with pytest.warns(UserWarning, match="no document among"):
        pipeline.distill(queries, **tiny, output=tmp_path / "queries")


def test_what_is_held_out_is_not_learned_from(tiny, tmp_path, capsys):
    texts = sentences(60, seed=8)
    pipeline.distill(
        texts, **tiny | {"progress": True}, held_out=texts[:20], output=tmp_path / "mine"
    )
    assert "20 of 60 texts are held out: nothing is learned from them" in capsys.readouterr().out
    pipeline.distill(texts[20:], **tiny, held_out=texts[:20], output=tmp_path / "same")
    runs = [student.read_provenance(tmp_path / name)["run"] for name in ("mine", "same")]
    assert runs[0] == runs[1]
    with pytest.raises(
        TrainingError, match="held_out leaves 19 of 60 texts to learn from, and at least 20"
    ):
        pipeline.distill(texts, **tiny, held_out=texts[:41])


@pytest.mark.parametrize(
    ("texts", "kind", "words"),
    [
        (["one sentence about bread"], TrainingError, "1 different text is too few .* at least 20"),
        (["the same"] * 50, TrainingError, "1 different text is too few"),
        ([f"text {i}" for i in range(19)], TrainingError, "19 different texts are too few"),
        ([], DataError, "no texts"),
        ([" "] * 30, DataError, "all 30 texts are blank"),
        ([1, 2], DataError, "int"),
        (None, DataError, "NoneType|None"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*blank")
def test_what_cannot_be_distilled_is_said_in_a_sentence(tiny, texts, kind, words):
    with pytest.raises(kind, match=words):
        pipeline.distill(texts, **tiny)


def test_wrong_changes_are_said_in_a_sentence(tiny):
    with pytest.raises(TrainingError, match="no learning_rat.* it has base, .*learning_rate"):
        pipeline.distill(sentences(30), **tiny, learning_rat=1)
    with pytest.raises(TrainingError, match="must be closed-form, random or ready, or the folder"):
        pipeline.distill(sentences(30), **tiny, start="warm")
    for wrong, words in (
        ("turo", "no recipe 'turo'; the nearest are tour"),
        ("redact", "no recipe 'redact'; the nearest are redact-"),
        ("x", "no recipe 'x'; there are tour, in-domain, "),
    ):
        with pytest.raises(TrainingError, match=words):
            pipeline.distill(sentences(30), **tiny, recipe=wrong)
    for wrong, words in (
        ({"epochs": "1"}, "epochs is '1'; expected a whole number"),
        ({"learning_rate": -1}, "learning_rate is -1; expected a number above 0"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'; expected a number"),
        ({"max_length": "64"}, "max_length is '64'; expected a whole number of at least 3"),
        ({"steps": -1}, "steps is -1; expected a whole number of at least 0"),
    ):
        with pytest.raises(TrainingError, match=words):
            pipeline.distill(sentences(30), **tiny | wrong)
    changed = pipeline.TOUR.change(learning_rate=1e-6, epochs=3, base=None)
    assert (
        changed.config.final_learning_rate == 1e-6
        and changed.config.epochs == 3
        and changed.base == pipeline.TOUR.base
    )
    assert pipeline.IN_DOMAIN.change(epochs=3).steps == 0  # the passes that were asked for
    assert (
        pipeline.find_recipe(None, 300).name == "in-domain"
        and pipeline.find_recipe(None, 9000).name == "tour"
    )


def test_a_stopped_run_continues_without_fitting_the_head_again(tiny, tmp_path, monkeypatch):
    texts, stop = sentences(200, seed=8), threading.Event()
    cache = TargetCache(tmp_path / "cache", tiny["teacher"])
    recipe = pipeline.TOUR.change(base=tiny["base"], max_length=40, precision="float32", epochs=2)

    def run(output, **more):
        return pipeline.run(texts, cache, recipe, tmp_path / output, progress=False, **more)

    whole = run("whole", start_output=tmp_path / "start")
    assert (tmp_path / "start" / "modules.json").is_file()
    stopped = run("parts", stop=stop, on_step=lambda step: step.step == 7 and stop.set())
    assert stopped.result.stopped and not stopped.provenance["finished"]
    forbid(monkeypatch, "workbench.student.fit_head")
    done = run("parts")
    assert (
        done.provenance["finished"] and done.provenance["head_fit"] == whole.provenance["head_fit"]
    )
    for name, tensor in whole.student.state_dict().items():
        assert tensor.equal(done.student.state_dict()[name])
    assert not list(tmp_path.glob(".parts*"))
    stop.set()
    with pytest.raises(TrainingError, match="stopped; what is finished is kept"):
        run("other", stop=stop)


def test_a_damaged_student_is_made_again(tiny, tmp_path):
    texts = sentences(40, seed=8)
    pipeline.distill(texts, **tiny, output=tmp_path / "mine")
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"cut short")
    with pytest.warns(UserWarning, match="mine is made again"):
        pipeline.distill(texts, **tiny, output=tmp_path / "mine")
    assert student.load(tmp_path / "mine")


def test_a_closed_form_head_alone_is_a_student(tiny, tmp_path):
    cache = TargetCache(tmp_path / "cache", tiny["teacher"])
    recipe = pipeline.TOUR.change(base=tiny["base"], max_length=40)
    made = pipeline.run(
        sentences(40), cache, recipe, tmp_path / "start", train=False, progress=False
    )
    assert (
        made.result is None
        and made.provenance["settings"] is None
        and made.provenance["head_fit"]["texts"] == 40
    )


def test_a_student_that_training_did_not_improve_is_said_to_be_its_start(tiny, capsys):
    pipeline.distill(sentences(60), **tiny | {"progress": True, "start": "random"})
    assert "did not improve" not in capsys.readouterr().out
    pipeline.distill(sentences(60), **tiny | {"progress": True, "learning_rate": 1.0})
    assert (
        "Training did not improve on its start: the student of step 0 is kept"
        in capsys.readouterr().out
    )


def test_each_text_is_hashed_and_tokenized_once(tiny, tmp_path, monkeypatch):
    forbid(monkeypatch, "workbench.train.digest_of")
    hashed, tokenized, of_texts = [], [], Tokens.__init__
    key = TargetCache._key
    monkeypatch.setattr(
        TargetCache, "_key", lambda self, text: hashed.append(text) or key(self, text)
    )
    monkeypatch.setattr(
        Tokens,
        "__init__",
        lambda self, model, texts: tokenized.append(len(texts)) or of_texts(self, model, texts),
    )
    cache = TargetCache(tmp_path / "cache", tiny["teacher"])
    recipe = pipeline.TOUR.change(base=tiny["base"], max_length=40)
    texts = sentences(240)
    pipeline.run(texts, cache, recipe, tmp_path / "one", progress=False)
    assert tokenized == [228]  # twelve are held out


def test_existing_vectors_of_documents_are_enough(tmp_path, tiny_model, monkeypatch):
    """No queries are cropped for a teacher that has vectors of the given texts only; a wrong length shows before a fill."""
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    texts = [text.text for text in sentences(40)]
    vectors = np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32)
    values = {"base": str(tiny_model), "max_length": 40, "epochs": 1, "progress": False}
    model = pipeline.distill(texts, ArrayTeacher(texts, vectors), recipe="tour", **values)
    assert model.encode_document(texts[:2]).shape == (2, 16)
    with pytest.raises(WorkbenchError, match="max_length 99"):
        pipeline.distill(
            texts,
            ArrayTeacher(texts, vectors, "other"),
            recipe="tour",
            **values | {"max_length": 99},
        )
    assert not list(
        (tmp_path / "cache").glob("other-*/*.safetensors")
    )  # nothing was asked of the teacher
