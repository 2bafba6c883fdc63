"""Publish a student: alone, with its teacher as one model, as ONNX; send it to the hub."""

import copy
import json
import logging
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from huggingface_hub import HfApi, ModelCard
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.models import Dense, Normalize, Transformer
from tokenizers import Tokenizer

from workbench._util import checked, expanded, need, unit, whole_folder
from workbench.data import Role
from workbench.errors import ModelError
from workbench.extras.card import ONNX_FOLDER
from workbench.models import check_cosine, encode_strings, role_prompts
from workbench.student import head_of

FLOAT32, INT8 = "model.onnx", "model_int8.onnx"
TOKENIZER, PROMPTS = "tokenizer.json", "prompts.json"
CARD = "README.md"
# The names that the libraries give, so that nothing else is sent by mistake.
_SENT = re.compile(
    r"README\.md|LICENSE|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|"
    r"model(_int8)?\.onnx|(config|config_sentence_transformers|modules|router_config|prompts|"
    r"sentence_bert_config|((pre)?processor|generation)_config|tokenizer|tokenizer_config|vocab|"
    r"special_tokens_map|added_tokens|unigram|chat_template)\.json|"
    r"vocab\.(txt|bpe)|merges\.txt|[\w.-]+\.(model|tiktoken|spm|jinja)"
)
_BATCH = 8  # texts a run of onnxruntime; with more, its activations leave the CPU's caches
_PROBES = [
    "wing",
    " Où est LA Rivière ?\n",
    "图书馆六点关门 🙂",
    "Interest is paid each month. " * 40,
]


def save_student(
    student: SentenceTransformer,
    folder: str | Path,
    *,
    card: ModelCard | None = None,
    onnx: bool = False,
) -> Path:
    """Save a student to a new folder, which plain `SentenceTransformer(folder)` loads.

    The card becomes README.md, and `onnx` also writes the subfolder `onnx_whole`.
    """
    student, folder = _as_read(student), check_folder(folder)
    alone = student
    if isinstance(student[0], Router):  # a pair
        alone = _like(student, list(student[0].sub_modules["query"].children()))
    if onnx:
        check_onnx(alone)
    with whole_folder(folder) as scratch:
        student.save_pretrained(str(scratch), create_model_card=False)
        if card is not None:
            (scratch / CARD).write_text(card.content, encoding="utf-8")
        if onnx:
            (scratch / ONNX_FOLDER).mkdir()
            _write_onnx(alone, scratch / ONNX_FOLDER)
    return folder


def save_pair(
    teacher: SentenceTransformer, student: SentenceTransformer, folder: str | Path, **options
) -> Path:
    """Save teacher and student as one model, which plain `SentenceTransformer(folder)` loads.

    `encode_query` is the student; `encode_document` and plain `encode` are the teacher. `folder`
    and the options are as for `save_student`.
    """
    teacher, student = _as_read(teacher), _as_read(student)
    teacher_width, width = teacher.get_embedding_dimension(), student.get_embedding_dimension()
    if teacher_width != width:
        raise ModelError(f"the teacher's vectors are {teacher_width} wide, the student's {width}")
    check_cosine(teacher)
    router = Router.for_query_document(
        list(student.children()), list(teacher.children()), default_route="document"
    )
    pair = _like(student, [router])
    pair.prompts["document"] = teacher.prompts["document"]
    return save_student(pair, folder, **options)


def _as_read(model: SentenceTransformer) -> SentenceTransformer:
    """Return a model with what other loaders do not know: its width, and a prompt a role."""
    model = truncated(model, model.truncate_dim) if model.truncate_dim else copy.copy(model)
    model.prompts = {**model.prompts, **role_prompts(model.prompts)}
    return model


def _like(model: SentenceTransformer, modules: list[torch.nn.Module]) -> SentenceTransformer:
    """Return a model of these modules, with the prompts and the device of another one."""
    check_cosine(model)
    options = {"prompts": dict(model.prompts), "similarity_fn_name": "cosine"}
    return SentenceTransformer(modules=modules, device=str(model.device), **options)


