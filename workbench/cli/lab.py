"""Open the notebooks in JupyterLab."""

import os
import shutil
import sys
import threading
from argparse import Namespace
from pathlib import Path

from workbench._util import PROJECT, home
from workbench.errors import WorkbenchError


def lab(options: Namespace, stop: threading.Event) -> None:
    """Replace this process by a JupyterLab that shows copies of the notebooks."""
    notebooks = PROJECT / "notebooks"
    if not notebooks.is_dir():
        raise WorkbenchError(f"no notebooks at {notebooks}: run this from a checkout")
    folder = copies(notebooks, home() / "lab")
    command = [sys.executable, "-m", "jupyterlab", "--ip=127.0.0.1"]
    command += [f"--ServerApp.root_dir={folder}", "--LabApp.default_url=/lab/tree/your_texts.ipynb"]
    command += ["--LabApp.news_url=None", *options.jupyter_options]  # asks no network
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # in a container
        command.append("--allow-root")
    paths = [str(notebooks), str(PROJECT / "examples"), os.environ.get("PYTHONPATH", "")]
    python_path = os.pathsep.join(filter(None, paths))
    os.execve(sys.executable, command, os.environ | {"PYTHONPATH": python_path})


def copies(notebooks: Path, folder: Path) -> Path:
    """Copy the notebooks that have no copy yet, so that running one changes no source."""
    folder.mkdir(parents=True, exist_ok=True)
    outdated = []
    for path in sorted(notebooks.glob("*.ipynb")):
        copy = folder / path.name
        if not copy.exists():
            shutil.copy2(path, copy)
        elif path.stat().st_mtime > copy.stat().st_mtime:
            outdated.append(copy.stem)
    print(f"The notebooks are copies in {folder}.")
    if outdated:
        print(f"Older than their originals: {', '.join(outdated)}; delete one to get it anew.")
    return folder
