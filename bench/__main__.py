"""Write build/bench.json and print its table. Ratios only: machines differ, and so do their moods."""

from __future__ import annotations

import argparse
import copy
import json
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from workbench import data, models, student
from workbench._util import home, write_json
from workbench.cache import TargetCache
from workbench.cli.main import main as workbench
from workbench.data import Role, Text
from workbench.docstrings import DocstringCorpus, docstring_corpus
from workbench.pipeline import TOUR
from workbench.teachers import LocalTeacher, Teacher
from workbench.train import TrainingConfig, train_student, validate


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--texts", type=int, default=1000, help="texts for the speed measurements")
    options = parser.parse_args()
    corpus = docstring_corpus()
    report = {"machine": machine(), "texts": options.texts}
    report |= teacher_speed([t.text for t in corpus.train[: options.texts]])
    report |= training_speed(corpus, options.texts)
    report |= read_speed()
    if code := workbench(["demo"]):
        return code
    report["quality"] = json.loads((home() / "demo.json").read_text())["rows"]
    from bench import latency  # which takes its clock from here

    with tempfile.TemporaryDirectory() as folder:
        trained = student.load(home() / "demo" / "student", device="cpu")
        report |= latency.measure(trained, [data.read_dataset("tutorial")], Path(folder))
    path = write_json(home() / "bench.json", report)
    print("\n| measure | value |\n|---|---|")
    for name, value in report.items():
        if isinstance(value, float):
            print(f"| {name} | {value:.4g} |")
    print(f"\n{report['machine']}\nwritten to {path}")
    return 0


def machine() -> str:
    """Say what this was measured on."""
    accelerator = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    fast = [name for name, has in torch.cpu.get_capabilities().items() if has and "bf16" in name]
    return (
        f"{processor()}, bf16: {', '.join(fast) or 'none'}{accelerator}, torch {torch.__version__}"
    )


def processor() -> str:
    """Return what a person would call the processor, such as "AMD EPYC, 2 threads"."""
    name, cpuinfo = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    return f"{name}, {torch.get_num_threads()} threads"


def best_of(rounds: int, *runs) -> list[float]:
    """Time several callables in turn, so that a busy moment hits all of them; the best of each counts."""
    seconds = [float("inf")] * len(runs)
    for _ in range(rounds):
        for i, run in enumerate(runs):
            started = time.perf_counter()
            run()
            seconds[i] = min(seconds[i], time.perf_counter() - started)
    return seconds


def teacher_speed(texts: list[str]) -> dict[str, float]:
    """Our encoding against `SentenceTransformer.encode` at its defaults; same model, texts and length."""
    baseline = models.load_model(TOUR.teacher)
    baseline.max_seq_length = 128
    teacher = LocalTeacher(TOUR.teacher, max_length=128)
    exact, ours = [], []
    slow, fast = best_of(
        2,
        lambda: exact.append(baseline.encode(texts, show_progress_bar=False)),
        lambda: ours.append(teacher.encode(texts, Role.DOCUMENT)),
    )
    cosines = (exact[-1] * ours[-1]).sum(axis=1)
    return {
        "teacher_speedup": slow / fast,
        "teacher_texts_per_second": len(texts) / fast,
        "teacher_cosine": float(cosines.mean()),
        "teacher_cosine_min": float(cosines.min()),
    }


