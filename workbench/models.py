"""Text-embedding models: load one from whatever names it, and embed texts of both roles."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from workbench._model_files import (
    MINILM,
    MPNET,
    OLD_PROVENANCE,
    PROVENANCE,
    ModelFiles,
    file_sha256,
    full_name,
    read_json,
    resolve,
    unpickle,
)
from workbench._util import as_float32, one_of, whole
from workbench.data import Role, Text, as_texts
from workbench.errors import ModelError

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

__all__ = [
    "MINILM", "MPNET", "OLD_PROVENANCE", "PROVENANCE", "ModelFiles", "autocast", "best_dtype", "by_role", "code_digest",
    "encode", "file_sha256", "fingerprint", "full_name", "length_buckets", "load", "load_model", "max_length", "normalizes",
    "resolve", "role_prompt", "shorten",
]  # fmt: skip

PRECISIONS = ("auto", "float32", "bfloat16")
BAR_AFTER = 3  # seconds that work takes without a bar
_IMAGE_MODELS = (
    "clip",
    "siglip",
    "siglip2",
    "altclip",
    "chinese_clip",
    "align",
)  # `model_type` in config.json


def load_model(
    source: str | Path | ModelFiles | SentenceTransformer,
    *,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> SentenceTransformer:
    """Return a text-embedding model, loading it in float32 if it is given by name or folder.

    Args:
        source: a model's name, a folder, what `resolve` returned, or a loaded `SentenceTransformer`, which is
            returned as it is.
        device: torch device to load on; the best one present if None.
        trust_remote_code: run Python code that comes with the model. Leave it off unless you have read the code.

    Raises:
        ModelError: the model cannot be found or loaded, or it is not a text-embedding model.

    Example:
        >>> import workbench as wb
        >>> wb.load_model("all-MiniLM-L6-v2").get_embedding_dimension()
        384
    """
    if isinstance(source, (str, Path)):
        source = resolve(source)
    if isinstance(source, ModelFiles):
        source = _loaded(source, device, trust_remote_code)
    # A model can only have been loaded if its library is imported: nothing is imported to find that out.
    library = sys.modules.get("sentence_transformers")
    if library is None or not isinstance(source, library.SentenceTransformer):
        raise ModelError(_other_kind(source))
    if not source.supports("text"):
        kinds = ", ".join(map(str, source.modalities))
        raise ModelError(f"expected a text-embedding model, got one that embeds {kinds}")
    return source


load = load_model  # the short name, for `models.load(name)`


def _loaded(files: ModelFiles, device: str | None, trust_remote_code: bool) -> SentenceTransformer:
    _check_kind(files)
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # loading is short; ours are the bars worth watching
    try:
        model = SentenceTransformer(
            str(files.path),
            device=device,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            model_kwargs={"dtype": torch.float32, "use_safetensors": True},
        )
    except Exception as error:  # loaders raise every kind, from KeyError to bare OSError
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "deserializing header" in reason:  # safetensors, of a file that was cut short
            reason += f". Delete {files.path} and download the model again"
        if "pytorch_model.bin" in reason:  # of a module; pickles are not downloaded
            reason += f". Pickled weights are not loaded. {unpickle(files.name)}"
        raise ModelError(
            f"model {files.name} at {files.path} cannot be loaded: {reason}"
        ) from error
    check_vocabulary(model.tokenizer, files)
    return model


def check_vocabulary(tokenizer: object, files: ModelFiles) -> None:
    """Refuse a tokenizer without words: transformers makes one where its files are missing, and all texts are alike to it."""
    if hasattr(tokenizer, "all_special_ids") and len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ModelError(
            f"the tokenizer of {files.name} knows no words: its files, such as tokenizer.json or vocab.txt, are missing from "
            f"{files.path}. Copy or download the model again"
        )


def _other_kind(source: object) -> str:
    """Say why an object is not a text-embedding model, and what to give instead."""
    kinds = {base.__name__ for base in type(source).__mro__}
    given = "None" if source is None else f"an object of type {type(source).__name__}"
    why = ""
    if "CrossEncoder" in kinds:
        why = "a cross-encoder scores pairs of texts and has no vectors; "
    elif "Teacher" in kinds:
        why = "a teacher embeds with its own encode(texts); "
    elif "PreTrainedModel" in kinds:
        why = "a transformers model has no pooling; SentenceTransformer(modules=[...]) adds a Pooling; "
    advice = "give a model's name, a folder, or a loaded SentenceTransformer"
    return f"expected a text-embedding model, got {given}: {why}{advice}"


def _check_kind(files: ModelFiles) -> None:
    """Refuse a model of another kind by its configuration, before its weights are read."""
    kind = read_json(files.path / "config_sentence_transformers.json").get(
        "model_type", "SentenceTransformer"
    )
    sentence_transformer = (files.path / "modules.json").is_file()
    configs = [
        read_json(path) for path in (files.path / "config.json", *files.path.glob("*/config.json"))
    ]
    architectures = configs[0].get("architectures") or [""]
    if not sentence_transformer and re.search(
        "For(Sequence|Token)Classification$", str(architectures[0])
    ):
        kind = "CrossEncoder or classifier, which gives no text vectors"
    elif any(config.get("model_type") in _IMAGE_MODELS for config in configs):
        kind = "model of images and their captions"
    if kind != "SentenceTransformer":
        raise ModelError(f"expected a text-embedding model, but {files.name} is a {kind}")
    if not sentence_transformer:
        warnings.warn(
            f"{files.name} has no modules.json, so its pooling is not known: the mean of the tokens is taken. If the "
            "model was trained with another pooling, its vectors are wrong",
            stacklevel=4,
        )


def best_dtype(device: torch.device | str) -> torch.dtype:
    """Return bfloat16 where the hardware multiplies it faster than float32, float32 elsewhere."""
    import torch

    kind, native = torch.device(device).type, False
    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif kind == "cpu":
        capabilities = torch.cpu.get_capabilities()
        native = any(
            capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "sve_bf16", "bf16")
        )
    return torch.bfloat16 if native else torch.float32


def best_token_budget(device: torch.device | str) -> int:
    """Return the padded tokens of a forward pass: on a CPU the activations should stay in its caches, a GPU wants more."""
    import torch

    if torch.device(device).type != "cpu":
        return 16384
    # bfloat16 is half as large, and its units want more rows.
    return 512 if best_dtype(device) is torch.float32 else 2048


def length_buckets(lengths: Sequence[int], token_budget: int) -> list[np.ndarray]:
    """Split items into batches of similar length whose padded size stays within a budget.

    Args:
        lengths: tokens of each item, shape (n,).
        token_budget: the most tokens of a batch, padding included; a longer item is a batch of its own.

    Returns:
        Index arrays (int64) that together hold every item once, longest first: what exceeds memory does so at once.
    """
    order, batches = np.argsort(-np.asarray(lengths), kind="stable"), []
    while len(order):
        size = max(1, token_budget // max(1, int(lengths[order[0]])))
        batches.append(order[:size])
        order = order[size:]
    return batches


def _token_lengths(model: SentenceTransformer, texts: list[str]) -> list[int]:
    """Return the number of tokens of each text as the model sees it."""
    if not texts or not callable(model.tokenizer):  # a static model has no padding to save
        return [len(text) // 4 + 1 for text in texts]
    encoded = model.tokenizer(
        texts, truncation=True, max_length=model.max_seq_length or 512, padding=False
    )
    return [len(ids) for ids in encoded["input_ids"]]


def encode(
    model: SentenceTransformer,
    texts: Sequence[str | Text],
    role: str | None = None,
    *,
    prompt: str | None = None,
    precision: str = "auto",
    token_budget: int | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Embed texts of one or both roles, in batches of similar length.

    Args:
        model: whatever `load_model` takes; a Router is asked for the role's side.
        texts: n strings and `Text` objects, mixed, in any order.
        role: of all texts, "query" or "document"; None takes each text's own, and a plain string is a document.
        prompt: put in front of each text; None takes the model's own prompt for the role.
        precision: "auto" runs under bfloat16 autocast where the hardware is faster with it, "bfloat16" always;
            "float32" computes in the dtype of the model's weights.
        token_budget: padded tokens per forward pass; chosen by device if None.
        progress: show a bar once it has taken some seconds.

    Returns:
        float32 of shape (n, dimension), in the order of the texts; of unit norm if the model ends in Normalize.

    Raises:
        DataError: as `data.as_texts`, except that no texts give an array of shape (0, dimension); an unknown role.
        ModelError: `model` is not a text-embedding model.
        WorkbenchError: an unknown precision, or a token budget below 1.

    Example:
        >>> import workbench as wb
        >>> model = wb.load_model("all-MiniLM-L6-v2")
        >>> wb.encode(model, ["bread", wb.Text("why does bread rise?", "query")]).shape
        (2, 384)
    """
    role = None if role is None else Role(role)
    one_of(precision, "precision", PRECISIONS)
    if token_budget is not None:
        whole(token_budget, "token_budget")
    model = load_model(model)
    texts = [] if isinstance(texts, list | tuple) and not texts else as_texts(texts)
    budget = best_token_budget(model.device) if token_budget is None else token_budget
    vectors = np.empty((len(texts), model.get_embedding_dimension()), dtype=np.float32)
    training = model.training
    bar = tqdm(
        total=len(texts),
        desc="embedding",
        unit=" texts",
        delay=BAR_AFTER,
        leave=False,
        disable=not progress,
    )
    with bar, autocast(model.device, precision):
        for side, rows in (
            by_role(texts) if role is None else {role: np.arange(len(texts))}
        ).items():
            run = model.encode_query if side == "query" else model.encode_document
            start = role_prompt(model, side) if prompt is None else prompt
            plain = [texts[i].text for i in rows]
            for batch in length_buckets(
                _token_lengths(model, [start + text for text in plain]), budget
            ):
                vectors[rows[batch]] = run(
                    [plain[i] for i in batch],
                    prompt=start,
                    batch_size=len(batch),
                    show_progress_bar=False,
                )
                bar.update(len(batch))
    model.train(training)
    if normalizes(model):
        vectors /= np.maximum(
            np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny
        )
    return vectors


