import gzip
import json
import shutil
import sys
import threading

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from tests.conftest import HashTeacher, lines
from workbench import data, evaluate
from workbench.cache import TargetCache
from workbench.errors import BenchmarkError, WorkbenchError
from workbench.extras import benchmark, benchmark_tables, tasks
from workbench.models import encode

mteb = pytest.importorskip("mteb")
pytestmark = pytest.mark.filterwarnings("ignore")
KINDS = {
    "search": "Retrieval",
    "topics": "Classification",
    "groups": "Clustering",
    "alike": "STS",
    "same": "PairClassification",
}


@pytest.fixture(scope="module")
def models(tiny_model, tmp_path_factory):
    model = SentenceTransformer(str(tiny_model), device="cpu")
    teacher = HashTeacher(32)
    cache = TargetCache(tmp_path_factory.mktemp("cache"), teacher)
    large = benchmark.of_teacher(cache)
    small = benchmark.of_model(model, "symmetric", "mine")
    return [large, small, benchmark.of_pair(small, large)], model, teacher, cache


@pytest.fixture(scope="module")
def outcomes(task_folders, models, tmp_path_factory):
    found = tasks.tasks([task_folders / name for name in KINDS])
    folder = tmp_path_factory.mktemp("results")
    return benchmark.run(models[0], found, folder), folder


def test_task_folders_become_tasks_of_their_kind(task_folders):
    found = tasks.tasks([task_folders / name for name in KINDS])
    assert {task.metadata.name: task.metadata.type for task in found} == KINDS
    assert tasks.local(task_folders / "topics", kind="Clustering").metadata.type == "Clustering"


def test_every_model_gets_a_score_and_samples_that_mean_it(outcomes):
    done, folder = outcomes
    assert len(done) == 15 and all(-1 <= each.score <= 1 for each in done)
    for each in done:
        assert each.per_sample is not None
        if "values" in each.per_sample:
            assert np.mean(each.per_sample["values"]) == pytest.approx(each.score, abs=1e-3)
    (path,) = folder.rglob("workbench__mine/*/search.json")
    assert json.loads(path.read_text())["scores"]["test"][0]["main_score"] == pytest.approx(
        next(each.score for each in done if each.task == "search" and each.label == "symmetric"),
        abs=1e-5,
    )


def test_retrieval_is_what_we_measure_ourselves(task_folders, models, outcomes):
    _, model, _, cache = models
    collection = data.read_dataset(task_folders / "search")
    mine = encode(model, collection.query_texts()), encode(model, collection.document_texts())
    large = np.asarray(cache.targets(collection.document_texts()), dtype=np.float32)
    for label, documents in (("symmetric", mine[1]), ("asymmetric", large)):
        ours = evaluate.score(collection, mine[0], documents)["ndcg_at_10"]
        theirs = next(each for each in outcomes[0] if each.task == "search" and each.label == label)
        assert theirs.score == pytest.approx(ours.mean(), abs=1e-4)
        third = theirs.per_sample["values"][theirs.per_sample["ids"].index("q3")]
        assert third == pytest.approx(ours["q3"], abs=1e-6)


def test_the_pair_is_the_student_where_there_are_no_documents(outcomes):
    table = benchmark_tables.scores(outcomes[0])
    alike = table[table["kind"] != "Retrieval"]
    assert (alike["symmetric"] == alike["asymmetric"]).all()
    assert table.loc["search", "symmetric"] != table.loc["search", "asymmetric"]


def test_a_second_run_embeds_nothing(task_folders, models, outcomes, monkeypatch):
    _, folder = outcomes
    found = tasks.tasks([task_folders / name for name in KINDS])
    monkeypatch.setattr(mteb, "evaluate", lambda *_, **__: pytest.fail("evaluated again"))
    assert benchmark.run(models[0], found, folder) == outcomes[0]


