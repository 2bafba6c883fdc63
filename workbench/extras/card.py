"""The model card, in the words of card.md: what a student is, how good, and how to load it."""

import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id
from jinja2 import TemplateError

from workbench import models
from workbench.errors import ModelError
from workbench.evaluate import LABELS

ONNX_FOLDER = "onnx_whole"  # not "onnx", where libraries look for a graph without pooling
_TAGS = ["sentence-transformers", "feature-extraction", "knowledge-distillation", "retrieval"]


def card(
    provenance: Mapping[str, object],
    results: Sequence[Mapping[str, object]],
    *,
    name: str,
    dimension: int,
    max_length: int | None = None,
    pair: bool = False,
    onnx: bool = False,
    license: str = "apache-2.0",
    language: str | list[str] = "en",
    truncated: bool = False,
) -> ModelCard:
    """Write the card of a student, or of the pair of teacher and student.

    Args:
        provenance: of the student, from `student.read_provenance`.
        results: a report of `evaluate.report` for each data set; the card states its `curves` too.
        name: the model's name on the hub, such as "me/my-student".
        max_length: tokens that the student reads; as many as the teacher if None.
        pair, onnx: whether the folder has the teacher too, and the whole student as ONNX.
        license, language: as the hub writes them: "mit"; "pt-BR", ["en", "fr"], "multilingual".
        truncated: whether the vectors were rotated or cut after they were learned and measured.
    """
    if not results or not provenance.get("teacher_name") or not provenance.get("base"):
        raise ModelError("a card needs results and to know how the student was made (provenance)")
    try:
        validate_repo_id(name)
        rows = pd.json_normalize(list(results), "rows", ["collection"])
        teacher, base = public(provenance["teacher_name"]), public(provenance["base"])
        texts = str(provenance.get("texts") or "not stated")
        teacher_length = provenance["teacher"].get("max_length")
        if isinstance(teacher_length, list):  # a teacher behind an API has its tokenizer too
            teacher_length = teacher_length[0]
        bases, mode = ([base, teacher], "asymmetric") if pair else ([base], "symmetric")
        data = ModelCardData(
            language=language,
            license=license,
            library_name="sentence-transformers",
            pipeline_tag="sentence-similarity",
            tags=[*_TAGS, "onnx"] if onnx else _TAGS,
            base_model=[model for model in bases if _on_hub(model)] or None,
            datasets=[public(texts)] if texts.startswith("hub:") else None,
            model_name=name.rpartition("/")[2],
            eval_results=[_eval_result(row) for row in rows[rows["mode"] == mode].itertuples()],
            metrics=["ndcg"],
        )
        packages = ("torch", "transformers", "sentence-transformers")
        versions = [f"{package} {version(package)}" for package in packages]
        asymmetric = rows[rows["mode"] == "asymmetric"].dropna(subset="share_of_teacher")
        shares = asymmetric[["share_of_teacher", "collection"]].values.tolist()
        names = {"name": name, "teacher": teacher, "base": base, "texts": public(texts)}
        kind = {"pair": pair, "onnx": onnx, "truncated": truncated}
        lengths = {"length": max_length or teacher_length, "teacher_length": teacher_length}
        return ModelCard.from_template(
            data,
            template_path=str(Path(__file__).with_name("card.md")),
            md=cell,
            on_hub=_on_hub,
            labels=LABELS,
            onnx_folder=ONNX_FOLDER,
            identity=provenance["teacher"],
            provenance=provenance,
            dimension=dimension,
            results=results,
            curves=[_curves(report) for report in results if report.get("curves")],
            versions=", ".join([f"Python {platform.python_version()}", *versions]),
            worst=min(shares, default=None),
            **names | kind | lengths,
        )
    except (AttributeError, KeyError, TypeError, ValueError, TemplateError) as error:
        message = f"the name, provenance or a report is not as it was written: {error!r}"
        raise ModelError(message) from None


def public(name: str) -> str:
    """Return a model's or data set's name; of a path only the last part: the rest is private."""
    name = models.full_name(name).removeprefix("hub:")  # of a data set, for `read_texts`
    return name if _on_hub(name) else re.split(r"[\\/]", name.rstrip("/\\"))[-1]


def _on_hub(name: str) -> bool:
    return bool(re.fullmatch(r"\w[\w.-]*/[\w.-]+", name)) and not Path(name).exists()


def _eval_result(row) -> EvalResult:
    return EvalResult(
        task_type="information-retrieval",
        dataset_type=row.collection,
        dataset_name=row.collection,
        metric_type="ndcg_at_10",
        metric_name=f"nDCG@10, {row.mode}",
        metric_value=round(row.ndcg_at_10, 4),
    )


def _curves(report: Mapping) -> dict[str, object]:
    """Return a table of a report's curves, with a column for each mode."""
    index = ["dimensions", "precision", "bytes_per_document"]
    shares = pd.DataFrame(report["curves"]).pivot_table(
        index=index, columns="mode", values="share_of_teacher", sort=False
    )
    rows = shares.reset_index().values.tolist()
    return {"collection": report["collection"], "modes": list(shares.columns), "rows": rows}


def cell(text: object) -> str:
    """Return text for a cell of a Markdown table, with every mark of Markdown escaped."""
    return " ".join(re.sub(r"([\\|<>`*_\[\]&~$#])", r"\\\1", str(text)).split())
