"""Where the workbench keeps what it makes."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def home() -> Path:
    """Return the folder for unpacked models, caches, students and results.

    `WORKBENCH_HOME` decides; without it, `build/` of a checkout, or `~/.cache/workbench` for an
    installed package.
    """
    if chosen := os.environ.get("WORKBENCH_HOME"):
        return Path(chosen).expanduser()
    if (PROJECT / "pyproject.toml").is_file():
        return PROJECT / "build"
    return Path.home() / ".cache" / "workbench"
