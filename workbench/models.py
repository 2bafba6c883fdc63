"""Text-embedding models: load one from whatever names it, and embed texts of both roles."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from workbench._model_files import (
    MINILM,
    MPNET,
    PROVENANCE,
    ModelFiles,
    file_sha256,
    full_name,
    read_json,
    resolve,
)
from workbench._util import as_float32, one_of, whole
from workbench.data import Role, Text, as_texts
from workbench.errors import ModelError, WorkbenchError

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

    Batch = tuple[np.ndarray, dict[str, torch.Tensor]]

__all__ = ["MINILM", "MPNET", "PROVENANCE", "ModelFiles", "file_sha256", "full_name", "resolve"]

PRECISIONS = ("auto", "float32", "bfloat16")
BAR_AFTER = 3  # seconds that work takes without a bar


def load_model(
    source: str | Path | ModelFiles | SentenceTransformer,
    *,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> SentenceTransformer:
    """Return a text-embedding model, loading it in float32 if it is given by name or folder.

    Args:
        source: a model's name, a folder, what `resolve` returned, or a loaded `SentenceTransformer`,
            which is returned as it is.
        device: torch device to load on; the best one present if None.
        trust_remote_code: run Python code that comes with the model. Leave it off unless you have
            read the code.

    Raises:
        ModelError: the model cannot be found or loaded, or it is not a text-embedding model.

    Example:
        >>> import workbench as wb
        >>> wb.load_model("all-MiniLM-L6-v2").get_embedding_dimension()
        384
    """
    if isinstance(source, str | Path):
        source = resolve(source)
    if isinstance(source, ModelFiles):
        source = _loaded(source, device, trust_remote_code)
    # A model can only have been loaded if its library is imported, which takes seconds.
    library = sys.modules.get("sentence_transformers")
    if not library or not isinstance(source, library.SentenceTransformer):
        raise ModelError(
            "expected a text-embedding model: a name, a folder or a SentenceTransformer, got "
            f"{'None' if source is None else type(source).__name__}"
        )
    if not source.supports("text"):
        raise ModelError(f"expected a model of texts, got one of {', '.join(source.modalities)}")
    return source


load = load_model  # the short name, for `models.load(name)`


def _loaded(files: ModelFiles, device: str | None, trust_remote_code: bool) -> SentenceTransformer:
    _check_kind(files)
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # loading is short
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
        raise ModelError(
            f"model {files.name} at {files.path} cannot be loaded: {reason}. If files are missing "
            "or cut, copy or download it again; pickled weights are not loaded"
        ) from error
    special = getattr(model.tokenizer, "all_special_ids", None)
    if special and len(model.tokenizer) <= len(special):
        # transformers makes an empty tokenizer, to which all texts are alike.
        raise ModelError(
            f"the tokenizer of {files.name} knows no words: tokenizer.json or vocab.txt is missing "
            f"from {files.path}. Copy or download the model again"
        )
    return model


def _check_kind(files: ModelFiles) -> None:
    """Refuse a model of another kind by its configuration, before its weights are read."""
    stated = read_json(files.path / "config_sentence_transformers.json")
    kind = stated.get("model_type", "SentenceTransformer")
    has_modules = (files.path / "modules.json").is_file()
    architectures = read_json(files.path / "config.json").get("architectures") or [""]
    if not has_modules and architectures[0].endswith("Classification"):
        kind = "CrossEncoder or classifier"
    if kind != "SentenceTransformer":
        raise ModelError(f"expected a text-embedding model, but {files.name} is a {kind}")
    if not has_modules:
        warnings.warn(
            f"{files.name} has no modules.json, so its pooling is not known: the mean of the "
            "tokens is taken. If it was trained with another pooling, its vectors are wrong",
            stacklevel=4,
        )


def best_dtype(device: torch.device | str) -> torch.dtype:
    """Return bfloat16 where the hardware multiplies it faster than float32, float32 elsewhere."""
    import torch

    kind, is_native = torch.device(device).type, False
    if kind == "cuda":
        is_native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif kind == "cpu":
        capabilities = torch.cpu.get_capabilities()
        names = ("amx_bf16", "avx512_bf16", "sve_bf16", "bf16")
        is_native = any(capabilities.get(name) for name in names)
    return torch.bfloat16 if is_native else torch.float32


def best_token_budget(device: torch.device | str) -> int:
    """Return the padded tokens of a forward pass: on a CPU, activations should fit its caches."""
    import torch

    if torch.device(device).type != "cpu":
        return 16384
    # bfloat16 is half as large, and its units want more rows.
    return 512 if best_dtype(device) is torch.float32 else 2048


def length_buckets(lengths: Sequence[int], token_budget: int) -> list[np.ndarray]:
    """Split items into batches of similar length whose padded size stays within a budget.

    Args:
        lengths: tokens of each item, shape (n,).
        token_budget: the most tokens of a batch, padding included; a longer item is a batch of its
            own.

    Returns:
        Index arrays (int64) that together hold every item once, longest first: what exceeds memory
        does so at once.
    """
    order, batches = np.argsort(-np.asarray(lengths), kind="stable"), []
    while len(order):
        size = max(1, token_budget // max(1, int(lengths[order[0]])))
        batches.append(order[:size])
        order = order[size:]
    return batches


class Tokens:
    """The token ids of texts with a student's prompts, in a temporary file.

    Memory does not grow with the texts' lengths. WorkbenchError if there is no room.

    Attributes:
        lengths: tokens of each text, int32 of shape (n,).
    """

    def __init__(self, model: SentenceTransformer, texts: Sequence[Text]) -> None:
        dtype = np.dtype(np.uint16 if len(model.tokenizer) <= 1 << 16 else np.uint32)
        self._padding = model.tokenizer.pad_token_id or 0
        self.lengths = np.empty(len(texts), dtype=np.int32)
        try:
            with tempfile.TemporaryFile() as file:
                for start in range(0, len(texts), 8192):
                    chunk = texts[start : start + 8192]
                    prompted = [role_prompt(model, text.role) + text.text for text in chunk]
                    ids = model.tokenizer(
                        prompted, truncation=True, max_length=model.max_seq_length
                    )["input_ids"]
                    self.lengths[start : start + 8192] = [len(row) for row in ids]
                    file.write(np.concatenate(ids).astype(dtype).tobytes())
                file.flush()
                self._ids = np.memmap(file, dtype=dtype, mode="r")
        except OSError as error:
            raise WorkbenchError(
                f"the texts' tokens cannot be kept in {tempfile.gettempdir()}: {error}. Set TMPDIR "
                "to a folder with room."
            ) from None
        self._ends = np.cumsum(self.lengths, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """Return padded `input_ids` and `attention_mask` of some texts, int64 (m, tokens)."""
        import torch

        ids = np.full((len(rows), int(self.lengths[rows].max())), self._padding, dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            start, end = self._ends[row] - self.lengths[row], self._ends[row]
            ids[i, : end - start] = self._ids[start:end]
            mask[i, : end - start] = 1
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def batches(self, rows: np.ndarray, token_budget: int) -> Iterator[Batch]:
        """Yield batches of similar length: places in `rows`, and the model's input."""
        for places in length_buckets(self.lengths[rows], token_budget):
            yield places, self.batch(rows[places])


