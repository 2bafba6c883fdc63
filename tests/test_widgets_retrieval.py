"""The retrieval explorer and the model comparison, without a browser: what they hold and what they would show."""

import json
import re
import threading

import numpy as np
import pandas as pd
import pytest

from workbench import agreement, evaluate, ranking
from workbench.data import RetrievalDataset
from workbench.errors import WorkbenchError
from workbench.evaluate import CAUSES
from workbench.widgets import ModelComparison, RetrievalExplorer

EVIL = "<script>window.broken = true</script><img src=x onerror=alert(1)>"
MODES = {
    "teacher": ("teacher", "teacher"),
    "symmetric": ("student", "student"),
    "asymmetric": ("student", "teacher"),
}


def world(queries=12, documents=60, d=16):
    """A collection with hostile ids and texts, and vectors of both sides that agree in part."""
    rng = np.random.default_rng(0)
    texts = [f"{EVIL} document {i} مرحبا 😀" for i in range(documents)]
    texts[3] = "x" * 100_000
    ids = [f"d{i}{EVIL if i == 5 else ''}" for i in range(documents)]
    document_vectors = rng.standard_normal((documents, d)).astype(np.float32)
    answers = rng.integers(0, documents, queries)
    noise = 0.7 * rng.standard_normal((queries, d))
    teacher = (document_vectors[answers] + noise).astype(np.float32), document_vectors
    student = tuple((v + 0.8 * rng.standard_normal(v.shape)).astype(np.float32) for v in teacher)
    collection = RetrievalDataset(
        "<b>made</b>",
        corpus=dict(zip(ids, texts, strict=True)),
        queries={f"q{i}": f"{EVIL} query {i} شكرا" for i in range(queries)},
        qrels={
            f"q{i}": {ids[answer]: 2, ids[(answer + 1) % documents]: 0}
            for i, answer in enumerate(answers)
        },
    )
    return collection, {"teacher": teacher, "student": student}


@pytest.fixture
def made():
    return world()


def check_results(view, made, query_vectors, k=10):
    collection, sides = made
    ids = list(collection.corpus)
    for mode, (asking, answering) in MODES.items():
        cosines, positions = ranking.top_k(query_vectors[asking][None], sides[answering][1], k)
        rows = view.results[view.results["mode"] == mode]
        assert list(rows["document_id"]) == [ids[place] for place in positions[0]]
        assert list(rows["rank"]) == list(range(1, k + 1))
        np.testing.assert_allclose(rows["cosine"], cosines[0], atol=1e-5)


def test_results_and_scores_are_those_of_a_search(made):
    collection, sides = made
    view = RetrievalExplorer(*made)
    for place, query in enumerate(collection.queries):
        view.select(query)
        check_results(view, made, {side: v[0][place] for side, v in sides.items()})
        expected = view.results["document_id"].map(collection.qrels[query]).astype("Int64")
        pd.testing.assert_series_equal(view.results["grade"], expected, check_names=False)
    for mode, (asking, answering) in MODES.items():
        scores = evaluate.score(collection, sides[asking][0], sides[answering][1])
        assert (view.scores[mode] == scores["ndcg_at_10"]).all()
    gains = view.scores["symmetric"] - view.scores["teacher"]
    assert (view.scores["symmetric_gain"] == gains).all() and gains.abs().max() > 0.1
    assert f"{view.scores['teacher'].mean():.3f}" in view.summary()


def test_each_failing_query_says_why():
    collection, sides = world(queries=40)
    view = RetrievalExplorer(collection, sides)
    assert len(view.failures) >= 3 and set(view.failures["cause"]) <= set(CAUSES)
    view.select(view.failures.index[0])
    cause = CAUSES[view.failures["cause"].iloc[0]]
    assert cause in view.heading.value and cause in str(view.rows._content)


def test_clicks_select_a_query(made):
    view, seen = RetrievalExplorer(*made), []
    view.observe(lambda change: seen.append(change["new"]), "query")
    assert view.query == "q0"
    view.rows._handle_custom_msg({"kind": "pick", "key": 7}, [])
    assert view.query == "q7" and view.rows.selected == (7,) and seen == ["q7"]
    gains = view.scores["asymmetric_gain"]
    symmetric, trace = view.chart.figure.data
    assert trace.y[0] == gains.min() and list(trace.y) == sorted(trace.y)
    assert (
        symmetric.y[0] == view.scores["symmetric_gain"].iloc[gains.argmin()]
    )  # one above the other
    view.chart._received({"kind": "click", "trace": 1, "point": 0}, [])
    assert view.query == gains.idxmin()


