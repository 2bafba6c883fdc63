"""Publish a student: alone, with its teacher as one model, or as ONNX for runtimes without torch; send it to the hub."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.utils import HFValidationError, validate_repo_id
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.models import Dense, Normalize, Transformer
from tokenizers import Tokenizer

from workbench._util import expanded, need, orthogonal, unit, whole_folder
from workbench.errors import ModelError
from workbench.extras.card import ONNX_FOLDER
from workbench.models import length_buckets
from workbench.student import head_of

FLOAT32, INT8, TOKENIZER, PROMPTS = (
    "model.onnx",
    "model_int8.onnx",
    "tokenizer.json",
    "prompts.json",
)
CARD = "README.md"
# The only file names that are sent: those that the libraries give.
_SENT = re.compile(
    r"README\.md|LICENSE|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|model(_int8)?\.onnx|"
    r"(config|config_sentence_transformers|modules|router_config|sentence_bert_config|prompts|((pre)?processor|generation)_config|"
    r"tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|unigram|chat_template)\.json|"
    r"vocab\.(txt|bpe)|merges\.txt|[\w.-]+\.(model|tiktoken|spm|jinja)"
)
TOKEN_BUDGET = (
    256  # padded tokens per run of onnxruntime; with more, its activations leave the CPU's caches
)
_LEAST_COSINE = 0.999  # of an exported graph to the model that it was exported from
_PROBES = [
    "wing",
    "How long should bread dough rest before it is baked?",
    "Interest is paid each month. " * 40,
]


def save_student(
    student: SentenceTransformer,
    folder: str | Path,
    *,
    card: ModelCard | None = None,
    onnx: bool = False,
) -> Path:
    """Save a student to be published; plain `SentenceTransformer(folder)` loads it. Nothing is ever replaced.

    Args:
        student: any student, truncated or not.
        folder: new or empty.
        card: from `card.card`; becomes README.md.
        onnx: also write the whole student as ONNX, in the subfolder `onnx_whole`.

    Raises:
        ModelError: the folder is not empty, or the export failed (see `save_onnx`).
        WorkbenchError: the folder cannot be written, or the onnx extra is missing.
    """
    return _release(student, student, folder, card, onnx)


def save_pair(
    teacher: SentenceTransformer,
    student: SentenceTransformer,
    folder: str | Path,
    *,
    prompts: Mapping[str, str] | None = None,
    card: ModelCard | None = None,
    onnx: bool = False,
) -> Path:
    """Save teacher and student as one model: `encode_query` is the student, `encode_document` the teacher.

    Plain `SentenceTransformer(folder)` loads it; plain `encode` runs the teacher.

    Args:
        teacher: as loaded, in the precision to keep.
        student: of this teacher.
        folder: new or empty.
        prompts: role to prompt; the student's own if None.
        card, onnx: as for `save_student`.

    Raises:
        ModelError: the two models' dimensions differ; otherwise as `save_student`.
    """
    wide, mine = teacher.get_embedding_dimension(), student.get_embedding_dimension()
    if wide != mine:
        raise ModelError(
            f"the teacher's vectors are {wide} wide and the student's {mine}: they share no vector space"
        )
    router = Router.for_query_document(
        list(student.children()), list(teacher.children()), default_route="document"
    )
    pair = SentenceTransformer(
        modules=[router],
        device=str(student.device),
        prompts=dict(student.prompts if prompts is None else prompts),
        similarity_fn_name="cosine",
    )
    return _release(pair, student, folder, card, onnx)


def _release(
    model: SentenceTransformer,
    student: SentenceTransformer,
    folder: str | Path,
    card: ModelCard | None,
    onnx: bool,
) -> Path:
    """Save a model with its card and the student in it as ONNX."""
    with _new_folder(folder) as scratch:
        model.save_pretrained(str(scratch), create_model_card=False)
        if onnx:
            (scratch / ONNX_FOLDER).mkdir()
            _write_onnx(student, scratch / ONNX_FOLDER, int8=True)
        if card is not None:
            (scratch / CARD).write_text(card.content, encoding="utf-8")
    return Path(folder)


def truncated(
    model: SentenceTransformer, dimensions: int | None = None, rotation: np.ndarray | None = None
) -> SentenceTransformer:
    """Return a model whose vectors are rotated, cut to their first dimensions, and scaled to unit norm.

    Unlike with the option `truncate_dim` of sentence-transformers, the new width is saved with the model. Truncate
    teacher and student with the same rotation, and they share a vector space again.

    Args:
        model: shares its modules with the result.
        dimensions: number of dimensions to keep; all if None.
        rotation: float of shape (d, d), from `quantize.principal_rotation`; no rotation if None.

    Raises:
        ModelError: `dimensions` is less than 1 or more than the model has.
        WorkbenchError: the rotation is not an orthogonal matrix of shape (d, d).
    """
    width = model.get_embedding_dimension()
    dimensions = width if dimensions is None else dimensions
    if not 1 <= dimensions <= width:
        raise ModelError(f"{dimensions} dimensions are asked for and the model has {width}")
    turn = orthogonal(np.eye(width) if rotation is None else rotation, width)
    last = Dense(width, dimensions, bias=False, activation_function=torch.nn.Identity())
    with torch.no_grad():
        last.linear.weight.copy_(torch.from_numpy(turn[:, :dimensions].T.copy()))
    return SentenceTransformer(
        modules=[*model.children(), last.eval(), Normalize()],
        device=str(model.device),
        prompts=dict(model.prompts),
        similarity_fn_name="cosine",
    )


def is_truncated(student: SentenceTransformer) -> bool:
    """Return whether `truncated` made this student: it has modules after the head and Normalize."""
    return len(student) > 3 + len(head_of(student))


def save_onnx(model: SentenceTransformer, folder: str | Path, *, int8: bool = True) -> Path:
    """Export a whole model, including pooling, head and normalization, for `OnnxModel` or any other runtime.

    The graphs take `input_ids` and `attention_mask`, int64 of shape (batch, tokens), and return
    `sentence_embedding`, float32 of shape (batch, dimension). In int8, each output channel of the weights has its own
    range, and each call sets the range of the activations. The token table, the head and the second multiplication of
    the feed-forward layers stay float32, because they lose most by it.

    Args:
        model: a student, or a teacher to compare with; it is not changed.
        folder: new or empty. Gets `model.onnx`, `tokenizer.json` (which truncates and pads), `prompts.json` (put in
            front of a text before tokenizing) and, if asked for, `model_int8.onnx`.
        int8: also write the int8 graph.

    Raises:
        ModelError: the model does not start with a transformer, the graph's vectors differ from the model's, or the
            folder is not empty.
        WorkbenchError: the folder cannot be written, or the onnx extra is missing.
    """
    with _new_folder(folder) as scratch:
        _write_onnx(model, scratch, int8)
    return Path(folder)


def _write_onnx(model: SentenceTransformer, folder: Path, int8: bool) -> None:
    if not isinstance(model[0], Transformer):
        raise ModelError(
            f"only a model that starts with a transformer is exported, not {type(model[0]).__name__}"
        )
    quantization = need("onnxruntime.quantization", "onnx")
    need("onnxscript", "onnx")  # torch's exporter needs it
    device, training, backbone = model.device, model.training, model[0].model
    attention = backbone.config._attn_implementation
    ids = torch.ones((2, 8), dtype=torch.int64)
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    try:
        wanted = model.encode(
            _PROBES, prompt="", normalize_embeddings=True, show_progress_bar=False
        )
        backbone.set_attn_implementation(
            "eager"
        )  # the plain graph, which onnxruntime runs a tenth faster
        with _quiet(), _exporting(backbone):
            torch.onnx.export(
                _Whole(model.cpu()).eval(),
                (ids, torch.ones_like(ids)),
                dynamo=True,
                input_names=["input_ids", "attention_mask"],
                output_names=["sentence_embedding"],
                dynamic_shapes={"input_ids": sizes, "attention_mask": sizes},
                verbose=False,
            ).save(folder / FLOAT32)
    finally:
        backbone.set_attn_implementation(attention)
        model.to(device).train(training)
    if int8:
        with _quiet():
            quantization.quantize_dynamic(
                folder / FLOAT32,
                folder / INT8,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                # not signed: where the processor lacks VNNI, sums of signed products overflow, and other vectors result
                weight_type=quantization.QuantType.QUInt8,
                nodes_to_exclude=_sensitive(folder / FLOAT32),
            )
    tokenizer = Tokenizer.from_str(model.tokenizer.backend_tokenizer.to_str())
    tokenizer.enable_truncation(model.max_seq_length)
    tokenizer.enable_padding(
        pad_id=model.tokenizer.pad_token_id, pad_token=model.tokenizer.pad_token
    )
    tokenizer.save(str(folder / TOKENIZER))
    (folder / PROMPTS).write_text(json.dumps(dict(model.prompts)))
    given = unit(OnnxModel(folder).encode(_PROBES, role=""))
    if (least := float((wanted * given).sum(axis=1).min())) < _LEAST_COSINE:
        raise ModelError(
            f"the exported graph's vectors differ from the model's: cosine {least:.4f} on a probe text"
        )


def _sensitive(path: Path) -> list[str]:
    """Return the multiplications that narrow: the feed-forward layers' second, whose inputs have outliers."""
    graph = need("onnx", "onnx").load(path).graph
    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    multiplied = (
        (node.name, shapes.get(node.input[1], ()))
        for node in graph.node
        if node.op_type == "MatMul"
    )
    return [name for name, shape in multiplied if len(shape) == 2 and shape[0] > shape[1]]


