"""Helpers for every module: array checks, folders, atomic writing, optional extras."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from numbers import Integral
from pathlib import Path
from types import ModuleType

import numpy as np

from workbench.errors import WorkbenchError

WRITING = ".writing-"  # how the names of unfinished files and folders begin
ABANDONED_SECONDS = 3600
PROJECT = Path(__file__).resolve().parent.parent


def whole(
    value: object, name: str, least: int = 1, error: type[WorkbenchError] = WorkbenchError
) -> int:
    """Return a whole number, numpy's too, as an int; `error` for anything else and for less than `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise error(f"{name} is {value!r}; expected a whole number of at least {least}")
    return int(value)


def one_of(
    value: object, name: str, choices: Sequence[str], error: type[WorkbenchError] = WorkbenchError
) -> str:
    """Return a value that is one of several strings; `error` names them for any other."""
    if value not in choices:
        raise error(f"{name} {value!r}: it must be {', '.join(choices[:-1])} or {choices[-1]}")
    return value


def nearest(name: str, known: Iterable[str], cutoff: float = 0.4) -> list[str]:
    """Return the known names that look most like one that was given, in any case; the best first."""
    lower = {each.lower(): each for each in known}
    return [lower[each] for each in get_close_matches(name.lower(), lower, cutoff=cutoff)]


def spread(count: int, most: int) -> list[int]:
    """Return at most so many positions below `count`, evenly spread."""
    return np.linspace(0, count - 1, min(most, count)).astype(int).tolist()


def counted(count: int, noun: str) -> str:
    """Write a count with its noun: 1 text, 1,200 texts."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def file_size(count: float) -> str:
    """Write a number of bytes: 768 MB, 1.2 GB."""
    from tqdm import tqdm

    return re.sub(r"(?<=\d)(?=[A-Z])", " ", tqdm.format_sizeof(count, "B"))


def as_float32(vectors: object) -> np.ndarray:
    """Turn an array, a torch tensor (any device, also bfloat16) or lists into a float32 array.

    Raises:
        ValueError, TypeError: "rows of different widths", "strings", or another name for what is no real numbers.
    """
    if hasattr(vectors, "detach"):
        vectors = vectors.detach().float().cpu().numpy()
    elif isinstance(vectors, list | tuple) and len(vectors) and hasattr(vectors[0], "detach"):
        vectors = [as_float32(row) for row in vectors]
    try:
        vectors = np.asarray(vectors)
    except ValueError:
        raise ValueError("rows of different widths") from None
    if vectors.dtype.kind in "cSU":
        raise TypeError("complex numbers" if vectors.dtype.kind == "c" else "strings")
    try:
        with np.errstate(
            over="ignore"
        ):  # what float32 cannot hold becomes infinite, which callers look for
            return vectors.astype(np.float32, copy=False)
    except (TypeError, ValueError):
        raise TypeError("something other than numbers") from None


def scaled(vectors: np.ndarray) -> np.ndarray:
    """Return rows of length 1; a row of zeros has no direction and becomes NaN, which the cache refuses."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def checked(vectors: object, name: str) -> np.ndarray:
    """Return vectors (an array, a torch tensor, lists) as float32 of shape (n, d).

    Raises:
        WorkbenchError: they are not a rectangular array of finite numbers with at least one row and one column.
    """
    try:
        vectors = as_float32(vectors)
    except (TypeError, ValueError) as error:
        raise WorkbenchError(f"{name}: expected a rectangular numeric array ({error})") from None
    if vectors.ndim != 2 or not vectors.size:
        raise WorkbenchError(
            f"{name}: an array of shape (n, d), n and d at least 1, is needed, not {vectors.shape}"
        )
    sums = vectors.sum(
        axis=1
    )  # NaN and infinity survive a sum, and a mask as large as the array is spared
    if not np.isfinite(sums).all():
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if bad.size:
            raise WorkbenchError(
                f"{name}: {bad.size:,} rows contain NaN or infinity, the first is row {bad[0]:,}"
            )
    return vectors