def test_typing(made):
    _, sides = made
    encode = {name: lambda text, name=name: sides[name][0][4] * 3 for name in sides}
    view = RetrievalExplorer(*made, encode=encode)
    view.box.value = f"typed {EVIL}"  # as Enter does
    assert view.query is None and view.text == f"typed {EVIL}" and view.rows.selected == ()
    check_results(view, made, {side: v[0][4] for side, v in sides.items()})
    assert view.results["grade"].isna().all()
    assert "encode " in view.lists.columns[0]["times"]
    view.rows._handle_custom_msg({"kind": "pick", "key": 4}, [])
    assert view.query == "q4" and view.box.value == ""
    assert "encode" not in view.lists.columns[0]["times"]
    view.box.value = "   "
    assert view.query == "q4"
    view = RetrievalExplorer(*made, encode={"student": encode["student"]})
    view.ask("words")
    assert set(view.results["mode"]) == {"symmetric", "asymmetric"}
    assert "no encoder" in view.lists.columns[0]["facts"]
    assert RetrievalExplorer(*made).box.disabled


@pytest.mark.parametrize("vector", [np.ones(5), np.full(16, np.nan), RuntimeError(EVIL)])
def test_an_encoder_that_fails_is_named_on_the_page(made, vector):
    def encode(text):
        if isinstance(vector, Exception):
            raise vector
        return vector

    view = RetrievalExplorer(*made, encode={"teacher": encode})
    view.box.value = "words"
    assert "error" in view.status.value and "<script" not in view.status.value
    assert view.query == "q0"  # what was shown stays


def test_nothing_of_the_collection_becomes_markup(made):
    view = RetrievalExplorer(*made, encode={"teacher": lambda text: made[1]["teacher"][0][0]}, k=60)
    view.select("q3")
    for text in (None, EVIL):
        if text:
            view.ask(text)
        for page in (view.summary(), view.heading.value, view.status.value):
            assert "<script" not in page and "<img" not in page
    assert "&lt;script&gt;" in view.summary() and "<script>window" not in view.to_html()
    assert len(json.dumps(view.lists._content)) < 500_000  # it is sent with every answer
    assert not any("<script" in text for trace in view.chart.figure.data for text in trace.text)


def test_marks_and_lines_say_what_moved():
    judgments = {"q": {"a": 1, "d": 0}}
    collection = RetrievalDataset("c", {name: name for name in "abcd"}, {"q": "words"}, judgments)
    documents = np.eye(4, dtype=np.float32)
    teacher = np.array([[0.9, 0.3, 0.1, 0]], dtype=np.float32), documents
    student = np.array([[0.3, 0.9, 0, 0.1]], dtype=np.float32), documents
    view = RetrievalExplorer(collection, {"teacher": teacher, "student": student}, k=3)
    assert list(view.results["document_id"]) == [*"abc", *"bad", *"bad"]
    first, second, third = (
        [mark["text"] for row in column["rows"] for mark in row["marks"]]
        for column in view.lists.columns
    )
    assert first == ["★ grade 1"]
    assert second == ["↑1", "↓1", "★ grade 1", "+ new", "☆ grade 0"]
    assert third == second  # both against the first list
    assert "2 of 3 as in the first list" in view.lists.columns[1]["facts"]
    # Ranks in one list and in the next.
    assert view.lists._content["links"] == [[(1, 2), (2, 1)], [(1, 1), (2, 2), (3, 3)]]


def test_models_of_any_names_and_widths(made):
    collection, sides = made
    narrow = tuple(vectors[:, :8] for vectors in sides["teacher"])
    models = {"large": sides["teacher"], "near": sides["student"], "narrow": narrow}
    view = RetrievalExplorer(collection, models)
    assert list(view.modes) == ["large", "near, symmetric", "near, asymmetric", "narrow, symmetric"]
    assert view.modes["near, asymmetric"] == ("near", "large")
    assert [column["title"] for column in view.lists.columns] == list(view.modes)
    with pytest.raises(WorkbenchError, match="k is 0"):
        RetrievalExplorer(collection, models, k=0)
    with pytest.raises(WorkbenchError, match="'large'"):
        RetrievalExplorer(collection, models | {"large": (narrow[0][:-1], narrow[1])})


