"""One run of `TargetCache.fill`: plan it, group the texts, ask the teacher, store what it returns, count."""

from __future__ import annotations

import math
import secrets
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from typing import TYPE_CHECKING

import numpy as np

from workbench import _shards
from workbench._util import check_room, counted, duration, spread
from workbench.data import Role, Text
from workbench.errors import CacheError, IncompleteError, TeacherError, WorkbenchError
from workbench.teachers import checked_targets

if TYPE_CHECKING:
    from workbench.cache import TargetCache

GROUP_TEXTS = 512  # what a kill can lose; fewer where the teacher is slow, so that a bar moves
LEAST_GROUP = 64  # texts of similar length for a batch
GROUP_SECONDS = 10
GROUP_CHARACTERS = 64_000_000
MERGE_EVERY = 32  # groups
SAMPLE_TEXTS = 32
WARM_UP_TEXTS = 4  # a local model's first pass is slow, so these are not timed
CHECK_EVERY = 1000  # targets of an API, until it is asked again whether it is the same model
SAME_MODEL = 0.999  # cosine; servers that batch in half precision repeat themselves to about 0.9999

Pair = tuple[Text, bytes]  # a text and the key of its target


@dataclass(frozen=True)
class Plan:
    """What a fill has to do."""

    texts: int  # given, also repeated
    unique: int  # different targets that they have
    missing: int  # targets that the teacher has yet to make
    bytes: int  # what storing them will take
    seconds: float | None = None  # estimated time of the teacher; None until a sample was timed

    def __str__(self) -> str:
        if not self.missing:
            return (
                f"all {self.unique:,} vectors are cached"
                if self.unique != 1
                else "the vector is cached"
            )
        line = f"{self.missing:,} of {self.unique:,} vectors missing, {self.bytes / 1e6:,.1f} MB to store"
        return line if self.seconds is None else f"{line}, about {duration(self.seconds)}"


@dataclass(frozen=True)
class Progress:
    """The state of a fill, handed to `on_progress` after each group of texts."""

    done: int  # texts accounted for so far, including those that were cached or repeated
    total: int | None  # number of texts; None while a stream has not ended
    encoded: int  # targets that the teacher made in this run
    encoded_total: int | None  # targets that this run has to make; None for a stream
    bytes: int  # of the targets that were stored in this run
    texts_per_second: float  # speed of the teacher in this run
    seconds_left: float | None  # estimate; None for a stream
    failed: int = 0  # texts that the teacher has no target of

    @property
    def hits(self) -> int:
        """Texts that needed no teacher: cached before, or repeated."""
        return self.done - self.encoded - self.failed