def truncated(
    model: SentenceTransformer, dimensions: int | None = None, rotation: np.ndarray | None = None
) -> SentenceTransformer:
    """Return a model whose vectors are rotated, cut to their first dimensions, and of unit norm.

    Teacher and student need the same orthogonal rotation, as from `quantize.principal_rotation`.
    """
    model = copy.copy(model)
    model.truncate_dim = None  # the width of its modules, and not of what `encode` returns
    width = model.get_embedding_dimension()
    dimensions = width if dimensions is None else dimensions
    if not 1 <= dimensions <= width:
        raise ModelError(f"{dimensions} dimensions are asked for and the model has {width}")
    rotation = checked(np.eye(width) if rotation is None else rotation, "rotation")
    is_square = rotation.shape == (width, width)
    if not is_square or not np.allclose(rotation.T @ rotation, np.eye(width), atol=1e-4):
        raise ModelError(f"expected an orthogonal rotation of shape ({width}, {width})")
    last = Dense(width, dimensions, bias=False, activation_function=torch.nn.Identity())
    with torch.no_grad():
        last.linear.weight.copy_(torch.from_numpy(rotation[:, :dimensions].T.copy()))
    return _like(model, [*model.children(), last.eval(), Normalize()])


def is_truncated(student: SentenceTransformer) -> bool:
    """Return whether `truncated` made this student, with modules after the head and Normalize."""
    return len(student) > 3 + len(head_of(student))


def save_onnx(model: SentenceTransformer, folder: str | Path) -> Path:
    """Export a whole model, with pooling, head and normalization, for any ONNX runtime.

    The graphs take `input_ids` and `attention_mask`, int64 of shape (batch, tokens), and return
    `sentence_embedding`, float32 of shape (batch, dimension). The new folder also gets
    `tokenizer.json` (which truncates and pads) and `prompts.json` (put in front of a text).
    ModelError if a model cannot be exported, or the graph's vectors differ from the model's.
    """
    model, folder = _as_read(model), check_folder(folder)
    check_onnx(model)
    with whole_folder(folder) as scratch:
        _write_onnx(model, scratch)
    return folder


def check_onnx(model: SentenceTransformer) -> None:
    """Raise WorkbenchError unless what `save_onnx` needs is there, and the model may fit it."""
    need("onnxruntime.quantization", "onnx")
    need("onnxscript", "onnx")  # torch's exporter needs it
    if not isinstance(model[0], Transformer):
        raise ModelError(f"only transformers are exported to ONNX, not {type(model[0]).__name__}")
    if model[0].model.dtype != torch.float32:
        raise ModelError(f"the model is in {model[0].model.dtype}: export model.float()")
    if not getattr(model[1], "include_prompt", True):
        raise ModelError("its prompts are left out of the pooling, which a graph cannot know")


def _write_onnx(model: SentenceTransformer, folder: Path) -> None:
    quantization = need("onnxruntime.quantization", "onnx")
    device, training, backbone = model.device, model.training, model[0].model
    attention = backbone.config._attn_implementation
    ids = torch.ones((2, 8), dtype=torch.int64)
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        backbone.set_attn_implementation("eager")  # its graph runs a tenth faster in onnxruntime
        with warnings.catch_warnings(action="ignore"):
            torch.onnx.export(
                _Whole(model.cpu()).eval(),
                (ids, torch.ones_like(ids)),
                dynamo=True,
                input_names=["input_ids", "attention_mask"],
                output_names=["sentence_embedding"],
                dynamic_shapes={"input_ids": sizes, "attention_mask": sizes},
                verbose=False,
            ).save(folder / FLOAT32)
            quantization.quantize_dynamic(
                folder / FLOAT32,
                folder / INT8,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                # Where the processor lacks VNNI, sums of signed products would overflow.
                weight_type=quantization.QuantType.QUInt8,
                nodes_to_exclude=_sensitive(folder / FLOAT32),
            )
    except Exception as error:  # the exporters' own kinds, with messages of pages
        raise ModelError(f"the model cannot be exported to ONNX: {str(error)[:200]}") from None
    finally:
        logging.disable(level)
        backbone.set_attn_implementation(attention)
        model.to(device).train(training)
    tokenizer = Tokenizer.from_str(model.tokenizer.backend_tokenizer.to_str())
    tokenizer.enable_truncation(model.max_seq_length, direction=model.tokenizer.truncation_side)
    tokenizer.enable_padding(
        direction=model.tokenizer.padding_side,
        pad_id=model.tokenizer.pad_token_id,
        pad_token=model.tokenizer.pad_token,
    )
    tokenizer.save(str(folder / TOKENIZER))
    (folder / PROMPTS).write_text(json.dumps(dict(model.prompts)))
    for role in Role:
        expected = unit(encode_strings(model, _PROBES, role, precision="float32"))
        for int8, least in ((False, 0.9999), (True, 0.95)):
            exported = unit(OnnxModel(folder, int8=int8).encode(_PROBES, role))
            cosine = float((expected * exported).sum(axis=1).min())
            if cosine < least:
                kind = f"{'int8' if int8 else 'float32'}, {role}"
                raise ModelError(f"the graph differs from the model: cosine {cosine:.4f} ({kind})")


