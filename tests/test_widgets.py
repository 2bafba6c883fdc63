import threading

import numpy as np
import pandas as pd
import pytest
import torch

from workbench.data import Role, Text
from workbench.errors import WorkbenchError
from workbench.widgets.agreement_explorer import AgreementExplorer
from workbench.widgets.neighbor_inspector import NeighborInspector
from workbench.widgets.table import Table

RNG = np.random.default_rng(0)
TEACHER = RNG.standard_normal((60, 12)).astype(np.float32)
STUDENT = TEACHER + 0.4 * RNG.standard_normal((60, 12)).astype(np.float32)
TEXTS = [Text(f"text {i} <script>bad()</script>", list(Role)[i % 2]) for i in range(60)]


@pytest.fixture
def explorer():
    view = AgreementExplorer(TEACHER, STUDENT, TEXTS, umap=False, columns=pd.DataFrame({"topic": list("abc") * 20}))
    yield view
    view.close()


def test_table_sorts_pages_and_selects():
    table = Table(pd.DataFrame({"name": ["b", "c", "a"], "value": [2.0, np.nan, 1.0]}), page_rows=2)
    table._received(None, {"kind": "sort", "column": "value"}, None)
    assert list(table.positions) == [2, 0, 1] and table._rows[0]["cells"] == ["a", "1.000"]
    table._received(None, {"kind": "sort", "column": "value"}, None)
    assert list(table.positions) == [0, 2, 1] and table.order == ("value", True)
    table._received(None, {"kind": "page", "page": 99}, None)
    assert [row["cells"] for row in table._rows] == [["c", ""]]
    table._received(None, {"kind": "pick", "key": 0}, None)
    table._received(None, {"kind": "pick", "key": 1, "range": True}, None)
    assert table.selected == (0, 2, 1)
    table._received(None, {"kind": "pick", "key": 2, "add": True}, None)
    assert set(table.selected) == {0, 1}
    with pytest.raises(WorkbenchError, match="no column 'color'"):
        table.sort("color")


def test_selection_goes_to_every_part(explorer):
    explorer.selection = [3, 1, 2]
    assert explorer.selected == (1, 2, 3) and explorer.rows.selected == (1, 2, 3)
    assert list(explorer.chart.data[1].selectedpoints) == list(explorer.chart.data[2].selectedpoints) == [1, 2, 3]
    assert sum(explorer.histogram.data[1].y) == 3 and len(explorer.rows.positions) == 3
    assert len(explorer.selection) == 3 and "3 selected" in explorer.status.value
    explorer.selection = explorer.table["cosine"] < explorer.table["cosine"].median()
    assert len(explorer.selected) == 30
    explorer.selection = explorer.table.nsmallest(2, "cosine")
    assert set(explorer.selected) == set(explorer.table["cosine"].argsort()[:2])
    explorer.selection = []
    assert explorer.selection.empty and len(explorer.rows.positions) == 60
    with pytest.raises(WorkbenchError, match="positions 0 to 59"):
        explorer.selection = [60]


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
    view = AgreementExplorer(*tensors, pd.Series(TEXTS, index=range(100, 160)), umap=False)
    assert view.table["cosine"].mean() > 0.8 and len(view.table) == 60


@pytest.mark.parametrize(
    ("wanted", "words"),
    [(["a"], "whole numbers, not 'a'"), (3, "a list of positions, not 3"), ([1.5], "whole numbers"), ([-1], "0 to 59")],
)
def test_selection_says_what_it_takes(explorer, wanted, words):
    explorer.selection = [7]
    with pytest.raises(WorkbenchError, match=words):
        explorer.selection = wanted
    assert explorer.selected == (7,)


@pytest.mark.parametrize("name", ["text", "model", "cosine", "a"])
def test_a_column_cannot_have_a_name_twice(name):
    columns = pd.DataFrame(np.zeros((60, 2)), columns=[name, "a"])
    with pytest.raises(WorkbenchError, match=f"column '{name}' is there twice, or the view has one"):
        AgreementExplorer(TEACHER, STUDENT, TEXTS, columns=columns, umap=False)


def test_a_page_that_cannot_be_written(explorer, tmp_path):
    with pytest.raises(WorkbenchError, match="cannot be written: No such file"):
        explorer.to_html(tmp_path / "none" / "page.html")