def test_a_model_encodes_what_is_typed(made, hash_teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    view = RetrievalExplorer(made[0], {"teacher": hash_teacher, "student": made[1]["student"]}, k=3)
    view.ask("words")
    assert "encode" in view.lists.columns[0]["times"] and len(view.results) == 3


def test_queries_without_judgments_have_no_score(made):
    collection, _ = made
    del collection.qrels["q1"]
    view = RetrievalExplorer(*made)
    assert view.scores.loc["q1"].isna().all() and view.scores["teacher"].notna().sum() == 11
    assert len(view.chart.figure.data[0].y) == 11
    collection.qrels.clear()
    view = RetrievalExplorer(*made)
    assert view.scores.isna().all(axis=None) and len(view.results) == 30


def test_calls_from_several_threads_leave_one_query_shown_whole(made):
    collection, sides = made
    view = RetrievalExplorer(*made)
    threads = [
        threading.Thread(target=lambda i=i: [view.select(f"q{(i + j) % 12}") for j in range(12)])
        for i in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    place = list(collection.queries).index(view.query)
    assert view.rows.selected == (place,) and f">{view.query}<" in view.heading.value
    check_results(view, made, {side: v[0][place] for side, v in sides.items()})


# --- the comparison ---

TEXTS = [f"{EVIL} text {i} سلام" for i in range(199)] + ["y" * 100_000]
FAR = f"far {EVIL}"


@pytest.fixture(scope="module")
def clouds():
    rng = np.random.default_rng(1)
    teacher = rng.standard_normal((200, 12)).astype(np.float32)
    return {
        "teacher": teacher,
        "near": teacher + 0.2 * rng.standard_normal(teacher.shape).astype(np.float32),
        FAR: teacher + 0.9 * rng.standard_normal(teacher.shape).astype(np.float32),
        "narrow": teacher[:, :6],
    }


@pytest.fixture(scope="module")
def comparison(clouds):
    return ModelComparison(clouds, TEXTS)


def test_the_table_holds_the_measures_of_each_model(clouds, comparison):
    table = comparison.table
    assert list(table.index) == ["near", FAR, "narrow"]
    for name in table.index:
        expected = agreement.summary(clouds["teacher"], clouds[name])["value"]
        np.testing.assert_allclose(table.loc[name, expected.index].astype(float), expected)
    row = table.loc["near"]
    assert row["cosine_low"] < row["cosine"] < row["cosine_high"] < row["cosine_low"] + 0.02
    assert table.loc["narrow", ["cosine", "squared_distance", "cosine_low"]].isna().all()
    (points,) = comparison.chart.figure.data
    assert list(points.x) == list(table["cosine"].dropna())
    np.testing.assert_allclose(points.x + points.error_x.array, table["cosine_high"].dropna())


def test_differences_of_two_models(clouds, comparison):
    assert "mean overlap" in comparison.status.value  # one of them is narrow
    assert comparison.differences["difference"].notna().all()
    comparison.second.value = FAR
    table = comparison.differences
    both = [agreement.per_text(clouds["teacher"], clouds[name])["cosine"] for name in ("near", FAR)]
    difference = both[0] - both[1]
    np.testing.assert_allclose(table["difference"], difference)
    assert list(table["text"]) == TEXTS
    mean, low, high = map(float, re.findall(r"[+-]\d\.\d{4}", comparison.status.value))
    assert mean == pytest.approx(difference.mean(), abs=1e-4)
    # Paired: narrower than the two models' own spreads would give.
    spread = 1.96 * difference.std() / np.sqrt(200)
    assert low < mean < high and high - low == pytest.approx(2 * spread, rel=0.15)
    assert comparison.texts._rows[0]["cells"][0] == str(difference.idxmax())
    comparison.select([5])
    assert comparison.texts.selected == (5,)
    page = comparison.summary()
    assert "<script" not in page and "<img" not in page and "&lt;script&gt;" in page
    assert not any("<" in name for name in comparison.chart.figure.layout.yaxis.ticktext)


def test_vectors_of_other_texts_are_refused(clouds):
    with pytest.raises(WorkbenchError, match="'near'"):
        ModelComparison({"teacher": clouds["teacher"], "near": clouds["near"][1:]}, TEXTS)
    alone = ModelComparison({"teacher": clouds["teacher"], "near": clouds["near"]}, TEXTS)
    assert len(alone.table) == 1 and alone.texts not in alone.children
