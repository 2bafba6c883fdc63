"""One immutable file of targets: how it is written, checked and read.

A shard is a safetensors file with two tensors, `keys` (uint8, n x 16, sorted) and `vectors` (n x d).
Its name is the checksum of its content, which shows whether a file was cut short or altered.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import xxhash
from safetensors.numpy import save

from workbench._util import write_whole
from workbench.errors import CacheError, WorkbenchError

KEY = np.dtype("S16")
_SUFFIX = ".safetensors"
_DTYPES = {"F16": np.float16, "F32": np.float32, "U8": np.uint8}


class DamagedShard(Exception):
    """A file whose content does not match its name, or cannot be read as a shard."""


def write(folder: Path, keys: np.ndarray, vectors: np.ndarray) -> Path:
    """Write one shard and return its path; it is on disk before it is visible.

    Args:
        folder: of the cache.
        keys: S16 of shape (n,), unique, any order.
        vectors: float16 or float32 of shape (n, d), in step with `keys`.

    Raises:
        CacheError: the folder cannot be written to, or the disk is full; nothing is left behind.
    """
    order = np.argsort(
        keys
    )  # indexing by it makes copies that are contiguous, as safetensors wants them
    content = save(
        {"keys": keys[order].view(np.uint8).reshape(-1, KEY.itemsize), "vectors": vectors[order]}
    )
    try:
        return write_whole(folder / (xxhash.xxh3_128_hexdigest(content) + _SUFFIX), content)
    except WorkbenchError as error:
        raise CacheError(
            f"{error}. Everything stored before is intact; make room or rights and run again, it goes on from there."
        ) from None


class Shard:
    """A shard opened for reading, memory-mapped; it stays readable after its file is removed.

    Raises:
        DamagedShard: the header cannot be read, or does not fit the file.
        FileNotFoundError: another process has merged the file away.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._verified = False
        self._lock = threading.Lock()
        try:
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                if size > 1 << 20:
                    raise ValueError("header too long")
                header = json.loads(file.read(size))
            self._buffer = np.asarray(
                np.memmap(path, dtype=np.uint8, mode="r")
            )  # a plain array is quicker to index
            self.keys = self._tensor(header["keys"], 8 + size).reshape(-1).view(KEY)
            self.vectors = self._tensor(header["vectors"], 8 + size)
            if len(self.keys) != len(self.vectors):
                raise ValueError("keys and vectors out of step")
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedShard(f"{path.name}: {error}") from None

    def __len__(self) -> int:
        return len(self.keys)

    def verify(self) -> None:
        """Compare content and name, once for each time the shard is opened; raise DamagedShard if they differ."""
        with self._lock:
            if not self._verified:
                if xxhash.xxh3_128_hexdigest(self._buffer) != self.path.stem:
                    raise DamagedShard(f"{self.path.name}: its content does not match its checksum")
                self._verified = True

    def find(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which wanted keys (S16, sorted, each once) the shard has, and in which rows: two int64 (hits,)."""
        if not len(self) or not len(wanted):
            return (np.empty(0, dtype=np.int64),) * 2
        few, many = (wanted, self.keys) if len(wanted) < len(self) else (self.keys, wanted)
        at = np.minimum(np.searchsorted(many, few), len(many) - 1)
        hits = np.flatnonzero(many[at] == few)
        return (hits, at[hits]) if few is wanted else (at[hits], hits)

    def _tensor(self, entry: dict, start: int) -> np.ndarray:
        first, last = entry["data_offsets"]
        if start + last > len(self._buffer):
            raise ValueError("cut short")
        return (
            self._buffer[start + first : start + last]
            .view(_DTYPES[entry["dtype"]])
            .reshape(entry["shape"])
        )


def listing(folder: Path) -> list[Path]:
    """Return the shards of a folder, sorted by name."""
    return sorted(
        p for p in folder.glob(f"*{_SUFFIX}") if not p.name.startswith(".") and p.is_file()
    )
