"""The student: build it, fit its head in closed form, save and load it."""

from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dense, Normalize, Pooling, Transformer

from workbench import closed_form, models
from workbench._util import expanded, whole_folder, write_json
from workbench.data import Role, Text, as_texts, crop_queries, group
from workbench.errors import ModelError, TrainingError, WorkbenchError
from workbench.teachers import Teacher

# Kinds of a head in closed form, by the shares of the ridge regression that are tried.
_MIXES = {"rotation": (0.0,), "ridge": (1.0,), "closed-form": closed_form.MIXES}
CLOSED_FORMS = tuple(_MIXES)


def build(
    base: str | Path,
    dimension: int,
    *,
    normalize: bool = True,
    bias: bool = True,
    hidden: int = 0,
    pooling: str | Sequence[str] | None = None,
    max_length: int = 128,
    prompts: Mapping[str, str] | None = None,
    seed: int = 0,
    device: str | None = None,
) -> SentenceTransformer:
    """Build a student: the base's transformer, pooling, a random head, Normalize if asked.

    Args:
        normalize: end in unit norm, for a teacher whose vectors have it.
        hidden: 0 for a linear head. Otherwise it has a layer of GELUs: `hidden` units and two for
            each feature, which can carry it through unchanged, because GELU(u) - GELU(-u) = u.
        pooling: how the vectors of tokens are pooled, one way or several; the base's own, or the
            mean, if None.
        max_length: in tokens; ModelError if the base reads fewer.
        prompts: role to prompt; the base's own if None.
    """
    if hidden and not bias:
        raise TrainingError("a head of two layers has a bias: leave out hidden or bias=False")
    loaded = models.load_model(base, device=device)
    transformer = loaded[0]
    if not isinstance(transformer, Transformer):
        raise ModelError(f"{base} does not start with a transformer, which a student is built from")
    if hasattr(transformer.model, "peft_config"):
        raise ModelError(f"{base} is an adapter, which would train alone: merge it into its base")
    limit = models.positions(loaded) or max_length
    if not 3 <= max_length <= limit:
        raise ModelError(f"max_length {max_length}: {base} takes from 3 to {limit} tokens")
    transformer.max_seq_length = max_length
    _drop_pooler(transformer)
    own = loaded[1].pooling_mode if isinstance(loaded[1], Pooling) else "mean"
    pooling = own if pooling is None else pooling
    if not isinstance(pooling, str) and own in pooling:  # first is what a rotation turns
        pooling = own, *(mode for mode in pooling if mode != own)
    pool = Pooling(transformer.get_embedding_dimension(), pooling_mode=pooling)
    width, modules = pool.pooling_output_dimension, [transformer, pool]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if hidden:
            units = hidden + 2 * width
            modules.append(Dense(width, units, activation_function=torch.nn.GELU()))
            width = units
        modules.append(Dense(width, dimension, bias, activation_function=torch.nn.Identity()))
    if normalize:
        modules.append(Normalize())
    return SentenceTransformer(
        modules=modules,
        device=str(loaded.device),
        prompts=models.role_prompts(loaded.prompts) if prompts is None else dict(prompts),
        similarity_fn_name="cosine",
    )


