"""Train a student's head alone, on stored features of its transformer: seconds where the whole student takes minutes."""

from __future__ import annotations

import copy
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
import torch
from sentence_transformers import SentenceTransformer

from workbench import models
from workbench._util import spread
from workbench.data import Role, Text
from workbench.errors import TrainingError
from workbench.student import head_of, mean_and_deviation, pooled
from workbench.teachers import Teacher
from workbench.train import Result, TrainingConfig, TrainingStep

HEAD = TrainingConfig(batch_size=512, learning_rate=1e-3, epochs=10, dropout=0.1)
_ROWS = 8192  # held-out rows at once
_LEAST_STEPS = 200  # the first ones disturb a head that starts as the closed form, and a few more do not mend it
_MEASURED = 20_000  # rows that say how much each feature varies


class FrozenFeatures(Teacher):
    """What a student's transformer gives its head, as a `Teacher`: a `TargetCache` then keeps features as it keeps targets.

    Args:
        student: its head is not looked at. Another base, length or prompt, or trained weights, are another teacher.
    """

    def __init__(self, student: SentenceTransformer) -> None:
        transformer, pooling = list(student.children())[:2]
        self._student = SentenceTransformer(
            modules=[transformer, pooling],
            device=str(student.device),
            prompts=dict(student.prompts),
        ).eval()
        super().__init__(
            "base-features",
            pooling.pooling_output_dimension,
            normalize=False,
            prompts={role.value: student.prompts.get(role.value) or "" for role in Role},
            kind="features",
            weights=models.fingerprint(self._student),
            max_length=student.max_seq_length,
        )

    def encode(
        self,
        texts: Sequence[str],
        role: Role = Role.DOCUMENT,
        *,
        stop: threading.Event | None = None,
    ) -> np.ndarray:
        """Return the features of texts of one role, float32 of shape (n, width)."""
        return pooled(self._student, [Text(text, role) for text in texts])


@torch.no_grad()
def through_head(student: SentenceTransformer, features: np.ndarray) -> np.ndarray:
    """Return a student's vectors, float32 of shape (n, dimension), of texts whose features are there, of shape (n, width)."""
    x = torch.from_numpy(np.asarray(features, dtype=np.float32)).to(student.device)
    modules = list(student.children())[2:]
    return (
        torch.nn.Sequential(*modules)({"sentence_embedding": x})["sentence_embedding"].cpu().numpy()
    )


