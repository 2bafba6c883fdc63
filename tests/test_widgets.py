import functools
import re
import subprocess
import sys
import threading
from datetime import date, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import traitlets

from workbench import widgets
from workbench.data import Role, Text
from workbench.errors import WorkbenchError
from workbench.widgets import (
    AgreementExplorer,
    CacheProgress,
    ModelComparison,
    NeighborInspector,
    Table,
    TrainingMonitor,
    _view,
)

RNG = np.random.default_rng(0)
TEACHER = RNG.standard_normal((60, 12)).astype(np.float32)
STUDENT = TEACHER + 0.4 * RNG.standard_normal((60, 12)).astype(np.float32)
TEXTS = [Text(f"text {i} <script>bad()</script>", list(Role)[i % 2]) for i in range(60)]


@pytest.fixture
def explorer():
    view = AgreementExplorer(
        {"teacher": TEACHER, "student": STUDENT},
        TEXTS,
        umap=False,
        columns=pd.DataFrame({"topic": list("abc") * 20}),
    )
    yield view
    view.close()


def test_views_are_imported_when_they_are_named():
    code = (
        "import sys, workbench.widgets as w; assert not {'plotly', 'torch', 'ipywidgets'} & set(sys.modules)\n"
        "assert len(w.__all__) == 9 and set(w.__all__) <= set(dir(w))\n"
        "from workbench.widgets import AgreementExplorer, Table\n"
        "assert AgreementExplorer is w.AgreementExplorer"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in set(widgets.__all__) - {"BenchmarkBoard"}:  # which needs mteb
        assert getattr(widgets, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = widgets.Nothing


def test_table_sorts_pages_and_selects():
    table = Table(pd.DataFrame({"name": ["b", "c", "a"], "value": [2.0, np.nan, 1.0]}), page_rows=2)
    table._received({"kind": "sort", "column": "value"}, [])
    assert list(table.positions) == [2, 0, 1] and table._rows[0]["cells"] == ["a", "1.000"]
    table._received({"kind": "sort", "column": "value"}, [])
    assert list(table.positions) == [0, 2, 1] and table.order == ("value", True)
    table._received({"kind": "page", "page": 99}, [])
    assert [row["cells"] for row in table._rows] == [["c", ""]]
    table._received({"kind": "pick", "key": 0}, [])
    table._received({"kind": "pick", "key": 1, "range": True}, [])
    assert table.selected == (0, 2, 1)
    table._received({"kind": "pick", "key": 2, "add": True}, [])
    assert set(table.selected) == {0, 1}
    with pytest.raises(WorkbenchError, match="no column 'color'"):
        table.sort("color")


DECIMALS, HOURS = [Decimal("10"), Decimal("9"), None, Decimal("-1.5")], [10, 9, None, -1]


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(DECIMALS),
        pd.Series(DECIMALS, dtype=pd.ArrowDtype(pa.decimal128(5, 2))),
        pd.Series([None if h is None else timedelta(hours=h) for h in HOURS], dtype=object),
        pd.to_timedelta(pd.Series(HOURS), unit="h"),
        pd.Series([10**30, 9, None, -1], dtype=object),
        pd.Series([10, 9.5, None, Decimal(-1)], dtype=object),
        pd.Series([date(2020, 1, 1), date(999, 1, 1), None, date(99, 1, 1)], dtype=object),
        pd.Series(
            pd.Categorical(["high", "low", None, "lowest"], ["lowest", "low", "high"], ordered=True)
        ),
        pd.Series([[3], [2], None, [1]]),
        pd.Series([[3], [2], None, [1]], dtype=pd.ArrowDtype(pa.list_(pa.int64()))),
        pd.Series(
            [{"a": 3}, {"a": 2}, None, {"a": 1}],
            dtype=pd.ArrowDtype(pa.struct([("a", pa.int64())])),
        ),
        pd.Series([np.arange(3, 5), np.arange(2, 5), None, np.arange(1, 5)]),
        pd.Series(["b", "a", None, 7], dtype=object),  # mixed: as text
    ],
    ids=lambda column: f"{column.dtype} {type(column[0]).__name__}",
)
def test_columns_are_sorted_by_value_and_missing_values_come_last(column):
    table = Table(pd.DataFrame({"value": column}))
    table.sort("value")
    assert table.positions.tolist() == [3, 1, 0, 2]
    table.sort("value", True)
    assert table.positions.tolist() == [0, 1, 3, 2] and table._rows[3]["cells"] == [""]
    vectors = np.random.default_rng(0).standard_normal((2, 8, 4))
    columns = pd.DataFrame({"value": pd.concat([column, column], ignore_index=True)})
    view = AgreementExplorer(
        dict(zip("ab", vectors, strict=True)), list("abcdefgh"), columns=columns, umap=False
    )
    view.color.value = "value"
    view.rows.sort("value")
    view.select([0, 2])
    assert view.rows.positions.tolist() and "2 selected" in view.status.value
    view.close()


