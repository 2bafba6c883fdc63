"""The student that comes with the package: it searches an index of its teacher's vectors at once, on any English text."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from sentence_transformers import SentenceTransformer

from workbench import models, student
from workbench._util import whole_folder, write_json
from workbench.data import DATA
from workbench.errors import ModelError

READY = DATA / "ready"
_HEAD = "head.safetensors"


def load_ready(folder: str | Path = READY, *, device: str | None = None) -> SentenceTransformer:
    """Return the ready student: all-MiniLM-L6-v2 with a head into the space of all-mpnet-base-v2. Nothing is trained.

    `data/ready/README.md` says what it learned from and how good it is. `distill(..., recipe="adapt")` makes it better on
    texts of your own in seconds.

    Args:
        folder: where `save_ready` wrote it.
        device: torch device; the best one present if None.

    Raises:
        ModelError: a file is missing, is not the one that was written, or is for other weights of the base; or the base is
            not on this machine (the message says how to get it).

    Example:
        >>> import workbench as wb
        >>> vectors = wb.encode(wb.load_ready(), ["where does the river begin?"], "query")
        >>> vectors.dtype
        dtype('float32')
    """
    stated = statement(folder)
    weights = Path(folder) / _HEAD
    try:
        content = weights.read_bytes()
        if (found := hashlib.sha256(content).hexdigest()) != stated["head_sha256"]:
            raise ModelError(f"{weights} is not the file that was written: its SHA-256 is {found}. Restore it")
        kept = {name: tensor.float() for name, tensor in load(content).items()}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{weights} cannot be read: {error}. Restore it") from None
    files = models.resolve(stated["base"])
    if files.fingerprint != stated["base_fingerprint"]:
        raise ModelError(
            f"the ready student needs the weights of {stated['base']} that it was made with, not {files.path}'s"
        )
    try:
        model = student.build(stated["base"], device=device, **stated["build"])
        with torch.no_grad():
            for number, layer in enumerate(student.head_of(model)):
                scale = kept.get(f"{number}.scale", torch.ones(len(layer.linear.weight)))
                layer.linear.weight.copy_(kept[f"{number}.weight"] * scale[:, None])
                layer.linear.bias.copy_(kept[f"{number}.bias"])
    except (TypeError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"the head in {folder} is not the one that its {models.PROVENANCE} describes ({error})"
        ) from None
    return model.eval()


def is_ready(folder: str | Path) -> bool:
    """Say whether a folder is the packaged ready student's, or one that `save_ready` wrote."""
    return Path(folder) == READY or (Path(folder) / _HEAD).is_file()


def statement(folder: str | Path = READY) -> dict:
    """Return the ready student's provenance; ModelError if it cannot be read."""
    if not isinstance(folder, str | Path):
        raise ModelError(f"expected the folder of a ready student, got an object of type {type(folder).__name__}")
    path = Path(folder) / models.PROVENANCE
    try:
        stated = json.loads(path.read_text())
        stated["base"], stated["base_fingerprint"], stated["build"], stated["head_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} cannot be read ({type(error).__name__}: {error}): restore it") from None
    return stated


def save_ready(model: SentenceTransformer, folder: str | Path, provenance: Mapping[str, object]) -> Path:
    """Write a student whose transformer is its base's: only the head, with its statement and checksum.

    The first layer is kept in float16, since its weights for features that hardly vary are far larger than the rest, and the
    second in int8 with a scale for each output.

    Args:
        model: a student with a head of two layers.
        folder: new, or with an earlier one, whose card (README.md) stays.
        provenance: what `train.provenance` returned.
    """
    base = models.resolve(provenance["base"])
    head = student.head_of(model)
    first, last = (module.linear for module in head)
    scale = last.weight.detach().cpu().abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / 127
    tensors = {
        "0.weight": first.weight.detach().cpu().half(),
        "0.bias": first.bias.detach().cpu().clone(),
        "1.weight": (last.weight.detach().cpu() / scale[:, None]).round().to(torch.int8),
        "1.scale": scale,
        "1.bias": last.bias.detach().cpu().clone(),
    }
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ModelError("the head has weights that are infinite in float16: it cannot be kept so small")
    built = {
        "dimension": head[-1].out_features,
        "normalize": models.normalizes(model),
        "hidden": head[0].out_features - 2 * head[0].in_features,
        "pooling": list(model.children())[1].pooling_mode,
        "max_length": model.max_seq_length,
        "prompts": dict(model.prompts),
    }
    with whole_folder(Path(folder)) as scratch:
        if (card := Path(folder) / "README.md").is_file():
            shutil.copy(card, scratch)
        save_file(tensors, scratch / _HEAD)
        digest = hashlib.sha256((scratch / _HEAD).read_bytes()).hexdigest()
        more = {"base_fingerprint": base.fingerprint, "build": built, "head_sha256": digest}
        write_json(scratch / models.PROVENANCE, {**provenance, **more})
    return Path(folder)