def test_other_data_and_half_written_results_are_run_again(task_folders, models, tmp_path):
    large, small, _ = models[0]
    copy = tmp_path / "data" / "search"
    for path in (task_folders / "search").rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(task_folders / "search")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    seen = []

    def run():
        seen.clear()
        return benchmark.run(
            [small],
            tasks.tasks([copy]),
            tmp_path / "results",
            on_progress=lambda p: seen.append(p.texts),
        )

    first = run()
    assert max(seen) == 42
    assert run() == first and max(seen) == 0
    result = next((tmp_path / "results").rglob("search.json"))
    result.write_text(result.read_text()[:50])
    assert run() == first and max(seen) == 42
    with (copy / "corpus.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "new", "text": "one more"}) + "\n")
    run()
    assert max(seen) == 43
    assert large.revision != small.revision


def test_teacher_vectors_come_from_the_cache(task_folders, models, tmp_path):
    large, _, _ = models[0]
    _, _, teacher, _ = models
    before = len(teacher.encoded)
    benchmark.run([large], tasks.tasks([task_folders / "search"]), tmp_path)
    assert len(teacher.encoded) == before


def test_few_texts_without_a_vector_stop_nothing(task_folders, tmp_path, monkeypatch):
    """The share is of a task's corpus, however few texts are embedded at once."""
    monkeypatch.setattr(benchmark, "_BLOCK", 4)

    class Refusing(HashTeacher):
        def encode(self, texts, role, *, stop=None):
            found = super().encode(texts, role)
            found[[text == refused for text in texts]] = np.nan
            return found

    refused = json.loads((task_folders / "search" / "corpus.jsonl").read_text().splitlines()[3])[
        "text"
    ]
    found = tasks.tasks([task_folders / "search"])
    large = benchmark.of_teacher(TargetCache(tmp_path / "cache", Refusing(32), skip=0.04))
    assert benchmark.run([large], found, tmp_path / "results")[0].score > 0
    strict = benchmark.of_teacher(TargetCache(tmp_path / "cache", Refusing(32), skip=0.03))
    with pytest.raises(BenchmarkError, match=r"no vector of 1 of 30 texts, more than 0.03 .--skip"):
        benchmark.run([strict], found, tmp_path / "strict")


def test_a_stop_keeps_what_is_finished(task_folders, models, tmp_path):
    stop, kept = threading.Event(), []

    def one(outcome):
        kept.append(outcome)
        stop.set()

    found = tasks.tasks([task_folders / name for name in ("search", "alike")])
    with pytest.raises(benchmark.Stopped, match="after 1 of 6"):
        benchmark.run(models[0], found, tmp_path, on_outcome=one, stop=stop)
    assert len(kept) == 1
    assert benchmark.run(models[0], found, tmp_path)[0] == kept[0]


def test_a_failure_half_way_keeps_what_is_finished(task_folders, models, tmp_path):
    (broken := tmp_path / "broken").mkdir()
    lines(
        broken / "test.jsonl",
        [{"sentence1": "a", "sentence2": "b", "score": score} for score in (2, 3)],
    )
    found = tasks.tasks([task_folders / "alike", broken])
    lines(
        broken / "test.jsonl",
        [{"sentence1": "a", "sentence2": "b", "score": 2}, {"sentence1": "a", "score": 1}],
    )
    with pytest.raises(
        BenchmarkError, match=r"broken could not be run: .*line 2: no 'sentence2'.*3 of 6"
    ):
        benchmark.run(models[0], found, tmp_path / "results")
    assert len(list((tmp_path / "results").rglob("alike.json"))) == 3


def test_other_uses_and_other_data_of_one_name_are_kept_apart(task_folders, models, tmp_path):
    small = models[0][1]
    pairs, alike = (
        tasks.local(task_folders / "same", kind=kind) for kind in ("PairClassification", "STS")
    )
    first = benchmark.run([small], [pairs], tmp_path)[0]
    second = benchmark.run([small], [alike], tmp_path)[0]
    assert (first.metric, second.metric) == (
        "cosine_ap",
        "cosine_spearman",
    ) and first.score != second.score
    assert benchmark.run([small], [pairs], tmp_path)[0] == first


def test_a_revision_changes_with_whatever_changes_vectors(tiny_model):
    from sentence_transformers.models import Pooling

    model = SentenceTransformer(str(tiny_model), device="cpu")
    first = benchmark.of_model(model, "a").revision
    assert (
        benchmark.of_model(SentenceTransformer(str(tiny_model), device="cpu"), "b").revision
        == first
    )
    model[1] = Pooling(32, pooling_mode="cls")
    assert benchmark.of_model(model, "a").revision != first
    model = SentenceTransformer(str(tiny_model), device="cpu", prompts={"query": "find: "})
    assert benchmark.of_model(model, "a").revision != first


def test_edited_units_are_made_again(task_folders, models, tmp_path):
    found = tasks.tasks([task_folders / "alike"])
    first = benchmark.run(models[0][:1], found, tmp_path)
    (path,) = tmp_path.rglob("alike.units.json")
    for units in (5, {"ids": ["a"]}, {"scores": [1.0], "gold": [1.0, 2.0]}, "x"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"units": units}))
        assert benchmark.run(models[0][:1], found, tmp_path) == first