def test_selection_goes_to_every_part(explorer):
    explorer.select([3, 1, 2])
    assert explorer.selected == (1, 2, 3) and explorer.rows.selected == (1, 2, 3)
    assert list(np.frombuffer(explorer.points._selected, np.uint32)) == [1, 2, 3]
    assert sum(explorer.histogram.figure.data[1].y) == 3 and len(explorer.rows.positions) == 3
    assert len(explorer.selection) == 3 and "3 selected" in explorer.status.value
    explorer.select(explorer.table["cosine"] < explorer.table["cosine"].median())
    assert len(explorer.selected) == 30
    explorer.select(explorer.table.nsmallest(2, "cosine"))
    assert set(explorer.selected) == set(explorer.table["cosine"].argsort()[:2])
    explorer.select(explorer.table["cosine"] > 2)
    assert explorer.selected == ()
    explorer.select([])
    assert explorer.selection.empty and len(explorer.rows.positions) == 60
    with pytest.raises(WorkbenchError, match="positions 0 to 59"):
        explorer.select([60])


def test_views_of_the_same_texts_are_linked(explorer):
    inspector = NeighborInspector({"teacher": TEACHER, "student": STUDENT}, TEXTS)
    comparison = ModelComparison(
        {"teacher": TEACHER, "near": STUDENT, "far": -STUDENT}, texts=TEXTS
    )
    for view in (inspector, comparison):
        traitlets.link((explorer, "selected"), (view, "selected"))
    explorer.rows._received({"kind": "pick", "key": 7}, [])
    assert inspector.position == 7 and inspector.selected == comparison.selected == (7,)
    (row,) = comparison.texts.selected
    assert comparison.texts._frame["position"].iloc[row] == 7
    inspector.rows._received({"kind": "pick", "key": 9}, [])
    assert (
        explorer.selected == (9,)
        and list(explorer.selection.index) == [9]
        and explorer.rows.selected == (9,)
    )
    comparison.texts._received({"kind": "pick", "key": 0}, [])
    first = comparison.texts._frame["position"].iloc[0]
    assert explorer.selected == (first,) and inspector.position == first
    explorer.select(explorer.table["cosine"] > 0.9)
    assert (
        len(explorer.selected) > 1
        and inspector.selected == explorer.selected == comparison.selected
    )
    assert inspector.position == explorer.selected[0]
    explorer.select()
    assert inspector.selected == () and len(inspector.neighbors) == 20  # what was shown stays


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([60], "positions 0 to 59"),
        ([-1], "positions 0 to 59"),
        ([1.5], "whole numbers, not '1.5'"),
        (["a"], "whole numbers, not 'a'"),
        (None, "a list of positions, not None"),
        (np.ones(59, bool), "mask has 59 values, and there are 60 rows"),
        (pd.DataFrame(index=[99]), "there is no row 99; there are 60, such as 0"),
    ],
)
def test_every_selection_has_the_same_errors(explorer, rows, words):
    inspector = NeighborInspector({"teacher": TEACHER, "student": STUDENT}, TEXTS)
    comparison = ModelComparison({"teacher": TEACHER, "near": STUDENT}, texts=TEXTS)
    for view in (explorer, inspector, comparison, explorer.rows):
        view.select([7, 3, 7])
        with pytest.raises(WorkbenchError, match=words):
            view.select(rows)
        assert view.selected == (3, 7)
        if isinstance(rows, list):
            with pytest.raises(WorkbenchError, match=words):
                view.selected = tuple(rows)