class Fill:
    """One run of `TargetCache.fill`, whose arguments it takes."""

    def __init__(
        self,
        cache: TargetCache,
        on_progress: Callable[[Progress], None] | None,
        stop: threading.Event | None,
        skip: float,
    ) -> None:
        self.cache, self.teacher, self.skip = cache, cache.teacher, skip
        self.stop = stop if stop is not None else threading.Event()
        self.failed: list[tuple[Text, str]] = []  # texts without a target, and why
        self._done = self._encoded = 0
        self._seconds = 0.0
        self._total = self._encoded_total = None
        self._on_progress, self._lock = on_progress, threading.Lock()
        self._writable = False  # checked before the first target has to be stored
        self._claimed: set[bytes] = set()
        self._one_at_a_time = self.teacher.concurrency == 1 and self.teacher.batch_size is None

    def listed(
        self, texts: Sequence[Text], keys: np.ndarray, on_plan: Callable[[Plan], None] | None
    ) -> Iterator[Pair]:
        """Plan a list, and return the pairs that have to be filled."""
        plan, todo = self.cache.planned(keys)
        self._total, self._encoded_total = len(texts), len(todo)
        if len(todo):
            self._make_writable()
            self.check_unchanged()
            try:
                check_room(self.cache.folder, plan.bytes, f"the {len(todo):,} missing targets")
            except WorkbenchError as error:
                raise CacheError(str(error)) from None
        self._done = len(texts) - len(todo)
        if len(todo) > 4 * SAMPLE_TEXTS and not self.stop.is_set():
            some = todo[:10_000]  # in the order of keys, so any of them are like all of them
            by_length = some[np.argsort([len(texts[i].text) for i in some], kind="stable")]
            sample = by_length[spread(len(some), SAMPLE_TEXTS)]
            seconds = self._timed([(texts[i], keys[i]) for i in np.roll(sample, SAMPLE_TEXTS // 2)])
            plan = replace(plan, seconds=seconds * (len(todo) - SAMPLE_TEXTS))
            todo = todo[~np.isin(todo, sample)]
        if on_plan:
            on_plan(plan)
        # Each process starts at another place, so that two that fill one list share the work.
        todo = np.roll(todo, -secrets.randbelow(len(todo) + 1))
        return ((texts[i], keys[i]) for i in todo)

    def _timed(self, sample: list[Pair]) -> float:
        """Fill a sample of all lengths and return the seconds that a text takes."""
        if self._one_at_a_time:
            self._fill_group(sample[:WARM_UP_TEXTS])
            sample = sample[WARM_UP_TEXTS:]
        started = time.perf_counter()
        self._fill_group(sample)
        return (time.perf_counter() - started) / len(sample) / self.teacher.concurrency

    def check_unchanged(self) -> None:
        """Raise CacheError if another model answers to the teacher's name than when the cache was begun."""
        if (cosine := self._changed_since(CHECK_EVERY)) is not None:
            raise self._other_model(cosine)

    def _changed_since(self, made: int) -> float | None:
        """Compare the teacher's probe with the vector stored for it, if it has made so many targets since it was compared.

        Returns:
            Their cosine if they differ, else None. A vector that is not stored yet is stored.
        """
        with self._lock:
            before = None if self.cache.unchecked is None else dict(self.cache.unchecked)
        if self.stop.is_set() or (before is not None and sum(before.values()) < made):
            return None
        try:
            probe = self.teacher.probe(stop=self.stop)
        except TeacherError:
            if self.stop.is_set():
                return None
            raise
        if probe is None:
            return None
        text, vector = probe
        keys = self.cache.keys([text])
        if not self.cache.known(keys)[0]:
            self._make_writable()
            _shards.write(self.cache.folder, keys, vector[None].astype(self.cache.dtype))
        stored = self.cache.targets([text])[0]
        cosine = float(stored @ vector / (np.linalg.norm(stored) * np.linalg.norm(vector)))
        if cosine < SAME_MODEL:
            return cosine
        with self._lock:  # what was stored while it was asked is for the next time
            now = self.cache.unchecked or {}
            self.cache.unchecked = {path: now[path] for path in now if path not in (before or ())}
        return None

    def _other_model(self, cosine: float) -> CacheError:
        """Set aside what was made since the last good check, and return the error that says so."""
        doubtful, self.cache.unchecked = self.cache.unchecked or {}, None
        for path in doubtful:
            with suppress(FileNotFoundError):  # another process has merged it
                path.replace(path.with_suffix(".doubtful"))
        count, of_them = sum(doubtful.values()), ""
        if count:
            of_them = (
                f"The {counted(count, 'target')} made since the last good check may be of either model: they are set aside "
                f"(.doubtful files in {self.cache.folder}) and are made again. All others are sound. "
            )
        return CacheError(
            f"another model answers to the name {self.cache.identity['teacher']!r} than when {self.cache.folder.name} was "
            f"begun: the same text has another vector (cosine {cosine:.3f}). {of_them}Its targets would not fit the old "
            "ones: give the teacher another name (`name`, --name) to begin another cache, or ask for the earlier model."
        )

    def run(self, pairs: Iterable[Pair], merge: bool) -> Progress:
        """Fill group after group, joining small shards now and then, and return the last progress."""
        cosine = None
        with closing(
            self._groups(pairs)
        ) as groups:  # whatever ends this, what is in flight is stored
            for number, _ in enumerate(groups, start=1):
                if (cosine := self._changed_since(CHECK_EVERY)) is not None:
                    break
                if merge and number % MERGE_EVERY == 0:
                    self.cache.merge()
        if cosine is None and self._encoded > CHECK_EVERY:
            cosine = self._changed_since(1)
        if cosine is not None:
            raise self._other_model(cosine)
        if merge and self._encoded:
            self.cache.merge()
        if self.failed:
            self._report_failed()
        return self._progress()

    def _report_failed(self) -> None:
        """Warn of the texts that got no target, or raise TeacherError if they are too many."""
        total, count = self._total or self._done, len(self.failed)
        named = "; ".join(f"{text.text[:60]!r}: {why}" for text, why in self.failed[:3])
        if count > self.skip * total:
            share = min(1.0, math.ceil(1000 * count / total) / 1000)
            raise TeacherError(
                f"{counted(count, 'text')} got no target, first {named}. All others are stored; the same call asks again for "
                f"these alone. That is more than {self.skip:.3g} of {total:,}: skip={share:g} (--skip {share:g}) goes on "
                "without them."
            )
        warnings.warn(
            f"{count:,} of {counted(total, 'text')} got no target and {'is' if count == 1 else 'are'} skipped, first {named}. "
            "Nothing is learned from such a text, and no search by the teacher finds it.",
            stacklevel=4,
        )

    def _groups(self, pairs: Iterable[Pair]) -> Iterator[None]:
        """Fill group after group, or as many at once as the teacher can take, and yield after each."""
        if self._one_at_a_time:
            groups = _groups(pairs, self._group_size)
            yield from map(self._fill_group, takewhile(lambda _: not self.stop.is_set(), groups))
            return
        with ThreadPoolExecutor(
            self.teacher.concurrency
        ) as pool:  # its end waits for what is in flight
            running: set[Future] = set()
            for group in _groups_by_role(pairs, self.teacher.batch_size or GROUP_TEXTS):
                if self.stop.is_set():
                    break
                running.add(pool.submit(self._fill_group, group))
                if len(running) == self.teacher.concurrency:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            yield from (future.result() for future in as_completed(running))

    def _fill_group(self, group: list[Pair]) -> None:
        texts = [text for text, _ in group]
        keys = np.array([key for _, key in group], dtype=_shards.KEY)
        unique, first = np.unique(keys, return_index=True)
        with self._lock:  # a key that another thread is at is left to it
            mine = np.array([key not in self._claimed for key in unique.tolist()], dtype=bool)
            self._claimed.update(unique.tolist())
        try:
            self._fill_claimed(texts, keys, first[mine & ~self.cache.known(unique)])
        finally:
            with self._lock:
                self._claimed.difference_update(unique[mine].tolist())

    def _fill_claimed(self, texts: list[Text], keys: np.ndarray, todo: np.ndarray) -> None:
        """Make and store the targets of the rows `todo`: what is good is stored before anything is raised.

        Texts without a target are collected in `failed`; NaN and the like in more than may be skipped ends it at once.
        """
        if todo.size:
            self._make_writable()
        started = time.perf_counter()
        kept_keys, kept_vectors, problems, failed, over = [], [], [], [], None
        for role in Role:
            if not (rows := [i for i in todo if texts[i].role is role]):
                continue
            try:
                returned = self.teacher.encode([texts[i].text for i in rows], role, stop=self.stop)
            except IncompleteError as error:
                given = np.isfinite(error.vectors).all(axis=1)
                failed += [(texts[rows[i]], why) for i, why in error.failed.items()]
                returned, rows = (
                    error.vectors[given],
                    [row for row, has in zip(rows, given, strict=True) if has],
                )
                over = error if error.final else None
            try:
                vectors = checked_targets(returned, len(rows), self.cache.dimension)
            except TeacherError as error:
                raise TeacherError(f"{error}. Nothing of this group was stored.") from None
            with np.errstate(over="ignore"):
                stored = vectors.astype(self.cache.dtype)
            good = np.isfinite(stored).all(axis=1)
            if not good.all():
                bad = rows[int(np.argmin(good))]
                cause = "beyond the range of float16; open the cache with dtype='float32'"
                cause = cause if np.isfinite(vectors).all() else "NaN or infinite"
                problems.append(
                    f"{int((~good).sum())} {role} vectors are {cause} (first: {texts[bad].text[:60]!r})"
                )
                failed += [
                    (texts[rows[i]], f"its vector is {cause}") for i in np.flatnonzero(~good)
                ]
            kept_keys.append(keys[rows][good])
            kept_vectors.append(stored[good])
        if made := sum(map(len, kept_keys)):
            with (
                self.cache._lock
            ):  # nobody may join a shard with others before it is known as unchecked
                path = _shards.write(
                    self.cache.folder, np.concatenate(kept_keys), np.concatenate(kept_vectors)
                )
                if self.cache.unchecked is not None:
                    self.cache.unchecked[path] = made
        with self._lock:
            self.failed += failed
            too_many = len(self.failed) > self.skip * (self._total or self._done + len(texts))
        if problems and too_many:
            raise TeacherError(
                "; ".join(problems) + ". The other vectors of the group were stored."
            )
        self._count(
            len(texts) - (todo.size - made) + len(failed), made, time.perf_counter() - started
        )
        if over and not self.stop.is_set():
            raise TeacherError(
                f"{over}. What was made before is stored, and the same call goes on from there."
            )

    def _group_size(self) -> int:
        some = GROUP_SECONDS * self._encoded / self._seconds if self._seconds else GROUP_TEXTS
        return int(min(GROUP_TEXTS, max(LEAST_GROUP, some)))

    def _make_writable(self) -> None:
        if not self._writable:
            self.cache.check_writable()
            self._writable = True

    def _count(self, done: int, encoded: int, seconds: float) -> None:
        with self._lock:
            self._done += done
            self._encoded += encoded
            self._seconds += seconds / self.teacher.concurrency if encoded else 0
            if self._on_progress:
                self._on_progress(self._progress())

    def _progress(self) -> Progress:
        speed = self._encoded / self._seconds if self._seconds else 0.0
        left = None
        if self._total is not None and (speed or self._done >= self._total):
            left = (self._total - self._done) / speed if speed else 0.0
        size = self._encoded * self.cache.row_bytes
        return Progress(
            self._done,
            self._total,
            self._encoded,
            self._encoded_total,
            size,
            speed,
            left,
            len(self.failed),
        )


def _groups(pairs: Iterable[Pair], size: Callable[[], int]) -> Iterator[list[Pair]]:
    stream = iter(pairs)
    while group := list(islice(stream, 1)):
        characters, most = len(group[0][0].text), size()
        while len(group) < most and characters < GROUP_CHARACTERS and (more := next(stream, None)):
            group.append(more)
            characters += len(more[0].text)
        yield group


def _groups_by_role(pairs: Iterable[Pair], size: int) -> Iterator[list[Pair]]:
    """Make groups that are one request each."""
    open_groups: dict[Role, list[Pair]] = {role: [] for role in Role}
    for pair in pairs:
        open_groups[pair[0].role].append(pair)
        if len(open_groups[pair[0].role]) == size:
            yield open_groups[pair[0].role]
            open_groups[pair[0].role] = []
    yield from filter(None, open_groups.values())