def _sensitive(path: Path) -> list[str]:
    """Return the second multiplications of feed-forward layers, whose inputs have outliers."""
    graph = need("onnx", "onnx").load(path).graph
    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    names = []
    for node in graph.node:
        shape = shapes.get(node.input[1], ()) if node.op_type == "MatMul" else ()
        if len(shape) == 2 and shape[0] > shape[1]:  # it narrows
            names.append(node.name)
    return names


class OnnxModel:
    """A model that `save_onnx` wrote, in float32 or int8, run by onnxruntime without torch."""

    def __init__(self, folder: str | Path, *, int8: bool = False) -> None:
        runtime = need("onnxruntime", "onnx")
        self.tokenizer = Tokenizer.from_file(str(Path(folder, TOKENIZER)))
        self.prompts = json.loads(Path(folder, PROMPTS).read_text())
        path = Path(folder, INT8 if int8 else FLOAT32)
        self.session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def encode(self, texts: Sequence[str], role: str = "document") -> np.ndarray:
        """Return the vectors of texts, float32 of shape (n, d), with a role's prompt in front."""
        prompt = self.prompts.get(role) or ""
        vectors = np.empty((len(texts), self.session.get_outputs()[0].shape[1]), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))  # less padding
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            encoded = self.tokenizer.encode_batch([prompt + texts[row] for row in rows])
            ids = np.array([text.ids for text in encoded])
            mask = np.array([text.attention_mask for text in encoded])
            inputs = {"input_ids": ids, "attention_mask": mask}
            vectors[rows] = self.session.run(None, inputs)[0]
        return vectors


def push(
    folder: str | Path, name: str, *, private: bool = True, dry_run: bool = False
) -> pd.DataFrame:
    """Send a published folder to the hub, or only list what would be sent: `file` and `bytes`.

    The hub's client finds your token (`HF_TOKEN`, or `hf auth login`).

    Args:
        folder: written by `save_student` or `save_pair`, with a card of results.
        name: "owner/name" on the hub; created there, `private` or not, if it does not exist.
        dry_run: list the files, without any request to the hub.
    """
    folder = expanded(folder).resolve()
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    files = [path.relative_to(folder).as_posix() for path in paths]
    for file, path in zip(files, paths, strict=True):
        if path.is_symlink() or "/." in f"/{file}" or not _SENT.fullmatch(path.name):
            raise ModelError(f"{path} is no part of a published model: nothing was sent")
    try:
        card = ModelCard.load(folder / CARD)
    except Exception as error:  # YAML has errors of its own
        raise ModelError(f"{folder / CARD} is no model card: {error}") from None
    if not card.data.eval_results:
        raise ModelError(f"{folder / CARD} has no results of an evaluation")
    if f'SentenceTransformer("{name}")' not in card.content:
        warnings.warn(f"the code of the card loads another name than {name}", stacklevel=2)
    if not dry_run:
        try:
            api = HfApi()
            api.create_repo(name, private=private, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=files)
        except Exception as error:  # the client raises its own errors and its transport's
            reason = " ".join(str(error).split())[:200]
            message = f"{name} was not sent, or only in part: {reason}. Try again."
            raise ModelError(message) from None
    return pd.DataFrame({"file": files, "bytes": [path.stat().st_size for path in paths]})


class _Whole(torch.nn.Module):
    """All modules of a model in one forward call."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.parts = torch.nn.Sequential(*model.children())

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        features = {"input_ids": input_ids, "attention_mask": attention_mask}
        return self.parts(features)["sentence_embedding"]


def check_folder(folder: str | Path) -> Path:
    """Return the absolute folder; ModelError if it is not new or empty."""
    folder = expanded(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder} is not empty: choose a new folder")
    return folder
