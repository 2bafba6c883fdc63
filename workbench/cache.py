"""Target embeddings on disk: durable, resumable, never mixed up."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence, Sized
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from workbench import _shards
from workbench._fill import Fill, Plan, Progress
from workbench._shards import DamagedShard, Shard
from workbench._stored import StoredTexts
from workbench._util import expanded, orthogonal, remove_leftovers, write_whole
from workbench.data import Text, as_texts
from workbench.errors import CacheError, TeacherError, WorkbenchError
from workbench.teachers import Teacher

MERGED_ROWS = 65_536


class TargetCache:
    """The target embeddings of one teacher, in a folder of their own below `root`.

    The folder's name and `identity.json` state the teacher's identity; a target's key is a hash of
    role, prompt and exact text. Vectors are stored in shards (see `workbench._shards`); several
    processes may read and fill one cache at the same time.

    Args:
        root: folder of all caches.
        teacher: whose targets these are, or what `Teacher` makes one of. Nothing in it is changed.
        dtype: "float16" or "float32", how vectors are stored; part of the identity.
        skip: share of the texts of a `fill` that may get no target, such as an empty text that an API refuses. `fill` warns
            and names them, and goes on without them; with more, it raises TeacherError in the end.

    Raises:
        CacheError: the folder belongs to another teacher, or cannot be used.

    Example:
        >>> import tempfile
        >>> import workbench as wb
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
        if not isinstance(skip, int | float) or not 0 <= skip <= 1:
            raise CacheError(
                f"skip is {skip!r}: expected the share of texts that may get no target, from 0 to 1"
            )
        self.skip = skip
        root = expanded(root)
        if file := next((path for path in (root, *root.parents) if path.is_file()), None):
            raise CacheError(f"no cache can be kept in {root}: {file} is a file; name a folder")
        self.teacher = teacher = Teacher(teacher)
        self.dtype = np.dtype(dtype)
        self.dimension = teacher.dimension
        self.prompts = dict(teacher.prompts)
        self.identity = self._stated_identity()
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        name = self.identity["teacher"].rstrip("/").rpartition("/")[2]
        self.folder = root / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}-{digest[:16]}"
        self.damaged: list[str] = []
        self._in_the_way: set[str] = set()  # damaged, and could not be renamed
        # Shards of a teacher whose model may be exchanged, made since it was last compared; None before the first time.
        self.unchecked: dict[Path, int] | None = None
        self._shards: dict[str, Shard] = {}
        self._lock = threading.RLock()
        self._open()

    def _stated_identity(self) -> dict[str, object]:
        return json.loads(json.dumps({**self.teacher.identity, "stored_as": self.dtype.name}))

    def keys(self, texts: Iterable[str | Text]) -> np.ndarray:
        """Return the key of each text's target, S16 of shape (n,).

        Hashing many texts takes time: `plan`, `missing`, `fill` and `targets` take keys that exist already.
        """
        return np.fromiter(map(self._key, _listed(texts)), dtype=_shards.KEY)

    def _key(self, text: Text) -> bytes:
        parts = (text.role.value, self.prompts[text.role], text.text)
        # Lengths in front keep ("ab", "c") and ("a", "bc") apart.
        message = b"".join(len(b := part.encode()).to_bytes(8, "little") + b for part in parts)
        return hashlib.sha256(message).digest()[: _shards.KEY.itemsize]

    def _given(
        self, texts: Iterable[str | Text], keys: np.ndarray | None
    ) -> tuple[Sequence[Text], np.ndarray]:
        texts = _listed(texts)
        keys = self.keys(texts) if keys is None else np.asarray(keys)
        if keys.dtype != _shards.KEY or keys.shape != (len(texts),):
            raise CacheError(
                f"got {keys.shape} keys for {len(texts):,} texts: give what `keys(texts)` returned"
            )
        return texts, keys

    def __len__(self) -> int:
        """Return how many targets are stored (twice stored, twice counted)."""
        self._refresh()
        return sum(len(shard) for shard in self._shards.values())

    @property
    def row_bytes(self) -> int:
        """Bytes that one target and its key take on disk."""
        return self.dimension * self.dtype.itemsize + _shards.KEY.itemsize

    def plan(self, texts: Iterable[str | Text], *, keys: np.ndarray | None = None) -> Plan:
        """Say what filling these texts would take; nothing is encoded."""
        return self.planned(self._given(texts, keys)[1])[0]

    def missing(self, texts: Iterable[str | Text], *, keys: np.ndarray | None = None) -> list[Text]:
        """Return the texts whose targets the teacher has yet to make, each once."""
        texts, keys = self._given(texts, keys)
        return [texts[i] for i in np.sort(self.planned(keys)[1])]

    def planned(self, keys: np.ndarray) -> tuple[Plan, np.ndarray]:
        """Return the plan, and where each missing key first occurs, int of shape (m,).

        Sorted by hash, so any part of them is an unbiased sample of lengths and roles.
        """
        unique, first = np.unique(keys, return_index=True)
        todo = first[~self.known(unique)]
        return Plan(len(keys), len(unique), len(todo), len(todo) * self.row_bytes), todo

    def fill(
        self,
        texts: Iterable[str | Text],
        *,
        keys: np.ndarray | None = None,
        on_plan: Callable[[Plan], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        stop: threading.Event | None = None,
        merge: bool = True,
        skip: float | None = None,
    ) -> Progress:
        """Encode and store every target that is missing, group after group; each text is encoded once.

        What has a length is planned first. An iterator streams through in groups, so memory does not grow with its
        length. A finished group is durable: a kill loses the group in flight, and the next call goes on from there.

        Args:
            texts: also repeated. Processes that fill the same list at the same time share the work; of the same
                stream, they do it twice.
            keys: what `keys(texts)` returned, if it was called before.
            on_plan: called once before the long part, not for a stream.
            on_progress: called after each group.
            stop: when set, the fill ends after the group in flight.
            merge: join small shards now and then; of many processes, let one do it.
            skip: in the place of the cache's own, where the texts are only a part of what it is a share of.

        Raises:
            CacheError: a folder that cannot be written to, too little room, or another model behind the teacher's name.
            DataError: something that is not texts.
            TeacherError: the teacher returned a wrong width or a wrong count, or it made no target, NaN or infinite values
                for more texts than `skip` allows; what is good is stored first.
        """
        if self._stated_identity() != self.identity or self.teacher.prompts != self.prompts:
            raise CacheError(
                "the teacher's identity or prompts have changed since this cache was opened: reopen it"
            )
        fill = Fill(self, on_progress, stop, self.skip if skip is None else skip)
        if isinstance(texts, Iterable) and not isinstance(texts, Sized):
            fill.check_unchanged()
            stream = (text if isinstance(text, Text) else as_texts([text])[0] for text in texts)
            return fill.run(((text, self._key(text)) for text in stream), merge)
        return fill.run(fill.listed(*self._given(texts, keys), on_plan), merge)

    def embed(
        self,
        texts: Iterable[str | Text],
        *,
        progress: bool = False,
        stop: threading.Event | None = None,
        what: str = "teacher",
        skip: float | None = None,
    ) -> Targets:
        """Make the targets that are missing and return all of them, with their texts and keys.

        Args:
            texts: a list of texts, or `StoredTexts`; each is hashed once.
            progress: show a bar, and what an API will cost and has cost.
            stop: when set, this ends after the group in flight, without the targets that are still missing.
            what: name of the bar.
            skip: as for `fill`.

        Raises:
            CacheError, TeacherError: as from `fill`; several processes would each pay an API.
        """
        texts = _listed(texts)
        keys, teacher = self.keys(texts), self.teacher
        if teacher.usage is not None:
            missing = [texts[i] for i in self.planned(keys)[1]]
            if missing and int(os.environ.get("WORLD_SIZE", "1")) > 1:
                raise TeacherError(
                    "each process would ask the API by itself: run workbench cache with these "
                    "texts first, in one process"
                )
            if progress:
                print(teacher.estimate(missing), file=sys.stderr)
        try:
            with FillBar(what) if progress else contextlib.nullcontext() as bar:
                reports = {"on_plan": bar.plan, "on_progress": bar.progress} if bar else {}
                self.fill(texts, keys=keys, stop=stop, skip=skip, **reports)
        finally:
            if progress and teacher.usage is not None:
                print(teacher.usage, file=sys.stderr)
        has_target = self.known(keys)
        if not has_target.all():
            rows = np.flatnonzero(has_target)
            texts, keys = _subset(texts, rows), keys[rows]
        return self.targets(texts, keys=keys)

    def targets(self, texts: Iterable[str | Text], *, keys: np.ndarray | None = None) -> Targets:
        """Return the targets of these texts, memory-mapped and verified; CacheError names the first missing one."""
        texts, keys = self._given(texts, keys)
        with self._lock:
            where, rows = self._locate(keys)
            opened = list(self._shards.values())
        if (missing := np.flatnonzero(where < 0)).size:
            first = texts[missing[0]]
            raise CacheError(
                f"{missing.size:,} of {len(texts):,} targets are not in {self.folder.name}, first the "
                f"{first.role} {first.text[:60]!r}: run fill() on these texts; leave out those that it skips, which missing() "
                "returns"
            )
        used = np.unique(where)
        blocks = [opened[i].vectors for i in used]
        return Targets(texts, keys, blocks, np.searchsorted(used, where), rows, self.dimension)

    def verify(self) -> list[str]:
        """Check every shard against its checksum; set damaged ones aside and return their names."""
        before = len(self.damaged)
        self._refresh()
        for shard in list(self._shards.values()):
            self._verified(shard)
        return self.damaged[before:]

    def check_writable(self) -> None:
        """Make the folder and `identity.json`, and write a few bytes; CacheError if it cannot be written to."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder)
            write_whole(self.folder / ".writable", b"\0" * 4096).unlink(missing_ok=True)
            if not (stated := self.folder / "identity.json").exists():
                write_whole(stated, json.dumps(self.identity, indent=1).encode())
        except (OSError, WorkbenchError) as error:
            why = getattr(error, "strerror", None) or error
            raise CacheError(
                f"the cache folder {self.folder} cannot be written to: {why}"
            ) from None

    def merge(self) -> None:
        """Join small shards into large ones, so that opening and reading stay quick.

        Safe beside other processes: the joined shard is durable before the small ones go, and a target that two shards
        hold is the same vector twice.
        """
        self._refresh()
        while True:
            known = [s for s in list(self._shards.values()) if s.path not in (self.unchecked or ())]
            small = [s for s in known if len(s) < MERGED_ROWS // 2 and self._verified(s)]
            rows = np.cumsum([len(s) for s in small])
            chosen = small[: np.searchsorted(rows, MERGED_ROWS, side="right")]
            if len(chosen) < 2:
                return
            keys = np.concatenate([s.keys for s in chosen])
            _, first = np.unique(keys, return_index=True)
            try:
                merged = _shards.write(
                    self.folder, keys[first], np.concatenate([s.vectors for s in chosen])[first]
                )
            except CacheError:
                return  # no room for a second copy; small shards serve as well, only slower
            for shard in chosen:
                if shard.path != merged:
                    shard.path.unlink(missing_ok=True)
            self._refresh()

    def _open(self) -> None:
        path = self.folder / "identity.json"
        if path.is_file():
            try:
                stated = json.loads(path.read_text())
                if not isinstance(stated, dict) or "teacher" not in stated:
                    raise ValueError("it names no teacher")
            except (OSError, ValueError) as error:
                warnings.warn(
                    f"{path} could not be read ({error}) and is written anew", stacklevel=3
                )
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
                stated = self.identity
            if stated != self.identity:
                raise CacheError(
                    f"{path} names another teacher than the folder's name: move the folder away"
                )
        self._refresh()

    def _refresh(self) -> None:
        with self._lock:
            present = (
                {path.name: path for path in _shards.listing(self.folder)}
                if self.folder.is_dir()
                else {}
            )
            self._shards = {name: shard for name, shard in self._shards.items() if name in present}
            for name, path in present.items():
                if name not in self._shards and name not in self._in_the_way:
                    try:
                        shard = Shard(path)
                        if (
                            shard.vectors.shape[1:] != (self.dimension,)
                            or shard.vectors.dtype != self.dtype
                        ):
                            raise DamagedShard(
                                f"{name}: its vectors are not {self.dimension} wide {self.dtype}"
                            )
                        self._shards[name] = shard
                    except DamagedShard as damage:
                        self._set_aside(path, damage)
                    except FileNotFoundError:
                        continue
                    except OSError as error:  # too many open files, no right to read
                        raise CacheError(
                            f"{path} cannot be opened: {error.strerror or error}"
                        ) from None

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
        warnings.warn(
            f"damaged shard in {self.folder}: {damage}. Its texts will be encoded again.",
            stacklevel=3,
        )
        try:
            path.replace(path.with_suffix(".damaged"))
        except OSError:  # a read-only cache
            if path.exists():
                self._in_the_way.add(path.name)

    def _locate(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return shard number (-1: missing) and row of each key; only verified shards count."""
        wanted, place = np.unique(keys, return_inverse=True)
        with self._lock:
            intact = False
            while not intact:
                self._refresh()
                where, rows = np.full(len(wanted), -1, dtype=np.int32), np.full(len(wanted), -1)
                left, intact = len(wanted), True
                for number, shard in enumerate(self._shards.values()):
                    hits, at = shard.find(wanted)
                    new = where[hits] < 0  # two shards may hold one target
                    if new.any() and not (intact := self._verified(shard)):
                        break  # out of use from now on, so the numbers have changed
                    where[hits[new]], rows[hits[new]] = number, at[new]
                    if not (left := left - int(new.sum())):
                        break
            return where[place], rows[place]

    def known(self, keys: np.ndarray) -> np.ndarray:
        """Return which targets are stored, bool of shape (n,)."""
        return self._locate(keys)[0] >= 0


def _listed(texts: Iterable[str | Text]) -> Sequence[Text]:
    return as_texts(texts) if not isinstance(texts, list | tuple) or texts else []


def _subset(texts: Sequence[Text], rows: np.ndarray) -> Sequence[Text]:
    return texts.subset(rows) if isinstance(texts, StoredTexts) else [texts[i] for i in rows]


class FillBar:
    """Shows a fill: give `bar.plan` as `on_plan` and `bar.progress` as `on_progress`."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._bar: tqdm | None = None

    def __enter__(self) -> FillBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def plan(self, plan: Plan) -> None:
        """Print what the fill has to do."""
        tqdm.write(f"{self.what}: {plan}")

    def progress(self, progress: Progress) -> None:
        """Advance the bar, which counts what the teacher encodes, so that the time left is right."""
        if self._bar is None:
            total = progress.encoded_total
            self._bar = tqdm(total=total, desc=self.what, unit=" texts", mininterval=0.5)
        self._bar.update(progress.encoded - self._bar.n)
        failed = f", {progress.failed:,} without a target" if progress.failed else ""
        self._bar.set_postfix_str(f"{progress.bytes / 1e6:.1f} MB, {progress.hits:,} hits{failed}")


class Targets:
    """Cached targets of a list of texts, a float32 array of `shape` that is read from disk as it is indexed.

    Only row numbers (12 bytes a text) and keys (16) are held in memory.

    Attributes:
        texts: n texts, in order.
        keys: of the targets, S16 of shape (n,).
        shape: (n, dimension).
    """

    def __init__(
        self,
        texts: Sequence[Text],
        keys: np.ndarray,
        blocks: list[np.ndarray],
        block_of: np.ndarray,
        row_of: np.ndarray,
        dimension: int,
    ) -> None:
        self.texts, self.keys = texts, keys
        self._blocks = blocks
        self._rotation: np.ndarray | None = None
        self._block_of = block_of.astype(np.int32)
        self._row_of = row_of.astype(np.int64)
        self.shape = (len(row_of), dimension)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the keys, in order."""
        return hashlib.sha256(self.keys.tobytes()).hexdigest()

    def subset(self, rows: np.ndarray) -> Targets:
        """Return some of the targets with their texts, by row numbers, int of shape (m,)."""
        part = copy.copy(self)
        part.texts, part.keys = _subset(self.texts, rows), self.keys[rows]
        part._block_of, part._row_of = self._block_of[rows], self._row_of[rows]
        part.shape = (len(rows), self.shape[1])
        return part

    def split(self, most: int = 500, share: float = 1 / 20) -> tuple[Targets, Targets]:
        """Return a training part and a held-out part of at most `most` different texts.

        The hash of a text decides its part, so the order of the texts does not matter.
        """
        unique, first = np.unique(self.keys, return_index=True)
        held_out = max(1, min(most, int(len(unique) * share)))
        training = np.flatnonzero(self.keys > unique[held_out - 1])
        return self.subset(training), self.subset(first[:held_out])

    def __len__(self) -> int:
        return self.shape[0]

    def rotated(self, rotation: np.ndarray) -> Targets:
        """Return the same targets, rotated as they are read: distances stay, and truncation may become good.

        The rotation is an orthogonal matrix of shape (d, d), such as `quantize.principal_rotation` returns.
        """
        rotated, rotation = copy.copy(self), orthogonal(rotation, self.shape[1])
        rotated._rotation = rotation if self._rotation is None else self._rotation @ rotation
        return rotated

    def __getitem__(self, index: int | slice | np.ndarray | Sequence[int]) -> np.ndarray:
        """Return float32 of shape (d,) for one index, (n, d) for several."""
        blocks, rows = self._block_of[index], self._row_of[index]
        if np.ndim(rows) == 0 or len(self._blocks) == 1:
            vectors = self._blocks[blocks if np.ndim(rows) == 0 else 0][rows].astype(np.float32)
        else:
            vectors = np.empty((len(rows), self.shape[1]), dtype=np.float32)
            # Row by row: a batch meets most of its shards once, and grouping by shard costs more than it saves.
            for i, (block, row) in enumerate(zip(blocks.tolist(), rows.tolist(), strict=True)):
                vectors[i] = self._blocks[block][row]
        return vectors if self._rotation is None else vectors @ self._rotation

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """Read all of it into memory."""
        return self[:].astype(dtype or np.float32, copy=False)
