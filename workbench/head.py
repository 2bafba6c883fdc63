"""Train a student's head alone, on stored features of its base: seconds instead of minutes."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dropout

from workbench import models
from workbench._util import spread
from workbench.data import Role
from workbench.student import check_shapes, head_of, mean_and_deviation
from workbench.teachers import Teacher
from workbench.train import Result, TrainingConfig, TrainingStep, figures, train

HEAD = TrainingConfig(
    batch_size=512, learning_rate=1e-3, epochs=10, dropout=0.1, evaluations=1, max_grad_norm=None
)
# The first steps disturb a head that starts as the closed form, and a few more do not mend it.
_LEAST_STEPS = 200


class FrozenFeatures(Teacher):
    """Teacher that returns the pooled features of a student's base.

    A `TargetCache` of it keeps features as it keeps targets, whatever the student's head.

    `weights` is the digest of the base's files; the loaded weights are hashed if None.
    """

    def __init__(self, student: SentenceTransformer, weights: str | None = None) -> None:
        self._student = SentenceTransformer(
            modules=list(student.children())[:2],
            device=str(student.device),
            prompts=dict(student.prompts),
        ).eval()
        super().__init__(
            "base-features",
            self._student[1].pooling_output_dimension,
            normalize=False,
            prompts={role.value: student.prompts.get(role.value) or "" for role in Role},
            kind="features",
            weights=weights or models.fingerprint(self._student),
            pooling=self._student[1].pooling_mode,
            max_length=student.max_seq_length,
        )

    def encode(self, texts: Sequence[str], role: Role = Role.DOCUMENT, *, stop=None) -> np.ndarray:
        """Return the features of texts of one role, float32 of shape (n, width)."""
        return models.encode_strings(self._student, texts, role)


def through_head(student: SentenceTransformer, features: np.ndarray) -> np.ndarray:
    """Return a student's vectors, float32 of shape (n, dimension), of texts' stored features.

    The features are anything that indexes like an array of shape (n, width).
    """
    return _vectors(torch.nn.Sequential(*list(student.children())[2:]), features)


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
    """Train a student's head; the transformer stays as it is. It is too fast to need checkpoints.

    Args:
        student: best after `student.fit_head`.
        features: anything that indexes like an array of shape (n, width), such as the targets of a
            cache of `FrozenFeatures`.
        targets: the same of shape (n, dimension).
        config: how to train. Batches are smaller where all passes together would have under 200
            steps, and dropout is that of the hidden units.
        held_out: features and targets to choose the best step by. Take whole sources that are not
            trained on: a loss on other texts of the same sources falls while the student gets
            worse on subjects that it has not seen.
        on_step, stop: as for `train.train_student`.

    Raises:
        TrainingError: features and targets do not fit, or the loss became NaN or infinite.
    """
    layers = head_of(student)
    for inputs, outputs in filter(None, [(features, targets), held_out]):
        check_shapes(student, len(outputs), outputs, inputs)
    passes = config.epochs * config.restarts
    largest_batch = max(8, len(features) // math.ceil(_LEAST_STEPS / passes))
    config = replace(config, batch_size=min(config.batch_size, largest_batch))

    modules = copy.deepcopy(list(student.children())[2:])
    trained_layers = modules[: len(layers)]
    first = trained_layers[0].linear
    sample = np.asarray(features[np.array(spread(len(features), 20_000))], dtype=np.float32)
    mean, deviation = mean_and_deviation(torch.from_numpy(sample).to(student.device))
    # Features are standardized, because Adam's steps are then as large for one feature as for
    # another. The first layer takes that in here, and is folded back in the end.
    with torch.no_grad():
        if first.bias is None:
            mean = torch.zeros_like(mean)
        else:
            first.bias.add_(first.weight @ mean)
        first.weight.mul_(deviation)
    if len(layers) == 2:
        modules.insert(1, Dropout(config.dropout or 0.0))
    head = torch.nn.Sequential(_Standardize(mean, deviation), *modules)
    result = train(
        head,
        lambda rows: _inputs(features, rows),
        targets,
        config,
        evaluate=held_out and (lambda: figures(_vectors(head, held_out[0]), held_out[1], {})),
        on_step=on_step,
        stop=stop,
    )
    if result.best_step > 0:  # else the head stays exactly as it is
        with torch.no_grad():
            first.weight.div_(deviation)
            if first.bias is not None:
                first.bias.sub_(first.weight @ mean)
        for layer, trained in zip(layers, trained_layers, strict=True):
            layer.load_state_dict(trained.state_dict())
    return result


class _Standardize(torch.nn.Module):
    """Bring each feature to mean 0 and deviation 1."""

    def __init__(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        super().__init__()
        self.mean, self.deviation = mean, deviation

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"sentence_embedding": (inputs["sentence_embedding"] - self.mean) / self.deviation}


def _inputs(features: np.ndarray, rows: np.ndarray) -> dict[str, torch.Tensor]:
    """Return a head's input for some rows of the features."""
    values = np.asarray(features[rows], dtype=np.float32)
    return {"sentence_embedding": torch.from_numpy(values)}


@torch.no_grad()
def _vectors(head: torch.nn.Module, features: np.ndarray) -> np.ndarray:
    """Return a head's output for all features, float32 of shape (n, dimension)."""
    device, vectors = next(head.parameters()).device, []
    head.eval()
    for start in range(0, len(features), 8192):
        rows = np.arange(start, min(start + 8192, len(features)))
        inputs = {name: tensor.to(device) for name, tensor in _inputs(features, rows).items()}
        vectors.append(head(inputs)["sentence_embedding"].cpu().numpy())
    return np.concatenate(vectors)
