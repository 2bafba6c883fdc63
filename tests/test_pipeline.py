import json
import threading

import paper_texts
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import HashTeacher, sentences
from workbench import data, pipeline, planning, student
from workbench.data import Role, Text
from workbench.errors import DataError, TrainingError
from workbench.train import TrainingConfig


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Make a folder for each source of the paper, of the same configuration, split and column."""
    monkeypatch.setattr(paper_texts, "PART_ROWS", 3)
    where = {}
    for name in {source.data for source in paper_texts.PAPER}:
        where[name] = str(folder := tmp_path / "hub" / name.replace("/", "-"))
        folder.mkdir(parents=True)
        sources = [source for source in paper_texts.PAPER if source.data == name]
        for source in sources:
            rows = [f"{source.column} {i} of {source.name}" for i in range(5)] + ["bad\0", "x" * 9000]
            table = pa.table({"other": list(range(7)), source.column: rows})
            pq.write_table(table, folder / f"{source.split}.parquet")
        files = [{"split": source.split, "path": f"{source.split}.parquet"} for source in sources]
        configuration = {"config_name": sources[0].config or "default", "data_files": files}
        (folder / "README.md").write_text("---\n" + json.dumps({"configs": [configuration]}) + "\n---\n")
    return where


def test_the_mixture_is_streamed_with_its_roles(hub, tmp_path):
    seen = []
    folder = paper_texts.fetch(
        paper_texts.PAPER, tmp_path / "texts", elsewhere=hub, on_progress=lambda source, done: seen.append(done)
    )
    assert len(list(folder.iterdir())) == 3 * len(paper_texts.PAPER) and seen == [3, 6, 7] * 10
    texts = list(data.read_folder(folder))
    assert len(texts) == 60 and max(len(text.text) for text in texts) == paper_texts.CHARACTERS
    roles = {text.text.partition(" of ")[2]: text.role for text in texts if " of " in text.text}
    assert roles == {source.name: source.role for source in paper_texts.PAPER}
    assert sum(source.texts for source in paper_texts.PAPER if source.role is Role.DOCUMENT) == 3_900_000


def test_a_source_that_fails_costs_only_itself(hub, tmp_path):
    broken = hub | {paper_texts.PAPER[2].data: str(tmp_path / "gone")}
    with pytest.raises(DataError, match="gone .* could not be read"):
        paper_texts.fetch(paper_texts.PAPER, tmp_path / "texts", elsewhere=broken)
    kept = list((tmp_path / "texts").iterdir())
    assert len(kept) == 6 and all(path.name.startswith(("HuggingFaceFW-", "vblagoje-")) for path in kept)
    (tmp_path / "texts" / f"{paper_texts.PAPER[1].name}-0002.parquet").unlink()
    seen = []
    paper_texts.fetch(paper_texts.PAPER, tmp_path / "texts", elsewhere=hub, on_progress=lambda *done: seen.append(done))
    assert {done for source, done in seen if source == paper_texts.PAPER[0]} >= {3, 6}  # what was there is told too
    assert len(list(data.read_folder(tmp_path / "texts"))) == 60


def test_a_stop_leaves_no_half_a_file(hub, tmp_path):
    stop = threading.Event()
    stop.set()
    with pytest.raises(DataError, match="stopped"):
        paper_texts.fetch(paper_texts.PAPER, tmp_path / "texts", elsewhere=hub, stop=stop)
    assert list((tmp_path / "texts").iterdir()) == []


def test_sources_are_refused(hub, tmp_path):
    with pytest.raises(DataError, match="join them"):
        paper_texts.fetch(paper_texts.PAPER[:1] * 2, tmp_path)
    odd = paper_texts.Source(paper_texts.PAPER[1].data, "other", Role.DOCUMENT, 5)
    with pytest.raises(DataError, match="'other' has 0, which is no text"):
        paper_texts.fetch([odd], tmp_path / "texts", elsewhere=hub)
    wrong = paper_texts.Source(paper_texts.PAPER[1].data, "body", Role.DOCUMENT, 5)
    with pytest.raises(DataError, match="no column 'body'"):
        paper_texts.fetch([wrong], tmp_path / "texts", elsewhere=hub)


def test_a_sample_is_even_and_nested(tmp_path):
    for name, count in (("large", 500), ("small", 10)):
        rows = [{"text": f"{name} {i}", "role": "query" if i % 2 else "document"} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn = data.sample(tmp_path, 100)
    assert len(drawn) == len(set(drawn)) == 100
    sources = [text.text.split()[0] for text in drawn]
    assert sources.count("small") == 10 and "small" in sources[:50] and "small" in sources[50:]
    assert abs(sum(text.role is Role.QUERY for text in drawn) - 50) <= 1
    assert set(drawn) < set(data.sample(tmp_path, 200)) and drawn != data.sample(tmp_path, 100, seed=1)
    (tmp_path / "again.jsonl").write_text((tmp_path / "large.jsonl").read_text())
    assert len(data.sample(tmp_path, 9999)) == len(set(data.sample(tmp_path, 9999))) == 510
    with pytest.raises(DataError, match="no such folder"):
        data.sample(tmp_path / "nothing", 5)
    with pytest.raises(DataError, match="at least 1"):
        data.sample(tmp_path, 0)


def test_query_forms_are_pieces_of_documents():
    long = Text("A river runs by the old stone bridge. Too short. " + "word " * 60 + ".", Role.DOCUMENT)
    forms = data.crop_queries([long, Text("no query of a query is ever made", Role.QUERY), Text("", Role.DOCUMENT)], 8)
    assert 1 < len(forms) <= 8 and len(set(forms)) == len(forms)
    for form in forms:
        assert form.role is Role.QUERY and form.text in long.text and 5 <= len(form.text.split()) <= 25
    assert data.crop_queries([Text("x y", Role.DOCUMENT), long], 8) == forms  # whatever is around
    assert data.crop_queries([long], 8, seed=1) != forms


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
    few = [
        Text(f"The mill number {i} grinds the corn of the valley. It stands by the old river {i}.", "document")
        for i in range(20)
    ]
    more = data.with_at_least(few, 60)
    assert more[:20] == few and 20 < len(more) <= 60 and {t.role for t in more[20:]} == {Role.QUERY}
    assert data.with_at_least(few, 20) == few and data.with_at_least([], 20) == []


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
