"""The widgets in a real JupyterLab in a real browser: what the page shows and what Python then holds."""

import os
import shutil

import pytest

pytestmark = pytest.mark.browser

if not shutil.which("chromium"):
    if os.environ.get("WORKBENCH_REQUIRE_BROWSER"):
        raise RuntimeError("WORKBENCH_REQUIRE_BROWSER is set and there is no chromium")
    pytest.skip("no chromium on this machine", allow_module_level=True)

DATA = """
import numpy as np
from workbench.corpora import Role, Text
rng = np.random.default_rng(0)
topics = rng.standard_normal((6, 32))
teacher = (topics[rng.integers(0, 6, COUNT)] + .6 * rng.standard_normal((COUNT, 32))).astype('float32')
student = (teacher + .4 * rng.standard_normal(teacher.shape)).astype('float32')
texts = [Text(f'text number {i} <script>window.broken = true</script><img src=x onerror="window.broken=true">'
              + ' مرحبا 😀', list(Role)[i % 2]) for i in range(COUNT)]
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    from tests.lab import Lab

    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()


def drag(page, chart, points):
    """Draw with the mouse through points given as shares of the chart's plot area."""
    area = chart.locator(".nsewdrag").first
    chart.scroll_into_view_if_needed()
    page.wait_for_timeout(400)
    box = area.bounding_box()
    places = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=8)
    page.mouse.up()


def nothing_ran(notebook):
    assert notebook.page.evaluate("() => window.broken") is None
    assert notebook.page.locator(".workbench script, .workbench img").count() == 0
    assert notebook.close() == []


def test_agreement_explorer(lab):
    notebook = lab.open(
        "explorer",
        [
            DATA.replace("COUNT", "400"),
            "from workbench.widgets.agreement_explorer import AgreementExplorer\n"
            "view = AgreementExplorer(teacher, student, texts)\nview",
        ],
    )
    notebook.run_all()
    page = notebook.page
    page.wait_for_selector(".workbench .js-plotly-plot .nsewdrag", timeout=60_000)
    assert notebook.eventually("view.map.method", lambda m: m == "UMAP", 120) == "UMAP"
    page.wait_for_timeout(1500)
    notebook.pictures("agreement-explorer")

    charts = page.locator(".workbench .js-plotly-plot")
    assert charts.count() == 2
    drag(page, charts.nth(0), [(0.01, 0.01), (0.99, 0.01), (0.99, 0.99), (0.01, 0.99), (0.01, 0.02)])
    assert notebook.eventually("len(view.selected)", lambda n: n == 400) == 400
    part = [(0.1, 0.03), (0.5, 0.03), (0.5, 0.97), (0.1, 0.97), (0.1, 0.04)]
    drag(page, charts.nth(0), part)
    some = notebook.eventually("len(view.selected)", lambda n: 0 < n < 400)
    notebook.eventually("sum(int(v) for v in view.histogram.data[1].y)", lambda n: n == some)
    page.wait_for_function(
        "s => document.querySelector('.workbench .pager .label').innerText.includes(s)", arg=f"{some:,} selected"
    )

    drag(page, charts.nth(1), [(0.3, 0.2), (0.7, 0.8)])
    brushed = notebook.eventually("len(view.selected)", lambda n: n not in (0, some))
    notebook.eventually("len(view.chart.data[2].selectedpoints)", lambda n: n == brushed)

    page.get_by_role("button", name="Clear").click()
    notebook.eventually("len(view.selected)", lambda n: n == 0)
    page.locator("th button[data-column=cosine]").click()
    page.wait_for_selector("th[aria-sort=ascending]")
    page.locator("tbody tr").first.click()
    worst = notebook.eventually("list(view.selected)", len)
    assert notebook.python("int(view.table['cosine'].to_numpy().argmin())") == worst[0]
    assert page.locator("tbody tr[aria-selected=true]").count() == 1
    page.locator("tbody tr").nth(0).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+Enter")
    notebook.eventually("len(view.selected)", lambda n: n == 2)

    box = page.locator(".workbench input[placeholder^=words]")
    box.fill("number 39")
    box.press("Enter")
    notebook.eventually("len(view.selected)", lambda n: n == 11)
    nothing_ran(notebook)


def test_neighbour_inspector(lab):
    notebook = lab.open(
        "inspector",
        [
            DATA.replace("COUNT", "200"),
            "from workbench.widgets.neighbour_inspector import NeighbourInspector\n"
            "view = NeighbourInspector(teacher, student, texts)\nview",
        ],
    )
    notebook.run_all()
    page = notebook.page
    page.wait_for_selector(".workbench-table tbody tr")
    notebook.pictures("neighbour-inspector")
    page.locator(".workbench-table tbody tr").nth(3).click()
    assert notebook.eventually("view.position", lambda p: p == 3) == 3
    wanted = notebook.python("view.neighbours['text'].iloc[0][:14]")
    assert wanted in page.locator(".workbench table:has(caption)").first.inner_text()
    nothing_ran(notebook)
