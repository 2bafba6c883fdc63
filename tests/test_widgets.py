import functools
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
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
    view = AgreementExplorer(TEACHER, STUDENT, TEXTS, umap=False, columns=pd.DataFrame({"topic": list("abc") * 20}))
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
    explorer.select([3, 1, 2])
    assert explorer.selected == (1, 2, 3) and explorer.rows.selected == (1, 2, 3)
    assert list(explorer.chart.data[1].selectedpoints) == list(explorer.chart.data[2].selectedpoints) == [1, 2, 3]
    assert sum(explorer.histogram.data[1].y) == 3 and len(explorer.rows.positions) == 3
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
    inspector = NeighborInspector(TEACHER, STUDENT, TEXTS)
    comparison = ModelComparison(TEACHER, {"near": STUDENT, "far": -STUDENT}, texts=TEXTS)
    for view in (inspector, comparison):
        traitlets.link((explorer, "selected"), (view, "selected"))
    explorer.rows._received(None, {"kind": "pick", "key": 7}, None)
    assert inspector.position == 7 and inspector.selected == comparison.selected == (7,)
    (row,) = comparison.texts.selected
    assert comparison.texts._frame["position"].iloc[row] == 7
    inspector.rows._received(None, {"kind": "pick", "key": 9}, None)
    assert explorer.selected == (9,) and list(explorer.selection.index) == [9] and explorer.rows.selected == (9,)
    comparison.texts._received(None, {"kind": "pick", "key": 0}, None)
    first = comparison.texts._frame["position"].iloc[0]
    assert explorer.selected == (first,) and inspector.position == first
    explorer.select(explorer.table["cosine"] > 0.9)
    assert len(explorer.selected) > 1 and inspector.selected == explorer.selected == comparison.selected
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
    inspector = NeighborInspector(TEACHER, STUDENT, TEXTS)
    comparison = ModelComparison(TEACHER, {"near": STUDENT}, texts=TEXTS)
    for view in (explorer, inspector, comparison, explorer.rows):
        view.select([7, 3, 7])
        with pytest.raises(WorkbenchError, match=words):
            view.select(rows)
        assert view.selected == (3, 7)
        if isinstance(rows, list):
            with pytest.raises(WorkbenchError, match=words):
                view.selected = tuple(rows)


def test_views_override_nothing_of_ipywidgets_by_accident():
    meant = {"close", "_repr_mimebundle_", "_esm", "_css", "_abc_impl", "_descriptors", "_instance_inits", "_traits"}
    meant |= {"_all_trait_default_generators", "_static_immutable_initial_values", "_trait_default_generators"}
    for name in set(widgets.__all__) - {"BenchmarkBoard"}:
        kinds = getattr(widgets, name).__mro__
        ours = {n for kind in kinds if kind.__module__.startswith("workbench") for n in vars(kind) if n[:2] != "__"}
        theirs = {n for kind in kinds if not kind.__module__.startswith("workbench") for n in vars(kind)}
        assert not (ours & theirs) - meant, name
    view = ModelComparison(TEACHER, {"near": STUDENT, "far": -STUDENT}, texts=TEXTS)
    assert "text/html" in view._repr_mimebundle_()


def test_closing_a_view_closes_its_parts():
    for view in (
        AgreementExplorer(TEACHER, STUDENT, TEXTS, umap=False),
        NeighborInspector(TEACHER, STUDENT, TEXTS),
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


@pytest.mark.parametrize("make", [list, tuple, pd.Series, np.array, lambda texts: [Text(t, Role.QUERY) for t in texts]])
def test_texts_are_strings_or_texts_in_any_sequence(make):
    texts = make([f"text {i}" for i in range(60)])
    AgreementExplorer(TEACHER, STUDENT, texts, umap=False)
    NeighborInspector(TEACHER, STUDENT, texts)
    ModelComparison(TEACHER, {"near": STUDENT}, texts=texts)
    for view in (AgreementExplorer, NeighborInspector, lambda t, s, texts: ModelComparison(t, {"s": s}, texts=texts)):
        with pytest.raises(WorkbenchError, match="60 texts and 59 vectors: rows must be the same texts"):
            view(TEACHER[:59], STUDENT[:59], texts)


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


@pytest.mark.parametrize("name", ["text", "model", "cosine", "a"])
def test_a_column_cannot_have_a_name_twice(name):
    columns = pd.DataFrame(np.zeros((60, 2)), columns=[name, "a"])
    with pytest.raises(WorkbenchError, match=f"column '{name}' is there twice, or the view has one"):
        AgreementExplorer(TEACHER, STUDENT, TEXTS, columns=columns, umap=False)


def test_a_page_that_cannot_be_written(explorer, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WorkbenchError, match="cannot be written: (Not a directory|File exists)"):
        explorer.to_html(tmp_path / "file" / "page.html")


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
    view.select([5])
    with pytest.raises(WorkbenchError, match="neighbors are not ready"):
        view.wait(0.01)
    go_on.set()
    view.wait(30)
    pd.testing.assert_frame_equal(view.table, exact.table)
    assert view.selected == (5,) and "Neighbors: exact" in view.status.value
    assert np.array_equal(view.chart.data[1].marker.color, exact.table["overlap"])
    view.select([])
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
    assert "<mark>text" in inspector.summary() and ">=</span>" in inspector.summary()
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
    inspector.select(7)
    rows = inspector.neighbors[inspector.neighbors["model"] == "teacher"]
    cosines = (TEACHER @ TEACHER[7]) / np.linalg.norm(TEACHER, axis=1) / np.linalg.norm(TEACHER[7])
    cosines[7] = -2
    assert list(rows["position"]) == list(np.argsort(-cosines)[:5]) and np.allclose(
        rows["cosine"], np.sort(cosines)[::-1][:5]
    )
    inspector.rows._received(None, {"kind": "pick", "key": 9}, None)
    assert inspector.position == 9
    with pytest.raises(WorkbenchError, match="positions 0 to 59"):
        inspector.select(60)
    with pytest.raises(WorkbenchError, match="at least 2"):
        NeighborInspector(TEACHER[:1], STUDENT[:1], TEXTS[:1])
