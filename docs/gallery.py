"""Run the notebooks and write them as pages without a kernel: build/docs/index.html.

    python docs/gallery.py [00 03 ...]     all of them, or those that begin so

Stopped with Ctrl-C, the pages that are finished stay; name the others to go on.

A page needs no network and no server. In place of each widget it has the widget's static form as the notebook left it:
what it says, and its figures.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import _course
import nbclient
import nbformat
import plotly.io
from latex2mathml.converter import convert
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from plotly.offline import get_plotlyjs
from pygments.formatters import HtmlFormatter

from workbench._util import PROJECT, home, write_json
from workbench.errors import WorkbenchError
from workbench.widgets._view import STYLE

NOTEBOOKS = PROJECT / "notebooks"
# Runs in the notebook's kernel before its first cell: a view leaves a mark where it is shown, and is drawn at the end.
BEFORE = """
from workbench.widgets._view import View as _View
_views = []
def _mark(self, **_):
    _views.append(self)
    return {"text/plain": type(self).__name__, "text/html": f'<div data-view="{len(_views) - 1}"></div>'}
_View._repr_mimebundle_ = _mark
"""
AFTER = "import json as _json\nprint(_json.dumps([view.body() for view in _views]))"
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<link rel="stylesheet" href="page.css">{script}</head><body><nav>{links}</nav><main>{body}</main></body></html>
"""
CSS = """
:root { font: 16px/1.55 system-ui, sans-serif; --page: #fff; --text: #222; --soft: #f4f4f4; --rule: #ccc; --link: #0b57a4; }
body { margin: 0; background: var(--page); color: var(--text); }
main, nav { max-width: 1060px; margin: auto; padding: 8px 20px; }
nav { border-bottom: 1px solid var(--rule); display: flex; justify-content: space-between; gap: 1em; }
a { color: var(--link); } .anchor-link, .prompt, .jp-InputPrompt, .jp-OutputPrompt { display: none; }
pre { overflow-x: auto; font: 13px/1.45 ui-monospace, monospace; margin: .3em 0; }
.highlight pre { background: var(--soft); padding: 8px 12px; border-left: 3px solid var(--rule); }
blockquote { margin: 1em 0; padding: .2em 1em; border-left: 3px solid #e69f00; background: var(--soft); }
.output, .jp-OutputArea { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; } table, td, th { border: none; } td, th { padding: 3px 9px; text-align: left; vertical-align: top; }
tr { border-bottom: 1px solid var(--rule); } img { max-width: 100%; } math[display=block] { margin: .8em 0; }
code { font-family: ui-monospace, monospace; font-size: 90%; }
@media (prefers-color-scheme: dark) {
  :root { --page: #141414; --text: #ddd; --soft: #222; --rule: #444; --link: #7ab8f5; }
}
"""

THEME = ".workbench { --ink: var(--text); --paper: var(--page); --line: var(--rule); --accent: var(--link); }"


def make_static(notebook: nbformat.NotebookNode) -> None:
    """Draw views, figures and formulas: nothing is left in a notebook that would need a kernel or a network to be shown."""
    notebook.metadata.pop("widgets", None)
    _, *notebook.cells, last = notebook.cells  # BEFORE and AFTER
    views = json.loads(last.outputs[0].text)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = formulas(cell.source)
        else:
            cell.outputs = [output for output in cell.outputs if _shown(output, views)]


def _shown(output: nbformat.NotebookNode, views: list[str]) -> bool:
    """Put what can be shown into an output, and say whether there is anything."""
    data = output.get("data", {})
    if figure := data.pop("application/vnd.plotly.v1+json", None):
        chart = plotly.io.from_json(json.dumps(figure), skip_invalid=True)
        data["text/html"] = chart.to_html(full_html=False, include_plotlyjs=False)
    if found := re.fullmatch(r'<div data-view="(\d+)"></div>', data.get("text/html", "")):
        data["text/html"] = f'<div class="workbench">{views[int(found[1])]}</div>'
    bar = data.pop("application/vnd.jupyter.widget-view+json", None) is not None
    return "text/html" in data or not bar


def formulas(markdown: str) -> str:
    """Return Markdown with its LaTeX as MathML, which browsers draw themselves."""
    markdown = re.sub(r"\$\$(.+?)\$\$", lambda m: convert(m[1].strip(), display="block"), markdown, flags=re.S)
    return re.sub(r"\$([^$\n]+)\$", lambda m: convert(m[1]), markdown)


def run(path: Path) -> tuple[nbformat.NotebookNode, float]:
    """Run a notebook from a fresh kernel; return it with its outputs, and its seconds."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(BEFORE))
    notebook.cells.append(nbformat.v4.new_code_cell(AFTER))
    place = {"metadata": {"path": str(path.parent)}}
    quiet = ["--log-level=ERROR"]  # of the kernel, about its own connection
    client = nbclient.NotebookClient(
        notebook, timeout=None, resources=place, extra_arguments=quiet, coalesce_streams=True
    )
    started = time.perf_counter()
    client.execute(env=os.environ | {"PLOTLY_RENDERER": "plotly_mimetype"})
    return notebook, time.perf_counter() - started


def write(notebook: nbformat.NotebookNode, folder: Path, name: str, names: list[str]) -> dict:
    """Write a notebook's page, which leads to its neighbors among `names`; return its title and its first lines."""
    make_static(notebook)
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    title, lead = re.match(
        r"# (.+?)\n+(?:\*\*What you will learn:\*\* )?(.*?)(?:\n\n|$)", notebook.cells[0].source, re.S
    ).groups()
    place, links = names.index(name), ['<a href="index.html">Notebooks</a>']
    links = [f'<a href="{one}.html">← {one}</a>' for one in names[:place][-1:]] + links
    links += [f'<a href="{one}.html">{one} →</a>' for one in names[place + 1 :][:1]]
    page(folder, name, title, body, "".join(links))
    return {
        "title": title,
        "lead": " ".join(lead.replace("`", "").split()),
        "cells": sum(c.cell_type == "code" for c in notebook.cells),
    }


