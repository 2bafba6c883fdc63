"""The site (`make docs`), and notebooks as apps (`make app`)."""

import importlib.util
import os
import subprocess
import sys
import time

import nbformat
import psutil
import pytest

from tests.lab import answers, free_port, has_chromium, launched
from workbench._util import PROJECT
from workbench.errors import WorkbenchError

pytestmark = pytest.mark.notebooks


# What a page must show and never run.
HOSTILE = '</script><img src=x onerror="document.title=1">'
TINY = [
    "# Tiny\n\nFor $x$ it is\n\n$$ y = \\frac{1}{2} $$\n\nand costs 5: [the next one](02_student_distillation.ipynb).",
    f"import numpy as np, pandas as pd\nfrom tqdm.auto import tqdm\nhostile = {HOSTILE!r}\nprint(hostile)",
    "pd.DataFrame({hostile: [hostile]})",
    "list(tqdm(range(3), leave=True))",
    "from workbench.widgets.chart import figure\nchart = figure(title=hostile)\nchart.add_bar(y=[1, 2])",
    "from workbench.widgets import AgreementExplorer\n"
    "a, b = np.random.default_rng(0).standard_normal((2, 30, 8)).astype('float32')\n"
    "AgreementExplorer({'one': a, 'two': b}, [f'{hostile} {i}' for i in range(30)])",
]