def paired(teacher: np.ndarray, student: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float32 arrays of the same number of rows; WorkbenchError if they cannot be."""
    teacher, student = checked(teacher, "teacher"), checked(student, "student")
    if len(teacher) != len(student):
        raise WorkbenchError(
            f"the teacher has {len(teacher):,} vectors and the student {len(student):,}: rows must be the same texts"
        )
    return teacher, student


def unit(vectors: np.ndarray, name: str = "vectors") -> np.ndarray:
    """Return rows of norm 1 (a row of zeros stays), float32 of shape (n, d)."""
    vectors = checked(vectors, name)
    norms = np.sqrt(
        np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    )  # squares leave float32's range first
    return vectors / np.maximum(norms, np.finfo(np.float32).tiny).astype(np.float32)[:, None]


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Return the rank correlation of two series; scipy.stats, which has it too, takes two seconds to import."""
    import pandas as pd  # not for those who check arrays alone

    ranks = [pd.Series(values).rank() for values in (first, second)]
    return float(ranks[0].corr(ranks[1]))


def orthogonal(rotation: np.ndarray, width: int) -> np.ndarray:
    """Return an orthogonal matrix as float32 of shape (width, width); WorkbenchError if it is none."""
    rotation = checked(rotation, "rotation")
    if rotation.shape != (width, width) or not np.allclose(
        rotation.T @ rotation, np.eye(width), atol=1e-4
    ):
        raise WorkbenchError(
            f"the rotation must be an orthogonal matrix of shape ({width}, {width})"
        )
    return rotation


def expanded(source: str | Path) -> Path:
    """Return a path with ~ for the home folder; one of nobody, or that no path can be, stays as it is."""
    try:
        return Path(os.path.expanduser(source))
    except ValueError:  # a NUL character
        return Path(source)


def home() -> Path:
    """Return the folder for unpacked models, caches, students and results.

    It is `WORKBENCH_HOME`, else `build/` of a checkout, or `~/.cache/workbench` for an installed package.
    """
    own = PROJECT / "build" if (PROJECT / "pyproject.toml").is_file() else "~/.cache/workbench"
    return expanded(os.environ.get("WORKBENCH_HOME") or own)


def write_whole(path: str | Path, content: bytes | Callable[[Path], object]) -> Path:
    """Write a file completely or not at all, and return its path.

    The content goes to a temporary file in the same folder, is synced to disk, and then takes the name. A reader sees
    the old file or the new one, also after a crash.

    Args:
        path: of the file; its folder is made if it does not exist.
        content: the bytes, or a function that writes them to the path that it is given (which has the same suffix).

    Raises:
        WorkbenchError: the file cannot be written. Nothing is left behind, and an earlier file stays as it was.
    """
    path = Path(path)
    scratch = path.with_name(f"{WRITING}{secrets.token_hex(8)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            scratch.write_bytes(content)
        else:
            content(scratch)
        _sync(scratch)
        os.replace(scratch, path)
        _sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise WorkbenchError(f"{path} cannot be written: {error.strerror or error}") from None
        raise
    return path


@contextlib.contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """Write a folder completely or not at all: `with whole_folder(folder) as scratch:` fills the new one.

    At the end of the block the new folder takes the name, and one that stood there before is deleted. If anything
    fails, the folder stays as it was.

    Raises:
        WorkbenchError: the folder cannot be written.
    """
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
            for path in new.rglob("*"):
                if path.is_file():
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
    """Remove what a process that was killed had begun to write in a folder, if it is more than an hour old."""
    for leftover in folder.glob(f"{WRITING}*"):
        with contextlib.suppress(OSError):  # its process has just finished, or it is someone else's
            if time.time() - leftover.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(
                    leftover, ignore_errors=True
                ) if leftover.is_dir() else leftover.unlink()


def check_room(folder: Path, size: int, what: str) -> None:
    """Raise WorkbenchError if a folder's disk has no room for `size` bytes."""
    if size > (free := shutil.disk_usage(folder).free):
        raise WorkbenchError(
            f"{folder} has {free / 1e6:,.0f} MB free, and {what} take {size / 1e6:,.0f} MB: make room, or choose "
            "another folder"
        )


def write_json(path: str | Path, content: dict) -> Path:
    """Write a dictionary as JSON with `write_whole`."""
    return write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


def need(module: str, extra: str) -> ModuleType:
    """Import a module of an optional extra; WorkbenchError with the command that installs it if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = (error.name or module).partition(".")[0]
        raise WorkbenchError(
            f"{module} needs the package {package}: pip install 'teacher-aligned-workbench[{extra}]'"
        ) from None


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def duration(seconds: float) -> str:
    """Write seconds as a person would: 40 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
