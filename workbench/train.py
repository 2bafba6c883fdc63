"""Train a student on the squared L2 distance to teacher embeddings."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from sentence_transformers import SentenceTransformer
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import Ridge
from sklearn.model_selection import permutation_test_score

from workbench import __version__, _checkpoints, models
from workbench import student as students
from workbench._util import one_of, whole_number
from workbench.cache import TargetCache
from workbench.data import Text, as_texts
from workbench.errors import TrainingError


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. The defaults take minutes on two cores for some thousand texts."""

    batch_size: int = 16  # texts of a step, over all processes together
    learning_rate: float = 3e-4  # at the start of each cycle; it falls linearly
    final_learning_rate: float = 1e-5  # at the end of each cycle
    epochs: int = 2  # passes over the texts in one cycle
    restarts: int = 1  # number of learning-rate cycles
    weight_decay: float = 0.01  # of AdamW
    max_grad_norm: float | None = 1.0  # gradients are clipped to this norm
    dropout: float = 0.0  # in the backbone
    precision: str = "auto"  # bfloat16 autocast where it is faster; or "bfloat16", "float32"
    group_by_length: bool = True  # batches of similar length, which need little padding
    evaluations: int = 2  # held-out evaluations an epoch, each with a checkpoint
    checkpoint_steps: int = 200  # steps between further checkpoints; a kill loses no more
    seed: int = 0  # of batches and dropout
    check_pairs: bool = True  # refuse texts and targets that look out of step

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "restarts", "evaluations", "checkpoint_steps"):
            whole_number(getattr(self, name), name, error=TrainingError)
        one_of(self.precision, "precision", models.PRECISIONS, TrainingError)
        whole_number(self.seed, "seed", 0, TrainingError)
        for name in ("learning_rate", "final_learning_rate", "weight_decay", "dropout"):
            value, most = getattr(self, name), 0.99 if name == "dropout" else 1000
            if not isinstance(value, int | float) or not 0 <= value <= most:
                raise TrainingError(f"{name} is {value!r}; expected a number from 0 to {most}")
        if not 0 < self.final_learning_rate <= self.learning_rate:
            raise TrainingError("final_learning_rate: expected above 0, at most learning_rate")

    def with_steps(self, least: int, texts: int) -> TrainingConfig:
        """Return the configuration with enough epochs for `least` steps on so many texts."""
        steps = math.ceil(texts / self.batch_size) * self.restarts
        return replace(self, epochs=max(self.epochs, math.ceil(least / max(1, steps))))


@dataclass(frozen=True)
class TrainingStep:
    """One training step, as `on_step` gets it; held-out figures only after an evaluation."""

    step: int  # steps done; 0 is the start, before any
    steps: int  # in all
    epoch: float  # passes done, with fraction
    loss: float | None  # of the step's batch; None at step 0
    learning_rate: float
    texts_per_second: float  # training speed of this run
    held_out_loss: float | None = None
    cosine_query: float | None = None  # mean over held-out queries
    cosine_document: float | None = None  # the same over documents


