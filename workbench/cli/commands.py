"""What each command does, with the options that `cli` has parsed."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

from workbench._util import PROJECT, home, write_json
from workbench.cli import inputs
from workbench.errors import TrainingError, WorkbenchError

_SETTINGS = ("batch_size", "learning_rate", "epochs", "restarts", "seed")  # of a recipe that options can change


def run_demo(options: argparse.Namespace, stop: threading.Event) -> None:
    """Run the main job once."""
    from workbench.cli import demo

    demo.run(stop=stop, fresh=options.fresh)
    print("Open the notebooks with `make lab` (or `workbench lab`).")


def run_cache(options: argparse.Namespace, stop: threading.Event) -> None:
    """Encode texts with the teacher and store the vectors."""
    from workbench import models

    given = None if options.workers else inputs.vectors_of(options)
    options.teacher = options.teacher or models.MPNET
    if options.workers:
        _cache_on_cluster(options, stop)
        return
    teacher, cache = inputs.teacher_and_cache(options, given=given)
    texts = given.texts[: options.limit] if given else inputs.texts_of(options.texts, options.limit, options.sample)
    if options.dry_run:
        texts = list(texts)
        print(cache.plan(texts))
        if teacher.usage is not None:
            print(teacher.estimate(cache.missing(texts)))
        return
    done = inputs.fill(cache, texts, stop)
    print(f"{done.done:,} texts, {done.encoded:,} encoded now, {done.hits:,} already there; targets in {cache.folder}")


def _cache_on_cluster(options: argparse.Namespace, stop: threading.Event) -> None:
    from workbench._progress import CacheBar
    from workbench.extras import cluster

    if options.limit or options.sample or options.dry_run or options.vectors or inputs.is_api(options):
        raise WorkbenchError(
            "--workers encodes all .parquet files of a folder with local teachers: leave out --limit, --sample, "
            "--dry-run, --vectors and API teachers (which make requests at once without it)"
        )
    root = options.cache or home() / "cache"
    with CacheBar("teachers") as bar:
        done = cluster.fill(
            root,
            inputs.local_teacher(options),
            options.texts,
            workers=options.workers,
            gpus=options.gpus_per_worker,
            on_progress=bar.progress,
            stop=stop,
        )
    print(f"{done.done:,} texts, {done.encoded:,} encoded now, {done.hits:,} already there; targets below {root}")


def run_distill(options: argparse.Namespace, stop: threading.Event) -> None:
    """Train a student on a teacher's vectors."""
    from workbench import data, models, pipeline, student
    from workbench._progress import TrainingBar
    from workbench.train import provenance, train_student

    recipe = pipeline.recipe(options.recipe)
    if options.speeds and not options.dry_run:
        raise TrainingError("--speeds is for a plan: add --dry-run")
    given = inputs.vectors_of(options)
    for name in ("teacher", "base", "max_length", "start"):
        setattr(options, name, getattr(options, name) or getattr(recipe, name))
    changed = {name: value for name in _SETTINGS if (value := getattr(options, name)) is not None}
    rate = changed.get("learning_rate", recipe.config.learning_rate)
    changed["final_learning_rate"] = min(recipe.config.final_learning_rate, rate)
    config = replace(recipe.config, **changed)
    output = student.check_folder(options.output)
    for option in ("base", "teacher"):
        if output == Path(getattr(options, option)).expanduser().resolve():
            raise TrainingError(f"--output is the folder of the {option}: choose another one")
    base = models.resolve(options.base).name  # a model that cannot be had is noticed before texts are read
    if not given and not inputs.is_api(options):
        models.resolve(options.teacher)
    source = str(Path(options.texts).resolve()) if Path(options.texts).exists() else options.texts
    if given:
        texts = data.read_texts(given.texts[: options.limit])
    else:
        texts = data.read_texts(options.texts, limit=options.limit, sample=options.sample)
    texts = texts if given else data.add_cropped_queries(texts, recipe.texts)  # of what is made here nobody has vectors
    if options.epochs is None:
        config = config.with_steps(recipe.steps, len(texts))
    teacher, cache = inputs.teacher_and_cache(options, recipe.prompts, given)
    recipe = replace(recipe, base=options.base, max_length=options.max_length, config=config)
    model = recipe.student(cache)
    if options.dry_run:
        _plan(options, recipe, texts, teacher, cache, model)
        return
    inputs.fill(cache, texts, stop)
    if stop.is_set():
        return
    kept_out, train = inputs.split(texts, cache)
    targets = cache.targets(train)
    if options.start == "closed-form":
        student.fit_head(model, train, targets)
    # Hidden, and named after the output, so that it is found again and never taken for the student.
    checkpoints = output.parent / f".{output.name}-checkpoints" / options.start
    with TrainingBar() as bar:
        result = train_student(
            model,
            train,
            targets,
            config,
            held_out=(kept_out, cache.targets(kept_out)),
            checkpoints=checkpoints,
            resume=not options.fresh,
            on_step=bar,
            stop=stop,
        )
    if int(os.environ.get("RANK", "0")):
        return
    about = provenance(
        cache,
        train,
        teacher=teacher.name,
        base=base,
        source=source,
        start=options.start,
        config=config,
        result=result,
    )
    student.save(model, output, about)
    if result.stopped:
        print(f"stopped; the best student so far is in {options.output}, the same command goes on from here")
        return
    import shutil

    shutil.rmtree(checkpoints.parent, ignore_errors=True)
    print(f"student saved to {options.output} (held-out loss {result.best_loss:.4f} at step {result.best_step:,})")


