"""The model card: what a student is, how good it was measured to be, and how to load it. The words are in card.md."""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

from workbench import evaluate, models
from workbench.data import Role
from workbench.errors import ModelError

ONNX_FOLDER = "onnx_whole"  # not "onnx", where libraries look for a graph without pooling
PAPER = "arXiv:2509.12539"
_TEMPLATE = Path(__file__).with_name("card.md")
_HOUSEKEEPING = ("evaluations", "checkpoint_steps", "precision")  # settings that do not change the student


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
    language: str = "en",
    truncated: bool = False,
) -> ModelCard:
    """Write the card of a student, or of the pair of teacher and student.

    Args:
        provenance: of the student, as `student.read_provenance` returns it.
        results: one report of `evaluate.report` for each data set; if it has `curves`, the card states them too.
        name: the model's name on the hub, such as "me/my-student".
        dimension: width of the published vectors.
        max_length: number of tokens after which the student cuts a text; the teacher's if None.
        pair: whether the card is of both models in one folder.
        onnx: whether the folder has the whole student as ONNX.
        latency: report of `bench.latency`.
        license: the hub's abbreviation of it.
        language: of the texts, ISO 639-1.
        truncated: whether the vectors were rotated or cut after they were learned and measured.

    Raises:
        ModelError: the provenance is empty, there are no results, or a report is not a comparison of models.
    """
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise ModelError(f"{name!r} is no model's name: give a name such as me/my-student") from None
    if not provenance.get("teacher_name") or not provenance.get("base"):
        raise ModelError(
            "nothing says how this student was made: a card needs its teacher, base and texts "
            "(`workbench distill` and student.save(model, folder, provenance) write them down)"
        )
    if not results:
        raise ModelError("a card without results: evaluate the student first (workbench evaluate) and give the reports")
    for report in results:
        _check(report)
    names = [report["collection"] for report in results]
    if len(set(names)) < len(names):
        raise ModelError(f"two reports are of one collection ({', '.join(sorted(names))}): give one of each")
    with _readable("the provenance, a report or the latency is not as it was written", "make it anew"):
        teacher, base = _public(provenance["teacher_name"]), _public(provenance["base"])
        texts, identity = str(provenance.get("texts") or ""), provenance["teacher"]
        data = ModelCardData(
            language=language,
            license=license,
            library_name="sentence-transformers",
            pipeline_tag="sentence-similarity",
            tags=["sentence-transformers", "feature-extraction", "knowledge-distillation", "retrieval"]
            + (["onnx"] if onnx else []),
            base_model=[one for one in ((base, teacher) if pair else (base,)) if _on_hub(one)] or None,
            datasets=[_public(texts)] if texts.startswith("hub:") else None,
            model_name=name.rpartition("/")[2],
            eval_results=_eval_results(results, "asymmetric" if pair else "symmetric"),
            metrics=["ndcg"],
        )
        lengths = f"texts are cut to {max_length or identity.get('max_length')} tokens"
        if pair and max_length not in (None, identity.get("max_length")):
            lengths = f"queries are cut to {max_length} tokens and documents to {identity.get('max_length')}"
        return ModelCard.from_template(
            data,
            template_path=str(_TEMPLATE),
            md=_cell,
            on_hub=_on_hub,
            name=name,
            title=data.model_name,
            variable="model" if pair else "student",
            teacher=teacher,
            base=base,
            paper=PAPER,
            identity=dict(identity),
            dimension=int(dimension),
            lengths=lengths,
            teacher_length=None if pair else int(identity["max_length"]),
            pair=pair,
            onnx=onnx,
            onnx_folder=ONNX_FOLDER,
            moved=truncated or bool(provenance.get("rotated")),
            results=_results(results),
            seen=next((each for each in names if each == _public(texts)), None),
            curves=[_curves(report) for report in results if report.get("curves")],
            speeds=_speeds(latency or {}),
            machine=(latency or {}).get("machine"),
            made=_made(teacher, base, provenance),
            worst=_worst(results),
        )


