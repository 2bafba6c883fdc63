"""Texts through a local model quickly: low precision where it is safe, batches of like lengths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

# Padded tokens a forward pass: on a CPU the activations should stay in its caches, a GPU wants more.
TOKEN_BUDGET = {"cpu": 2048}
TOKEN_BUDGET_GPU = 16384


def best_dtype(device: torch.device | str) -> torch.dtype:
    """Return bfloat16 where the hardware multiplies it faster than float32, float32 elsewhere."""
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
    """Return the tokens of each text as the model would see it, int64 of shape (n,)."""
    limit = model.max_seq_length or 512
    encoded = model.tokenizer(list(texts), truncation=True, max_length=limit, padding=False)
    return np.fromiter((len(ids) for ids in encoded["input_ids"]), dtype=np.int64, count=len(texts))


def encode(
    model: SentenceTransformer,
    texts: Sequence[str],
    role: str,
    *,
    prompt: str | None = None,
    token_budget: int | None = None,
) -> np.ndarray:
    """Embed texts of one role; what `SentenceTransformer.encode` gives, sooner.

    Args:
        model: any sentence-transformers model; a Router is asked for the role's side.
        texts: the texts, any order.
        role: "query" or "document".
        prompt: what is put in front of each text; the model's own prompt for the role if None.
        token_budget: padded tokens a forward pass; chosen by device if None.

    Returns:
        float32 of shape (n, dimension). Vectors of a model that ends in Normalize have unit norm to
        float32 precision, whatever the model computed in.
    """
    kind = model.device.type
    budget = token_budget or TOKEN_BUDGET.get(kind, TOKEN_BUDGET_GPU)
    vectors = np.empty((len(texts), model.get_embedding_dimension()), dtype=np.float32)
    if prompt is None:
        prompt = role_prompt(model, role)
    run = model.encode_query if role == "query" else model.encode_document
    if not len(texts):
        return vectors
    for batch in length_buckets(token_lengths(model, [prompt + text for text in texts]), budget):
        vectors[batch] = run([texts[i] for i in batch], prompt=prompt, batch_size=len(batch), show_progress_bar=False)
    if normalizes(model):
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return vectors


def role_prompt(model: SentenceTransformer, role: str) -> str:
    """Return the prompt that the model's own configuration gives to a role, "" if none."""
    names = ("query",) if role == "query" else ("document", "passage", "corpus")
    return next((model.prompts[name] for name in names if model.prompts.get(name)), "")


def normalizes(model: SentenceTransformer) -> bool:
    """Say whether the model's last module gives its vectors unit norm."""
    from sentence_transformers.models import Normalize

    return isinstance(list(model.children())[-1], Normalize)
