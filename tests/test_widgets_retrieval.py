"""The retrieval explorer and the model comparison, without a browser: what they hold and what they would show."""

import json
import threading
import time

import numpy as np
import pandas as pd
import pytest
from conftest import HashTeacher

from workbench import agreement, evaluate, ranking
from workbench.data import RetrievalDataset
from workbench.errors import WorkbenchError
from workbench.failures import CAUSES
from workbench.widgets import ModelComparison, RetrievalExplorer, retrieval_explorer

EVIL = "<script>window.broken = true</script><img src=x onerror=alert(1)>"
MODES = {
    "teacher": ("teacher", "teacher"),
    "symmetric": ("student", "student"),
    "asymmetric": ("student", "teacher"),
}


def world(queries=12, documents=60, d=16, seed=0):
    """A collection with hostile ids and texts, and vectors of both sides that agree in part."""
    rng = np.random.default_rng(seed)
    texts = [f"{EVIL} document {i} مرحبا 😀" for i in range(documents)]
    texts[3] = "x" * 100_000
    collection = RetrievalDataset(
        "<b>made</b>",
        corpus={f"d{i}{EVIL if i == 5 else ''}": text for i, text in enumerate(texts)},
        queries={f"q{i}": f"{EVIL} query {i} شكرا" for i in range(queries)},
        qrels={},
    )
    ids = list(collection.corpus)
    document_vectors = rng.standard_normal((documents, d)).astype(np.float32)
    answers = rng.integers(0, documents, queries)
    query_vectors = (document_vectors[answers] + 0.7 * rng.standard_normal((queries, d))).astype(
        np.float32
    )
    for i, answer in enumerate(answers):
        collection.qrels[f"q{i}"] = {ids[answer]: 2, ids[(answer + 1) % documents]: 0}
    teacher = query_vectors, document_vectors
    student = tuple((v + 0.8 * rng.standard_normal(v.shape)).astype(np.float32) for v in teacher)
    return collection, {"teacher": teacher, "student": student}


@pytest.fixture
def made():
    return world()


def view_of(made, **options):
    collection, sides = made
    return RetrievalExplorer(collection, sides, **options)


def test_each_failing_query_says_why():
    made = world(queries=40)
    view = view_of(made)
    assert len(view.failures) >= 3 and set(view.failures["cause"]) <= set(CAUSES)
    why = next(
        i for i, column in enumerate(view.rows._content["columns"]) if column["name"] == "why"
    )
    place = view.failures.index[0]
    view.select(place)
    assert CAUSES[view.failures["cause"].iloc[0]] in view.heading.value
    shown = {row["cells"][0]: row["cells"][why] for row in view.rows._rows}
    assert all(bool(cell) == (name in view.failures.index) for name, cell in shown.items())
    collection, sides = made
    narrow = sides | {"student": tuple(side[:, :8] for side in sides["student"])}
    assert RetrievalExplorer(collection, narrow).failures.empty


def check_results(view, made, query_vectors, k=10):
    collection, sides = made
    ids = list(collection.corpus)
    for mode, (asks, answers) in MODES.items():
        cosines, positions = ranking.top_k(query_vectors[asks][None], sides[answers][1], k)
        mine = view.results[view.results["mode"] == mode]
        assert list(mine["document_id"]) == [ids[p] for p in positions[0]]
        assert list(mine["rank"]) == list(range(1, k + 1))
        np.testing.assert_allclose(mine["cosine"], cosines[0], atol=1e-5)


def test_results_and_scores_are_those_of_a_search(made):
    collection, sides = made
    view = view_of(made)
    for place, query in enumerate(collection.queries):
        view.select(query)
        check_results(view, made, {side: v[0][place] for side, v in sides.items()})
        grades = collection.qrels[query]
        for row in view.results.itertuples():
            assert (
                pd.isna(row.grade)
                if row.document_id not in grades
                else row.grade == grades[row.document_id]
            )
    for mode, (asks, answers) in MODES.items():
        whole = evaluate.score(collection, sides[asks][0], sides[answers][1])
        assert (view.scores[mode] == whole["ndcg_at_10"]).all()
    assert (
        view.scores["symmetric_gain"] == view.scores["symmetric"] - view.scores["teacher"]
    ).all()
    assert view.scores["symmetric_gain"].abs().max() > 0.1  # else nothing was tested
    assert f"{view.scores['teacher'].mean():.3f}" in view.summary()


