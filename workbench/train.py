"""Train a student on the squared L2 distance to cached teacher embeddings."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from sentence_transformers import SentenceTransformer

from workbench import __version__
from workbench._checkpoints import Checkpoints
from workbench._checks import check
from workbench._util import one_of, whole
from workbench.data import Text, as_texts
from workbench.errors import TrainingError
from workbench.models import PRECISIONS, autocast, by_role, encode
from workbench.student import HeadFit, Tokens

if TYPE_CHECKING:
    from workbench.cache import TargetCache

_POOL_BATCHES = 50  # batches drawn together and sorted by length: random enough, little padding


def check_number(
    name: str, value: object, expected: str, fits: Callable[[Real], bool], kind: type = Real
) -> None:
    """Raise TrainingError if a value is not a number of the kind, or does not fit."""
    if not isinstance(value, kind) or isinstance(value, bool) or not fits(value):
        raise TrainingError(f"{name} is {value!r}; expected {expected}")


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. The defaults take minutes on two cores for some thousand texts.

    The learning rate is higher and the batch smaller than the paper's (arXiv 2509.12539): there are hundreds of steps
    here where the paper has millions. `recipes/redact-ir.toml` has the paper's values.

    Attributes:
        batch_size: texts a step, over all processes together.
        learning_rate: at the start of each cycle; it falls linearly to `final_learning_rate`.
        final_learning_rate: at the end of each cycle.
        epochs: passes over the texts in one cycle.
        restarts: number of learning-rate cycles. Every text is read `epochs * restarts` times.
        weight_decay: of AdamW.
        max_grad_norm: gradients are clipped to this norm; None for no clipping.
        dropout: probability in the backbone while training; None keeps the base's own.
        precision: "auto" (bfloat16 autocast where the hardware is faster with it), "float32" or "bfloat16". Weights and
            optimizer stay in float32.
        group_by_length: whether a batch has texts of similar length, drawn at random within a pool of 50 batches;
            faster, because there is little padding.
        evaluations: held-out evaluations an epoch, each with a checkpoint.
        checkpoint_steps: steps between further checkpoints; a kill loses no more than these.
        seed: of batches and dropout.
        check_pairs: refuse texts and targets that look out of step, see `_checks`.

    Raises:
        TrainingError: a value is out of range.
    """

    batch_size: int = 16
    learning_rate: float = 3e-4
    final_learning_rate: float = 1e-5
    epochs: int = 2
    restarts: int = 1
    weight_decay: float = 0.01
    max_grad_norm: float | None = 1.0
    dropout: float | None = 0.0
    precision: str = "auto"
    group_by_length: bool = True
    evaluations: int = 2
    checkpoint_steps: int = 200
    seed: int = 0
    check_pairs: bool = True

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "restarts", "evaluations", "checkpoint_steps"):
            whole(getattr(self, name), name, error=TrainingError)
        check_number(
            "seed",
            self.seed,
            "a whole number from 0 to 2**32 - 1",
            lambda n: 0 <= n < 2**32,
            Integral,
        )
        rate = self.learning_rate
        check_number(
            "learning_rate", rate, "a number above 0, such as 3e-4", lambda n: 0 < n < math.inf
        )
        final = f"a number above 0, at most the learning_rate {rate}"
        check_number(
            "final_learning_rate", self.final_learning_rate, final, lambda n: 0 < n <= rate
        )
        check_number(
            "weight_decay", self.weight_decay, "a number of at least 0", lambda n: 0 <= n < math.inf
        )
        if self.max_grad_norm is not None:
            check_number(
                "max_grad_norm", self.max_grad_norm, "a number above 0, or None", lambda n: n > 0
            )
        if self.dropout is not None:
            check_number(
                "dropout", self.dropout, "a number from 0 to below 1, or None", lambda n: 0 <= n < 1
            )
        one_of(self.precision, "precision", PRECISIONS, TrainingError)

    def with_steps(self, least: int, texts: int) -> TrainingConfig:
        """Return the configuration with enough epochs for `least` steps on so many texts."""
        in_pass = math.ceil(texts / self.batch_size) * self.restarts
        return replace(self, epochs=max(self.epochs, math.ceil(least / max(1, in_pass))))