def by_role(texts: Sequence[str | Text]) -> dict[str, np.ndarray]:
    """Return the rows of each role that occurs, int64; a plain string is a document."""
    query = np.fromiter(
        (getattr(text, "role", None) == Role.QUERY for text in texts), dtype=bool, count=len(texts)
    )
    found = {"document": np.flatnonzero(~query), "query": np.flatnonzero(query)}
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
    """Say whether the model's last module gives its vectors unit norm; of a Router, that of every route."""
    from sentence_transformers.base.modules import Normalize, Router

    last = list(model.children())[-1]
    ends = (
        [list(route)[-1] for route in last.sub_modules.values()]
        if isinstance(last, Router)
        else [last]
    )
    return all(isinstance(end, Normalize) for end in ends)


def max_length(model: SentenceTransformer) -> int | None:
    """Return how many tokens a model reads of a text; None if there is no limit."""
    if hasattr(model.tokenizer, "enable_truncation"):  # a static model's own tokenizer
        return (model.tokenizer.truncation or {}).get("max_length")
    return model.max_seq_length


def shorten(model: SentenceTransformer, length: int, name: str, *, most: int | None = None) -> None:
    """Let a model read so many tokens of a text; ModelError if that is more than `most`, or than it reads now if None."""
    now = max_length(model)
    if length > (most or now or length):
        raise ModelError(f"max_length {length}: {name} takes from 3 to {most or now} tokens")
    if hasattr(model.tokenizer, "enable_truncation"):
        model.tokenizer.enable_truncation(length)
    elif length != now:
        model.max_seq_length = length