def test_a_hub_that_cannot_be_reached(models, task_folders, tmp_path):
    found = tasks.tasks([task_folders / "alike", "SciFact"])
    assert found[1].metadata.type == "Retrieval"
    with pytest.raises(
        BenchmarkError, match="SciFact could not be run.*1 of 2 evaluations are done and kept"
    ):
        benchmark.run(models[0][:1], found, tmp_path)


def test_benchmarks_by_name():
    assert len(tasks.tasks(["BEIR"])) == 15 and len(tasks.tasks(["MTEB(eng, v2)"])) == 41


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["SciFcat"], "nearest name.* .*SciFact"),
        (["/no/such/folder"], "no folder '/no/such/folder'"),
        (["SciFact", "SciFact"], "comes twice"),
        ([], "no task"),
        ([""], "no name"),
        ([__file__], "is a file"),
        (["CIFAR10"], "about image, not text alone"),
    ],
)
def test_refuses_names(names, words):
    with pytest.raises(BenchmarkError, match=words):
        tasks.tasks(names)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "is no task: neither corpus.jsonl"),
        ({"corpus.jsonl": [{"_id": 1, "text": "a"}]}, "queries.jsonl, .*qrels/test.tsv is missing"),
        ({"test.jsonl": [{"words": "a"}]}, "they have words"),
        ({"train.jsonl": [{"text": "a", "label": 1}]}, "neither corpus.jsonl"),
        ({"test.jsonl": [{"text": "a", "label": "x"}] * 2}, "all texts have the label 'x'"),
        (
            {"test.jsonl": [{"text": "a", "label": "1"}, {"text": "b", "label": 1}]},
            "all strings or all whole numbers",
        ),
        (
            {"test.jsonl": [{"sentence1": "a", "sentence2": "b", "score": 1}] * 3},
            "all pairs have the same score",
        ),
        (
            {"test.jsonl": [{"sentence1": "a", "sentence2": "b", "score": [1]}]},
            r"the score is \[1\], not a number",
        ),
        (
            {"test.jsonl": [{"sentence1": "a", "sentence2": "b", "score": float("nan")}]},
            "nan, not a number",
        ),
    ],
)
def test_refuses_task_folders(tmp_path, files, words):
    for name, rows in files.items():
        lines(tmp_path / name, rows)
    with pytest.raises(BenchmarkError, match=words):
        tasks.tasks([tmp_path])


def test_packed_files_are_the_same_task(task_folders, tmp_path):
    for name in ("search", "topics"):
        shutil.copytree(task_folders / name, tmp_path / name)
        for path in list((tmp_path / name).rglob("*.*")):
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
        kind = tasks.local(tmp_path / name).metadata.type
        assert kind == tasks.local(task_folders / name).metadata.type
        packed, plain = (
            tasks._read(folder / name, "test", kind)["test"] for folder in (tmp_path, task_folders)
        )
        assert (
            packed["relevant_docs"] == plain["relevant_docs"]
            if kind == "Retrieval"
            else packed[:] == plain[:]
        )


def test_refuses_a_kind_that_the_folder_is_not_for(task_folders):
    with pytest.raises(BenchmarkError, match="for Retrieval, not for STS"):
        tasks.local(task_folders / "search", kind="STS")


def test_refuses_models(models, task_folders, tmp_path):
    _, small, _ = models[0]
    found = tasks.tasks([task_folders / "search"])
    with pytest.raises(BenchmarkError, match="the label 'symmetric'"):
        benchmark.run([small, small], found, tmp_path)
    wide = HashTeacher(48)
    other = benchmark.of_teacher(TargetCache(tmp_path, wide))
    with pytest.raises(BenchmarkError, match="vectors of 32 and teacher of 48"):
        benchmark.of_pair(small, other)
    with pytest.raises(BenchmarkError, match="at least one"):
        benchmark.run([], found, tmp_path)
    with pytest.raises(BenchmarkError, match="the label 'kind'"):
        benchmark.run([benchmark.of_model(models[1], "kind")], found, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchmarkError, match="cannot be written to"):
        benchmark.run([small], found, tmp_path / "file")


