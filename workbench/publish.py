"""Ship a student: the asymmetric pair as one model, and ONNX for runtimes without torch."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router

from workbench.errors import ModelError
from workbench.student import head_of

FLOAT32, INT8 = "model.onnx", "model_int8.onnx"


def save_pair(
    teacher: SentenceTransformer,
    student: SentenceTransformer,
    folder: str | Path,
    *,
    prompts: Mapping[str, str] | None = None,
) -> Path:
    """Save teacher and student as one model: `encode_query` is the student, `encode_document` the teacher.

    Plain `SentenceTransformer(folder)` loads it; plain `encode` takes the teacher's side.

    Args:
        teacher: as loaded, in the precision to keep.
        student: of this teacher.
        folder: new or empty.
        prompts: role to prompt; the student's own, which are the teacher's, if None.

    Raises:
        ModelError: the widths differ, or the folder is not empty or cannot be written to.
    """
    wide, mine = teacher.get_embedding_dimension(), student.get_embedding_dimension()
    if wide != mine:
        raise ModelError(f"the teacher's vectors are {wide} wide and the student's {mine}: they share no space")
    router = Router.for_query_document(list(student.children()), list(teacher.children()), default_route="document")
    pair = SentenceTransformer(
        modules=[router],
        device=str(student.device),
        prompts=dict(student.prompts if prompts is None else prompts),
        similarity_fn_name="cosine",
    )
    with _whole_or_nothing(folder) as scratch:
        pair.save_pretrained(str(scratch), create_model_card=False)
    return Path(folder)


def save_onnx(student: SentenceTransformer, folder: str | Path, *, int8: bool = True) -> Path:
    """Export the whole student, pooling, head and normalisation included, with its tokenizer.

    Both graphs take `input_ids` and `attention_mask`, int64 of shape (batch, tokens), and return
    `sentence_embedding`, float32 of shape (batch, dimension). A prompt is text: put it in front before
    tokenizing. int8 means weights with a range for each output channel and activations with a range
    for each call; the token table stays float32.

    Args:
        student: left in the mode it is in.
        folder: new or empty; gets `model.onnx`, `model_int8.onnx` if asked for, and the tokenizer.
        int8: whether to write the int8 graph too.

    Raises:
        ModelError: it is no student, the onnx packages are missing, or the folder is not empty or
            cannot be written to.
    """
    head_of(student)
    try:
        import onnxscript  # noqa: F401  torch's exporter needs it
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise ModelError(f"{error.name} is not installed: pip install 'teacher-aligned-workbench[onnx]'") from None
    with _whole_or_nothing(folder) as scratch:
        _export(student, scratch / FLOAT32)
        if int8:
            with _quiet():
                quantize_dynamic(
                    scratch / FLOAT32,
                    scratch / INT8,
                    op_types_to_quantize=["MatMul", "Gemm"],
                    per_channel=True,
                    weight_type=QuantType.QInt8,
                )
        student.tokenizer.save_pretrained(str(scratch))
    return Path(folder)


class _Whole(torch.nn.Module):
    """All modules of a model in one call, as a graph needs them."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList(model.children())

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        features = {"input_ids": input_ids, "attention_mask": attention_mask}
        for part in self.parts:
            features = part(features)
        return features["sentence_embedding"]


def _export(student: SentenceTransformer, path: Path) -> None:
    device, training = student.device, student.training
    ids = torch.ones((2, 8), dtype=torch.int64)
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    try:
        with _quiet():
            torch.onnx.export(
                _Whole(student.cpu()).eval(),
                (ids, torch.ones_like(ids)),
                dynamo=True,
                input_names=["input_ids", "attention_mask"],
                output_names=["sentence_embedding"],
                dynamic_shapes={"input_ids": sizes, "attention_mask": sizes},
                verbose=False,
            ).save(path)
    finally:
        student.to(device).train(training)


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn of operators that no student has."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _whole_or_nothing(folder: str | Path) -> Iterator[Path]:
    """Give a folder to write into; it gets its name when all is written, and goes if anything fails."""
    folder = Path(folder).expanduser().resolve()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ModelError(f"{folder} is not empty: choose a new folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            written = Path(scratch, "new")
            written.mkdir()
            yield written
            os.rename(written, folder)  # an empty folder of that name is replaced
    except OSError as error:
        raise ModelError(f"{folder} cannot be written: {error}") from None