def page(folder: Path, name: str, title: str, body: str, links: str = "") -> None:
    """Write a page."""
    script = '<script src="plotly.min.js"></script>' if "Plotly.newPlot" in body else ""
    (folder / f"{name}.html").write_text(PAGE.format(title=escape(title), script=script, links=links, body=body))


def assets(folder: Path) -> None:
    """Write what pages need beside them: their style, and plotly.js."""
    folder.mkdir(parents=True, exist_ok=True)
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("default", "github-dark"))
    dark = "@media (prefers-color-scheme: dark) {" + dark + ".highlight { background: var(--soft); }}"
    (folder / "page.css").write_text(light + dark + CSS + STYLE + THEME)
    (folder / "plotly.min.js").write_text(get_plotlyjs())


def index(folder: Path, pages: dict[str, dict]) -> None:
    """Write the page that leads to the others."""
    rows = "".join(
        f'<tr><td><a href="{name}.html">{escape(about["title"])}</a></td><td>{escape(about["lead"])}</td>'
        f"<td>{about['cells']}</td><td>{about['seconds']:.0f}</td></tr>"
        for name, about in sorted(pages.items())
    )
    page(
        folder,
        "index",
        "Teacher-aligned workbench",
        "<h1>Teacher-aligned workbench</h1><p>The notebooks as they were run by <code>make docs</code>, each from a fresh "
        "kernel. In JupyterLab (<code>make lab</code>) most figures are parts of widgets that answer.</p>"
        f"<table><tr><th>notebook</th><th></th><th>code cells</th><th>seconds</th></tr>{rows}</table>"
        f"<p>Profile “{escape(_course.profile().name)}”. Seconds are of this run, in this order, with a cache that notebooks share.</p>",
    )


class _Links(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[tuple[str, str]] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.targets.append((tag, value))
            elif name in ("id", "name"):
                self.ids.add(value)


def broken_links(folder: Path) -> list[str]:
    """Return the links of all pages that lead nowhere, and whatever a page would fetch from a network."""
    pages = {path.name: _Links(path.read_text()) for path in sorted(folder.glob("*.html"))}
    broken = []
    for name, found in pages.items():
        for tag, target in found.targets:
            file, _, anchor = unquote(target).partition("#")
            if re.match(r"(https?:)?//", target):
                lost = tag != "a"  # a reader may follow a link; whether it leads anywhere needs a network to tell
            else:
                lost = bool(file and not (folder / file).is_file())
                lost |= bool(anchor and anchor not in pages.get(file or name, found).ids)
            if lost:
                broken.append(f"{name}: {target}")
    return broken


def main(chosen: list[str]) -> int:
    """Make the pages of the chosen notebooks, the index, and check all links; return the exit code."""
    _course.profile()  # a name that is none is told before a kernel starts
    stop = threading.Event()

    def ask_to_stop(*_: object) -> None:
        stop.set()
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, ask_to_stop)
    folder = home() / "docs"
    known = folder / "pages.json"
    pages = json.loads(known.read_text()) if known.is_file() else {}
    paths = [path for path in sorted(NOTEBOOKS.glob("*.ipynb")) if not chosen or path.name.startswith(tuple(chosen))]
    if not paths:
        raise SystemExit(f"no notebook begins with {', '.join(chosen)}")
    pages = {name: about for name, about in pages.items() if (NOTEBOOKS / f"{name}.ipynb").is_file()}
    assets(folder)
    names = sorted(pages.keys() | {path.stem for path in paths})
    for number, path in enumerate(paths, 1):
        print(f"{number} of {len(paths)}: {path.name} ...", end=" ", flush=True)
        try:
            notebook, seconds = run(path)
        except (Exception, KeyboardInterrupt) as error:
            if stop.is_set():  # whatever that broke in the client
                print("stopped; the pages that are finished stay")
                return 130
            if isinstance(error, CellExecutionError):
                raise WorkbenchError(f"{path.name} failed: {error.ename}: {error.evalue}") from None
            raise
        pages[path.stem] = write(notebook, folder, path.stem, names) | {"seconds": round(seconds, 1)}
        write_json(known, pages)
        print(f"{seconds:.0f} s", flush=True)
    index(folder, pages)
    if broken := broken_links(folder):
        raise SystemExit("broken links:\n" + "\n".join(broken))
    print(f"{folder / 'index.html'}: {len(pages)} pages, every link leads somewhere")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except WorkbenchError as error:
        sys.exit(f"gallery: {error}")