def test_means_are_over_the_same_tasks():
    done = [benchmark.TaskResult(*each) for each in (
        ("a", "STS", "m", "teacher", 0.9), ("b", "STS", "m", "teacher", 0.1), ("a", "STS", "m", "symmetric", 0.8),
    )]  # fmt: skip
    means = benchmark_tables.by_kind(done)
    assert means.loc["mean over tasks", "tasks"] == 1 and means.loc[
        "STS", "symmetric share"
    ] == pytest.approx(8 / 9)


def test_intervals_and_averages():
    def outcome(task, kind, label, values):
        units = {"ids": [str(i) for i in range(len(values))], "values": list(values)}
        return benchmark.TaskResult(task, kind, "ndcg_at_10", label, float(np.mean(values)), units)

    rng = np.random.default_rng(0)
    large = rng.random(200)
    done = [
        outcome("a", "Retrieval", "teacher", large),
        outcome("a", "Retrieval", "symmetric", large * 0.9),
        outcome("b", "Retrieval", "teacher", [0.8, 0.8]),
        outcome("b", "Retrieval", "symmetric", [0.4, 0.4]),
        outcome("c", "STS", "teacher", [0.5, 0.5]),
        outcome("c", "STS", "symmetric", [0.5, 0.5]),
    ]
    rows = benchmark_tables.differences(done).set_index("task")
    assert rows.loc["a", ["share_low", "share_high"]].astype(float).to_numpy() == pytest.approx(
        [0.9, 0.9]
    )
    assert rows.loc["a", "low"] < rows.loc["a", "difference"] < rows.loc["a", "high"] < 0
    assert rows.loc["a", "samples"] == 200 and rows.loc["b", "share_of_teacher"] == 0.5
    means = benchmark_tables.by_kind(done)
    assert means.loc["mean over tasks", "teacher"] == pytest.approx((large.mean() + 0.8 + 0.5) / 3)
    assert means.loc["mean over kinds", "teacher"] == pytest.approx(
        ((large.mean() + 0.8) / 2 + 0.5) / 2
    )
    assert means.loc["Retrieval", "tasks"] == 2 and means.loc["STS", "symmetric share"] == 1
    with pytest.raises(BenchmarkError, match="no score of 'teacher' on a"):
        benchmark_tables.differences(done[1:])


def test_published_figures_agree_with_their_own_averages():
    table = benchmark_tables.published()
    assert table["source"].notna().all() and table["score"].between(0, 1).all()
    per_task = table[(table["benchmark"] == "BEIR") & table["task"].notna()]
    for model, mode, count, bench in (
        ("redact-ir", "symmetric", 14, "BEIR, 14 sets"),
        ("redact-ir", "asymmetric", 14, "BEIR, 14 sets"),
        ("leaf-ir", "symmetric", 15, "BEIR, 15 sets"),
        ("snowflake-arctic-embed-m-v1.5", "teacher", 15, "BEIR, 15 sets"),
    ):
        mine = per_task[(per_task["model"] == model) & (per_task["mode"] == mode)]
        stated = table[
            (table["benchmark"] == bench) & (table["model"] == model) & (table["mode"] == mode)
        ]
        assert len(mine) == count and mine["score"].mean() == pytest.approx(
            stated["score"].item(), abs=6e-4
        )
    known = {task.metadata.name for task in mteb.get_benchmark("BEIR").tasks}
    assert set(per_task["task"]) <= known


def test_without_mteb_a_sentence_names_the_extra(monkeypatch, task_folders, models):
    monkeypatch.setitem(sys.modules, "mteb", None)
    for call in (
        lambda: tasks.tasks(["SciFact"]),
        lambda: benchmark.run(models[0], ["task"], "folder"),
    ):
        with pytest.raises(WorkbenchError, match=r"mteb needs the package .*\[benchmark\]"):
            call()


def test_a_model_may_be_named(tiny_model):
    named = benchmark.of_model(tiny_model, "named")
    loaded = benchmark.of_model(SentenceTransformer(str(tiny_model), device="cpu"), "loaded")
    assert named.revision == loaded.revision and named.dimension == 32
