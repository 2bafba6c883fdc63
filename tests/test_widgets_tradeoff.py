import numpy as np
import pandas as pd
import pytest

from workbench.data import RetrievalDataset
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
ENCODE_MS = {"teacher": 20, "asymmetric": 2}


@pytest.fixture(scope="module")
def rows():
    return sweep(DATASET, SIDES, grid(32, least=8))


def test_the_front_is_what_nothing_dominates():
    table = pd.DataFrame(
        {"share_of_teacher": [1.0, 0.9, 0.9, 0.95], "bytes": [10, 5, 6, 10], "ms": [1, 1, 1, 0.5]}
    )
    assert pareto_mask(table, ["bytes"]).tolist() == [True, True, False, False]
    assert pareto_mask(table, ["bytes", "ms"]).tolist() == [True, True, False, True]
    assert pareto_mask(table.iloc[[0, 0]], ["bytes"]).all()  # equals do not dominate each other


def test_controls_charts_table_and_code_follow_each_other(rows):
    view = TradeoffExplorer({"as it is": rows, "rotated": rows}, encode_ms=ENCODE_MS)
    encoding = view.table["mode"].map(ENCODE_MS)
    np.testing.assert_allclose(view.table["total_ms"] - view.table["query_ms"], encoding)
    assert view.choice["dimensions"] == 32 and view.choice["mode"] == "asymmetric"
    view.controls["dimensions"].value = 16
    view.controls["precision"].value = "int8"
    assert view.choice["bytes_per_document"] == 16 and view.rows.selected == (view.position,)
    assert list(view.front.figure.data[-1].x) == [16]
    assert "16 dimensions, int8, asymmetric" in view.answer.value and "160 GB" in view.answer.value
    view.controls["mode"].value = "teacher"
    view.controls["space"].value = "rotated"
    assert list(view.choice[["mode", "space"]]) == ["teacher", "rotated"]
    view.cost.value = "total_ms"
    assert list(view.front.figure.data[-1].x) == [view.choice["total_ms"]]
    view.select(dimensions=8, precision="binary", mode="asymmetric", space="as it is")
    assert view.controls["precision"].value == "binary" and len(view.curves.figure.data) == 2
    assert list(view.curves.figure.data[0].x) == [8, 16, 32]
    view.select(dimensions=16, precision="int8")
    names = {"documents": DOCUMENTS, "queries": QUERIES}
    exec(view.code, names)
    expected = CompressedIndex(DOCUMENTS, IndexSpec(16, "int8")).search(QUERIES, 10)
    np.testing.assert_array_equal(names["positions"], expected[1])


def test_what_was_not_measured_says_so(rows):
    view = TradeoffExplorer(rows[~((rows["precision"] == "int8") & (rows["dimensions"] == 16))])
    view.controls["precision"].value = "int8"
    view.controls["dimensions"].value = 16
    assert "not measured" in view.status.value
    assert view.choice["dimensions"] == view.controls["dimensions"].value == 32
    view.controls["dimensions"].value = 8
    assert view.status.value == "" and view.choice["dimensions"] == 8
    with pytest.raises(KeyError, match="teacher"):
        TradeoffExplorer(rows, encode_ms={"asymmetric": 1})


def test_names_are_escaped(rows):
    named = rows.assign(mode=rows["mode"].replace("asymmetric", "<script>bad()</script>"))
    view = TradeoffExplorer({"<img src=x>": named})
    page = view.to_html()
    assert "<script>bad()" not in page and "<img src=x>" not in view.summary()
    assert "&lt;script&gt;bad()" in page
