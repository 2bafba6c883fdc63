"""The widgets in a real JupyterLab in a real browser: what the page shows and what Python then holds."""

import re
import time
from pathlib import Path

import pytest

from tests.lab import Lab, has_chromium, lit, painted

pytestmark = pytest.mark.browser

if not has_chromium():
    pytest.skip("no chromium on this machine", allow_module_level=True)

TESTS = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
DATA = """
import numpy as np
from workbench.data import Role, Text
rng = np.random.default_rng(0)
topics = rng.standard_normal((6, 32))
teacher = (topics[rng.integers(0, 6, COUNT)] + .6 * rng.standard_normal((COUNT, 32))).astype('float32')
student = (teacher + .4 * rng.standard_normal(teacher.shape)).astype('float32')
texts = [Text(f'text number {i} <script>window.broken = true</script><img src=x onerror="window.broken=true">'
              + ' مرحبا 😀', list(Role)[i % 2]) for i in range(COUNT)]
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()


def drag(page, area, points, steps=8):
    """Draw with the mouse through points given as shares of an area."""
    area.scroll_into_view_if_needed()
    page.wait_for_timeout(200)
    box = area.bounding_box()
    places = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=steps)
    page.mouse.up()


def lasso(left, right):
    """Return the corners of a lasso over nearly the whole height of a map."""
    return [(left, 0.08), (right, 0.08), (right, 0.97), (left, 0.97), (left, 0.1)]


def shown(lab, name, *cells, ready=".workbench-table tbody tr"):
    """Run cells, the last of which shows a view; return the notebook and its page."""
    notebook = lab.open(name, list(cells))
    notebook.run_all()
    notebook.page.wait_for_selector(ready, timeout=90_000)
    return notebook, notebook.page


def nothing_ran(notebook):
    assert notebook.page.evaluate("() => window.broken") is None
    assert notebook.page.locator(".workbench script, .workbench img").count() == 0
    assert notebook.close() == []


def test_agreement_explorer(lab):
    cell = """
