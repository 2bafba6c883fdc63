"""Target embeddings on disk: durable, resumable, never mixed up."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from workbench._shards import KEY, ShardFolder
from workbench._util import Bar, counted, expanded, remove_leftovers, write_json
from workbench.data import Role, StoredTexts, Text, as_texts
from workbench.errors import CacheError, IncompleteError, TeacherError
from workbench.teachers import Teacher, checked_targets, make_teacher

GROUP_TEXTS = 256  # of one call of a local teacher: the most that a kill can lose
CHUNK_TEXTS = 8192  # held in memory, and joined into one shard
SAME_MODEL = 0.045  # distance in norms, cosine 0.999; servers in half precision come to 0.014


@dataclass(frozen=True)
class Progress:
    """The state of a fill, as `on_progress` gets it at the start and after each group of texts."""

    done: int  # texts accounted for, including those that were cached or repeated
    total: int | None  # number of texts; None for a stream
    encoded: int  # targets that the teacher made in this run
    encoded_total: int | None  # targets that this run has to make; None for a stream
    texts_per_second: float  # speed of the teacher in this run
    failed: int = 0  # texts that the teacher has no target of

    @property
    def hits(self) -> int:
        """Texts that needed no teacher: cached before, or repeated."""
        return self.done - self.encoded - self.failed

    @property
    def seconds_left(self) -> float | None:
        """Estimated time left; None for a stream, and before the first group."""
        if self.total is None or not self.texts_per_second:
            return None
        return (self.total - self.done) / self.texts_per_second


class TargetCache(ShardFolder):
    """The target embeddings of one teacher, in a folder of their own below `root`.

    A target's key is a hash of role, prompt and exact text. Vectors are stored as `dtype`,
    "float16" or "float32". `skip` is the share of texts of a `fill` that may get no target. Several
    processes may read and fill one cache.

    Example:
        >>> import tempfile
        >>> cache = wb.TargetCache(tempfile.mkdtemp(), wb.Teacher("all-mpnet-base-v2"))
        >>> cache.fill(["bread", "stone"]).encoded
        2
        >>> cache.targets(["stone"])[0].shape
        (768,)
    """

    def __init__(
        self, root: str | Path, teacher: Teacher, *, dtype: str = "float16", skip: float = 0.01
    ) -> None:
        if dtype not in ("float16", "float32"):
            raise CacheError(f"dtype {dtype!r}: targets are stored as float16 or float32")
        if not 0 <= skip <= 1:
            raise CacheError(f"skip is {skip!r}: expected a share of texts, from 0 to 1")
        self.teacher, self.skip = make_teacher(teacher), skip
        self.prompts = dict(self.teacher.prompts)
        self.identity = json.loads(json.dumps({**self.teacher.identity, "stored_as": dtype}))
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        name = self.identity["teacher"].rstrip("/").rpartition("/")[2]
        folder = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}-{digest[:16]}"
        super().__init__(expanded(root) / folder, self.teacher.dimension, np.dtype(dtype))

    def keys(self, texts: Iterable[str | Text]) -> np.ndarray:
        """Return the key of each text's target, S16 of shape (n,)."""
        return np.fromiter(map(self._key, _listed(texts)), dtype=KEY)

    def _key(self, text: Text) -> bytes:
        parts = [part.encode() for part in (text.role.value, self.prompts[text.role], text.text)]
        # Lengths in front keep ("ab", "c") and ("a", "bc") apart.
        message = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
        return hashlib.sha256(message).digest()[: KEY.itemsize]

    def plan(self, texts: Iterable[str | Text]) -> str:
        """Say in a line what filling these texts would take."""
        keys = self.keys(texts)
        missing, count = len(self.missing_rows(keys)), len(np.unique(keys))
        if not missing:
            return f"all {count:,} vectors are cached"
        size = f"{missing * self.row_bytes / 1e6:,.1f} MB to store"
        return f"{missing:,} of {count:,} vectors missing, {size}"

    def missing(self, texts: Iterable[str | Text]) -> list[Text]:
        """Return the texts whose targets the teacher has yet to make, each once."""
        texts = _listed(texts)
        return [texts[row] for row in np.sort(self.missing_rows(self.keys(texts)))]

    def missing_rows(self, keys: np.ndarray) -> np.ndarray:
        """Return the row where each missing key first occurs, sorted by key."""
        unique, first = np.unique(keys, return_index=True)
        return first[~self.known(unique)]

    def fill(
        self,
        texts: Iterable[str | Text],
        *,
        on_progress: Callable[[Progress], None] | None = None,
        stop: threading.Event | None = None,
        merge: bool = True,
    ) -> Progress:
        """Encode and store every target that is missing; each text is encoded once.

        `texts` are a list, or a stream of any length. What is encoded is durable: a kill loses the
        group in flight, and processes that fill one list share the work. `on_progress` is called
        after each group, and `stop` ends the fill after one. Of many processes, let one `merge`
        small shards.

        CacheError if another model answers to the teacher's name; TeacherError if vectors have a
        wrong shape, or more texts than `skip` allows have no finite one.
        """
        is_stream = isinstance(texts, Iterable) and not isinstance(texts, Sized)
        texts = iter(texts) if is_stream else _listed(texts)
        fill = _Fill(self, None if is_stream else len(texts), on_progress, stop, merge)
        if is_stream:
            while (block := list(islice(texts, CHUNK_TEXTS))) and not fill.stop.is_set():
                block = as_texts(block)
                fill.add(block, self.keys(block))
        else:
            fill.add(texts, self.keys(texts))
        return fill.report()

    def embed(
        self,
        texts: Iterable[str | Text] | Targets,
        *,
        progress: bool = False,
        stop: threading.Event | None = None,
        what: str = "teacher",
        skip: float | None = None,
    ) -> Targets:
        """Fill what is missing of a list of texts, and return the targets that there are.

        `texts` may be the targets of another cache; its keys are used again if its prompts are
        the same. `progress` shows a bar named `what`, and what an API will cost and has cost.
        """
        keys, teacher = None, self.teacher
        if isinstance(texts, Targets):
            keys = texts.keys if texts.prompts == self.prompts else None
            texts = texts.texts
        texts = _listed(texts)
        keys = self.keys(texts) if keys is None else keys
        if teacher.usage is not None:
            missing = [texts[row] for row in self.missing_rows(keys)]
            if missing and int(os.environ.get("WORLD_SIZE", "1")) > 1:
                raise TeacherError("each process would pay the API: run workbench cache first")
            if progress:
                print(teacher.estimate(missing), file=sys.stderr)
        try:
            with FillBar(what, disable=not progress) as bar:
                fill = _Fill(self, len(texts), bar.progress, stop, skip=skip)
                fill.add(texts, keys)
                fill.report()
        finally:
            if progress and teacher.usage is not None:
                print(teacher.usage, file=sys.stderr)
        targets = Targets(self, texts, keys)
        has_target = targets.shard_of >= 0
        return targets if has_target.all() else targets.subset(np.flatnonzero(has_target))

    def targets(self, texts: Iterable[str | Text]) -> Targets:
        """Return the targets of these texts; CacheError if some are missing."""
        texts = _listed(texts)
        targets = Targets(self, texts, self.keys(texts))
        missing = np.flatnonzero(targets.shard_of < 0)
        if missing.size:
            count = f"{missing.size:,} of {len(texts):,} targets are not in {self.folder.name}"
            first = repr(texts[missing[0]].text[:60])
            raise CacheError(f"{count}, first {first}: run fill() or embed() on these texts")
        return targets

    def check_writable(self) -> None:
        """Write `identity.json`; WorkbenchError if the folder cannot be written to."""
        write_json(self.folder / "identity.json", self.identity)
        remove_leftovers(self.folder)

    def check_same_model(self, stop: threading.Event) -> None:
        """Compare the vectors of a teacher's probes with those of when the cache was begun."""
        if not self.teacher.probes:
            return
        vectors, keys = self.teacher.probe(stop=stop), self.keys(self.teacher.probes)
        with np.errstate(over="ignore"):
            rounded = vectors.astype(self.dtype)
        is_known, is_good = self.known(keys), np.isfinite(rounded).all(axis=1)
        if (is_new := is_good & ~is_known).any():
            self.write(keys[is_new], rounded[is_new])
        stored = Targets(self, self.teacher.probes, keys[is_known])[:]
        distances = np.linalg.norm(stored - vectors[is_known], axis=1)
        if not (distances <= SAME_MODEL * np.linalg.norm(stored, axis=1)).all():
            raise CacheError(
                f"another model answers to {self.identity['teacher']!r} than when the cache "
                "was begun: give the teacher another name (--name)"
            )


