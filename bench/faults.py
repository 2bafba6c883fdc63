"""Break caching, training, servers, the hub and views on purpose, and count what is lost. Writes build/faults.json.

    python -m bench.faults [--runs 30] [--seed 0] [--no-page]

A run of caching fills one cache in processes that are killed at random moments, alone or two at a time; between them
shards are cut short, altered and deleted, the file system is full, and the clock is moved. A run of training is killed
in the same way, and its newest checkpoint damaged. In the end every target and every weight has to equal those of an
undisturbed run. Work that was done twice is counted. Faults from outside are in `bench.faults_outside`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from bench import faults_outside
from bench.__main__ import machine
from bench.faults_outside import start
from workbench import _shards, models, student
from workbench import cache as caching
from workbench._util import home, write_json
from workbench.cache import TargetCache
from workbench.data import Role, Text
from workbench.errors import WorkbenchError
from workbench.teachers import Teacher
from workbench.train import TrainingConfig, train_student

TEXTS = [
    Text(f"text {i} of the harness, {'word ' * (i % 17)}", list(Role)[i % 2]) for i in range(3000)
]
LEARNED = TEXTS[:240]
LESSON = np.eye(17, 32, dtype=np.float32)[
    [i % 17 for i in range(len(LEARNED))]
]  # as many words as the text has
SETTINGS = TrainingConfig(
    batch_size=8, learning_rate=1e-3, epochs=2, restarts=1, precision="float32", checkpoint_steps=5
)
DIMENSION = 32  # bytes of a SHA-256
GROUP = 64  # texts that the cache encodes at once


class LoggingTeacher(Teacher):
    """Vectors are a function of the text; every text that is encoded leaves a line in a file."""

    probes = ()

    def __init__(self, log: Path, pause: float = 0.0) -> None:
        super().__init__("faults", DIMENSION, normalize=False)
        self.log, self.pause = log, pause

    def encode(self, texts, role, *, stop=None):
        time.sleep(self.pause)
        with self.log.open("a") as file:  # one write: a kill leaves all lines or none
            file.write(
                "".join(f"{hashlib.md5(f'{role} {text}'.encode()).hexdigest()}\n" for text in texts)
            )
        return np.stack([vector(text, role) for text in texts])


def vector(text: str, role: Role) -> np.ndarray:
    seed = hashlib.sha256(f"{role} {text}".encode()).digest()
    return np.frombuffer(seed, dtype=np.uint8).astype(np.float32) / 256


EXPECTED = (
    np.stack([vector(text.text, text.role) for text in TEXTS]).astype(np.float16).astype(np.float32)
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--runs",
        type=int,
        default=30,
        help="of caching; a third as many of the others, one of the page",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-page", action="store_true", help="without a browser")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # damaged shards are what this is about
    rng, third = random.Random(options.seed), -(-options.runs // 3)
    parts = {
        "caching": lambda: [caching_run(rng) for _ in range(options.runs)],
        "training": lambda: [training_run(rng) for _ in range(third)],
        "server": lambda: [faults_outside.api_run(rng, TEXTS) for _ in range(third)],
        "hub": lambda: faults_outside.hub_runs(third, options.seed),
        "page": lambda: [faults_outside.view_run(rng)],
    }
    if options.no_page:
        del parts["page"]
    report = {"machine": machine(), "injected": 0, "lost": 0, "repeated": 0}
    for name, runs in parts.items():
        report[name] = total(runs())
        report |= {
            each: report[each] + report[name][each] for each in ("injected", "lost", "repeated")
        }
        path = write_json(home() / "faults.json", report)
        print(json.dumps({name: report[name]}, indent=1), flush=True)
    print(f"{report['injected']:,} faults, {report['lost']} lost, {report['repeated']:,} repeated")
    print(f"written to {path}")
    return 1 if report["lost"] else 0


def total(runs: list[dict]) -> dict:
    summed: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    for run in runs:
        faults.update(run.pop("faults"))
        summed.update(run)
    return {"runs": len(runs), "injected": sum(faults.values()), "faults": dict(faults), **summed}


# --- caching ---


def caching_run(rng: random.Random) -> dict:
    """Fill one cache through faults; return what was injected, lost and repeated."""
    faults: Counter[str] = Counter()
    caching.GROUP_TEXTS = GROUP  # so that a kill meets shards in every state
    with tempfile.TemporaryDirectory() as scratch:
        log, root = Path(scratch) / "log", Path(scratch) / "root"
        root.mkdir()
        log.touch()
        destroyed = killed = 0
        for _ in range(rng.randint(6, 14)):
            kind = rng.choice(
                ["kill", "kill", "two writers", "cut", "flip", "delete", "full disk", "clock"]
            )
            faults[kind] += 1
            if kind in ("cut", "flip", "delete"):
                destroyed += injure(root, kind, rng)
            elif kind == "full disk":
                full_disk(root, rng)
            else:
                shift = (
                    rng.choice([-1, 1]) * rng.uniform(60, 10 * 86_400) if kind == "clock" else 0.0
                )
                children = [
                    fill_in_child(root, log, shift)
                    for _ in range(2 if kind == "two writers" else 1)
                ]
                time.sleep(rng.uniform(0.02, 0.5))
                for child in children:
                    child.kill()
                    child.join()
                killed += len(children)
        last = fill_in_child(root, log, 0.0)
        last.join()
        cache = TargetCache(root, LoggingTeacher(log))
        lost = len(cache.missing(TEXTS))
        if not lost:
            lost = int((cache.targets(TEXTS)[:] != EXPECTED).any(axis=1).sum())
        encoded = log.read_text().splitlines()
        return {
            "texts": len(TEXTS),
            "lost": lost + (last.exitcode != 0),
            "repeated": len(encoded) - len(set(encoded)),
            "explained": destroyed
            + killed * GROUP,  # what was destroyed, and a group in flight for each kill
            "faults": faults,
        }


def fill_in_child(root: Path, log: Path, shift: float):
    def work() -> None:
        if shift:
            now = time.time
            time.time = lambda: now() + shift
        teacher = LoggingTeacher(log, pause=0.01)
        TargetCache(root, teacher).fill(TEXTS)

    return start(work)


def injure(root: Path, kind: str, rng: random.Random) -> int:
    """Harm one shard; return how many targets it had."""
    found = [path for folder in root.iterdir() for path in _shards.listing(folder)]
    if not found:
        return 0
    victim = rng.choice(found)
    try:
        rows = len(_shards.Shard(victim))
    except _shards.DamagedShard:  # by the fault before
        rows = 0
    content = bytearray(victim.read_bytes())
    if kind == "delete":
        victim.unlink()
    elif kind == "cut":
        victim.write_bytes(content[: rng.randrange(max(1, len(content)))])
    elif content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        victim.write_bytes(content)
    return rows


def full_disk(root: Path, rng: random.Random) -> None:
    """Fill the cache on a file system with little room: a small tmpfs where mounting is allowed, else a size limit."""
    size = rng.choice([64, 128, 160])
    with tempfile.TemporaryDirectory() as place:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", place], capture_output=True
        ).returncode == 0  # fmt: skip

        def work() -> None:
            if not mounted:
                import resource
                import signal

                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))
            teacher = LoggingTeacher(Path(os.devnull))
            caching.CHUNK_TEXTS = 4 * GROUP  # a stream's first block fits, or it would be refused
            with contextlib.suppress(
                WorkbenchError
            ):  # the room runs out, with an error that says so
                TargetCache(Path(place) if mounted else root, teacher).fill(iter(TEXTS))

        child = start(work)
        child.join()
        if child.exitcode:
            raise SystemExit(f"a full disk ended in exit code {child.exitcode}")
        if mounted:
            cache = TargetCache(Path(place), LoggingTeacher(Path(os.devnull)))
            missing = set(cache.missing(TEXTS))
            kept = [i for i, text in enumerate(TEXTS) if text not in missing]
            right = kept and (cache.targets([TEXTS[i] for i in kept])[:] == EXPECTED[kept]).all()
            subprocess.run(["umount", "-l", place], check=True, capture_output=True)
            if cache.damaged or not right:
                raise SystemExit("a full disk left a damaged cache")


# --- training ---


def training_run(rng: random.Random) -> dict:
    """Train one student through faults, and one without; return what was injected, lost and repeated."""
    faults: Counter[str] = Counter()
    seed = rng.randrange(1 << 20)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        whole = train_in_child(folder / "whole", seed)
        whole.join()
        for _ in range(rng.randint(4, 8)):
            kind = rng.choice(["kill", "kill", "kill", "checkpoint"])
            faults[kind] += 1
            if kind == "kill":
                child = train_in_child(folder / "broken", seed)
                before, deadline = taken(folder / "broken"), time.monotonic() + 60
                while (
                    taken(folder / "broken") == before
                    and child.is_alive()
                    and time.monotonic() < deadline
                ):
                    time.sleep(0.01)
                time.sleep(rng.uniform(0, 0.5))
                child.kill()
                child.join()
            elif found := sorted((folder / "broken" / "checkpoints").glob("step-*")):
                victim = found[-1] / rng.choice(
                    ["student.safetensors", "optimizer.safetensors", "state.json"]
                )
                victim.write_bytes(victim.read_bytes()[: rng.randrange(200)])
        last = train_in_child(folder / "broken", seed)
        last.join()
        steps = [taken(folder / name) for name in ("whole", "broken")]
        same = whole.exitcode == last.exitcode == 0 and (
            (folder / "whole" / "weights").read_text()
            == (folder / "broken" / "weights").read_text()
        )
    return {
        "steps": steps[0],
        "lost": int(not same),
        "repeated": steps[1] - steps[0],
        "faults": faults,
    }


def taken(folder: Path) -> int:
    """Return how many steps were taken, by all processes together."""
    return len((folder / "steps").read_text().splitlines()) if (folder / "steps").is_file() else 0


def train_in_child(folder: Path, seed: int):
    def work() -> None:
        torch.set_num_threads(1)
        folder.mkdir(parents=True, exist_ok=True)
        model = small_student(seed)
        with (folder / "steps").open("a", buffering=1) as steps:
            train_student(
                model,
                LEARNED,
                LESSON,
                SETTINGS,
                checkpoints=folder / "checkpoints",
                on_step=lambda event: (
                    event.step and event.loss is not None and steps.write(f"{event.step}\n")
                ),
            )
        content = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
        (folder / "weights").write_text(hashlib.sha256(content).hexdigest())

    return start(work)


def small_student(seed: int):
    """Return the student's start with two layers left, so that a step takes milliseconds."""
    model = student.build(
        models.MINILM, DIMENSION, normalize=False, max_length=16, seed=seed, device="cpu"
    )
    layers = model[0].model.encoder.layer
    del layers[2:]
    return model


if __name__ == "__main__":
    sys.exit(main())