from workbench.widgets import AgreementExplorer
view = AgreementExplorer({'teacher': teacher, 'student': student}, texts)
view"""
    notebook, page = shown(lab, "explorer", DATA.replace("COUNT", "400"), cell)
    assert notebook.eventually("view.map.method", lambda m: m == "UMAP", 300) == "UMAP"
    page.wait_for_selector(".workbench .js-plotly-plot .nsewdrag", timeout=60_000)
    page.wait_for_timeout(500)
    notebook.pictures("agreement-explorer")

    area, chart = page.locator(".workbench-over"), page.locator(".workbench .nsewdrag")
    drag(page, area, [(0.01, 0.01), (0.99, 0.01), (0.99, 0.99), (0.01, 0.99), (0.01, 0.02)])
    assert notebook.eventually("len(view.selected)", lambda n: n == 400) == 400
    drag(page, area, lasso(0.1, 0.5))
    inside = notebook.eventually("len(view.selected)", lambda n: 0 < n < 400)
    bars = "sum(int(v) for v in view.histogram.figure.data[1].y)"
    notebook.eventually(bars, lambda n: n == inside)
    lit(page, inside)
    drag(page, chart, [(0.5, 0.2), (0.8, 0.8)])
    lit(page, notebook.eventually("len(view.selected)", lambda n: n not in (0, inside)))
    notebook.picture("agreement-explorer-selected")

    before = page.locator(".workbench-map").evaluate("e => e.toDataURL().length")
    area.hover()
    page.keyboard.down("Control")  # without it, the wheel scrolls the page
    page.mouse.wheel(0, -300)
    page.keyboard.up("Control")
    page.wait_for_timeout(300)
    assert page.locator(".workbench-map").evaluate("e => e.toDataURL().length") != before
    page.get_by_role("button", name="all", exact=True).click()
    box = area.bounding_box()
    right, up = notebook.python("view.points._places[0].tolist()")
    x, y = 14 + (box["width"] - 28) * right, 14 + (box["height"] - 28) * (1 - up)
    page.mouse.move(box["x"] + x, box["y"] + y)
    page.wait_for_function(
        "() => /^cosine/.test(document.querySelector('.workbench-tip').innerText)"
    )
    page.get_by_role("button", name="clear", exact=True).click()
    notebook.eventually("len(view.selected)", lambda n: n == 0)

    drag(page, area, [(0.001, 0.001), (0.03, 0.001), (0.03, 0.01), (0.001, 0.01)])
    page.locator(".workbench-tip", has_text="No point is inside").wait_for()
    canvas = page.locator(".workbench-map")
    canvas.focus()
    for key in ("ArrowRight", "ArrowUp", "Enter"):
        page.keyboard.press(key)
    notebook.eventually("len(view.selected)", lambda n: n == 1)
    canvas.press("Escape")
    notebook.eventually("len(view.selected)", lambda n: n == 0)

    texts = page.get_by_role("grid", name="texts")
    assert texts.locator("[tabindex='0']").count() == 1  # one tab stop
    for role in ("combobox", "textbox"):
        name = page.locator(".workbench").first.get_by_role(role, name=re.compile("."))
        assert name.count() == 1
    texts.locator("th button[data-column=cosine]").click()
    page.wait_for_selector("th[aria-sort=ascending]")
    texts.locator("tbody tr").first.click()
    worst = notebook.eventually("list(view.selected)", len)
    assert notebook.python("int(view.table['cosine'].to_numpy().argmin())") == worst[0]
    page.wait_for_selector("tbody tr[aria-selected=true]")
    assert page.locator("tbody tr[aria-selected=true]").count() == 1
    text = notebook.python("view.table['text'].iloc[view.selected[0]]")
    page.wait_for_function(
        "s => document.querySelector('.workbench-detail > div')?.innerText === s", arg=text
    )
    texts.locator("tbody tr").nth(0).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+Enter")
    notebook.eventually("len(view.selected)", lambda n: n == 2)
    page.locator(".retrieval li button").first.click()  # follow a neighbor
    notebook.eventually("len(view.selected)", lambda n: n == 1)
    page.locator(".workbench-map").focus()
    cells = page.locator(".jp-Cell").count()
    for key in ("x", "b", "m", "Escape"):  # no commands of the notebook
        page.keyboard.press(key)
    notebook.eventually("len(view.selected)", lambda n: n == 0)
    assert page.locator(".jp-Cell").count() == cells

    box = page.locator(".workbench input[placeholder^=search]")
    box.fill("number 39")
    box.press("Enter")
    # Words in any order: 39, 139, 239, 339 and 390 to 399.
    notebook.eventually("len(view.selected)", lambda n: n == 14)
    page.get_by_role("grid", name="regions").locator("tbody tr").first.click()
    region = "view.table['region'] == view.regions.index[0]"
    notebook.eventually(f"list(view.selected) == np.flatnonzero({region}).tolist()", bool)
    nothing_ran(notebook)


def test_neighbor_inspector(lab):
    cell = """
from workbench.widgets import NeighborInspector
view = NeighborInspector({'teacher': teacher, 'student': student}, texts)
view"""
    notebook, page = shown(lab, "inspector", DATA.replace("COUNT", "200"), cell)
    notebook.pictures("neighbor-inspector")
    page.locator(".workbench-table tbody tr").nth(3).click()
    notebook.eventually("view.position", lambda p: p == 3)
    nearest = notebook.python("view.neighbors['text'].iloc[0][:14]")
    page.wait_for_function(
        "s => document.querySelector('.retrieval li').innerText.includes(s)", arg=nearest
    )
    card = page.locator(".retrieval li").first
    card.click()
    assert card.get_attribute("class") == "open"
    page.locator(".retrieval li button").first.click()
    notebook.eventually("view.position", lambda p: p != 3)
    page.get_by_role("button", name="Back").click()
    notebook.eventually("view.position", lambda p: p == 3)
    nothing_ran(notebook)


def test_training_monitor_stops_a_training_that_runs(lab, tiny_model, other_tiny_model):
    show = f"""
