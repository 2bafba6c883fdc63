"""Target embeddings on disk: durable, resumable, never mixed up."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from workbench import _shards
from workbench._shards import DamagedShard, Shard
from workbench._util import orthogonal
from workbench.data import Role, Text
from workbench.errors import CacheError, IncompleteError, TeacherError
from workbench.teachers import Teacher

GROUP_TEXTS = 512  # what a kill can lose
GROUP_CHARACTERS = 64_000_000
MERGED_ROWS = 65_536
MERGE_EVERY = 32  # groups
SAMPLE_TEXTS = 32
SAME_MODEL = 0.999  # cosine; servers that batch in half precision repeat themselves to about 0.9999
_ABANDONED_SECONDS = 3600


@dataclass(frozen=True)
class Plan:
    """What a fill has before it.

    Attributes:
        texts: texts asked for.
        unique: distinct targets among them.
        missing: targets that the teacher has yet to make.
        bytes: what storing them will take.
        seconds: estimated teacher time; None until a sample was timed.
    """

    texts: int
    unique: int
    missing: int
    bytes: int
    seconds: float | None = None

    def __str__(self) -> str:
        if not self.missing:
            return f"all {self.unique:,} targets are cached"
        line = f"{self.missing:,} of {self.unique:,} targets missing, {self.bytes / 1e6:,.1f} MB to store"
        return line if self.seconds is None else f"{line}, about {duration(self.seconds)}"


@dataclass(frozen=True)
class Progress:
    """The state of a fill, handed to `on_progress` after each batch group.

    Attributes:
        done: texts accounted for so far, hits and repeats included.
        total: texts in all; None while a stream has not ended.
        encoded: targets made by the teacher in this run.
        encoded_total: targets this run has to make; None for a stream.
        bytes: of targets that were stored in this run.
        texts_per_second: speed of the teacher in this run.
        seconds_left: estimate; None for a stream.
    """

    done: int
    total: int | None
    encoded: int
    encoded_total: int | None
    bytes: int
    texts_per_second: float
    seconds_left: float | None

    @property
    def hits(self) -> int:
        """Texts that needed no teacher: cached before, or repeated."""
        return self.done - self.encoded


class TargetCache:
    """The target embeddings of one teacher, in a folder of their own below `root`.

    The folder's name and `identity.json` state the teacher's identity; a target's key is a hash of
    role, prompt and exact text. Vectors are stored in shards (see `workbench._shards`); several
    processes may read and fill one cache at the same time.

    Args:
        root: folder of all caches.
        teacher: whose targets these are, or what `Teacher` makes one of. Nothing in it is changed.
        dtype: "float16" or "float32", how vectors are stored; part of the identity.

    Raises:
        CacheError: the folder belongs to another teacher, or cannot be used.
    """

    def __init__(self, root: str | Path, teacher: Teacher, *, dtype: str = "float16") -> None:
        if dtype not in ("float16", "float32"):
            raise CacheError(f"dtype {dtype!r}: targets are stored as float16 or float32")
        self.teacher = teacher = Teacher(teacher)
        self.dtype = np.dtype(dtype)
        self.dimension = teacher.dimension
        self.prompts = dict(teacher.prompts)
        self.identity = self._identity()
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        name = self.identity["teacher"].rstrip("/").rpartition("/")[2]
        self.folder = Path(root).expanduser() / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}-{digest[:16]}"
        self.damaged: list[str] = []
        self._shards: dict[str, Shard] = {}
        self._lock = threading.RLock()
        self._open()

    def _identity(self) -> dict[str, object]:
        return json.loads(json.dumps({**self.teacher.identity, "stored_as": self.dtype.name}))

    def keys(self, texts: Iterable[Text]) -> np.ndarray:
        """Return the key of each text's target, S16 of shape (n,)."""
        return np.fromiter(map(self._key, texts), dtype=_shards.KEY)

    def _key(self, text: Text) -> bytes:
        parts = (text.role.value, self.prompts[text.role], text.text)
        # Lengths in front keep ("ab", "c") and ("a", "bc") apart.
        message = b"".join(len(b := part.encode()).to_bytes(8, "little") + b for part in parts)
        return hashlib.sha256(message).digest()[: _shards.KEY.itemsize]

    def __len__(self) -> int:
        """Return how many targets are stored (twice stored, twice counted)."""
        self._refresh()
        return sum(len(shard) for shard in self._shards.values())

    def plan(self, texts: Sequence[Text]) -> Plan:
        """Say what filling these texts would take; nothing is encoded."""
        unique, todo = self._todo(texts)
        return Plan(len(texts), unique, len(todo), len(todo) * self._row_bytes)

    def missing(self, texts: Sequence[Text]) -> list[Text]:
        """Return the texts whose targets the teacher has yet to make, each once."""
        return [texts[i] for i in np.sort(self._todo(texts)[1])]

    def fill(
        self,
        texts: Iterable[Text],
        *,
        on_plan: Callable[[Plan], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        stop: threading.Event | None = None,
        merge: bool = True,
    ) -> Progress:
        """Encode and store every target that is missing, group after group.

        A list is planned before it is encoded; any other iterable streams through in groups, so
        that memory does not grow with its length. Each finished group is durable: a kill loses the
        group in flight, and the next call goes on from there.

        Args:
            texts: any number of texts, repeats welcome. Processes that fill the same list at the same time share
                the work; of the same stream, they do it twice.
            on_plan: called once before the long part, for a list only.
            on_progress: called after each group.
            stop: when set, the fill ends after the group in flight.
            merge: join small shards now and then; of many processes, let one do it.

        Returns:
            The last progress.

        Raises:
            CacheError: a folder that cannot be written to, too little room, or another model behind the teacher's name.
            TeacherError: the teacher returned NaN, infinite values, a wrong width or a wrong count;
                the good vectors of the group are stored first.
        """
        if self._identity() != self.identity or self.teacher.prompts != self.prompts:
            raise CacheError(
                "the teacher's identity or prompts have changed since this cache was opened: open it again"
            )
        state = _Filling(on_progress, stop, self.teacher.concurrency)
        if isinstance(texts, Sequence):
            texts = self._planned(texts, state, on_plan)
        else:
            self._check_unchanged(state)
        for number, _ in enumerate(self._fill_groups(texts, state), start=1):
            if merge and number % MERGE_EVERY == 0:
                self.merge()
        if merge and state.encoded:
            self.merge()
        if state.failed:
            text, why = state.failed[0]
            count = "1 text" if len(state.failed) == 1 else f"{len(state.failed):,} texts"
            raise TeacherError(
                f"{count} got no target, first {text.text[:60]!r}: {why}. All others are stored; the "
                "same call asks again for these alone."
            )
        return state.report()

    def targets(self, texts: Iterable[Text]) -> Targets:
        """Return the targets of these texts as a memory-mapped array, each shard's checksum verified.

        Raises:
            CacheError: some are missing; the message says how many and names the first.
        """
        texts = texts if isinstance(texts, Sequence) else list(texts)
        with self._lock:
            where, rows = self._locate(self.keys(texts))
            opened = list(self._shards.values())
        if (missing := np.flatnonzero(where < 0)).size:
            first = texts[missing[0]]
            raise CacheError(
                f"{missing.size:,} of {len(texts):,} targets are not in {self.folder.name}, first the "
                f"{first.role} {first.text[:60]!r}: run fill() on these texts"
            )
        used = np.unique(where)
        return Targets([opened[i].vectors for i in used], np.searchsorted(used, where), rows, self.dimension)

    def verify(self) -> list[str]:
        """Check every shard against its checksum; set damaged ones aside and return their names."""
        before = len(self.damaged)
        self._refresh()
        for shard in list(self._shards.values()):
            self._verified(shard)
        return self.damaged[before:]

    def check_writable(self) -> None:
        """Make the folder, try it with a few bytes, and state whose it is.

        Raises:
            CacheError: it cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(".writing-*"):  # of a process that was killed
                with contextlib.suppress(FileNotFoundError):  # of another that has just finished
                    if time.time() - leftover.stat().st_mtime > _ABANDONED_SECONDS:
                        leftover.unlink()
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".writing-") as file:
                file.write(b"\0" * 4096)
            if not (statement := self.folder / "identity.json").exists():
                with tempfile.NamedTemporaryFile("w", dir=self.folder, prefix=".writing-", delete=False) as file:
                    json.dump(self.identity, file, indent=1)
                os.replace(file.name, statement)
        except OSError as error:
            raise CacheError(
                f"the cache folder {self.folder} cannot be written to: {error.strerror or error}"
            ) from None

    def merge(self) -> None:
        """Join small shards into large ones, so that opening and reading stay quick.

        Safe beside other processes: the joined shard is durable before the small ones go, and a
        target that two shards hold is the same vector twice.
        """
        self._refresh()
        while True:
            small = [s for s in self._shards.values() if len(s) < MERGED_ROWS // 2]
            small = [s for s in small if self._verified(s)]
            chosen, rows = [], 0
            for shard in small:
                if rows + len(shard) > MERGED_ROWS:
                    break
                chosen.append(shard)
                rows += len(shard)
            if len(chosen) < 2:
                return
            keys = np.concatenate([s.keys for s in chosen])
            _, first = np.unique(keys, return_index=True)
            try:
                merged = _shards.write(self.folder, keys[first], np.concatenate([s.vectors for s in chosen])[first])
            except CacheError:
                return  # no room for a second copy; small shards serve as well, only slower
            for shard in chosen:
                if shard.path != merged:
                    shard.path.unlink(missing_ok=True)
            self._refresh()

    # --- filling ---

    @property
    def _one_at_a_time(self) -> bool:
        return self.teacher.concurrency == 1 and self.teacher.batch_size is None

    @property
    def _row_bytes(self) -> int:
        return self.dimension * self.dtype.itemsize + _shards.KEY.itemsize

    def _todo(self, texts: Sequence[Text]) -> tuple[int, np.ndarray]:
        """Return how many distinct targets texts have, and where each missing one first occurs, int of shape (m,).

        In the order of keys: lengths and roles are mixed, so that rates are true.
        """
        unique, first = np.unique(self.keys(texts), return_index=True)
        return len(unique), first[~self._known(unique)]

    def _planned(
        self, texts: Sequence[Text], state: _Filling, on_plan: Callable[[Plan], None] | None
    ) -> Iterator[Text]:
        unique, todo = self._todo(texts)
        state.total, state.encoded_total = len(texts), len(todo)
        plan = Plan(len(texts), unique, len(todo), len(todo) * self._row_bytes)
        if len(todo):
            self.check_writable()
            state.writable = True
            self._check_unchanged(state)
        if len(todo) and plan.bytes > (free := shutil.disk_usage(self.folder).free):
            raise CacheError(
                f"{self.folder} has {free / 1e6:,.0f} MB free, the {len(todo):,} missing targets take "
                f"{plan.bytes / 1e6:,.0f} MB: make room, or choose another folder"
            )
        state.done = len(texts) - len(todo)
        if len(todo) > 4 * SAMPLE_TEXTS:
            # Texts of every length, which are stored like any other. A local model's first few are slow.
            some = todo[:10_000]  # in the order of keys, so any of them are like all of them
            by_length = some[np.argsort([len(texts[i].text) for i in some], kind="stable")]
            sample = by_length[np.linspace(0, len(some) - 1, SAMPLE_TEXTS).astype(int)]
            sample = np.roll(sample, SAMPLE_TEXTS // 2)  # its first texts are of middling length
            timed = sample
            if self._one_at_a_time:
                self._fill_group([texts[i] for i in sample[:4]], state)
                timed = sample[4:]
            started = time.perf_counter()
            self._fill_group([texts[i] for i in timed], state)
            seconds = (time.perf_counter() - started) * (len(todo) - SAMPLE_TEXTS) / len(timed) / state.at_once
            plan = Plan(plan.texts, plan.unique, plan.missing, plan.bytes, seconds)
            todo = todo[~np.isin(todo, sample)]
        if on_plan:
            on_plan(plan)
        # Each process begins elsewhere, so that two that fill one list share the work rather than repeat it.
        todo = np.roll(todo, -secrets.randbelow(len(todo) + 1))
        return (texts[i] for i in todo)

    def _check_unchanged(self, state: _Filling) -> None:
        """See that the teacher gives its probe the vector that it gave at first; at first, store it."""
        if state.stopped() or (probe := self.teacher.probe(stop=state.stop)) is None:
            return
        text, vector = probe
        keys = self.keys([text])
        if not self._known(keys)[0]:
            self.check_writable()
            _shards.write(self.folder, keys, vector[None].astype(self.dtype))
            return
        before = self.targets([text])[0]
        cosine = float(before @ vector / (np.linalg.norm(before) * np.linalg.norm(vector)))
        if cosine < SAME_MODEL:
            raise CacheError(
                f"another model answers to the name {self.identity['teacher']!r} than when {self.folder.name} was begun: "
                f"the same text has another vector (cosine {cosine:.3f}). Its targets would not fit the old ones: give "
                "the teacher another name (`name`, --name) to begin another cache, or ask for the model of before."
            )

    def _fill_groups(self, texts: Iterable[Text], state: _Filling) -> Iterator[None]:
        """Fill group after group, or as many at once as the teacher can take, and yield after each."""
        if self._one_at_a_time:
            for group in _groups(texts):
                if state.stopped():
                    return
                yield self._fill_group(group, state)
            return
        with ThreadPoolExecutor(state.at_once) as pool:  # whatever ends this, what is in flight is stored
            running: set[Future] = set()
            for group in _groups_by_role(texts, self.teacher.batch_size or GROUP_TEXTS):
                if state.stopped():
                    break
                running.add(pool.submit(self._fill_group, group, state))
                if len(running) == state.at_once:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            yield from (future.result() for future in as_completed(running))

    def _fill_group(self, group: list[Text], state: _Filling) -> None:
        keys = self.keys(group)
        unique, first = np.unique(keys, return_index=True)
        mine = state.claim(unique.tolist())
        try:
            self._fill_claimed(group, keys, first[mine & ~self._known(unique)], state)
        finally:
            state.release(unique[mine].tolist())

    def _fill_claimed(self, group: list[Text], keys: np.ndarray, todo: np.ndarray, state: _Filling) -> None:
        if todo.size and not state.writable:
            self.check_writable()
            state.writable = True
        started = time.perf_counter()
        kept_keys, kept_vectors, problems, over = [], [], [], None
        for role in Role:
            rows = [i for i in todo if group[i].role is role]
            if not rows:
                continue
            try:
                vectors = np.asarray(self.teacher.encode([group[i].text for i in rows], role, stop=state.stop))
            except IncompleteError as error:
                given = np.isfinite(error.vectors).all(axis=1)
                state.failed += [(group[rows[i]], why) for i, why in error.failed.items()]
                vectors, rows = error.vectors[given], [row for row, has in zip(rows, given, strict=True) if has]
                over = error if error.final else None
            if vectors.shape != (len(rows), self.dimension):
                raise TeacherError(
                    f"the teacher returned an array of shape {vectors.shape} for {len(rows)} texts; "
                    f"({len(rows)}, {self.dimension}) was expected. Nothing of this group was stored."
                )
            with np.errstate(over="ignore"):
                stored = vectors.astype(self.dtype)
            good = np.isfinite(stored).all(axis=1)
            if not good.all():
                bad = rows[int(np.argmin(good))]
                cause = "beyond the range of float16; open the cache with dtype='float32'"
                cause = cause if np.isfinite(vectors).all() else "NaN or infinite"
                problems.append(f"{int((~good).sum())} {role} vectors are {cause} (first: {group[bad].text[:60]!r})")
            kept_keys.append(keys[rows][good])
            kept_vectors.append(stored[good])
        if made := sum(map(len, kept_keys)):
            _shards.write(self.folder, np.concatenate(kept_keys), np.concatenate(kept_vectors))
        if problems:
            raise TeacherError("; ".join(problems) + ". The other vectors of the group were stored.")
        # Not the file's size: another process may have merged it away by now.
        state.add(len(group) - (todo.size - made), made, made * self._row_bytes, time.perf_counter() - started)
        if over and not state.stopped():
            raise TeacherError(f"{over}. What was made before is stored, and the same call goes on from there.")

    # --- reading ---

    def _open(self) -> None:
        statement = self.folder / "identity.json"
        if statement.is_file():
            try:
                stated = json.loads(statement.read_text())
                if not isinstance(stated, dict) or "teacher" not in stated:
                    raise ValueError("it states no teacher")
            except (OSError, ValueError) as error:
                warnings.warn(f"{statement} was unreadable ({error}) and is written anew", stacklevel=3)
                with contextlib.suppress(OSError):
                    statement.unlink(missing_ok=True)
            else:
                if stated != self.identity:
                    raise CacheError(f"{statement} states another teacher than the folder's name: move the folder away")
        self._refresh()

    def _refresh(self) -> None:
        with self._lock:
            present = {path.name: path for path in _shards.listing(self.folder)} if self.folder.is_dir() else {}
            self._shards = {name: shard for name, shard in self._shards.items() if name in present}
            for name, path in present.items():
                if name not in self._shards:
                    try:
                        shard = Shard(path)
                        if shard.vectors.shape[1:] != (self.dimension,) or shard.vectors.dtype != self.dtype:
                            raise DamagedShard(f"{name}: its vectors are not {self.dimension} wide {self.dtype}")
                        self._shards[name] = shard
                    except DamagedShard as damage:
                        self._set_aside(path, damage)
                    except FileNotFoundError:
                        continue
                    except OSError as error:  # too many open files, no right to read
                        raise CacheError(f"{path} cannot be opened: {error.strerror or error}") from None

    def _verified(self, shard: Shard) -> bool:
        try:
            shard.verify()
        except DamagedShard as damage:
            self._set_aside(shard.path, damage)
            return False
        return True

    def _set_aside(self, path: Path, damage: DamagedShard) -> None:
        with self._lock:
            self._shards.pop(path.name, None)
            self.damaged.append(path.name)
        warnings.warn(f"damaged shard in {self.folder}: {damage}. Its texts will be encoded again.", stacklevel=3)
        with contextlib.suppress(OSError):  # a read-only cache: it stays out of use all the same
            path.replace(path.with_suffix(".damaged"))

    def _locate(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return shard number (-1: missing) and row of each key; only verified shards count."""
        wanted, place = np.unique(keys, return_inverse=True)
        with self._lock:
            while True:
                self._refresh()
                where, rows = np.full(len(wanted), -1, dtype=np.int32), np.full(len(wanted), -1)
                left = len(wanted)
                for number, shard in enumerate(self._shards.values()):
                    if not left:
                        break
                    hits, at = shard.find(wanted)
                    new = where[hits] < 0  # two shards may hold one target
                    if new.any():
                        if not self._verified(shard):
                            break  # out of use from now on, so the numbers have changed
                        where[hits[new]], rows[hits[new]] = number, at[new]
                        left -= int(new.sum())
                else:
                    return where[place], rows[place]
                if not left:
                    return where[place], rows[place]

    def _known(self, keys: np.ndarray) -> np.ndarray:
        return self._locate(keys)[0] >= 0


class Targets:
    """Cached targets of a list of texts, read from disk as they are asked for.

    `targets[i]` and `targets[array_of_indices]` give float32 arrays; `len` and `shape` are those of
    the whole. Nothing but row numbers (12 bytes a text) is held in memory.
    """

    def __init__(self, blocks: list[np.ndarray], block_of: np.ndarray, row_of: np.ndarray, dimension: int) -> None:
        self._blocks = blocks
        self._rotation: np.ndarray | None = None
        self._block_of = block_of.astype(np.int32)
        self._row_of = row_of.astype(np.int64)
        self.shape = (len(row_of), dimension)

    def __len__(self) -> int:
        return self.shape[0]

    def rotated(self, rotation: np.ndarray) -> Targets:
        """Return the same targets, rotated as they are read: distances stay, and truncation may become good.

        Args:
            rotation: float of shape (d, d), as `quantize.principal_rotation` returns it.

        Raises:
            WorkbenchError: it is of another width or no rotation.
        """
        rotated = copy.copy(self)
        rotation = orthogonal(rotation, self.shape[1])
        rotated._rotation = rotation if self._rotation is None else self._rotation @ rotation
        return rotated

    def __getitem__(self, index: int | slice | np.ndarray | Sequence[int]) -> np.ndarray:
        """Return float32 of shape (d,) for one index, (n, d) for several."""
        vectors = self._read(self._block_of[index], self._row_of[index])
        return vectors if self._rotation is None else vectors @ self._rotation

    def _read(self, block_of: np.ndarray, row_of: np.ndarray) -> np.ndarray:
        if np.ndim(row_of) == 0:
            return self._blocks[block_of][row_of].astype(np.float32)
        if len(self._blocks) == 1:
            return self._blocks[0][row_of].astype(np.float32)
        vectors = np.empty((len(row_of), self.shape[1]), dtype=np.float32)
        # Row by row: a batch meets most of its shards once, and grouping by shard costs more than it saves.
        for i, (block, row) in enumerate(zip(block_of.tolist(), row_of.tolist(), strict=True)):
            vectors[i] = self._blocks[block][row]
        return vectors

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """Read all of it into memory."""
        return self[:].astype(dtype or np.float32, copy=False)


class _Filling:
    """Counts a fill and reports it."""

    def __init__(
        self, on_progress: Callable[[Progress], None] | None, stop: threading.Event | None, at_once: int
    ) -> None:
        self.done = self.encoded = self.bytes = 0
        self.seconds = 0.0
        self.writable = False  # checked before the first thing that has to be stored
        self.total: int | None = None
        self.encoded_total: int | None = None
        self.failed: list[tuple[Text, str]] = []  # and why
        self.stop = stop if stop is not None else threading.Event()
        self.stopped = self.stop.is_set
        self.at_once = at_once
        self._on_progress, self._lock = on_progress, threading.Lock()
        self._claimed: set[bytes] = set()

    def claim(self, keys: list[bytes]) -> np.ndarray:
        """Say which targets no other thread is making now, bool of shape (n,), and keep them from the others."""
        if self.at_once == 1:
            return np.ones(len(keys), dtype=bool)
        with self._lock:
            mine = np.array([key not in self._claimed for key in keys], dtype=bool)
            self._claimed.update(keys)
        return mine

    def release(self, keys: list[bytes]) -> None:
        with self._lock:
            self._claimed.difference_update(keys)

    def add(self, done: int, encoded: int, written: int, seconds: float) -> None:
        with self._lock:
            self.done += done
            self.encoded += encoded
            self.bytes += written
            self.seconds += seconds / self.at_once if encoded else 0
            if self._on_progress:
                self._on_progress(self.report())

    def report(self) -> Progress:
        speed = self.encoded / self.seconds if self.seconds else 0.0
        left = None
        if self.total is not None and (speed or self.done >= self.total):
            left = (self.total - self.done) / speed if speed else 0.0
        return Progress(self.done, self.total, self.encoded, self.encoded_total, self.bytes, speed, left)


def _groups(texts: Iterable[Text]) -> Iterator[list[Text]]:
    stream = iter(texts)
    while group := list(islice(stream, 1)):
        characters = len(group[0].text)
        while len(group) < GROUP_TEXTS and characters < GROUP_CHARACTERS and (more := next(stream, None)):
            group.append(more)
            characters += len(more.text)
        yield group


def _groups_by_role(texts: Iterable[Text], size: int) -> Iterator[list[Text]]:
    """Make groups that are one request each."""
    open_groups: dict[Role, list[Text]] = {role: [] for role in Role}
    for text in texts:
        open_groups[text.role].append(text)
        if len(open_groups[text.role]) == size:
            yield open_groups[text.role]
            open_groups[text.role] = []
    yield from (group for group in open_groups.values() if group)


def duration(seconds: float) -> str:
    """Write seconds as a person would: 40 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
