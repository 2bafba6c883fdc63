"""Train a student against cached targets: squared L2 distance, and nothing else."""

from __future__ import annotations

import hashlib
import math
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from sentence_transformers import SentenceTransformer

from workbench import __version__, models
from workbench._checkpoints import Checkpoints
from workbench.data import Text
from workbench.errors import TrainingError
from workbench.models import by_role
from workbench.student import head_of, pooled, ridge

if TYPE_CHECKING:
    from workbench.cache import TargetCache

_POOL_BATCHES = 50  # batches drawn together and sorted by length: random enough, little padding


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. The defaults are the paper's where it states them (arXiv 2509.12539).

    Attributes:
        batch_size: texts a step, over all processes together.
        learning_rate: at the start of each cycle; it falls linearly to `final_learning_rate`.
        final_learning_rate: at the end of each cycle.
        epochs: passes over the texts in a cycle.
        restarts: how often the learning rate starts again.
        weight_decay: AdamW's.
        max_grad_norm: gradients are clipped to this norm; None for no clipping.
        dropout: probability in the backbone while training; None keeps the base's own. A regression
            on fixed targets gains nothing from it.
        precision: "auto" (bfloat16 autocast where the hardware is faster with it), "float32" or
            "bfloat16". Weights and optimizer stay in float32.
        group_by_length: whether a batch has texts of like lengths, drawn at random within a pool of 50 batches; quicker, for
            there is little padding.
        evaluations: held-out evaluations an epoch, each with a checkpoint.
        checkpoint_steps: a checkpoint after every so many steps besides; a kill loses no more.
        seed: of batches and dropout.
    """

    batch_size: int = 32
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-5
    epochs: int = 10
    restarts: int = 3
    weight_decay: float = 0.01
    max_grad_norm: float | None = 1.0
    dropout: float | None = 0.0
    precision: str = "auto"
    group_by_length: bool = True
    evaluations: int = 2
    checkpoint_steps: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "restarts", "evaluations", "checkpoint_steps"):
            if getattr(self, name) != int(getattr(self, name)) or getattr(self, name) < 1:
                raise TrainingError(f"{name} is {getattr(self, name)}; at least 1 is needed")
        if not 0 < self.final_learning_rate <= self.learning_rate:
            raise TrainingError("learning rates must satisfy 0 < final_learning_rate <= learning_rate")
        if not (
            0 <= self.seed < 2**32 and self.weight_decay >= 0 and (self.max_grad_norm is None or self.max_grad_norm > 0)
        ):
            raise TrainingError("seed, weight_decay and max_grad_norm must not be negative (seed below 2**32)")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise TrainingError(f"dropout is {self.dropout}; from 0 to below 1 is possible")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise TrainingError(f"precision {self.precision!r}: it must be auto, float32 or bfloat16")

    def with_steps(self, least: int, texts: int) -> TrainingConfig:
        """Return the settings with as many more epochs as so many texts need for `least` steps."""
        in_pass = math.ceil(texts / self.batch_size) * self.restarts
        return replace(self, epochs=max(self.epochs, math.ceil(least / max(1, in_pass))))


@dataclass(frozen=True)
class TrainingStep:
    """One training step, as `on_step` gets it; held-out figures only where one was made.

    Attributes:
        step: steps done; 0 is the start, before any.
        steps: steps in all.
        epoch: passes done, with fraction.
        loss: mean squared L2 distance of the step's batch; None at step 0.
        learning_rate: of the step.
        texts_per_second: training speed since the start of this run, evaluations left out.
        held_out_loss: mean squared L2 distance on the held-out texts.
        cosine_query: mean cosine to the target over held-out queries.
        cosine_document: the same over held-out documents.
    """

    step: int
    steps: int
    epoch: float
    loss: float | None
    learning_rate: float
    texts_per_second: float
    held_out_loss: float | None = None
    cosine_query: float | None = None
    cosine_document: float | None = None


@dataclass(frozen=True)
class Result:
    """What training gave.

    Attributes:
        history: one row an event (see `TrainingStep`).
        best_step: step of the student that was kept, by held-out loss.
        best_loss: its held-out loss; None without held-out texts.
        stopped: whether `stop` ended it early.
        texts_per_second: training speed of this run.
    """

    history: pd.DataFrame
    best_step: int
    best_loss: float | None
    stopped: bool
    texts_per_second: float


def train_student(
    student: SentenceTransformer,
    texts: Sequence[Text],
    targets: np.ndarray,
    settings: TrainingConfig = TrainingConfig(),
    *,
    held_out: tuple[Sequence[Text], np.ndarray] | None = None,
    checkpoints: str | Path | None = None,
    resume: bool = True,
    on_step: Callable[[TrainingStep], None] | None = None,
    stop: threading.Event | None = None,
) -> Result:
    """Train `student` in place; it ends as the best student so far by held-out loss.

    Runs as it is under `torchrun` or `accelerate launch`: every process takes its share of each
    batch, and the first one evaluates and writes.

    Args:
        student: from `student.build`, best after `student.fit_head`.
        texts: n training texts with their roles.
        targets: anything that indexes like an array of shape (n, dimension), such as cached
            `Targets`.
        settings: see `TrainingConfig`.
        held_out: texts and targets kept out of training, to choose the best student by; without
            them the last one is kept.
        checkpoints: folder for checkpoints; None keeps nothing on disk.
        resume: go on from a checkpoint there, if it is of this very run.
        on_step: called after every step and evaluation.
        stop: when set, training ends between two steps, with a checkpoint.

    Raises:
        TrainingError: a check before the start failed, a checkpoint is of another run, or the loss
            stopped being a number.
    """
    check(student, texts, targets, held_out, batch_size=settings.batch_size)
    accelerator = Accelerator(cpu=student.device.type == "cpu")
    if settings.batch_size % accelerator.num_processes:
        raise TrainingError(
            f"batch_size {settings.batch_size} cannot be shared by {accelerator.num_processes} processes"
        )
    torch.manual_seed(settings.seed + accelerator.process_index)
    run = Run(student, texts, targets, settings, held_out, accelerator, on_step)
    saver = Checkpoints(Path(checkpoints), run) if checkpoints else None
    if saver and resume:
        saver.restore()
    with _dropout(student, settings.dropout):
        stopped = run.train(saver, stop)
    run.keep_best()
    return Result(pd.DataFrame(run.history), run.best_step, run.best_loss, stopped, run.speed())


def provenance(
    cache: TargetCache,
    texts: Sequence[Text],
    *,
    teacher: str,
    base: str,
    source: str,
    start: str = "closed-form",
    settings: TrainingConfig | None = None,
    result: Result | None = None,
    rotated: bool = False,
) -> dict:
    """Say how a student came to be, as JSON values: what `student.save` keeps and a model card is written from.

    Args:
        cache: of the targets.
        texts: learned from.
        teacher: the teacher's name.
        base: name of the model that the student started from.
        source: where the texts are from, in words or as the command line has it.
        start: how the head started.
        settings: trained with; None for a student that is nothing but its start.
        result: of the training.
        rotated: whether it learned `Targets.rotated`, so that the teacher's own vectors are of another space.
    """
    return {
        "teacher": cache.identity,
        "teacher_name": teacher,
        "fingerprint": cache.identity.get("fingerprint"),
        "base": base,
        "texts": source,
        "texts_by_role": {role: len(rows) for role, rows in by_role(texts).items()},
        "start": start,
        "rotated": rotated,
        "settings": None if settings is None else asdict(settings),
        "held_out_loss": None if result is None else result.best_loss,
        "best_step": None if result is None else result.best_step,
        "finished": result is None or not result.stopped,
        "workbench": __version__,
    }


def validate(student: SentenceTransformer, texts: Sequence[Text], targets: np.ndarray) -> dict[str, float]:
    """Compare a student with its targets.

    Returns:
        `loss` (mean squared L2 distance), `cosine` (mean), and `cosine_query` and
        `cosine_document` for the roles that occur.
    """
    if not len(texts) or len(texts) != len(targets):
        raise TrainingError(f"{len(texts):,} texts and {len(targets):,} targets are out of step, or none at all")
    vectors = models.encode(student, texts)
    wanted = np.asarray(targets[np.arange(len(texts))], dtype=np.float32)
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(wanted, axis=1)
    cosines = (vectors * wanted).sum(axis=1) / np.maximum(norms, 1e-12)
    figures = {
        "loss": float(((vectors - wanted) ** 2).sum(axis=1).mean()),
        "cosine": float(cosines.mean()),
    }
    return figures | {f"cosine_{role}": float(cosines[rows].mean()) for role, rows in by_role(texts).items()}


# --- checks before anything expensive -------------------------------------------------------------


def check(
    student: SentenceTransformer,
    texts: Sequence[Text],
    targets: np.ndarray,
    held_out: tuple[Sequence[Text], np.ndarray] | None = None,
    *,
    batch_size: int = 32,
) -> None:
    """Find what would spoil a training run before it starts.

    Raises:
        TrainingError: too few texts, texts and targets out of step, a wrong width, NaN, or targets
            whose norms the student cannot reach. A role that does not occur is a warning.
    """
    width = head_of(student).out_features
    normalize = models.normalizes(student)
    for name, some, wanted in (("training", texts, targets), *((("held-out", *held_out),) if held_out else ())):
        least = batch_size if name == "training" else 1
        if len(some) < least:
            raise TrainingError(f"{len(some):,} {name} texts are too few; {least} is the least")
        if len(some) != len(wanted):
            raise TrainingError(f"{len(some):,} {name} texts and {len(wanted):,} targets are out of step")
        if wanted.shape[1] != width:
            raise TrainingError(
                f"the {name} targets are {wanted.shape[1]} wide and the student's vectors {width}: "
                "build the student with the teacher's dimension"
            )
        blank = sum(not text.text.strip() for text in some)
        if blank:
            raise TrainingError(f"{blank:,} of {len(some):,} {name} texts are blank: leave them out")
        for start in range(0, len(some), 8192):
            norms = np.linalg.norm(wanted[np.arange(start, min(start + 8192, len(some)))], axis=1)
            if not np.isfinite(norms).all():
                where = start + int(np.argmin(np.isfinite(norms)))
                raise TrainingError(f"{name} target {where:,} contains NaN or infinity ({some[where].text[:60]!r})")
            if normalize and np.abs(norms - 1).max() > 0.01:
                where = start + int(np.argmax(np.abs(norms - 1)))
                raise TrainingError(
                    f"the student's vectors have unit norm, but {name} target {where:,} has norm "
                    f"{norms[where - start]:.3f}: build it with normalize=False"
                )
    if not normalize and np.abs(np.linalg.norm(targets[np.arange(min(256, len(texts)))], axis=1) - 1).max() < 0.01:
        warnings.warn("all targets have unit norm: a student built with normalize=True fits better", stacklevel=3)
    if absent := {"query", "document"} - set(by_role(texts)):
        warnings.warn(f"no {absent.pop()} among the training texts; a student learns the roles it sees", stacklevel=3)
    _check_in_step(student, texts, targets)


def _check_in_step(student: SentenceTransformer, texts: Sequence[Text], targets: np.ndarray) -> None:
    """The student's features must say something about their targets.

    A permutation test on a sample: a ridge regression has to predict unseen targets better than it
    does after shuffling them within each role, so that shifted or shuffled vectors are noticed
    whatever the models.
    """
    if len(texts) < 200:
        return
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(texts), size=min(400, len(texts)), replace=False)
    sample = [texts[i] for i in chosen]
    features = torch.from_numpy(pooled(student, sample)).double()
    wanted = torch.from_numpy(np.asarray(targets[chosen], dtype=np.float32)).double()
    fitted = len(chosen) * 3 // 4
    roles = by_role(sample)

    def error(order: np.ndarray) -> float:
        weight, bias = ridge(features[:fitted], wanted[order[:fitted]], 0.1)
        return float((features[fitted:] @ weight.T + bias - wanted[order[fitted:]]).pow(2).sum(dim=1).mean())

    def shuffled() -> np.ndarray:
        order = np.arange(len(sample))
        for rows in roles.values():
            order[rows] = rng.permutation(rows)
        return order

    found, by_chance = error(np.arange(len(sample))), np.array([error(shuffled()) for _ in range(20)])
    if found > by_chance.mean() - 3 * by_chance.std():
        raise TrainingError(
            f"texts and targets look out of step: {fitted} of them say no more about the others (squared error "
            f"{found:.3f}) than after shuffling ({by_chance.mean():.3f}). Check that row i of the targets belongs to text i."
        )


# --- the loop -------------------------------------------------------------------------------------


class Run:
    """The state of one training run."""

    def __init__(
        self,
        student: SentenceTransformer,
        texts: Sequence[Text],
        targets: np.ndarray,
        settings: TrainingConfig,
        held_out: tuple[Sequence[Text], np.ndarray] | None,
        accelerator: Accelerator,
        on_step: Callable[[TrainingStep], None] | None,
    ) -> None:
        self.student, self.targets, self.settings, self.held_out = student, targets, settings, held_out
        self.accelerator, self.on_step = accelerator, on_step
        self.tokens = _Tokens(student, texts)
        self.lengths = self.tokens.lengths
        self.steps_per_epoch = math.ceil(len(texts) / settings.batch_size)
        self.steps = self.steps_per_epoch * settings.epochs * settings.restarts
        self.step = 0
        self.history: list[dict] = []
        self.best_loss: float | None = None
        self.best_step = 0
        self.best: dict[str, torch.Tensor] | None = None
        self.identity = {
            "settings": asdict(settings),
            "texts": _digest(texts),
            "targets": hashlib.sha256(np.ascontiguousarray(targets[:: max(1, len(texts) // 64)])).hexdigest(),
            "student": [[name, *tensor.shape] for name, tensor in student.state_dict().items()],
            "processes": accelerator.num_processes,
        }
        for parameter in _without_gradient(student):
            parameter.requires_grad_(False)
        trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.model, self.optimizer = accelerator.prepare(student, optimizer)
        self._trained_texts, self._seconds = 0, 0.0

    def train(self, saver: Checkpoints | None, stop: threading.Event | None) -> bool:
        """Take steps until the end or until stopped; return whether it was stopped."""
        self.student.train()
        if self.step == 0:
            self._evaluate(None)
        while self.step < self.steps:
            epoch = self.step // self.steps_per_epoch
            for batch in self._batches(epoch)[self.step % self.steps_per_epoch :]:
                if self._stop_asked(stop):
                    if saver:
                        saver.write()
                    return True
                loss = self._take_step(batch)
                if self._evaluation_due():
                    self._evaluate(loss)
                    if saver:
                        saver.write()
                else:
                    self._record(loss)
                    if saver and self.step % self.settings.checkpoint_steps == 0:
                        saver.write()
        return False

    def keep_best(self) -> None:
        """Put the best student's weights into the student; the last one's without held-out texts."""
        if self.best is not None:
            self.student.load_state_dict(self.best)
        self.student.eval()

    def speed(self) -> float:
        """Return the training speed since this run began, texts a second, evaluations left out."""
        return self._trained_texts / self._seconds if self._seconds else 0.0

    def learning_rate(self) -> float:
        """Return the rate of the next step: falling linearly, and anew in each cycle."""
        settings = self.settings
        in_cycle = self.steps_per_epoch * settings.epochs
        done = (self.step % in_cycle) / max(1, in_cycle - 1)
        return settings.learning_rate + (settings.final_learning_rate - settings.learning_rate) * min(1.0, done)

    def _batches(self, epoch: int) -> list[np.ndarray]:
        """Return the epoch's batches, a function of seed and epoch alone."""
        rng = np.random.default_rng([self.settings.seed, epoch])
        size = self.settings.batch_size
        order = rng.permutation(len(self.lengths))
        if not self.settings.group_by_length:
            return [order[start : start + size] for start in range(0, len(order), size)]
        batches = []
        for start in range(0, len(order), size * _POOL_BATCHES):
            pool = order[start : start + size * _POOL_BATCHES]
            pool = pool[np.argsort(self.lengths[pool], kind="stable")]
            batches += [pool[i : i + size] for i in range(0, len(pool), size)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def _take_step(self, batch: np.ndarray) -> float:
        started = time.perf_counter()
        device = self.accelerator.device
        rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        mine = batch[self.accelerator.process_index :: self.accelerator.num_processes]
        # A last batch can be smaller than the number of processes: an idle one adds nothing.
        rows = mine if len(mine) else batch[:1]
        features = {name: tensor.to(device) for name, tensor in self._features(rows).items()}
        wanted = torch.from_numpy(np.asarray(self.targets[rows], dtype=np.float32)).to(device)
        with models.autocast(device, self.settings.precision):
            output = self.model(features)["sentence_embedding"]
        distances = (output.float() - wanted).pow(2).sum(dim=1)
        # The processes' gradients are averaged, so each counts its texts against the whole batch.
        share = self.accelerator.num_processes * bool(len(mine)) / len(batch)
        loss = distances.sum() * share
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        if self.settings.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        value = float(self.accelerator.reduce(loss.detach(), reduction="mean"))
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} at step {self.step + 1}: lower the learning rate, or train in float32. "
                "Checkpoints written before are intact."
            )
        self.optimizer.step()
        self.step += 1
        self._trained_texts += len(batch)
        self._seconds += time.perf_counter() - started
        return value

    def _features(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        longest = int(self.lengths[rows].max())
        ids = np.full((len(rows), longest), self.student.tokenizer.pad_token_id or 0, dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : self.lengths[row]] = self.tokens[row]
            mask[i, : self.lengths[row]] = 1
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def _evaluation_due(self) -> bool:
        every = max(1, self.steps_per_epoch // self.settings.evaluations)
        in_epoch = self.step % self.steps_per_epoch
        # The last one of an epoch is at its end, whatever the rounding.
        return in_epoch == 0 or (in_epoch % every == 0 and self.steps_per_epoch - in_epoch >= every)

    def _evaluate(self, loss: float | None) -> None:
        figures: dict[str, float] = {}
        if self.held_out and self.accelerator.is_main_process:
            figures = validate(self.student, *self.held_out)
            self.student.train()
            if self.best_loss is None or figures["loss"] < self.best_loss:
                self.best_loss, self.best_step = figures["loss"], self.step
                self.best = {name: t.detach().cpu().clone() for name, t in self.student.state_dict().items()}
        elif not self.held_out:
            self.best_step = self.step
        self._record(loss, figures)

    def _record(self, loss: float | None, figures: dict[str, float] | None = None) -> None:
        figures = figures or {}
        event = TrainingStep(
            step=self.step,
            steps=self.steps,
            epoch=self.step / self.steps_per_epoch,
            loss=loss,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            texts_per_second=self.speed(),
            held_out_loss=figures.get("loss"),
            cosine_query=figures.get("cosine_query"),
            cosine_document=figures.get("cosine_document"),
        )
        self.history.append(asdict(event))
        if self.on_step and self.accelerator.is_main_process:
            self.on_step(event)

    def _stop_asked(self, stop: threading.Event | None) -> bool:
        asked = stop is not None and stop.is_set()
        if self.accelerator.num_processes > 1:  # all processes take the same number of steps
            asked = bool(self.accelerator.reduce(torch.tensor(float(asked), device=self.accelerator.device)))
        return asked


class _Tokens:
    """The token ids of all texts, in a file that goes with the process: memory does not grow with their lengths."""

    def __init__(self, student: SentenceTransformer, texts: Sequence[Text]) -> None:
        dtype = np.dtype(np.uint16 if len(student.tokenizer) <= 1 << 16 else np.uint32)
        self.lengths = np.empty(len(texts), dtype=np.int32)
        try:
            with tempfile.TemporaryFile() as file:
                for start in range(0, len(texts), 8192):
                    prompted = [
                        (student.prompts.get(text.role.value) or "") + text.text for text in texts[start : start + 8192]
                    ]
                    ids = student.tokenizer(
                        prompted, truncation=True, max_length=student.max_seq_length, padding=False
                    )["input_ids"]
                    self.lengths[start : start + 8192] = [len(each) for each in ids]
                    file.write(np.concatenate(ids).astype(dtype).tobytes())
                file.flush()
                self._ids = np.memmap(file, dtype=dtype, mode="r")
        except OSError as error:
            raise TrainingError(
                f"the texts' tokens cannot be kept in {tempfile.gettempdir()}: {error.strerror or error}. TMPDIR names "
                "another folder."
            ) from None
        self._ends = np.cumsum(self.lengths, dtype=np.int64)

    def __getitem__(self, row: int) -> np.ndarray:
        """Return one text's ids, of shape (tokens,)."""
        return self._ids[self._ends[row] - self.lengths[row] : self._ends[row]]


def _digest(texts: Sequence[Text]) -> str:
    digest = hashlib.sha256()
    for number, text in enumerate(texts):
        digest.update(f"{chr(0) if number else ''}{text.role}:{text.text}".encode())
    return digest.hexdigest()


def _without_gradient(student: SentenceTransformer) -> Iterator[torch.nn.Parameter]:
    """Yield parameters that mean pooling never uses (BERT's pooler): no gradient ever reaches them."""
    pooler = getattr(student[0].model, "pooler", None)
    if pooler is not None:
        yield from pooler.parameters()


class _dropout:
    """Set the dropout probability inside a `with` block, None to leave it."""

    def __init__(self, student: SentenceTransformer, probability: float | None) -> None:
        self.probability = probability
        self.before = {m: m.p for m in student.modules() if isinstance(m, torch.nn.Dropout)}

    def __enter__(self) -> None:
        if self.probability is not None:
            for module in self.before:
                module.p = self.probability

    def __exit__(self, *_: object) -> None:
        for module, probability in self.before.items():
            module.p = probability