@dataclass(frozen=True)
class Result:
    """The outcome of training."""

    history: pd.DataFrame  # a row for each `TrainingStep`
    best_step: int  # step of the student that was kept
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
    tokens: models.Tokens | None = None,
) -> Result:
    """Train `student` in place; it ends as the best student by held-out loss.

    Best after `student.fit_head`. Targets index like an array of shape (n, dimension). Without
    `held_out` texts and targets the last student is kept. Under `torchrun` every process takes its
    share of each batch. `stop` ends training between two steps, with a checkpoint in the folder
    `checkpoints`, to go on from. TrainingError if a checkpoint is of another run.
    """
    texts = as_texts(texts)
    students.check_targets(student, len(texts), targets)
    if config.check_pairs and len(texts) >= 200:
        _check_in_step(student, texts, targets)
    evaluate = None
    if held_out is not None:
        unseen = as_texts(held_out[0], "held_out")
        students.check_targets(student, len(unseen), held_out[1])
        unseen_tokens, roles = models.Tokens(student, unseen), models.by_role(unseen)

        def evaluate() -> dict[str, float]:
            vectors = models.forward_batches(student, unseen_tokens.batches(), len(unseen))
            return figures(vectors, held_out[1], roles)

    digest = hashlib.sha256(np.ascontiguousarray(targets[:: max(1, len(texts) // 64)]))
    if checkpoints is not None:
        for text in texts:
            digest.update(f"{text.role}:{text.text}\0".encode())
    tokens, backbone = tokens or models.Tokens(student, texts), student[0].model
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = config.dropout
    attention = getattr(backbone.config, "_attn_implementation", None)
    # On a CPU the backward pass of fused attention is slower than that of plain products.
    if attention == "sdpa" and student.device.type == "cpu":
        backbone.set_attn_implementation("eager")
    result = train(
        student,
        tokens.batch,
        targets,
        config,
        lengths=tokens.lengths if config.group_by_length else None,
        evaluate=evaluate,
        checkpoints=checkpoints and Path(checkpoints),
        identity={
            "config": asdict(config),
            "texts and targets": digest.hexdigest(),
            "student": [
                [name, list(tensor.shape)] for name, tensor in student.state_dict().items()
            ],
        },
        resume=resume,
        on_step=on_step,
        stop=stop,
    )
    if attention == "sdpa":
        backbone.set_attn_implementation(attention)
    return result


def train(
    model: torch.nn.Module,
    inputs: Callable[[np.ndarray], dict[str, torch.Tensor]],
    targets: np.ndarray,
    config: TrainingConfig,
    *,
    lengths: np.ndarray | None = None,
    evaluate: Callable[[], dict[str, float]] | None = None,
    checkpoints: Path | None = None,
    identity: dict | None = None,
    resume: bool = True,
    on_step: Callable[[TrainingStep], None] | None = None,
    stop: threading.Event | None = None,
) -> Result:
    """Train a model in place, from the first step to the last; it ends as the best one.

    `inputs` returns the model's input for some rows, and `evaluate` the held-out figures. Texts of
    like `lengths` share a batch. A checkpoint of another `identity` (JSON values) is refused.
    """
    accelerator = Accelerator(cpu=next(model.parameters()).device.type == "cpu")
    device, process = accelerator.device, accelerator.process_index
    processes, is_main = accelerator.num_processes, accelerator.is_main_process
    torch.manual_seed(config.seed + process)
    steps_per_epoch = math.ceil(len(targets) / config.batch_size)
    steps_per_cycle = steps_per_epoch * config.epochs
    steps = steps_per_cycle * config.restarts
    evaluation_steps = max(1, steps_per_epoch // config.evaluations)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    parallel_model, optimizer = accelerator.prepare(model, optimizer)

    identity = {**(identity or {}), "processes": processes, "device": device.type}
    state = {"step": -1, "best_step": 0, "best_loss": None, "history": [], "identity": identity}
    best = {}  # weights
    if checkpoints and resume:
        saved, best = _checkpoints.restore(checkpoints, identity, model, optimizer, accelerator)
        state |= saved

    model.train()
    batches = _batches(len(targets), lengths, config, first=max(0, state["step"]))
    trained_texts, seconds, speed, stopped = 0, 0.0, 0.0, False
    for step in range(state["step"] + 1, steps + 1):
        loss, learning_rate, started = None, config.learning_rate, time.perf_counter()
        if step > 0:  # step 0 only evaluates the start
            # The rate falls linearly within each cycle, and starts again with the next one.
            progress = (step - 1) % steps_per_cycle / max(1, steps_per_cycle - 1)
            learning_rate += progress * (config.final_learning_rate - learning_rate)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            # Gradients are averaged over the processes, so each divides by its part of the batch.
            # A process that gets none of a small last batch computes a text of no weight.
            batch = next(batches)
            rows = batch[process::processes]
            weight = processes / len(batch) if len(rows) else 0.0
            rows = rows if len(rows) else batch[:1]
            tensors = {name: tensor.to(device) for name, tensor in inputs(rows).items()}
            target = torch.from_numpy(np.asarray(targets[rows], dtype=np.float32)).to(device)
            with models.autocast(device, config.precision):
                output = parallel_model(tensors)["sentence_embedding"]
            loss = (output.float() - target).pow(2).sum() * weight
            optimizer.zero_grad()
            accelerator.backward(loss)
            if config.max_grad_norm is not None:
                accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            loss = float(accelerator.reduce(loss.detach(), reduction="mean"))
            if not math.isfinite(loss):
                advice = "lower the learning rate, or train in float32"
                raise TrainingError(f"the loss is {loss} at step {step}: {advice}")
            optimizer.step()
            trained_texts += len(batch)
            seconds += time.perf_counter() - started
            speed = trained_texts / seconds

        # The last evaluation of an epoch is at its end, whatever the rounding.
        in_epoch = step % steps_per_epoch
        left = steps_per_epoch - in_epoch
        due = in_epoch == 0 or (in_epoch % evaluation_steps == 0 and left >= evaluation_steps)
        measured = {}
        if evaluate is None:
            state["best_step"] = step
        elif due and is_main:
            measured = evaluate()
            model.train()
            if state["best_loss"] is None or measured["loss"] < state["best_loss"]:
                state |= {"best_loss": measured["loss"], "best_step": step}
                best = {name: t.detach().cpu().clone() for name, t in model.state_dict().items()}
        held_out = [measured.get(name) for name in ("loss", "cosine_query", "cosine_document")]
        epoch = step / steps_per_epoch
        event = TrainingStep(step, steps, epoch, loss, learning_rate, speed, *held_out)
        state["step"] = step
        state["history"].append(asdict(event))
        if on_step is not None and is_main:  # a tqdm bar has no truth value
            on_step(event)

        # All processes have to end at the same step.
        stops = torch.tensor(float(stop is not None and stop.is_set()), device=device)
        stopped = bool(accelerator.reduce(stops)) and step < steps
        if checkpoints and step and (due or stopped or step % config.checkpoint_steps == 0):
            _checkpoints.write(checkpoints, state, best, model, optimizer, accelerator)
        if stopped:
            break
    if best:
        model.load_state_dict(best)
    model.eval()
    history = pd.DataFrame(state["history"])
    return Result(history, state["best_step"], state["best_loss"], stopped, speed)


def _batches(
    count: int, lengths: np.ndarray | None, config: TrainingConfig, first: int
) -> Iterator[np.ndarray]:
    """Yield the rows of each batch from number `first` on; they depend on seed and epoch alone."""
    size = config.batch_size
    pool_size = 50 * size  # sorted by length together: random enough, with little padding
    steps_per_epoch = math.ceil(count / size)
    for epoch in range(first // steps_per_epoch, config.epochs * config.restarts):
        rng = np.random.default_rng([config.seed, epoch])
        order = rng.permutation(count)
        if lengths is not None:
            for start in range(0, count, pool_size):
                pool = order[start : start + pool_size]
                pool[:] = pool[np.argsort(lengths[pool], kind="stable")]
        batches = [order[start : start + size] for start in range(0, count, size)]
        if lengths is not None:
            batches = [batches[i] for i in rng.permutation(len(batches))]
        yield from batches[first % steps_per_epoch :]
        first = 0


def _check_in_step(
    student: SentenceTransformer, texts: Sequence[Text], targets: np.ndarray
) -> None:
    """Raise TrainingError if texts predict targets no better than others do (permutation test)."""
    rows = np.random.default_rng(0).choice(len(texts), size=min(400, len(texts)), replace=False)
    sample, fitted = [texts[row] for row in rows], len(rows) * 3 // 4
    options = {
        "groups": np.array([text.role for text in sample]),  # targets are shuffled within them
        "cv": [np.split(np.arange(len(rows)), [fitted])],
        "scoring": "neg_mean_squared_error",
    }
    # The features of a weak base can fail although all is well, so letters get a chance too.
    letters = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), n_features=512)
    letters = letters.transform([text.text for text in sample]).toarray()
    for features in (students.pooled(student, sample), letters):
        ridge = Ridge(0.1 * fitted * features[:fitted].var(axis=0).mean())
        score, by_chance, _ = permutation_test_score(
            ridge, features, targets[rows], n_permutations=20, random_state=0, **options
        )
        if score >= by_chance.mean() + 3 * by_chance.std():
            return
    raise TrainingError(
        "texts and targets seem misaligned: prediction is no better than after shuffling. Row i of "
        "the targets has to belong to text i; if it does, set check_pairs=False"
    )


def figures(
    vectors: np.ndarray, targets: np.ndarray, roles: dict[str, np.ndarray]
) -> dict[str, float]:
    """Return the mean squared L2 distance, `loss`, the mean cosine, and that of each role."""
    targets = np.asarray(targets, dtype=np.float32)
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(targets, axis=1)
    cosines = (vectors * targets).sum(axis=1) / np.maximum(norms, 1e-12)
    loss = float(((vectors - targets) ** 2).sum(axis=1).mean())
    by_roles = {f"cosine_{role}": float(cosines[rows].mean()) for role, rows in roles.items()}
    return {"loss": loss, "cosine": float(cosines.mean()), **by_roles}


def validate(
    student: SentenceTransformer, texts: Sequence[Text], targets: np.ndarray
) -> dict[str, float]:
    """Return a student's `figures` on texts and their targets."""
    return figures(models.encode(student, texts), targets, models.by_role(texts))


def provenance(
    cache: TargetCache,
    texts: Sequence[Text],
    *,
    source: str,
    config: TrainingConfig | None = None,
    result: Result | None = None,
    **more: object,
) -> dict:
    """Describe how a student was made, as JSON values for `student.save` and the model card.

    `source` says where the texts are from, and `more` are further entries, such as `base`.
    """
    return {
        "teacher": cache.identity,
        "teacher_name": cache.teacher.name,
        "fingerprint": cache.identity.get("fingerprint"),
        "prompts": dict(cache.prompts),
        "texts": source,
        "texts_by_role": {role: len(rows) for role, rows in models.by_role(texts).items()},
        "settings": config and asdict(config),
        "held_out_loss": result and result.best_loss,
        "texts_per_second": result and round(result.texts_per_second, 1),
        "finished": result is None or not result.stopped,
        "workbench": __version__,
        **more,
    }