@dataclass(frozen=True)
class TrainingStep:
    """One training step, as `on_step` gets it; held-out figures only where an evaluation was made."""

    step: int  # steps done; 0 is the start, before any
    steps: int  # in all
    epoch: float  # passes done, with fraction
    loss: float | None  # mean squared L2 distance of the step's batch; None at step 0
    learning_rate: float
    texts_per_second: float  # training speed since the start of this run, evaluations left out
    held_out_loss: float | None = None  # mean squared L2 distance on the held-out texts
    cosine_query: float | None = None  # mean cosine to the target over held-out queries
    cosine_document: float | None = None  # the same over documents


@dataclass(frozen=True)
class Result:
    """What training gave."""

    history: pd.DataFrame  # a row for each `TrainingStep`
    best_step: int  # step of the student that was kept, by held-out loss
    best_loss: float | None  # its held-out loss; None without held-out texts
    stopped: bool  # whether `stop` ended it early
    texts_per_second: float  # training speed of this run


def train_student(
    student: SentenceTransformer,
    texts: Sequence[Text],
    targets: np.ndarray,
    config: TrainingConfig = TrainingConfig(),
    *,
    held_out: tuple[Sequence[Text], np.ndarray] | None = None,
    checkpoints: str | Path | None = None,
    resume: bool = True,
    on_step: Callable[[TrainingStep], None] | None = None,
    stop: threading.Event | None = None,
    tokens: Tokens | None = None,
    digest: str | None = None,
) -> Result:
    """Train `student` in place; it ends as the best student by held-out loss.

    Runs unchanged under `torchrun`: every process takes its share of each batch.

    Args:
        student: from `student.build`, best after `student.fit_head`.
        texts: n training texts; a plain string is a document.
        targets: anything that indexes like an array of shape (n, dimension), such as cached `Targets`.
        config: how to train.
        held_out: texts and targets to choose the best student by; the last one is kept without.
        checkpoints: folder for checkpoints; None keeps nothing on disk.
        resume: continue from a checkpoint in that folder, if it is of this very run.
        on_step: called after every step and evaluation.
        stop: when set, training ends between two steps, with a checkpoint.
        tokens: of the texts, where they exist already.
        digest: identifies the texts in a checkpoint; a hash of the texts if None.

    Raises:
        TrainingError: a check failed, a checkpoint is of another run, or the loss became NaN or infinite.
    """
    texts = as_texts(texts)
    held_out = held_out and (as_texts(held_out[0], "held_out"), held_out[1])
    check(
        student,
        texts,
        targets,
        held_out,
        batch_size=config.batch_size,
        tokens=tokens,
        pairs=config.check_pairs,
    )
    accelerator = Accelerator(cpu=student.device.type == "cpu")
    if config.batch_size % accelerator.num_processes:
        raise TrainingError(
            f"batch_size {config.batch_size} cannot be shared by {accelerator.num_processes} processes"
        )
    torch.manual_seed(config.seed + accelerator.process_index)
    tokens = Tokens(student, texts) if tokens is None else tokens
    run, saver = Run(student, tokens, targets, config, held_out, accelerator, on_step), None
    if checkpoints:
        run.identity = {
            "config": asdict(config),
            "texts": digest or digest_of(texts),
            "targets": hashlib.sha256(
                np.ascontiguousarray(targets[:: max(1, len(texts) // 64)])
            ).hexdigest(),
            "student": [[name, *tensor.shape] for name, tensor in student.state_dict().items()],
            "processes": accelerator.num_processes,
        }
        saver = Checkpoints(Path(checkpoints), run)
        if resume:
            saver.restore()
    # Not under torchrun, where two processes then make another student than one; why is not known.
    plain = (
        _plain_attention(student) if accelerator.num_processes == 1 else contextlib.nullcontext()
    )
    with _dropout(student, config.dropout), plain:
        stopped = run.train(saver, stop)
    if run.best is not None:
        student.load_state_dict(run.best)
    student.eval()
    return Result(pd.DataFrame(run.history), run.best_step, run.best_loss, stopped, run.speed())


class Run:
    """The state of one training run."""

    def __init__(
        self,
        student: SentenceTransformer,
        tokens: Tokens,
        targets: np.ndarray,
        config: TrainingConfig,
        held_out: tuple[Sequence[Text], np.ndarray] | None,
        accelerator: Accelerator,
        on_step: Callable[[TrainingStep], None] | None,
    ) -> None:
        self.student, self.tokens, self.targets, self.config = student, tokens, targets, config
        self.held_out, self.accelerator, self.on_step = held_out, accelerator, on_step
        self.steps_per_epoch = math.ceil(len(tokens) / config.batch_size)
        self.steps = self.steps_per_epoch * config.epochs * config.restarts
        self.step = 0
        self.history: list[dict] = []
        self.best_loss: float | None = None
        self.best_step = 0
        self.best: dict[str, torch.Tensor] | None = None  # its weights
        self.identity: dict = {}
        if (pooler := getattr(student[0].model, "pooler", None)) is not None:
            pooler.requires_grad_(False)  # mean pooling never uses it: no gradient ever reaches it
        trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.model, self.optimizer = accelerator.prepare(student, optimizer)
        self._trained_texts, self._seconds = 0, 0.0

    def train(self, saver: Checkpoints | None, stop: threading.Event | None) -> bool:
        """Take steps until the end or until stopped; return whether training was stopped."""
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
                if evaluated := self._evaluation_due():
                    self._evaluate(loss)
                else:
                    self._record(loss, {})
                if saver and (evaluated or self.step % self.config.checkpoint_steps == 0):
                    saver.write()
        return False

    def speed(self) -> float:
        """Return the training speed since this run began, texts a second, evaluations left out."""
        return self._trained_texts / self._seconds if self._seconds else 0.0

    def learning_rate(self) -> float:
        """Return the rate of the next step: it falls linearly in each cycle."""
        config = self.config
        in_cycle = self.steps_per_epoch * config.epochs
        done = (self.step % in_cycle) / max(1, in_cycle - 1)
        return config.learning_rate + (config.final_learning_rate - config.learning_rate) * min(
            1.0, done
        )

    def _batches(self, epoch: int) -> list[np.ndarray]:
        """Return the epoch's batches, a function of seed and epoch alone."""
        rng = np.random.default_rng([self.config.seed, epoch])
        size = self.config.batch_size
        order = rng.permutation(len(self.tokens))
        if not self.config.group_by_length:
            return [order[start : start + size] for start in range(0, len(order), size)]
        batches = []
        for start in range(0, len(order), size * _POOL_BATCHES):
            pool = order[start : start + size * _POOL_BATCHES]
            pool = pool[np.argsort(self.tokens.lengths[pool], kind="stable")]
            batches += [pool[i : i + size] for i in range(0, len(pool), size)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def _take_step(self, batch: np.ndarray) -> float:
        started = time.perf_counter()
        device = self.accelerator.device
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        mine = batch[self.accelerator.process_index :: self.accelerator.num_processes]
        # A last batch can be smaller than the number of processes: an idle one adds nothing.
        rows = mine if len(mine) else batch[:1]
        features = {name: tensor.to(device) for name, tensor in self.tokens.batch(rows).items()}
        wanted = torch.from_numpy(np.asarray(self.targets[rows], dtype=np.float32)).to(device)
        with autocast(device, self.config.precision):
            output = self.model(features)["sentence_embedding"]
        distances = (output.float() - wanted).pow(2).sum(dim=1)
        # The processes' gradients are averaged, so each counts its texts against the whole batch.
        share = self.accelerator.num_processes * bool(len(mine)) / len(batch)
        loss = distances.sum() * share
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        if self.config.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
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

    def _evaluation_due(self) -> bool:
        every = max(1, self.steps_per_epoch // self.config.evaluations)
        in_epoch = self.step % self.steps_per_epoch
        # The last evaluation of an epoch is at its end, whatever the rounding.
        return in_epoch == 0 or (in_epoch % every == 0 and self.steps_per_epoch - in_epoch >= every)

    def _evaluate(self, loss: float | None) -> None:
        figures: dict[str, float] = {}
        if not self.held_out:
            self.best_step = self.step
        elif self.accelerator.is_main_process:
            figures = validate(self.student, *self.held_out)
            self.student.train()
            if self.best_loss is None or figures["loss"] < self.best_loss:
                self.best_loss, self.best_step = figures["loss"], self.step
                self.best = {
                    name: t.detach().cpu().clone() for name, t in self.student.state_dict().items()
                }
        self._record(loss, figures)

    def _record(self, loss: float | None, figures: dict[str, float]) -> None:
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
        asked = bool(stop and stop.is_set())
        if self.accelerator.num_processes > 1:  # all processes take the same number of steps
            asked = bool(
                self.accelerator.reduce(torch.tensor(float(asked), device=self.accelerator.device))
            )
        return asked


@contextlib.contextmanager
def _plain_attention(student: SentenceTransformer) -> Iterator[None]:
    """Compute attention by plain products on a CPU inside a `with` block: the fused one's backward pass is slow there."""
    backbone = student[0].model
    before = getattr(backbone.config, "_attn_implementation", None)
    change = before == "sdpa" and student.device.type == "cpu"
    if change:
        backbone.set_attn_implementation("eager")
    try:
        yield
    finally:
        if change:
            backbone.set_attn_implementation(before)


@contextlib.contextmanager
def _dropout(student: SentenceTransformer, probability: float | None) -> Iterator[None]:
    """Set the dropout probability inside a `with` block, None to leave it."""
    before = {
        module: module.p for module in student.modules() if isinstance(module, torch.nn.Dropout)
    }
    try:
        for module, p in before.items():
            module.p = p if probability is None else probability
        yield
    finally:
        for module, p in before.items():
            module.p = p


def digest_of(texts: Sequence[Text]) -> str:
    """Return a hash of texts and roles, in their order, as hex digits."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{text.role}:{text.text}\0".encode())
    return digest.hexdigest()


def provenance(
    cache: TargetCache,
    texts: Sequence[Text],
    *,
    base: str,
    source: str,
    start: str = "closed-form",
    config: TrainingConfig | None = None,
    result: Result | None = None,
    head_fit: HeadFit | None = None,
    rotated: bool = False,
) -> dict:
    """Describe how a student was made, as JSON values: for `student.save`, and what a model card is written from.

    Args:
        cache: of the targets.
        texts: the training texts.
        base: name of the model that the student started from.
        source: where the texts are from, in words or as the command line has it.
        start: how the head started, "closed-form" or "random".
        config: of the training; None for a student with a closed-form head and no training.
        result: of the training.
        head_fit: of the closed form.
        rotated: whether the targets were `Targets.rotated`: then the teacher's own vectors are of another space.
    """
    evaluations = (
        "[]"
        if result is None
        else result.history.dropna(subset=["held_out_loss"]).to_json(orient="records")
    )
    return {
        "teacher": cache.identity,
        "teacher_name": cache.teacher.name,
        "fingerprint": cache.identity.get("fingerprint"),
        "prompts": dict(cache.prompts),
        "base": base,
        "texts": source,
        "texts_by_role": {role: len(rows) for role, rows in by_role(texts).items()},
        "start": start,
        "head_fit": None if head_fit is None else asdict(head_fit),
        "rotated": rotated,
        "settings": None if config is None else asdict(config),
        "held_out_loss": None if result is None else result.best_loss,
        "best_step": None if result is None else result.best_step,
        "texts_per_second": None if result is None else round(result.texts_per_second, 1),
        "evaluations": json.loads(evaluations),
        "finished": result is None or not result.stopped,
        "workbench": __version__,
    }


def validate(
    student: SentenceTransformer, texts: Sequence[Text], targets: np.ndarray
) -> dict[str, float]:
    """Return a student's mean squared L2 distance to its targets, `loss`, and its mean `cosine`, also of each role."""
    if not len(texts) or len(texts) != len(targets):
        raise TrainingError(
            f"{len(texts):,} texts and {len(targets):,} targets are out of step, or none at all"
        )
    vectors = encode(student, texts)
    wanted = np.asarray(targets[np.arange(len(texts))], dtype=np.float32)
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(wanted, axis=1)
    cosines = (vectors * wanted).sum(axis=1) / np.maximum(norms, 1e-12)
    figures = {
        "loss": float(((vectors - wanted) ** 2).sum(axis=1).mean()),
        "cosine": float(cosines.mean()),
    }
    return figures | {
        f"cosine_{role}": float(cosines[rows].mean()) for role, rows in by_role(texts).items()
    }