def test_views_override_nothing_of_ipywidgets_by_accident():
    meant = {
        "close",
        "_repr_mimebundle_",
        "_esm",
        "_css",
        "_abc_impl",
        "_descriptors",
        "_instance_inits",
        "_traits",
    }
    meant |= {
        "_all_trait_default_generators",
        "_static_immutable_initial_values",
        "_trait_default_generators",
    }
    for name in set(widgets.__all__) - {"BenchmarkBoard"}:
        kinds = getattr(widgets, name).__mro__
        ours = {
            n
            for kind in kinds
            if kind.__module__.startswith("workbench")
            for n in vars(kind)
            if n[:2] != "__"
        }
        theirs = {
            n for kind in kinds if not kind.__module__.startswith("workbench") for n in vars(kind)
        }
        assert not (ours & theirs) - meant, name
    view = ModelComparison({"teacher": TEACHER, "near": STUDENT, "far": -STUDENT}, texts=TEXTS)
    assert "text/html" in view._repr_mimebundle_()


def test_closing_a_view_closes_its_parts():
    for view in (
        AgreementExplorer({"teacher": TEACHER, "student": STUDENT}, TEXTS, umap=False),
        NeighborInspector({"teacher": TEACHER, "student": STUDENT}, TEXTS),
        TrainingMonitor(),
        CacheProgress(),
    ):
        parts = list(_view._parts(view))
        assert len(parts) > 3
        closed = []
        for part in parts:
            part.close = functools.partial(closed.append, part)
        view.close()
        assert closed == parts
    for name in set(widgets.__all__) - {"BenchmarkBoard"}:
        kind = getattr(widgets, name)
        kind.__new__(kind).close()  # as the garbage collector does where arguments were refused
    with pytest.raises(TypeError, match="abstract method '?summary"):
        _view.View()


@pytest.mark.parametrize(
    "make", [list, tuple, pd.Series, np.array, lambda texts: [Text(t, Role.QUERY) for t in texts]]
)
def test_texts_are_strings_or_texts_in_any_sequence(make):
    texts = make([f"text {i}" for i in range(60)])
    AgreementExplorer({"teacher": TEACHER, "student": STUDENT}, texts, umap=False)
    NeighborInspector({"teacher": TEACHER, "student": STUDENT}, texts)
    ModelComparison({"teacher": TEACHER, "near": STUDENT}, texts=texts)
    for view in (AgreementExplorer, NeighborInspector, ModelComparison):
        with pytest.raises(WorkbenchError, match="59 vectors were given for 60 texts"):
            view({"teacher": TEACHER[:59], "student": STUDENT[:59]}, texts)


def test_brush_and_search(explorer):
    explorer._brushed(range(20))
    brushed = set(explorer.selected)
    assert brushed == set(np.flatnonzero(explorer.table["cosine"] < explorer._edges[20]))
    explorer._brushed([])  # what the browser reports when an outline goes
    assert set(explorer.selected) == brushed
    explorer.search.value = "TEXT 5 <script>"
    assert explorer.selected == (5,)


def test_explorer_takes_tensors_and_series():
    tensors = torch.tensor(TEACHER, requires_grad=True), torch.tensor(STUDENT).bfloat16()
    view = AgreementExplorer(
        dict(zip(["a", "b"], tensors, strict=True)),
        pd.Series(TEXTS, index=range(100, 160)),
        umap=False,
    )
    assert view.table["cosine"].mean() > 0.8 and len(view.table) == 60


