"""Every notebook runs from a fresh kernel, top to bottom: with small models, and in a browser with the real ones."""

import os
import re
import shutil

import nbclient
import nbformat
import pytest
from filelock import FileLock

from tests.conftest import make_home, shared_folder
from tests.lab import Lab, has_chromium
from tests.small import environment, small_project
from workbench._util import PROJECT

NOTEBOOKS = [
    PROJECT / "notebooks" / "your_texts.ipynb",
    PROJECT / "notebooks" / "compare_two_models.ipynb",
    PROJECT / "notebooks" / "improve_by_hand.ipynb",
    *sorted((PROJECT / "notebooks").glob("[0-9]*.ipynb")),
    PROJECT / "notebooks" / "publish_your_student.ipynb",
    PROJECT / "notebooks" / "benchmarks.ipynb",
]
SOLUTIONS = PROJECT / "notebooks" / "solutions.ipynb"
pytestmark = pytest.mark.notebooks


def status_says(notebook, words: str) -> None:
    """Wait for a widget whose line of text has these words."""
    notebook.page.wait_for_function(
        "w => [...document.querySelectorAll('.workbench .note')].some(e => e.innerText.includes(w))",
        arg=words,
    )


def ask(notebook, view: str, words: str) -> None:
    """Type a query into the first view of a search, and wait until the view shows it."""
    box = notebook.page.get_by_placeholder("type a query").first
    box.fill(words)
    box.press("Enter")
    notebook.eventually(f"{view}.heading.value", lambda text: words in text)


def from_scratch(notebook):
    """The notebook itself asserts that its numbers are the library's."""
    shares = notebook.python("(table['nDCG@10'] / found['large model']).to_dict()")
    assert shares["small model, the large one's index"] < 0.2 < 0.8 < shares["rotation, the same"]


def your_texts(notebook):
    ask(notebook, "view", "Why is my loaf flat?")
    assert notebook.python("sorted(set(view.results['mode']))") == [
        "asymmetric",
        "symmetric",
        "teacher",
    ]
    assert notebook.python("[len(explorer.table), len(finds)]") == [48, 48]
    assert 2 < notebook.python("float(finds[best].mean())") <= 10
    assert notebook.python("best in answer and 'of the large model\\'s 10' in answer")


def two_models(notebook):
    assert notebook.python("sorted(speed)") == ["large", "small"] and notebook.python(
        "speed['small'] > speed['large']"
    )
    assert notebook.python("shares.loc[('small', 'symmetric'), 'share_of_teacher']") > 0.8
    ask(notebook, "view", "Why is my loaf flat?")


def by_hand(notebook):
    assert notebook.python("[len(more), len(at_random), int(chosen.sum()) > 0]") == [200, 200, True]
    assert notebook.python(
        "not {t.text for t in [*more, *at_random, *train]} & {t.text for t in texts}"
    )
    found = notebook.python(
        "{name: float(row.loc['chosen', 'cosine']) for name, row in rows.items()}"
    )
    assert found["more like them"] > found["before"], found


def distillation(notebook):
    status_says(notebook, "Finished: the best student")
    assert notebook.python("len(monitor.chart.figure.data[1].x)") > 20
    assert notebook.python("losses['trained'] <= losses['ridge'] < losses['random']")


def differences(notebook):
    page = notebook.page
    page.locator(".workbench-table th button[data-column=cosine]").first.click()
    page.wait_for_selector(".workbench-table th[aria-sort=ascending]")
    worst = notebook.python("int(explorer.table['cosine'].idxmin())")
    page.locator(".workbench-table tbody tr").first.click()
    notebook.eventually("list(explorer.selected)", lambda selected: selected == [worst])
    turned = notebook.python(
        "{name: float(rows['rotated'][name] / row) for name, row in rows['as it is'].items()}"
    )
    assert abs(turned["overlap"] - 1) < 0.01 and abs(turned["nDCG@10 symmetric"] - 1) < 0.01
    assert abs(turned["cosine"]) < 0.2 and turned["nDCG@10 asymmetric"] < 0.3


def failures(notebook):
    noise, blur = (notebook.python(f"made['{name}'].to_dict()") for name in ("noise", "blur"))
    assert noise["cosine"] < blur["cosine"] and noise["nDCG@10"] > blur["nDCG@10"] + 0.1
    assert notebook.python("letters['German'] < letters['English'] and float(cosine) < 0.99")


