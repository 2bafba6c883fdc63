"""The views without a browser: selection, parts, texts shown as text, and work in the background."""

import gc
import subprocess
import sys
import threading
import weakref
from datetime import date
from decimal import Decimal
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import traitlets
from plotly.colors import hex_to_rgb, unlabel_rgb

from workbench import widgets
from workbench.data import Role, Text
from workbench.errors import WorkbenchError
from workbench.widgets import AgreementExplorer, ModelComparison, NeighborInspector, Table, _view
from workbench.widgets.map import _SCALE

RNG = np.random.default_rng(0)
TEACHER = RNG.standard_normal((60, 12)).astype(np.float32)
STUDENT = TEACHER + 0.4 * RNG.standard_normal((60, 12)).astype(np.float32)
MODELS = {"teacher": TEACHER, "student": STUDENT}
TEXTS = [Text(f"text {i} <script>bad()</script>", list(Role)[i % 2]) for i in range(60)]


def explore(models=MODELS, texts=TEXTS, **columns):
    if columns:
        texts = pd.DataFrame({"text": [text.text for text in texts]} | columns)
    return AgreementExplorer(models, texts, umap=False)


@pytest.fixture
def explorer():
    view = explore(topic=list("abc") * 20)
    yield view
    view.close()


def test_views_are_imported_when_they_are_named():
    code = (
        "import sys, workbench.widgets as w\n"
        "assert not {'plotly', 'torch', 'ipywidgets'} & set(sys.modules)\n"
        "from workbench.widgets import Table\n"
        "assert Table is w.Table and len(w.__all__) == 9"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="Nothing"):
        _ = widgets.Nothing


# --- parts ---


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


@pytest.mark.parametrize(
    "values",
    [
        pd.Series([Decimal("10"), Decimal("9"), None, Decimal("-1.5")]),
        pd.Series([date(2020, 1, 1), date(999, 1, 1), None, date(99, 1, 1)], dtype=object),
        pd.Series([[3], [2], None, [1]]),
        pd.Series(["b", "a", None, 7], dtype=object),  # mixed: as text
    ],
    ids=lambda values: f"{values.dtype} {type(values[0]).__name__}",
)
def test_columns_are_sorted_by_value_and_missing_values_come_last(values):
    table = Table(pd.DataFrame({"value": values}))
    table.sort("value")
    assert table.positions.tolist() == [3, 1, 0, 2]
    table.sort("value", True)
    assert table.positions.tolist() == [0, 1, 3, 2] and table._rows[3]["cells"] == [""]
    view = explore(value=pd.concat([values] * 15, ignore_index=True))
    view.color.value = "value"
    view.select([0, 2])
    assert "2 selected" in view.status.value


def test_a_part_that_starts_late_asks_for_what_it_missed(explorer, monkeypatch):
    sent = []
    monkeypatch.setattr(explorer.rows, "send_state", lambda *names: sent.append(names))
    explorer.rows._heard(None, {"kind": "started", "revision": explorer.rows._revision}, [])
    assert not sent
    explorer.rows._heard(None, {"kind": "started", "revision": explorer.rows._revision - 1}, [])
    assert sent == [()]


def test_closing_a_view_closes_its_parts(explorer):
    parts = list(_view._parts(explorer))
    assert len(parts) > 3
    explorer.close()
    assert all(part.comm is None for part in parts)
    for name in set(widgets.__all__) - {"BenchmarkBoard"}:
        kind = getattr(widgets, name)
        kind.__new__(kind).close()  # as the garbage collector does where arguments were refused


# --- selection ---


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
    assert explorer.selected == () and len(explorer.rows.positions) == 60


@pytest.mark.parametrize("rows", [[60], [-1], ["a"], np.ones(59, bool), pd.DataFrame(index=[99])])
def test_rows_that_do_not_exist_cannot_be_selected(explorer, rows):
    for view in (explorer, NeighborInspector(MODELS, TEXTS), explorer.rows):
        view.select([7, 3, 7])
        with pytest.raises(WorkbenchError, match="cannot select"):
            view.select(rows)
        assert view.selected == (3, 7)
        if isinstance(rows, list):
            with pytest.raises(WorkbenchError):
                view.selected = tuple(rows)


def test_views_of_the_same_texts_are_linked(explorer):
    inspector = NeighborInspector(MODELS, TEXTS)
    comparison = ModelComparison(MODELS | {"far": -STUDENT}, texts=TEXTS)
    for view in (inspector, comparison):
        traitlets.link((explorer, "selected"), (view, "selected"))
    explorer.rows._received({"kind": "pick", "key": 7}, [])
    assert inspector.position == 7 and inspector.selected == comparison.selected == (7,)
    inspector.rows._received({"kind": "pick", "key": 9}, [])
    assert explorer.selected == (9,) == explorer.rows.selected
    explorer.select(explorer.table["cosine"] > 0.9)
    assert len(explorer.selected) > 1
    assert inspector.selected == explorer.selected == comparison.selected
    assert inspector.position == explorer.selected[0]
    explorer.select()
    assert inspector.selected == () and len(inspector.neighbors) == 20  # what was shown stays


