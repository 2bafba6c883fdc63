"""Fill a cache with many teachers at once, on a Ray cluster (extra `ray`)."""

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
    """Encode and store every target that is missing, and return the cluster's last progress.

    Args:
        root, texts: the folder of all caches, and one of .parquet files with the columns `text` and
            `role`; every machine sees both. Blank texts are left out.
        teacher: makes a teacher, in each worker and here.
        workers, gpus: workers, of one processor each, and the GPUs of each.
        stop: when set, the fill ends after the batches in flight.
    """
    root = str(expanded(root).resolve())
    paths = sorted(str(path.resolve()) for path in expanded(texts).glob("*.parquet"))
    if not paths:
        raise DataError(f"{texts}: expected a folder of .parquet files")
    cache = TargetCache(root, teacher())
    cache.check_writable()
    ray = join_cluster(workers, gpus)
    # The new reader of Ray 2.60 starts some thirty processes for one file.
    ray.data.DataContext.get_current().use_datasource_v2 = False
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.read_parquet(paths, columns=["text", "role"])
    total, started = rows.count(), time.perf_counter()
    batches = rows.repartition(target_num_rows_per_block=2048).map_batches(
        _Worker,
        fn_constructor_args=(root, teacher),
        batch_size=None,
        num_cpus=1,
        num_gpus=gpus,
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
    )
    done = encoded = 0
    progress = Progress(0, total, 0, None, 0.0)
    try:
        for row in batches.iter_rows():
            if row["error"]:
                raise WorkbenchError(f"a worker failed: {row['error']}")
            done, encoded = done + row["done"], encoded + row["encoded"]
            # Every text that no worker has looked up yet may have to be encoded.
            counts = done, total, encoded, total - done + encoded
            progress = Progress(*counts, encoded / (time.perf_counter() - started))
            if on_progress:
                on_progress(progress)
            if stop and stop.is_set():
                break
    except ray.exceptions.RayError as error:
        message = f"the cluster gave up, what was stored is kept: {str(error).splitlines()[-1]}"
        raise WorkbenchError(message) from error
    finally:
        cache.merge()
    return progress


class _Worker:
    """One teacher and the cache that it writes to, in a process of the cluster."""

    def __init__(self, root: str, teacher: Callable[[], Teacher]) -> None:
        self.cache = TargetCache(root, teacher(), skip=0)  # nobody sees a worker's warnings

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list]:
        encoded, error = 0, ""
        rows = zip(batch["text"], batch["role"], strict=True)
        texts = [(text, role or Role.DOCUMENT) for text, role in rows if text and text.strip()]
        try:
            encoded = self.cache.fill([Text(*row) for row in texts], merge=False).encoded
        except WorkbenchError as problem:
            error = str(problem)
        return {"done": [len(batch["text"])], "encoded": [encoded], "error": [error]}


def join_cluster(workers: int, gpus: float):
    """Join the cluster of RAY_ADDRESS, or start one here, and return Ray."""
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
            f"{workers} workers with {gpus:g} GPUs each need more than {resources}"
        )
    return ray