def fit_head(
    student: SentenceTransformer,
    texts: Sequence[Text],
    targets: np.ndarray,
    *,
    kind: str = "closed-form",
    features: np.ndarray | None = None,
    tokens: models.Tokens | None = None,
    others: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, float]:
    """Set a student's head in place to a closed form, of seconds: see `closed_form.fit`.

    At most 10,000 texts make it. Returns how many, the fields of `closed_form.Choice`, and the
    shares of the teacher's 10 nearest documents that the head and a rotation find for held-out
    documents: `found`, `found_by_rotation`.

    Args:
        targets: index like an array of shape (n, dimension).
        kind: "rotation", "ridge", or "closed-form" for what searches best of them and their sums.
        features: index like an array of shape (n, width), the head's input.
        others: features and targets of other documents, learned where that helps these texts.
    """
    texts = as_texts(texts)
    check_targets(student, len(texts), targets)
    layers = head_of(student)
    rows = np.random.default_rng(0).permutation(len(texts))[:10_000]
    if features is None:
        batches = (tokens or models.Tokens(student, texts)).batches(rows)
        inputs = models.forward_batches(student, batches, len(rows), modules=2)
    else:
        inputs = features[rows]
    inputs = torch.from_numpy(np.asarray(inputs, dtype=np.float32)).double()
    outputs = torch.from_numpy(np.asarray(targets[rows], dtype=np.float32)).double()
    texts = [texts[row] for row in rows]
    is_query = np.array([text.role is Role.QUERY for text in texts])
    if others is not None:
        more_inputs, more_outputs = (torch.from_numpy(np.asarray(part)).double() for part in others)
        inputs, outputs = torch.cat([inputs, more_inputs]), torch.cat([outputs, more_outputs])
        is_query = np.append(is_query, np.zeros(len(more_inputs), dtype=bool))
    has_bias, size = layers[-1].bias, student[0].get_embedding_dimension()
    mean, deviation = mean_and_deviation(inputs)
    mean = mean * has_bias
    regressed, units = (inputs - mean) / deviation, None
    if len(layers) == 2:
        units = _random_units(student, mean, deviation)
        raised = torch.nn.functional.gelu(inputs @ units[0].T + units[1])
        scale = raised.std(dim=0).clamp(min=1e-3)
        regressed = torch.cat([regressed, raised / scale], dim=1)
    names, options = [group(text) for text in texts], {"mixes": _MIXES[kind], "bias": has_bias}
    fit = closed_form.fit(regressed, inputs[:, :size], outputs, names, is_query, **options)
    width, (weight, bias), share = inputs.shape[1], fit.regression, fit.choice.mix
    bias = share * (bias - weight[:, :width] @ (mean / deviation))
    bias = bias + (1 - share) * fit.rotation.bias + fit.shift
    linear = share * weight[:, :width] / deviation
    linear[:, :size] += (1 - share) * fit.rotation.weight
    if units:
        units = *units, share * weight[:, width:] / scale
    set_head(student, linear, bias, inputs, units)
    prompts = set(models.role_prompts(student.prompts).values())
    crops = (
        crop_queries(texts[:500]) if has_bias and len(prompts) > 1 and not is_query.any() else []
    )
    if crops:  # a prompt moves queries, without targets here: their mean belongs to the documents'
        head = torch.nn.Sequential(*list(student.children())[2 : 2 + len(layers)])
        means = [
            through_head(student, values, head).mean(axis=0)
            for values in (inputs.numpy(), pooled(student, crops))
        ]
        with torch.no_grad():
            layers[-1].linear.bias += torch.from_numpy(means[0] - means[1]).to(student.device)
    found = {name: value for name, value in fit._asdict().items() if name.startswith("found")}
    return fit.choice._asdict() | found | {"texts": len(rows)}


