"""Commands that measure a student: evaluate, benchmark."""

from __future__ import annotations

import threading
from argparse import Namespace
from pathlib import Path

from sentence_transformers import SentenceTransformer
from tqdm import tqdm

from workbench import data, models, quantize
from workbench import evaluate as scoring
from workbench._recipes import TOUR, fingerprint_of, load_student, provenance_of
from workbench._util import counted, home, write_json
from workbench.cache import TargetCache
from workbench.cli.inputs import cache_of, teacher_of
from workbench.data import Role
from workbench.errors import WorkbenchError


def evaluate(options: Namespace, stop: threading.Event) -> None:
    """Compare a student with its teacher on a retrieval data set."""
    dataset = data.read_dataset(options.collection, options.split)
    cache, student, base, _ = _models(options)
    texts = dataset.query_texts() + dataset.document_texts()
    cache.embed(texts, progress=True, stop=stop)
    if stop.is_set():
        return
    vectors = {}
    for name, model in {"teacher": cache, "base": base, "student": student}.items():
        vectors[name] = scoring.vectors(model, dataset, filled=True)
    rows = scoring.compare(vectors, dataset)
    documents, queries = len(dataset.corpus), len(dataset.queries)
    print(f"{dataset.name}: {documents:,} documents, {queries:,} judged queries\n")
    print(scoring.format_table(rows))
    for note in rows.attrs["notes"]:
        print(f"note: {note}")
    about = {"student": options.student, "fingerprint": fingerprint_of(options.student)}
    if options.curves:
        teacher, small = vectors["teacher"], vectors["student"]
        pairs = {"teacher": teacher, "symmetric": small, "asymmetric": (small[0], teacher[1])}
        print("Measuring truncated and quantized vectors ...", flush=True)
        curves = quantize.sweep(dataset, pairs, quantize.grid(cache.dimension))
        print("\nShare of the teacher's nDCG@10 in full, by dimensions and precision\n")
        print(quantize.format_table(curves))
        about["curves"] = scoring.as_rows(curves)
    report = scoring.report(dataset, rows, **about, max_length=student.max_seq_length)
    path = options.json or home() / f"evaluate-{dataset.name}.json"
    print(f"\nwritten to {write_json(path, report)}")


def benchmark(options: Namespace, stop: threading.Event) -> None:
    """Run teacher, base, student and pair on tasks of mteb."""
    from workbench.extras import benchmark as running
    from workbench.extras import tasks

    chosen = tasks.tasks(options.tasks, options.split)
    cache, student, base, base_name = _models(options)
    length, name = student.max_seq_length, Path(options.student).resolve().name
    teacher = running.of_teacher(cache, name=models.full_name(cache.teacher.name))
    symmetric = running.of_model(student, "symmetric", name)
    untrained = running.of_model(base, "base", models.full_name(base_name))
    entries = [teacher, untrained, symmetric, running.of_pair(symmetric, teacher)]
    for name in options.model:
        model = _cut(models.load(name), name, length)
        entries.append(running.of_model(model, models.full_name(name)))
    folder = Path(options.results or home() / "benchmarks")
    with tqdm(total=len(entries) * len(chosen), unit=" evaluations") as bar:

        def show(progress: running.EvalProgress) -> None:
            bar.update(progress.done - bar.n)
            texts = counted(progress.texts, "text")
            bar.set_postfix_str(f"{progress.label} on {progress.task}, {texts}")

        results = running.run(entries, chosen, folder, on_progress=show, stop=stop)
    scores, by_kind = running.scores(results), running.by_kind(results)
    differences = running.differences(results)
    print(f"\n{scores.round(4).to_string()}\n\n{differences.round(4).to_string(index=False)}\n")
    print(by_kind.round(4).to_string())
    report = {
        "student": options.student,
        "max_length": length,
        "scores": scoring.as_rows(scores.reset_index()),
        "differences": scoring.as_rows(differences),
        "by_kind": scoring.as_rows(by_kind.rename_axis("kind").reset_index()),
    }
    path = write_json(options.json or home() / "benchmark.json", report)
    print(f"\nwritten to {path}; results in mteb's format are in {folder}")


def _models(
    options: Namespace,
) -> tuple[TargetCache, SentenceTransformer, SentenceTransformer, str]:
    """Return a student's teacher, the student, its untrained base and the base's name.

    All read the same number of tokens. What no option names is in the student's provenance.
    """
    name, student = options.student, load_student(options.student)
    provenance = provenance_of(name)
    if provenance.get("rotated"):
        raise WorkbenchError(f"{name} learned rotated vectors: compare it in Python")
    if not options.teacher and provenance.get("teacher", {}).get("kind"):
        raise WorkbenchError(f"{name} was distilled from vectors alone: name their --teacher")
    teacher = options.teacher or provenance.get("teacher_name") or models.MPNET
    length = options.max_length or student.max_seq_length
    # A student has its teacher's prompts, which a recipe may have chosen.
    prompts = {role.value: student.prompts.get(role) or "" for role in Role} if provenance else None
    recipe = TOUR.change(teacher=teacher, max_length=length, prompts=prompts)
    cache = cache_of(options, teacher_of(options, recipe))
    if provenance.get("fingerprint") not in (None, cache.identity.get("fingerprint")):
        raise WorkbenchError(f"{name} was distilled from other weights than those of {teacher}")
    base = options.base or provenance.get("base") or models.MINILM
    return cache, _cut(student, name, length), _cut(models.load(base), base, length), base


def _cut(model: SentenceTransformer, name: str, length: int) -> SentenceTransformer:
    """Let a model read so many tokens of a text, and return it."""
    config = getattr(model.transformers_model, "config", None)
    most = getattr(config, "max_position_embeddings", length)
    models.shorten(model, length, name, most=most)
    return model