@pytest.mark.parametrize("name", ["(model)", "cosine", "a"])
def test_a_column_cannot_have_a_name_twice(name):
    columns = pd.DataFrame(np.zeros((60, 2)), columns=[name, "a"])
    with pytest.raises(
        WorkbenchError, match=rf"column '{re.escape(name)}' is there twice, or the view has one"
    ):
        AgreementExplorer(
            {"teacher": TEACHER, "student": STUDENT}, TEXTS, columns=columns, umap=False
        )


def test_a_page_that_cannot_be_written(explorer, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WorkbenchError, match="cannot be written: (Not a directory|File exists)"):
        explorer.to_html(tmp_path / "file" / "page.html")


def test_neighbors_of_many_texts_come_after_the_map(monkeypatch):
    exact = AgreementExplorer({"teacher": TEACHER, "student": STUDENT}, TEXTS, umap=False)
    monkeypatch.setattr("workbench.widgets.agreement_explorer._AT_ONCE", 10)
    started, go_on = threading.Event(), threading.Event()
    measure = AgreementExplorer._find_neighbors

    def slow(view, *arguments):
        started.set()
        go_on.wait(30)
        measure(view, *arguments)

    monkeypatch.setattr(AgreementExplorer, "_find_neighbors", slow)
    view = AgreementExplorer({"teacher": TEACHER, "student": STUDENT}, TEXTS, umap=False)
    assert (
        started.wait(30)
        and view.table["overlap"].isna().all()
        and "being found" in view.status.value
    )
    view.rows.sort("overlap")
    view.color.value = "overlap"
    view.select([5])
    with pytest.raises(WorkbenchError, match="neighbors are not ready"):
        view.wait(0.01)
    go_on.set()
    view.wait(30)
    pd.testing.assert_frame_equal(view.table, exact.table)
    assert view.selected == (5,) and "Neighbors: exact" in view.status.value
    assert view.points._colors["title"] == "overlap"
    view.select([])
    assert list(view.table["overlap"].iloc[view.rows.positions]) == sorted(view.table["overlap"])


def test_points_fill_the_frame_and_lines_are_asked_for(explorer):
    first, second = (
        np.frombuffer(each["xy"], np.float32).reshape(-1, 2) for each in explorer.points._sets
    )
    both = np.concatenate([first, second])
    assert np.allclose(both.min(axis=0), 0) and np.allclose(both.max(axis=0), 1)
    assert explorer.points._lines == "selected"
    explorer.lines.value = "none"
    assert explorer.points._lines == "none"


@pytest.mark.parametrize("column", ["cosine", "length", "role", "topic", "(model)"])
def test_colors(explorer, column):
    explorer.color.value = column
    content = explorer.points._colors
    assert content.get("title", "(model)") == column
    assert explorer.histogram.figure.layout.xaxis.title.text == (
        column if column in ("cosine", "length") else "cosine"
    )
    if column == "topic":
        explorer.points._received({"kind": "category", "code": 1}, [])
        assert len(explorer.selected) == 20 and set(explorer.selection["topic"]) == {
            content["entries"][1]["label"][0]
        }


def test_thirty_categories_have_a_color_and_the_rest_one():
    columns = pd.DataFrame({"id": [f"id {i % 40}" for i in range(60)]})
    view = AgreementExplorer({"a": TEACHER, "b": STUDENT}, TEXTS, umap=False, columns=columns)
    view.color.value = "id"
    content = view.points._colors
    assert len(set(content["palette"])) == 31 and content["entries"][-1]["label"].startswith(
        "10 others"
    )
    assert len({tuple(c) for c in content["palette"]}) and max(view.points._codes) == 30


