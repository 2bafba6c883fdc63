"""Run the notebooks, and make the site with Sphinx: build/docs/index.html.

    python docs/make.py [00 03 ...]     run all notebooks, or those that begin so; none: only make the site

Stopped with Ctrl-C, the notebooks that have run stay; name the others to go on. One that never ran is on the site
without outputs. In place of each widget a page has its static form as the notebook left it: what it says, and its figures.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import nbclient
import nbformat
from bs4 import BeautifulSoup
from nbclient.exceptions import CellExecutionError, DeadKernelError
from sphinx.cmd.build import build_main

from workbench._util import PROJECT, home
from workbench.errors import WorkbenchError

DOCS, NOTEBOOKS = PROJECT / "docs", PROJECT / "notebooks"

# Runs in the notebook's kernel before its first cell: figures are HTML that needs no kernel, and a view leaves a mark where
# it is shown, and is drawn at the end.
BEFORE = """
from plotly.basedatatypes import BaseFigure as _Figure
from workbench.widgets._view import View as _View
_views = []
def _mark(self, **_):
    _views.append(self)
    return {"text/html": f'<div data-view="{len(_views) - 1}"></div>'}
_View._repr_mimebundle_ = _mark
_Figure._ipython_display_ = None  # would come first
_Figure._repr_mimebundle_ = lambda self, *_, **__: {"text/html": self.to_html(full_html=False, include_plotlyjs=False)}
"""
AFTER = "import json as _json\nprint(_json.dumps([view.body() for view in _views]))"
WIDGET = "application/vnd.jupyter.widget-view+json"  # a bar, which has ended
PLOTLY = '<script src="../_static/plotly.min.js"></script>'


def run(path: Path) -> nbformat.NotebookNode:
    """Run a notebook from a fresh kernel; return it with outputs that need no kernel."""
    notebook = nbformat.read(path, as_version=4)
    cells, cell = notebook.cells, nbformat.v4.new_code_cell
    notebook.cells = [cell(BEFORE), *cells, cell(AFTER)]
    quiet = {
        "extra_arguments": ["--log-level=ERROR"],
        "coalesce_streams": True,
    }  # the kernel, about its own connection
    place = {"metadata": {"path": str(path.parent)}}
    nbclient.NotebookClient(notebook, timeout=None, resources=place, **quiet).execute()
    views = json.loads(notebook.cells[-1].outputs[0].text)
    notebook.cells = cells
    notebook.metadata.pop("widgets", None)
    for code in (each for each in cells if each.cell_type == "code"):
        code.outputs = [output for output in code.outputs if WIDGET not in output.get("data", {})]
        for data in (output.get("data", {}) for output in code.outputs):
            if found := re.fullmatch(r'<div data-view="(\d+)"></div>', data.get("text/html", "")):
                data["text/html"] = f'<div class="workbench">{views[int(found[1])]}</div>'
    if "Plotly.newPlot" in nbformat.writes(notebook):
        cells.insert(1, nbformat.v4.new_markdown_cell(PLOTLY))
    return notebook


def build(executed: Path, site: Path, output: Path) -> None:
    """Make the site in `output` from the project's pages and notebooks, those in `executed` with their outputs.

    Raises:
        WorkbenchError: Sphinx warns, a link leads nowhere, or a page would fetch something from a network.
    """
    for folder in (site, output):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(
        DOCS, site / "docs", ignore=shutil.ignore_patterns("*.py", "*.css", "_*", "contents.md")
    )
    (site / "notebooks").mkdir()
    for path in NOTEBOOKS.glob("*.ipynb"):
        ran = executed / path.name
        shutil.copy(ran if ran.is_file() else path, site / "notebooks")
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(PROJECT / name, site)
    (site / "index.md").write_text(
        (PROJECT / "README.md").read_text() + (DOCS / "contents.md").read_text()
    )
    for page in site.rglob("*.md"):
        page.write_text(page.read_text().replace("README.md)", "index.md)"))
    if build_main(
        [
            "-q",
            "-W",
            "--keep-going",
            "-c",
            str(DOCS),
            "-d",
            str(site / ".doctrees"),
            str(site),
            str(output),
        ]
    ):
        raise WorkbenchError("the site has errors")
    if found := faults(output):
        raise WorkbenchError("links that lead nowhere, or to a network:\n" + "\n".join(found))


def faults(folder: Path) -> list[str]:
    """Return the links of all pages that lead to no file, and whatever a page would fetch from a network."""
    found = []
    for path in sorted(folder.rglob("*.html")):
        for tag in BeautifulSoup(path.read_text(), "html.parser")(
            lambda tag: tag.get("src") or tag.get("href")
        ):
            target = tag.get("src") or tag["href"]
            if re.match(r"(https?:)?//", target):
                lost = (
                    tag.name != "a"
                )  # a reader may follow a link; whether it leads anywhere needs a network to tell
            else:
                lost = not (path.parent / unquote(re.sub(r"^data:.*|[?#].*", "", target))).exists()
            found += [f"{path.relative_to(folder)}: {target}"] * lost
    for path in sorted(folder.rglob("*.css")):
        urls = re.findall(r"url\(\W*((?:https?:)?//[^\s)'\"]+)", path.read_text())
        found += [f"{path.relative_to(folder)}: {url}" for url in urls]
    return found


def main(chosen: list[str]) -> None:
    """Run the chosen notebooks, and make the site."""
    shared = [
        str(NOTEBOOKS),
        str(PROJECT / "examples"),
        *filter(None, [os.environ.get("PYTHONPATH")]),
    ]
    os.environ["PYTHONPATH"] = os.pathsep.join(
        shared
    )  # of the kernels, which run in the notebooks' folder
    executed = home() / "executed"
    executed.mkdir(parents=True, exist_ok=True)
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if path.name.startswith(tuple(chosen) or ""):
            print(path.name, end=" ", flush=True)
            started = time.perf_counter()
            try:
                nbformat.write(run(path), executed / path.name)
            except (CellExecutionError, DeadKernelError) as error:
                raise WorkbenchError(f"{path.name} failed: {error}") from None
            print(f"{time.perf_counter() - started:.0f} s", flush=True)
    build(executed, home() / "site", home() / "docs")
    print(home() / "docs" / "index.html")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except WorkbenchError as error:
        sys.exit(f"docs: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