from conftest import sentences
from workbench import models, student
from workbench.train import TrainingConfig, train_student
from workbench.widgets import TrainingMonitor
model = student.build({str(tiny_model)!r}, 48, max_length=40, device='cpu')
texts, teacher = sentences(300), models.load_model({str(other_tiny_model)!r}, device='cpu')
targets = teacher.encode([t.text for t in texts])
monitor = TrainingMonitor({{'closed-form start': 1.5}})
monitor"""
    train = """
config = TrainingConfig(batch_size=8, learning_rate=1e-4, epochs=400, restarts=1, evaluations=1,
                        precision='float32')
options = {'held_out': (texts[:40], targets[:40]), 'on_step': monitor, 'stop': monitor.stop}
result = monitor.run(lambda: train_student(model, texts[40:], targets[40:], config, **options))"""
    notebook = lab.open("monitor", [TESTS + show, train])
    notebook.start()
    page = notebook.page
    line = ".workbench .js-plotly-plot .scatterlayer path.js-line[d]"
    page.wait_for_selector(line, timeout=180_000, state="attached")
    page.wait_for_function(
        "() => document.querySelector('.workbench .note').innerText.includes('held-out loss')"
    )
    page.get_by_role("button", name="Stop").click()
    notebook.wait_idle(60)
    assert notebook.python("result.stopped") is True
    assert notebook.python("0 < len(result.history) < 400 * 32")
    assert "Stopped" in page.locator(".workbench .note").first.inner_text()
    notebook.pictures("training-monitor")
    nothing_ran(notebook)


def test_cache_progress_stops_and_resumes(lab):
    show = """
import time
from conftest import HashTeacher, sentences
from workbench.cache import TargetCache
from workbench.widgets import CacheProgress
class Slow(HashTeacher):
    def encode(self, texts, role, *, stop=None):
        time.sleep(len(texts) / 1000)
        return super().encode(texts, role)
teacher = Slow()
cache = TargetCache('cache', teacher)
view = CacheProgress()
view"""
    run = "view.start(cache, sentences(6000))"
    notebook, page = shown(lab, "progress", TESTS + show, run, ready=".workbench .note")
    page.wait_for_function(
        "() => / texts\\/s/.test(document.querySelector('.workbench .note').innerText)"
    )
    page.get_by_role("button", name="Stop").click()
    page.wait_for_selector("button:has-text('Resume'):not([disabled])")
    assert 0 < notebook.python("len(teacher.encoded)") < 6000
    notebook.pictures("cache-progress")
    page.get_by_role("button", name="Resume").click()
    notebook.eventually("view.wait().done", lambda n: n == 6000, 60)
    assert notebook.python("len(teacher.encoded)") <= 6000 + 2  # nothing is encoded twice
    nothing_ran(notebook)


def test_retrieval_explorer(lab):
    cell = """
import numpy as np
from conftest import HashTeacher
from workbench import data
from workbench.data import Role
from workbench.widgets import RetrievalExplorer
collection, teacher = data.read_dataset("tutorial"), HashTeacher(64)
def embed(texts):
    return np.stack([teacher.vector(t.text, t.role) for t in texts]).astype('float32')
def moved(v):
    return v + .3 * np.random.default_rng(0).standard_normal(v.shape).astype('float32')
def ask(text):
    return teacher.vector(text, Role.QUERY)
sides = embed(collection.query_texts()), embed(collection.document_texts())
models = {'teacher': sides, 'student': tuple(map(moved, sides))}
view = RetrievalExplorer(collection, models, encode={'teacher': ask, 'student': ask})
view"""
    notebook, page = shown(lab, "retrieval", TESTS + cell)
    notebook.pictures("retrieval-explorer")
    page.locator(".workbench-table tbody tr").nth(4).click()
    query = notebook.python("list(view.scores.index)[4]")
    notebook.eventually("view.query", lambda q: q == query)
    title = notebook.python("view.results['document_id'].iloc[0]")
    page.wait_for_function(
        "s => document.querySelector('.workbench').innerText.includes(s)", arg=title
    )
    box = page.locator(".workbench input[type=text]").first
    box.fill("how to <script>window.broken = 1</script> bake bread")
    box.press("Enter")
    notebook.eventually("view.heading.value", lambda text: "how to &lt;script&gt;" in text)
    notebook.eventually("view.query", lambda q: q is None)
    nothing_ran(notebook)


def test_model_comparison(lab):
    cell = """