@pytest.fixture(scope="module")
def make():
    spec = importlib.util.spec_from_file_location("make", PROJECT / "docs" / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def notebook(path, first, *code):
    cells = [nbformat.v4.new_markdown_cell(first), *map(nbformat.v4.new_code_cell, code)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.fixture
def browser():
    if not has_chromium():
        pytest.skip("no chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = launched(playwright)
        yield chromium
        chromium.close()


def test_links_and_fetches_are_checked(make, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "one.html").write_text(
        '<a href="in/two.html?v=1#end"></a><a href="#top"></a><a href="https://example.org"></a><img src="data:,">'
    )
    (tmp_path / "in" / "two.html").write_text(
        '<a href="../one.html#top"></a><a href="three.html"></a><script src="//example.org/a.js"></script>'
        '<link href="https://example.org/b.css">'
    )
    (tmp_path / "in" / "style.css").write_text(
        "p { background: url('https://example.org/a.png') } q { src: url(a) }"
    )
    assert make.faults(tmp_path) == [
        "in/two.html: three.html", "in/two.html: //example.org/a.js", "in/two.html: https://example.org/b.css",
        "in/style.css: https://example.org/a.png",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_lost_link_stops_the_build(make, tmp_path, capfd):
    targets = ["02_student_distillation.ipynb#lost-one", "lost-two.ipynb", "#lost-three"]
    (tmp_path / "executed").mkdir()
    links = " ".join(f"[lost]({target})" for target in targets)
    notebook(tmp_path / "executed" / "01_the_method_from_scratch.ipynb", f"# Tiny\n\n{links}")
    with pytest.raises(WorkbenchError, match="the site has errors"):
        make.build(tmp_path / "executed", tmp_path / "site", tmp_path / "docs")
    said = capfd.readouterr().err
    assert all(target in said for target in ("lost-one", "lost-two", "lost-three"))


@pytest.mark.slow
def test_a_notebook_that_fails_is_named(make, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(make, "NOTEBOOKS", tmp_path)
    monkeypatch.delenv(
        "PYTHONPATH"
    )  # that of the tests; a kernel finds what is beside the notebooks without it
    notebook(tmp_path / "00_good.ipynb", "# Good", "import embedding_server")
    notebook(tmp_path / "01_bad.ipynb", "# Bad", "1 / 0")
    with pytest.raises(WorkbenchError, match=r"(?s)01_bad.ipynb failed: .*ZeroDivisionError"):
        make.main([])
    assert [path.name for path in (tmp_path / "home" / "executed").iterdir()] == [
        "00_good.ipynb"
    ]  # it stays


@pytest.mark.slow
def test_a_notebook_becomes_a_page_of_the_site(make, tmp_path, browser):
    (tmp_path / "executed").mkdir()
    made = make.run(notebook(tmp_path / "01_the_method_from_scratch.ipynb", *TINY))
    nbformat.write(made, tmp_path / "executed" / "01_the_method_from_scratch.ipynb")
    make.build(
        tmp_path / "executed", tmp_path / "site", tmp_path / "docs"
    )  # strict, and checks links
    page, asked, errors = browser.new_page(color_scheme="light"), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(error))
    page.goto((tmp_path / "docs" / "index.html").as_uri())
    page.locator(".sidebar-tree").get_by_role("link", name="Tiny").click()
    page.wait_for_function(
        "() => document.querySelectorAll('.js-plotly-plot .main-svg').length > 0"
    )
    assert (
        page.locator("article .workbench").count() == 1
        and page.locator("article math").count() == 2
    )
    text = page.locator("article").inner_text()
    assert text.count(HOSTILE) > 5 and "$" not in text and "it/s" not in text
    assert page.title().startswith("Tiny") and page.locator("article img").count() == 0
    ink = "getComputedStyle(document.querySelector('.workbench')).color"
    light = page.evaluate(ink)
    page.emulate_media(color_scheme="dark")  # the theme follows the system
    assert page.evaluate(ink) != light
    page.goto((tmp_path / "docs" / "docs" / "reference.html").as_uri())
    assert page.locator("[id='workbench.distill']").count() == 1
    assert not errors
    page.goto((tmp_path / "docs" / "search.html").as_uri() + "?q=find_regions")
    page.locator("#search-results").get_by_role(
        "link", name="workbench.regions.find_regions"
    ).wait_for()
    assert all(url.startswith("file:") for url in asked)


@pytest.fixture
def apps(notebook_home):
    port = free_port()
    command = ["make", "app", f"PY={sys.executable}", f"APP_ARGS=--no-browser --port={port}"]
    with subprocess.Popen(
        command, cwd=PROJECT, env=os.environ | {"WORKBENCH_HOME": str(notebook_home)}
    ) as server:
        url = f"http://127.0.0.1:{port}/voila/"
        assert answers(f"{url}static/favicon.ico", server)
        yield f"{url}render/", psutil.Process(server.pid)
        for process in psutil.Process(server.pid).children(
            recursive=True
        ):  # make itself passes no signal on
            process.kill()


def chart_or_error(page):
    """Wait until an app shows its chart, and fail at once where it shows an error."""
    page.wait_for_function(
        """() => document.body.innerText.includes('error when executing cell')
          || document.querySelector('.workbench .js-plotly-plot')?.data?.length > 0"""
    )
    assert page.locator(".workbench .js-plotly-plot").count(), page.inner_text("body")[:2000]


def is_kernel(process):
    """Whether a process is a kernel that runs: one that ended may still be among its parent's children."""
    try:
        return "ipykernel_launcher" in process.cmdline()
    except psutil.NoSuchProcess:  # ZombieProcess is one, too
        return False


@pytest.mark.slow
def test_apps(apps, browser):
    apps, server = apps
    page = browser.new_page(viewport={"width": 1300, "height": 1400})
    page.set_default_timeout(600_000)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{apps}retrieval_side_by_side.ipynb")
    chart_or_error(page)
    box = page.get_by_placeholder("type a query")
    box.fill("How do I mend a flat tyre?")
    box.press("Enter")
    page.wait_for_function(
        "() => document.querySelector('.retrieval').innerText.includes('bicycle')"
    )
    page.set_viewport_size({"width": 900, "height": 1400})
    page.goto(f"{apps}tradeoff_explorer.ipynb")
    chart_or_error(page)
    places = "[...document.querySelectorAll('.workbench .js-plotly-plot')].map(e => e.clientHeight)"
    page.wait_for_timeout(1000)
    before = page.evaluate(places)
    page.get_by_role("button", name="binary", exact=True).click()
    page.wait_for_function(
        "() => document.querySelector('.workbench').innerText.includes('768 dimensions, binary')"
    )
    page.wait_for_timeout(1000)
    assert page.evaluate(places) == before  # a click must not squash the charts
    page.goto("about:blank")
    deadline = time.monotonic() + 300
    while any(map(is_kernel, server.children(recursive=True))):
        assert time.monotonic() < deadline  # a visitor's process goes with the visitor
        time.sleep(1)
    assert all(
        url.startswith((apps.partition("/voila")[0], "data:", "blob:", "about:")) for url in asked
    ), asked
