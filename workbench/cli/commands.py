"""The commands, one function each; only `lab`, which needs no torch, is a module of its own."""

import json
import os
import threading
import time
from argparse import Namespace
from functools import partial
from pathlib import Path

from sentence_transformers import SentenceTransformer
from tqdm import tqdm

from workbench import data, models, pipeline, quantize
from workbench import evaluate as scoring
from workbench import student as students
from workbench._util import counted, duration, expanded, home, write_json
from workbench.cache import FillBar, TargetCache
from workbench.docstrings import docstring_corpus
from workbench.errors import TeacherError, TrainingError, WorkbenchError
from workbench.passages import cut_dataset, in_passages
from workbench.pipeline import ADAPT, STOPPED, TOUR, Recipe, load_student, provenance_of
from workbench.ready import load_ready
from workbench.teachers import LocalTeacher, is_api

DEMO_PAIRS = 500  # documents that the demo's student learns, each with a query to measure on
_RECIPE = "base", "teacher", "max_length", "start", "epochs", "batch_size"  # values of a recipe
_API = (
    "url", "key", "name", "tokenizer", "price", "budget", "requests_per_minute",
    "tokens_per_minute",
)  # fmt: skip


def demo(options: Namespace, stop: threading.Event) -> None:
    """Fit a student to documents, and compare it; what an earlier run made is used."""
    started = time.perf_counter()
    print("Reading docstrings of the installed libraries ...", flush=True)
    pairs = docstring_corpus(held_out=DEMO_PAIRS).held_out
    cache = TargetCache(home() / "cache", pipeline.teacher_of(None, ADAPT))
    pairs = cut_dataset(pairs, ADAPT.readers(cache.teacher))
    texts = pipeline.with_queries(pairs.document_texts())
    lesson = cache.embed(texts, progress=True, stop=stop)
    folder = home() / "demo" / "student"
    done = pipeline.run(lesson, cache, ADAPT, folder, source="docstrings", stop=stop)
    cache.embed(pairs.query_texts(), progress=True, stop=stop)
    if stop.is_set():
        raise TrainingError(STOPPED)
    base = models.load_model(models.MINILM)
    base.max_seq_length = ADAPT.max_length
    compared = {"teacher": cache, "base": base, "ready student": load_ready()}
    rows = scoring.compare(compared | {"student": done.student}, pairs)
    seconds = time.perf_counter() - started
    print("\nDocstrings: find the text that a summary was taken from. The student has learned the")
    print("texts, and has seen no summary.\n")
    print(scoring.format_table(rows))
    report = {"rows": scoring.as_rows(rows), "texts": len(pairs.rows), "seconds": round(seconds, 1)}
    path = write_json(home() / "demo.json", report)
    print(f"\nDone in {duration(seconds)}. The student is in {folder}, the table in {path}.")


def cache(options: Namespace, stop: threading.Event) -> None:
    """Encode texts with the teacher and store the vectors."""
    recipe = TOUR.change(**_chosen(options, "teacher", "max_length"))
    if options.workers:
        _fill_on_ray(options, recipe, stop)
        return
    targets = _cache_of(options, recipe)
    texts = data.read_texts(options.texts, **_chosen(options, *data.READING))
    texts, cost = in_passages(texts, recipe.readers(targets.teacher), options.passages)
    if cost:
        print(cost)
    if options.dry_run:
        _print_plan(targets, texts)
        return
    vectors = targets.embed(texts, progress=True, stop=stop)
    print(f"{len(vectors):,} of {len(texts):,} texts have a vector in {targets.folder}")


def _fill_on_ray(options: Namespace, recipe: Recipe, stop: threading.Event) -> None:
    """Fill the cache with many teachers at once."""
    from workbench.extras import cluster

    unused = _chosen(options, *data.READING, *_API)
    if unused or options.dry_run or is_api(recipe.teacher):
        raise WorkbenchError(
            "--workers reads a folder's .parquet files for a local teacher: leave out --dry-run, "
            f"APIs and {', '.join(unused) or 'options of texts'}"
        )
    make = partial(LocalTeacher, recipe.teacher, max_length=recipe.max_length)
    machines = {"workers": options.workers, "gpus": options.gpus_per_worker}
    with FillBar("teachers") as bar:
        show = {"on_progress": bar.progress, "stop": stop}
        done = cluster.fill(options.cache, make, options.texts, **machines, **show)
    print(f"{done.done:,} texts, {done.encoded:,} encoded now; vectors below {options.cache}")