def training_speed(corpus: DocstringCorpus, count: int) -> dict[str, float]:
    """Ours against `SentenceTransformerTrainer` with its MSE loss, all from the closed form, batch 32, 96 tokens, one epoch.

    The trainer runs as it is by default, and tuned: bfloat16, and batches of texts of similar length. *head* is what
    makes the ready student: the transformer's features once, and a head of two layers on them; seconds include both.
    """
    from bench.ready import HEAD, RECIPE, train_head  # which imports this module

    train = corpus.train[:count]
    held_out = corpus.held_out.query_texts()[:100] + corpus.held_out.document_texts()[:100]
    teacher = LocalTeacher(TOUR.teacher, max_length=96)
    cache = TargetCache(home() / "cache", teacher)
    cache.fill(train + held_out)
    targets, wanted = cache.targets(train), cache.targets(held_out)

    config = TrainingConfig(batch_size=32, learning_rate=1e-4, epochs=1, evaluations=1)
    closed, head = TOUR.student(cache), RECIPE.student(cache)
    student.fit_head(closed, train, targets)
    mine, theirs, tuned = (copy.deepcopy(closed) for _ in range(3))
    speeds = {"train": train_student(mine, train, targets, config).texts_per_second}
    speeds["trainer"] = len(train) / _trainer_epoch(theirs, train, np.asarray(targets))
    speeds["tuned_trainer"] = len(train) / _trainer_epoch(
        tuned, train, np.asarray(targets), tuned=True
    )
    started = time.perf_counter()
    features = student.FrozenFeatures(head).encode([text.text for text in train])
    student.fit_head(head, train, targets, features=features)
    train_head(head, features, targets, HEAD)
    speeds["head"] = len(train) / (time.perf_counter() - started)
    made = {
        "train": mine,
        "trainer": theirs,
        "tuned_trainer": tuned,
        "head": head,
        "closed_form": closed,
    }
    return {
        "train_speedup": speeds["train"] / speeds["trainer"],
        "train_speedup_tuned": speeds["train"] / speeds["tuned_trainer"],
        "head_speedup": speeds["head"] / speeds["trainer"],
        "head_speedup_tuned": speeds["head"] / speeds["tuned_trainer"],
        **{f"{name}_texts_per_second": speed for name, speed in speeds.items()},
        **{
            f"{name}_held_out_loss": validate(model, held_out, wanted)["loss"]
            for name, model in made.items()
        },
    }


def _trainer_epoch(model, train: list[Text], targets: np.ndarray, *, tuned: bool = False) -> float:
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from sentence_transformers.losses import MSELoss
    from transformers.trainer_pt_utils import LengthGroupedSampler

    data = Dataset.from_dict(
        {"sentence": [t.text for t in train], "label": [v.tolist() for v in targets]}
    )
    lengths = [len(text.text) for text in train]

    def grouped(
        dataset: Dataset,
        batch_size: int,
        generator: torch.Generator | None = None,
        **options: object,
    ):
        order = LengthGroupedSampler(batch_size, lengths=lengths, generator=generator)
        return DefaultBatchSampler(order, batch_size=batch_size, generator=generator, **options)

    more = (
        {"bf16": True, "use_cpu": not torch.cuda.is_available(), "batch_sampler": grouped}
        if tuned
        else {}
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            folder, num_train_epochs=1, per_device_train_batch_size=32, learning_rate=1e-4, lr_scheduler_type="linear",
            save_strategy="no", report_to="none", disable_tqdm=True, logging_strategy="no", **more,
        )  # fmt: skip
        trainer = SentenceTransformerTrainer(
            model, arguments, train_dataset=data, loss=MSELoss(model)
        )
        started = time.perf_counter()
        trainer.train()
        return time.perf_counter() - started


def read_speed(rows: int = 100_000, width: int = 768) -> dict[str, float]:
    """Random batches of 32 from the cache against the same from a float16 array in memory."""

    class Random(Teacher):
        def encode(self, texts, role, *, stop=None):
            rng = np.random.default_rng(len(texts))
            return rng.standard_normal((len(texts), width), dtype=np.float32)

    texts = [Text(f"text {i}", Role.DOCUMENT) for i in range(rows)]
    with tempfile.TemporaryDirectory() as folder:
        cache = TargetCache(folder, Random("random", width, normalize=False))
        cache.fill(texts)
        cached = cache.targets(texts)
        in_memory = np.asarray(cached).astype(np.float16)
        batches = np.random.default_rng(0).integers(0, rows, (3000, 32))
        from_memory, from_cache = best_of(
            3,
            lambda: [in_memory[batch].astype(np.float32) for batch in batches],
            lambda: [cached[batch] for batch in batches],
        )
    return {
        "cache_read_ratio": from_memory / from_cache,
        "cache_rows_per_second": batches.size / from_cache,
    }


if __name__ == "__main__":
    sys.exit(main())
