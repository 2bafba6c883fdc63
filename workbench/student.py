"""The student: build it, fit its head in closed form, save and load it."""

from __future__ import annotations

import json
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
from workbench._util import expanded, one_of, whole, whole_folder, write_json
from workbench.data import Text, as_texts
from workbench.errors import ModelError, TrainingError, WorkbenchError

RIDGE_ALPHAS = tuple(10.0**power for power in range(-6, 2))
LEAST_TEXTS = 10  # for a closed-form start


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
    """Build a student: the base's transformer without pooler, pooling, a head, Normalize if asked.

    The head starts at random; `fit_head` sets it in closed form. It is one or two modules of the model, and is saved with
    it. Mean pooling follows the paper, which found it better than CLS, last token and max (arXiv 2509.12539). A head that
    learns alone gains by both mean and CLS, one beside the other.

    Args:
        base: a model with a transformer; a name or a folder, see `models.resolve`.
        dimension: width of the teacher's vectors.
        normalize: end in unit norm. Use it if the teacher's vectors have unit norm.
        bias: whether the head has a bias.
        hidden: 0 for a linear head. Else the head has two layers with a GELU between them: so many units that learn, and
            two for each feature that carry it through, as GELU(u) - GELU(-u) = u. It can thus start as the linear head.
        pooling: "mean", "cls" or another kind of sentence-transformers' `Pooling`, or several, whose outputs stand side by
            side and are the features of the head.
        max_length: texts are cut to this many tokens.
        prompts: role to prompt. Use the teacher's, so both models read the same input.
        seed: of the head's random weights.
        device: torch device; the best one present if None.

    Raises:
        ModelError: the base cannot be found, has no transformer, or takes fewer tokens than `max_length`.
        TrainingError: a head of two layers without a bias, or an unknown pooling.
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
    kinds = [pooling] if isinstance(pooling, str) else list(pooling)
    for kind in kinds or [""]:
        one_of(kind, "pooling", Pooling.POOLING_MODES, TrainingError)
    pool = Pooling(transformer.get_embedding_dimension(), pooling_mode=tuple(kinds))
    width = pool.pooling_output_dimension
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inner = hidden + 2 * width
        head = [Dense(width, inner, activation_function=torch.nn.GELU())] if hidden else []
        head += [
            Dense(
                inner if hidden else width,
                dimension,
                bias=bias,
                activation_function=torch.nn.Identity(),
            )
        ]
    modules = [transformer, pool, *head, *([Normalize()] if normalize else [])]
    return SentenceTransformer(
        modules=modules,
        device=str(loaded.device),
        prompts=dict(prompts or {}),
        similarity_fn_name="cosine",
    )


class Tokens:
    """The token ids of texts with a student's prompts, in a temporary file: memory does not grow with their lengths.

    TrainingError if the temporary folder has no room.
    """

    def __init__(self, student: SentenceTransformer, texts: Sequence[Text]) -> None:
        dtype = np.dtype(np.uint16 if len(student.tokenizer) <= 1 << 16 else np.uint32)
        self._pad = student.tokenizer.pad_token_id or 0
        self.lengths = np.empty(len(texts), dtype=np.int32)
        try:
            with tempfile.TemporaryFile() as file:
                for start in range(0, len(texts), 8192):
                    some = texts[start : start + 8192]
                    prompted = [
                        (student.prompts.get(text.role.value) or "") + text.text for text in some
                    ]
                    ids = student.tokenizer(
                        prompted, truncation=True, max_length=student.max_seq_length
                    )["input_ids"]
                    self.lengths[start : start + 8192] = [len(each) for each in ids]
                    file.write(np.concatenate(ids).astype(dtype).tobytes())
                file.flush()
                self._ids = np.memmap(file, dtype=dtype, mode="r")
        except OSError as error:
            raise TrainingError(
                f"the texts' tokens cannot be kept in {tempfile.gettempdir()}: {error.strerror or error}. Set TMPDIR to "
                "a folder with room."
            ) from None
        self._ends = np.cumsum(self.lengths, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """Return the padded input of some texts: `input_ids` and `attention_mask`, int64 of shape (m, tokens)."""
        ids = np.full((len(rows), int(self.lengths[rows].max())), self._pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : self.lengths[row]] = self._ids[
                self._ends[row] - self.lengths[row] : self._ends[row]
            ]
            mask[i, : self.lengths[row]] = 1
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


@dataclass(frozen=True)
class HeadFit:
    """The result of `fit_head`."""

    alpha: float  # the ridge strength that was chosen, as a multiple of the features' mean variance
    held_out_loss: (
        float  # mean squared L2 distance of output and target, on the texts kept out of the fit
    )
    texts: int  # number of texts in the final fit


def fit_head(
    student: SentenceTransformer,
    texts: Sequence[Text],
    targets: np.ndarray,
    *,
    alphas: Sequence[float] = RIDGE_ALPHAS,
    sample: int = 20_000,
    seed: int = 0,
    tokens: Tokens | None = None,
    features: np.ndarray | None = None,
) -> HeadFit:
    """Set the student's head to the ridge regression of the targets on its pooled features, whatever its layers.

    W = (H'H + a n v I)^-1 H'Y on centered features H and targets Y (Hoerl and Kennard, 1970), where v is the mean
    variance of the features; without a bias nothing is centered. A tenth of the texts chooses the strength a by the
    loss after Normalize, which is the loss of training. Then all of them make the final fit.

    Args:
        student: changed in place.
        texts: n texts; a plain string is a document.
        targets: anything that indexes like an array of shape (n, dimension).
        alphas: candidates for the ridge strength a.
        sample: at most this many texts are used.
        seed: of the sample.
        tokens: of the texts, where they exist already.
        features: of the texts, shape (n, width), where they exist already.

    Raises:
        TrainingError: fewer than 10 texts, or widths that do not fit.
    """
    texts = as_texts(texts)
    if len(texts) != len(targets):
        raise TrainingError(f"{len(texts):,} texts and {len(targets):,} targets are out of step")
    if len(texts) < LEAST_TEXTS:
        raise TrainingError(
            f"a closed-form start needs at least {LEAST_TEXTS} texts; got {len(texts)}"
        )
    if not alphas or min(alphas) <= 0:
        raise TrainingError("ridge alphas must be positive numbers")
    last = head_of(student)[-1]
    chosen = np.random.default_rng(seed).permutation(len(texts))[: max(LEAST_TEXTS, sample)]
    found = (
        pooled(student, texts, chosen, tokens)
        if features is None
        else np.asarray(features[chosen], np.float32)
    )
    features = torch.from_numpy(found).double()
    wanted = torch.from_numpy(np.asarray(targets[chosen], dtype=np.float32)).double()
    if wanted.shape[1] != last.out_features:
        raise TrainingError(
            f"the targets are {wanted.shape[1]} wide, the student's head {last.out_features}"
        )
    kept = max(1, len(chosen) // 10)
    normalize = models.normalizes(student)

    def loss(alpha: float) -> float:
        weight, offset = ridge(features[kept:], wanted[kept:], alpha, last.bias)
        output = features[:kept] @ weight.T + offset
        output = torch.nn.functional.normalize(output, dim=1) if normalize else output
        return float((output - wanted[:kept]).pow(2).sum(dim=1).mean())

    losses = {alpha: loss(alpha) for alpha in alphas}
    best = min(losses, key=losses.get)
    weight, offset = ridge(features, wanted, best, last.bias)
    set_head(student, weight, offset, features, seed=seed)
    return HeadFit(best, losses[best], len(chosen))


@torch.no_grad()
def set_head(
    student: SentenceTransformer,
    weight: torch.Tensor,
    bias: torch.Tensor,
    features: torch.Tensor,
    *,
    seed: int = 0,
) -> None:
    """Make a student's head compute `weight @ x + bias`; two layers get random units that count for nothing yet.

    Args:
        student: changed in place.
        weight: of shape (d, width).
        bias: of shape (d,); ignored by a head without one.
        features: of shape (n, width); two layers standardize by their mean and deviation, so that training is even.
        seed: of the random units.
    """
    *inner, last = (module.linear for module in head_of(student))
    if inner:
        (first,) = inner
        width = first.in_features
        units = first.out_features - 2 * width
        mean, deviation = mean_and_deviation(features)
        random = torch.randn(
            (units, width), generator=torch.Generator().manual_seed(seed), dtype=weight.dtype
        )
        through = torch.eye(width, dtype=weight.dtype)
        rows = torch.cat([random / width**0.5, through, -through]) / deviation
        first.weight.copy_(rows)
        first.bias.copy_(-rows @ mean)
        back = weight * deviation
        weight, bias = (
            torch.cat([torch.zeros((len(weight), units)), back, -back], dim=1),
            bias + weight @ mean,
        )
    last.weight.copy_(weight)
    if last.bias is not None:
        last.bias.copy_(bias)


def mean_and_deviation(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what standardizes features of shape (n, width), two tensors of shape (width,).

    A feature that hardly varies (all-MiniLM-L6-v2 has three) is noise, which dividing by its deviation would make as large as
    the rest. It gets the median deviation.
    """
    mean, deviation = features.mean(dim=0), features.std(dim=0)
    median = deviation.median()
    return mean, torch.where(
        deviation > median / 20, deviation, median if median > 0 else torch.ones_like(median)
    )


def ridge(
    features: torch.Tensor, wanted: torch.Tensor, alpha: float, bias: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Solve the regression of `fit_head`: weight of shape (d, d') and bias of shape (d,), float64.

    The features are float64 of shape (n, d'), the wanted outputs (n, d). Without a bias nothing is centered.
    """
    mean_in = features.mean(dim=0) if bias else torch.zeros_like(features[0])
    mean_out = wanted.mean(dim=0) if bias else torch.zeros_like(wanted[0])
    centered = features - mean_in
    gram = centered.T @ centered
    gram.diagonal().add_(alpha * gram.diagonal().mean())
    weight = torch.linalg.solve(gram, centered.T @ (wanted - mean_out)).T
    return weight, mean_out - weight @ mean_in


@torch.inference_mode()
def pooled(
    student: SentenceTransformer,
    texts: Sequence[Text],
    rows: np.ndarray | None = None,
    tokens: Tokens | None = None,
) -> np.ndarray:
    """Return the features that the head gets of the texts in `rows` (all if None), float32 of shape (m, width)."""
    rows = np.arange(len(texts)) if rows is None else rows
    if tokens is None:
        tokens, rows = Tokens(student, [texts[i] for i in rows]), np.arange(len(rows))
    transformer, pooling = list(student.children())[:2]
    device = student.device
    features = np.empty((len(rows), pooling.pooling_output_dimension), dtype=np.float32)
    training = student.training
    student.eval()
    with models.autocast(device, "auto"):
        for batch in models.length_buckets(tokens.lengths[rows], models.best_token_budget(device)):
            inputs = {name: tensor.to(device) for name, tensor in tokens.batch(rows[batch]).items()}
            features[batch] = (
                pooling(transformer(inputs))["sentence_embedding"].float().cpu().numpy()
            )
    student.train(training)
    return features


def head_of(student: SentenceTransformer) -> list[Dense]:
    """Return the layers of a student's head, one or two; ModelError if the model was not built as a student."""
    modules = list(student.children())
    layers = 1 + (
        len(modules) > 2
        and isinstance(getattr(modules[2], "activation_function", None), torch.nn.GELU)
    )
    head = modules[2 : 2 + layers]
    if len(head) < layers or not all(isinstance(module, Dense) for module in head):
        kinds = ", ".join(type(module).__name__ for module in modules)
        raise ModelError(
            f"no student: expected the modules Transformer, Pooling, Dense, found {kinds}"
        )
    return head


def save(
    student: SentenceTransformer, folder: str | Path, provenance: Mapping[str, object] | None = None
) -> Path:
    """Save a student as a folder that plain `SentenceTransformer(folder)` loads, completely or not at all.

    An earlier student in `folder` is replaced; any other folder with content is refused.

    Args:
        student: any student.
        folder: new, empty, or of an earlier student.
        provenance: what `train.provenance` returned, written as `provenance.json`; a model card needs it. Checksums of
            the weights are written with it, and loading compares them.

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
    """Return the absolute path of a folder that a student may be saved to; ModelError for any other.

    It is new, empty, or holds a student, and can be replaced as a whole.
    """
    try:
        folder = expanded(folder).resolve()
        is_file = folder.is_file()
    except (TypeError, ValueError, OSError) as error:
        raise ModelError(
            f"no folder can be called {str(folder)[:100]!r} ({error}): choose another"
        ) from None
    if is_file:
        raise ModelError(f"{folder} is a file: choose a folder")
    if folder in (Path.cwd(), *Path.cwd().parents) or folder.is_mount():
        raise ModelError(f"{folder} cannot be replaced as a whole: name a folder inside it")
    if folder.exists() and any(folder.iterdir()):
        try:
            holds_student = json.loads((folder / "modules.json").read_text())[2]["type"].endswith(
                ".Dense"
            )
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            holds_student = False
        if not holds_student:
            raise ModelError(f"{folder} is not empty and holds no student: choose another folder")
    return folder


def read_provenance(folder: str | Path) -> dict:
    """Return the provenance that `save` wrote beside a student; {} for a model from elsewhere.

    Students of version 0.1 have it as `distillation.json`.

    Raises:
        ModelError: the file cannot be read.
    """
    files = [expanded(folder) / name for name in (models.PROVENANCE, models.OLD_PROVENANCE)]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict) or not all(
            isinstance(found.get(k, ""), str) for k in ("teacher_name", "base")
        ):
            raise ValueError("it names no teacher and base")
        found.pop("sha256", None)  # of the files, which another folder would not have
        return found
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} is damaged ({error}): delete it, and name --teacher and --base"
        ) from None


def load(folder: str | Path, *, device: str | None = None) -> SentenceTransformer:
    """Load a saved student; ModelError if the folder holds none."""
    student = models.load(folder, device=device)
    head_of(student)
    _drop_pooler(student[0])
    return student


def _drop_pooler(transformer: Transformer) -> None:
    """Remove BERT's pooler, which mean pooling does not use; the paper's parameter counts exclude it too."""
    backbone = transformer.model
    if "add_pooling_layer" not in signature(type(backbone)).parameters:
        return
    backbone.pooler = None
    # Saved with the module, also of a student that was loaded without one: then loading makes no pooler either.
    transformer.model_args = {"add_pooling_layer": False}
    transformer.config_keys = list(dict.fromkeys([*transformer.config_keys, "model_args"]))
