import json

import pytest

from tests.conftest import HashTeacher, sentences
from workbench import pipeline, planning, student
from workbench.errors import TrainingError
from workbench.train import TrainingConfig


def test_recipes_can_be_printed_copied_and_changed():
    for name, recipe in pipeline.RECIPES.items():
        assert recipe.name == name and json.loads(json.dumps(recipe.as_dict()))["config"]["batch_size"]
    paper, fast = pipeline.REDACT_IR, pipeline.REDACT_IR_FAST
    assert (paper.start, paper.config.group_by_length, paper.config.precision) == ("random", False, "float32")
    assert (fast.start, fast.config.group_by_length, fast.config.precision) == ("closed-form", True, "auto")
    assert (paper.config.batch_size, paper.config.restarts, paper.config.epochs) == (32, 3, 10)
    assert not pipeline.REDACT_MT.bias and pipeline.REDACT_IR.bias
    with pytest.raises(TrainingError, match="nearest are redact-ir"):
        pipeline.recipe("redact_ir")


def test_few_texts_are_passed_over_more_often():
    assert TrainingConfig(batch_size=16, epochs=2, restarts=1).with_steps(1500, 240).epochs == 100
    assert (
        TrainingConfig(batch_size=16, epochs=2, restarts=3).with_steps(1500, 250).epochs == 32
    )  # of 16 steps, three restarts
    assert TrainingConfig(epochs=2, restarts=1).with_steps(1500, 1_000_000).epochs == 2
    assert pipeline.TOUR.steps == 0 < pipeline.IN_DOMAIN.steps


def test_a_plan_is_arithmetic_on_measured_speeds():
    plan = planning.plan(pipeline.REDACT_IR.config, planning.Speeds("A card", 1000, 2000), 6_700_000, 768)
    assert plan.passes == 30 and plan.steps == 30 * 209_375
    assert plan.teacher_seconds == 6700 and plan.student_seconds == 100_500
    assert plan.bytes == 6_700_000 * 1552 and "A card" in str(plan)
    assert planning.plan(pipeline.REDACT_IR.config, plan.speeds, 100, 768, missing=10).bytes == 15_520
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