@contextmanager
def _readable(problem: str, advice: str) -> Iterator[None]:
    """Turn the errors that malformed JSON causes in its reader into one that says what to do."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{problem} ({type(error).__name__}: {error}): {advice}") from None


def _check(report: Mapping[str, object]) -> None:
    what = report.get("collection", "a report") if isinstance(report, Mapping) else "a report"
    with _readable(f"{what} is no comparison of teacher and student", "give what `workbench evaluate` wrote"):
        modes = {row["mode"] for row in report["rows"]}
        shares = [row[name] for row in report["rows"] for name in ("share_of_teacher", "share_low", "share_high")]
        figures = [row["ndcg_at_10"] for row in report["rows"]] + [share for share in shares if share is not None]
        figures += [row["share_of_teacher"] for row in report.get("curves") or []]
        if not isinstance(report["collection"], str) or not all(math.isfinite(figure) for figure in figures):
            raise ValueError("a name and finite numbers are needed")
        if not all(0 <= row["ndcg_at_10"] <= 1 for row in report["rows"]):
            raise ValueError("nDCG@10 lies between 0 and 1")
    if missing := {"teacher", "symmetric", "asymmetric"} - modes:
        raise ModelError(f"{what} is no comparison of teacher and student: it has no row for {sorted(missing)[0]}")


def _public(name: object) -> str:
    """Return a model's or data set's name; of a path only the last part, because the rest is private."""
    name = models.full_name(str(name))
    if name.startswith("hub:"):  # hub:NAME:COLUMN:ROLE, as the command line writes it
        return name.split(":")[1]
    return name if _on_hub(name) else re.split(r"[\\/]", name.rstrip("/\\"))[-1]


def _on_hub(name: str) -> bool:
    return bool(re.fullmatch(r"\w[\w.-]*/[\w.-]+", name)) and not Path(name).exists()


def _results(results: Sequence[Mapping]) -> list[list[str]]:
    """Return the cells of the table of results."""
    rows = []
    for report in results:
        size = f" ({report['documents']:,} documents)" if report.get("documents") else ""
        for row in report["rows"]:
            if row["mode"] in evaluate.LABELS:
                low, high, share = row.get("share_low"), row.get("share_high"), row.get("share_of_teacher")
                rows.append(
                    [
                        _cell(report["collection"]) + size,
                        evaluate.LABELS[row["mode"]],
                        f"{row['ndcg_at_10']:.3f}",
                        "" if share is None else f"{share:.1%}",
                        f"{low:.1%} to {high:.1%}" if low is not None and low != high else "",
                    ]
                )
    return rows


def _curves(report: Mapping) -> dict[str, object]:
    """Return the table of a report's curves: one row for each index, one column for each mode."""
    rows = pd.DataFrame(report["curves"])
    label = rows["dimensions"].astype(int).astype(str) + ", " + rows["precision"].map(_cell)
    rows = rows.assign(mode=rows["mode"].map(_cell))
    wide = rows.assign(point=label).pivot(index="point", columns="mode", values="share_of_teacher")
    wide = wide.loc[list(dict.fromkeys(label)), list(dict.fromkeys(rows["mode"]))]
    size = dict(zip(label, rows["bytes_per_document"], strict=True))
    cells = [[p, f"{int(size[p]):,}", *(f"{v:.1%}" for v in wide.loc[p])] for p in wide.index]
    return {"collection": report["collection"], "modes": list(wide.columns), "rows": cells}


def _speeds(latency: Mapping) -> list[str]:
    ratios = {precision: latency.get(f"query_speedup_{precision}") for precision in ("float32", "int8")}
    return [
        f"{precision}: {ratio:.1f} times the teacher's queries a second, one at a time"
        for precision, ratio in ratios.items()
        if ratio
    ] + [
        f"int8 keeps {row['share']:.1%} of the student's nDCG@10 on {_cell(row['collection'])} "
        f"(95 % interval {row['low']:.1%} to {row['high']:.1%})"
        for row in latency.get("int8", [])
    ]


def _made(teacher: str, base: str, provenance: Mapping) -> dict[str, object]:
    """Return the rows of the table that says how the student was made."""
    roles = ", ".join(
        f"{count:,} {'queries' if role == Role.QUERY else 'documents'}"
        for role, count in (provenance.get("texts_by_role") or {}).items()
    )
    texts, settings = _public(provenance.get("texts", "not stated")), provenance.get("settings") or {}
    loss = provenance.get("held_out_loss")
    return {
        "teacher": f"{teacher} (SHA-256 of its files {str(provenance.get('fingerprint'))[:16]}…)",
        "student's start": f"{base}, mean pooling, a linear head ({provenance.get('start', 'not stated')})",
        "training texts": f"{texts}{': ' + roles if roles else ''}; no judgments, no negatives",
        "loss": "squared L2 distance to the teacher's vector of the same text",
        **{_cell(key.replace("_", " ")): value for key, value in settings.items() if key not in _HOUSEKEEPING},
        **({} if settings else {"training": "none"}),
        "held-out loss": "not measured" if loss is None else f"{loss:.4f}",
        "versions when published": f"Python {platform.python_version()}, "
        + ", ".join(f"{p} {version(p)}" for p in ("torch", "transformers", "sentence-transformers"))
        + f", teacher-aligned-workbench {provenance.get('workbench', 'not stated')}",
    }


def _worst(results: Sequence[Mapping]) -> dict[str, str] | None:
    """Return the data set on which the student keeps least of its teacher in asymmetric search."""
    shares = {
        report["collection"]: row["share_of_teacher"]
        for report in results
        for row in report["rows"]
        if row["mode"] == "asymmetric" and row.get("share_of_teacher") is not None
    }
    if not shares:
        return None
    worst = min(shares, key=shares.get)
    of = "the one collection" if len(results) == 1 else f"the worst of {len(results)} collections"
    return {"collection": worst, "share": f"{shares[worst]:.1%}", "of": of}


def _eval_results(results: Sequence[Mapping], mode: str) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="information-retrieval",
            task_name="Information Retrieval",
            dataset_type=report["collection"],
            dataset_name=report["collection"],
            metric_type="ndcg_at_10",
            metric_name=f"nDCG@10, {mode}",
            metric_value=round(float(row["ndcg_at_10"]), 4),
        )
        for report in results
        for row in report["rows"]
        if row["mode"] == mode
    ]


def _cell(text: object) -> str:
    """Return text for a cell of a Markdown table, with every mark of Markdown escaped."""
    text = str(text)
    for mark in "\\|<>`*_[]&~$#":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())