def test_brush_and_search(explorer):
    bars = explorer.histogram.figure.data[0].x
    explorer.histogram._received({"kind": "brush", "points": list(range(20))}, [])
    brushed = np.flatnonzero(explorer.table["cosine"] < (bars[19] + bars[20]) / 2)
    assert list(explorer.selected) == list(brushed)
    explorer.search.value = "<script> 5 TEXT"  # words, in any order
    assert explorer.selected == tuple(i for i, text in enumerate(TEXTS) if "5" in text.text)
    explorer.search.value = "<b>"
    assert explorer.selected == () and "“&lt;b&gt;”" in explorer.status.value


# --- the agreement explorer ---


def test_neighbors_of_many_texts_come_after_the_map(monkeypatch):
    exact = explore()
    monkeypatch.setattr("workbench.widgets.agreement_explorer._AT_ONCE", 10)
    started, go_on = threading.Event(), threading.Event()
    measure = AgreementExplorer._find_neighbors

    def slow(view, *arguments):
        started.set()
        go_on.wait(30)
        measure(view, *arguments)

    monkeypatch.setattr(AgreementExplorer, "_find_neighbors", slow)
    view = explore()
    assert started.wait(30) and view.table["overlap"].isna().all()
    view.rows.sort("overlap")
    view.color.value = "overlap"
    view.select([5])
    go_on.set()
    view.wait()
    exact.wait()
    pd.testing.assert_frame_equal(view.table, exact.table)
    assert view.selected == (5,) and view.points._colors["title"] == "overlap"
    view.select([])
    assert list(view.table["overlap"].iloc[view.rows.positions]) == sorted(view.table["overlap"])


@pytest.mark.parametrize("column", ["cosine", "length", "topic", "(model)"])
def test_colors(explorer, column):
    assert explorer.color.value == "cosine"
    explorer.color.value = column
    content = explorer.points._colors
    assert content.get("title", "(model)") == column
    measure = column if column in ("cosine", "length") else "cosine"
    assert explorer.histogram.figure.layout.xaxis.title.text == measure
    if column == "topic":
        codes = np.frombuffer(content["codes"], np.uint8)
        topics = explorer.table["topic"][codes == 1]
        assert len(topics) == 20 and set(topics) == {content["labels"][1][0]}


def test_colors_hold_for_the_color_blind():
    def lab(color, kind):
        linear = kind @ ((np.array(color) / 255 + 0.055) / 1.055) ** 2.4
        linear = np.clip(linear, 0, 1)
        to_xyz = [[0.434, 0.376, 0.190], [0.2126, 0.7152, 0.0722], [0.018, 0.109, 0.873]]
        x, y, z = np.cbrt(to_xyz @ linear)
        return np.array([116 * y - 16, 350 * (x - y), 140 * (y - z)])  # hue counts for less

    deuteranope = [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]
    protanope = [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]
    scale = [unlabel_rgb(color) for color in _SCALE]
    for kind in map(np.array, (np.eye(3), deuteranope, protanope)):
        light = [lab(color, kind)[0] for color in scale]
        assert (np.diff(light) > 0).all() and light[0] > 33 and light[-1] < 78
        places = [lab(hex_to_rgb(color), kind) for color in _view.CATEGORIES]
        assert min(np.linalg.norm(a - b) for a, b in combinations(places, 2)) > 17


def test_any_models_of_any_widths():
    view = explore({"large": TEACHER, "small": TEACHER[:, :5], "near": STUDENT})
    assert view.against.value == "small" and "cosine" not in view.table
    assert view.map.landings is not None
    view.select([3])
    assert [column["title"] for column in view.near.columns] == ["large", "small"]
    view.against.value = "near"
    assert view.table["cosine"].mean() > 0.8 and view.selected == (3,)


def test_regions_are_listed_labeled_and_selected():
    rng = np.random.default_rng(0)
    topic = np.arange(120) % 3
    teacher = 4 * rng.standard_normal((3, 12))[topic] + rng.standard_normal((120, 12))
    student = teacher + 0.1 * rng.standard_normal(teacher.shape)
    student[topic == 1] += 2 * rng.standard_normal((40, 12))
    words = "river boat", "bread oven", "guitar song"
    texts = [Text(f"{words[t]} {'old' if i % 2 else 'new'}") for i, t in enumerate(topic)]
    models = {"teacher": teacher, "student": student}
    view = explore(models, texts, topic=[f"t{t}" for t in topic])
    view.wait()
    assert "region" in view.table and len(view.points._labels) == view.table["region"].nunique()
    assert "bread" in view.regions.index[0] and view.regions["overlap_high"].iloc[0] < 0
    view.color.value = "topic"
    assert view.regions.index[0] == "t1"
    assert view.region_rows._content["columns"][0]["name"] == "topic"
    view.region_rows.select([0])
    assert set(view.selection["topic"]) == {"t1"} and len(view.selected) == 40
    view.select()  # elsewhere: the region is not selected any more, and a second click selects it
    assert view.region_rows.selected == ()
    view.region_rows._received({"kind": "pick", "key": 0}, [])
    assert len(view.selected) == 40
    few = explore({name: model[:20] for name, model in models.items()}, texts[:20])
    few.wait()
    assert few.regions.empty and "too few" in few.status.value


