"""First paint, lasso and bytes of AgreementExplorer beside jupyter-scatter and embedding-atlas, in one browser and one run.

    python -m bench.views [--points 1000 20000 100000] [--repeats 3] [--only NAME...]

The other two are optional; give them an environment of their own, made by python -m venv PEERS:
    PEERS/bin/python -m pip install -e ".[test]" jupyter-scatter "embedding-atlas<0.24"
and run the benchmark by PEERS/bin/python. From 0.24 on, embedding-atlas draws with WebGPU and half-precision floats
alone: without a GPU its map stays empty.
The same texts in a real JupyterLab in headless Chromium without a GPU; each repeat has a kernel and a page of its own,
libraries imported, data made. First paint: from running the cell to the first frame of the browser that has half of the
final ink in the middle of the map, in place and color; an empty frame or other text has none. Lasso: from mouse-up to the
kernel's having the selected rows as positions, and to the page's saying how many; the last answer counts. Bytes: all over
web sockets, both ways, before compression. The others are given a map; ours finds map and measures within its first paint.
Seconds belong to one machine; ratios travel better. Writes build/views.json, and pictures into build/screenshots.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from base64 import b64decode
from importlib.metadata import distributions, version
from pathlib import Path
from statistics import median

import nbformat
import numpy as np

from bench.__main__ import machine
from tests.lab import TOKEN, Lab, Notebook
from workbench._util import home, write_json

VECTORS = """
import numpy as np
rng = np.random.default_rng(0)
def clouds(count, width=768):
    topics = rng.standard_normal((100, width), dtype='float32')
    teacher = topics[rng.integers(0, 100, count)] + rng.standard_normal((count, width), dtype='float32')
    return teacher, teacher + .7 * rng.standard_normal((count, width), dtype='float32')
"""

# `hear` notes in a file when the kernel has which rows, so that asking for it does not keep the kernel busy.
DATA = """
import time, pandas as pd
teacher, student = clouds(COUNT, 384)
texts = [f'text {i} of a corpus, as long as a sentence of a summary is, or of a question' for i in range(COUNT)]
centered = teacher - teacher.mean(axis=0)
xy = centered @ np.linalg.eigh(centered.T @ centered)[1][:, -2:]
cosine = (teacher * student).sum(1) / np.linalg.norm(teacher, axis=1) / np.linalg.norm(student, axis=1)
frame = pd.DataFrame({'x': xy[:, 0], 'y': xy[:, 1], 'cosine': cosine, 'text': texts})
def hear(rows):
    positions = np.asarray(rows).tolist()
    print(time.time(), len(positions), file=open('heard', 'a'))
