"""What the options of a command name: texts, vectors, a teacher and its cache."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench._util import home, need
from workbench.errors import DataError, TeacherError, TrainingError

if TYPE_CHECKING:
    from workbench.cache import TargetCache
    from workbench.data import Text
    from workbench.teachers import ArrayTeacher, Teacher

_API_OPTIONS = (
    "url", "key", "name", "dimensions", "tokenizer", "price", "budget", "requests_per_minute", "tokens_per_minute",
    "concurrency",
)  # fmt: skip


def texts_of(source: str, limit: int | None, sample: int | None = None) -> Iterable[Text]:
    """Turn the --texts option into texts: a list where they are few, a stream where they may be many."""
    from workbench import data

    if sample is not None and limit is not None:
        raise DataError("--sample draws from all texts: give it without --limit")
    path = Path(source).expanduser()
    files = path.rglob("*") if path.is_dir() else [path]
    if sample is None and (source.startswith("hub:") or sum(f.stat().st_size for f in files if f.is_file()) > 1 << 28):
        return data.stream_texts(source, limit=limit)
    return data.read_texts(source, limit=limit, sample=sample)


def _hub_name(source: str) -> list[str]:
    parts = source.removeprefix("hub:").rsplit(":", 2)
    if len(parts) != 3:
        raise DataError(f"--texts {source}: expected hub:NAME:COLUMN:ROLE")
    return parts


def split(texts: Sequence[Text], cache: TargetCache) -> tuple[Sequence[Text], Sequence[Text]]:
    """Hold out a twentieth (at most 500 texts), the same ones however the texts are ordered."""
    from workbench._stored import StoredTexts

    keys = cache.keys(texts)
    unique, first = np.unique(keys, return_index=True)
    kept_out = min(500, len(unique) // 20)
    if not kept_out:
        raise TrainingError(f"{len(unique)} different texts are too few to train on and to measure with")
    train = np.flatnonzero(keys > unique[kept_out - 1])
    rest = texts.subset(train) if isinstance(texts, StoredTexts) else [texts[i] for i in train]
    return [texts[i] for i in first[:kept_out]], rest


def teacher_and_cache(
    options: argparse.Namespace, prompts: dict[str, str] | None = None, given: ArrayTeacher | None = None
):
    """Return the teacher that the options name, or the one that is given, and its cache."""
    from workbench.cache import TargetCache

    teacher = given or (_api_teacher(options, prompts) if is_api(options) else local_teacher(options, prompts)())
    return teacher, TargetCache(options.cache or home() / "cache", teacher)


def local_teacher(options: argparse.Namespace, prompts: dict[str, str] | None = None) -> Callable[[], Teacher]:
    """Return what loads the teacher; processes of a cluster call it themselves."""
    from workbench.teachers import LocalTeacher

    length, precision = options.max_length, options.precision
    return partial(LocalTeacher, options.teacher, max_length=length, prompts=prompts, precision=precision)


def is_api(options: argparse.Namespace) -> bool:
    """Say whether the teacher is PROVIDER:MODEL."""
    from workbench.extras.providers import PROVIDERS

    provider, colon, _ = options.teacher.partition(":")
    api = bool(colon) and provider in PROVIDERS
    if not api and (given := [name for name in _API_OPTIONS if getattr(options, name) is not None]):
        raise TeacherError(
            f"--{given[0].replace('_', '-')} is for a teacher behind an API, --teacher PROVIDER:MODEL with one of "
            f"{', '.join(PROVIDERS)}; {options.teacher} is none"
        )
    return api


def _api_teacher(options: argparse.Namespace, prompts: dict[str, str] | None):
    provider, _, name = options.teacher.partition(":")
    given = {each: value for each in _API_OPTIONS if (value := getattr(options, each)) is not None}
    if options.tokenizer:
        given["max_tokens"] = options.max_length
    teacher = need("workbench.extras.api_teachers", "api").ApiTeacher(name, provider=provider, prompts=prompts, **given)
    teacher.name = options.teacher
    return teacher


def vectors_of(options: argparse.Namespace) -> ArrayTeacher | None:
    """Return the teacher that --vectors names, None without it."""
    from workbench import data
    from workbench.teachers import ArrayTeacher

    if options.vectors is None:
        return None
    if options.teacher or any(getattr(options, name) is not None for name in _API_OPTIONS):
        raise TeacherError("--vectors takes the place of a teacher: leave out --teacher and the options of an API")
    source = options.texts
    if options.sample or source in ("docstrings", "tutorial") or Path(source).is_dir():
        raise DataError("--vectors goes with --texts FILE or hub:NAME:COLUMN:ROLE, and without --sample")
    name = Path(source).name
    if options.vectors.endswith(".npy"):
        try:
            vectors = np.load(options.vectors, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise TeacherError(f"{options.vectors} cannot be read as an array: {error}") from None
        texts = list(data.stream_texts(source))
        if vectors.ndim == 2 and len(texts) < len(vectors):
            warnings.warn("blank texts have no vector: leave out their rows of --vectors too", stacklevel=2)
        return ArrayTeacher(texts, vectors, name)
    if source.startswith("hub:"):
        name_on_hub, column, role = _hub_name(source)
        rows = data.hub_rows(name_on_hub, column, options.vectors, limit=options.limit)
        return ArrayTeacher.from_rows(rows, name_on_hub, text=column, vector=options.vectors, role=role)
    if not source.endswith(".parquet"):
        raise DataError(f"--vectors {options.vectors}: a column is read from .parquet files; else give a .npy file")
    rows = (row for _, row in data.parquet_rows(Path(source), "text", "role", options.vectors))
    return ArrayTeacher.from_rows(rows, name, vector=options.vectors, role="role")


def fill(cache, texts, stop):
    """Fill the cache with a bar, and say what an API's teacher will cost and has cost."""
    from workbench._progress import CacheBar

    teacher = cache.teacher
    if teacher.usage is not None:
        missing = cache.missing(texts) if isinstance(texts, Sequence) else None  # of a stream nobody knows
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and missing != []:
            raise TeacherError(
                "each process would ask the API by itself, with a budget and limits of its own: run workbench cache with "
                "these texts first, in one process"
            )
        if missing is not None:
            print(teacher.estimate(missing), file=sys.stderr)
    try:
        with CacheBar("teacher") as bar:
            return cache.fill(texts, on_plan=bar.plan, on_progress=bar.progress, stop=stop)
    finally:
        if teacher.usage is not None:
            print(teacher.usage, file=sys.stderr)