def truncation(notebook):
    page = notebook.page
    assert notebook.python(
        "[int(explorer.choice['dimensions']), explorer.choice['precision']]"
    ) == [192, "int8"]
    page.get_by_role("button", name="binary", exact=True).click()
    notebook.eventually("explorer.choice['precision']", lambda p: p == "binary")
    shares = notebook.python("[float(r.set_index(['mode', 'precision', 'dimensions']).share_of_teacher"
                             "['teacher', 'float32', 96]) for r in (as_it_is, rotated)]")  # fmt: skip
    assert shares[1] > shares[0]  # what the turn is for


def publishing(notebook):
    assert (
        notebook.python(
            "float(np.abs(again.encode_query(queries) - model.encode_query(queries)).max())"
        )
        < 1e-5
    )
    assert (
        notebook.python(
            "float(np.abs(pair.encode_document(passages[:8]) - large.encode(passages[:8])).max())"
        )
        < 1e-5
    )
    assert (
        notebook.python("float((measured['student, ONNX float32'][0] * exact).sum(axis=1).min())")
        > 0.9999
    )
    assert (
        "share of the teacher"
        in notebook.page.locator(".jp-RenderedMarkdown table").first.text_content()
    )


def benchmarks(notebook):
    page = notebook.page
    assert notebook.python("sorted(set(differences['label']))") == ["base", "pair", "student"]
    assert notebook.python("sorted({o.kind for o in outcomes})") == [
        "Classification", "Clustering", "PairClassification", "Retrieval",
    ]  # fmt: skip
    shares = notebook.python(
        "differences.set_index(['task', 'label'])['share_of_teacher'].loc['tutorial'].to_dict()"
    )
    assert shares["student"] > 0.8 and shares["pair"] > 0.8
    page.locator(".workbench button", has_text="Run").click()
    status_says(notebook, "16 evaluations done")
    notebook.eventually("len(board.chart.figure.data)", lambda n: n == 3)


def caching(notebook):
    status_says(notebook, "Done.")
    assert notebook.python("[again.encoded, again.hits, rest.encoded + rest.hits]") == [0, 64, 64]
    assert notebook.python("[tried.usage.failed, 0 < rest.hits < 64]") == [1, True]


ACTS = {
    "your_texts": your_texts,
    "compare_two_models": two_models,
    "improve_by_hand": by_hand,
    "01_the_method_from_scratch": from_scratch,
    "02_student_distillation": distillation,
    "03_where_they_differ": differences,
    "04_how_it_fails": failures,
    "05_truncation_and_quantization": truncation,
    "06_caching_and_apis": caching,
    "publish_your_student": publishing,
    "benchmarks": benchmarks,
}

WITHOUT_VIEWS = {"01_the_method_from_scratch", "04_how_it_fails"}


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Return the folder where notebooks find small models; the processes of a run share it."""
    shared = shared_folder(tmp_path_factory) / "small"
    shared.mkdir(exist_ok=True)
    with FileLock(shared / "lock"):
        if not (shared / "made").exists():
            small_project(shared)
            (shared / "made").touch()
    return shared / "project" / "notebooks"


@pytest.mark.parametrize("path", [*NOTEBOOKS, SOLUTIONS], ids=lambda p: p.stem)
def test_notebook_with_small_models(path, tmp_path, small):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and path != SOLUTIONS:
            assert len(cell.source.splitlines()) <= 20
            assert not re.search(r"^# (#|>)", cell.source, re.M), "text in a cell of code"
    home = make_home(tmp_path / "home", small.parent.parent / "shared")
    notebook = without_browser(path, small, environment(small, home))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("text/html" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
@pytest.mark.models
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook(path, tmp_path, notebook_home):
    if has_chromium():
        notebook = in_browser(path, tmp_path)
    else:
        notebook = without_browser(
            path, path.parent, os.environ | {"WORKBENCH_HOME": str(notebook_home)}
        )
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]


@pytest.mark.slow
@pytest.mark.models
def test_solutions(notebook_home):
    """They are to be read, so they run without a browser."""
    without_browser(
        SOLUTIONS, SOLUTIONS.parent, os.environ | {"WORKBENCH_HOME": str(notebook_home)}
    )


def in_browser(path, folder):
    """Run a notebook in JupyterLab, act in it as a person would, and return it as Lab saved it."""
    shutil.copy(path, folder)
    lab = Lab(folder)
    try:
        notebook = lab.open(path.stem)
        notebook.run_all(1800)
        ACTS[path.stem](notebook)
        if path.stem not in WITHOUT_VIEWS:
            notebook.picture(path.stem)
        notebook.save()
        assert notebook.page.locator("text=Error displaying widget").count() == 0
        assert notebook.close() == []
    finally:
        lab.close()
    return nbformat.read(folder / path.name, as_version=4)


def without_browser(path, folder, variables):
    """Run a notebook in a folder, without acting in it; a cell that fails raises."""
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=variables)
    return notebook
