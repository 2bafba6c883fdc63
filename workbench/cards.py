"""The model card: what a student is, what it was measured to be worth, and how to load it."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from workbench import comparison
from workbench.corpora import Role
from workbench.errors import ModelError

ONNX_FOLDER = "onnx_whole"  # not "onnx", where libraries look for a graph without pooling
PAPER = "arXiv:2509.12539"


def card(
    about: Mapping[str, object],
    results: Sequence[Mapping[str, object]],
    *,
    name: str,
    dimension: int,
    pair: bool = False,
    onnx: bool = False,
    latency: Mapping[str, object] | None = None,
    licence: str = "apache-2.0",
    language: str = "en",
    shortened: bool = False,
) -> ModelCard:
    """Write the card of a student, or of the pair of teacher and student.

    Args:
        about: what `student.statement` returned.
        results: reports as `comparison.report` makes them, one a collection; with `curves` in one, the
            compression is stated too.
        name: what the model will be called, such as "me/my-student".
        dimension: width of the published vectors.
        pair: whether the card is of both models in one folder.
        onnx: whether the whole student as ONNX lies in it.
        latency: what `bench.latency` measured.
        licence: as the hub abbreviates it.
        language: of the texts, ISO 639-1.
        shortened: whether the vectors were rotated or cut since they were learnt.

    Raises:
        ModelError: nothing is known of how the student was made, there are no results, or they are no
            reports of a comparison.
    """
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise ModelError(f"{name!r} is no model's name: letters, digits, '-', '_' and '.', such as me/my-student")
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
    teacher, base = _public(about["teacher_name"]), _public(about["base"])
    sections = [
        _summary(name, teacher, base, dimension, about, pair),
        _loading(name, teacher, about, pair, onnx, shortened or bool(about.get("rotated"))),
        _worth(results, about),
        _compression(results),
        _speed(latency or {}),
        _making(teacher, base, about),
        _limits(results, about),
    ]
    on_hub = [one for one in ((base, teacher) if pair else (base,)) if "/" in one]
    texts = str(about.get("texts", ""))
    data = ModelCardData(
        language=language,
        license=licence,
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "feature-extraction", "knowledge-distillation", "retrieval"]
        + (["onnx"] if onnx else []),
        base_model=on_hub or None,
        datasets=[texts.split(":")[1]] if texts.startswith("hub:") else None,
        model_name=name.rpartition("/")[2],
        eval_results=_eval_results(results, pair),
        metrics=["ndcg"],
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(part for part in sections if part) + "\n")


def _check(report: Mapping[str, object]) -> None:
    rows = report.get("rows") if isinstance(report, Mapping) else None
    try:
        modes = {row["mode"]: float(row["ndcg_at_10"]) for row in rows}
        if not {"teacher", "standard", "asymmetric"} <= set(modes) or not report["collection"]:
            raise KeyError("mode")
    except (KeyError, TypeError, ValueError):
        what = report.get("collection", "a report") if isinstance(report, Mapping) else "a report"
        raise ModelError(
            f"{what} is no comparison of teacher and student: give what `workbench evaluate` wrote"
        ) from None


def _public(name: object) -> str:
    """Return a model's name, or what a folder is called: where it lay is nobody's business."""
    name = str(name)
    return Path(name).name if Path(name).is_absolute() or Path(name).exists() else name


def _summary(name: str, teacher: str, base: str, dimension: int, about: Mapping, pair: bool) -> str:
    what = (
        f"Two models in one: documents are embedded by {teacher}, queries by a small student of it."
        if pair
        else f"A small text-embedding model in the vector space of {teacher}."
    )
    return (
        f"# {name.rpartition('/')[2]}\n\n{what} The student was made from {base} by learning the teacher's vectors and "
        f"nothing else ({PAPER}): documents can be embedded once by the large model and searched by the small one. "
        f"Vectors have {dimension} dimensions"
        + (" and unit norm" if about.get("teacher", {}).get("normalize") else "")
        + f"; texts are cut to {about.get('teacher', {}).get('max_length', 'the model’s number of')} tokens."
    )


def _loading(name: str, teacher: str, about: Mapping, pair: bool, onnx: bool, shortened: bool) -> str:
    texts = 'queries = ["how does a sail work?"]\ndocuments = ["Wind flows faster over the curved side of a sail."]'
    if pair:
        parts = [
            "## How to load it\n\nWith sentence-transformers 6 or later. `encode_query` is the student, `encode_document` the teacher.\n\n```python\n"
            "from sentence_transformers import SentenceTransformer\n\n"
            f'model = SentenceTransformer("{name}")\n{texts}\n'
            "model.similarity(model.encode_query(queries), model.encode_document(documents))\n```"
        ]
    else:
        parts = [
            "## How to load it\n\nWith sentence-transformers 6 or later. The student on both sides:\n\n```python\n"
            "from sentence_transformers import SentenceTransformer\n\n"
            f'student = SentenceTransformer("{name}")\n{texts}\n'
            "student.similarity(student.encode_query(queries), student.encode_document(documents))\n```"
        ]
        length = about.get("teacher", {}).get("max_length")
        if "/" in teacher and not shortened:
            parts.append(
                "Asymmetric, the teacher's documents and the student's queries:\n\n```python\n"
                f'teacher = SentenceTransformer("{teacher}")\nteacher.max_seq_length = {length}\n'
                "student.similarity(student.encode_query(queries), teacher.encode_document(documents))\n```"
            )
        elif shortened:
            parts.append(
                "The vectors were turned or cut after they were learnt. Documents of the teacher need the same turn "
                "and cut: use the pair that was published with this student."
            )
    if onnx:
        parts.append(
            f"Without torch: `{ONNX_FOLDER}/` has the whole student, pooling, head and normalisation included, for "
            "onnxruntime.\n\n```python\nimport json\n\nimport numpy as np\nimport onnxruntime\n"
            "from tokenizers import Tokenizer\n\n"
            f'folder = "{name}/{ONNX_FOLDER}"\n'
            'tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")\n'
            'prompt = json.load(open(f"{folder}/prompts.json")).get("query") or ""\n'
            'session = onnxruntime.InferenceSession(f"{folder}/model.onnx")\n'
            'encoded = tokenizer.encode_batch([prompt + "how does a sail work?"])\n'
            "ids = np.array([one.ids for one in encoded])\n"
            "mask = np.array([one.attention_mask for one in encoded])\n"
            '(vectors,) = session.run(None, {"input_ids": ids, "attention_mask": mask})\n```'
        )
    return "\n\n".join(parts)


def _worth(results: Sequence[Mapping], about: Mapping) -> str:
    source = _public(about.get("texts", ""))
    seen = [_cell(report["collection"]) for report in results if report["collection"] == source]
    learnt = (
        f" The student has learnt from the documents of {seen[0]}, not from its queries or judgments." if seen else ""
    )
    lines = ["## What it was measured to be worth", ""]
    lines += ["| collection | model | nDCG@10 | share of the teacher | 95 % interval |", "|---|---|---|---|---|"]
    for report in results:
        size = f" ({report['documents']:,} documents)" if report.get("documents") else ""
        for row in report["rows"]:
            if row["mode"] not in comparison.LABELS:
                continue
            low, high = row.get("share_low"), row.get("share_high")
            interval = f"{low:.1%} to {high:.1%}" if low is not None and low != high else ""
            share = "" if row.get("share_of_teacher") is None else f"{row['share_of_teacher']:.1%}"
            lines.append(
                f"| {_cell(report['collection'])}{size} | {comparison.LABELS[row['mode']]} | {row['ndcg_at_10']:.3f} | "
                f"{share} | {interval} |"
            )
    return "\n".join(lines) + (
        "\n\n*Standard*: the student embeds both sides. *Asymmetric*: the teacher embedded the documents, the student the "
        "queries. Intervals are paired bootstraps over queries. The untrained base searches in a space of its own."
        + learnt
    )


def _compression(results: Sequence[Mapping]) -> str:
    parts = []
    for report in results:
        if not report.get("curves"):
            continue
        rows = pd.DataFrame(report["curves"])
        label = rows["dimensions"].astype(str) + ", " + rows["precision"]
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
    return "## Shorter and coarser vectors\n\n" + "\n\n".join(parts) if parts else ""


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
        **{name.replace("_", " "): value for name, value in (about.get("settings") or {}).items()},
        **({} if about.get("settings") else {"training": "none"}),
        "held-out loss": f"{about['held_out_loss']:.4f}" if about.get("held_out_loss") is not None else "not measured",
        "versions": f"Python {platform.python_version()}, "
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
    worst = min(shares, key=shares.get) if shares else None
    found = (
        f"Of the collections measured here the least share of the teacher in asymmetric search was {shares[worst]:.1%} "
        f"({_cell(worst)}). "
        if worst
        else ""
    )
    return (
        "## Intended use and limits\n\nFor semantic search and similarity of texts like those it has learnt from. "
        f"{found}A student knows the texts it has seen: on other subjects and languages it can be far worse, in asymmetric "
        "search above all, so measure it on yours. It shares the biases of its teacher and of its texts. Its vectors can be "
        "mixed with those of this teacher, with the same weights, prompts and length, and with no other model's."
    )


def _eval_results(results: Sequence[Mapping], pair: bool) -> list[EvalResult]:
    mode = "asymmetric" if pair else "standard"
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
    for mark in "\\|<>`*_[]":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())
