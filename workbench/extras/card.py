"""The model card: what a student is, how good it was measured to be, and how to load it. The words are in card.md."""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

from workbench import evaluate, models
from workbench._util import nearest
from workbench.data import Role
from workbench.errors import ModelError

ONNX_FOLDER = "onnx_whole"  # not "onnx", where libraries look for a graph without pooling
_TEMPLATE = Path(__file__).with_name("card.md")
_TAGS = ["sentence-transformers", "feature-extraction", "knowledge-distillation", "retrieval"]
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z]{2,8})?|multilingual|code")
# The hub's abbreviations (its documentation, "Licenses").
LICENSES = """afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0
cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m
deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl
gpl-2.0 gpl-3.0 grok2-community h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2
llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 other pddl
postgresql unknown unlicense wtfpl zlib""".split()
_HOUSEKEEPING = (
    "check_pairs",
    "evaluations",
    "checkpoint_steps",
    "precision",
)  # settings that do not change the student


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
        results: one report of `evaluate.report` for each data set; if it has `curves`, the card states them too.
        name: the model's name on the hub, such as "me/my-student".
        dimension: width of the published vectors.
        max_length: number of tokens after which the student cuts a text; the teacher's if None.
        pair: whether the card is of both models in one folder.
        onnx: whether the folder has the whole student as ONNX.
        latency: report of `bench.latency`.
        license: the hub's abbreviation of it.
        language: of the texts, one or more, as the hub writes them: "en", "pt-BR", "multilingual".
        truncated: whether the vectors were rotated or cut after they were learned and measured.

    Raises:
        ModelError: the provenance is empty, there are no results, a report is not a comparison of models, or the hub does
            not know the license or language.
    """
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise ModelError(
            f"{name!r} is no model's name: give a name such as me/my-student"
        ) from None
    languages = [language] if isinstance(language, str) else list(language)
    if wrong := [each for each in languages or [""] if not _LANGUAGE.fullmatch(str(each))]:
        raise ModelError(
            f"language {wrong[0]!r}: give codes such as en, de or pt-BR, or multilingual"
        )
    if license not in LICENSES:
        near = nearest(str(license), LICENSES)
        meant = f"; the nearest are {', '.join(near)}" if near else ""
        raise ModelError(
            f"license {license!r} is none that the hub knows{meant}. Give its abbreviation, or other"
        )
    if not provenance.get("teacher_name") or not provenance.get("base"):
        raise ModelError(
            "nothing says how this student was made: a card needs its teacher, base and texts "
            "(`workbench distill` and student.save(model, folder, provenance) write them down)"
        )
    if not results:
        raise ModelError(
            "a card without results: evaluate the student first (workbench evaluate) and give the reports"
        )
    for report in results:
        _check(report)
    names = [report["collection"] for report in results]
    if len(set(names)) < len(names):
        raise ModelError(
            f"two reports are of one collection ({', '.join(sorted(names))}): give one of each"
        )
    with _readable(
        "the provenance, a report or the latency is not as it was written", "make it anew"
    ):
        teacher, base = _public(provenance["teacher_name"]), _public(provenance["base"])
        texts, identity = str(provenance.get("texts") or ""), provenance["teacher"]
        data = ModelCardData(
            language=languages[0] if len(languages) == 1 else languages,
            license=license,
            library_name="sentence-transformers",
            pipeline_tag="sentence-similarity",
            tags=[*_TAGS, "onnx"] if onnx else _TAGS,
            base_model=[one for one in ((base, teacher) if pair else (base,)) if _on_hub(one)]
            or None,
            datasets=[_public(texts)] if texts.startswith("hub:") else None,
            model_name=name.rpartition("/")[2],
            eval_results=_eval_results(results, "asymmetric" if pair else "symmetric"),
            metrics=["ndcg"],
        )
        longest = identity.get(
            "max_length"
        )  # None, or a number with its tokenizer, of a teacher behind an API
        longest = longest[0] if isinstance(longest, list) else longest
        read = max_length or longest
        lengths = f"texts are cut to {int(read)} tokens" if read else "texts are read whole"
        if pair and max_length not in (None, longest):
            whole = f"documents to {longest}" if longest else "documents are read whole"
            lengths = f"queries are cut to {max_length} tokens and {whole}"
        return ModelCard.from_template(
            data,
            template_path=str(_TEMPLATE),
            md=_cell,
            on_hub=_on_hub,
            name=name,
            teacher=teacher,
            base=base,
            identity=dict(identity),
            dimension=int(dimension),
            lengths=lengths,
            teacher_length=None if pair else longest,
            prompts=provenance.get("prompts"),
            pair=pair,
            onnx=onnx,
            onnx_folder=ONNX_FOLDER,
            moved=truncated or bool(provenance.get("rotated")),
            results=_results(results),
            seen=_public(texts) if _public(texts) in names else None,
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
    with _readable(
        f"{what} is no comparison of teacher and student", "give what `workbench evaluate` wrote"
    ):
        if missing := {"teacher", "symmetric", "asymmetric"} - {
            row["mode"] for row in report["rows"]
        }:
            raise ValueError(f"it has no row for {min(missing)}")
        shares = [
            row[name]
            for row in report["rows"]
            for name in ("share_of_teacher", "share_low", "share_high")
        ]
        figures = [row["ndcg_at_10"] for row in report["rows"]] + [
            share for share in shares if share is not None
        ]
        figures += [row["share_of_teacher"] for row in report.get("curves") or []]
        if not isinstance(report["collection"], str) or not all(
            math.isfinite(figure) for figure in figures
        ):
            raise ValueError("a name and finite numbers are needed")
        if not all(0 <= row["ndcg_at_10"] <= 1 for row in report["rows"]):
            raise ValueError("nDCG@10 lies between 0 and 1")


def _public(name: object) -> str:
    """Return a model's or data set's name; of a path only the last part, because the rest is private."""
    name = models.full_name(str(name))
    if name.startswith("hub:"):  # as `read_texts` names a data set of the hub
        return name.removeprefix("hub:")
    return name if _on_hub(name) else re.split(r"[\\/]", name.rstrip("/\\"))[-1]


def _on_hub(name: str) -> bool:
    return bool(re.fullmatch(r"\w[\w.-]*/[\w.-]+", name)) and not Path(name).exists()


def _results(results: Sequence[Mapping]) -> list[list[str]]:
    """Return the cells of the table of results."""
    sizes = {each["collection"]: each["documents"] for each in results if each.get("documents")}
    rows = []
    for name, row in _rows(results, *evaluate.LABELS):
        share, low, high = row["share_of_teacher"], row["share_low"], row["share_high"]
        where = _cell(name) + (f" ({sizes[name]:,} documents)" if name in sizes else "")
        shares = [
            "" if share is None else f"{share:.1%}",
            "" if low in (None, high) else f"{low:.1%} to {high:.1%}",
        ]
        rows.append([where, evaluate.LABELS[row["mode"]], f"{row['ndcg_at_10']:.3f}", *shares])
    return rows


def _curves(report: Mapping) -> dict[str, object]:
    """Return the table of a report's curves: one row for each index, one column for each mode."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in report["curves"]:
        index = (
            f"{int(row['dimensions'])}, {_cell(row['precision'])}",
            f"{int(row['bytes_per_document']):,}",
        )
        found.setdefault(index, {})[_cell(row["mode"])] = f"{row['share_of_teacher']:.1%}"
    modes = list(dict.fromkeys(mode for shares in found.values() for mode in shares))
    rows = [[*index, *(shares.get(mode, "") for mode in modes)] for index, shares in found.items()]
    return {"collection": report["collection"], "modes": modes, "rows": rows}


