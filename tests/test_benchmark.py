import json
import shutil
import threading

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from tests.conftest import HashTeacher, lines
from workbench import data, evaluate
from workbench.cache import TargetCache
from workbench.errors import BenchmarkError
from workbench.extras import benchmark, tasks
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
    selected = tasks.tasks([task_folders / name for name in KINDS])
    folder = tmp_path_factory.mktemp("results")
    return benchmark.run(models[0], selected, folder), folder


def test_every_model_gets_a_score_and_samples_that_mean_it(outcomes, models):
    results, folder = outcomes
    assert len(results) == 15 and {result.task: result.kind for result in results} == KINDS
    for result in results:
        if result.kind in ("Retrieval", "STS", "PairClassification"):
            score = benchmark.score_of(**result.per_sample)
            assert score == pytest.approx(result.score, abs=1e-3)
    (path,) = folder.rglob("workbench__mine/*/search.json")
    (score,) = (r.score for r in results if (r.task, r.label) == ("search", "symmetric"))
    assert mteb.results.TaskResult.from_disk(path).get_score() == score
    encoded = models[2].encoded
    assert len(encoded) == len(set(encoded)), "the teacher encodes each text once"
    table = benchmark.scores(results)
    alike = table[table["kind"] != "Retrieval"]
    assert (alike["symmetric"] == alike["asymmetric"]).all(), "the pair is the student alone"
    assert table.loc["search", "symmetric"] != table.loc["search", "asymmetric"]


def test_retrieval_is_what_we_measure_ourselves(task_folders, models, outcomes):
    _, model, _, cache = models
    collection = data.read_dataset(task_folders / "search")
    queries = encode(model, collection.query_texts())
    documents = encode(model, collection.document_texts())
    teachers = np.asarray(cache.targets(collection.document_texts()), dtype=np.float32)
    for label, vectors in (("symmetric", documents), ("asymmetric", teachers)):
        ours = evaluate.score(collection, queries, vectors)["ndcg_at_10"]
        (theirs,) = (r for r in outcomes[0] if (r.task, r.label) == ("search", label))
        assert theirs.score == pytest.approx(ours.mean(), abs=1e-4)
        third = theirs.per_sample["values"][theirs.per_sample["keys"].index("q3")]
        assert third == pytest.approx(ours["q3"], abs=1e-6)


def test_a_second_run_embeds_nothing(task_folders, models, outcomes, monkeypatch):
    selected = tasks.tasks([task_folders / name for name in KINDS])
    monkeypatch.setattr(mteb, "evaluate", lambda *_, **__: pytest.fail("evaluated again"))
    assert benchmark.run(models[0], selected, outcomes[1]) == outcomes[0]