def _plan(options, recipe, texts, teacher, cache, model) -> None:
    from workbench import planning

    config = recipe.config
    if options.speeds:
        device, *speeds = options.speeds.rsplit(":", 2)
        try:
            speeds = planning.Speeds(device, *map(float, speeds))
        except (TypeError, ValueError):
            raise TrainingError(f"--speeds {options.speeds}: expected DEVICE:TEACHER:STUDENT, texts a second") from None
    else:
        paid = teacher.usage is not None
        who = "student" if paid else "teacher and student"
        print(f"Timing {who} on some of the texts ...", file=sys.stderr, flush=True)
        speeds = planning.measure(None if paid else teacher, model, texts, config)
        if paid:
            print(teacher.estimate(cache.missing(texts)))
    stored = cache.plan(texts)
    print(f"recipe   {recipe.name}: {options.teacher} to a student of {options.base}, {options.max_length} tokens")
    print(planning.plan(config, speeds, stored.unique, cache.dimension, stored.missing))
    print("Nothing was stored.")


def run_fetch(options: argparse.Namespace, stop: threading.Event) -> None:
    """Fetch the paper's mixture of texts."""
    import paper_texts
    from tqdm import tqdm

    total = sum(source.texts for source in paper_texts.PAPER)
    if options.dry_run:
        for source in paper_texts.PAPER:
            print(f"{source.texts:>9,}  {source.role.value:<8}  {source.name}")
        print(f"{total:>9,}  in all, of the hub; nothing was fetched")
        return
    done: dict[str, int] = {}
    with tqdm(total=total, unit=" texts") as bar:

        def show(source: paper_texts.Source, texts: int) -> None:
            done[source.name] = texts
            bar.set_description(source.data, refresh=False)
            bar.update(sum(done.values()) - bar.n)

        paper_texts.fetch(paper_texts.PAPER, options.output, on_progress=show, stop=stop)
    print(f"the texts are in {options.output}: workbench distill --texts {options.output}")


def run_benchmark(options: argparse.Namespace, stop: threading.Event) -> None:
    """Run teacher, base, student and pair on tasks."""
    from tqdm import tqdm

    from workbench import evaluate, models, student
    from workbench.extras import benchmark, benchmark_tables, tasks

    folder, report = Path(options.results or home() / "benchmarks"), Path(options.json or home() / "benchmark.json")
    if folder.is_file() or report.is_dir():
        raise WorkbenchError(f"--results must be a folder and --json a file: {folder}, {report}")
    found = tasks.tasks(options.tasks, options.split)
    model = student.load(options.student)
    about = student.read_provenance(options.student)
    if about.get("rotated"):
        raise WorkbenchError(f"{options.student} learned a rotated space, in which the teacher's vectors have no place")
    teacher, cache, base = _beside(options, model, about)
    others = [models.load(each) for each in options.model]
    for name, other in zip(options.model, others, strict=True):
        _check_length(options.max_length, name, other)
    for one in (model, base, *others):
        one.max_seq_length = options.max_length
    large = benchmark.of_teacher(cache, name=models.full_name(teacher.name))
    small = benchmark.of_model(model, "symmetric", Path(options.student).resolve().name)
    models = [
        large,
        benchmark.of_model(base, "base", models.full_name(options.base)),
        small,
        benchmark.of_pair(small, large),
        *(benchmark.of_model(other, models.full_name(each)) for other, each in zip(others, options.model, strict=True)),
    ]
    with tqdm(total=len(models) * len(found), unit=" evaluations") as bar:

        def show(progress: benchmark.EvalProgress) -> None:
            bar.update(progress.done - bar.n)
            if progress.task:
                bar.set_postfix_str(f"{progress.label} on {progress.task}, {progress.texts:,} texts")

        outcomes = benchmark.run(models, found, folder, on_progress=show, stop=stop)
    shown = benchmark_tables.scores(outcomes)
    differences, by_kind = benchmark_tables.differences(outcomes), benchmark_tables.by_kind(outcomes)
    print(f"\n{shown.round(4).to_string()}\n\n{benchmark_tables.share_table(differences)}\n")
    print(by_kind.round(4).to_string())
    path = write_json(
        report,
        {
            "student": str(options.student),
            "max_length": options.max_length,
            "scores": evaluate.as_rows(shown.reset_index()),
            "differences": evaluate.as_rows(differences),
            "by_kind": evaluate.as_rows(by_kind.rename_axis("kind").reset_index()),
        },
    )
    print(f"\nwritten to {path}; results in mteb's format are in {folder}")