def test_clicks_select_a_query(made):
    view = view_of(made)
    seen = []
    view.observe(lambda change: seen.append(change["new"]), "query")
    assert view.query == "q0"
    view.rows._handle_custom_msg({"kind": "pick", "key": 7}, [])
    assert view.query == "q7" and view.rows.selected == (7,)
    view.rows._handle_custom_msg({"kind": "sort", "column": "nDCG@10 symmetric"}, [])
    best = view.rows._rows[0]["key"]
    view.rows._handle_custom_msg({"kind": "pick", "key": best}, [])
    assert view.query == f"q{best}"

    gains = view.scores["asymmetric_gain"]
    worst = int(np.argmin(gains))
    symmetric, trace = view.chart.figure.data
    assert trace.y[0] == gains.min() and list(trace.y) == sorted(trace.y)
    assert (
        symmetric.y[0] == view.scores["symmetric_gain"].iloc[worst]
    )  # the same query under itself
    view.chart._received({"kind": "click", "trace": 1, "point": 0}, [])
    assert view.query == f"q{worst}"
    assert (
        view.chart.figure.layout.xaxis.title.text
        and "nDCG@10" in view.chart.figure.layout.yaxis.title.text
    )
    assert seen[0] == "q7"

    view.find.value = "QUERY 11"
    assert list(view.rows.positions) == [11]
    view.find.value = ""
    assert len(view.rows.positions) == 12


def test_typing(made):
    _, sides = made
    asked = []

    def encode(side):
        def run(text):
            asked.append((side, text))
            return sides[side][0][4] * 3  # of any length

        return run

    view = view_of(made, encode={side: encode(side) for side in sides})
    view.box.value = f"typed {EVIL}"  # as Enter does
    assert asked == [(side, f"typed {EVIL}") for side in sides]
    assert view.query is None and view.text == f"typed {EVIL}" and view.rows.selected == ()
    check_results(view, made, {side: v[0][4] for side, v in sides.items()})
    assert view.results["grade"].isna().all()
    assert list(view.times["mode"]) == list(MODES) and (
        view.times[["encode_ms", "search_ms"]] >= 0
    ).all(axis=None)
    assert "encode " in view.lists.columns[0]["times"]
    view.rows._handle_custom_msg({"kind": "pick", "key": 4}, [])
    assert view.query == "q4" and view.box.value == ""  # so that the same words can be asked again
    assert view.times["encode_ms"].isna().all()
    view.box.value = f"typed {EVIL}"
    assert view.query is None and len(asked) == 4

    before = view.results
    view.box.value = "   "
    assert "empty" in view.status.value and view.results is before
    with pytest.raises(WorkbenchError, match="empty"):
        view.ask("")
    with pytest.raises(WorkbenchError, match="NUL"):
        view.ask("a\0b")


def test_one_encoder_is_enough_for_the_modes_that_need_no_other(made):
    _, sides = made
    view = view_of(made, encode={"student": lambda text: sides["student"][0][2]})
    view.ask("words")
    assert set(view.results["mode"]) == {"symmetric", "asymmetric"}
    assert [column["facts"].count("no encoder") for column in view.lists.columns] == [1, 0, 0]


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.ones(5), r"shape \(5,\), not \(16,\)"),
        (np.full(16, np.nan), "NaN"),
        (RuntimeError(f"out of memory {EVIL}"), "out of memory"),
    ],
)
def test_an_encoder_that_fails_is_named_on_the_page(made, vector, message):
    def encode(text):
        if isinstance(vector, Exception):
            raise vector
        return vector

    view = view_of(made, encode={"teacher": encode})
    with pytest.raises(WorkbenchError, match=message):
        view.ask("words")
    view.box.value = "words"
    assert "teacher" in view.status.value and "<script" not in view.status.value
    assert view.query == "q0"  # what was shown stays