class OnnxModel:
    """A model that `save_onnx` wrote, run by onnxruntime on the CPU without torch.

    Args:
        folder: the folder that `save_onnx` wrote.
        int8: run the int8 graph.
        threads: number of threads per call; onnxruntime chooses if None.

    Raises:
        ModelError: a file is missing or cannot be read.
        WorkbenchError: onnxruntime is not installed.
    """

    def __init__(
        self, folder: str | Path, *, int8: bool = False, threads: int | None = None
    ) -> None:
        runtime = need("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        path = Path(folder, INT8 if int8 else FLOAT32)
        try:
            self.tokenizer = Tokenizer.from_file(str(Path(folder, TOKENIZER)))
            self.prompts = json.loads(Path(folder, PROMPTS).read_text())
            self.session = runtime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # both libraries raise plain Exception
            raise ModelError(f"{path} is no exported model that can be read: {error}") from None

    def encode(
        self, texts: Sequence[str], role: str = "document", *, token_budget: int = TOKEN_BUDGET
    ) -> np.ndarray:
        """Return the vectors of texts, float32 of shape (n, d).

        Args:
            texts: n texts in any order; texts of similar length share a run.
            role: the role whose prompt is put in front.
            token_budget: padded tokens per run, see `models.length_buckets`.
        """
        prompt = self.prompts.get(role) or ""
        encoded = self.tokenizer.encode_batch(
            [prompt + text for text in texts]
        )  # padded to the longest of all
        lengths = np.array([sum(one.attention_mask) for one in encoded], dtype=np.int64)
        vectors = np.empty((len(encoded), self.session.get_outputs()[0].shape[1]), dtype=np.float32)
        for rows in length_buckets(lengths, token_budget):
            ids, mask = (
                np.array(
                    [getattr(encoded[i], name)[: lengths[rows].max()] for i in rows], dtype=np.int64
                )
                for name in ("ids", "attention_mask")
            )
            vectors[rows] = self.session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        return vectors


def push(
    folder: str | Path, name: str, *, private: bool = True, dry_run: bool = False
) -> pd.DataFrame:
    """Send a published folder to the hub, or only list what would be sent.

    The hub's client finds your token (`HF_TOKEN` in the environment, or `hf auth login`).

    Args:
        folder: written by `save_student` or `save_pair`, with a card.
        name: the model's name on the hub, "owner/name"; it is created if it does not exist.
        private: whether a new model is private.
        dry_run: list the files, without any request to the hub.

    Returns:
        The files that are sent, one row each: `file` and `bytes`.

    Raises:
        ModelError: the folder is missing, has no card with results, or holds a file that is not part of a model; the
            name is not of the form owner/name; the hub cannot be reached or refuses.
    """
    folder = expanded(folder).resolve()
    try:
        validate_repo_id(name)
        if "/" not in name:
            raise HFValidationError
    except HFValidationError:
        raise ModelError(f"{name!r} is not a name on the hub: expected owner/name") from None
    if not folder.is_dir():
        raise ModelError(f"there is no folder {folder}: publish the student first")
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    files = {path.relative_to(folder).as_posix(): path for path in paths}
    for file, path in files.items():
        if f"/{file}".count("/.") or path.is_symlink() or not _SENT.fullmatch(path.name):
            raise ModelError(f"{path} is no part of a published model: nothing was sent")
        if path.name == "tokenizer_config.json" and not list(
            path.parent.glob("model*.safetensors")
        ):
            raise ModelError(f"{path.parent} has no weights: publish the student again")
    if "modules.json" not in files:
        raise ModelError(f"{folder} holds no published model")
    try:
        card = ModelCard.load(folder / CARD)
    except Exception as error:  # YAML has errors of its own
        raise ModelError(f"{folder / CARD} is no model card: {error}") from None
    if not card.data.eval_results:
        raise ModelError(
            f"{folder / CARD} states no results: publish the student with the reports of its evaluation"
        )
    if f'SentenceTransformer("{name}")' not in card.content:
        warnings.warn(
            f"the code of the card loads another name than {name}: publish it with that name",
            stacklevel=2,
        )
    listing = pd.DataFrame({"file": list(files), "bytes": [path.stat().st_size for path in paths]})
    if dry_run:
        return listing
    try:
        api = HfApi()
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=list(files))
    except Exception as error:  # the client raises its own errors and its transport's
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{name} was not sent, or only in part: {reason}. Call it again to send the rest."
        ) from None
    return listing


class _Whole(torch.nn.Module):
    """All modules of a model in one forward call."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.parts = torch.nn.Sequential(*model.children())

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.parts({"input_ids": input_ids, "attention_mask": attention_mask})[
            "sentence_embedding"
        ]


@contextmanager
def _exporting(backbone: torch.nn.Module) -> Iterator[None]:
    """Say in a sentence that torch's exporter cannot follow a model, which it says in pages."""
    try:
        yield
    except (
        Exception
    ) as error:  # it raises its own kinds, and whatever the model's code raises on made-up shapes
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(
            f"{type(backbone).__name__} cannot be exported to ONNX ({reason}): leave ONNX out, or start from another base"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' warnings about operators that no student has."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)


def check_folder(folder: str | Path) -> Path:
    """Return the absolute folder if it is new or empty.

    Raises:
        ModelError: the folder is not empty, or a file has this name.
    """
    folder = expanded(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder} is not empty: choose a new folder")
    return folder


@contextmanager
def _new_folder(folder: str | Path) -> Iterator[Path]:
    """Give a folder to write into, which gets its name when it is complete, if nothing has that name by then."""
    with whole_folder(check_folder(folder)) as scratch:
        yield scratch
        check_folder(folder)