from workbench.widgets import ModelComparison
start = (teacher + .8 * rng.standard_normal(teacher.shape)).astype('float32')
view = ModelComparison({'teacher': teacher, 'student': student, 'start': start}, texts)
view"""
    notebook, page = shown(lab, "comparison", DATA.replace("COUNT", "200"), cell)
    notebook.pictures("model-comparison")
    page.locator(".workbench-table th button[data-column=cosine]").first.click()
    page.wait_for_selector("th[aria-sort=ascending]")
    assert "start" in page.locator(".workbench-table").first.locator("tbody tr").first.inner_text()
    nothing_ran(notebook)


def test_tradeoff_explorer(lab):
    cell = """
import numpy as np
from workbench.data import RetrievalDataset
from workbench.quantize import sweep, grid, principal_rotation
from workbench.widgets import TradeoffExplorer
rng = np.random.default_rng(0)
documents = rng.standard_normal((400, 192))
def moved(v, by):
    return v + by * rng.standard_normal(v.shape)
queries = moved(documents[:40], .8)
sides = {'teacher': (queries, documents), 'asymmetric': (moved(queries, .6), documents),
         'symmetric': (moved(queries, .5), moved(documents, .5))}
rotation = principal_rotation(documents)
rotated = {mode: (q @ rotation, d @ rotation) for mode, (q, d) in sides.items()}
qrels = {f'q{i}': {f'd{i}': 1} for i in range(40)}
corpus = {f'd{i}': 'text' for i in range(400)}
data = RetrievalDataset('random', corpus, dict.fromkeys(qrels, 'text'), qrels)
curves = {'as it is': sweep(data, sides, grid(192, 24)),
          'rotated': sweep(data, rotated, grid(192, 24))}
times = {'teacher': 25, 'symmetric': 3.2, 'asymmetric': 3.2}
view = TradeoffExplorer(curves, encode_ms=times)
view"""
    notebook, page = shown(lab, "tradeoff", cell, ready=".workbench .js-plotly-plot .nsewdrag")
    page.wait_for_timeout(1500)
    notebook.pictures("tradeoff-explorer")
    page.get_by_role("button", name="binary", exact=True).click()
    notebook.eventually("view.choice['precision']", lambda p: p == "binary")
    page.wait_for_function(
        "() => document.querySelector('.workbench pre').innerText.includes('binary')"
    )
    page.get_by_role("button", name="rotated", exact=True).click()
    notebook.eventually("view.choice['space']", lambda s: s == "rotated")
    chart = page.locator(".workbench .js-plotly-plot").first
    point = chart.locator(".scatterlayer .trace .point").first
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    notebook.eventually("view.choice['precision']", lambda p: p != "binary")
    # The table has turned to the page of what was picked.
    picked = notebook.python("view.position")
    page.wait_for_selector(f".workbench-table tr[data-key='{picked}'][aria-selected=true]")
    nothing_ran(notebook)


def test_benchmark_board(lab, task_folders):
    names = [str(task_folders / name) for name in ("search", "topics", "groups", "alike", "same")]
    cell = f"""
import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer
from workbench.extras import benchmark, tasks
from workbench.widgets import BenchmarkBoard
words = HashingVectorizer(n_features=256)
def model(label, noise):
    rng = np.random.default_rng(0)
    def embed(texts, role):
        exact = words.transform(texts).toarray()
        return (exact + noise * rng.standard_normal(exact.shape)).astype('float32')
    return benchmark.EvalModel(label, label, 'r', 256, embed)
evil = '<img src=x onerror="window.broken=true">'
models = [model('teacher', 0), model('symmetric', .06), model(evil, .03)]
board = BenchmarkBoard(models, tasks.tasks({names!r}), 'results')
board"""
    notebook, page = shown(lab, "board", cell, ready=".workbench .js-plotly-plot")
    page.locator(".workbench button", has_text="Run").click()
    assert notebook.eventually("len(board.outcomes)", lambda n: n == 15, 120) == 15
    page.locator(".workbench .note", has_text="15 evaluations done").wait_for()
    notebook.pictures("benchmark-board")
    nothing_ran(notebook)


def test_a_hit_is_read_in_its_place_and_its_file_opens(lab, tiny_model, other_tiny_model):
    cell = f"""{TESTS}