def run_evaluate(options: argparse.Namespace, stop: threading.Event) -> None:
    """Compare a student with its teacher on a collection."""
    from tqdm import tqdm

    from workbench import data, evaluate, models, quantize, student

    collection = data.read_dataset(options.collection, options.split)
    model = student.load(options.student)
    about = student.read_provenance(options.student)
    if about.get("rotated"):
        raise WorkbenchError(
            f"{options.student} learned a rotated space: compare it in Python, with the targets rotated alike"
        )
    path = Path(options.json or home() / f"evaluate-{collection.name}.json")
    if path.is_dir():
        raise WorkbenchError(f"--json {path} is a folder: name a file")
    _, cache, base = _beside(options, model, about)
    model.max_seq_length = base.max_seq_length = options.max_length
    if model.get_embedding_dimension() != cache.dimension:
        raise WorkbenchError(
            f"{options.student} has vectors of {model.get_embedding_dimension()} dimensions and its teacher of "
            f"{cache.dimension}: it was distilled from another teacher, or truncated since"
        )
    fingerprint = models.resolve(options.student).fingerprint
    inputs.fill(cache, collection.query_texts() + collection.document_texts(), stop)
    if stop.is_set():
        return
    compared = {"teacher": cache, "base": base, "student": model}
    compared = {name: evaluate.vectors(each, collection) for name, each in compared.items()}
    rows = evaluate.compare(compared, collection)
    print(f"{collection.name}: {len(collection.corpus):,} documents, {len(collection.queries):,} judged queries\n")
    print(evaluate.format_table(rows))
    curves = None
    if options.curves:
        ids = list(collection.queries), list(collection.corpus)
        large, small = compared["teacher"], compared["student"]
        own = {"teacher": large, "symmetric": small, "asymmetric": (small[0], large[1])}
        points = quantize.grid(cache.dimension)
        with tqdm(total=len(own) * len(points), unit="points", desc="curves", leave=False) as bar:
            curves = quantize.sweep(
                collection.qrels, *ids, own, points, on_progress=lambda done, _: bar.update(done - bar.n)
            )
        print("\nShare of the teacher's nDCG@10 in full, by dimensions and precision\n")
        print(quantize.format_table(curves))
    measured = {"student": str(options.student), "fingerprint": fingerprint, "max_length": options.max_length}
    report = evaluate.report(collection, rows, curves, **measured)
    print(f"\nwritten to {write_json(path, report)}")


def _beside(options: argparse.Namespace, model, about: dict):
    """Return a student's teacher, its cache and the untrained base, as options say or as the student was distilled."""
    from workbench import models
    from workbench.data import Role

    if not options.teacher and about.get("teacher", {}).get("kind"):
        raise WorkbenchError(
            f"{options.student} was distilled from vectors alone: name the model that they come from with --teacher"
        )
    options.teacher = options.teacher or about.get("teacher_name") or models.MPNET
    options.base = options.base or about.get("base") or models.MINILM
    options.max_length = options.max_length or model.max_seq_length
    # A student has its teacher's prompts, which a recipe may have chosen.
    prompts = {role: model.prompts.get(role) or "" for role in Role} if about else None
    teacher, cache = inputs.teacher_and_cache(options, prompts)
    if about.get("fingerprint") not in (None, teacher.identity.get("fingerprint")):
        raise WorkbenchError(f"{options.student} was distilled from {about['teacher_name']}, not from these weights")
    base = models.load(options.base)
    _check_length(options.max_length, options.student, model)
    _check_length(options.max_length, options.base, base)
    return teacher, cache, base


