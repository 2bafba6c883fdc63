"""The retrieval explorer and the model comparison, without a browser."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

from workbench import agreement, evaluate, ranking
from workbench.data import RetrievalDataset
from workbench.errors import WorkbenchError
from workbench.widgets import ModelComparison, RetrievalExplorer
from workbench.widgets._view import MODES

EVIL = "<script>window.broken = true</script><img src=x onerror=alert(1)>"
RNG = np.random.default_rng(0)


def noisy(vectors, share):
    return (vectors + share * RNG.standard_normal(vectors.shape)).astype(np.float32)


DOCUMENTS = noisy(np.zeros((60, 16)), 1)
TEACHER = noisy(DOCUMENTS[5:45], 0.7), DOCUMENTS
SIDES = {"teacher": TEACHER, "student": tuple(noisy(vectors, 0.8) for vectors in TEACHER)}
IDS = [f"d{i}{EVIL if i == 5 else ''}" for i in range(60)]


@pytest.fixture
def collection():
    """40 queries and 60 documents with hostile ids and texts."""
    texts = [f"{EVIL} document {i} مرحبا 😀" for i in range(59)] + ["x" * 100_000]
    queries = {f"q{i}": f"{EVIL} query {i} شكرا" for i in range(40)}
    qrels = {f"q{i}": {IDS[i + 5]: 2, IDS[i + 6]: 0} for i in range(40)}
    return RetrievalDataset("<b>c</b>", dict(zip(IDS, texts, strict=True)), queries, qrels)


@pytest.fixture
def view(collection):
    return RetrievalExplorer(collection, SIDES)


def check_results(view, row):
    for mode, (asking, answering) in MODES.items():
        queries, documents = SIDES[asking][0], SIDES[answering][1]
        cosines, positions = ranking.top_k(queries[[row]], documents, 10)
        results = view.results[view.results["mode"] == mode]
        assert list(results["document_id"]) == [IDS[place] for place in positions[0]]
        assert list(results["rank"]) == list(range(1, 11))
        np.testing.assert_allclose(results["cosine"], cosines[0], atol=1e-5)


def test_results_and_scores_are_those_of_a_search(view, collection):
    for row, query in enumerate(collection.queries):
        view.select(query)
        check_results(view, row)
        expected = view.results["document_id"].map(collection.qrels[query]).astype("Int64")
        pd.testing.assert_series_equal(view.results["grade"], expected, check_names=False)
    for mode, (asking, answering) in MODES.items():
        scores = evaluate.score(collection, SIDES[asking][0], SIDES[answering][1])
        assert (view.scores[mode] == scores["ndcg_at_10"]).all()
    gains = view.scores["symmetric"] - view.scores["teacher"]
    assert (view.scores["symmetric_gain"] == gains).all() and gains.abs().max() > 0.1
    assert f"{view.scores['teacher'].mean():.3f}" in view.summary()


def test_each_failing_query_says_why(view):
    assert len(view.failures) >= 3 and set(view.failures["cause"]) <= set(evaluate.CAUSES)
    view.select(view.failures.index[0])
    cause = evaluate.CAUSES[view.failures["cause"].iloc[0]]
    assert cause in view.heading.value
    view.rows.filter([view.selected[0]])
    assert cause in str(view.rows._content)


def test_clicks_select_a_query(view):
    queries = []
    view.observe(lambda change: queries.append(change["new"]), "query")
    assert view.query == "q0"
    view.rows._handle_custom_msg({"kind": "pick", "key": 7}, [])
    assert view.query == "q7" and view.rows.selected == (7,) and queries == ["q7"]
    gains = view.scores["asymmetric_gain"]
    symmetric, trace = view.chart.figure.data
    assert trace.y[0] == gains.min() and list(trace.y) == sorted(trace.y)
    # A query's gains are one above the other.
    assert symmetric.y[0] == view.scores["symmetric_gain"].iloc[gains.argmin()]
    view.chart._received({"kind": "click", "trace": 1, "point": 0}, [])
    assert view.query == gains.idxmin()


def test_typing(collection):
    encode = {name: lambda text, name=name: SIDES[name][0][4] * 3 for name in SIDES}
    view = RetrievalExplorer(collection, SIDES, encode=encode)
    view.box.value = f"typed {EVIL}"  # as Enter does
    assert view.query is None and "typed" in view.heading.value and view.rows.selected == ()
    check_results(view, 4)
    assert view.results["grade"].isna().all()
    assert "encode " in view.lists.columns[0]["times"]
    view.rows._handle_custom_msg({"kind": "pick", "key": 4}, [])
    assert view.query == "q4" and view.box.value == ""
    assert "encode" not in view.lists.columns[0]["times"]
    view = RetrievalExplorer(collection, SIDES, encode={"student": encode["student"]})
    view.ask("words")
    assert set(view.results["mode"]) == {"symmetric", "asymmetric"}
    assert "no encoder" in view.lists.columns[0]["facts"]
    for vector in (np.ones(5), np.full(16, np.nan), EVIL):
        view = RetrievalExplorer(collection, SIDES, encode={"teacher": lambda text, v=vector: v})
        view.box.value = "words"
        assert "teacher" in view.status.value and "error" in view.status.value
        assert view.query == "q0"  # what was shown stays


def test_nothing_of_the_collection_becomes_markup(collection):
    encode = {"teacher": lambda text: TEACHER[0][0] if text == EVIL else 1 / 0}
    view = RetrievalExplorer(collection, SIDES, encode=encode, k=60)
    for text in (EVIL, f"{EVIL} fails"):
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


def test_models_of_any_names_widths_and_kinds(collection, hash_teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    narrow = tuple(vectors[:, :8] for vectors in TEACHER)
    models = {"large": hash_teacher, "near": SIDES["student"], "narrow": narrow}
    view = RetrievalExplorer(collection, models)
    assert list(view.modes) == ["large", "near, symmetric", "near, asymmetric", "narrow, symmetric"]
    assert view.modes["near, asymmetric"] == ("near", "large")
    assert [column["title"] for column in view.lists.columns] == list(view.modes)
    view.ask("words")
    assert "encode" in view.lists.columns[0]["times"] and len(view.results) == 10
    with pytest.raises(WorkbenchError, match="k is 0"):
        RetrievalExplorer(collection, models, k=0)


def test_queries_without_judgments_have_no_score(collection):
    del collection.qrels["q1"]
    view = RetrievalExplorer(collection, SIDES)
    assert view.scores.loc["q1"].isna().all() and view.scores["teacher"].notna().sum() == 39
    assert len(view.chart.figure.data[0].y) == 39
    collection.qrels.clear()
    view = RetrievalExplorer(collection, SIDES)
    assert view.scores.isna().all(axis=None) and len(view.results) == 30


def test_calls_from_several_threads_leave_one_query_shown_whole(view):
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(view.select, [f"q{i % 12}" for i in range(36)]))
    row = int(view.query[1:])
    assert view.rows.selected == (row,) and f">{view.query}<" in view.heading.value
    check_results(view, row)


# --- the comparison ---

TEXTS = [f"{EVIL} text {i} سلام" for i in range(199)] + ["y" * 100_000]
FAR = f"far {EVIL}"
CLOUD = noisy(np.zeros((200, 12)), 1)
CLOUDS = {
    "teacher": CLOUD,
    "near": noisy(CLOUD, 0.2),
    FAR: noisy(CLOUD, 0.9),
    "narrow": CLOUD[:, :6],
}


@pytest.fixture(scope="module")
def comparison():
    return ModelComparison(CLOUDS, TEXTS)


def test_the_table_holds_the_measures_of_each_model(comparison):
    table = comparison.table
    assert list(table.index) == ["near", FAR, "narrow"]
    for name in table.index:
        expected = agreement.summary(CLOUD, CLOUDS[name])["value"]
        np.testing.assert_allclose(table.loc[name, expected.index].astype(float), expected)
    row = table.loc["near"]
    assert row["cosine_low"] < row["cosine"] < row["cosine_high"] < row["cosine_low"] + 0.02
    assert table.loc["narrow", ["cosine", "squared_distance", "cosine_low"]].isna().all()
    (points,) = comparison.chart.figure.data
    assert list(points.x) == list(table["cosine"].dropna())
    np.testing.assert_allclose(points.x + points.error_x.array, table["cosine_high"].dropna())


def test_differences_of_two_models(comparison):
    assert "mean overlap" in comparison.status.value  # one of them is narrow
    assert comparison.differences["difference"].notna().all()
    comparison.second.value = FAR
    near, far = (agreement.per_text(CLOUD, CLOUDS[name])["cosine"] for name in ("near", FAR))
    np.testing.assert_allclose(comparison.differences["difference"], near - far)
    assert list(comparison.differences["text"]) == TEXTS
    mean, low, high = map(float, re.findall(r"[+-]\d\.\d{4}", comparison.status.value))
    assert mean == pytest.approx((near - far).mean(), abs=1e-4)
    # Paired: narrower than the two models' own spreads would give.
    spread = 1.96 * (near - far).std() / np.sqrt(200)
    assert low < mean < high and high - low == pytest.approx(2 * spread, rel=0.15)
    assert comparison.texts._rows[0]["cells"][0] == str((near - far).idxmax())
    comparison.select([5])
    assert comparison.texts.selected == (5,)
    page = comparison.summary()
    assert "<script" not in page and "<img" not in page and "&lt;script&gt;" in page
    assert not any("<" in name for name in comparison.chart.figure.layout.yaxis.ticktext)
