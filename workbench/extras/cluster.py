"""Fill a cache with many teachers at once, on a Ray cluster (extra `ray`)."""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workbench._files import files_in, text_columns
from workbench._util import counted, expanded, need
from workbench.cache import Progress, TargetCache
from workbench.data import stream_texts
from workbench.errors import DataError, WorkbenchError

if TYPE_CHECKING:
    import ray.data

    from workbench.teachers import Teacher

BATCH_TEXTS = 2048  # handed to a worker at once; what it stored of them survives it
_MERGE_EVERY = 8  # batches


def files(folder: str | Path) -> list[Path]:
    """Return a folder's .parquet files of texts; a warning counts the other files in it and below.

    Raises:
        DataError: the folder has none, or one lacks the columns `text` and `role`.
    """
    found, others = files_in(Path(folder))
    paths = [
        path for path in found if path.suffix.lower() == ".parquet" and path.parent == Path(folder)
    ]
    if not paths:
        what = (
            f"no .parquet files in {folder}"
            if Path(folder).is_dir()
            else f"{folder}: there is no such folder"
        )
        raise DataError(f"{what}. A cluster reads texts from a folder of .parquet files.")
    if left_out := sorted({*found, *others} - {*paths}):
        some = ", ".join(str(path.relative_to(folder)) for path in left_out[:3]) + ", ..." * (
            len(left_out) > 3
        )
        warnings.warn(
            f"{folder}: {counted(len(left_out), 'file')} left out ({some}): a cluster reads the .parquet files in the "
            "folder itself. Without --workers all files of texts are read",
            stacklevel=3,
        )
    for path in paths:
        if len(text_columns(path, "text")) < 2:
            raise DataError(f"{path} has no column 'role'")
    return paths


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

    A worker that dies loses the group in flight: Ray starts another, which encodes what is not stored of its batch.
    The cluster needs one processor more than the workers take, to read texts.

    Args:
        root: folder of all caches, one that every machine of the cluster sees under this path.
        teacher: makes a teacher; called once in each worker, and here, to open the cache.
        texts: a folder of .parquet files, which every machine of the cluster sees under this path, or a
            `ray.data.Dataset`; with the columns `text` and `role`. Blank and missing texts are left out, and a warning
            counts them and the folder's other files.
        workers: number of parallel workers.
        cpus: processors for each.
        gpus: GPUs for each, 1 for a teacher on a GPU.
        dtype: as for `TargetCache`.
        on_progress: called after each batch.
        stop: when set, the fill ends after the batches in flight.

    Returns:
        The last progress; its texts a second are those of the whole cluster.

    Raises:
        WorkbenchError: Ray is missing, or the cluster is too small.
        CacheError, TeacherError, DataError: as from `TargetCache.fill` in a worker.
    """
    ray = import_ray()
    paths = [str(path.resolve()) for path in files(texts)] if isinstance(texts, str | Path) else []
    opened = TargetCache(root, teacher(), dtype=dtype)
    opened.check_writable()
    join_cluster(ray, workers, cpus, gpus)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # With the new reader, Ray 2.60 starts some thirty processes for one file: on two cores 85 seconds instead of 5.
    context.use_datasource_v2 = False
    if paths:
        texts = ray.data.read_parquet(paths, columns=["text", "role"])
    total, started = texts.count(), time.perf_counter()
    batches = texts.repartition(target_num_rows_per_block=BATCH_TEXTS).map_batches(
        _Worker,
        fn_constructor_kwargs={
            "root": str(expanded(root).resolve()),
            "teacher": teacher,
            "dtype": dtype,
        },
        batch_size=None,
        num_cpus=cpus,
        num_gpus=gpus,
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
    )
    done = encoded = written = blank = 0
    progress = Progress(0, total, 0, None, 0, 0.0, None)
    try:
        for number, row in enumerate(batches.iter_rows(), start=1):
            if row["error"]:
                raise WorkbenchError(f"{row['error']} (a worker on {row['host']})")
            done, encoded, written = (
                done + row["done"],
                encoded + row["encoded"],
                written + row["bytes"],
            )
            blank += row["blank"]
            speed = encoded / (time.perf_counter() - started)
            left = (total - done) / speed if speed else None
            # Every text that no worker has looked up yet may have to be encoded.
            progress = Progress(done, total, encoded, total - done + encoded, written, speed, left)
            if on_progress:
                on_progress(progress)
            if stop is not None and stop.is_set():
                break
            if number % _MERGE_EVERY == 0:
                opened.merge()
    except ray.exceptions.RayError as error:
        reason = str(getattr(error, "cause", None) or error).strip().splitlines()[-1]
        raise WorkbenchError(f"the cluster gave up: {reason}. What was stored is kept.") from error
    finally:
        opened.merge()
    if blank:
        warnings.warn(f"{counted(blank, 'blank text')} of {done:,} left out", stacklevel=2)
    return progress


class _Worker:
    """One teacher and the cache that it writes to, in a process of the cluster."""

    def __init__(self, root: str, teacher: Callable[[], Teacher], dtype: str) -> None:
        self.cache = TargetCache(
            root, teacher(), dtype=dtype, skip=0
        )  # nobody sees a worker's warnings

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list]:
        done, error, texts = Progress(0, 0, 0, 0, 0, 0.0, None), "", []
        try:
            with warnings.catch_warnings(
                action="ignore"
            ):  # what is left out is counted for all workers together
                texts = list(
                    stream_texts(
                        pd.DataFrame({name: list(batch[name]) for name in ("text", "role")})
                    )
                )
            # A stream, not a list: no sample is timed for a plan that nobody reads.
            done = self.cache.fill(iter(texts), merge=False)
        except WorkbenchError as problem:
            error = str(problem)
        blank = len(batch["text"]) - len(texts)
        row = {
            "done": len(batch["text"]),
            "encoded": done.encoded,
            "bytes": done.bytes,
            "blank": blank,
            "error": error,
        }
        return {name: [value] for name, value in {**row, "host": socket.gethostname()}.items()}


def import_ray():
    """Return Ray, quiet."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    need("ray.data", "ray")
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    return need("ray", "ray")


def join_cluster(ray, workers: int, cpus: float, gpus: float) -> None:
    """Join the cluster of RAY_ADDRESS, or start one on this machine, and see that the workers fit."""
    if workers < 1 or cpus < 0 or gpus < 0:
        raise WorkbenchError(
            f"{workers} workers of {cpus} processors and {gpus} GPUs: expected at least one worker"
        )
    wanted = {"CPU": workers * cpus + 1, "GPU": workers * gpus}
    if not ray.is_initialized():
        # Ray's processors are only counted. A cluster that exists has its own number.
        count = (
            None
            if os.environ.get("RAY_ADDRESS")
            else max(os.cpu_count() or 1, math.ceil(wanted["CPU"]))
        )
        ray.init(
            num_cpus=count,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    there = ray.cluster_resources()
    for kind, amount in wanted.items():
        if there.get(kind, 0) < amount:
            raise WorkbenchError(
                f"{workers} workers and the reading of texts take {amount:g} {kind}s, and the cluster has "
                f"{there.get(kind, 0):g}: ask for fewer workers, or start Ray with more (ray.init(num_cpus=...))"
            )
