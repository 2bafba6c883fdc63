"""What options name: texts, existing vectors, a teacher and its cache."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench._util import home
from workbench.errors import DataError, TeacherError

if TYPE_CHECKING:
    from workbench.data import Text
    from workbench.teachers import ArrayTeacher, Teacher

_API_OPTIONS = (
    "url", "key", "name", "dimensions", "tokenizer", "price", "budget", "requests_per_minute", "tokens_per_minute",
    "concurrency",
)  # fmt: skip


@dataclass(frozen=True)
class TeacherChoice:
    """The teacher that options describe.

    Attributes:
        name: a model's name or folder, or PROVIDER:MODEL; None if none is named.
        max_length: tokens read of each text; None if none is named.
        precision: of a local teacher.
        cache: folder of the target caches.
        api: given options of an API.
    """

    name: str | None
    max_length: int | None
    precision: str
    cache: Path
    api: dict[str, object]

    @classmethod
    def of(cls, values: dict[str, object]) -> TeacherChoice:
        """Take the teacher's options out of parsed values."""
        api = {each: value for each in _API_OPTIONS if (value := values.pop(each)) is not None}
        cache = Path(values.pop("cache_folder") or home() / "cache")
        return cls(values.pop("teacher"), values.pop("max_length"), values.pop("precision"), cache, api)

    def is_api(self, name: str) -> bool:
        """Say whether a teacher is PROVIDER:MODEL.

        Raises:
            TeacherError: it is not, and options of an API are given.
        """
        if ":" in name[2:] and not Path(name).expanduser().exists():
            return True
        if self.api:
            raise TeacherError(
                f"--{next(iter(self.api)).replace('_', '-')} is for a teacher behind an API, --teacher PROVIDER:MODEL; "
                f"{name} is a local model"
            )
        return False

    def options(self, name: str, max_length: int | None, prompts: dict[str, str] | None) -> dict[str, object]:
        """Return what `Teacher` takes besides the name."""
        if not self.is_api(name):
            return {"max_length": max_length, "prompts": prompts, "precision": self.precision}
        return {"prompts": prompts, **self.api} | ({"max_tokens": max_length} if "tokenizer" in self.api else {})

    def make(self, name: str, max_length: int | None, prompts: dict[str, str] | None = None) -> Teacher:
        """Return the teacher of this name."""
        from workbench.teachers import Teacher

        teacher = Teacher(name, **self.options(name, max_length, prompts))
        if self.is_api(name):
            teacher.name = name  # with its provider, for a later command
        return teacher


def texts_of(source: str, limit: int | None, sample: int | None = None) -> Iterable[Text]:
    """Return the texts of --texts, the first `limit` or a draw of `sample`; a stream where they may be many."""
    from workbench import data

    if sample is not None and limit is not None:
        raise DataError("--sample draws from all texts: give it without --limit")
    path = Path(source).expanduser()
    files = path.rglob("*") if path.is_dir() else [path]
    if sample is None and (source.startswith("hub:") or sum(f.stat().st_size for f in files if f.is_file()) > 1 << 28):
        return data.stream_texts(source, limit=limit)
    return data.read_texts(source, limit=limit, sample=sample)


def vectors_of(choice: TeacherChoice, vectors: str | None, source: str, limit: int | None) -> ArrayTeacher | None:
    """Return the teacher that --vectors names, None without it."""
    from workbench import data
    from workbench.teachers import ArrayTeacher

    if vectors is None:
        return None
    if choice.name or choice.api:
        raise TeacherError("--vectors takes the place of a teacher: leave out --teacher and the options of an API")
    if source in ("docstrings", "tutorial") or Path(source).is_dir():
        raise DataError("--vectors goes with --texts FILE or hub:NAME:COLUMN:ROLE, and without --sample")
    name = Path(source).name
    if vectors.endswith(".npy"):
        try:
            rows = np.load(vectors, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise TeacherError(f"{vectors} cannot be read as an array: {error}") from None
        texts = list(data.stream_texts(source))
        if rows.ndim == 2 and len(texts) < len(rows):
            warnings.warn("blank texts have no vector: leave out their rows of --vectors too", stacklevel=2)
        return ArrayTeacher(texts, rows, name)
    if source.startswith("hub:"):
        name_on_hub, column, role = _hub_name(source)
        rows = data.hub_rows(name_on_hub, column, vectors, limit=limit)
        return ArrayTeacher.from_rows(rows, name_on_hub, text=column, vector=vectors, role=role)
    if not source.endswith(".parquet"):
        raise DataError(f"--vectors {vectors}: a column is read from .parquet files; otherwise give a .npy file")
    rows = (row for _, row in data.parquet_rows(Path(source), "text", "role", vectors))
    return ArrayTeacher.from_rows(rows, name, vector=vectors, role="role")


def _hub_name(source: str) -> list[str]:
    parts = source.removeprefix("hub:").rsplit(":", 2)
    if len(parts) != 3:
        raise DataError(f"--texts {source}: expected hub:NAME:COLUMN:ROLE")
    return parts