def test_any_models_of_any_widths():
    models = {"large": TEACHER, "small": TEACHER[:, :5], "near": STUDENT}
    view = AgreementExplorer(models, TEXTS, umap=False)
    assert view.other == "small" and "cosine" not in view.table and view.map.landings is not None
    assert "No cosine: no common space (12 and 5 dimensions)" in view.status.value
    assert [column["title"] for column in neighbor_lists(view, 3)] == ["large", "small"]
    view.select([3])
    view.fit.value = "linear"
    assert view.table["cosine"].mean() > 0.3 and "small is fitted (linear)" in view.status.value
    view.fit.value, view.against.value = "not fitted", "near"
    assert view.table["cosine"].mean() > 0.8 and view.selected == (3,)
    with pytest.raises(WorkbenchError, match="expected 2 or more models by name"):
        AgreementExplorer({"one": TEACHER}, TEXTS)
    with pytest.raises(WorkbenchError, match="fit is 'cubic'"):
        AgreementExplorer(models, TEXTS, fit="cubic")


def test_regions_are_listed_labeled_and_selected():
    rng = np.random.default_rng(0)
    topic = np.arange(120) % 3
    teacher = 4 * rng.standard_normal((3, 12))[topic] + rng.standard_normal((120, 12))
    student = teacher + 0.1 * rng.standard_normal(teacher.shape)
    student[topic == 1] += 2 * rng.standard_normal((40, 12))
    texts = [
        f"{('river boat', 'bread oven', 'guitar song')[t]} {'old' if i % 2 else 'new'}"
        for i, t in enumerate(topic)
    ]
    frame = pd.DataFrame({"text": texts, "topic": [f"t{t}" for t in topic]})
    view = AgreementExplorer({"teacher": teacher, "student": student}, frame, umap=False)
    view.wait(60)
    assert "region" in view.table and len(view.points._labels) == view.table["region"].nunique()
    assert "bread" in view.regions.index[0] and view.regions["overlap_high"].iloc[0] < 0
    view.color.value = "topic"
    assert view.regions.iloc[0].name == "t1" and "topic" in [
        c["name"] for c in view.region_rows._content["columns"]
    ]
    view.listing.value = "regions"
    assert view.rows.layout.display == "none" and not view.region_rows.layout.display
    view.region_rows.select([0])
    assert set(view.selection["topic"]) == {"t1"} and len(view.selected) == 40
    view.select()  # elsewhere: the region is not selected any more, and a second click selects it
    assert view.region_rows.selected == ()
    view.region_rows._received({"kind": "pick", "key": 0}, [])
    assert len(view.selected) == 40
    view.rows.sort("text")  # the column region came later than the others
    assert view.table["text"].iloc[view.rows.positions].is_monotonic_increasing
    few = AgreementExplorer({"a": teacher[:20], "b": student[:20]}, texts[:20], umap=False)
    few.wait(60)
    assert few.regions.empty and "region" not in few.table
    assert "20 texts are too few to find regions" in few.status.value
    assert repr(few).startswith("<AgreementExplorer: seen in a notebook")  # not a hundred traits


@pytest.mark.parametrize(
    "region", [[i % 12 for i in range(60)], [f"{i % 3} <b>" for i in range(60)]]
)
def test_regions_of_the_reader_are_those_that_are_compared(region):
    columns = pd.DataFrame(
        {"region": region, "texts": ["a", "b", "c"] * 20, "<img src=x>": np.arange(60.0)}
    )
    view = AgreementExplorer(
        {"teacher": TEACHER, "student": STUDENT}, TEXTS, columns=columns, umap=False
    )
    view.wait(60)
    assert set(view.regions.index) == set(map(str, region))
    view.region_rows.select([1])
    assert {str(region[row]) for row in view.selected} == {view.regions.index[1]}
    view.color.value = "texts"  # also the name of a column of the comparison
    assert sorted(view.regions.index) == ["a", "b", "c"]
    view.color.value = "<img src=x>"
    assert "<img" not in view.status.value and "&lt;img src=x&gt;" in view.status.value


def neighbor_lists(view, row):
    view.select([row])
    return view.near.columns


def test_a_dataframe_of_texts():
    frame = pd.DataFrame({"text": [t.text for t in TEXTS], "stars": range(60)})
    view = AgreementExplorer({"a": TEACHER, "b": STUDENT}, frame, umap=False)
    assert "stars" in view.table and len(view.table) == 60
    with pytest.raises(WorkbenchError, match="which column has the texts"):
        AgreementExplorer({"a": TEACHER, "b": STUDENT}, frame[["stars"]], umap=False)


