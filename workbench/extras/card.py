"""The model card: what a student is, what it was measured to be worth, and how to load it."""

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
_HOUSEKEEPING = ("evaluations", "checkpoint_steps", "precision")  # settings that decide nothing a reader asks for


def card(
    about: Mapping[str, object],
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
        about: what `student.statement` returned.
        results: reports as `evaluate.report` makes them, one a collection; with `curves` in one, the
            compression is stated too.
        name: what the model will be called, such as "me/my-student".
        dimension: width of the published vectors.
        max_length: tokens that the student reads of a text; the teacher's number if None.
        pair: whether the card is of both models in one folder.
        onnx: whether the whole student as ONNX lies in it.
        latency: what `bench.latency` measured.
        license: as the hub abbreviates it.
        language: of the texts, ISO 639-1.
        truncated: whether the vectors were rotated or cut since they were learned and measured.

    Raises:
        ModelError: nothing is known of how the student was made, there are no results, or they are no
            reports of a comparison.
    """
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise ModelError(f"{name!r} is no model's name: give a name such as me/my-student") from None
    if not about.get("teacher_name") or not about.get("base"):
        raise ModelError(
            "nothing says how this student was made: a card needs its teacher, base and texts "
            "(`workbench distill` and student.save(model, folder, about) write them down)"
        )
    if not results:
        raise ModelError(
            "a card without results says nothing of worth: measure the student first (workbench evaluate) "
            "and give the reports"
        )
    for report in results:
        _check(report)
    names = [report["collection"] for report in results]
    if len(set(names)) < len(names):
        raise ModelError(f"two reports are of one collection ({', '.join(sorted(names))}): give one of each")
    moved = truncated or bool(about.get("rotated"))
    with _readable("the statement, a report or the latency is not as it was written", "make it anew"):
        teacher, base = _public(about["teacher_name"]), _public(about["base"])
        sections = [
            _summary(name, teacher, base, int(dimension), max_length, about, pair),
            _loading(name, teacher, about, pair, onnx, moved),
            _worth(results, about, moved),
            _compression(results),
            _speed(latency or {}),
            _making(teacher, base, about),
            _limits(results, about),
        ]
        on_hub = [one for one in ((base, teacher) if pair else (base,)) if _on_hub(one)]
        texts = str(about.get("texts") or "")
        data = ModelCardData(
            language=language,
            license=license,
            library_name="sentence-transformers",
            pipeline_tag="sentence-similarity",
            tags=["sentence-transformers", "feature-extraction", "knowledge-distillation", "retrieval"]
            + (["onnx"] if onnx else []),
            base_model=on_hub or None,
            datasets=[_public(texts)] if texts.startswith("hub:") else None,
            model_name=name.rpartition("/")[2],
            eval_results=_eval_results(results, pair),
            metrics=["ndcg"],
        )
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(part for part in sections if part) + "\n")


@contextmanager
def _readable(problem: str, advice: str) -> Iterator[None]:
    """Turn whatever malformed JSON makes its reader stumble over into a problem that a user can act on."""
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
            raise ValueError("a name and numbers are needed")
        if not all(0 <= row["ndcg_at_10"] <= 1 for row in report["rows"]):
            raise ValueError("nDCG@10 lies between 0 and 1")
    if missing := {"teacher", "symmetric", "asymmetric"} - modes:
        raise ModelError(f"{what} is no comparison of teacher and student: it has no row for {sorted(missing)[0]}")


def _public(name: object) -> str:
    """Return a model's name, or what a folder is called: where it lay is nobody's business."""
    name = models.full_name(str(name))
    if name.startswith("hub:"):  # hub:NAME:COLUMN:ROLE, as the command line has it
        return name.split(":")[1]
    return name if _on_hub(name) else re.split(r"[\\/]", name.rstrip("/\\"))[-1]


def _on_hub(name: str) -> bool:
    return bool(re.fullmatch(r"\w[\w.-]*/[\w.-]+", name)) and not Path(name).exists()


def _summary(
    name: str, teacher: str, base: str, dimension: int, max_length: int | None, about: Mapping, pair: bool
) -> str:
    what = (
        f"Two models in one: documents are embedded by {_cell(teacher)}, queries by a small student of it."
        if pair
        else f"A small text-embedding model in the vector space of {_cell(teacher)}."
    )
    of_teacher = about["teacher"].get("max_length")
    length = f"texts are cut to {max_length or of_teacher} tokens"
    if pair and max_length not in (None, of_teacher):
        length = f"queries are cut to {max_length} tokens and documents to {of_teacher}"
    return (
        f"# {name.rpartition('/')[2]}\n\n{what} The student was made from {_cell(base)} by learning the teacher's vectors "
        f"and nothing else ({PAPER}): documents can be embedded once by the large model and searched by the small one. "
        f"Vectors have {dimension} dimensions"
        + (" and unit norm" if about["teacher"].get("normalize") else "")
        + f"; {length}."
    )


def _loading(name: str, teacher: str, about: Mapping, pair: bool, onnx: bool, moved: bool) -> str:
    variable, sides = (
        ("model", "`encode_query` is the student, `encode_document` the teacher.")
        if pair
        else ("student", "The student on both sides:")
    )
    parts = [
        f"## How to load it\n\nWith sentence-transformers 6 or later. {sides}\n\n```python\n"
        "from sentence_transformers import SentenceTransformer\n\n"
        f'{variable} = SentenceTransformer("{name}")\n'
        'queries = ["how does a sail work?"]\n'
        'documents = ["Wind flows faster over the curved side of a sail."]\n'
        f"{variable}.similarity({variable}.encode_query(queries), {variable}.encode_document(documents))\n```"
    ]
    if not pair:
        length = int(about["teacher"]["max_length"])
        if _on_hub(teacher) and not moved:
            parts.append(
                "Asymmetric, the teacher's documents and the student's queries:\n\n```python\n"
                f'teacher = SentenceTransformer("{teacher}")\nteacher.max_seq_length = {length}\n'
                "student.similarity(student.encode_query(queries), teacher.encode_document(documents))\n```"
            )
        elif moved:
            parts.append(
                "The vectors were rotated or cut after they were learned. Documents of the teacher need the same turn "
                "and cut: use the pair that was published with this student."
            )
    if onnx:
        fetch = f"; `hf download {name} --local-dir .` fetches it" if "/" in name else ""
        parts.append(
            f"Without torch: `{ONNX_FOLDER}/` has the whole student, pooling, head and normalization included, for "
            f"onnxruntime. Run this in the folder of this card{fetch}.\n\n```python\nimport json\n\nimport numpy as np\n"
            "import onnxruntime\nfrom tokenizers import Tokenizer\n\n"
            f'folder = "{ONNX_FOLDER}"\n'
            'tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")\n'
            'prompt = json.load(open(f"{folder}/prompts.json")).get("query") or ""\n'
            'session = onnxruntime.InferenceSession(f"{folder}/model.onnx")\n'
            'encoded = tokenizer.encode_batch([prompt + "how does a sail work?"])\n'
            "ids = np.array([one.ids for one in encoded])\n"
            "mask = np.array([one.attention_mask for one in encoded])\n"
            '(vectors,) = session.run(None, {"input_ids": ids, "attention_mask": mask})\n```'
        )
    return "\n\n".join(parts)


def _worth(results: Sequence[Mapping], about: Mapping, moved: bool) -> str:
    source = _public(about.get("texts", ""))
    seen = [_cell(report["collection"]) for report in results if report["collection"] == source]
    learned = (
        f" The student has learned from the documents of {seen[0]}, not from its queries or judgments." if seen else ""
    )
    lines = ["## What it was measured to be worth", ""]
    if moved:
        lines += ["Measured on the vectors as they were learned, before they were rotated or cut.", ""]
    lines += ["| collection | model | nDCG@10 | share of the teacher | 95 % interval |", "|---|---|---|---|---|"]
    for report in results:
        size = f" ({report['documents']:,} documents)" if report.get("documents") else ""
        for row in report["rows"]:
            if row["mode"] not in evaluate.LABELS:
                continue
            low, high = row.get("share_low"), row.get("share_high")
            interval = f"{low:.1%} to {high:.1%}" if low is not None and low != high else ""
            share = "" if row.get("share_of_teacher") is None else f"{row['share_of_teacher']:.1%}"
            lines.append(
                f"| {_cell(report['collection'])}{size} | {evaluate.LABELS[row['mode']]} | {row['ndcg_at_10']:.3f} | "
                f"{share} | {interval} |"
            )
    return "\n".join(lines) + (
        "\n\n*Standard*: the student embeds both sides. *Asymmetric*: the teacher embedded the documents, the student the "
        "queries. Intervals are paired bootstraps over queries. The untrained base searches in a space of its own."
        + learned
    )


def _compression(results: Sequence[Mapping]) -> str:
    parts = []
    for report in results:
        if not report.get("curves"):
            continue
        rows = pd.DataFrame(report["curves"])
        label = rows["dimensions"].astype(int).astype(str) + ", " + rows["precision"].map(_cell)
        rows = rows.assign(mode=rows["mode"].map(_cell))
        wide = rows.assign(point=label).pivot(index="point", columns="mode", values="share_of_teacher")
        wide = wide.loc[list(dict.fromkeys(label)), list(dict.fromkeys(rows["mode"]))]
        size = dict(zip(label, rows["bytes_per_document"], strict=True))
        parts.append(
            f"{_cell(report['collection'])}, share of the teacher's nDCG@10 in full:\n\n| dimensions, precision | bytes a document | "
            + " | ".join(wide.columns)
            + " |\n|"
            + "---|" * (len(wide.columns) + 2)
            + "".join(
                f"\n| {point} | {int(size[point]):,} | " + " | ".join(f"{v:.1%}" for v in values) + " |"
                for point, values in zip(wide.index, wide.to_numpy(), strict=True)
            )
        )
    about = "Every point is a real index; binary ones are rescored with the query's own values.\n\n"
    return "## Shorter and coarser vectors\n\n" + about + "\n\n".join(parts) if parts else ""


def _speed(latency: Mapping) -> str:
    speeds = {precision: latency.get(f"query_speedup_{precision}") for precision in ("float32", "int8")}
    lines = [
        f"- {name}: {ratio:.1f} times the teacher's queries a second, one at a time"
        for name, ratio in speeds.items()
        if ratio
    ]
    lines += [
        f"- int8 keeps {row['share']:.1%} of the student's nDCG@10 on {_cell(row['collection'])} "
        f"(95 % interval {row['low']:.1%} to {row['high']:.1%})"
        for row in latency.get("int8", [])
    ]
    if not lines:
        return ""
    where = f" ({_cell(latency['machine'])})" if latency.get("machine") else ""
    return f"## Speed as ONNX on a CPU{where}\n\n" + "\n".join(lines)


def _making(teacher: str, base: str, about: Mapping) -> str:
    roles = ", ".join(
        f"{count:,} {'queries' if role == Role.QUERY else 'documents'}"
        for role, count in (about.get("texts_by_role") or {}).items()
    )
    texts = _public(about.get("texts", "not stated"))
    rows = {
        "teacher": f"{teacher} (SHA-256 of its files {str(about.get('fingerprint'))[:16]}…)",
        "student's start": f"{base}, mean pooling, a linear head ({about.get('start', 'not stated')})",
        "training texts": f"{texts}{': ' + roles if roles else ''}; no judgments, no negatives",
        "loss": "squared L2 distance to the teacher's vector of the same text",
        **{
            _cell(name.replace("_", " ")): value
            for name, value in (about.get("settings") or {}).items()
            if name not in _HOUSEKEEPING
        },
        **({} if about.get("settings") else {"training": "none"}),
        "held-out loss": f"{about['held_out_loss']:.4f}" if about.get("held_out_loss") is not None else "not measured",
        "versions when published": f"Python {platform.python_version()}, "
        + ", ".join(f"{p} {version(p)}" for p in ("torch", "transformers", "sentence-transformers"))
        + f", teacher-aligned-workbench {about.get('workbench', 'not stated')}",
    }
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows.items())
    return f"## How it was made\n\n| | |\n|---|---|\n{table}"


def _limits(results: Sequence[Mapping], about: Mapping) -> str:
    shares = {
        report["collection"]: row["share_of_teacher"]
        for report in results
        for row in report["rows"]
        if row["mode"] == "asymmetric" and row.get("share_of_teacher") is not None
    }
    found = ""
    if shares:
        worst = min(shares, key=shares.get)
        only = "the one collection" if len(results) == 1 else f"the worst of {len(results)} collections"
        found = (
            f"In asymmetric search it kept {shares[worst]:.1%} of its teacher on {only} measured here, {_cell(worst)}. "
        )
    return (
        "## Intended use and limits\n\nFor semantic search and similarity of texts like those it has learned from. "
        f"{found}A student knows the texts it has seen: on other subjects and languages it can be far worse, in asymmetric "
        "search above all, so measure it on yours. It shares the biases of its teacher and of its texts. Its vectors can be "
        "mixed with those of this teacher, with the same weights, prompts and length, and with no other model's."
    )


def _eval_results(results: Sequence[Mapping], pair: bool) -> list[EvalResult]:
    mode = "asymmetric" if pair else "symmetric"
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
    """Return text for a cell of a table in Markdown."""
    text = str(text)
    for mark in "\\|<>`*_[]&~$#":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())
