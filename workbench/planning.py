"""What a recipe will take on a device, before anything starts: texts, bytes, hours."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from workbench import models
from workbench._util import duration
from workbench.data import Text
from workbench.errors import TrainingError
from workbench.teachers import Teacher
from workbench.train import TrainingConfig, train_student

MEASURED_TEXTS = 160


@dataclass(frozen=True)
class Speeds:
    """How quickly a device works, in texts a second; TrainingError for a speed that is not finite and above 0."""

    device: str  # its name
    teacher: (
        float | None
    )  # texts that the teacher encodes; None where it works elsewhere, behind an API
    student: float  # texts that training reads

    def __post_init__(self) -> None:
        if not all(
            0 < speed < math.inf for speed in (self.teacher, self.student) if speed is not None
        ):
            raise TrainingError(
                f"speeds of {self.device}: both must be finite and above 0 texts a second"
            )


@dataclass(frozen=True)
class TrainingPlan:
    """What a training will take."""

    texts: int  # different texts to learn from
    missing: int  # those whose targets the teacher has yet to make
    bytes: int  # what storing these will take
    passes: int  # how often training reads every text
    steps: int  # training steps in all
    speeds: Speeds  # of the device

    @property
    def teacher_seconds(self) -> float | None:
        """How long the teacher will take; None where its speed is not known."""
        return None if self.speeds.teacher is None else self.missing / self.speeds.teacher

    @property
    def student_seconds(self) -> float:
        """How long training will take, evaluations left out."""
        return self.texts * self.passes / self.speeds.student

    def __str__(self) -> str:
        speeds, teacher = self.speeds, ""
        if speeds.teacher is not None:
            teacher = f"teacher  {duration(self.teacher_seconds)} at {speeds.teacher:,.0f} texts a second\n"
        return (
            f"texts    {self.texts:,}, {self.missing:,} of them not in the cache\n"
            f"cache    {self.bytes / 1e6:,.1f} MB more\n{teacher}"
            f"student  {duration(self.student_seconds)} for {self.passes} passes, {self.steps:,} steps, at "
            f"{speeds.student:,.0f} texts a second\n"
            f"device   {speeds.device}"
        )


def plan(
    config: TrainingConfig, speeds: Speeds, texts: int, dimension: int, missing: int | None = None
) -> TrainingPlan:
    """Say what training on so many different texts will take.

    Args:
        config: how to train.
        speeds: measured, or known of another device.
        texts: their number.
        dimension: width of the teacher's vectors, stored as float16.
        missing: how many the cache lacks; all if None.
    """
    missing = texts if missing is None else missing
    passes = config.epochs * config.restarts
    steps = -(-texts // config.batch_size) * passes
    return TrainingPlan(
        texts, missing, missing * (2 * dimension + 16), passes, steps, speeds
    )  # 16 bytes of key


def measure(
    teacher: Teacher | None,
    student: SentenceTransformer,
    texts: Sequence[Text],
    config: TrainingConfig,
) -> Speeds:
    """Time teacher and student on some of the texts, on the device that the student is on.

    Args:
        teacher: encodes a sample of the texts; None leaves it alone, where asking it costs money.
        student: trained on the sample for a few steps, so it is of no use afterwards.
        texts: at least a batch; TrainingError for fewer.
        config: how it would be trained.
    """
    if len(texts) < config.batch_size:
        raise TrainingError(
            f"too few texts to measure with: {len(texts):,}, and a batch has {config.batch_size}"
        )
    chosen = np.random.default_rng(0).permutation(len(texts))[
        : max(MEASURED_TEXTS, config.batch_size)
    ]
    sample = [texts[i] for i in chosen]
    if teacher is None:
        teacher_speed, targets = (
            None,
            models.encode(student, sample),
        )  # its own vectors, where there are no others
    else:
        teacher_speed, targets = encoding_speed(teacher, sample)
    few = replace(config, epochs=2, restarts=1, evaluations=1)
    speed = train_student(student, sample, targets, few).texts_per_second
    return Speeds(device_name(student.device), teacher_speed, speed)


def encoding_speed(teacher: Teacher, texts: Sequence[Text]) -> tuple[float, np.ndarray]:
    """Return how many of some texts a teacher encodes in a second, and their vectors, float32 of shape (n, dimension)."""
    teacher.encode([texts[0].text], texts[0].role)  # the first call of a process is slow
    targets = np.empty((len(texts), teacher.dimension), dtype=np.float32)
    started = time.perf_counter()
    for role, rows in models.by_role(texts).items():
        targets[rows] = teacher.encode([texts[i].text for i in rows], role)
    return len(texts) / (time.perf_counter() - started), targets


def device_name(device: torch.device | str) -> str:
    """Return what a person would call the device, such as "AMD EPYC, 2 threads"."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    return f"{name}, {torch.get_num_threads()} threads"
