"""What options name: texts, existing vectors, a teacher and its cache."""

from __future__ import annotations

import os
import warnings
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from workbench import data
from workbench._util import expanded, home
from workbench.data import Role, Text
from workbench.errors import DataError, TeacherError
from workbench.teachers import ArrayTeacher, Teacher

_API_OPTIONS = (
    "url", "key", "name", "dimensions", "tokenizer", "price", "budget", "requests_per_minute", "tokens_per_minute",
    "concurrency",
)  # fmt: skip


READING = ("column", "role", "passages", "encoding")  # options of `data.read_texts`


class TeacherChoice:
    """The teacher that options describe.

    Attributes:
        name: a model's name or folder, or PROVIDER:MODEL; None if none is named.
        max_length: tokens read of each text; None if none is named.
        precision: of a local teacher.
        cache: folder of the target caches.
        skip: share of texts that may get no target.
        api: given options of an API.
    """

    def __init__(self, options: Namespace) -> None:
        self.name, self.max_length, self.precision = (
            options.teacher,
            options.max_length,
            options.precision,
        )
        self.cache = Path(options.cache or home() / "cache")
        self.skip = 0.01 if options.skip is None else options.skip
        self.api = {
            each: value for each in _API_OPTIONS if (value := getattr(options, each)) is not None
        }

    def is_api(self, name: str) -> bool:
        """Say whether a teacher is PROVIDER:MODEL.

        Raises:
            TeacherError: it is not, and options of an API are given.
        """
        if ":" in name[2:] and not os.path.exists(expanded(name)):
            return True
        if self.api:
            raise TeacherError(
                f"--{next(iter(self.api)).replace('_', '-')} is for a teacher behind an API, --teacher PROVIDER:MODEL; "
                f"{name} is a local model"
            )
        return False

    def options(
        self, name: str, max_length: int | None, prompts: dict[str, str] | None
    ) -> dict[str, object]:
        """Return what `Teacher` takes besides the name."""
        if not self.is_api(name):
            return {"max_length": max_length, "prompts": prompts, "precision": self.precision}
        return {"prompts": prompts, **self.api} | (
            {"max_tokens": max_length} if "tokenizer" in self.api else {}
        )

    def make(
        self, name: str, max_length: int | None, prompts: dict[str, str] | None = None
    ) -> Teacher:
        """Return the teacher of this name."""
        teacher = Teacher(name, **self.options(name, max_length, prompts))
        if self.is_api(name):
            teacher.name = name  # with its provider, for a later command
        return teacher


def texts_of(options: Namespace, *, stream: bool = True) -> Iterable[Text]:
    """Return the texts that options name; a stream, if it may be one, where they may be many."""
    source, chosen = options.texts, {name: getattr(options, name) for name in ("limit", *READING)}
    path = expanded(source)
    files = path.rglob("*") if path.is_dir() else [path]
    many = (
        source.startswith("hub:") or sum(f.stat().st_size for f in files if f.is_file()) > 1 << 28
    )
    if stream and many and options.sample is None:
        return data.stream_texts(source, **chosen)
    return data.read_texts(source, sample=options.sample, **chosen)


def vectors_of(choice: TeacherChoice, options: Namespace) -> ArrayTeacher | None:
    """Return the teacher that --vectors names, None without it."""
    source, vectors = options.texts, options.vectors
    if vectors is None:
        return None
    if choice.name or choice.api:
        raise TeacherError(
            "--vectors takes the place of a teacher: leave out --teacher and the options of an API"
        )
    path = expanded(source)
    hub = source.removeprefix("hub:").rsplit(":", 2) if source.startswith("hub:") else None
    drawn = options.sample or options.passages
    if drawn or source in ("docstrings", "tutorial") or path.is_dir() or (hub and len(hub) != 3):
        raise DataError(
            "--vectors goes with --texts FILE or hub:NAME:COLUMN:ROLE, without --sample and --passages"
        )
    name = path.name
    if vectors.endswith(".npy"):
        try:
            rows = np.load(expanded(vectors), mmap_mode="r", allow_pickle=False)
            if not isinstance(rows, np.ndarray):
                raise ValueError("it is an archive of arrays")
        except (OSError, ValueError, EOFError) as error:
            raise TeacherError(f"{vectors} cannot be read as an array: {error}") from None
        texts = list(
            data.stream_texts(source, **{name: getattr(options, name) for name in READING})
        )
        if rows.ndim == 2 and len(texts) < len(rows):
            warnings.warn(
                "blank texts have no vector: leave out their rows of --vectors too", stacklevel=2
            )
        return ArrayTeacher(texts, rows, name)
    if hub:
        name, column, role = hub
        rows = data.hub_rows(name, column, vectors, limit=options.limit)
        return ArrayTeacher.from_rows(rows, name, text=column, vector=vectors, role=role)
    if not source.lower().endswith(".parquet"):
        raise DataError(
            f"--vectors {vectors}: a column is read from .parquet files; otherwise give a .npy file"
        )
    column, *role = data.text_columns(path, options.column)
    kind = options.role or (role[0] if role else Role.DOCUMENT)
    rows = (row for _, row in data.parquet_rows(path, column, *role, vectors))
    return ArrayTeacher.from_rows(rows, name, text=column, vector=vectors, role=kind)
