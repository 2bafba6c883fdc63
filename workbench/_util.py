"""Helpers for every module: array checks, folders, atomic writing, optional extras."""

import contextlib
import importlib
import json
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from pathlib import Path
from types import ModuleType

import numpy as np
from tqdm import tqdm

from workbench.errors import WorkbenchError

WRITING = ".writing-"  # how the names of unfinished files and folders begin
ABANDONED_SECONDS = 3600
PROJECT = Path(__file__).resolve().parent.parent


class Bar(tqdm):
    """A bar as text: in a notebook that is opened again, a bar that is a widget is an error."""

    def __init__(self, **options: object) -> None:
        in_notebook = type(sys.stdout).__module__.startswith("ipykernel")  # stderr is red there
        super().__init__(file=sys.stdout if in_notebook else sys.stderr, **options)


def whole_number(value: object, name: str, least: int = 1, error: type = WorkbenchError) -> int:
    """Return a whole number of at least `least`, numpy's too, as an int; else raise `error`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise error(f"{name} is {value!r}; expected a whole number of at least {least}")
    return int(value)


def one_of(value: object, name: str, choices: Sequence, error: type = WorkbenchError) -> None:
    """Raise `error` unless a value is one of several strings."""
    if value not in choices:
        raise error(f"{name} {value!r}: expected one of {', '.join(choices)}")


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` positions below `count`, evenly spread."""
    return np.linspace(0, count - 1, min(most, count)).astype(int).tolist()


def counted(count: int, noun: str) -> str:
    """Write a count with its noun: 1 text, 1,200 texts."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def duration(seconds: float) -> str:
    """Write seconds as a person would: 40 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def need(module: str, extra: str) -> ModuleType:
    """Import a module of an optional extra; if it is missing, say how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        command = f"pip install 'teacher-aligned-workbench[{extra}]'"
        raise WorkbenchError(f"{module} cannot be imported ({error}): {command}") from None


def as_float32(vectors: object) -> np.ndarray:
    """Turn an array, torch tensor or lists of real numbers into float32."""
    if hasattr(vectors, "detach"):
        vectors = vectors.detach().float().cpu().numpy()
    # By default numpy would drop imaginary parts and parse strings.
    return np.asarray(vectors).astype(np.float32, casting="same_kind", copy=False)


def checked(vectors: object, name: str) -> np.ndarray:
    """Return what `as_float32` takes as finite float32 of shape (n, d), n and d > 0."""
    try:
        vectors = as_float32(vectors)
    except (TypeError, ValueError) as error:
        raise WorkbenchError(f"{name}: expected a rectangular numeric array ({error})") from None
    if vectors.ndim != 2 or not vectors.size:
        raise WorkbenchError(f"{name}: expected an array of shape (n, d), not {vectors.shape}")
    # NaN and infinity survive a sum, which needs less memory than a mask of the array.
    bad = np.flatnonzero(~np.isfinite(vectors.sum(axis=1, dtype=np.float64)))
    if len(bad):
        raise WorkbenchError(f"{name}: {len(bad):,} rows have NaN or infinity, first {bad[0]:,}")
    return vectors


def paired(teacher: np.ndarray, student: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float32 arrays; WorkbenchError unless they have the same number of rows."""
    teacher, student = checked(teacher, "teacher"), checked(student, "student")
    if len(teacher) != len(student):
        sizes = f"{len(teacher):,} vectors of the teacher and {len(student):,} of the student"
        raise WorkbenchError(f"{sizes}: rows must be the same texts")
    return teacher, student


def unit(vectors: np.ndarray, name: str = "vectors") -> np.ndarray:
    """Return rows of norm 1 (a row of zeros stays), float32 of shape (n, d)."""
    vectors = checked(vectors, name)
    squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)  # may leave float32's range
    norms = np.maximum(np.sqrt(squares), np.finfo(np.float32).tiny)
    return vectors / norms.astype(np.float32)[:, None]


def scaled(vectors: np.ndarray) -> np.ndarray:
    """Return rows of norm 1; a row of zeros becomes NaN, which the cache refuses."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def expanded(source: str | Path) -> Path:
    """Expand `~` in a path."""
    return Path(os.path.expanduser(source))


def home() -> Path:
    """Return the folder for models, caches, students and results."""
    default = PROJECT / "build" if (PROJECT / "pyproject.toml").is_file() else "~/.cache/workbench"
    return expanded(os.environ.get("WORKBENCH_HOME") or default)


def write_whole(path: str | Path, content: bytes | Callable[[Path], object]) -> Path:
    """Write bytes, or what a function writes to the path that it gets, completely or not at all."""
    path = Path(path)
    scratch = path.with_name(f"{WRITING}{secrets.token_hex(8)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            scratch.write_bytes(content)
        else:
            content(scratch)
        _sync(scratch)  # before it takes the name, for readers after a crash
        os.replace(scratch, path)
        _sync(path.parent)
    except OSError as error:
        raise WorkbenchError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
    return path


def write_json(path: str | Path, content: dict) -> Path:
    """Write a dictionary as JSON with `write_whole`."""
    return write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


@contextlib.contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """Yield a scratch folder that takes the place of `folder` at the end, unless anything fails."""
    folder = Path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder.parent)
        with tempfile.TemporaryDirectory(
            dir=folder.parent, prefix=WRITING, ignore_cleanup_errors=True
        ) as scratch:
            new, old = Path(scratch, "new"), Path(scratch, "old")
            new.mkdir()
            yield new
            rights = new.stat().st_mode & 0o666
            for path in filter(Path.is_file, new.rglob("*")):
                path.chmod(rights)  # some libraries write files that only their owner can read
                _sync(path)
            if folder.exists():
                os.rename(folder, old)
            try:
                os.rename(new, folder)
            except BaseException:
                if old.exists():
                    os.rename(old, folder)
                raise
            _sync(folder.parent)
    except OSError as error:
        raise WorkbenchError(f"{folder} cannot be written: {error.strerror or error}") from None


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process had begun to write in a folder more than an hour ago."""
    for leftover in folder.glob(f"{WRITING}*"):
        with contextlib.suppress(OSError):  # its process has just finished, or it is someone else's
            if time.time() - leftover.stat().st_mtime > ABANDONED_SECONDS:
                remove = shutil.rmtree if leftover.is_dir() else os.unlink
                remove(leftover)


def _sync(path: Path) -> None:
    if os.name == "nt":  # neither folders nor files opened to read can be synced there
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
