"""The student that comes with the package: it queries an index of its teacher's vectors at once."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load
from sentence_transformers import SentenceTransformer

from workbench import models, student
from workbench._util import expanded
from workbench.data import DATA
from workbench.errors import ModelError

READY = DATA / "ready"  # made by bench/ready.py
HEAD_FILE = "head.safetensors"


def load_ready(folder: str | Path = READY, *, device: str | None = None) -> SentenceTransformer:
    """Return the ready student: all-MiniLM-L6-v2 with a head into the space of all-mpnet-base-v2.

    `data/ready/README.md` says what it was trained on and how good it is. Nothing is trained here;
    `distill(..., recipe="adapt")` makes it better on your texts in seconds.

    Example:
        >>> wb.encode(wb.load_ready(), ["where does the river begin?"], "query").dtype
        dtype('float32')
    """
    about = student.read_provenance(folder)
    if "head_sha256" not in about:
        raise ModelError(f"{folder} holds no ready student: restore its {models.PROVENANCE}")
    path = expanded(folder) / HEAD_FILE
    content = path.read_bytes() if path.is_file() else b""
    if digest(content, about["build"]) != about["head_sha256"]:
        raise ModelError(f"{path} is missing or was altered: restore the ready student's files")
    if models.resolve(about["base"]).fingerprint != about["base_fingerprint"]:
        raise ModelError(f"the ready student was made with other weights of {about['base']}")
    model, parts = student.build(about["base"], device=device, **about["build"]), load(content)
    first, last = (layer.linear for layer in student.head_of(model))
    # The last hidden units repeat those before them with opposite signs, and are not stored.
    stored = first.out_features - about["mirrored"]
    mirrored = slice(stored - about["mirrored"], stored)
    with torch.no_grad():
        weight, bias = _weights(parts, 0), parts["0.bias"]
        first.weight.copy_(torch.cat([weight, -weight[mirrored]]))
        first.bias.copy_(torch.cat([bias, -bias[mirrored]]))
        weight = _weights(parts, 1)
        last.weight.copy_(torch.cat([weight, -weight[:, mirrored]], dim=1))
        last.bias.copy_(parts["1.bias"])
    return model.eval()


def is_ready(folder: str | Path) -> bool:
    """Say whether a folder holds the ready student, or another one in its format."""
    return Path(folder) == READY or (expanded(folder) / HEAD_FILE).is_file()


def digest(head: bytes, build: Mapping[str, object]) -> str:
    """Return the SHA-256 (hex) over the head's file and the options of `student.build`."""
    return hashlib.sha256(head + json.dumps(build, sort_keys=True).encode()).hexdigest()


def _weights(parts: Mapping[str, torch.Tensor], layer: int) -> torch.Tensor:
    """Return a layer's weights, float32 of shape (out, in).

    They are int8 with a scale for each row and column. The largest weight of each row, which would
    make the scale coarse, is kept by itself.
    """
    weight, scale, columns, peak, place = (
        parts[f"{layer}.{name}"] for name in ("weight", "scale", "columns", "peak", "place")
    )
    return (weight.float() * scale[:, None]).scatter(1, place.long(), peak) * columns