"""

# Imports; the cell, which has `hear` called with the selected rows; selector of the map's canvas; JavaScript for what the
# page says of the selection beside the map; selector of the button for the lasso, where a drag is none already.
OURS = "teacher-aligned-workbench"
KINDS = {
    OURS: (
        "from workbench.widgets import AgreementExplorer",
        "view = AgreementExplorer({'teacher': teacher, 'student': student}, texts, umap=False, most=100_000)\n"
        "view.observe(lambda _: hear(view.selected), 'selected')\nview",
        "canvas.workbench-map",
        "document.querySelector('.workbench .pager .label')?.textContent.match(/[0-9,]+ selected/)?.[0]",
        "",
    ),
    "jupyter-scatter": (
        "import jscatter",
        "view = jscatter.Scatter(data=frame, x='x', y='y', color_by='cosine', height=400)\nview.mouse('lasso')\n"
        "view.widget.observe(lambda _: hear(view.selection()), 'selection')\nview.show()",
        ".jp-OutputArea canvas",
        "''",
        "",
    ),
    "embedding-atlas": (
        "from embedding_atlas.widget import EmbeddingAtlasWidget",
        "view = EmbeddingAtlasWidget(frame, x='x', y='y', text='text', labels='disabled')\n"
        "view.observe(lambda _: hear(view.selection()['__row_index__']), '_predicate')\nview",
        ".embedding-atlas-widget-container canvas",
        "document.querySelector('.embedding-atlas-widget-container')?.textContent.match(/[0-9,]+ . [0-9,]+ points/)?.[0]",
        "button[title^='Toggle lasso']",
    ),
}

# In every page: count what goes over web sockets, note when the mouse button is let go and when the page says what.
COUNTERS = """
window.bytes = 0;
const size = data => data.byteLength ?? data.size ?? data.length;
window.WebSocket = class extends WebSocket {
  constructor(...given) { super(...given); this.addEventListener('message', ({data}) => { window.bytes += size(data); }); }
  send(data) { window.bytes += size(data); super.send(data); }
};
addEventListener('pointerup', event => { window.up = Date.now() - performance.now() + event.timeStamp; }, true);
window.watch = (said, last = said()) => requestAnimationFrame(() => {
  if (said() !== last) window.says.push([Date.now(), said()]);
  window.watch(said);
});
"""

PIXELS = """async ([jpeg, {x, y, width, height}]) => {
  const picture = await createImageBitmap(new Blob([Uint8Array.fromBase64(jpeg)], {type: 'image/jpeg'}));
  const context = new OffscreenCanvas(width * .6, height * .6).getContext('2d');
  context.drawImage(picture, -x - width * .2, -y - height * .2);
  return new Uint8Array(context.getImageData(0, 0, width * .6, height * .6).data.buffer).toBase64();
}"""
RENDERER = """gl = document.createElement('canvas').getContext('webgl2'),
gl ? gl.getParameter(gl.getExtension('WEBGL_debug_renderer_info').UNMASKED_RENDERER_WEBGL) : 'none'"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.views", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--points", type=int, nargs="+", default=[1000, 20_000, 100_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--only", nargs="+", choices=list(KINDS), default=list(KINDS), metavar="NAME"
    )
    options = parser.parse_args()
    here = {package.name for package in distributions()}
    names = [name for name in options.only if name in here]
    if missing := ", ".join(set(options.only) - set(names)):
        print(
            f"not installed, so left out: {missing}; the top of bench/views.py says how to install them"
        )
    versions = {
        package: version(package) for package in [*names, "jupyterlab", "anywidget", "ipywidgets"]
    }
    report = {"machine": machine(), "versions": versions}
    found = {(name, count): [] for count in options.points for name in names}
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder))
        try:
            scratch = lab.browser.new_page()
            report |= {
                "browser": f"Chromium {lab.browser.version}",
                "WebGL": scratch.evaluate(RENDERER),
            }
            for turn in range(
                options.repeats
            ):  # libraries in turn, so that a busy moment hits all of them
                for name, count in found:
                    found[name, count].append(
                        measure(lab, scratch, name, count, f"{name}-{count}-{turn}")
                    )
                    print(
                        name,
                        count,
                        {key: round(x, 3) for key, x in found[name, count][-1].items()},
                        flush=True,
                    )
        finally:
            lab.close()
    print(
        "",
        table(found, names, options.points),
        "",
        *(f"{key}: {value}" for key, value in report.items()),
        sep="\n",
    )
    report["measured"] = {f"{name} {count}": seen for (name, count), seen in found.items()}
    print(f"written to {write_json(home() / 'views.json', report)}")


def measure(lab: Lab, scratch, name: str, count: int, title: str) -> dict[str, float]:
    """Measure a view in a kernel and a page of its own; what could not be measured is missing."""
    (imports, cell, canvas, said, button), seen = KINDS[name], {}
    data = VECTORS + DATA.replace("COUNT", str(count)) + imports
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )
    notebook.cells = [nbformat.v4.new_code_cell(code) for code in (data, cell, cell)]
    nbformat.write(notebook, lab.folder / f"{title}.ipynb")
    page = lab.browser.new_page(viewport={"width": 1300, "height": 1400})
    page.add_init_script(COUNTERS)
    notebook = Notebook(page, f"{lab.url}/lab/tree/{title}.ipynb?token={TOKEN}&reset", title)
    try:
        run_cell(page, 0)
        page.wait_for_timeout(1500)
        notebook.wait_idle(300)
        before = page.evaluate("window.bytes")
        seen["first paint, s"] = first_paint(notebook, scratch, canvas)
        seen["first view, kB"] = (page.evaluate("window.bytes") - before) / 1000
        notebook.picture(f"views-{title}", ".jp-OutputArea-output >> nth=-1")
        page.locator(button).first.click() if button else None
        page.evaluate(f"watch(() => {said})")
        lassos = [lasso(page, canvas, lab.folder / "heard", radius) for radius in (0.2, 0.25, 0.3)]
        seen |= {key: median(one[key] for one in lassos) for key in lassos[0]}
        before = page.evaluate("window.bytes")
        run_cell(page, 2)
        page.wait_for_timeout(500)
        notebook.wait_idle(300)
        settled(lambda: page.evaluate("window.bytes"), page)
        seen["second view, kB"] = (page.evaluate("window.bytes") - before) / 1000
    except Exception as error:
        print(f"{title}: {str(error)[:300]}", file=sys.stderr)
    notebook.close()
    return seen


