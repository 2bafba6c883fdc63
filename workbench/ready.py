"""The student that comes with the package: it searches an index of its teacher's vectors at once, on any English text."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from sentence_transformers import SentenceTransformer

from workbench import models, student
from workbench._util import expanded, whole_folder, write_json
from workbench.data import DATA
from workbench.errors import ModelError, WorkbenchError

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
    weights = expanded(folder) / _HEAD
    try:
        content = weights.read_bytes()
        if (found := _digest(content, stated["build"])) != stated["head_sha256"]:
            raise ModelError(
                f"{weights}, or how {models.PROVENANCE} says it is built, is not what was written: the SHA-256 of both is "
                f"{found}. Restore them"
            )
        kept = load(content)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{weights} cannot be read: {error}. Restore it") from None
    files = models.resolve(stated["base"])
    if files.fingerprint != stated["base_fingerprint"]:
        raise ModelError(
            f"the ready student needs the weights of {stated['base']} that it was made with, not {files.path}'s"
        )
    try:
        model = student.build(stated["base"], device=device, **stated["build"])
        first, last = (layer.linear for layer in student.head_of(model))
        stored = first.out_features - stated.get("mirrored", 0)
        again = slice(
            2 * stored - first.out_features, stored
        )  # units whose mirrored ones follow at the end
        with torch.no_grad():
            weight, bias = _unpacked(kept, 0, stored, first.in_features)
            first.weight.copy_(torch.cat([weight, -weight[again]]))
            first.bias.copy_(torch.cat([bias, -bias[again]]))
            weight, bias = _unpacked(kept, 1, last.out_features, stored)
            last.weight.copy_(torch.cat([weight, -weight[:, again]], dim=1))
            last.bias.copy_(bias)
            if kept:
                raise ValueError(f"it has {', '.join(kept)} besides")
    except (TypeError, KeyError, ValueError, RuntimeError, WorkbenchError) as error:
        raise ModelError(
            f"the head in {folder} is not the one that its {models.PROVENANCE} describes ({error})"
        ) from None
    return model.eval()


def is_ready(folder: str | Path) -> bool:
    """Say whether a folder is the packaged ready student's, or one that `save_ready` wrote."""
    return Path(folder) == READY or os.path.isfile(expanded(folder) / _HEAD)


def statement(folder: str | Path = READY) -> dict:
    """Return the ready student's provenance; ModelError if it cannot be read."""
    if not isinstance(folder, str | Path):
        raise ModelError(
            f"expected the folder of a ready student, got an object of type {type(folder).__name__}"
        )
    path = expanded(folder) / models.PROVENANCE
    try:
        stated = json.loads(path.read_text())
        stated["base"], stated["base_fingerprint"], stated["build"], stated["head_sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(
            f"{path} cannot be read ({type(error).__name__}: {error}): restore it"
        ) from None
    return stated


def save_ready(
    model: SentenceTransformer,
    folder: str | Path,
    provenance: Mapping[str, object],
    *,
    mirrored: int = 0,
) -> Path:
    """Write a student whose transformer is its base's: only the head, in 8 bits, with its statement and checksum.

    Args:
        model: a student with a head of two layers.
        folder: new, or with an earlier one, whose card (README.md) stays.
        provenance: what `train.provenance` returned.
        mirrored: this many units at the end of the hidden layer are those before them with the opposite sign, before and
            behind; they are not stored.
    """
    base = models.resolve(provenance["base"])
    tensors, (first, last) = {}, (layer.linear for layer in student.head_of(model))
    stored = first.out_features - mirrored
    layers = (first.weight[:stored], first.bias[:stored]), (last.weight[:, :stored], last.bias)
    for number, (weight, bias) in enumerate(layers):
        parts = _packed(weight.detach().cpu()) | {"bias": bias.detach().cpu()}
        tensors |= {f"{number}.{name}": tensor.contiguous() for name, tensor in parts.items()}
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ModelError("the head has weights that are NaN or infinite")
    built = build_options(model)
    with whole_folder(Path(folder)) as scratch:
        if (card := Path(folder) / "README.md").is_file():
            shutil.copy(card, scratch)
        save_file(tensors, scratch / _HEAD)
        digest = _digest((scratch / _HEAD).read_bytes(), built)
        more = {
            "base_fingerprint": base.fingerprint,
            "build": built,
            "mirrored": mirrored,
            "head_sha256": digest,
        }
        write_json(scratch / models.PROVENANCE, {**provenance, **more})
    return Path(folder)


def build_options(model: SentenceTransformer) -> dict:
    """Return what `student.build` was given besides the base for a student with a head of two layers."""
    head = student.head_of(model)
    return {
        "dimension": head[-1].out_features,
        "normalize": models.normalizes(model),
        "hidden": head[0].out_features - 2 * head[0].in_features,
        "pooling": list(model.children())[1].pooling_mode,
        "max_length": model.max_seq_length,
        "prompts": dict(model.prompts),
    }


def _packed(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a layer's weights, of shape (out, in), in int8 with a scale for each input and each output.

    The largest weight of each output is kept by itself: in a head that started as the closed form it is the one of the
    identity, and a hundred times as large as the rest.
    """
    least = torch.finfo(torch.float32).tiny
    columns = weight.pow(2).mean(dim=0).sqrt().clamp_min(least)
    scaled = weight / columns
    place = scaled.abs().argmax(dim=1, keepdim=True)
    peak = scaled.gather(1, place)
    scaled.scatter_(1, place, 0)
    scale = (scaled.abs().amax(dim=1) / 127).clamp_min(least)
    rounded = (scaled / scale[:, None]).round().to(torch.int8)
    return {
        "weight": rounded,
        "scale": scale,
        "columns": columns,
        "peak": peak,
        "place": place.to(torch.int32),
    }


def _unpacked(
    kept: dict[str, torch.Tensor], number: int, out: int, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take a layer's parts out of `kept`; return its weights and bias, float32.

    Raises:
        KeyError: a part is missing.
        ValueError: a part has another shape or dtype, or is not finite.
    """
    expected = {
        "weight": ((out, width), torch.int8),
        "bias": ((out,), torch.float32),
        "scale": ((out,), torch.float32),
        "columns": ((width,), torch.float32),
        "peak": ((out, 1), torch.float32),
        "place": ((out, 1), torch.int32),
    }
    parts = {name: kept.pop(f"{number}.{name}") for name in expected}
    for name, tensor in parts.items():
        if (found := (tuple(tensor.shape), tensor.dtype)) != expected[
            name
        ] or not tensor.isfinite().all():
            raise ValueError(f"{name}: expected finite values of {expected[name]}, got {found}")
    if not 0 <= parts["place"].min() <= parts["place"].max() < width:
        raise ValueError(f"place: expected positions below {width:,}")
    weight = parts["weight"].float() * parts["scale"][:, None]
    return weight.scatter(1, parts["place"].long(), parts["peak"]) * parts["columns"], parts["bias"]


def _digest(head: bytes, build: Mapping[str, object]) -> str:
    return hashlib.sha256(head + json.dumps(build, sort_keys=True).encode()).hexdigest()