def test_neighbors_of_many_texts_come_after_the_map(monkeypatch):
    exact = AgreementExplorer(TEACHER, STUDENT, TEXTS, umap=False)
    monkeypatch.setattr("workbench.widgets.agreement_explorer._AT_ONCE", 10)
    started, go_on = threading.Event(), threading.Event()
    measure = AgreementExplorer._measure

    def slow(view, *arguments):
        started.set()
        go_on.wait(30)
        measure(view, *arguments)

    monkeypatch.setattr(AgreementExplorer, "_measure", slow)
    view = AgreementExplorer(TEACHER, STUDENT, TEXTS, umap=False)
    assert started.wait(30) and view.table["overlap"].isna().all() and "being found" in view.status.value
    view.rows.sort("overlap")
    view.color.value = "overlap"
    view.selection = [5]
    with pytest.raises(WorkbenchError, match="neighbors are not ready"):
        view.wait(0.01)
    go_on.set()
    view.wait(30)
    pd.testing.assert_frame_equal(view.table, exact.table)
    assert view.selected == (5,) and "Neighbors: exact" in view.status.value
    assert np.array_equal(view.chart.data[1].marker.color, exact.table["overlap"])
    view.selection = []
    assert list(view.table["overlap"].iloc[view.rows.positions]) == sorted(view.table["overlap"])


def test_lines_join_a_text_to_itself(explorer):
    x = np.asarray(explorer.chart.data[0].x).reshape(-1, 3)
    assert np.array_equal(x[:, 0], explorer.map.teacher[:, 0]) and np.array_equal(x[:, 1], explorer.map.student[:, 0])
    assert np.isnan(x[:, 2]).all()
    explorer.lines.value = "none"
    assert len(explorer.chart.data[0].x) == 0


@pytest.mark.parametrize("column", ["cosine", "length", "role", "topic", "model"])
def test_colors(explorer, column):
    explorer.color.value = column
    assert explorer.chart.data[1].marker.color is not None


def test_texts_are_escaped_everywhere(explorer):
    inspector = NeighborInspector(TEACHER, STUDENT, TEXTS)
    for view in (explorer, inspector):
        assert "<script>bad" not in view.summary()
        assert "<script>bad" not in view.to_html()
        assert "<script>bad" not in view._repr_mimebundle_()["text/html"]
    assert "<script>bad" not in "".join(part.value for part in inspector._lists)
    assert all("<script>" not in text for text in explorer.chart.data[1].text)


def test_a_sample_says_so():
    view = AgreementExplorer(TEACHER, STUDENT, TEXTS, umap=False, most=20)
    assert len(view.table) == 20 and "random sample of 20 of 60" in view.status.value
    position = view.table.index[7]
    assert view.table["text"].iloc[7] == TEXTS[position].text


@pytest.mark.parametrize("count", [1, 2, 30])
def test_identical_vectors_and_few_texts(count):
    view = AgreementExplorer(np.ones((count, 4)), np.ones((count, 4)), ["x" * 100_000] * count)
    assert view.wait(60).method == "PCA" and np.allclose(view.table["cosine"], 1)


@pytest.mark.parametrize(
    ("student", "texts", "columns", "message"),
    [
        (STUDENT[:9], TEXTS, None, "60 vectors and the student 9"),
        (STUDENT[:, :6], TEXTS, None, "both in one space"),
        (STUDENT, TEXTS[:9], None, "9 texts and 60 vectors"),
        (STUDENT * np.nan, TEXTS, None, "NaN"),
        (STUDENT, TEXTS, pd.DataFrame({"a": [1]}), "columns have 1 rows"),
        (STUDENT, TEXTS, pd.DataFrame({"cosine": range(60)}), "rename it"),
    ],
)
def test_bad_input_is_named(student, texts, columns, message):
    with pytest.raises(WorkbenchError, match=message):
        AgreementExplorer(TEACHER, student, texts, columns=columns, umap=False)


def test_neighbors_of_one_text():
    inspector = NeighborInspector(TEACHER, STUDENT[:, :6], TEXTS, k=5)
    inspector.pick(7)
    rows = inspector.neighbors[inspector.neighbors["model"] == "teacher"]
    cosines = (TEACHER @ TEACHER[7]) / np.linalg.norm(TEACHER, axis=1) / np.linalg.norm(TEACHER[7])
    cosines[7] = -2
    assert list(rows["position"]) == list(np.argsort(-cosines)[:5]) and np.allclose(
        rows["cosine"], np.sort(cosines)[::-1][:5]
    )
    inspector.rows._received(None, {"kind": "pick", "key": 9}, None)
    assert inspector.position == 9
    with pytest.raises(WorkbenchError, match="texts 0 to 59"):
        inspector.pick(60)
    with pytest.raises(WorkbenchError, match="at least 2"):
        NeighborInspector(TEACHER[:1], STUDENT[:1], TEXTS[:1])
