"""How long until AgreementExplorer is painted and a lasso is answered, and how long RetrievalExplorer takes to answer.

    python -m bench.paint [--texts 50000] [--documents 100000]

Random vectors of 768 dimensions in a real JupyterLab in headless Chromium, which draws without a GPU.
Seconds belong to one machine; the ratio to a tenth of the texts says how it grows. Writes build/paint.json.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from bench.__main__ import machine
from tests.lab import Lab
from workbench._util import home, write_json

VECTORS = """
import numpy as np
rng = np.random.default_rng(0)
def clouds(count, width=768):
    topics = rng.standard_normal((100, width), dtype='float32')
    teacher = topics[rng.integers(0, 100, count)] + rng.standard_normal((count, width), dtype='float32')
    return teacher, teacher + .7 * rng.standard_normal((count, width), dtype='float32')
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.paint", description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=50_000)
    parser.add_argument("--documents", type=int, default=100_000)
    options = parser.parse_args()
    if not shutil.which("chromium"):
        sys.exit("error: there is no chromium on this machine")
    report = {"machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder))
        try:
            for count in (options.texts // 10, options.texts):
                report[f"explorer_{count}"] = explorer(lab, count)
                print(report[f"explorer_{count}"], flush=True)
            report[f"retrieval_{options.documents}"] = retrieval(lab, options.documents)
        finally:
            lab.close()
    few, many = (report[f"explorer_{count}"] for count in (options.texts // 10, options.texts))
    report["ratio_to_a_tenth"] = {name: many[name] / few[name] for name in many}
    path = write_json(home() / "paint.json", report)
    print(path.read_text())
    return 0


def explorer(lab: Lab, count: int) -> dict[str, float]:
    """Seconds from running the cell to a drawn map, from the end of a lasso to the table's answer, and to a sort's."""
    notebook = lab.open(
        f"explorer{count}",
        [
            VECTORS + f"teacher, student = clouds({count})\nfrom workbench.widgets import AgreementExplorer",
            "view = AgreementExplorer(teacher, student, [f'text {i}' for i in range(len(teacher))], umap=False)\nview",
        ],
    )
    page = notebook.page
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-cell-and-select-next')")
    notebook.wait_idle()
    page.wait_for_timeout(2000)
    started = time.perf_counter()
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-cell-and-select-next'); }")
    page.wait_for_selector(".workbench .js-plotly-plot .gl-canvas-focus", state="attached", timeout=120_000)
    painted(page)
    seconds = {"first_paint": time.perf_counter() - started}
    notebook.python("view.wait().method", 300)
    area = page.locator(".workbench .js-plotly-plot").first
    area.scroll_into_view_if_needed()
    box = area.locator(".nsewdrag").first.bounding_box()
    for name, corners in (("lasso_all", (0.01, 0.99)), ("lasso_part", (0.3, 0.7))):
        low, high = corners
        for i, (x, y) in enumerate([(low, low), (high, low), (high, high), (low, high), (low, low + 0.01)]):
            page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * y, steps=5 if i else 1)
            page.mouse.down() if not i else None
        before = page.locator(".workbench .pager .label").inner_text()
        painted(page)
        started = time.perf_counter()
        page.mouse.up()
        page.wait_for_function(
            "before => document.querySelector('.workbench .pager .label').innerText !== before",
            arg=before,
            timeout=60_000,
        )
        painted(page)
        seconds[name] = time.perf_counter() - started
    page.get_by_role("button", name="Clear").click()
    page.wait_for_timeout(3000)
    started = time.perf_counter()
    page.locator("th button[data-column=cosine]").click()
    page.wait_for_selector("th[aria-sort=ascending]")
    seconds["sort"] = time.perf_counter() - started
    notebook.close()
    return seconds


def retrieval(lab: Lab, count: int) -> dict[str, float]:
    """Seconds from a click on a query to its results on the page, the median of nine."""
    notebook = lab.open(
        "retrieval",
        [
            VECTORS + f"documents, queries = clouds({count}), clouds(50)\n"
            "from workbench.data import RetrievalDataset\n"
            "from workbench.widgets import RetrievalExplorer\n"
            "collection = RetrievalDataset('random', {str(i): f'document {i}' for i in range(len(documents[0]))},\n"
            "                        {str(i): f'query {i}' for i in range(50)},\n"
            "                        {str(i): {str(i): 1} for i in range(50)})\n"
            "view = RetrievalExplorer(collection, *((queries[i], documents[i]) for i in (0, 1)))\nview",
        ],
    )
    notebook.run_all(300)
    page = notebook.page
    rows = page.locator(".workbench-table tbody tr")
    rows.first.wait_for()
    seconds = []
    for turn in range(10):
        started = time.perf_counter()
        rows.nth(1 + turn % 2).click()
        page.wait_for_function(
            "i => [...document.querySelectorAll('.workbench b')].some(e => e.innerText === 'query ' + i)",
            arg=1 + turn % 2,
        )
        painted(page)
        seconds.append(time.perf_counter() - started)
    notebook.close()
    return {"click_to_results": sorted(seconds[1:])[4]}


def painted(page) -> None:
    """Wait until the browser has drawn what it knows."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


if __name__ == "__main__":
    sys.exit(main())
