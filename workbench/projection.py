"""The joint map: both models' vectors in one plane, two points per text.

One projection is fitted on both models' vectors together. Two separate projections would each choose their own
directions and could not be compared.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from workbench._util import home, paired, spearman, unit, write_whole
from workbench.errors import WorkbenchError

_AXES_FROM = 20_000  # rows that principal components are found from; more change them by less than a map shows


@dataclass(frozen=True)
class JointMap:
    """A map with two points per text, or with one where the second model has another space.

    `displacement_correlation` is the Spearman correlation over the texts between two distances of a text's two
    vectors, the one on the map and the true one. Near 1, trust the length of a line on the map; near 0, do not.
    """

    teacher: np.ndarray  # float32 of shape (n, 2)
    student: np.ndarray | None  # float32 of shape (n, 2)
    method: str  # "PCA" or "UMAP"
    displacement_correlation: float


def pca(teacher: np.ndarray, student: np.ndarray | None) -> JointMap:
    """Project both models' unit vectors, float of shape (n, d) each, onto their two common principal components.

    Without a student, the teacher's alone.
    """
    return _joint(_components(teacher, student, 2)[0], teacher, student, "PCA")


def umap(
    teacher: np.ndarray,
    student: np.ndarray | None,
    *,
    neighbors: int = 15,
    min_dist: float = 0.1,
    seed: int = 0,
    folder: str | Path | None = None,
    on_progress: Callable[[float], None] | None = None,
    stop: threading.Event | None = None,
) -> JointMap | None:
    """Fit one UMAP (McInnes et al. 2018) on both models' unit vectors.

    The fit runs in its own process, so a notebook stays responsive and `stop` ends it at once. It starts from the PCA
    with a fixed seed: the same vectors give the same map on the same machine. The map is stored under the checksum of
    its input.

    Args:
        teacher: float of shape (n, d), as `student` of the same texts; None for a map of the teacher's vectors alone.
        neighbors: UMAP's n_neighbors, as `min_dist` is its own.
        folder: where maps are stored; `maps` in the workbench's folder if None.
        on_progress: called with the fraction of the optimization that is done, 0 to 1.

    Returns:
        The map; None if it was stopped. Fewer than 8 texts, or vectors that are all the same, are projected by PCA,
        and `method` says so.

    Raises:
        WorkbenchError: the vectors have different shapes, the fit failed, or the map cannot be written.
    """
    wide, total = _components(teacher, student, 50)  # fewer dimensions are usual before UMAP, for speed
    if len(teacher) < 8 or total < 1e-6:
        return pca(teacher, student)
    start = 10 * wide[:, :2] / max(np.abs(wide[:, :2]).max(), 1e-12)
    given = {"wide": np.ascontiguousarray(wide), "start": np.ascontiguousarray(start)}
    options = json.dumps({"n_neighbors": min(neighbors, len(wide) - 1), "min_dist": min_dist, "random_state": seed})
    digest = xxhash.xxh3_128(options.encode())
    for array in given.values():
        digest.update(array.tobytes())
    folder = Path(folder or home() / "maps")
    kept = folder / f"{digest.hexdigest()}.safetensors"
    with contextlib.suppress(OSError, SafetensorError, KeyError):  # missing or damaged: fit it
        if len(drawn := load_file(kept)["points"]) == len(wide):
            return _joint(drawn, teacher, student, "UMAP")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fitting-") as scratch:
            save_file(given, Path(scratch) / "input")
            if not _run(Path(scratch), options, on_progress, stop):
                return None
            write_whole(kept, (Path(scratch) / "output").read_bytes())
    except (OSError, SafetensorError) as error:
        raise WorkbenchError(f"the map cannot be written to {folder}: {error}") from None
    return _joint(load_file(kept)["points"], teacher, student, "UMAP")


def _components(teacher: np.ndarray, student: np.ndarray | None, count: int) -> tuple[np.ndarray, float]:
    """Project both models' vectors, stacked, onto `count` common components; also return the variance."""
    # Not in the process that fits: it imports torch.
    from workbench.agreement import centered_product, principal_axes, sample

    vectors = [teacher] if student is None else paired(teacher, student)
    if len({each.shape[1] for each in vectors}) > 1:
        raise WorkbenchError(
            f"the teacher's vectors are {teacher.shape[1]} wide and the student's {student.shape[1]}: "
            "a joint map needs both in one space"
        )
    both = np.concatenate([unit(each) for each in vectors])
    both -= both.mean(axis=0)
    some = both[sample(len(both), _AXES_FROM)]
    product = centered_product(some, some)
    points = both @ principal_axes(product)[:, :count]
    if points.shape[1] < 2:
        points = np.pad(points, ((0, 0), (0, 1)))
    return points, float(np.trace(product)) / len(some)


def _joint(points: np.ndarray, teacher: np.ndarray, student: np.ndarray | None, method: str) -> JointMap:
    if student is None:
        return JointMap(points.astype(np.float32), None, method, np.nan)
    first, second = np.split(points.astype(np.float32), 2)
    drawn = np.linalg.norm(first - second, axis=1)
    true = np.linalg.norm(unit(teacher) - unit(student), axis=1)
    varies = len(true) > 2 and np.ptp(drawn) > 1e-6 and np.ptp(true) > 1e-6
    return JointMap(first, second, method, spearman(drawn, true) if varies else np.nan)


def _run(scratch: Path, options: str, on_progress: Callable | None, stop: threading.Event | None) -> bool:
    """Fit in a child process; return False if it was stopped."""
    command = [sys.executable, "-W", "ignore", "-m", "workbench.projection", str(scratch), options]
    with (
        (scratch / "errors").open("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as child,
    ):
        threading.Thread(target=_kill_when, args=(stop, child), daemon=True).start()
        for line in child.stdout:
            if on_progress and (found := re.fullmatch(r"(\d+)/(\d+)", line.strip())):
                on_progress(int(found[1]) / int(found[2]))
        child.wait()
        if stop is not None and stop.is_set():
            return False
        if child.returncode:
            errors.seek(0)
            raise WorkbenchError(f"UMAP failed: {(errors.read().strip().splitlines() or ['no message'])[-1]}")
    return True


def _kill_when(stop: threading.Event | None, child: subprocess.Popen) -> None:
    while stop is not None and child.poll() is None:
        if stop.wait(0.2):
            child.kill()
            return


def _fit(scratch: Path, options: str) -> None:
    from umap import UMAP

    given = load_file(scratch / "input")
    fitted = UMAP(
        **json.loads(options),
        init=given["start"],
        n_jobs=1,  # a seed is only repeatable with one job
        verbose=True,
        tqdm_kwds={"file": sys.stdout, "bar_format": "{n_fmt}/{total_fmt}\n"},
    ).fit_transform(given["wide"])
    if not np.isfinite(fitted).all():
        raise WorkbenchError("UMAP returned NaN or infinity")
    save_file({"points": np.ascontiguousarray(fitted, dtype=np.float32)}, scratch / "output")


if __name__ == "__main__":
    _fit(Path(sys.argv[1]), sys.argv[2])