def distill(options: Namespace, stop: threading.Event) -> None:
    """Train a student on a teacher's vectors; the recipe decides what options do not name."""
    texts = data.read_texts(options.texts, **_chosen(options, *data.READING))
    recipe = pipeline.choose(options.recipe, len(texts), **_chosen(options, *_RECIPE))
    targets = _cache_of(options, recipe)
    texts = pipeline.prepare(texts, recipe, targets.teacher, options.passages)
    if options.dry_run:
        _print_plan(targets, texts)
        return
    output, about = options.output, {"source": options.texts, "resume": not options.fresh}
    done = pipeline.run(texts, targets, recipe, output, **about, stop=stop)
    if os.environ.get("RANK", "0") == "0":
        loss = done.provenance["held_out_loss"]
        print(f"student saved to {output}" + (f" (held-out loss {loss:.4f})" if loss else ""))


def evaluate(options: Namespace, stop: threading.Event) -> None:
    """Compare a student with its teacher on a retrieval data set."""
    dataset = data.read_dataset(options.collection)
    cache, student, base, _ = _models(options)
    compared = {"teacher": cache, "base": base, "student": student}
    dataset, cost = scoring.cut_for(compared, dataset, options.passages)
    texts = [*dataset.query_texts(), *dataset.document_texts()]
    cache.embed(texts, progress=True, stop=stop)
    if stop.is_set():
        return
    vectors = {}
    for name, model in compared.items():
        vectors[name] = scoring.vectors(model, dataset, allow_missing=True)
    rows = scoring.compare(vectors, dataset)
    documents, queries = len(dataset.corpus), len(dataset.queries)
    print(f"{dataset.name}: {documents:,} documents, {queries:,} judged queries\n")
    print("\n".join([scoring.format_table(rows), *rows.attrs["notes"], cost]))
    # The weights of a ready student are those of its head.
    fingerprint = provenance_of(options.student).get("head_sha256")
    fingerprint = fingerprint or models.resolve(options.student).fingerprint
    about = {"student": options.student, "fingerprint": fingerprint}
    if options.curves:
        teacher, small = vectors["teacher"], vectors["student"]
        pairs = {"teacher": teacher, "symmetric": small, "asymmetric": (small[0], teacher[1])}
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

    members = tasks.tasks(options.tasks)
    cache, student, base, base_name = _models(options)
    length = student.max_seq_length
    teacher = running.of_teacher(cache, name=models.full_name(cache.teacher.name))
    symmetric = running.of_model(student, "symmetric", Path(options.student).resolve().name)
    untrained = running.of_model(base, "base", models.full_name(base_name))
    entries = [teacher, untrained, symmetric, running.of_pair(symmetric, teacher)]
    for name in options.model:
        model = _cut(models.load_model(name), name, length)
        entries.append(running.of_model(model, models.full_name(name)))
    folder = home() / "benchmarks"
    with tqdm(total=len(entries) * len(members), unit=" evaluations") as bar:

        def show(progress: running.EvalProgress) -> None:
            bar.update(progress.done - bar.n)
            texts = counted(progress.texts, "text")
            bar.set_postfix_str(f"{progress.label} on {progress.task}, {texts}")

        results = running.run(entries, members, folder, on_progress=show, stop=stop)
    tables = {
        "scores": running.scores(results).reset_index(),
        "differences": running.differences(results),
        "by_kind": running.by_kind(results).rename_axis("kind").reset_index(),
    }
    report = {"student": options.student, "max_length": length}
    for name, table in tables.items():
        print(f"\n{table.round(4).to_string(index=False)}")
        report[name] = scoring.as_rows(table)
    path = write_json(options.json or home() / "benchmark.json", report)
    print(f"\nwritten to {path}; results in mteb's format are in {folder}")


