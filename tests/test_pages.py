"""Notebooks as pages without a kernel (`make docs`), and as apps (`make app`)."""

import importlib.util
import os
import subprocess
import sys
import time

import psutil
import pytest

from tests.lab import answers, free_port, has_chromium, launched
from workbench._util import PROJECT

pytestmark = pytest.mark.notebooks


@pytest.fixture(scope="module")
def gallery():
    spec = importlib.util.spec_from_file_location("gallery", PROJECT / "docs" / "gallery.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def browser():
    if not has_chromium():
        pytest.skip("no chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = launched(playwright)
        yield chromium
        chromium.close()


def test_formulas_become_mathml(gallery):
    text = gallery.formulas("for $x$ it is\n\n$$ y =\n\\frac{1}{2} $$\n\nand costs 5")
    assert text.count("<math") == 2 and "$" not in text and text.endswith("and costs 5")


def test_links_are_checked(gallery, tmp_path):
    (tmp_path / "one.html").write_text('<h1 id="top"></h1><a href="two.html#end"></a><a href="#top"></a>'
                                       '<a href="https://example.org"></a><a href="two.html#lost"></a>')  # fmt: skip
    (tmp_path / "two.html").write_text(
        '<p id="end"></p><a href="three.html"></a><script src="//example.org/a.js"></script>'
    )
    assert gallery.broken_links(tmp_path) == [
        "one.html: two.html#lost", "two.html: three.html", "two.html: //example.org/a.js",
    ]  # fmt: skip


def test_a_notebook_becomes_a_page(gallery, notebook_home, monkeypatch, browser):
    monkeypatch.setenv("WORKBENCH_HOME", str(notebook_home))
    assert gallery.main(["00"]) == 0
    page, asked = browser.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((notebook_home / "docs" / "index.html").as_uri())
    page.get_by_role("link", name="0. Start here").click()
    page.wait_for_function("() => document.querySelectorAll('.workbench .js-plotly-plot .main-svg').length > 0")
    assert page.locator(".workbench").count() == 2 and page.locator("math").count() == 1
    assert "Mean nDCG@10" in page.locator("body").inner_text()
    assert all(url.startswith("file:") for url in asked)


@pytest.fixture
def apps(notebook_home):
    port = free_port()
    command = [
        sys.executable, "-m", "voila", str(PROJECT / "notebooks" / "apps"), "--no-browser", f"--port={port}",
        "--MappingKernelManager.cull_idle_timeout=6", "--MappingKernelManager.cull_interval=2",
    ]  # fmt: skip
    with subprocess.Popen(command, env=os.environ | {"WORKBENCH_HOME": str(notebook_home)}) as server:
        url = f"http://127.0.0.1:{port}/voila/"
        assert answers(f"{url}static/favicon.ico", server)
        yield f"{url}render/", psutil.Process(server.pid)
        server.terminate()


def test_apps(apps, browser):
    apps, server = apps
    page = browser.new_page(viewport={"width": 1300, "height": 1400})
    page.set_default_timeout(300_000)
    page.goto(f"{apps}retrieval_side_by_side.ipynb")
    page.wait_for_function("() => document.querySelector('.workbench .js-plotly-plot')?.data?.length > 0")
    box = page.get_by_placeholder("type a query")
    box.fill("How do I mend a flat tyre?")
    box.press("Enter")
    page.wait_for_function("() => document.querySelector('.retrieval').innerText.includes('bicycle')")
    page.set_viewport_size({"width": 900, "height": 1400})
    page.goto(f"{apps}tradeoff_explorer.ipynb")
    page.wait_for_function("() => document.querySelector('.workbench .js-plotly-plot')?.data?.length > 0")
    places = "[...document.querySelectorAll('.workbench .js-plotly-plot')].map(e => e.clientHeight)"
    page.wait_for_timeout(1000)
    before = page.evaluate(places)
    page.get_by_role("button", name="binary", exact=True).click()
    page.wait_for_function("() => document.querySelector('.workbench').innerText.includes('768 dimensions, binary')")
    page.wait_for_timeout(1000)
    assert page.evaluate(places) == before  # a click must not squash the charts
    page.goto("about:blank")
    deadline = time.monotonic() + 120
    while server.children():  # a visitor's process goes with the visitor
        assert time.monotonic() < deadline
        time.sleep(1)
