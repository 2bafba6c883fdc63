"""A map of one model's texts, and where another model's vectors of them land among them.

The reference lays out the texts. The other model's vector of a text has no place of its own: its neighbors say where it
lands, so any two models can be compared. A long line is a text whose neighbors for the other model lie elsewhere on the map.
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
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xxhash
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from workbench._util import home, spearman, unit, write_whole
from workbench.errors import WorkbenchError

_AXES_FROM = 20_000  # rows that principal components are found from; more change them by less than a map shows


@dataclass(frozen=True)
class TextMap:
    """Points of the reference's texts, and where the other model's land, once both models' neighbors are known.

    `line_correlation` is the Spearman correlation over the texts between the length of a line, from a text's point to
    its landing, and the share of its neighbors that the other model does not find.
    """

    points: np.ndarray  # float32 of shape (n, 2)
    method: str  # "PCA" or "UMAP"
    landings: np.ndarray | None = None  # float32 of shape (n, 2)
    line_correlation: float = np.nan

    def landed(self, first: np.ndarray, second: np.ndarray) -> TextMap:
        """Return the map with landings; `first` and `second` are each model's neighbors, int of shape (n, k).

        A text lands in the mean direction of its neighbors for the other model, as far away as they are in the mean. A
        neighbor that both models find counts as the text's own place: with the same neighbors it lands on its point.
        (The mean of their places would lie too near where they lie on several sides: its distance follows the loss of
        neighbors less well, see docs/measured.md.)
        """
        shared = np.zeros(second.shape, dtype=bool)
        for column in first.T:  # all at once would take k times the memory
            shared |= second == column[:, None]
        ways = np.where(shared[..., None], 0, self.points[second] - self.points[:, None])
        middle, far = ways.mean(axis=1), np.linalg.norm(ways, axis=2).mean(axis=1)
        scale = far / np.maximum(np.linalg.norm(middle, axis=1), 1e-9)
        landings = (self.points + middle * scale[:, None]).astype(np.float32)
        length, lost = np.linalg.norm(landings - self.points, axis=1), 1 - shared.mean(axis=1)
        varies = len(lost) > 2 and np.ptp(lost) > 0 and np.ptp(length) > 1e-6
        return replace(
            self, landings=landings, line_correlation=spearman(length, lost) if varies else np.nan
        )


def pca(vectors: np.ndarray) -> TextMap:
    """Project vectors, float of shape (n, d) and normalized here, onto their two principal components."""
    return TextMap(_components(vectors, 2)[0], "PCA")


def umap(
    vectors: np.ndarray,
    *,
    neighbors: int = 15,
    min_dist: float = 0.1,
    seed: int = 0,
    folder: str | Path | None = None,
    on_progress: Callable[[float], None] | None = None,
    stop: threading.Event | None = None,
) -> TextMap | None:
    """Fit a UMAP (McInnes et al. 2018) on vectors, normalized here.

    The fit runs in its own process, so a notebook stays responsive and `stop` ends it at once. It starts from the PCA
    with a fixed seed: the same vectors give the same map on the same machine. The map is stored under the checksum of
    its input.

    Args:
        vectors: float of shape (n, d).
        neighbors: UMAP's n_neighbors, as `min_dist` is its own.
        seed: of the fit.
        folder: where maps are stored; `maps` in the workbench's folder if None.
        on_progress: called with the fraction of the optimization that is done, 0 to 1.
        stop: when set, the fit ends.

    Returns:
        The map; None if it was stopped. Fewer than 8 texts, or vectors that are all the same, are projected by PCA,
        and `method` says so.

    Raises:
        WorkbenchError: the vectors are not a finite (n, d) array, the fit failed, or the map cannot be written.
    """
    wide, total = _components(vectors, 50)  # fewer dimensions are usual before UMAP, for speed
    if len(wide) < 8 or total < 1e-6:
        return pca(vectors)
    start = 10 * wide[:, :2] / max(np.abs(wide[:, :2]).max(), 1e-12)
    given = {"wide": np.ascontiguousarray(wide), "start": np.ascontiguousarray(start)}
    options = json.dumps(
        {"n_neighbors": min(neighbors, len(wide) - 1), "min_dist": min_dist, "random_state": seed}
    )
    digest = xxhash.xxh3_128(options.encode())
    for array in given.values():
        digest.update(array.tobytes())
    folder = Path(folder or home() / "maps")
    kept = folder / f"{digest.hexdigest()}.safetensors"
    with contextlib.suppress(OSError, SafetensorError, KeyError):  # missing or damaged: fit it
        if len(points := load_file(kept)["points"]) == len(wide):
            return TextMap(points, "UMAP")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fitting-") as scratch:
            save_file(given, Path(scratch) / "input")
            if not _run(Path(scratch), options, on_progress, stop):
                return None
            write_whole(kept, (Path(scratch) / "output").read_bytes())
    except (OSError, SafetensorError) as error:
        raise WorkbenchError(f"the map cannot be written to {folder}: {error}") from None
    return TextMap(load_file(kept)["points"], "UMAP")


def _components(vectors: np.ndarray, count: int) -> tuple[np.ndarray, float]:
    """Project vectors onto `count` principal components, float32; also return the variance."""
    # Not in the process that fits: it imports torch.
    from workbench.agreement import centered_product, principal_axes, sample

    points = unit(vectors)
    points -= points.mean(axis=0)
    some = points[sample(len(points), _AXES_FROM)]
    product = centered_product(some, some)
    points = points @ principal_axes(product)[:, :count]
    if points.shape[1] < 2:
        points = np.pad(points, ((0, 0), (0, 1)))
    return points, float(np.trace(product)) / len(some)


def _run(
    scratch: Path, options: str, on_progress: Callable | None, stop: threading.Event | None
) -> bool:
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
            raise WorkbenchError(
                f"UMAP failed: {(errors.read().strip().splitlines() or ['no message'])[-1]}"
            )
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
