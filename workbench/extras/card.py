"""The model card: what a student is, how good it was measured to be, and how to load it.

The words are in card.md.
"""

from __future__ import annotations

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
_PACKAGES = ("torch", "transformers", "sentence-transformers")
_TAGS = ["sentence-transformers", "feature-extraction", "knowledge-distillation", "retrieval"]
# Settings that do not change the student.
_HOUSEKEEPING = {"check_pairs", "evaluations", "checkpoint_steps", "precision"}


def card(
    provenance: Mapping[str, object],
    results: Sequence[Mapping[str, object]],
    *,
    name: str,
    dimension: int,
    max_length: int | None = None,
    pair: bool = False,
    onnx: bool = False,
    latency: Mapping[str, object] | None = None,
    license: str = "apache-2.0",
    language: str | Sequence[str] = "en",
    truncated: bool = False,
) -> ModelCard:
    """Write the card of a student, or of the pair of teacher and student.

    Args:
        provenance: of the student, as `student.read_provenance` returns it.
        results: one report of `evaluate.report` for each data set; if it has `curves`, the card
            states them too.
        name: the model's name on the hub, such as "me/my-student".
        dimension: width of the published vectors.
        max_length: tokens after which the student cuts a text; the teacher's if None.
        pair: whether the card is of both models in one folder.
        onnx: whether the folder has the whole student as ONNX.
        latency: report of `bench.latency`.
        license: the hub's abbreviation of it, which the hub checks.
        language: of the texts, one or more, as the hub writes them: "en", "pt-BR", "multilingual".
        truncated: whether the vectors were rotated or cut after they were learned and measured.

    Raises:
        ModelError: there is no provenance or there are no results, or one is not as it was written.
    """
    if not provenance.get("teacher_name") or not provenance.get("base"):
        raise ModelError(
            "nothing says how this student was made: save it with student.save(model, folder, "
            "provenance), as `workbench distill` does"
        )
    if not results:
        raise ModelError("a card needs results: evaluate the student first (workbench evaluate)")
    try:
        validate_repo_id(name)
        teacher, base = _public(provenance["teacher_name"]), _public(provenance["base"])
        texts, identity = str(provenance.get("texts") or "not stated"), provenance["teacher"]
        # A teacher behind an API has a number with its tokenizer, or None.
        teacher_length = identity.get("max_length")
        if isinstance(teacher_length, list):
            teacher_length = teacher_length[0]
        bases = [base, teacher] if pair else [base]
        data = ModelCardData(
            language=language if isinstance(language, str) else list(language),
            license=license,
            library_name="sentence-transformers",
            pipeline_tag="sentence-similarity",
            tags=[*_TAGS, "onnx"] if onnx else _TAGS,
            base_model=[model for model in bases if _on_hub(model)] or None,
            datasets=[_public(texts)] if texts.startswith("hub:") else None,
            model_name=name.rpartition("/")[2],
            eval_results=_eval_results(results, "asymmetric" if pair else "symmetric"),
            metrics=["ndcg"],
        )
        settings = provenance.get("settings") or {"training": "none"}
        versions = [f"{package} {version(package)}" for package in _PACKAGES]
        return ModelCard.from_template(
            data,
            template_path=str(Path(__file__).with_name("card.md")),
            md=_cell,
            on_hub=_on_hub,
            labels=LABELS,
            name=name,
            teacher=teacher,
            base=base,
            texts=_public(texts),
            identity=dict(identity),
            dimension=int(dimension),
            length=max_length or teacher_length,
            teacher_length=teacher_length,
            pair=pair,
            onnx=onnx,
            onnx_folder=ONNX_FOLDER,
            moved=truncated or bool(provenance.get("rotated")),
            results=list(results),
            curves=[_curves(report) for report in results if report.get("curves")],
            latency=dict(latency or {}),
            provenance=dict(provenance),
            settings={key: settings[key] for key in settings if key not in _HOUSEKEEPING},
            versions=", ".join([f"Python {platform.python_version()}", *versions]),
            worst=_worst(results),
        )
    except (AttributeError, KeyError, TypeError, ValueError, TemplateError) as error:
        raise ModelError(
            "the name, the provenance, a report or the latency is not as it was written "
            f"({type(error).__name__}: {error})"
        ) from None


def _public(name: object) -> str:
    """Return a model's or data set's name; of a path only the last part: the rest is private."""
    name = models.full_name(str(name))
    if name.startswith("hub:"):  # as `read_texts` names a data set of the hub
        return name.removeprefix("hub:")
    return name if _on_hub(name) else re.split(r"[\\/]", name.rstrip("/\\"))[-1]


def _on_hub(name: str) -> bool:
    return bool(re.fullmatch(r"\w[\w.-]*/[\w.-]+", name)) and not Path(name).exists()


def _rows(results: Sequence[Mapping], mode: str) -> list[tuple[str, Mapping]]:
    """Return the rows of a mode, each with its collection."""
    rows = []
    for report in results:
        for row in report["rows"]:
            if row["mode"] == mode:
                rows.append((report["collection"], row))
    return rows


def _eval_results(results: Sequence[Mapping], mode: str) -> list[EvalResult]:
    titles = {"task_name": "Information Retrieval", "metric_name": f"nDCG@10, {mode}"}
    entries = []
    for name, row in _rows(results, mode):
        score = round(float(row["ndcg_at_10"]), 4)
        entry = EvalResult("information-retrieval", name, name, "ndcg_at_10", score, **titles)
        entries.append(entry)
    return entries


def _curves(report: Mapping) -> dict[str, object]:
    """Return the table of a report's curves: a row for each index, a column for each mode."""
    index = ["dimensions", "precision", "bytes_per_document"]
    shares = pd.DataFrame(report["curves"]).pivot_table(
        index=index, columns="mode", values="share_of_teacher", sort=False
    )
    rows = [[*cells, *row] for cells, row in zip(shares.index, shares.to_numpy(), strict=True)]
    return {"collection": report["collection"], "modes": list(shares.columns), "rows": rows}


def _worst(results: Sequence[Mapping]) -> tuple[float, str] | None:
    """Return the smallest share of the teacher in asymmetric search, and its collection."""
    shares = []
    for name, row in _rows(results, "asymmetric"):
        if row["share_of_teacher"] is not None:
            shares.append((row["share_of_teacher"], name))
    return min(shares, default=None)


def _cell(text: object) -> str:
    """Return text for a cell of a Markdown table, with every mark of Markdown escaped."""
    return " ".join(re.sub(r"([\\|<>`*_\[\]&~$#])", r"\\\1", str(text)).split())