def test_a_part_that_starts_late_asks_for_what_it_missed(explorer, monkeypatch):
    sent = []
    monkeypatch.setattr(explorer.rows, "send_state", lambda *names: sent.append(names))
    explorer.rows._heard(None, {"kind": "started", "revision": explorer.rows._revision}, [])
    assert not sent
    explorer.rows._heard(None, {"kind": "started", "revision": explorer.rows._revision - 1}, [])
    assert sent == [()]


def test_neighbors_are_followed_and_there_is_a_way_back():
    view = NeighborInspector({"a": TEACHER, "b": STUDENT}, TEXTS)
    view.lists._received({"kind": "follow", "key": 9}, [])
    view.lists._received({"kind": "follow", "key": 4}, [])
    assert view.position == 4 and not view.back.disabled
    view.back.click()
    view.back.click()
    assert view.position == 0 and view.back.disabled


def test_texts_are_escaped_everywhere(explorer):
    inspector = NeighborInspector({"teacher": TEACHER, "student": STUDENT}, TEXTS)
    assert "text 0 &lt;script&gt;" in inspector.summary()
    for view in (explorer, inspector):
        assert "<script>bad" not in view.summary()
        assert "<script>bad" not in view.to_html()
        assert "<script>bad" not in view._repr_mimebundle_()["text/html"]


def test_a_sample_says_so():
    view = AgreementExplorer({"teacher": TEACHER, "student": STUDENT}, TEXTS, umap=False, most=20)
    assert len(view.table) == 20 and "random sample of 20 of 60" in view.status.value
    position = view.table.index[7]
    assert view.table["text"].iloc[7] == TEXTS[position].text


@pytest.mark.parametrize("count", [1, 2, 30])
def test_identical_vectors_and_few_texts(count):
    view = AgreementExplorer(
        {"a": np.ones((count, 4)), "b": np.ones((count, 4))}, ["x" * 100_000] * count
    )
    assert view.wait(60).method == "PCA" and np.allclose(view.table["cosine"], 1)


@pytest.mark.parametrize(
    ("student", "texts", "columns", "message"),
    [
        (STUDENT[:9], TEXTS, None, "model 'student': 9 vectors were given for 60 texts"),
        (STUDENT, TEXTS[:9], None, "60 vectors were given for 9 texts"),
        (STUDENT * np.nan, TEXTS, None, "NaN"),
        (STUDENT, TEXTS, pd.DataFrame({"a": [1]}), "columns have 1 rows"),
        (STUDENT, TEXTS, pd.DataFrame({"cosine": range(60)}), "rename it"),
    ],
)
def test_bad_input_is_named(student, texts, columns, message):
    with pytest.raises(WorkbenchError, match=message):
        AgreementExplorer(
            {"teacher": TEACHER, "student": student}, texts, columns=columns, umap=False
        )


def test_neighbors_of_one_text():
    inspector = NeighborInspector({"teacher": TEACHER, "student": STUDENT[:, :6]}, TEXTS, k=5)
    inspector.select(7)
    rows = inspector.neighbors[inspector.neighbors["model"] == "teacher"]
    cosines = (TEACHER @ TEACHER[7]) / np.linalg.norm(TEACHER, axis=1) / np.linalg.norm(TEACHER[7])
    cosines[7] = -2
    assert list(rows["position"]) == list(np.argsort(-cosines)[:5]) and np.allclose(
        rows["cosine"], np.sort(cosines)[::-1][:5]
    )
    inspector.rows._received({"kind": "pick", "key": 9}, [])
    assert inspector.position == 9
    with pytest.raises(WorkbenchError, match="positions 0 to 59"):
        inspector.select(60)
    with pytest.raises(WorkbenchError, match="at least 2"):
        NeighborInspector({"a": TEACHER[:1], "b": STUDENT[:1]}, TEXTS[:1])