def run_cell(page, number: int) -> float:
    """Run a cell without waiting; return when that was asked for, in seconds of the clock."""
    page.evaluate(
        "number => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = number; }",
        number,
    )
    run = "window.jupyterapp.commands.execute('notebook:run-cell-and-select-next')"
    return page.evaluate(f"() => {{ const now = Date.now(); {run}; return now / 1000; }}")


def settled(value, page, quiet: float = 2) -> object:
    """Wait until a value has not changed for a while; return it."""
    last, since = value(), time.monotonic()
    while time.monotonic() < since + quiet:
        page.wait_for_timeout(100)
        if (now := value()) != last:
            last, since = now, time.monotonic()
    return last


def first_paint(notebook: Notebook, scratch, canvas: str) -> float:
    """Run the cell of the view; return the seconds until the browser has drawn the map."""
    page, frames = notebook.page, []
    session = page.context.new_cdp_session(page)

    def take(event: dict) -> None:
        frames.append((event["metadata"]["timestamp"], event["data"]))
        session.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})

    session.on("Page.screencastFrame", take)
    session.send("Page.startScreencast", {"format": "jpeg", "quality": 80})
    started = run_cell(page, 1)
    page.locator(canvas).first.wait_for(timeout=300_000)
    notebook.wait_idle(300)
    for _ in range(20):  # nothing moves, and nothing is there: the machine is busy
        settled(lambda: len(frames), page)
        drawn, box = sorted(frames), page.locator(canvas).first.bounding_box()
        pixels = [
            np.frombuffer(b64decode(scratch.evaluate(PIXELS, [jpeg, box])), np.uint8)
            for _, jpeg in drawn
        ]
        *_, last = pixels = [one.reshape(-1, 4)[:, :3].astype(int) for one in pixels]
        colors, counts = np.unique(last >> 3, axis=0, return_counts=True)
        ink = (abs(last - colors[counts.argmax()] * 8 - 4) > 32).any(axis=1)
        if ink.mean() > 0.002:
            break
    session.send("Page.stopScreencast")
    assert ink.mean() > 0.002, "the map stays empty"
    shares = [(abs(one[ink] - last[ink]) <= 32).all(axis=1).mean() for one in pixels]
    return next(at for (at, _), share in zip(drawn, shares, strict=True) if share >= 0.5) - started


def lasso(page, canvas: str, heard: Path, radius: float) -> dict[str, float]:
    """Draw a lasso in the middle of the map; return the seconds until the kernel, and the page too, know of it."""
    heard.write_text("")
    page.evaluate("window.says = []")
    box = page.locator(canvas).first.bounding_box()
    for step in range(41):
        x, y = (0.5 + radius * part(step / 20 * np.pi) for part in (np.cos, np.sin))
        page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * y)
        page.mouse.down() if not step else None
    page.mouse.up()
    for _ in range(1200):
        page.wait_for_timeout(50) if not heard.read_text() else None
    assert heard.read_text(), "the kernel did not hear of the lasso"
    answers, says = settled(lambda: (heard.read_text(), page.evaluate("window.says")), page)
    (at, rows), up = answers.splitlines()[-1].split(), page.evaluate("window.up") / 1000
    both = max([float(at), *(moment / 1000 for moment, _ in says[-1:])]) - up
    return {
        "lasso to kernel, s": float(at) - up,
        "lasso to kernel and page, s": both,
        "rows selected": int(rows),
    }


def table(found: dict, names: list[str], counts: list[int]) -> str:
    """Return the medians as Markdown, with ours as a multiple of the better of the others."""
    head = f"| points | median of | {' | '.join([*names, 'ours ÷ better of the others'])} |"
    lines = [head, "|---" * (len(names) + 3) + "|"]
    for count in counts:
        for key in dict.fromkeys(
            key for name in names for one in found[name, count] for key in one
        ):
            seen = {name: [one[key] for one in found[name, count] if key in one] for name in names}
            middle = {name: median(values) for name, values in seen.items() if values}
            others = [value for name, value in middle.items() if name != OURS]
            ratio = (
                f"{middle[OURS] / min(others):.2f}"
                if others and OURS in middle and key != "rows selected"
                else ""
            )
            shown = [
                f"{middle[name]:,.{2 * key.endswith(', s')}f}" if name in middle else "–"
                for name in names
            ]
            lines.append(f"| {count:,} | {key} | {' | '.join(shown)} | {ratio} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