def train_head(
    student: SentenceTransformer,
    features: np.ndarray,
    targets: np.ndarray,
    config: TrainingConfig = HEAD,
    *,
    held_out: tuple[np.ndarray, np.ndarray] | None = None,
    on_step: Callable[[TrainingStep], None] | None = None,
    stop: threading.Event | None = None,
) -> Result:
    """Train a student's head on the squared L2 distance of its output to the targets; the transformer stays as it is.

    AdamW on standardized features, with a rate that falls linearly over all passes. It is fast enough to need no checkpoint.

    Args:
        student: gets the trained head in the end; best after `student.fit_head`.
        features: anything that indexes like an array of shape (n, width): what the head gets of n texts, such as the
            `targets` of a cache of `FrozenFeatures`.
        targets: the same of shape (n, dimension).
        config: `epochs`, `batch_size` (less where all passes together would have under 200 steps), the learning rates,
            `weight_decay`, `precision`, `seed`, and `dropout` of the hidden units of a head of two layers. The rest is for
            `train_student`.
        held_out: features and targets to choose the best pass by, the start included; the last one is kept without. Take
            whole sources that are not trained on: a loss on other texts of the same sources falls while the student
            gets worse on subjects that it has not seen.
        on_step: called after every pass.
        stop: when set, training ends after the pass under way.

    Raises:
        TrainingError: widths or numbers of rows that do not fit, or a loss that became NaN or infinite.
    """
    given, device = [module.linear for module in head_of(student)], student.device
    head = copy.deepcopy(given)
    for what, some, wanted in (
        ("", features, targets),
        *([("held-out ", *held_out)] if held_out else []),
    ):
        fitting = (len(some), head[0].in_features), (len(some), head[-1].out_features)
        if (tuple(some.shape), tuple(wanted.shape)) != fitting or not len(some):
            raise TrainingError(
                f"{what}features of shape {tuple(some.shape)} and targets of shape {tuple(wanted.shape)} do not fit a head "
                f"from {head[0].in_features} to {head[-1].out_features}: expected a row of each for every text"
            )
    normalize, rng = models.normalizes(student), np.random.default_rng(config.seed)
    generator = torch.Generator(device).manual_seed(config.seed)
    some = features[np.array(spread(len(features), _MEASURED))]
    mean, deviation = mean_and_deviation(
        torch.from_numpy(np.asarray(some, dtype=np.float32)).to(device)
    )
    with (
        torch.no_grad()
    ):  # Adam's steps are then as large for one feature as for another; folded back in the end
        if head[0].bias is None:
            mean = torch.zeros_like(mean)
        else:
            head[0].bias.add_(head[0].weight @ mean)
        head[0].weight.mul_(deviation)
    parameters = [parameter for layer in head for parameter in layer.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    passes = config.epochs * config.restarts
    batch = min(config.batch_size, max(8, len(features) // math.ceil(_LEAST_STEPS / passes)))
    in_pass = math.ceil(len(features) / batch)

    def distances(
        rows: np.ndarray, known: np.ndarray, wanted: np.ndarray, drop: float
    ) -> torch.Tensor:
        x, y = (
            torch.from_numpy(np.asarray(each[rows], dtype=np.float32)).to(device)
            for each in (known, wanted)
        )
        x = (x - mean) / deviation
        with models.autocast(device, config.precision):
            for layer in head[:-1]:
                x = torch.nn.functional.gelu(layer(x))
                if drop:
                    x = (
                        x
                        * (torch.rand(x.shape, generator=generator, device=device) >= drop)
                        / (1 - drop)
                    )
            x = head[-1](x).float()
        return ((torch.nn.functional.normalize(x, dim=1) if normalize else x) - y).pow(2).sum(dim=1)

    @torch.no_grad()
    def held_out_loss() -> float | None:
        if held_out is None:
            return None
        parts = (
            np.arange(i, min(i + _ROWS, len(held_out[0])))
            for i in range(0, len(held_out[0]), _ROWS)
        )
        return float(torch.cat([distances(rows, *held_out, 0) for rows in parts]).mean())

    history, best, seconds, rate = [], (math.inf, 0, None), 0.0, config.learning_rate
    for number in range(passes + 1):
        started, losses = time.perf_counter(), []
        order = rng.permutation(len(features)) if number else []
        for start in range(0, len(order), batch):
            done = ((number - 1) * in_pass + start // batch) / (passes * in_pass)
            rate = config.learning_rate + done * (config.final_learning_rate - config.learning_rate)
            for group in optimizer.param_groups:
                group["lr"] = rate
            rows = np.sort(order[start : start + batch])
            loss = distances(rows, features, targets, config.dropout or 0).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        loss = float(torch.stack(losses).mean()) if losses else None
        if loss is not None and not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss} in pass {number}: lower the learning rate")
        seconds += time.perf_counter() - started
        speed = number * len(features) / seconds if number else 0.0
        step = TrainingStep(
            number * in_pass, passes * in_pass, number, loss, rate, speed, held_out_loss()
        )
        history.append(asdict(step))
        if held_out is None:
            best = math.inf, step.step, parameters
        elif step.held_out_loss < best[0]:
            best = (
                step.held_out_loss,
                step.step,
                [parameter.detach().clone() for parameter in parameters],
            )
        if on_step:
            on_step(step)
        if stop is not None and stop.is_set():
            break
    if best[1]:
        with torch.no_grad():
            for parameter, kept in zip(parameters, best[2], strict=True):
                parameter.copy_(kept)
            head[0].weight.div_(deviation)
            if head[0].bias is not None:
                head[0].bias.sub_(head[0].weight @ mean)
            for layer, trained in zip(given, head, strict=True):
                layer.load_state_dict(trained.state_dict())
    return Result(
        pd.DataFrame(history), best[1], best[0] if held_out else None, number < passes, speed
    )
