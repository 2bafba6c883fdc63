import numpy as np
import pandas as pd
import pytest

from workbench.data import RetrievalDataset
from workbench.errors import WorkbenchError
from workbench.quantize import CompressedIndex, IndexSpec, grid, pareto_mask, sweep
from workbench.widgets import TradeoffExplorer

RNG = np.random.default_rng(0)
DOCUMENTS = RNG.standard_normal((200, 32)).astype(np.float32)
QUERIES = (DOCUMENTS[:30] + 0.9 * RNG.standard_normal((30, 32))).astype(np.float32)
QRELS = {f"q{i}": {f"d{i}": 1} for i in range(30)}
DATASET = RetrievalDataset(
    "random", {f"d{i}": "text" for i in range(200)}, dict.fromkeys(QRELS, "text"), QRELS
)
SIDES = {"teacher": (DOCUMENTS[:30], DOCUMENTS), "asymmetric": (QUERIES, DOCUMENTS)}


@pytest.fixture(scope="module")
def rows():
    return sweep(DATASET, SIDES, grid(32, least=8))


@pytest.fixture
def view(rows):
    view = TradeoffExplorer(
        {"as it is": rows, "rotated": rows}, encode_ms={"teacher": 20, "asymmetric": 2}
    )
    yield view
    view.close()


def test_grid_halves_and_keeps_whole_bytes():
    points = grid(48, least=12)
    assert {p.dimensions for p in points} == {48, 24, 12}
    assert {p.dimensions for p in points if p.precision == "binary"} == {48, 24}
    assert {p.dimensions for p in grid(7)} == {7} and not [
        p for p in grid(7) if p.precision == "binary"
    ]


def test_front_is_what_nothing_dominates():
    table = pd.DataFrame(
        {"share_of_teacher": [1.0, 0.9, 0.9, 0.95], "bytes": [10, 5, 6, 10], "ms": [1, 1, 1, 0.5]}
    )
    assert pareto_mask(table, ["bytes"]).tolist() == [True, True, False, False]
    assert pareto_mask(table, ["bytes", "ms"]).tolist() == [True, True, False, True]
    assert pareto_mask(table.iloc[[0, 0]], ["bytes"]).all()  # equals do not dominate each other


def test_starts_with_everything_and_counts_encoding(view, rows):
    assert view.point == IndexSpec(32, "float32") and view.choice["mode"] == "asymmetric"
    assert len(view.table) == 2 * len(rows)
    np.testing.assert_allclose(
        view.table["total_ms"] - view.table["query_ms"],
        view.table["mode"].map({"teacher": 20, "asymmetric": 2}),
    )
    for _, part in view.table.groupby(["mode", "space"]):
        assert (
            part["front"].tolist() == pareto_mask(part, ["bytes_per_document", "total_ms"]).tolist()
        )
        assert part.loc[part["share_of_teacher"].idxmax(), "share_of_teacher"] in part.loc[part["front"], "share_of_teacher"].values  # fmt: skip


def test_controls_charts_and_table_follow_each_other(view):
    view.dimensions.value = 16
    view.precision.value = "int8"
    assert view.point == IndexSpec(16, "int8") and view.choice["bytes_per_document"] == 16
    assert list(view.front.figure.data[-1].x) == [16] and view.rows.selected == (view.position,)
    assert "16 dimensions, int8, asymmetric" in view.answer.value and "160 GB" in view.answer.value
    view.mode.value = "teacher"
    view.space.value = "rotated"
    assert view.choice["space"] == "rotated" and view.choice["mode"] == "teacher"
    view.rows._received({"kind": "pick", "key": 0}, [])
    assert view.position == 0 and view.dimensions.value == view.choice["dimensions"]
    view.cost.value = "query time"
    assert list(view.front.figure.data[-1].x) == [view.choice["total_ms"]]
    view.select(dimensions=8, precision="binary", mode="asymmetric", space="as it is")
    assert view.precision.value == "binary" and len(view.curves.figure.data) == 2
    assert list(view.curves.figure.data[0].x) == [8, 16, 32]


def test_a_click_on_the_chart_selects(view):
    view.front._received({"kind": "click", "trace": 1, "point": 2}, [])
    assert view.position == view.front.figure.data[1].customdata[2]


def test_its_code_runs(view):
    view.select(dimensions=16, precision="int8")
    names = {"documents": DOCUMENTS, "queries": QUERIES}
    exec(view.code, names)
    expected = CompressedIndex(DOCUMENTS, IndexSpec(16, "int8")).search(QUERIES, 10)
    np.testing.assert_array_equal(names["positions"], expected[1])


def test_what_was_not_measured_says_so(rows):
    view = TradeoffExplorer(rows[~((rows["precision"] == "int8") & (rows["dimensions"] == 16))])
    before = view.position
    view.precision.value = "int8"
    view.dimensions.value = 16
    assert "16 dimensions, int8, asymmetric was not measured" in view.status.value
    assert view.choice["dimensions"] == 32 and view.position != before
    assert view.dimensions.value == 32  # the controls say what is shown
    with pytest.raises(WorkbenchError, match="was not measured"):
        view.select(dimensions=17, precision="int8")
    view.dimensions.value = 8
    assert view.status.value == "" and view.point == IndexSpec(8, "int8")


def test_rows_that_were_json_make_code_that_runs(rows):
    view = TradeoffExplorer(rows.assign(dimensions=rows["dimensions"].astype(float)))
    assert "IndexSpec(32, " in view.code and view.point == IndexSpec(32, "float32")


def test_leaves_a_page_and_shows_names_escaped(rows, tmp_path):
    named = rows.assign(mode=rows["mode"].replace("asymmetric", "<script>bad()</script>"))
    view = TradeoffExplorer({"<img src=x>": named})
    page = view.to_html(tmp_path / "page.html")
    assert "<script>bad()" not in view.summary() and "<img src=x>" not in view.summary()
    assert "&lt;script&gt;bad()" in page and (tmp_path / "page.html").is_file()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda rows: rows.drop(columns="query_ms"), "no column 'query_ms'"),
        (lambda rows: rows.iloc[:0], "a row at least"),
        (lambda rows: "rows", "a table from quantize.sweep"),
        (lambda rows: pd.concat([rows, rows]), "a point twice"),
        (lambda rows: rows.assign(precision="int4"), "precision 'int4'"),
        (lambda rows: rows.assign(share_of_teacher=np.nan), "no numbers"),
        (lambda rows: rows.assign(share_low="high"), "no numbers"),
        (lambda rows: rows.assign(mode=3), "modes without a name"),
        (lambda rows: {}, "no curves"),
    ],
)
def test_refuses(rows, spoil, words):
    with pytest.raises(WorkbenchError, match=words):
        TradeoffExplorer(spoil(rows))


def test_refuses_times_of_other_modes(rows):
    with pytest.raises(WorkbenchError, match="a time for each mode"):
        TradeoffExplorer(rows, encode_ms={"symmetric": 1})
    with pytest.raises(WorkbenchError, match="a time for each mode"):
        TradeoffExplorer(
            rows, encode_ms={"asymmetric": 1}
        )  # the teacher's queries would cost nothing
    for wrong in (np.nan, -1, "3"):
        with pytest.raises(WorkbenchError, match="must be milliseconds"):
            TradeoffExplorer(rows, encode_ms={"asymmetric": wrong, "teacher": 1})