def test_other_data_and_half_written_results_are_run_again(task_folders, models, tmp_path):
    copy = tmp_path / "data" / "search"
    shutil.copytree(task_folders / "search", copy)
    texts = []

    def run():
        texts.clear()
        return benchmark.run(
            models[0][1:2],
            tasks.tasks([copy]),
            tmp_path / "results",
            on_progress=lambda progress: texts.append(progress.texts),
        )

    first = run()
    assert max(texts) == 42
    assert run() == first and max(texts) == 0
    result = next((tmp_path / "results").rglob("search.json"))
    result.write_text(result.read_text()[:50])
    assert run() == first and max(texts) == 42
    with (copy / "corpus.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "new", "text": "one more"}) + "\n")
    run()
    assert max(texts) == 43


def test_a_stop_keeps_what_is_finished(task_folders, models, tmp_path):
    stop, results = threading.Event(), []

    def on_progress(progress):
        if progress.done:
            results[:] = progress.results
            stop.set()

    selected = tasks.tasks([task_folders / name for name in ("search", "alike")])
    with pytest.raises(benchmark.Stopped, match="after 1 of 6"):
        benchmark.run(models[0], selected, tmp_path, on_progress=on_progress, stop=stop)
    assert benchmark.run(models[0], selected, tmp_path)[:1] == results


def test_a_hub_that_cannot_be_reached_keeps_what_is_finished(models, task_folders, tmp_path):
    selected = tasks.tasks([task_folders / "alike", "SciFact"])
    with pytest.raises(BenchmarkError, match="SciFact could not be run.*1 of 2"):
        benchmark.run(models[0][:1], selected, tmp_path)
    assert len(list(tmp_path.rglob("alike.json"))) == 1


def test_a_revision_changes_with_whatever_changes_vectors(tiny_model):
    from sentence_transformers.models import Pooling

    model = SentenceTransformer(str(tiny_model), device="cpu")
    first = benchmark.of_model(model, "a").revision
    assert benchmark.of_model(tiny_model, "named").revision == first
    model[1] = Pooling(32, pooling_mode="cls")
    assert benchmark.of_model(model, "a").revision != first
    model = SentenceTransformer(str(tiny_model), device="cpu", prompts={"query": "find: "})
    assert benchmark.of_model(model, "a").revision != first


def test_names():
    assert len(tasks.tasks(["BEIR", "STS12"])) == 16
    for names, words in ((["SciFcat"], "SciFact"), (["SciFact", "SciFact"], "twice")):
        with pytest.raises(BenchmarkError, match=words):
            tasks.tasks(names)


@pytest.mark.parametrize("line", [{"words": "a"}, {"text": "b", "label": None}])
def test_refuses_task_folders(tmp_path, line):
    lines(tmp_path / "test.jsonl", [line])
    with pytest.raises(BenchmarkError, match=tmp_path.name):
        tasks.tasks([tmp_path])


def result(task, kind, label, values):
    keys = [str(i) for i in range(len(values))]
    units = {"metric": "mean", "values": list(values), "keys": keys}
    score = float(np.mean(values))
    return benchmark.TaskResult(task, kind, "ndcg_at_10", label, score, units)


def test_intervals_and_averages():
    large = np.random.default_rng(0).random(200)
    results = [
        result("a", "Retrieval", "teacher", large),
        result("a", "Retrieval", "symmetric", large * 0.9),
        result("b", "Retrieval", "teacher", [0.8, 0.8]),
        result("b", "Retrieval", "symmetric", [0.4, 0.4]),
        result("c", "STS", "teacher", [0.5, 0.5]),
        result("c", "STS", "symmetric", [0.5, 0.5]),
        result("d", "STS", "teacher", [0.1, 0.1]),  # not of every label, so in no mean
    ]
    rows = benchmark.differences(results).set_index("task")
    shares = rows.loc["a", ["share_low", "share_high"]].astype(float)
    assert shares.to_numpy() == pytest.approx([0.9, 0.9])
    assert rows.loc["a", "low"] < rows.loc["a", "difference"] < rows.loc["a", "high"] < 0
    assert rows.loc["a", "samples"] == 200 and rows.loc["b", "share_of_teacher"] == 0.5
    means = benchmark.by_kind(results)
    by_task, by_kind = (large.mean() + 1.3) / 3, ((large.mean() + 0.8) / 2 + 0.5) / 2
    assert means.loc["mean over tasks", "teacher"] == pytest.approx(by_task)
    assert means.loc["mean over kinds", "teacher"] == pytest.approx(by_kind)
    assert means.loc["Retrieval", "tasks"] == 2 and means.loc["mean over tasks", "tasks"] == 3
    assert means.loc["STS", "symmetric share"] == 1
    with pytest.raises(BenchmarkError, match="no score of the teacher on a"):
        benchmark.differences(results[1:])


def test_published_figures_agree_with_their_own_averages():
    table = benchmark.published()
    assert table["source"].notna().all() and table["score"].between(0, 1).all()
    per_task = table[(table["benchmark"] == "BEIR") & table["task"].notna()]
    for model, mode, count in (
        ("redact-ir", "symmetric", 14),
        ("redact-ir", "asymmetric", 14),
        ("leaf-ir", "symmetric", 15),
        ("snowflake-arctic-embed-m-v1.5", "teacher", 15),
    ):
        means = table[table["benchmark"] == f"BEIR, {count} sets"]
        scores, (mean,) = (
            rows.loc[(rows["model"] == model) & (rows["mode"] == mode), "score"]
            for rows in (per_task, means)
        )
        assert len(scores) == count and scores.mean() == pytest.approx(mean, abs=6e-4)
    assert set(per_task["task"]) <= {t.metadata.name for t in mteb.get_benchmark("BEIR").tasks}
