"""What every module may use: folders, whole files, checks of arrays."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import numpy as np

from workbench.errors import WorkbenchError


def checked(vectors: np.ndarray, name: str) -> np.ndarray:
    """Return vectors (an array, a torch tensor, lists) as float32 of shape (n, d), or say what is wrong with them."""
    if hasattr(vectors, "detach"):  # a tensor, perhaps with a gradient, on a GPU or in bfloat16
        vectors = vectors.detach().float().cpu().numpy()
    try:
        vectors = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise WorkbenchError(f"{name}: these are no vectors of one width ({error})") from None
    if vectors.ndim != 2 or not vectors.size:
        raise WorkbenchError(f"{name}: an array of shape (n, d), n and d at least 1, is needed, not {vectors.shape}")
    sums = vectors.sum(axis=1)  # NaN and infinity survive a sum, and a mask as large as the array is spared
    if not np.isfinite(sums).all():
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if bad.size:
            raise WorkbenchError(f"{name}: {bad.size:,} rows contain NaN or infinity, the first is row {bad[0]:,}")
    return vectors


def paired(teacher: np.ndarray, student: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float32 arrays, or say why they are not vectors of the same texts."""
    teacher, student = checked(teacher, "teacher"), checked(student, "student")
    if len(teacher) != len(student):
        raise WorkbenchError(
            f"the teacher has {len(teacher):,} vectors and the student {len(student):,}: rows must be the same texts"
        )
    return teacher, student


def unit(vectors: np.ndarray, name: str = "vectors") -> np.ndarray:
    """Return rows of norm 1 (a row of zeros stays), float32 of shape (n, d)."""
    vectors = checked(vectors, name)
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))  # squares leave float32's range first
    return vectors / np.maximum(norms, np.finfo(np.float32).tiny).astype(np.float32)[:, None]


def orthogonal(rotation: np.ndarray, width: int) -> np.ndarray:
    """Return a rotation of a space as float32 of shape (width, width), or say why it is none."""
    rotation = checked(rotation, "rotation")
    if rotation.shape != (width, width) or not np.allclose(rotation.T @ rotation, np.eye(width), atol=1e-4):
        raise WorkbenchError(f"the rotation must be an orthogonal matrix of shape ({width}, {width})")
    return rotation


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


def write_json(path: str | Path, content: dict) -> Path:
    """Write a report, whole or not at all."""
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(json.dumps(content, indent=2) + "\n")
        os.replace(scratch, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise WorkbenchError(f"{path} cannot be written: {error.strerror or error}") from None
    return path