def _check_length(length: int, name: str, model) -> None:
    positions = getattr(model[0].model.config, "max_position_embeddings", length)
    if length > positions:
        raise WorkbenchError(f"--max-length {length}: {name} takes at most {positions} tokens")


def run_publish(options: argparse.Namespace, stop: threading.Event) -> None:
    """Write a student as a folder that others can load."""
    from workbench import models, student
    from workbench.extras import publish
    from workbench.extras.card import card

    output = publish.check_folder(options.output)
    if output.is_relative_to(Path(options.student).expanduser().resolve()):
        raise WorkbenchError(
            f"--output {options.output} lies in the student's own folder, which the next distill replaces"
        )
    model = student.load(options.student)
    about = student.read_provenance(options.student)
    fingerprint = models.resolve(options.student).fingerprint
    reports = [_report(path, fingerprint) for path in options.results]
    # Its space is the teacher's, but rotated or cut: the teacher as it is has no place beside it.
    moved = bool(about.get("rotated")) or publish.is_truncated(model)
    if options.pair and moved:
        raise WorkbenchError(
            f"{options.student} was rotated or truncated: shorten the teacher alike and call publish.save_pair in Python"
        )
    name = options.name or output.name
    words = card(
        about,
        reports,
        name=name,
        dimension=model.get_embedding_dimension(),
        max_length=model.max_seq_length,
        pair=options.pair,
        onnx=options.onnx,
        latency=_report(options.latency, fingerprint) if options.latency else None,
        license=options.license,
        truncated=moved,
    )
    if options.pair:
        teacher = models.resolve(options.teacher or about["teacher_name"])
        if about.get("fingerprint") not in (None, teacher.fingerprint):
            raise WorkbenchError(
                f"{options.student} was distilled from {about['teacher_name']}, not from {teacher.name}"
            )
        large = models.load(teacher)
        large.max_seq_length = about["teacher"]["max_length"]
        folder = publish.save_pair(large, model, options.output, card=words, onnx=options.onnx)
    else:
        folder = publish.save_student(model, options.output, card=words, onnx=options.onnx)
    files = [path for path in folder.rglob("*") if path.is_file()]
    print(
        f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:,.0f} MB in {folder}; its card is README.md"
    )
    print(f"`workbench push {folder} OWNER/NAME --dry-run` lists what the hub would get.")


def _report(path: str, fingerprint: str) -> dict:
    """Read what was measured of the student that has this fingerprint."""
    try:
        report = json.loads(Path(path).expanduser().read_text())
        if not isinstance(report, dict):
            raise ValueError("a JSON object is expected")
    except (OSError, ValueError) as error:
        raise WorkbenchError(
            f"{path} cannot be read as a report ({error}): give what workbench evaluate wrote"
        ) from None
    if report.get("fingerprint", fingerprint) != fingerprint:
        raise WorkbenchError(f"{path} was measured on another student: measure this one")
    return report


def run_push(options: argparse.Namespace, stop: threading.Event) -> None:
    """Send a published folder to the hub."""
    from workbench.extras import publish

    sent = publish.push(options.folder, options.name, private=not options.public, dry_run=options.dry_run)
    print(sent.to_string(index=False))
    done = "would be sent to" if options.dry_run else "are at"
    print(f"\n{len(sent)} files, {sent['bytes'].sum() / 1e6:,.1f} MB {done} {options.name}")


def run_lab(options: argparse.Namespace, stop: threading.Event) -> None:
    """Open the notebooks in JupyterLab."""
    notebooks = PROJECT / "notebooks"
    if not notebooks.is_dir():
        raise WorkbenchError(f"no notebooks at {notebooks}: run this from a checkout of the project")
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--ip=127.0.0.1",
        f"--port={options.port}",
        f"--ServerApp.root_dir={PROJECT}",
    ]
    if options.no_browser:
        command.append("--no-browser")
    if (
        hasattr(os, "geteuid") and os.geteuid() == 0
    ):  # in a container, where the server still listens to this machine alone
        command.append("--allow-root")
    shared = [str(notebooks), str(PROJECT / "examples"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.execve(
        sys.executable,
        [*command, *options.jupyter_options, "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb"],
        os.environ | {"PYTHONPATH": os.pathsep.join(shared)},
    )
