"""The student: build it, give its head a closed-form start, save and load it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
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
from workbench.data import Text
from workbench.errors import ModelError, TrainingError

RIDGE_ALPHAS = tuple(10.0**power for power in range(-6, 2))


def build(
    base: str | Path,
    dimension: int,
    *,
    normalize: bool = True,
    bias: bool = True,
    max_length: int = 128,
    prompts: Mapping[str, str] | None = None,
    seed: int = 0,
    device: str | None = None,
) -> SentenceTransformer:
    """Build a student: the base's transformer without pooler, mean pooling, a linear head, Normalize if asked.

    The head starts at random (see `fit_head` for the closed form) and is a module of the model,
    so that it is saved with it. Mean pooling follows the paper, which found it better than CLS, last
    token and max (arXiv 2509.12539).

    Args:
        base: a model with a transformer; a name or a folder, see `models.resolve`.
        dimension: width of the teacher's vectors.
        normalize: end in unit norm; right exactly if the teacher's vectors have it.
        bias: whether the head has one.
        max_length: texts are cut to this many tokens.
        prompts: role to prompt, the teacher's: the student has to see what the teacher saw.
        seed: of the head's random start.
        device: torch device; the best one present if None.

    Raises:
        ModelError: the base cannot be found or has no transformer.
    """
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
    width = transformer.get_embedding_dimension()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = Dense(width, dimension, bias=bias, activation_function=torch.nn.Identity())
    modules = [transformer, Pooling(width, pooling_mode="mean"), head]
    if normalize:
        modules.append(Normalize())
    return SentenceTransformer(
        modules=modules, device=str(loaded.device), prompts=dict(prompts or {}), similarity_fn_name="cosine"
    )


@dataclass(frozen=True)
class HeadFit:
    """How a closed-form start came out.

    Attributes:
        strength: the ridge strength that was chosen, as a multiple of the features' mean variance.
        held_out_loss: mean squared L2 distance on the texts kept out of the fit, student's output
            to target.
        texts: texts the fit used.
    """

    strength: float
    held_out_loss: float
    texts: int


def fit_head(
    student: SentenceTransformer,
    texts: Sequence[Text],
    targets: np.ndarray,
    *,
    alphas: Sequence[float] = RIDGE_ALPHAS,
    sample: int = 20_000,
    seed: int = 0,
) -> HeadFit:
    """Set the student's head to the ridge regression of the targets on its pooled features.

    W = (H'H + s n v I)^-1 H'Y on centered features H and targets Y (Hoerl and Kennard, 1970), where v
    is the mean variance of the features; without a bias nothing is centered. A tenth of the texts
    chooses the strength s by the loss after Normalize, the one that training will lower; then all
    of them make the final fit.

    Args:
        student: changed in place.
        texts: with their roles; n of them.
        targets: anything that indexes like an array of shape (n, dimension).
        alphas: rescore_multiplier for s.
        sample: at most this many texts are used.
        seed: of the sample.

    Raises:
        TrainingError: fewer than 20 texts, or widths that do not fit.
    """
    if len(texts) != len(targets):
        raise TrainingError(f"{len(texts):,} texts and {len(targets):,} targets are out of step")
    if len(texts) < 20:
        raise TrainingError(f"{len(texts)} texts are too few for a closed-form start; 20 is the least")
    if not alphas or min(alphas) <= 0:
        raise TrainingError("ridge alphas must be positive numbers")
    head = head_of(student)
    chosen = np.random.default_rng(seed).permutation(len(texts))[: max(20, sample)]
    features = torch.from_numpy(pooled(student, [texts[i] for i in chosen])).double()
    wanted = torch.from_numpy(np.asarray(targets[chosen], dtype=np.float32)).double()
    if wanted.shape[1] != head.out_features:
        raise TrainingError(f"the targets are {wanted.shape[1]} wide, the student's head {head.out_features}")
    kept = max(1, len(chosen) // 10)
    normalize = models.normalizes(student)

    def loss(strength: float) -> float:
        weight, bias = ridge(features[kept:], wanted[kept:], strength, head.bias)
        output = features[:kept] @ weight.T + bias
        output = torch.nn.functional.normalize(output, dim=1) if normalize else output
        return float((output - wanted[:kept]).pow(2).sum(dim=1).mean())

    losses = {strength: loss(strength) for strength in alphas}
    best = min(losses, key=losses.get)
    weight, bias = ridge(features, wanted, best, head.bias)
    with torch.no_grad():
        head.linear.weight.copy_(weight)
        if head.bias:
            head.linear.bias.copy_(bias)
    return HeadFit(best, losses[best], len(chosen))


def pooled(student: SentenceTransformer, texts: Sequence[Text]) -> np.ndarray:
    """Return the pooled features that the head sees, float32 of shape (n, width of the backbone)."""
    training = student.training  # encoding the shared modules puts them into evaluation mode
    backbone = SentenceTransformer(modules=list(student.children())[:2], device=str(student.device))
    backbone.prompts = dict(student.prompts)
    features = models.encode(backbone, texts)
    student.train(training)
    return features


def head_of(student: SentenceTransformer) -> Dense:
    """Return the student's linear head.

    Raises:
        ModelError: the model was not built as a student.
    """
    modules = list(student.children())
    if len(modules) < 3 or not isinstance(modules[2], Dense):
        kinds = ", ".join(type(module).__name__ for module in modules)
        raise ModelError(f"no student: Transformer, Pooling, Dense are expected, this model has {kinds}")
    return modules[2]


def save(student: SentenceTransformer, folder: str | Path, about: Mapping[str, object] | None = None) -> Path:
    """Save a student so that plain `SentenceTransformer(folder)` loads it; whole or not at all.

    An earlier student in `folder` is replaced; any other non-empty folder is refused.

    Args:
        student: any student.
        folder: new, empty, or of an earlier student.
        about: what `train.provenance` returned, kept beside the student; a model card needs it.

    Raises:
        ModelError: the folder holds something else, or cannot be written to.
    """
    folder = check_folder(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            written, replaced = Path(scratch, "new"), Path(scratch, "old")
            student.save_pretrained(str(written), create_model_card=False)
            if about is not None:
                (written / models.REPORT).write_text(json.dumps(dict(about), indent=2) + "\n")
            if folder.exists():
                os.rename(folder, replaced)
            os.rename(written, folder)
            shutil.rmtree(replaced, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"the student cannot be saved to {folder}: {error}") from None
    return folder


def check_folder(folder: str | Path) -> Path:
    """Return the absolute folder if a student may be saved there: it is new, empty, or holds a student.

    Raises:
        ModelError: it holds something else, is a file, or is a folder that cannot be replaced.
    """
    folder = Path(folder).expanduser().resolve()
    if folder.is_file():
        raise ModelError(f"{folder} is a file: choose a folder")
    if folder in (Path.cwd(), *Path.cwd().parents) or folder.is_mount():
        raise ModelError(f"{folder} cannot be replaced as a whole: name a folder inside it")
    if folder.exists() and any(folder.iterdir()) and not _holds_student(folder):
        raise ModelError(f"{folder} is not empty and holds no student: choose another folder")
    return folder


def _holds_student(folder: Path) -> bool:
    try:
        modules = json.loads((folder / "modules.json").read_text())
        return modules[2]["type"].endswith(".Dense")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def read_provenance(folder: str | Path) -> dict:
    """Return what `save` was told about a student; nothing for a student from elsewhere.

    Raises:
        ModelError: it is there and cannot be read.
    """
    path = Path(folder).expanduser() / models.REPORT
    if not path.is_file():
        return {}
    try:
        about = json.loads(path.read_text())
        if not isinstance(about, dict) or not all(isinstance(about.get(k, ""), str) for k in ("teacher_name", "base")):
            raise ValueError("it states no teacher")
        return about
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged ({error}): delete it, and name --teacher and --base") from None


def load(folder: str | Path, *, device: str | None = None) -> SentenceTransformer:
    """Load a saved student.

    Raises:
        ModelError: there is none, or it is no student.
    """
    student = models.load(folder, device=device)
    head_of(student)
    _drop_pooler(student[0])
    return student


def _drop_pooler(transformer: Transformer) -> None:
    """Leave out BERT's pooler, which mean pooling never asks: the paper's parameter counts have none either."""
    backbone = transformer.model
    if "add_pooling_layer" not in signature(type(backbone)).parameters:
        return
    backbone.pooler = None
    # Saved with the module, also of a student that was loaded without one: then loading makes no pooler either.
    transformer.model_args = {"add_pooling_layer": False}
    transformer.config_keys = list(dict.fromkeys([*transformer.config_keys, "model_args"]))


def ridge(
    features: torch.Tensor, wanted: torch.Tensor, strength: float, bias: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Solve the regression of `fit_head`: weight of shape (d, d') and bias of shape (d,), float64.

    Args:
        features: float64 of shape (n, d').
        wanted: float64 of shape (n, d).
        strength: as a multiple of the features' mean variance.
        bias: whether to center both first; the bias is zero without.
    """
    mean_in = features.mean(dim=0) if bias else torch.zeros_like(features[0])
    mean_out = wanted.mean(dim=0) if bias else torch.zeros_like(wanted[0])
    centered = features - mean_in
    gram = centered.T @ centered
    gram.diagonal().add_(strength * gram.diagonal().mean())
    weight = torch.linalg.solve(gram, centered.T @ (wanted - mean_out)).T
    return weight, mean_out - weight @ mean_in