class _PlainTexts:
    """Texts of one role for any model, tokenized as their batches come; otherwise like `Tokens`."""

    def __init__(
        self, model: SentenceTransformer, texts: list[str], role: str, prompt: str
    ) -> None:
        self._model, self._texts, self._role, self._prompt = model, texts, role, prompt

    def __len__(self) -> int:
        return len(self._texts)

    def batches(self, rows: np.ndarray, token_budget: int) -> Iterator[Batch]:
        """Yield batches of similar length: places in `rows`, and the model's input."""
        most = self._model.max_seq_length or 512
        # A token has about four bytes. The exact lengths of a pool are known once it is tokenized.
        lengths = [min(most, 2 + len(self._texts[row].encode()) // 4) for row in rows]
        for pool in length_buckets(lengths, 16 * token_budget):
            texts = [self._texts[row] for row in rows[pool]]
            features = self._model.preprocess(texts, prompt=self._prompt or None, task=self._role)
            mask = features.get("attention_mask")
            if mask is None:  # a static model pads nothing
                yield pool, features
                continue
            tokens = mask.sum(dim=1).numpy()
            for places in length_buckets(tokens, token_budget):
                width = int(tokens[places].max())
                is_left = getattr(self._model.tokenizer, "padding_side", "right") == "left"
                columns = slice(-width, None) if is_left else slice(width)
                batch = dict(features)  # also what is no tensor
                for name, value in features.items():
                    if getattr(value, "shape", None) == mask.shape:
                        batch[name] = value[places][:, columns]
                yield pool[places], batch


def forward_batches(
    model: SentenceTransformer,
    tokens: Tokens | _PlainTexts,
    *,
    rows: np.ndarray | None = None,
    modules: int | None = None,
    role: str | None = None,
    precision: str = "auto",
    token_budget: int | None = None,
    bar: tqdm | None = None,
) -> np.ndarray:
    """Run a model on tokens, in batches of similar length; every encoding goes through here.

    Args:
        model: put into evaluation mode meanwhile.
        tokens: of n texts.
        rows: int of shape (m,); all of the texts if None.
        modules: run so many modules of the model, such as 2 for the features that a head gets.
        role: the side of a Router.
        precision, token_budget: see `encode`.
        bar: advanced by the texts that are done.

    Returns:
        float32 of shape (m, width), in the order of the rows.
    """
    import torch
    from sentence_transformers.util import batch_to_device

    rows = np.arange(len(tokens)) if rows is None else rows
    layers = torch.nn.Sequential(*list(model.children())[:modules])
    run = layers if modules else functools.partial(model, **({"task": role} if role else {}))
    budget = token_budget or best_token_budget(model.device)
    was_training, vectors = model.training, None
    model.eval()
    with torch.inference_mode(), autocast(model.device, precision):
        for places, batch in tokens.batches(rows, budget):
            output = run(batch_to_device(batch, model.device))["sentence_embedding"]
            if vectors is None:
                vectors = np.empty((len(rows), output.shape[1]), dtype=np.float32)
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
    prompt: str | None = None,
    precision: str = "auto",
    token_budget: int | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Embed texts of one or both roles, in batches of similar length.

    Args:
        model: whatever `load_model` takes; a Router is asked for the role's side.
        texts: n strings and `Text` objects, mixed, in any order.
        role: of all texts, "query" or "document"; None takes each text's own, and a plain string is
            a document.
        prompt: put in front of each text; None takes the model's own prompt for the role.
        precision: "auto" runs under bfloat16 autocast where the hardware is faster with it,
            "bfloat16" always; "float32" computes in the dtype of the model's weights.
        token_budget: about how many padded tokens a forward pass has; chosen by device if None.
        progress: show a bar once it has taken some seconds.

    Returns:
        float32 of shape (n, dimension), in the order of the texts; of unit norm if the model ends
        in Normalize.

    Raises:
        DataError: as `data.as_texts`, except that no texts give an array of shape (0, dimension);
            an unknown role.
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
    vectors = np.empty((len(texts), model.get_embedding_dimension()), dtype=np.float32)
    rows_of = by_role(texts) if role is None else {role: np.arange(len(texts))}
    bar = tqdm(
        total=len(texts),
        desc="embedding",
        unit=" texts",
        delay=BAR_AFTER,
        leave=False,
        disable=not progress,
    )
    with bar:
        for side, rows in rows_of.items():
            strings = [texts[row].text for row in rows]
            vectors[rows] = encode_strings(
                model,
                strings,
                side,
                prompt,
                precision=precision,
                token_budget=token_budget,
                bar=bar,
            )
    return vectors


def encode_strings(
    model: SentenceTransformer,
    texts: Sequence[str],
    role: str,
    prompt: str | None = None,
    *,
    precision: str = "auto",
    token_budget: int | None = None,
    bar: tqdm | None = None,
) -> np.ndarray:
    """Embed strings of one role with a loaded model; nothing is checked. See `encode`."""
    if not texts:
        return np.empty((0, model.get_embedding_dimension()), dtype=np.float32)
    prompt = role_prompt(model, role) if prompt is None else prompt
    plain = _PlainTexts(model, list(texts), role, prompt)
    vectors = forward_batches(
        model, plain, role=role, precision=precision, token_budget=token_budget, bar=bar
    )
    if normalizes(model):  # bfloat16 has rounded the norms
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.maximum(norms, np.finfo(np.float32).tiny)
    return vectors


def by_role(texts: Sequence[str | Text]) -> dict[str, np.ndarray]:
    """Return the rows of each role that occurs, int64; a plain string is a document."""
    is_query = np.array([getattr(text, "role", None) == Role.QUERY for text in texts], dtype=bool)
    rows = {"document": np.flatnonzero(~is_query), "query": np.flatnonzero(is_query)}
    return {role: of_role for role, of_role in rows.items() if len(of_role)}


def autocast(device: torch.device | str, precision: str) -> torch.autocast:
    """Return the context that a precision of `PRECISIONS` asks for; float32 changes nothing."""
    import torch

    dtype = best_dtype(device) if precision == "auto" else getattr(torch, precision)
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32)


def role_prompt(model: SentenceTransformer, role: str) -> str:
    """Return the prompt that the model's own configuration gives to a role, "" if none."""
    names = ("query",) if role == "query" else ("document", "passage", "corpus")
    return next((model.prompts[name] for name in names if model.prompts.get(name)), "")


def normalizes(model: SentenceTransformer) -> bool:
    """Say whether the model ends in Normalize; a Router, whether every route does."""
    from sentence_transformers.base.modules import Normalize, Router

    last = list(model.children())[-1]
    routes = last.sub_modules.values() if isinstance(last, Router) else [[last]]
    return all(isinstance(list(route)[-1], Normalize) for route in routes)


def max_length(model: SentenceTransformer) -> int | None:
    """Return how many tokens a model reads of a text; None if there is no limit."""
    if hasattr(model.tokenizer, "enable_truncation"):  # a static model's own tokenizer
        return (model.tokenizer.truncation or {}).get("max_length")
    return model.max_seq_length


def shorten(model: SentenceTransformer, length: int, name: str, *, most: int | None = None) -> None:
    """Set the maximum input length; ModelError if it is above `most`, or the present one if None."""
    limit = most or max_length(model)
    if limit and length > limit:
        raise ModelError(f"max_length {length}: {name} takes from 3 to {limit} tokens")
    if hasattr(model.tokenizer, "enable_truncation"):
        model.tokenizer.enable_truncation(length)
    elif length != model.max_seq_length:
        model.max_seq_length = length


def fingerprint(model: SentenceTransformer) -> str:
    """Return the SHA-256 (hex) over a loaded model's weights, code, tokenizer and settings."""
    modules = [
        [type(module).__name__, getattr(module, "get_config_dict", dict)()]
        for module in model.children()
    ]
    settings = [model.max_seq_length, dict(model.prompts), modules, code_digest(model)]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    tokenizer = getattr(model.tokenizer, "backend_tokenizer", model.tokenizer)
    if hasattr(tokenizer, "to_str"):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.no_truncation()  # both are set anew by every call
        tokenizer.no_padding()
        digest.update(tokenizer.to_str().encode())
    else:
        digest.update(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(key.encode() + as_float32(tensor).tobytes())
    return digest.hexdigest()


def code_digest(model: SentenceTransformer) -> str:
    """Return the SHA-256 (hex) over Python code that came with a model and was run, "" if none.

    transformers copies such code, also that of another repository, into one package.
    """
    kinds = {type(module) for module in model.modules()} | {type(model.tokenizer)}
    names = {kind.__module__ for kind in kinds}
    folders = {
        Path(sys.modules[name].__file__).parent
        for name in names
        if name.startswith("transformers_modules.") and name in sys.modules
    }
    files = {path for folder in folders for path in folder.rglob("*.py")}
    contents = sorted([path.name, path.read_text(encoding="utf-8")] for path in files)
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest() if contents else ""
