"""Take a picture of each view as a lesson shows it: `python -m docs.pictures [NOTEBOOK...]` writes docs/views/*.webp.

The notebooks run in a real JupyterLab with the real models. Look at the pictures before you keep them.
"""

import io
import shutil
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from PIL import Image

from tests.lab import Lab
from workbench._util import PROJECT

FOLDER = Path(__file__).with_name("views")
HEIGHT, MOST_BYTES = 1100, 3_000_000  # pixels of a picture, and of all pictures together
# Notebook to the views in it, in their order; those without a name are pictured elsewhere.
VIEWS = {
    "your_texts": ["search", "map"],
    "02_student_distillation": ["training", "comparison"],
    "03_where_they_differ": ["", "neighbors", ""],
    "05_truncation_and_quantization": ["sizes"],
    "06_caching_and_apis": ["cache"],
    "benchmarks": ["benchmark"],
}
# Cells whose output is a view. Lab keeps only those near the window in the page, so each is scrolled to.
CELLS = """() => window.jupyterapp.shell.currentWidget.content.widgets.flatMap((cell, i) =>
  (cell.model.sharedModel.cell_type === 'code' && JSON.stringify(cell.model.sharedModel.getOutputs())
    .includes('widget-view+json') ? [i] : []))"""
SCROLL = "i => window.jupyterapp.shell.currentWidget.content.scrollToItem(i, 'start')"


def take(lab: Lab, name: str, wanted: list[str]) -> None:
    """Run a notebook, and write the pictures of its views."""
    shutil.copy(PROJECT / "notebooks" / f"{name}.ipynb", lab.folder)
    notebook = lab.open(name, width=1100)
    notebook.run_all(900)
    page, pictures = notebook.page, []
    for cell in page.evaluate(CELLS):
        page.evaluate(SCROLL, cell)
        page.wait_for_timeout(3000)
        views = page.locator(
            f'.jp-Cell[data-windowed-list-index="{cell}"] .jp-OutputArea-output > .workbench'
        )
        pictures += [views.nth(i).screenshot() for i in range(views.count())]
    if len(pictures) != len(wanted):
        raise SystemExit(f"{name} has {len(pictures)} views; expected {len(wanted)}: change VIEWS")
    for view, content in zip(wanted, pictures, strict=True):
        if view:
            picture = Image.open(io.BytesIO(content)).convert("RGB")
            picture = picture.crop((0, 0, picture.width, min(picture.height, HEIGHT)))
            picture.save(FOLDER / f"{view}.webp", quality=80, method=6)
            print(f"{view}.webp {(FOLDER / f'{view}.webp').stat().st_size:,} bytes", flush=True)
    notebook.close()


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, closing(Lab(Path(folder))) as lab:
        for name in sys.argv[1:] or VIEWS:
            take(lab, name, VIEWS[name])
    total = sum(path.stat().st_size for path in FOLDER.glob("*.webp"))
    if total > MOST_BYTES:
        raise SystemExit(f"docs/views has {total:,} bytes; at most {MOST_BYTES:,} are kept")