def test_columns_of_the_reader_are_colors_and_regions():
    region = [f"{i % 3} <b>" for i in range(60)]
    many = [f"id {i % 40}" for i in range(60)]
    view = explore(region=region, many=many, **{"<img src=x>": np.arange(60.0)})
    assert set(view.regions.index) == set(region)
    view.region_rows.select([1])
    assert {region[row] for row in view.selected} == {view.regions.index[1]}
    view.color.value = "many"  # thirty categories have a color, and the rest one
    content = view.points._colors
    assert len(set(content["palette"])) == 31 and max(view.points._codes) == 30
    assert content["labels"][-1].startswith("10 others")
    view.color.value = "<img src=x>"
    assert "<img" not in view.status.value and "&lt;img src=x&gt;" in view.status.value


def test_a_sample_says_so_and_its_points_fill_the_frame():
    view = AgreementExplorer(MODELS, TEXTS, umap=False, most=20)
    assert len(view.table) == 20 and "random sample of 20 of 60" in view.status.value
    assert view.table["text"].iloc[7] == TEXTS[view.table.index[7]].text
    models = [np.frombuffer(points["xy"], np.float32) for points in view.points._sets]
    both = np.concatenate(models).reshape(-1, 2)
    assert len(models) == 2 and len(both) == 40
    assert np.allclose(both.min(axis=0), 0) and np.allclose(both.max(axis=0), 1)


def test_bad_input_is_refused():
    for view in (AgreementExplorer, NeighborInspector, ModelComparison):
        with pytest.raises(WorkbenchError, match="59"):
            view({"teacher": TEACHER[:59], "student": STUDENT[:59]}, TEXTS)
    for models in ({"teacher": TEACHER, "student": STUDENT * np.nan}, {"one": TEACHER}):
        with pytest.raises(WorkbenchError):
            explore(models)
    with pytest.raises(WorkbenchError, match="rename"):
        explore(cosine=range(60))


# --- the neighbor inspector ---


def test_neighbors_of_one_text():
    inspector = NeighborInspector({"teacher": TEACHER, "student": STUDENT[:, :6]}, TEXTS, k=5)
    inspector.select(7)
    rows = inspector.neighbors[inspector.neighbors["model"] == "teacher"]
    cosines = (TEACHER @ TEACHER[7]) / np.linalg.norm(TEACHER, axis=1) / np.linalg.norm(TEACHER[7])
    cosines[7] = -2
    assert list(rows["position"]) == list(np.argsort(-cosines)[:5])
    assert np.allclose(rows["cosine"], np.sort(cosines)[::-1][:5])


def test_neighbors_are_followed_and_there_is_a_way_back():
    view = NeighborInspector(MODELS, pd.Series([f"text {i}" for i in range(60)]))
    view.lists._received({"kind": "follow", "key": 9}, [])
    view.lists._received({"kind": "follow", "key": 4}, [])
    assert view.position == 4 and not view.back.disabled
    view.back.click()
    assert view.position == 9
    view.back.click()
    assert view.position == 0 and view.back.disabled


# --- pages ---


def test_texts_are_escaped_everywhere(explorer, tmp_path):
    inspector = NeighborInspector(MODELS, TEXTS)
    assert "text 0 &lt;script&gt;" in inspector.summary()
    for view in (explorer, inspector):
        view.to_html(tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        for text in (view.summary(), page, view._repr_mimebundle_()["text/html"]):
            assert "<script>bad" not in text


def test_a_page_that_is_written_is_named_and_not_printed(tmp_path):
    view = explore()
    path = tmp_path / "page.html"
    assert view.to_html(path) == path and path.read_text().startswith("<!doctype html>")


def test_a_closed_view_is_let_go():
    """A control that is not shown, such as the list of two models' second, held it for ever."""
    for make in (explore, lambda: ModelComparison(MODELS, TEXTS)):
        view = make()
        for thread in getattr(view, "_background", []):
            thread.join()
        gone = weakref.ref(view)
        view.close()
        del view
        gc.collect()
        assert gone() is None


def test_a_script_that_ends_while_the_map_is_fitted_ends_well(tmp_path):
    code = f"""
import numpy as np
from workbench.widgets import AgreementExplorer
rng = np.random.default_rng(0)
models = {{name: rng.standard_normal((6000, 16)).astype("float32") for name in "ab"}}
AgreementExplorer(models, [f"text {{i}}" for i in range(6000)]).to_html({str(tmp_path / "x.html")!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
