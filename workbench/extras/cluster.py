"""Fill a cache with many teachers at once, on a Ray cluster (extra `ray`)."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from workbench._util import expanded, need
from workbench.cache import Progress, TargetCache
from workbench.data import Role, Text
from workbench.errors import DataError, WorkbenchError
from workbench.teachers import Teacher

_BATCH_TEXTS = 2048  # handed to a worker at once; what it stored of them survives it


def fill(
    root: str | Path,
    teacher: Callable[[], Teacher],
    texts: str | Path,
    *,
    workers: int = 2,
    gpus: float = 0,
    on_progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> Progress:
    """Encode and store every target that is missing, each worker with a teacher of its own.

    A worker that dies loses the group in flight, and Ray starts another. Returns the last progress;
    its texts a second are those of the whole cluster.

    Args:
        root, texts: the folder of all caches, and one of .parquet files with the columns `text` and
            `role`; every machine of the cluster sees both. Blank texts are left out.
        teacher: makes a teacher; called once in each worker, and here, to open the cache.
        workers, gpus: parallel workers and the GPUs of each. It also takes one processor.
        on_progress: called after each batch.
        stop: when set, the fill ends after the batches in flight.

    Raises:
        DataError: the folder has no .parquet files.
        WorkbenchError: Ray is missing, the cluster is too small, or a worker failed.
    """
    root = str(expanded(root).resolve())
    paths = sorted(str(path.resolve()) for path in expanded(texts).glob("*.parquet"))
    if not paths:
        raise DataError(f"{texts}: expected a folder of .parquet files")
    cache = TargetCache(root, teacher())
    cache.check_writable()
    ray = join_cluster(workers, gpus)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # The new reader of Ray 2.60 starts some thirty processes for one file.
    context.use_datasource_v2 = False
    rows = ray.data.read_parquet(paths, columns=["text", "role"])
    total, started = rows.count(), time.perf_counter()
    batches = rows.repartition(target_num_rows_per_block=_BATCH_TEXTS).map_batches(
        _Worker,
        fn_constructor_args=(root, teacher),
        batch_size=None,
        num_cpus=1,
        num_gpus=gpus,
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
    )
    done = encoded = 0
    progress = Progress(0, total, 0, None, 0, 0.0)
    try:
        for row in batches.iter_rows():
            if row["error"]:
                raise WorkbenchError(f"a worker failed: {row['error']}")
            done, encoded = done + row["done"], encoded + row["encoded"]
            speed = encoded / (time.perf_counter() - started)
            # Every text that no worker has looked up yet may have to be encoded.
            to_encode, size = total - done + encoded, encoded * cache.row_bytes
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
    return progress


class _Worker:
    """One teacher and the cache that it writes to, in a process of the cluster."""

    def __init__(self, root: str, teacher: Callable[[], Teacher]) -> None:
        # No text is skipped, since nobody sees a worker's warnings.
        self.cache = TargetCache(root, teacher(), skip=0)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list]:
        encoded, error, texts = 0, "", []
        for text, role in zip(batch["text"], batch["role"], strict=True):
            if text and text.strip():
                texts.append((text, role or Role.DOCUMENT))
        try:
            encoded = self.cache.fill([Text(*text) for text in texts], merge=False).encoded
        except WorkbenchError as problem:
            error = str(problem)
        return {"done": [len(batch["text"])], "encoded": [encoded], "error": [error]}


def join_cluster(workers: int, gpus: float):
    """Join the cluster of RAY_ADDRESS or start one here, and return Ray."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    need("ray.data", "ray")
    import ray

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    cores = workers + 1  # one reads the texts
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
    return ray