def _random_units(
    student: SentenceTransformer, mean: torch.Tensor, deviation: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight and bias of random hidden units of standardized features."""
    first = head_of(student)[0].linear
    units, width = first.out_features - 2 * first.in_features, first.in_features
    generator = torch.Generator().manual_seed(0)
    random = torch.randn((units, width), generator=generator, dtype=mean.dtype)
    weight = random / width**0.5 / deviation
    return weight, -weight @ mean


@torch.no_grad()
def set_head(
    student: SentenceTransformer,
    weight: torch.Tensor,
    bias: torch.Tensor,
    features: torch.Tensor,
    units: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
) -> None:
    """Make a student's head compute `weight @ x + bias`, of shapes (d, width) and (d,).

    A head of two layers passes each feature, standardized by `features` of shape (n, width),
    through a pair of units. Its other units have weight (u, width) and bias (u,) and what they add,
    (d, u); if None, they start at random, without an effect.
    """
    *inner, last = (module.linear for module in head_of(student))
    if inner:
        mean, deviation = mean_and_deviation(features)
        if units is None:
            random = _random_units(student, mean, deviation)
            units = *random, torch.zeros((len(weight), len(random[1])), dtype=weight.dtype)
        into, into_bias, out = units
        pairs = torch.diag(1 / deviation)
        inner[0].weight.copy_(torch.cat([into, pairs, -pairs]))
        inner[0].bias.copy_(torch.cat([into_bias, -mean / deviation, mean / deviation]))
        bias = bias + weight @ mean
        weight = weight * deviation
        weight = torch.cat([out, weight, -weight], dim=1)
    last.weight.copy_(weight)
    if last.bias is not None:
        last.bias.copy_(bias)


def mean_and_deviation(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what standardizes features of shape (n, width)."""
    mean, deviation = features.mean(dim=0), features.std(dim=0)
    median = deviation.median()
    # A feature that hardly varies is noise, and would count as much as the others.
    fallback = median if median > 0 else torch.ones_like(median)
    return mean, torch.where(deviation > median / 20, deviation, fallback)


def pooled(student: SentenceTransformer, texts: Sequence[Text]) -> np.ndarray:
    """Return the head's input for texts, float32 (n, width)."""
    tokens = models.Tokens(student, texts)
    return models.forward_batches(student, tokens.batches(), len(texts), modules=2)


class FrozenFeatures(Teacher):
    """Teacher that returns what a student's base, with its digest `weights`, gives its head."""

    probes = ()

    def __init__(self, student: SentenceTransformer, weights: str | None = None) -> None:
        self._base = SentenceTransformer(
            modules=list(student.children())[:2],
            device=str(student.device),
            prompts=dict(student.prompts),
        ).eval()
        super().__init__(
            "base-features",
            self._base[1].pooling_output_dimension,
            normalize=False,
            prompts=models.role_prompts(student.prompts),
            kind="features",
            weights=weights or models.fingerprint(self._base),
            pooling=self._base[1].pooling_mode,
            max_length=student.max_seq_length,
        )

    def encode(self, texts: Sequence[str], role: Role = Role.DOCUMENT, *, stop=None) -> np.ndarray:
        """Return the features of texts of one role, float32 of shape (n, width)."""
        return models.encode_strings(self._base, texts, role)


@torch.no_grad()
def through_head(
    student: SentenceTransformer, features: np.ndarray, head: torch.nn.Module | None = None
) -> np.ndarray:
    """Return a head's output, the student's if None, for features of shape (n, width)."""
    head = (head or torch.nn.Sequential(*list(student.children())[2:])).eval()
    device, vectors = next(head.parameters()).device, []
    for start in range(0, len(features), 8192):
        values = features[np.arange(start, min(start + 8192, len(features)))]
        values = torch.from_numpy(np.asarray(values, dtype=np.float32)).to(device)
        vectors.append(head({"sentence_embedding": values})["sentence_embedding"].cpu().numpy())
    return np.concatenate(vectors)


def head_of(student: SentenceTransformer) -> list[Dense]:
    """Return the layers of a student's head, one or two; ModelError if the model is no student."""
    head = list(student.children())[2:4]
    if head and not isinstance(getattr(head[0], "activation_function", None), torch.nn.GELU):
        head = head[:1]  # a Dense behind a linear head truncates the student
    if not head or not all(isinstance(module, Dense) for module in head):
        kinds = ", ".join(type(module).__name__ for module in student.children())
        raise ModelError(f"no student: expected Transformer, Pooling, Dense, got {kinds}")
    return head


def check_targets(student: SentenceTransformer, count: int, targets: np.ndarray) -> None:
    """Raise TrainingError unless `count` texts have one target each that the student can reach."""
    shape, expected = tuple(targets.shape), (count, head_of(student)[-1].out_features)
    if shape != expected:
        raise TrainingError(f"targets of shape {shape} do not fit the texts: expected {expected}")
    for start in range(0, count, 8192):
        norms = np.linalg.norm(targets[start : start + 8192], axis=1)
        if not np.isfinite(norms).all():
            row = start + int(np.argmin(np.isfinite(norms)))
            raise TrainingError(f"target {row:,} has NaN or infinity")
        if models.normalizes(student) and np.abs(norms - 1).max() > 0.01:
            raise TrainingError("the targets have no unit norm: build with normalize=False")


def save(
    student: SentenceTransformer, folder: str | Path, provenance: Mapping[str, object] | None = None
) -> Path:
    """Save a student as a folder that plain `SentenceTransformer(folder)` loads, or not at all.

    An earlier student is replaced. The provenance, from `train.provenance`, is written beside it
    for the model card. ModelError if the folder holds something else, or cannot be written to.
    """
    folder = check_folder(folder)
    try:
        with whole_folder(folder) as scratch:
            student.save_pretrained(str(scratch), create_model_card=False)
            if provenance is not None:
                sums = {}
                for path in sorted(scratch.rglob("*.safetensors")):
                    sums[path.relative_to(scratch).as_posix()] = models.file_sha256(path)
                write_json(scratch / models.PROVENANCE, {**provenance, "sha256": sums})
    except (SafetensorError, WorkbenchError) as error:
        raise ModelError(f"the student cannot be saved to {folder}: {error}") from None
    return folder


def check_folder(folder: str | Path) -> Path:
    """Return the absolute path of a folder that `save` may replace; ModelError for any other."""
    folder = expanded(folder).resolve()
    modules = folder / "modules.json"
    is_student = modules.is_file() and ".Dense" in modules.read_text()
    is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if folder.is_mount() or folder == Path.cwd() or not (is_free or is_student):
        raise ModelError(f"{folder} is in use and holds no student: choose a new folder")
    return folder


def read_provenance(folder: str | Path) -> dict:
    """Return the provenance beside a student, {} if there is none that can be read."""
    provenance = models.read_json(expanded(folder) / models.PROVENANCE)
    provenance.pop("sha256", None)  # of these files: a copy elsewhere has others
    return provenance


def load(folder: str | Path, *, device: str | None = None) -> SentenceTransformer:
    """Load a saved student; ModelError if the folder holds none."""
    student = models.load_model(folder, device=device)
    head_of(student)
    _drop_pooler(student[0])
    return student


def _drop_pooler(transformer: Transformer) -> None:
    """Remove BERT's pooler, which is not used; the paper's parameter counts leave it out too."""
    backbone = transformer.model
    if "add_pooling_layer" in signature(type(backbone)).parameters:
        backbone.pooler = None
        # Saved, so that loading makes no pooler either.
        transformer.model_args = {"add_pooling_layer": False}
        transformer.config_keys = list(dict.fromkeys([*transformer.config_keys, "model_args"]))