def test_without_encoders_typing_is_off_and_said(made):
    view = view_of(made)
    assert view.box.disabled and "encode" in view.status.value
    with pytest.raises(WorkbenchError, match="encode="):
        view.ask("words")


def test_nothing_of_the_collection_becomes_markup(made):
    view = view_of(made, encode={"teacher": lambda text: made[1]["teacher"][0][0]}, k=60)
    view.select("q3")
    view.ask(EVIL)
    for page in (view.summary(), view.heading.value, view.status.value):
        assert "<script" not in page and "<img" not in page
    assert view.summary().count("&lt;script&gt;") > 50 and len(view.summary()) < 500_000
    assert 'dir="auto"' in view.summary()
    assert len(json.dumps(view.lists._content)) < 500_000  # it is sent with every answer
    assert not any("<script" in text for trace in view.chart.figure.data for text in trace.text)
    assert "text/html" in view._repr_mimebundle_()


def test_marks_and_lines_say_what_moved():
    collection = RetrievalDataset(
        "c", {name: name for name in "abcd"}, {"q": "words"}, {"q": {"a": 1, "d": 0}}
    )
    documents = np.eye(4, dtype=np.float32)
    teacher = np.array([[0.9, 0.3, 0.1, 0]], dtype=np.float32), documents
    student = np.array([[0.3, 0.9, 0, 0.1]], dtype=np.float32), documents
    view = RetrievalExplorer(collection, {"teacher": teacher, "student": student}, k=3)
    assert list(view.results["document_id"]) == [*"abc", *"bad", *"bad"]
    columns = view.lists.columns
    first, second, third = (
        [mark["text"] for row in column["rows"] for mark in row["marks"]] for column in columns
    )
    assert first == ["★ grade 1"]
    assert (
        second.count("+ new") == 1 and "↑1" in second and "↓1" in second and "☆ grade 0" in second
    )
    assert third == second  # both against the first list
    assert "2 of 3 as in the first list" in columns[1]["facts"]
    assert view.lists._content["links"] == [
        [(1, 2), (2, 1)],
        [(1, 1), (2, 2), (3, 3)],
    ]  # rank in one list, in the next


def test_models_of_any_names_and_widths(made):
    collection, sides = made
    narrow = tuple(v[:, :8] for v in sides["teacher"])
    models = {"large": sides["teacher"], "near": sides["student"], "narrow": narrow}
    view = RetrievalExplorer(collection, models)
    assert list(view.modes) == ["large", "near, symmetric", "near, asymmetric", "narrow, symmetric"]
    assert (
        view.modes["near, asymmetric"] == ("near", "large")
        and "large 16, near 16, narrow 8" in view.status.value
    )
    assert [column["title"] for column in view.lists.columns] == list(view.modes)
    view = RetrievalExplorer(collection, models, modes=["large", "narrow, symmetric"])
    assert set(view.results["mode"]) == {"large", "narrow, symmetric"}
    with pytest.raises(WorkbenchError, match="no mode 'wide'"):
        RetrievalExplorer(collection, models, modes=["wide"])
    view = RetrievalExplorer(collection, models | {"more": sides["student"]})
    assert (
        len(view.modes) == 4 and "Not shown: more, symmetric, more, asymmetric" in view.status.value
    )