class _Fill:
    """One run of `TargetCache.fill`; `total` is the number of texts, None for a stream."""

    def __init__(
        self, cache: TargetCache, total: int | None, on_progress, stop, merge=True, skip=None
    ) -> None:
        self.cache, self.teacher, self.merge = cache, cache.teacher, merge
        self.skip = cache.skip if skip is None else skip
        self.stop = stop or threading.Event()
        self.progress = Progress(0, total, 0, None, 0.0)
        self._on_progress = on_progress or (lambda progress: None)
        self._seconds = 1e-9  # a speed is divided by them
        self._failed: list[tuple[Text, str]] = []  # texts without a target, and why
        self._has_begun = self._gave_up = False
        self._lock = threading.Lock()

    def add(self, texts: Sequence[Text], keys: np.ndarray) -> None:
        """Make the targets that are missing of these texts."""
        missing = self.cache.missing_rows(keys)
        is_free = self.teacher.usage is None  # then even a full cache is compared with its teacher
        if (len(missing) or is_free) and not self._has_begun and not self.stop.is_set():
            self._has_begun = True
            if len(missing):
                self.cache.check_writable()
                free = shutil.disk_usage(self.cache.folder).free
                needed = len(missing) * self.cache.row_bytes
                if needed > free:
                    message = f"{needed:,} bytes are needed, {free:,} are free: make room"
                    raise CacheError(f"{self.cache.folder}: {message}")
            self.cache.check_same_model(self.stop)
        to_encode = None if self.progress.total is None else len(missing)
        done = self.progress.done + len(texts) - len(missing)
        self.progress = replace(self.progress, done=done, encoded_total=to_encode)
        self._on_progress(self.progress)
        # Each process starts at another place, so that two that fill one list share the work.
        missing = np.roll(missing, -secrets.randbelow(len(missing) + 1))
        for start in range(0, len(missing), CHUNK_TEXTS):
            if self.stop.is_set():
                return
            groups = self._groups(texts, missing[start : start + CHUNK_TEXTS])
            if self.teacher.concurrency == 1:
                for group in groups:
                    self._fill_group(keys, group)
            else:
                pool = ThreadPoolExecutor(self.teacher.concurrency)
                calls = [pool.submit(self._fill_group, keys, group) for group in groups]
                try:
                    for call in as_completed(calls):
                        call.result()
                finally:
                    pool.shutdown(cancel_futures=True)  # waits until what is in flight is stored
            if self.merge and self.progress.encoded:
                self.cache.merge()

    def _groups(self, texts: Sequence[Text], rows: np.ndarray) -> Iterator[dict[int, Text]]:
        """Group texts by role: a group is one call of the teacher."""
        size = self.teacher.batch_size or GROUP_TEXTS
        chosen = [(row, texts[row]) for row in rows]
        for role in Role:
            of_role = [(row, text) for row, text in chosen if text.role == role]
            for start in range(0, len(of_role), size):
                yield dict(of_role[start : start + size])

    def _fill_group(self, keys: np.ndarray, group: dict[int, Text]) -> None:
        """Make and store the targets of texts of one role; what is good is stored in any case."""
        if self.stop.is_set() or self._gave_up:
            return
        rows = np.array(list(group))
        rows = rows[~self.cache.known(keys[rows])]  # another process may have made some by now
        texts = [group[row] for row in rows]
        incomplete, failed, started = None, {}, time.perf_counter()
        vectors = np.empty((0, self.cache.dimension), dtype=np.float32)
        if texts:
            try:
                strings = [text.text for text in texts]
                returned = self.teacher.encode(strings, texts[0].role, stop=self.stop)
                vectors = checked_targets(returned, len(texts), self.cache.dimension)
            except IncompleteError as error:
                incomplete, vectors, failed = error, error.vectors, dict(error.failed)
        with np.errstate(over="ignore"):
            stored = vectors.astype(self.cache.dtype)
        is_good = np.isfinite(stored).all(axis=1)
        if not (incomplete and incomplete.final):  # then the rest was not asked for
            reason = "its vector is NaN or infinite, or too large for float16 (see dtype='float32')"
            failed = dict.fromkeys(np.flatnonzero(~is_good), reason) | failed
        count = int(is_good.sum())
        if count:
            self.cache.write(keys[rows[is_good]], stored[is_good])
        with self._lock:
            self._failed += [(texts[row], reason) for row, reason in failed.items()]
            self._seconds += (time.perf_counter() - started) / self.teacher.concurrency
            encoded = self.progress.encoded + count
            self.progress = replace(
                self.progress,
                done=self.progress.done + len(group) - len(texts) + count + len(failed),
                encoded=encoded,
                texts_per_second=encoded / self._seconds,
                failed=len(self._failed),
            )
            self._on_progress(self.progress)
        if incomplete and incomplete.final and not self.stop.is_set():
            self._gave_up = True  # no other thread asks again
            raise TeacherError(f"{incomplete}. What was made is stored, and the same call goes on")
        if failed and not count and self._are_too_many():
            self.report()  # a teacher that makes nothing useful is not asked any longer

    def _are_too_many(self) -> bool:
        return len(self._failed) > self.skip * (self.progress.total or self.progress.done)

    def report(self) -> Progress:
        """Return the progress; warn of texts without a target, or raise if they are too many."""
        if not self._failed:
            return self.progress
        total, count = self.progress.total or self.progress.done, len(self._failed)
        reasons = "; ".join(f"{text.text[:60]!r}: {reason}" for text, reason in self._failed[:3])
        message = f"{count:,} of {counted(total, 'text')} got no target, first {reasons}"
        if self._are_too_many():
            raise TeacherError(
                f"{message}. All others are stored; a larger skip (--skip) goes on without these"
            )
        warnings.warn(f"{message}. Nothing is learned from such a text.", stacklevel=4)
        return self.progress


