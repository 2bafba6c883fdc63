"""A folder of immutable files of vectors, each vector found by its key.

A shard is a safetensors file of two tensors, `keys` (uint8, n x 16, sorted) and `vectors` (n x d).
Its name is the checksum of its content, which shows whether a file was cut short or altered.
"""

import json
import threading
import warnings
from functools import cached_property
from pathlib import Path

import numpy as np
import xxhash
from safetensors.numpy import save

from workbench._util import write_whole
from workbench.errors import WorkbenchError

KEY = np.dtype("S16")
MERGED_ROWS = 65_536
_SUFFIX = ".safetensors"
_DTYPES = {"F16": np.float16, "F32": np.float32, "U8": np.uint8}


class DamagedShard(Exception):
    """A file whose content does not match its name, or cannot be read as a shard."""


class Shard:
    """A shard opened for reading, memory-mapped; it stays readable after its file is removed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # A plain array is quicker to index than a memmap.
            self._buffer = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
            size = int.from_bytes(self._buffer[:8].tobytes(), "little")
            header = json.loads(self._buffer[8 : 8 + size].tobytes())
            self.keys = self._tensor(header["keys"], 8 + size).reshape(-1).view(KEY)
            self.vectors = self._tensor(header["vectors"], 8 + size)
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedShard(str(error)) from None

    def __len__(self) -> int:
        return len(self.keys)

    def _tensor(self, entry: dict, start: int) -> np.ndarray:
        first, last = entry["data_offsets"]
        content = self._buffer[start + first : start + last]
        return content.view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])

    @cached_property
    def is_intact(self) -> bool:
        """Whether the file's name is the checksum of its content."""
        return xxhash.xxh3_128_hexdigest(self._buffer) == self.path.stem

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which of some sorted unique keys are here, and their rows, two int (hits,)."""
        # The shorter list is looked up in the longer one.
        is_shorter = len(keys) < len(self)
        short, long = (keys, self.keys) if is_shorter else (self.keys, keys)
        places = np.minimum(np.searchsorted(long, short), len(long) - 1)
        hits = np.flatnonzero(long[places] == short)
        return (hits, places[hits]) if is_shorter else (places[hits], hits)


class ShardFolder:
    """Vectors by key, in shards that several threads and processes may read, write and merge."""

    def __init__(self, folder: Path, dimension: int, dtype: np.dtype) -> None:
        self.folder, self.dimension, self.dtype = folder, dimension, dtype
        self.damaged: list[str] = []  # names of the shards that were set aside
        self._ignored: set[str] = set()  # damaged shards that could not be renamed
        self._shards: dict[str, Shard] = {}
        self._lock = threading.RLock()
        self._refresh()

    def __len__(self) -> int:
        """Return how many vectors are stored (twice stored, twice counted)."""
        self._refresh()
        return sum(len(shard) for shard in self._shards.values())

    @property
    def row_bytes(self) -> int:
        """Bytes of one vector and its key on disk."""
        return self.dimension * self.dtype.itemsize + KEY.itemsize

    def known(self, keys: np.ndarray) -> np.ndarray:
        """Return which keys have a vector, bool of shape (n,)."""
        return self.locate(keys)[1] >= 0

    def locate(self, keys: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Return the vectors of all intact shards, and shard (-1: missing) and row of each key."""
        unique, place = np.unique(keys, return_inverse=True)
        with self._lock:
            is_intact = False
            while not is_intact:  # a damaged shard is set aside, and the others are renumbered
                self._refresh()
                is_intact = True
                shard_of, row_of = np.full(len(unique), -1), np.full(len(unique), -1)
                for number, shard in enumerate(list(self._shards.values())):
                    hits, rows = shard.find(unique)
                    if len(hits):
                        shard_of[hits], row_of[hits] = number, rows
                        is_intact = is_intact and self._is_intact(shard)
            vectors = [shard.vectors for shard in self._shards.values()]
        return vectors, shard_of[place], row_of[place]

    def write(self, keys: np.ndarray, vectors: np.ndarray) -> Path:
        """Write one shard, of unique keys in any order; it is on disk before it is visible."""
        order = np.argsort(keys)
        key_bytes = keys[order].view(np.uint8).reshape(-1, KEY.itemsize)
        content = save({"keys": key_bytes, "vectors": vectors[order]})
        return write_whole(self.folder / (xxhash.xxh3_128_hexdigest(content) + _SUFFIX), content)

    def merge(self) -> None:
        """Join small shards into large ones, so that opening and reading stay quick."""
        with self._lock:
            while True:
                self._refresh()
                small = [
                    shard
                    for shard in list(self._shards.values())
                    if len(shard) < MERGED_ROWS // 2 and self._is_intact(shard)
                ]
                rows = np.cumsum([len(shard) for shard in small])
                chosen = small[: np.searchsorted(rows, MERGED_ROWS, side="right")]
                if len(chosen) < 2:
                    return
                keys = np.concatenate([shard.keys for shard in chosen])
                vectors = np.concatenate([shard.vectors for shard in chosen])
                keys, first = np.unique(keys, return_index=True)
                try:
                    merged = self.write(keys, vectors[first])
                except WorkbenchError:
                    return  # there is no room for a second copy, and small shards are only slower
                # The joined shard is durable by now, so other processes always find every key.
                for shard in chosen:
                    if shard.path != merged:
                        shard.path.unlink(missing_ok=True)

    def _refresh(self) -> None:
        """Open what other processes have written, and forget what they have merged away."""
        with self._lock:
            paths = {path.name: path for path in listing(self.folder)}
            self._shards = {name: shard for name, shard in self._shards.items() if name in paths}
            for name in paths.keys() - self._shards.keys() - self._ignored:
                try:
                    shard = Shard(paths[name])
                    if shard.vectors.shape != (len(shard), self.dimension):
                        raise DamagedShard(f"its vectors have shape {shard.vectors.shape}")
                    self._shards[name] = shard
                except DamagedShard as damage:
                    self._set_aside(paths[name], damage)
                except FileNotFoundError:  # merged away: its vectors are in a file that is new
                    return self._refresh()

    def _is_intact(self, shard: Shard) -> bool:
        """Say whether a shard is intact; set it aside if not."""
        if not shard.is_intact:
            self._set_aside(shard.path, "its content does not match its checksum")
        return shard.is_intact

    def _set_aside(self, path: Path, damage: object) -> None:
        self._shards.pop(path.name, None)
        self.damaged.append(path.name)
        warnings.warn(
            f"damaged shard {path}: {damage}. Its texts will be encoded again.", stacklevel=3
        )
        try:
            path.replace(path.with_suffix(".damaged"))
        except OSError:
            if path.exists():  # in a read-only cache, where it would be met at every look
                self._ignored.add(path.name)


def listing(folder: Path) -> list[Path]:
    """Return the shards of a folder, sorted by name."""
    paths = [path for path in folder.glob(f"*{_SUFFIX}") if not path.name.startswith(".")]
    return sorted(path for path in paths if path.is_file())
