"""Peak memory, opening and random reads as a cache and its corpus grow. Writes build/growth.json.

    python -m bench.growth [--sizes 10000 100000 1000000 10000000]

Vectors are synthetic and 32 wide, texts a few words, the student a random one of two layers: what is measured is the
machinery around them. Each phase runs in a process of its own and is measured there: the most that it held besides
files that it only maps (those the system can take back at any time), and how much of that is left after taking off
what the smallest corpus needs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from bench.__main__ import machine
from workbench import evaluate
from workbench._util import home, write_json
from workbench.cache import TargetCache
from workbench.data import Role, StoredTexts, Text
from workbench.teachers import Teacher

PHASES = ("cache", "open", "train")
READ = 32_000  # random rows, in batches of 32
STEPS = 200


class SyntheticTeacher(Teacher):
    """Vectors that cost nothing and follow from the text, so that a student could learn them."""

    table = np.random.default_rng(0).normal(size=(17, 32)).astype(np.float32)

    def __init__(self) -> None:
        super().__init__("synthetic", 32, normalize=True)

    def encode(
        self, texts: list[str], role: Role, *, stop: threading.Event | None = None
    ) -> np.ndarray:
        rows = self.table[[int(text.rpartition(" ")[2]) % len(self.table) for text in texts]]
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def synthetic(count: int) -> Iterator[Text]:
    return map(synthetic_text, range(count))


def synthetic_text(number: int) -> Text:
    return Text(f"{'word ' * (number % 17)}of text {number}", list(Role)[number % 2])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.growth", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000]
    )
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase:
        print(json.dumps(measured(options.phase, options.folder, options.sizes[0])))
        return 0
    rows = []
    for size in options.sizes:
        with tempfile.TemporaryDirectory(dir=home()) as folder:
            row = {"texts": size}
            for phase in PHASES:
                command = [
                    sys.executable,
                    "-m",
                    "bench.growth",
                    "--phase",
                    phase,
                    "--folder",
                    folder,
                ]
                done = subprocess.run(
                    [*command, "--sizes", str(size)], stdout=subprocess.PIPE, text=True, check=True
                )
                row |= json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        print(row, flush=True)
    table = pd.DataFrame(rows)
    grown = table["texts"] - table["texts"][0]
    for phase in PHASES:
        table[f"{phase}_bytes_a_text"] = (
            (table[f"{phase}_megabytes"] - table[f"{phase}_megabytes"][0]) * 1e6 / grown
        )
    print(table.T.to_string())
    path = write_json(
        home() / "growth.json", {"machine": machine(), "rows": evaluate.as_rows(table)}
    )
    print(f"written to {path}")
    return 0


def measured(phase: str, folder: Path, size: int) -> dict:
    """Run one phase; return its peak memory, its seconds and what it measured besides."""
    from workbench import distill, student  # noqa: F401  torch's own memory belongs to every phase

    peak, done = [private()], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            peak[0] = max(peak[0], private())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        started = time.perf_counter()
        figures = {"cache": fill, "open": read, "train": train}[phase](folder, size)
        figures.setdefault(f"{phase}_seconds", time.perf_counter() - started)
    finally:
        done.set()
        watcher.join()
    return figures | {f"{phase}_megabytes": peak[0] / 1e6}


def private() -> int:
    """Return the bytes this process holds that no file backs (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this system does not say which memory is a process's own")


def fill(folder: Path, size: int) -> dict:
    cache = TargetCache(folder, SyntheticTeacher())
    progress = cache.fill(synthetic(size))
    return {"shards": len(list(cache.folder.glob("*.safetensors"))), "cached": progress.encoded}


def read(folder: Path, size: int) -> dict:
    started = time.perf_counter()
    cache = TargetCache(folder, SyntheticTeacher())
    opened = time.perf_counter() - started
    rng = np.random.default_rng(0)
    few = [synthetic_text(i) for i in rng.integers(0, size, 1000).tolist()]
    started = time.perf_counter()
    cache.targets(few)  # finds them, and checks the shards that it uses
    found = time.perf_counter() - started
    texts = StoredTexts.write(synthetic(size), folder / "texts.arrow")
    started = time.perf_counter()
    targets = cache.targets(texts)
    all_found = time.perf_counter() - started
    batches = rng.integers(0, size, (READ // 32, 32))
    started = time.perf_counter()
    for rows in batches:
        targets[rows]
    speed = READ / (time.perf_counter() - started)
    return {
        "open_seconds": opened,
        "find_1000_seconds": found,
        "find_all_seconds": all_found,
        "random_rows_a_second": speed,
    }


def train(folder: Path, size: int) -> dict:
    from tests.conftest import make_tiny_model
    from workbench import student
    from workbench.train import TrainingConfig, train_student

    texts = StoredTexts(folder / "texts.arrow")
    targets = TargetCache(folder, SyntheticTeacher()).targets(texts)
    model = student.build(make_tiny_model(folder / "tiny", seed=0), 32, max_length=24, device="cpu")
    stop, seconds = threading.Event(), []

    def on_step(event) -> None:
        seconds.append(time.perf_counter())
        if event.step == STEPS:
            stop.set()

    config = TrainingConfig(
        batch_size=32, epochs=1, restarts=1, precision="float32", checkpoint_steps=100
    )
    student.fit_head(model, texts, targets)
    started = time.perf_counter()
    train_student(
        model,
        texts,
        targets,
        config,
        stop=stop,
        on_step=on_step,
        checkpoints=folder / "checkpoints",
    )
    return {
        "first_step_after_seconds": seconds[1] - started,
        "steps_a_second": (len(seconds) - 2) / (seconds[-1] - seconds[1]),
    }


if __name__ == "__main__":
    sys.exit(main())