def _speeds(latency: Mapping) -> list[str]:
    return [
        f"{precision}: {latency[key]:.1f} times the teacher's queries a second, one at a time"
        for precision in ("float32", "int8")
        if latency.get(key := f"query_speedup_{precision}")
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
    texts, settings = (
        _public(provenance.get("texts", "not stated")),
        provenance.get("settings") or {},
    )
    loss = provenance.get("held_out_loss")
    return {
        "teacher": f"{teacher} (SHA-256 of its files {str(provenance.get('fingerprint'))[:16]}…)",
        "student's start": f"{base}, with a new head ({provenance.get('start', 'not stated')})",
        "training texts": f"{texts}{': ' + roles if roles else ''}; no judgments, no negatives",
        "loss": "squared L2 distance to the teacher's vector of the same text",
        **{
            _cell(key.replace("_", " ")): value
            for key, value in settings.items()
            if key not in _HOUSEKEEPING
        },
        **({} if settings else {"training": "none"}),
        "held-out loss": "not measured" if loss is None else f"{loss:.4f}",
        "versions when published": f"Python {platform.python_version()}, "
        + ", ".join(f"{p} {version(p)}" for p in ("torch", "transformers", "sentence-transformers"))
        + f", teacher-aligned-workbench {provenance.get('workbench', 'not stated')}",
    }


def _worst(results: Sequence[Mapping]) -> dict[str, str] | None:
    """Return the data set on which the student keeps least of its teacher in asymmetric search."""
    shares = [(row["share_of_teacher"], name) for name, row in _rows(results, "asymmetric")]
    if not (shares := [each for each in shares if each[0] is not None]):
        return None
    share, name = min(shares)
    of = "the one collection" if len(results) == 1 else f"the worst of {len(results)} collections"
    return {"collection": name, "share": f"{share:.1%}", "of": of}


def _rows(results: Sequence[Mapping], *modes: str) -> Iterator[tuple[str, Mapping]]:
    """Yield the rows of some modes, each with its data set."""
    return (
        (each["collection"], row)
        for each in results
        for row in each["rows"]
        if row["mode"] in modes
    )


def _eval_results(results: Sequence[Mapping], mode: str) -> list[EvalResult]:
    task, titles = (
        "information-retrieval",
        {"task_name": "Information Retrieval", "metric_name": f"nDCG@10, {mode}"},
    )
    return [
        EvalResult(task, name, name, "ndcg_at_10", round(float(row["ndcg_at_10"]), 4), **titles)
        for name, row in _rows(results, mode)
    ]


def _cell(text: object) -> str:
    """Return text for a cell of a Markdown table, with every mark of Markdown escaped."""
    return " ".join(re.sub(r"([\\|<>`*_\[\]&~$#])", r"\\\1", str(text)).split())
