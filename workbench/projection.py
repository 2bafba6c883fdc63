"""A map of one model's texts, and where another model's vectors of them land among them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xxhash
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from workbench._util import home, unit, write_whole
from workbench.errors import WorkbenchError

_AXES_FROM = 20_000  # rows that give the principal components


@dataclass(frozen=True)
class TextMap:
    """Points of the reference's texts, and where the other model's land."""

    points: np.ndarray  # float32 of shape (n, 2)
    method: str  # "PCA" or "UMAP"
    landings: np.ndarray | None = None  # float32 of shape (n, 2)

    def landed(self, first: np.ndarray, second: np.ndarray) -> TextMap:
        """Return the map with landings, from both models' neighbors, int of shape (n, k).

        A text lands at its neighbors' mean direction and distance; shared ones count as zero.
        """
        shared = np.zeros(second.shape, dtype=bool)
        for column in first.T:  # all at once would take k times the memory
            shared |= second == column[:, None]
        ways = np.where(shared[..., None], 0, self.points[second] - self.points[:, None])
        middle, distance = ways.mean(axis=1), np.linalg.norm(ways, axis=2).mean(axis=1)
        scale = distance / np.maximum(np.linalg.norm(middle, axis=1), 1e-9)
        landings = (self.points + middle * scale[:, None]).astype(np.float32)
        return replace(self, landings=landings)


def pca(vectors: np.ndarray) -> TextMap:
    """Project vectors, float of shape (n, d), onto their two principal components."""
    return TextMap(_components(vectors, 2), "PCA")


def umap(
    vectors: np.ndarray, *, folder: str | Path | None = None, stop: threading.Event | None = None
) -> TextMap | None:
    """Fit a UMAP (McInnes et al. 2018) on vectors, normalized here.

    The fit runs in its own process, which `stop` ends; then None is returned. Maps are stored in
    the folder, `maps` in the workbench's if None. Fewer than 8, or equal vectors, go through PCA.
    """
    components = _components(vectors, 50)  # fewer dimensions are usual before UMAP, for speed
    if len(components) < 8 or components.var(axis=0).sum() < 1e-6:
        return pca(vectors)
    options = json.dumps({"n_neighbors": min(15, len(components) - 1), "random_state": 0})
    key = xxhash.xxh3_128_hexdigest(options.encode() + components.tobytes())
    folder = Path(folder or home() / "maps")
    path = folder / f"{key}.safetensors"
    with contextlib.suppress(OSError, SafetensorError):  # missing or damaged: fit it
        return TextMap(load_file(path)["points"], "UMAP")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fitting-") as scratch:
        save_file({"components": components}, Path(scratch, "input"))
        command = [sys.executable, "-W", "ignore", "-m", "workbench.projection", scratch, options]
        errors = Path(scratch, "errors")
        with errors.open("w") as file, subprocess.Popen(command, stderr=file) as child:
            while child.poll() is None:
                if (stop or threading.Event()).wait(0.2):
                    child.kill()
                    return None
        if child.returncode:
            raise WorkbenchError(f"UMAP failed: {errors.read_text()[-500:]}")
        write_whole(path, Path(scratch, "output").read_bytes())
    return TextMap(load_file(path)["points"], "UMAP")


def _components(vectors: np.ndarray, count: int) -> np.ndarray:
    """Project vectors onto `count` principal components, or as many as there are, at least 2."""
    from workbench.agreement import sample  # not in the process that fits: it imports torch

    points = unit(vectors)
    points -= points.mean(axis=0)
    sampled = points[sample(len(points), _AXES_FROM)].astype(np.float64)
    _, axes = np.linalg.eigh(sampled.T @ sampled)
    components = points @ axes[:, ::-1][:, :count].astype(np.float32)
    missing = max(0, 2 - components.shape[1])
    return np.ascontiguousarray(np.pad(components, ((0, 0), (0, missing))))


if __name__ == "__main__":  # the process of a fit
    from umap import UMAP

    scratch, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    components = load_file(scratch / "input")["components"]
    start = 10 * components[:, :2] / np.abs(components[:, :2]).max()
    # A seed is only repeatable with one job.
    points = UMAP(**options, init=start, n_jobs=1).fit_transform(components)
    save_file({"points": np.ascontiguousarray(points, dtype=np.float32)}, scratch / "output")