def test_a_vector_that_was_kept_shows_no_time(made, hash_teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    view = RetrievalExplorer(
        made[0], {"teacher": hash_teacher, "student": HashTeacher(name="other")}, k=3
    )
    for took in (True, False):  # the second time nothing is embedded
        view.ask("the same words")
        assert (
            view.times["encode_ms"].notna().all() == took
            and ("encode" in view.lists.columns[0]["times"]) == took
        )


def test_a_search_does_not_normalize_again_and_is_quick(monkeypatch):
    rng = np.random.default_rng(0)
    n, d = 100_000, 64
    documents = rng.standard_normal((n, d), dtype=np.float32)
    queries = rng.standard_normal((2, d), dtype=np.float32)
    collection = RetrievalDataset(
        "large",
        {f"d{i}": "text" for i in range(n)},
        {"a": "one", "b": "two"},
        {"a": {"d1": 1}, "b": {"d2": 1}},
    )
    view = RetrievalExplorer(
        collection,
        {"teacher": (queries, documents), "student": (queries[::-1], documents)},
        encode={"teacher": lambda _: queries[1]},
    )
    sizes = []
    unit = retrieval_explorer.unit
    monkeypatch.setattr(
        retrieval_explorer, "unit", lambda v, *rest: (sizes.append(len(v)), unit(v, *rest))[1]
    )
    monkeypatch.setattr(ranking, "unit", None)
    start = time.perf_counter()
    view.select("b")
    view.ask("words")
    assert time.perf_counter() - start < 1  # milliseconds in truth; two cores may be busy
    assert sizes == [1]
    held = {id(v): v.nbytes for v in vars(view).values() if isinstance(v, np.ndarray)}
    assert not held and sum(v.nbytes for v in view._documents.values()) == 2 * documents.nbytes


def test_queries_without_judgments_have_no_score(made):
    collection, _ = made
    del collection.qrels["q1"]
    view = view_of(made)
    assert view.scores.loc["q1"].isna().all() and view.scores["teacher"].notna().sum() == 11
    assert len(view.chart.figure.data[0].y) == 11
    view.select("q1")
    assert not any("nDCG@10" in column["facts"] for column in view.lists.columns)
    collection.qrels.clear()
    view = view_of(made)
    assert (
        view.scores.isna().all(axis=None) and len(view.results) == 30 and "none" in view.summary()
    )


def test_calls_from_several_threads_leave_one_query_shown_whole(made):
    collection, sides = made
    view = view_of(made)
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


def test_what_does_not_fit_is_refused_before_the_work(made, monkeypatch):
    monkeypatch.setattr(evaluate, "score", None)
    collection, sides = made
    (tq, td), (sq, sd) = sides["teacher"], sides["student"]
    nan = td.copy()
    nan[4, 2] = np.nan
    empty = RetrievalDataset("none", collection.corpus, {}, {})
    for arguments, message in [
        ((collection, (tq[:-1], td), (sq, sd)), "'teacher': 11 vectors were given for 12 queries"),
        (
            (collection, (tq, td), (sq, sd[:-1])),
            "'student': 59 vectors were given for 60 documents",
        ),
        ((collection, (tq, nan), (sq, sd)), "'teacher': documents: 1 rows contain NaN.* row 4"),
        ((collection, tq, (sq, sd)), "'teacher': expected a pair"),
        ((empty, (tq, td), (sq, sd)), "12 vectors were given for 0 queries"),
    ]:
        with pytest.raises(WorkbenchError, match=message):
            RetrievalExplorer(
                arguments[0], dict(zip(["teacher", "student"], arguments[1:], strict=True))
            )
    for options, message in [({"k": 0}, "k is 0"), ({"encode": {"pupil": len}}, "'pupil'")]:
        with pytest.raises(WorkbenchError, match=message):
            view_of(made, **options)


def test_an_unknown_query_is_refused(made):
    with pytest.raises(WorkbenchError, match="no query 'nine'.*'q0'"):
        view_of(made).select("nine")


# --- the comparison ---


@pytest.fixture
def clouds():
    rng = np.random.default_rng(1)
    teacher = rng.standard_normal((200, 12)).astype(np.float32)
    return teacher, {
        "near": teacher + 0.2 * rng.standard_normal(teacher.shape).astype(np.float32),
        f"far {EVIL}": teacher + 0.9 * rng.standard_normal(teacher.shape).astype(np.float32),
        "narrow": teacher[:, :6],
    }


TEXTS = [f"{EVIL} text {i} سلام" for i in range(199)] + ["y" * 100_000]


def test_the_table_holds_the_measures_of_each_model(clouds):
    teacher, students = clouds
    view = ModelComparison({"teacher": teacher} | students)
    assert list(view.table.index) == list(students)
    for name, student in students.items():
        whole = agreement.summary(teacher, student)["value"]
        pd.testing.assert_series_equal(
            view.table.loc[name, whole.index], whole, check_names=False, check_dtype=False
        )
    row = view.table.loc["near"]
    assert row["cosine_low"] < row["cosine"] < row["cosine_high"] < row["cosine_low"] + 0.02
    assert view.table.loc["narrow", ["cosine", "squared_distance", "cosine_low"]].isna().all()
    assert view.rows._rows[2]["cells"][1] == ""
    view.rows._handle_custom_msg({"kind": "sort", "column": "cosine"}, [])
    assert [row["cells"][0] for row in view.rows._rows] == [f"far {EVIL}", "near", "narrow"]
    (points,) = view.chart.figure.data
    assert list(points.x) == list(view.table["cosine"].dropna())
    np.testing.assert_allclose(points.x + points.error_x.array, view.table["cosine_high"].dropna())


def test_differences(clouds):
    teacher, students = clouds
    far = f"far {EVIL}"
    view = ModelComparison({"teacher": teacher} | students, texts=TEXTS)
    table = view.differences("near", far)
    cosines = {
        name: agreement.per_text(teacher, students[name])["cosine"] for name in ("near", far)
    }
    expected = cosines["near"] - cosines[far]
    np.testing.assert_allclose(table["difference"], expected[table.index])
    assert (np.diff(table["difference"].abs()) <= 0).all() and set(table.index) == set(range(200))
    assert list(table["text"]) == [TEXTS[i] for i in table.index]
    assert table.attrs["low"] < table.attrs["mean"] < table.attrs["high"]
    # Paired: narrower than the two models' own spreads would give.
    spread = 1.96 * expected.std() / np.sqrt(200)
    assert table.attrs["high"] - table.attrs["low"] == pytest.approx(2 * spread, rel=0.15)
    back = view.differences(far, "near")
    assert list(back.index) == list(table.index)  # by size, whichever is better
    assert back.attrs["mean"] == pytest.approx(-table.attrs["mean"])
    narrow = view.differences(
        "near", "narrow"
    )  # one has no cosine to the teacher: neighbors are compared
    assert narrow.attrs["measure"] == "overlap" and narrow["difference"].notna().all()
    with pytest.raises(WorkbenchError, match="no model 'none': choose from near"):
        view.differences("near", "none")


def test_two_models_are_selected(clouds):
    teacher, students = clouds
    far = f"far {EVIL}"
    view = ModelComparison({"teacher": teacher} | students, texts=TEXTS)
    assert (view.first.value, view.second.value) == (
        "near",
        "narrow",
    ) and "mean overlap" in view.status.value
    view.second.value = far
    table = view.differences("near", far)
    assert f"{table.attrs['mean']:+.4f}" in view.status.value
    assert view.texts._rows[0]["cells"][0] == str(table.index[0])
    assert "<script" not in view.status.value
    page = view.summary()
    assert "<script" not in page and "<img" not in page and "&lt;script&gt;" in page
    assert not any("<" in name for name in view.chart.figure.layout.yaxis.ticktext)
    view.second.value = "near"
    assert "two different" in view.status.value and not view.texts._rows


def test_one_student_is_no_pair(clouds):
    teacher, students = clouds
    view = ModelComparison({"teacher": teacher, "near": students["near"]})
    assert "one model beside teacher" in view.status.value and len(view.table) == 1


def test_bad_input_of_the_comparison_is_refused_before_the_work(clouds, monkeypatch):
    monkeypatch.setattr(agreement, "per_text", None)
    teacher, students = clouds
    near = students["near"]
    nan = near.copy()
    nan[3] = np.nan
    for given, options, message in [
        ({}, {}, "expected 2 or more models by name"),
        ({"near": near[:-1]}, {}, "'near': 199 vectors were given for 200 texts"),
        ({"near": nan}, {}, "'near'.*NaN.* row 3"),
        ({"near": near}, {"texts": TEXTS[1:]}, "200 vectors were given for 199 texts"),
    ]:
        with pytest.raises(WorkbenchError, match=message):
            ModelComparison({"teacher": teacher} | given, **options)
