"""Fill a cache with many teachers at once, on a Ray cluster (extra `ray`)."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench._util import counted, expanded, need
from workbench.cache import Progress, TargetCache
from workbench.data import Role, Text
from workbench.errors import DataError, WorkbenchError

if TYPE_CHECKING:
    import ray.data

    from workbench.teachers import Teacher

BATCH_TEXTS = 2048  # handed to a worker at once; what it stored of them survives it


def fill(
    root: str | Path,
    teacher: Callable[[], Teacher],
    texts: str | Path | ray.data.Dataset,
    *,
    workers: int = 2,
    cpus: float = 1,
    gpus: float = 0,
    dtype: str = "float16",
    on_progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> Progress:
    """Encode and store every target that is missing, each worker with a teacher of its own.

    A worker that dies loses the group in flight, and Ray starts another. The cluster needs one
    processor more than the workers take, to read texts.

    Args:
        root: folder of all caches, which every machine of the cluster sees under this path.
        teacher: makes a teacher; called once in each worker, and here, to open the cache.
        texts: a folder of .parquet files, which every machine of the cluster sees under this path,
            or a `ray.data.Dataset`; with the columns `text` and `role`. Blank texts are left out.
        workers: number of parallel workers.
        cpus, gpus: processors and GPUs of each.
        dtype: as for `TargetCache`.
        on_progress: called after each batch.
        stop: when set, the fill ends after the batches in flight.

    Returns:
        The last progress; its texts a second are those of the whole cluster.

    Raises:
        DataError: the folder has no .parquet files.
        WorkbenchError: Ray is missing, the cluster is too small, or a worker failed.
    """
    ray = import_ray()
    if isinstance(texts, str | Path):
        paths = sorted(str(path.resolve()) for path in expanded(texts).glob("*.parquet"))
        if not paths:
            raise DataError(f"{texts}: expected a folder of .parquet files")
    cache = TargetCache(root, teacher(), dtype=dtype)
    cache.check_writable()
    join_cluster(ray, workers, cpus, gpus)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # The new reader of Ray 2.60 starts some thirty processes for one file.
    context.use_datasource_v2 = False
    if isinstance(texts, str | Path):
        texts = ray.data.read_parquet(paths, columns=["text", "role"])
    total, started = texts.count(), time.perf_counter()
    batches = texts.repartition(target_num_rows_per_block=BATCH_TEXTS).map_batches(
        _Worker,
        fn_constructor_args=(str(expanded(root).resolve()), teacher, dtype),
        batch_size=None,
        num_cpus=cpus,
        num_gpus=gpus,
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
    )
    done = encoded = blank = 0
    progress = Progress(0, total, 0, None, 0, 0.0)
    try:
        for row in batches.iter_rows():
            if row["error"]:
                raise WorkbenchError(f"{row['error']} (a worker on {row['host']})")
            done, encoded = done + row["done"], encoded + row["encoded"]
            blank += row["blank"]
            speed = encoded / (time.perf_counter() - started)
            # Every text that no worker has looked up yet may have to be encoded.
            to_encode = total - done + encoded
            size = encoded * cache.row_bytes
            progress = Progress(done, total, encoded, to_encode, size, speed)
            if on_progress:
                on_progress(progress)
            if stop is not None and stop.is_set():
                break
    except ray.exceptions.RayError as error:
        reason = str(getattr(error, "cause", None) or error).strip().splitlines()[-1]
        raise WorkbenchError(f"the cluster gave up: {reason}. What was stored is kept.") from error
    finally:
        cache.merge()
    if blank:
        warnings.warn(f"{counted(blank, 'blank text')} of {done:,} left out", stacklevel=2)
    return progress


class _Worker:
    """One teacher and the cache that it writes to, in a process of the cluster."""

    def __init__(self, root: str, teacher: Callable[[], Teacher], dtype: str) -> None:
        # No text is skipped, since nobody sees a worker's warnings.
        self.cache = TargetCache(root, teacher(), dtype=dtype, skip=0)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list]:
        encoded, error = 0, ""
        rows = zip(batch["text"], batch["role"], strict=True)
        try:
            texts = [Text(text, role or Role.DOCUMENT) for text, role in rows if text]
            texts = [text for text in texts if text.text.strip()]
            encoded = self.cache.fill(texts, merge=False).encoded
        except WorkbenchError as problem:
            error, texts = str(problem), []
        count = len(batch["text"])
        row = {"done": count, "encoded": encoded, "blank": count - len(texts), "error": error}
        return {name: [value] for name, value in {**row, "host": socket.gethostname()}.items()}


def import_ray():
    """Return Ray, quiet."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    need("ray.data", "ray")
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    return need("ray", "ray")


def join_cluster(ray, workers: int, cpus: float, gpus: float) -> None:
    """Join the cluster of RAY_ADDRESS, or start one here; WorkbenchError if it is too small."""
    cores = int(np.ceil(workers * cpus + 1))
    if not ray.is_initialized():
        # Ray only counts processors. A cluster that exists has its own number.
        here = None if os.environ.get("RAY_ADDRESS") else max(os.cpu_count() or 1, cores)
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        ray.init(num_cpus=here, include_dashboard=False, **quiet)
    resources = ray.cluster_resources()
    if resources.get("CPU", 0) < cores or resources.get("GPU", 0) < workers * gpus:
        raise WorkbenchError(
            f"{workers} workers and a reader need {cores} CPUs and {workers * gpus:g} GPUs; the "
            f"cluster has {resources.get('CPU', 0):g} and {resources.get('GPU', 0):g}"
        )
