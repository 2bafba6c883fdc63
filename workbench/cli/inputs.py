"""What options name: texts, a teacher and its cache."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable

import numpy as np
import pandas as pd

from workbench import data, pipeline
from workbench._util import expanded, home
from workbench.cache import TargetCache
from workbench.data import Role, Text
from workbench.errors import DataError, TeacherError
from workbench.pipeline import Recipe
from workbench.teachers import ArrayTeacher, Teacher, is_api

READING = ("column", "role", "passages", "encoding")  # options of `data.read_texts`
_API = (
    "url", "key", "name", "dimensions", "tokenizer", "price", "budget", "requests_per_minute",
    "tokens_per_minute", "concurrency",
)  # fmt: skip
_STREAMED_BYTES = 1 << 28  # a larger source is read as a stream


def chosen(options: Namespace, *names: str) -> dict[str, object]:
    """Return the options of these names that are set."""
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def texts_of(
    options: Namespace, vectors: ArrayTeacher | None, *, stream: bool = False
) -> Iterable[Text]:
    """Return the texts that options name; of a large source a stream, if it may be one."""
    if vectors is not None:
        return vectors.texts[: options.limit]
    path = expanded(options.texts)
    files = path.rglob("*") if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files if file.is_file())
    large = options.texts.startswith("hub:") or size > _STREAMED_BYTES
    if stream and large and options.sample is None:
        return data.stream_texts(options.texts, **chosen(options, "limit", *READING))
    return data.read_texts(options.texts, **chosen(options, "limit", "sample", *READING))


def teacher_of(options: Namespace, recipe: Recipe) -> Teacher:
    """Return a recipe's teacher, with the precision or the API's options."""
    of_api = chosen(options, *_API)
    if is_api(recipe.teacher):
        if "tokenizer" in of_api:
            of_api["max_tokens"] = recipe.max_length
        return pipeline.teacher_of(None, recipe, **of_api)
    if of_api:
        names = ", ".join(of_api)
        raise TeacherError(f"{names}: only for --teacher PROVIDER:MODEL, not {recipe.teacher}")
    return pipeline.teacher_of(None, recipe, precision=options.precision)


def cache_of(options: Namespace, teacher: Teacher) -> TargetCache:
    """Return the cache of a teacher, in the folder that options name."""
    return TargetCache(options.cache or home() / "cache", teacher, skip=options.skip)


def vectors_of(options: Namespace) -> ArrayTeacher | None:
    """Return the teacher that --vectors names, None without it."""
    source, vectors, path = options.texts, options.vectors, expanded(options.texts)
    if vectors is None:
        return None
    if options.teacher or options.sample or options.passages:
        raise TeacherError("--vectors: leave out --teacher, --sample and --passages")
    if vectors.endswith(".npy"):
        texts = list(data.stream_texts(source, **chosen(options, *READING)))
        try:
            rows = np.load(expanded(vectors), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise TeacherError(f"{vectors} cannot be read as an array: {error}") from None
        return ArrayTeacher(rows, texts, path.name)
    name, column = path.name, options.column or "text"
    if source.startswith("hub:"):
        hub_name = source.removeprefix("hub:")
        table = pd.DataFrame(data.hub_rows(hub_name, column, vectors, limit=options.limit))
    elif path.suffix.lower() == ".parquet" and path.is_file():
        table = pd.read_parquet(path)
    else:
        raise DataError(f"--vectors {vectors}: expected FILE.npy, or a column of a .parquet file")
    if vectors not in table:
        raise DataError(f"{name} has no column {vectors!r}; it has {', '.join(table)}")
    table["role"] = options.role or table.get("role", Role.DOCUMENT)
    texts = list(map(Text, table[column], table["role"].fillna(Role.DOCUMENT)))
    # A text whose vector is null has no target.
    nothing = np.full(len(table[vectors].dropna().iloc[0]), np.nan)
    rows = [row if np.ndim(row) else nothing for row in table[vectors]]
    return ArrayTeacher(np.array(rows, dtype=np.float32), texts, name)