import pathlib
from conftest import sentences
import workbench as wb
folder = pathlib.Path('notes/2026'); folder.mkdir(parents=True, exist_ok=True)
for i in range(6):
    filler = ' '.join(text.text + '.' for text in sentences(30, seed=i))
    (folder / f'note-{{i}}.md').write_text(f'# Note {{i}}\\n\\n{{filler}}\\n\\nPump {{i}} is {{i}}{{i}}.')
large, small = (wb.Teacher(name, max_length=30) for name in
                ({str(other_tiny_model)!r}, {str(tiny_model)!r}))
view = wb.search('notes', large, small, progress=False)
view"""
    notebook, page = shown(lab, "hits", cell, ready=".workbench .retrieval li")
    notebook.python("view.ask('Pump 3 is 33.')")
    card = page.locator(".workbench .retrieval li").first
    card.locator("code", has_text="2026/note-3.md").wait_for()
    card.locator(".text").click()
    assert "33" in card.locator("mark").inner_text()
    assert len(card.locator(".text").inner_text()) > len(card.locator("mark").inner_text())
    notebook.pictures("hits")
    card.locator("code").click()
    page.locator(".lm-TabBar-tabLabel", has_text="note-3.md").wait_for()


EXPLORERS = f"""{DATA.replace("COUNT", "300")}
import time
from workbench.widgets import AgreementExplorer
models, views = {{'teacher': teacher, 'student': student}}, []
"""
VIEW = "views.append(AgreementExplorer(models, texts, umap=False))\nviews[-1]"


def a_lasso_is_lit(notebook, number, right=0.8):
    """Draw a lasso in one of several views; its map, its table and the kernel agree on it."""
    page = notebook.page
    drag(page, page.locator(".workbench-over").nth(number), lasso(0.2, right), steps=2)
    count = notebook.eventually(f"len(views[{number}].selected)", lambda n: n > 0, 120)
    page.wait_for_function(
        """([number, words]) => {
          const map = document.querySelectorAll('.workbench-map')[number];
          const label = map.closest('.jp-OutputArea-output').querySelector('[aria-label=texts]').closest('.workbench').querySelector('.label');
          return map.ariaLabel.includes(words) && label.innerText.includes(words); }""",
        arg=[number, f"{count} selected"],
        timeout=120_000,
    )
    notebook.python(f"views[{number}].select() or 1")


def test_a_view_is_there_again_after_a_reload(lab):
    """A page that is opened anew asks the kernel what its widgets show."""
    notebook, page = shown(lab, "reload", EXPLORERS, VIEW, ready=".workbench .bars")
    notebook.save()
    page.goto(page.url.replace("&reset", ""))
    page.wait_for_selector(".workbench .js-plotly-plot .bars", timeout=90_000)
    a_lasso_is_lit(notebook, 0)
    assert painted(page) == [""]
    nothing_ran(notebook)


def test_a_notebook_opened_again_without_its_kernel_shows_its_views(lab):
    work = "from workbench._util import Bar\nfor _ in Bar(iterable=range(3), desc='work'): pass"
    cells = [EXPLORERS.replace("300", "1000"), VIEW, VIEW, VIEW, work]
    notebook, page = shown(lab, "night", *cells, ready=".workbench .bars")
    every_view_is_painted(page, 3)
    for _ in range(2):  # saved again, though nothing runs, it is still there
        notebook.save()
        notebook.close()
        assert (lab.folder / "night.ipynb").stat().st_size < 3_000_000
        notebook = lab.open("night")
        page = notebook.page
        page.wait_for_selector(".workbench .bars", timeout=90_000)
        every_view_is_painted(page, 3)
    assert "not found" not in page.inner_text(".jp-Notebook")
    page.locator(".jp-OutputArea", has_text="work: 100%").last.wait_for()
    assert "As it was saved" in page.locator(".workbench").first.evaluate(
        "e => getComputedStyle(e, '::before').content"
    )
    drag(page, page.locator(".workbench-over").first, lasso(0.1, 0.9), steps=2)
    page.wait_for_function(
        "() => !document.querySelector('.workbench-map').ariaLabel.includes(' 0 selected')"
    )
    notebook.picture("saved")
    nothing_ran(notebook)


def test_a_page_without_a_kernel_sorts_selects_and_links(lab, tmp_path):
    code = {}
    exec(f"{EXPLORERS}view = AgreementExplorer(models, texts, umap=False)", code)
    code["view"].wait()
    page = lab.browser.new_page(viewport={"width": 900, "height": 1400}, color_scheme="light")
    page.goto(code["view"].to_html(tmp_path / "view.html").as_uri())
    drag(page, page.locator(".workbench-over"), lasso(0.1, 0.5), steps=2)
    texts = page.get_by_role("grid", name="texts")
    chosen = texts.locator("tr[aria-selected=true]")
    page.wait_for_function("() => document.querySelectorAll('tr[aria-selected=true]').length > 1")
    count = chosen.count()
    assert f", {count} selected" in page.locator(".workbench-map").get_attribute("aria-label")
    texts.locator("th button[data-column=cosine]").click()
    cosines = [float(text) for text in chosen.locator("td:nth-child(2)").all_inner_texts()]
    assert count < 300 and cosines == sorted(cosines)
    chosen.nth(1).click()
    page.wait_for_function(
        "() => document.querySelector('.workbench-map').ariaLabel.includes(', 1 ')"
    )
    key = int(chosen.get_attribute("data-key"))
    assert code["texts"][key].text in page.inner_text(".workbench-detail >> nth=-1")
    pixels = "document.querySelector('.workbench-map').toDataURL()"
    before = page.evaluate(pixels)
    page.emulate_media(color_scheme="dark")  # labels are drawn in the new ink
    page.wait_for_function(f"before => {pixels} !== before", arg=before)
    assert page.evaluate("() => window.broken") is None
    page.close()


def test_a_starved_browser_paints_every_view_and_lights_every_lasso(lab):
    """Four views, a sixth of the processor, a busy kernel, a page in the background, a reload."""
    notebook = lab.open("starved", [EXPLORERS, *[VIEW] * 4, "time.sleep(4)"])
    page = notebook.page
    session = page.context.new_cdp_session(page)
    session.send("Emulation.setCPUThrottlingRate", {"rate": 6})
    notebook.start()
    page.wait_for_timeout(1500)
    session.send("Page.setWebLifecycleState", {"state": "frozen"})
    page.wait_for_timeout(3000)
    session.send("Page.setWebLifecycleState", {"state": "active"})
    notebook.wait_idle(240)
    every_view_is_painted(page, 4)
    for number in (0, 1, 2, 3, 1, 0):
        a_lasso_is_lit(notebook, number, 0.5 + 0.1 * number)
    notebook.save()
    page.goto(page.url.replace("&reset", ""))
    session.send("Emulation.setCPUThrottlingRate", {"rate": 6})
    page.wait_for_selector(".workbench-map", timeout=240_000)
    every_view_is_painted(page, 4)
    a_lasso_is_lit(notebook, 3)
    session.send("Emulation.setCPUThrottlingRate", {"rate": 1})
    assert page.evaluate("() => window.broken") is None
    # anywidget says so of a module that takes more than two seconds; its part answers all the same.
    assert set(notebook.close()) <= {"[anywidget] Failed to initialize model."}


def every_view_is_painted(page, count):
    """Look at each view, since a notebook draws what is scrolled to."""
    maps = "document.querySelectorAll('.workbench-map')"
    for number in range(count):
        page.wait_for_function(f"() => {maps}.length > {number}", timeout=120_000)
        page.locator(".workbench-map").nth(number).scroll_into_view_if_needed()
    deadline = time.monotonic() + 240
    while any(missing := painted(page)):
        assert time.monotonic() < deadline, " | ".join(missing)
        late = next(number for number, parts in enumerate(missing) if parts)
        page.locator(".workbench-map").nth(late).scroll_into_view_if_needed()
        page.wait_for_timeout(500)
    assert len(missing) == count