def fingerprint(model: SentenceTransformer) -> str:
    """Return the SHA-256 (hex) over a loaded model's weights, code of its own, tokenizer, prompts and module settings."""
    modules = [
        [type(module).__name__, getattr(module, "get_config_dict", dict)()]
        for module in model.children()
    ]
    settings = [
        model.max_seq_length,
        dict(model.prompts),
        modules,
        *filter(None, [code_digest(model)]),
    ]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    tokenizer = getattr(model.tokenizer, "backend_tokenizer", model.tokenizer)
    if hasattr(tokenizer, "to_str"):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.no_truncation()  # both are set anew by every call
        tokenizer.no_padding()
        digest.update(tokenizer.to_str().encode())
    elif hasattr(tokenizer, "get_vocab"):
        digest.update(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(key.encode() + as_float32(tensor).tobytes())
    return digest.hexdigest()


def code_digest(model: SentenceTransformer) -> str:
    """Return the SHA-256 (hex) over Python code that came with a model and was run to load it, "" if none was.

    transformers copies such code, also that of another repository, into one package, and loads it from there.
    """
    kinds = {type(module) for module in model.modules()} | {type(getattr(model, "tokenizer", None))}
    named = {
        kind.__module__ for kind in kinds if kind.__module__.startswith("transformers_modules.")
    }
    folders = {Path(sys.modules[name].__file__).parent for name in named if name in sys.modules}
    files = sorted(
        {path for folder in folders for path in folder.rglob("*.py")}, key=lambda path: path.name
    )
    contents = [[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in files]
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest() if contents else ""