def publish(options: Namespace, stop: threading.Event) -> None:
    """Write a student as a folder that others can load."""
    from workbench.extras import publish as publishing
    from workbench.extras.card import card

    folder = publishing.check_folder(options.output)
    model, provenance = students.load(options.student), students.read_provenance(options.student)
    truncated = publishing.is_truncated(model)
    if options.pair and truncated:  # its vectors do not share the space of the teacher's
        raise WorkbenchError("the student was rotated or truncated: leave out --pair")
    fingerprint = models.resolve(options.student).fingerprint
    words = card(
        provenance,
        [_report(path, fingerprint) for path in options.results],
        name=options.name or folder.name,
        dimension=model.get_embedding_dimension(),
        max_length=model.max_seq_length,
        pair=options.pair,
        onnx=options.onnx,
        license=options.license,
        language=options.language,
        truncated=truncated,
    )
    if options.pair:
        files = models.resolve(provenance["teacher_name"])
        if files.fingerprint != provenance["fingerprint"]:
            raise WorkbenchError(f"the student was not distilled from the weights of {files.name}")
        teacher = models.load_model(files)
        if length := provenance["teacher"].get("max_length"):
            models.shorten(teacher, length, files.name)
        teacher.prompts = dict(provenance["prompts"])  # those that the student learned from
        publishing.save_pair(teacher, model, folder, card=words, onnx=options.onnx)
    else:
        publishing.save_student(model, folder, card=words, onnx=options.onnx)
    print(f"{folder} is complete; its card is README.md")
    print(f"`workbench push {folder} OWNER/NAME --dry-run` lists what the hub would get.")


def push(options: Namespace, stop: threading.Event) -> None:
    """Send a published folder to the hub."""
    from workbench.extras import publish as publishing

    name, dry_run = options.name, options.dry_run
    sent = publishing.push(options.folder, name, private=not options.public, dry_run=dry_run)
    print(sent.to_string(index=False))
    size = f"{counted(len(sent), 'file')}, {sent['bytes'].sum() / 1e6:,.1f} MB"
    print(f"\n{size} {'would be sent to' if dry_run else 'are at'} {name}")


# --- what options name --------------------------------------------------------------------------


def _chosen(options: Namespace, *names: str) -> dict[str, object]:
    """Return the options of these names that are set."""
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _cache_of(options: Namespace, recipe: Recipe) -> TargetCache:
    """Return the cache of a recipe's teacher, which has the options of an API if it is one."""
    of_api = _chosen(options, *_API)
    if of_api and not is_api(recipe.teacher):
        raise TeacherError(f"{', '.join(of_api)}: only for --teacher PROVIDER:MODEL")
    if "tokenizer" in of_api:
        of_api["max_tokens"] = recipe.max_length
    teacher = pipeline.teacher_of(None, recipe, **of_api)
    return TargetCache(options.cache, teacher, skip=options.skip)


def _print_plan(targets: TargetCache, texts: object) -> None:
    """Print what the teacher has to do, and what its API will cost."""
    print(targets.plan(texts))
    if targets.teacher.usage is not None:
        print(targets.teacher.estimate(targets.missing(texts)))


def _models(options: Namespace) -> tuple:
    """Return a student's teacher, the student, its untrained base and the base's name.

    All read the same number of tokens. What no option names is in the student's provenance.
    """
    name, student = options.student, load_student(options.student)
    provenance = provenance_of(name)
    teacher = options.teacher or provenance.get("teacher_name") or models.MPNET
    length = options.max_length or student.max_seq_length
    changes = {"teacher": teacher, "max_length": length, "prompts": provenance.get("prompts")}
    cache = _cache_of(options, TOUR.change(**changes))
    if provenance.get("fingerprint") not in (None, cache.identity.get("fingerprint")):
        raise WorkbenchError(f"{name} was distilled from other weights than those of {teacher}")
    base = provenance.get("base") or models.MINILM
    return cache, _cut(student, name, length), _cut(models.load_model(base), base, length), base


def _cut(model: SentenceTransformer, name: str, length: int) -> SentenceTransformer:
    """Let a model read so many tokens of a text, and return it."""
    models.shorten(model, length, name, most=models.positions(model) or length)
    return model


def _report(path: str, fingerprint: str) -> dict:
    """Read a report on the student with this fingerprint."""
    try:
        report = json.loads(expanded(path).read_text())
        measured = report.get("fingerprint", fingerprint)
    except (OSError, ValueError, AttributeError) as error:
        raise WorkbenchError(f"{path} is no report of workbench evaluate: {error}") from None
    if measured != fingerprint:
        raise WorkbenchError(f"{path} was measured on another student: measure this one")
    return report
