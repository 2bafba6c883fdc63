"""The student: build it, fit its head in closed form, save and load it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dense, Normalize, Pooling, Transformer

from workbench import models
from workbench._util import expanded, whole, whole_folder, write_json
from workbench.data import Text, as_texts
from workbench.errors import ModelError, TrainingError, WorkbenchError
from workbench.models import Tokens

RIDGE_ALPHAS = tuple(10.0**power for power in range(-6, 2))


def build(
    base: str | Path,
    dimension: int,
    *,
    normalize: bool = True,
    bias: bool = True,
    hidden: int = 0,
    pooling: str | Sequence[str] = "mean",
    max_length: int = 128,
    prompts: Mapping[str, str] | None = None,
    seed: int = 0,
    device: str | None = None,
) -> SentenceTransformer:
    """Build a student: the base's transformer, pooling, a head at random, Normalize if asked.

    Args:
        base: a model with a transformer; a name or a folder, see `models.resolve`.
        dimension: width of the teacher's vectors.
        normalize: end in unit norm. Use it if the teacher's vectors have unit norm.
        bias: whether the head has a bias.
        hidden: 0 for a linear head. Otherwise the head has two layers with a GELU between them:
            `hidden` units, and two for each feature that carry it through, because
            GELU(u) - GELU(-u) = u. It can thus start as the linear head.
        pooling: "mean" follows the paper, which found it better than CLS, last token and max. A
            head that is trained alone gains by ("mean", "cls"), one beside the other.
        max_length: texts are cut to this many tokens.
        prompts: role to prompt. Use the teacher's, so both models read the same input.
        seed: of the head's random weights.
        device: torch device; the best one present if None.

    Raises:
        ModelError: the base is not found, has no transformer, or reads fewer tokens.
        TrainingError: `hidden` is negative, or there is no bias beside it.
    """
    if whole(hidden, "hidden", 0, TrainingError) and not bias:
        raise TrainingError("a head of two layers has a bias: leave out hidden or bias=False")
    loaded = models.load(base, device=device)
    transformer = loaded[0]
    if not isinstance(transformer, Transformer):
        raise ModelError(f"{base} does not start with a transformer, which a student is built from")
    config = transformer.model.config
    limit = getattr(config, "max_position_embeddings", max_length)
    if config.model_type in ("mpnet", "roberta", "xlm-roberta", "camembert"):
        limit -= config.pad_token_id + 1  # their positions start behind the padding index
    if not 3 <= max_length <= limit:
        raise ModelError(f"max_length {max_length}: {base} takes from 3 to {limit} tokens")
    transformer.max_seq_length = max_length
    _drop_pooler(transformer)
    kinds = (pooling,) if isinstance(pooling, str) else tuple(pooling)
    pool = Pooling(transformer.get_embedding_dimension(), pooling_mode=kinds)
    width, head = pool.pooling_output_dimension, []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if hidden:
            units = hidden + 2 * width
            head.append(Dense(width, units, activation_function=torch.nn.GELU()))
            width = units
        head.append(Dense(width, dimension, bias, activation_function=torch.nn.Identity()))
    return SentenceTransformer(
        modules=[transformer, pool, *head] + ([Normalize()] if normalize else []),
        device=str(loaded.device),
        prompts=dict(prompts or {}),
        similarity_fn_name="cosine",
    )


@dataclass(frozen=True)
class HeadFit:
    """The result of `fit_head`."""

    alpha: float  # the ridge strength that was chosen, as a multiple of the mean variance
    held_out_loss: float  # mean squared L2 distance to the targets, on a tenth of the texts
    texts: int  # number of texts in the final fit


def fit_head(
    student: SentenceTransformer,
    texts: Sequence[Text],
    targets: np.ndarray,
    *,
    alphas: Sequence[float] = RIDGE_ALPHAS,
    tokens: Tokens | None = None,
    features: np.ndarray | None = None,
) -> HeadFit:
    """Set a student's head in place to the ridge regression of targets on its pooled features.

    W = (H'H + a n v I)^-1 H'Y on centered features H and targets Y (Hoerl and Kennard, 1970), where
    v is the mean variance of the features; without a bias nothing is centered. A tenth of the texts
    chooses the strength a by the loss of training, and all of them make the final fit. Of more than
    20,000 texts a sample is used.

    Args:
        student: from `build`.
        texts: n texts; a plain string is a document.
        targets: anything that indexes like an array of shape (n, dimension).
        alphas: candidates for the ridge strength a.
        tokens: of the texts, where they exist already.
        features: of the texts, shape (n, width), where they exist already.

    Raises:
        TrainingError: fewer than 10 texts, or targets that do not fit texts and student.
    """
    texts = as_texts(texts)
    last = head_of(student)[-1]
    check_shapes(student, len(texts), targets)
    if len(texts) < 10:
        raise TrainingError(f"a closed-form start needs at least 10 texts; got {len(texts)}")
    rows = np.random.default_rng(0).permutation(len(texts))[:20_000]
    inputs = pooled(student, texts, rows, tokens) if features is None else features[rows]
    inputs = torch.from_numpy(np.asarray(inputs, dtype=np.float32)).double()
    outputs = torch.from_numpy(np.asarray(targets[rows], dtype=np.float32)).double()
    kept_out = max(1, len(rows) // 10)
    normalize = models.normalizes(student)

    def loss(alpha: float) -> float:
        weight, bias = ridge(inputs[kept_out:], outputs[kept_out:], alpha, last.bias)
        predicted = inputs[:kept_out] @ weight.T + bias
        if normalize:
            predicted = torch.nn.functional.normalize(predicted, dim=1)
        return float((predicted - outputs[:kept_out]).pow(2).sum(dim=1).mean())

    losses = {alpha: loss(alpha) for alpha in alphas}
    best = min(losses, key=losses.get)
    set_head(student, *ridge(inputs, outputs, best, last.bias), inputs)
    return HeadFit(best, losses[best], len(rows))


@torch.no_grad()
def set_head(
    student: SentenceTransformer, weight: torch.Tensor, bias: torch.Tensor, features: torch.Tensor
) -> None:
    """Make a student's head compute `weight @ x + bias`, of shapes (d, width) and (d,).

    A head of two layers passes each feature through a pair of units, standardized by `features` of
    shape (n, width). Its other units start at random, without an effect on the output.
    """
    *inner, last = (module.linear for module in head_of(student))
    if inner:
        first, width = inner[0], inner[0].in_features
        units = first.out_features - 2 * width
        mean, deviation = mean_and_deviation(features)
        generator = torch.Generator().manual_seed(0)
        random = torch.randn((units, width), generator=generator, dtype=weight.dtype)
        identity = torch.eye(width, dtype=weight.dtype)
        rows = torch.cat([random / width**0.5, identity, -identity]) / deviation
        first.weight.copy_(rows)
        first.bias.copy_(-rows @ mean)
        bias = bias + weight @ mean
        weight = weight * deviation
        weight = torch.cat([torch.zeros((len(weight), units)), weight, -weight], dim=1)
    last.weight.copy_(weight)
    if last.bias is not None:
        last.bias.copy_(bias)


def mean_and_deviation(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what standardizes features of shape (n, width), two tensors of shape (width,)."""
    mean, deviation = features.mean(dim=0), features.std(dim=0)
    median = deviation.median()
    # A feature that hardly varies (all-MiniLM-L6-v2 has three) is noise. Divided by its own
    # deviation it would count as much as the others, so it gets the median deviation.
    fallback = median if median > 0 else torch.ones_like(median)
    return mean, torch.where(deviation > median / 20, deviation, fallback)


def ridge(
    features: torch.Tensor, outputs: torch.Tensor, alpha: float, bias: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Solve the regression of `fit_head`, in float64: weight (d, width) and bias (d,)."""
    mean_in = features.mean(dim=0) if bias else torch.zeros_like(features[0])
    mean_out = outputs.mean(dim=0) if bias else torch.zeros_like(outputs[0])
    centered = features - mean_in
    gram = centered.T @ centered
    gram.diagonal().add_(alpha * gram.diagonal().mean())
    weight = torch.linalg.solve(gram, centered.T @ (outputs - mean_out)).T
    return weight, mean_out - weight @ mean_in


def pooled(
    student: SentenceTransformer,
    texts: Sequence[Text],
    rows: np.ndarray | None = None,
    tokens: Tokens | None = None,
) -> np.ndarray:
    """Return the head's input for the texts in `rows` (all if None), float32 (m, width)."""
    if tokens is None:
        tokens = Tokens(student, texts if rows is None else [texts[row] for row in rows])
        rows = None
    count = len(tokens if rows is None else rows)
    return models.forward_batches(student, tokens.batches(rows), count, modules=2)


def head_of(student: SentenceTransformer) -> list[Dense]:
    """Return the layers of a student's head, one or two; ModelError if the model is no student."""
    modules = list(student.children())
    # A Dense behind a linear layer is no part of the head: it truncates the student.
    has_hidden = len(modules) > 2 and isinstance(
        getattr(modules[2], "activation_function", None), torch.nn.GELU
    )
    head = modules[2 : 4 if has_hidden else 3]
    if not head or not all(isinstance(module, Dense) for module in head):
        kinds = ", ".join(type(module).__name__ for module in modules)
        raise ModelError(f"no student: expected Transformer, Pooling, Dense, got {kinds}")
    return head


def check_shapes(
    student: SentenceTransformer,
    texts: int,
    targets: np.ndarray,
    features: np.ndarray | None = None,
) -> None:
    """Raise TrainingError if there is no target, of the right width, for each text (and feature)."""
    head = head_of(student)
    fits = tuple(targets.shape) == (texts, head[-1].out_features)
    if features is not None:
        fits = fits and tuple(features.shape) == (texts, head[0].in_features)
    if not fits:
        raise TrainingError(
            f"targets of shape {tuple(targets.shape)} do not fit {texts:,} texts and a head from "
            f"{head[0].in_features} to {head[-1].out_features}: give a row of each for every text"
        )


def save(
    student: SentenceTransformer, folder: str | Path, provenance: Mapping[str, object] | None = None
) -> Path:
    """Save a student as a folder that plain `SentenceTransformer(folder)` loads, or not at all.

    Args:
        student: any student.
        folder: new, empty, or of an earlier student, which is replaced.
        provenance: what `train.provenance` returned. It is written as `provenance.json`, with
            checksums of the weights; a model card needs it.

    Raises:
        ModelError: the folder holds something else, or cannot be written to.
    """
    folder = check_folder(folder)
    try:
        with whole_folder(folder) as scratch:
            student.save_pretrained(str(scratch), create_model_card=False)
            if provenance is not None:
                weights = sorted(scratch.rglob("*.safetensors"))
                sums = {
                    path.relative_to(scratch).as_posix(): models.file_sha256(path)
                    for path in weights
                }
                write_json(scratch / models.PROVENANCE, {**provenance, "sha256": sums})
    except (OSError, SafetensorError, WorkbenchError) as error:
        raise ModelError(f"the student cannot be saved to {folder}: {error}") from None
    return folder


def check_folder(folder: str | Path) -> Path:
    """Return the absolute path of a folder that `save` may replace; ModelError for any other."""
    folder = expanded(folder).resolve()
    if folder.is_file() or folder.is_mount() or folder in (Path.cwd(), *Path.cwd().parents):
        raise ModelError(f"{folder} cannot be replaced as a folder: choose a folder inside it")
    modules = folder / "modules.json"
    holds_student = modules.is_file() and ".Dense" in modules.read_text()
    if folder.exists() and any(folder.iterdir()) and not holds_student:
        raise ModelError(f"{folder} is not empty and holds no student: choose another folder")
    return folder


def read_provenance(folder: str | Path) -> dict:
    """Return the provenance beside a student, {} if there is none; ModelError if it is damaged."""
    path = expanded(folder) / models.PROVENANCE
    if not path.is_file():
        return {}
    try:
        provenance = json.loads(path.read_text())
        provenance.pop("sha256", None)  # of these files: a copy elsewhere has others
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{path} is damaged ({error}): name --teacher and --base") from None
    return provenance


def load(folder: str | Path, *, device: str | None = None) -> SentenceTransformer:
    """Load a saved student; ModelError if the folder holds none."""
    student = models.load(folder, device=device)
    head_of(student)
    _drop_pooler(student[0])
    return student


def _drop_pooler(transformer: Transformer) -> None:
    """Remove BERT's pooler, which is not used; the paper's parameter counts leave it out too."""
    backbone = transformer.model
    if "add_pooling_layer" in signature(type(backbone)).parameters:
        backbone.pooler = None
        # Saved with the module, so that loading makes no pooler either.
        transformer.model_args = {"add_pooling_layer": False}
        transformer.config_keys = list(dict.fromkeys([*transformer.config_keys, "model_args"]))