class Targets:
    """Cached targets of n texts, a float32 array of `shape` that is read from disk when indexed."""

    def __init__(self, cache: TargetCache, texts: Sequence[Text], keys: np.ndarray) -> None:
        self.texts, self.keys, self.prompts = texts, keys, cache.prompts
        self.shape = (len(keys), cache.dimension)
        self._shards, self.shard_of, self._row_of = cache.locate(keys)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int | slice | np.ndarray | Sequence[int]) -> np.ndarray:
        """Return float32 of shape (d,) for one index, (n, d) for several."""
        shard_of, row_of = np.asarray(self.shard_of[index]), np.asarray(self._row_of[index])
        vectors = np.empty((*row_of.shape, self.shape[1]), dtype=np.float32)
        for shard in np.unique(shard_of):
            is_there = shard_of == shard
            vectors[is_there] = self._shards[shard][row_of[is_there]]
        return vectors

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.float32, copy=False)

    def subset(self, rows: np.ndarray) -> Targets:
        """Return some of the targets with their texts, by row numbers, int of shape (m,)."""
        part = copy.copy(self)
        is_stored = isinstance(self.texts, StoredTexts)
        part.texts = self.texts.subset(rows) if is_stored else [self.texts[row] for row in rows]
        part.keys, part.shape = self.keys[rows], (len(rows), self.shape[1])
        part.shard_of, part._row_of = self.shard_of[rows], self._row_of[rows]
        return part

    def split(self) -> tuple[Targets, Targets]:
        """Return a training part, and a held-out part of a twentieth or 500 texts, by hash."""
        unique, first = np.unique(self.keys, return_index=True)
        held_out = max(1, min(500, len(unique) // 20))
        training = np.flatnonzero(self.keys > unique[held_out - 1])
        return self.subset(training), self.subset(first[:held_out])


class FillBar(Bar):
    """The bar of a fill: `on_progress=bar.progress`. It counts encoded texts."""

    def __init__(self, what: str, *, disable: bool = False) -> None:
        super().__init__(desc=what, unit=" texts", mininterval=0.5, delay=0.5, disable=disable)

    def progress(self, progress: Progress) -> None:
        """Advance the bar."""
        self.total = progress.encoded_total
        failed = f", {progress.failed:,} without a target" if progress.failed else ""
        self.set_postfix_str(f"{progress.hits:,} hits{failed}", refresh=False)
        self.update(progress.encoded - self.n)


def _listed(texts: Iterable[str | Text]) -> Sequence[Text]:
    return as_texts(texts) if not isinstance(texts, list | tuple) or texts else []
