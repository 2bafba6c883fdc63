"""The `workbench` command."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench import __version__
from workbench.errors import CorpusError, DistillError, TeacherError, WorkbenchError
from workbench.paths import PROJECT, home

if TYPE_CHECKING:
    from workbench.cache import TargetCache
    from workbench.corpora import Text
    from workbench.teachers import ArrayTeacher, Teacher

_IN_MEMORY = 100_000  # texts
SAMPLE_HELP = "draw so many texts from a folder of files, evenly from each file and role"
_API_OPTIONS = (
    "url", "key", "name", "dimensions", "tokenizer", "price", "budget", "requests_per_minute", "tokens_per_minute",
    "concurrency",
)  # fmt: skip
_SETTINGS = ("batch_size", "learning_rate", "epochs", "cycles", "seed")  # of a recipe that options can change
TEXTS_HELP = (
    "texts to learn from: 'docstrings' (of the installed libraries), 'tutorial', a folder in BEIR layout (its "
    "documents; queries and judgments stay unseen), a .parquet or .jsonl file with the columns text and role, a "
    "folder of such files, or hub:NAME:COLUMN:ROLE for a data set of the hub"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code (0 done, 1 failed, 2 wrong usage, 130 stopped)."""
    options = _parser().parse_args(arguments)
    warnings.showwarning = lambda message, *_: print(f"note: {message}", file=sys.stderr)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    stop = threading.Event()

    def ask_to_stop(*_: object) -> None:
        if stop.is_set() or options.at_once:
            stop.set()
            raise KeyboardInterrupt
        stop.set()
        print("\nStopping at the next safe point; press Ctrl-C again to stop at once.", file=sys.stderr)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, ask_to_stop)
    try:
        options.run(options, stop)
    except WorkbenchError as error:
        print(f"workbench: {error}", file=sys.stderr)
        return 130 if stop.is_set() else 1
    except KeyboardInterrupt:
        kept = "" if options.at_once else "; what was stored is kept, and the same command goes on from there"
        print(f"stopped{kept}", file=sys.stderr)
        return 130
    return 130 if stop.is_set() else 0


def _demo(options: argparse.Namespace, stop: threading.Event) -> None:
    from workbench import demo

    demo.run(stop=stop, fresh=options.fresh)
    print("Open the notebooks with `make lab` (or `workbench lab`).")


def _cache(options: argparse.Namespace, stop: threading.Event) -> None:
    from workbench import models

    given = None if options.workers else _vectors(options)
    options.teacher = options.teacher or models.MPNET
    if options.workers:
        _cache_on_cluster(options, stop)
        return
    teacher, cache = _teacher_and_cache(options, given=given)
    texts = given.texts[: options.limit] if given else _texts(options.texts, options.limit, options.sample)
    if options.dry_run:
        texts = list(texts)
        print(cache.plan(texts))
        if hasattr(teacher, "estimate"):
            print(teacher.estimate(cache.missing(texts)))
        return
    done = _fill(teacher, cache, texts, stop)
    print(f"{done.done:,} texts, {done.encoded:,} encoded now, {done.hits:,} already there; targets in {cache.folder}")


def _cache_on_cluster(options: argparse.Namespace, stop: threading.Event) -> None:
    from workbench import scale
    from workbench.progress import CacheBar

    if options.limit or options.sample or options.dry_run or options.vectors or _is_api(options):
        raise WorkbenchError(
            "--workers encodes all .parquet files of a folder with local teachers: leave out --limit, --sample, "
            "--dry-run, --vectors and API teachers (which make requests at once without it)"
        )
    root = options.cache or home() / "cache"
    with CacheBar("teachers") as bar:
        done = scale.fill(
            root,
            _local_teacher(options),
            options.texts,
            workers=options.workers,
            gpus=options.gpus_per_worker,
            on_progress=bar.progress,
            stop=stop,
        )
    print(f"{done.done:,} texts, {done.encoded:,} encoded now, {done.hits:,} already there; targets below {root}")


def _distill(options: argparse.Namespace, stop: threading.Event) -> None:
    from workbench import corpora, models, recipes, student
    from workbench.distill import distill, statement
    from workbench.progress import TrainingBar

    recipe = recipes.recipe(options.recipe)
    if options.speeds and not options.dry_run:
        raise DistillError("--speeds is for a plan: add --dry-run")
    given = _vectors(options)
    for name in ("teacher", "base", "max_length", "start"):
        setattr(options, name, getattr(options, name) or getattr(recipe, name))
    changed = {name: value for name in _SETTINGS if (value := getattr(options, name)) is not None}
    rate = changed.get("learning_rate", recipe.settings.learning_rate)
    changed["final_learning_rate"] = min(recipe.settings.final_learning_rate, rate)
    settings = replace(recipe.settings, **changed)
    output = student.check_folder(options.output)
    for option in ("base", "teacher"):
        if output == Path(getattr(options, option)).expanduser().resolve():
            raise DistillError(f"--output is the folder of the {option}: choose another one")
    base = models.resolve(options.base).name  # a model that cannot be had is noticed before texts are read
    if not given and not _is_api(options):
        models.resolve(options.teacher)
    source = str(Path(options.texts).resolve()) if Path(options.texts).exists() else options.texts
    texts = given.texts[: options.limit] if given else _texts(options.texts, options.limit, options.sample)
    texts = _kept(text for text in texts if text.text.strip())
    texts = texts if given else corpora.at_least(texts, recipe.texts)  # of what is made here nobody has vectors
    if options.epochs is None:
        settings = settings.with_steps(recipe.steps, len(texts))
    teacher, cache = _teacher_and_cache(options, recipe.prompts, given)
    recipe = replace(recipe, base=options.base, max_length=options.max_length, settings=settings)
    model = recipe.student(cache)
    if options.dry_run:
        _plan(options, recipe, settings, texts, teacher, cache, model)
        return
    _fill(teacher, cache, texts, stop)
    if stop.is_set():
        return
    kept_out, train = _split(texts, cache)
    targets = cache.targets(train)
    if options.start == "closed-form":
        student.warm_start(model, train, targets)
    # Hidden, and named after the output, so that it is found again and never taken for the student.
    checkpoints = output.parent / f".{output.name}-checkpoints" / options.start
    with TrainingBar() as bar:
        result = distill(
            model,
            train,
            targets,
            settings,
            held_out=(kept_out, cache.targets(kept_out)),
            checkpoints=checkpoints,
            resume=not options.fresh,
            on_event=bar,
            stop=stop,
        )
    if int(os.environ.get("RANK", "0")):
        return
    about = statement(
        cache,
        train,
        teacher=teacher.name,
        base=base,
        source=source,
        start=options.start,
        settings=settings,
        result=result,
    )
    student.save(model, output, about)
    if result.stopped:
        print(f"stopped; the best student so far is in {options.output}, the same command goes on from here")
        return
    import shutil

    shutil.rmtree(checkpoints.parent, ignore_errors=True)
    print(f"student saved to {options.output} (held-out loss {result.best_loss:.4f} at step {result.best_step:,})")


def _plan(options, recipe, settings, texts, teacher, cache, model) -> None:
    from workbench import plans

    if options.speeds:
        device, *speeds = options.speeds.rsplit(":", 2)
        try:
            speeds = plans.Speeds(device, *map(float, speeds))
        except (TypeError, ValueError):
            raise DistillError(f"--speeds {options.speeds}: expected DEVICE:TEACHER:STUDENT, texts a second") from None
    else:
        paid = hasattr(teacher, "estimate")
        who = "student" if paid else "teacher and student"
        print(f"Timing {who} on some of the texts ...", file=sys.stderr, flush=True)
        speeds = plans.measure(None if paid else teacher, model, texts, settings)
        if paid:
            print(teacher.estimate(cache.missing(texts)))
    stored = cache.plan(texts)
    print(f"recipe   {recipe.name}: {options.teacher} to a student of {options.base}, {options.max_length} tokens")
    print(plans.plan(settings, speeds, stored.unique, cache.dimension, stored.missing))
    print("Nothing was stored.")


def _fetch(options: argparse.Namespace, stop: threading.Event) -> None:
    from tqdm import tqdm

    from workbench import mixtures

    total = sum(source.texts for source in mixtures.PAPER)
    if options.dry_run:
        for source in mixtures.PAPER:
            print(f"{source.texts:>9,}  {source.role.value:<8}  {source.name}")
        print(f"{total:>9,}  in all, of the hub; nothing was fetched")
        return
    done: dict[str, int] = {}
    with tqdm(total=total, unit=" texts") as bar:

        def show(source: mixtures.Source, texts: int) -> None:
            done[source.name] = texts
            bar.set_description(source.data, refresh=False)
            bar.update(sum(done.values()) - bar.n)

        mixtures.fetch(mixtures.PAPER, options.output, on_progress=show, stop=stop)
    print(f"the texts are in {options.output}: workbench distill --texts {options.output}")


def _benchmark(options: argparse.Namespace, stop: threading.Event) -> None:
    from tqdm import tqdm

    from workbench import benchmark, comparison, models, student, tasks

    folder, report = Path(options.results or home() / "benchmarks"), Path(options.json or home() / "benchmark.json")
    if folder.is_file() or report.is_dir():
        raise WorkbenchError(f"--results must be a folder and --json a file: {folder}, {report}")
    found = tasks.tasks(options.tasks, options.split)
    model = student.load(options.student)
    about = student.statement(options.student)
    if about.get("rotated"):
        raise WorkbenchError(f"{options.student} learnt a turned space, in which the teacher's vectors have no place")
    teacher, cache, base = _beside(options, model, about)
    others = [models.load(each) for each in options.model]
    for name, other in zip(options.model, others, strict=True):
        _check_length(options.max_length, name, other)
    for one in (model, base, *others):
        one.max_seq_length = options.max_length
    large = benchmark.of_teacher(teacher, cache, name=models.full_name(teacher.name))
    small = benchmark.of_model(model, "standard", Path(options.student).resolve().name)
    entrants = [
        large,
        benchmark.of_model(base, "base", models.full_name(options.base)),
        small,
        benchmark.of_pair(small, large),
        *(benchmark.of_model(other, models.full_name(each)) for other, each in zip(others, options.model, strict=True)),
    ]
    with tqdm(total=len(entrants) * len(found), unit=" evaluations") as bar:

        def show(progress: benchmark.Progress) -> None:
            bar.update(progress.done - bar.n)
            if progress.task:
                bar.set_postfix_str(f"{progress.label} on {progress.task}, {progress.texts:,} texts")

        outcomes = benchmark.run(entrants, found, folder, on_progress=show, stop=stop)
    shown = benchmark.scores(outcomes)
    differences, by_kind = benchmark.differences(outcomes), benchmark.by_kind(outcomes)
    print(f"\n{shown.round(4).to_string()}\n\n{benchmark.share_table(differences)}\n")
    print(by_kind.round(4).to_string())
    path = comparison.write_json(
        report,
        {
            "student": str(options.student),
            "max_length": options.max_length,
            "scores": comparison.as_rows(shown.reset_index()),
            "differences": comparison.as_rows(differences),
            "by_kind": comparison.as_rows(by_kind.rename_axis("kind").reset_index()),
        },
    )
    print(f"\nwritten to {path}; results in mteb's format are in {folder}")


def _beside(options: argparse.Namespace, model, about: dict):
    """Return a student's teacher, its cache and the untrained base, as options say or as the student was distilled."""
    from workbench import models
    from workbench.corpora import Role

    if not options.teacher and about.get("teacher", {}).get("kind"):
        raise WorkbenchError(
            f"{options.student} was distilled from vectors alone: name the model that they come from with --teacher"
        )
    options.teacher = options.teacher or about.get("teacher_name") or models.MPNET
    options.base = options.base or about.get("base") or models.MINILM
    options.max_length = options.max_length or model.max_seq_length
    # A student has its teacher's prompts, which a recipe may have chosen.
    prompts = {role: model.prompts.get(role) or "" for role in Role} if about else None
    teacher, cache = _teacher_and_cache(options, prompts)
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


def _evaluate(options: argparse.Namespace, stop: threading.Event) -> None:
    from tqdm import tqdm

    from workbench import comparison, compression, corpora, models, student

    collection = (
        corpora.tutorial() if options.collection == "tutorial" else corpora.beir(options.collection, options.split)
    )
    model = student.load(options.student)
    about = student.statement(options.student)
    if about.get("rotated"):
        raise WorkbenchError(
            f"{options.student} learnt a turned space: compare it in Python, with the targets turned alike"
        )
    path = Path(options.json or home() / f"evaluate-{collection.name}.json")
    if path.is_dir():
        raise WorkbenchError(f"--json {path} is a folder: name a file")
    teacher, cache, base = _beside(options, model, about)
    model.max_seq_length = base.max_seq_length = options.max_length
    fingerprint = models.resolve(options.student).fingerprint
    _fill(teacher, cache, collection.query_texts() + collection.document_texts(), stop)
    if stop.is_set():
        return
    sides = comparison.vectors(collection, cache, model, base)
    rows = comparison.scored(collection, sides)
    print(f"{collection.name}: {len(collection.documents):,} documents, {len(collection.queries):,} judged queries\n")
    print(comparison.table(rows))
    curves = None
    if options.curves:
        ids = list(collection.queries), list(collection.documents)
        own = {mode: pair for mode, pair in sides.items() if mode != "base"}
        points = compression.grid(cache.dimension)
        with tqdm(total=len(own) * len(points), unit="points", desc="curves", leave=False) as bar:
            curves = compression.curve(
                collection.qrels, *ids, own, points, on_progress=lambda done, _: bar.update(done - bar.n)
            )
        print("\nShare of the teacher's nDCG@10 in full, by dimensions and precision\n")
        print(compression.table(curves))
    measured = {"student": str(options.student), "fingerprint": fingerprint, "max_length": options.max_length}
    report = comparison.report(collection, rows, curves, **measured)
    print(f"\nwritten to {comparison.write_json(path, report)}")


def _publish(options: argparse.Namespace, stop: threading.Event) -> None:
    from workbench import models, publish, student
    from workbench.cards import card

    output = publish.check_folder(options.output)
    if output.is_relative_to(Path(options.student).expanduser().resolve()):
        raise WorkbenchError(
            f"--output {options.output} lies in the student's own folder, which the next distill replaces"
        )
    model = student.load(options.student)
    about = student.statement(options.student)
    fingerprint = models.resolve(options.student).fingerprint
    reports = [_report(path, fingerprint) for path in options.results]
    # Its space is the teacher's, but turned or cut: the teacher as it is has no place beside it.
    moved = bool(about.get("rotated")) or publish.is_shortened(model)
    if options.pair and moved:
        raise WorkbenchError(
            f"{options.student} was turned or shortened: shorten the teacher alike and call publish.save_pair in Python"
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
        licence=options.licence,
        shortened=moved,
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


def _push(options: argparse.Namespace, stop: threading.Event) -> None:
    from workbench import publish

    sent = publish.push(options.folder, options.name, private=not options.public, dry_run=options.dry_run)
    print(sent.to_string(index=False))
    done = "would be sent to" if options.dry_run else "are at"
    print(f"\n{len(sent)} files, {sent['bytes'].sum() / 1e6:,.1f} MB {done} {options.name}")


def _lab(options: argparse.Namespace, stop: threading.Event) -> None:
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
    os.execv(
        sys.executable,
        [*command, *options.jupyter_options, "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb"],
    )


def _teacher_and_cache(
    options: argparse.Namespace, prompts: dict[str, str] | None = None, given: ArrayTeacher | None = None
):
    from workbench.cache import TargetCache

    teacher = given or (_api_teacher(options, prompts) if _is_api(options) else _local_teacher(options, prompts)())
    return teacher, TargetCache(options.cache or home() / "cache", teacher)


def _local_teacher(options: argparse.Namespace, prompts: dict[str, str] | None = None) -> Callable[[], Teacher]:
    from workbench.teachers import LocalTeacher

    length, precision = options.max_length, options.precision
    return partial(LocalTeacher, options.teacher, max_length=length, prompts=prompts, precision=precision)


def _vectors(options: argparse.Namespace) -> ArrayTeacher | None:
    """Return the teacher that --vectors names, None without it."""
    from workbench import corpora
    from workbench.teachers import ArrayTeacher

    if options.vectors is None:
        return None
    if options.teacher or any(getattr(options, name) is not None for name in _API_OPTIONS):
        raise TeacherError("--vectors takes the place of a teacher: leave out --teacher and the options of an API")
    source = options.texts
    if options.sample or source in ("docstrings", "tutorial") or Path(source).is_dir():
        raise CorpusError("--vectors goes with --texts FILE or hub:NAME:COLUMN:ROLE, and without --sample")
    name = Path(source).name
    if options.vectors.endswith(".npy"):
        try:
            vectors = np.load(options.vectors, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise TeacherError(f"{options.vectors} cannot be read as an array: {error}") from None
        texts = list(_texts(source, None))
        if vectors.ndim == 2 and len(texts) < len(vectors):
            warnings.warn("blank texts have no vector: leave out their rows of --vectors too", stacklevel=2)
        return ArrayTeacher(texts, vectors, name)
    if source.startswith("hub:"):
        data, column, role = _hub_name(source)
        rows = corpora.hub_rows(data, column, options.vectors, limit=options.limit)
        return ArrayTeacher.from_rows(rows, data, text=column, vector=options.vectors, role=role)
    if not source.endswith(".parquet"):
        raise CorpusError(f"--vectors {options.vectors}: a column is read from .parquet files; else give a .npy file")
    rows = (row for _, row in corpora.parquet_rows(Path(source), "text", "role", options.vectors))
    return ArrayTeacher.from_rows(rows, name, vector=options.vectors, role="role")


def _is_api(options: argparse.Namespace) -> bool:
    """Say whether the teacher is DIALECT:MODEL."""
    from workbench.apis import DIALECTS

    dialect, colon, _ = options.teacher.partition(":")
    api = bool(colon) and dialect in DIALECTS
    if not api and (given := [name for name in _API_OPTIONS if getattr(options, name) is not None]):
        raise TeacherError(
            f"--{given[0].replace('_', '-')} is for a teacher behind an API, --teacher DIALECT:MODEL with one of "
            f"{', '.join(DIALECTS)}; {options.teacher} is none"
        )
    return api


def _api_teacher(options: argparse.Namespace, prompts: dict[str, str] | None):
    from workbench.apis import ApiTeacher

    dialect, _, name = options.teacher.partition(":")
    given = {each: value for each in _API_OPTIONS if (value := getattr(options, each)) is not None}
    if options.tokenizer:
        given["max_tokens"] = options.max_length
    teacher = ApiTeacher(name, dialect=dialect, prompts=prompts, **given)
    teacher.name = options.teacher
    return teacher


def _fill(teacher, cache, texts, stop):
    from workbench.progress import CacheBar

    if hasattr(teacher, "estimate"):
        missing = cache.missing(texts) if isinstance(texts, Sequence) else None  # of a stream nobody knows
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and missing != []:
            raise TeacherError(
                "each process would ask the API by itself, with a budget and limits of its own: run workbench cache with "
                "these texts first, in one process"
            )
        if missing is not None:
            print(teacher.estimate(missing), file=sys.stderr)
    try:
        with CacheBar("teacher") as bar:
            return cache.fill(teacher, texts, on_plan=bar.plan, on_progress=bar.progress, stop=stop)
    finally:
        if hasattr(teacher, "usage"):
            print(teacher.usage, file=sys.stderr)


def _texts(source: str, limit: int | None, sample: int | None = None) -> Iterable:
    """Turn the --texts option into texts: a list where it is small, a stream where it may not be."""
    from workbench import corpora

    folder = Path(source).is_dir() and not (Path(source) / "corpus.jsonl").exists()
    if sample is not None:
        if limit is not None or not folder:
            raise CorpusError("--sample draws from a folder of .parquet or .jsonl files, and without --limit")
        return corpora.sample(source, sample)
    if folder and any(path.suffix in corpora.TEXT_SUFFIXES for path in Path(source).iterdir()):
        return islice(corpora.read_folder(source), limit)

    if source.startswith("hub:"):
        return corpora.hub_texts(*_hub_name(source), limit=limit)
    if source == "docstrings":
        return corpora.docstrings().train[:limit]
    if source == "tutorial":
        return corpora.tutorial().document_texts()[:limit]
    if Path(source).is_dir():
        return [text for text in corpora.beir(source).document_texts() if text.text][:limit]
    texts = islice(corpora.read_texts(source), limit)
    return list(texts) if Path(source).is_file() and Path(source).stat().st_size < 1 << 28 else texts


def _hub_name(source: str) -> list[str]:
    parts = source.removeprefix("hub:").rsplit(":", 2)
    if len(parts) != 3:
        raise CorpusError(f"--texts {source}: expected hub:NAME:COLUMN:ROLE")
    return parts


def _kept(texts: Iterable[Text]) -> Sequence[Text]:
    """Return texts as a list where they are few, else from a file that goes with the process."""
    from workbench.stored import StoredTexts

    stream = iter(texts)
    few = list(islice(stream, _IN_MEMORY))
    if len(few) < _IN_MEMORY:
        return few
    home().mkdir(parents=True, exist_ok=True)
    # What is mapped stays readable without its name.
    with tempfile.TemporaryDirectory(dir=home(), prefix=".texts-", ignore_cleanup_errors=True) as scratch:
        return StoredTexts.write(chain(few, stream), Path(scratch) / "texts.arrow")


def _split(texts: Sequence[Text], cache: TargetCache) -> tuple[Sequence[Text], Sequence[Text]]:
    """Hold out a twentieth (at most 500 texts), the same ones however the texts are ordered."""
    from workbench.stored import StoredTexts

    keys = cache.keys(texts)
    unique, first = np.unique(keys, return_index=True)
    kept_out = min(500, len(unique) // 20)
    if not kept_out:
        raise DistillError(f"{len(unique)} different texts are too few to train on and to measure with")
    train = np.flatnonzero(keys > unique[kept_out - 1])
    rest = texts.subset(train) if isinstance(texts, StoredTexts) else [texts[i] for i in train]
    return [texts[i] for i in first[:kept_out]], rest


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="workbench", description="Teach a small text-embedding model the vector space of a large one."
    )
    parser.add_argument("--version", action="version", version=f"workbench {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run, summary: str, details: str, at_once: bool = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=f"{summary}. {details}", formatter_class=_Help)
        sub.set_defaults(run=run, at_once=at_once)  # whether Ctrl-C ends it at once, for it leaves nothing by halves
        return sub

    def teacher_options(sub: argparse.ArgumentParser, teacher: str | None, length: int | None) -> None:
        sub.add_argument(
            "--teacher", default=teacher,
            help="the large model: a folder, a packaged model, a name on the hub, or DIALECT:MODEL behind an API "
                 "(openai, which most servers speak, cohere, voyage, jina)",
        )  # fmt: skip
        sub.add_argument("--max-length", type=_positive, default=length, help="tokens read of each text")
        sub.add_argument(
            "--precision", default="auto", choices=["auto", "float32", "bfloat16"], help="the teacher's arithmetic"
        )
        sub.add_argument("--cache", help="folder of the target caches (default: cache/ in the workbench's folder)")
        api = sub.add_argument_group("a teacher behind an API")
        api.add_argument("--url", help="of the server, such as http://localhost:8000/v1, if not the provider's own")
        api.add_argument(
            "--key", metavar="NAME", help="the environment's variable with the key (default: the provider's)"
        )
        api.add_argument(
            "--name", help="what the cache calls it (default: model and server); another one begins another cache"
        )
        api.add_argument(
            "--dimensions", type=_positive, help="width to ask for (default: found out by a first request)"
        )
        api.add_argument("--tokenizer", help="model whose tokenizer counts tokens and cuts texts to --max-length")
        api.add_argument("--price", type=float, help="of a million tokens")
        api.add_argument("--budget", type=float, help="stop before the price of all is higher")
        api.add_argument("--requests-per-minute", type=float, help="at most")
        api.add_argument("--tokens-per-minute", type=float, help="at most")
        api.add_argument("--concurrency", type=_positive, help="requests at the same time")

    def vectors_option(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--vectors",
            help="vectors that exist already, instead of a teacher: a .npy file with a row for each of --texts, or the "
                 "column that has them in the .parquet file or data set of --texts",
        )  # fmt: skip

    demo = command("demo", _demo, "Run the main job once on docstrings and print the comparison",
                   "Minutes on two cores; a second run uses what the first one finished.")  # fmt: skip
    demo.add_argument("--fresh", action="store_true", help="train anew instead of using an earlier run")

    cache = command("cache", _cache, "Encode texts with the teacher and store the vectors",
                    "Can be stopped and repeated at any time: what is stored is never encoded again. The teacher is "
                    "all-mpnet-base-v2 if you name none.")  # fmt: skip
    cache.add_argument("--texts", default="docstrings", help=TEXTS_HELP)
    cache.add_argument("--limit", type=_positive, help="use the first so many texts")
    cache.add_argument("--sample", type=_positive, help=SAMPLE_HELP)
    vectors_option(cache)
    cache.add_argument("--dry-run", action="store_true", help="only say how many texts are missing")
    cache.add_argument(
        "--workers", type=_positive,
        help="so many teachers at once, on the Ray cluster of RAY_ADDRESS or on this machine (extra `scale`)",
    )  # fmt: skip
    cache.add_argument("--gpus-per-worker", type=float, default=0, help="GPUs of each of these teachers")
    teacher_options(cache, None, 128)

    distill = command("distill", _distill, "Train a student on a teacher's vectors",
                      "Targets are cached first; stopped with Ctrl-C, the same command goes on where it was.")  # fmt: skip
    distill.add_argument("--texts", default="docstrings", help=TEXTS_HELP)
    distill.add_argument("--limit", type=_positive, help="use the first so many texts")
    distill.add_argument("--sample", type=_positive, help=SAMPLE_HELP)
    vectors_option(distill)
    distill.add_argument(
        "--dry-run", action="store_true", help="only say what it would take, from a minute's timing on this machine"
    )
    distill.add_argument(
        "--speeds", metavar="DEVICE:TEACHER:STUDENT", help="with --dry-run: texts a second of another device instead"
    )
    distill.add_argument(
        "--recipe",
        default="tour",
        help="tour, in-domain, redact-ir, redact-mt, redact-ir-fast or redact-mt-fast: what is not named below is the recipe's",
    )
    distill.add_argument("--base", help="the small model that the student starts from")
    distill.add_argument("--output", required=True, help="folder for the student")
    distill.add_argument("--start", choices=["closed-form", "random"], help="how the head starts")
    distill.add_argument("--epochs", type=_positive, help="passes over the texts in a cycle")
    distill.add_argument("--cycles", type=_positive, help="how often the learning rate starts again")
    distill.add_argument("--batch-size", type=_positive, help="texts a step, over all processes")
    distill.add_argument("--learning-rate", type=float, help="at the start of each cycle")
    distill.add_argument("--seed", type=int, help="of batches and of a random head")
    distill.add_argument("--fresh", action="store_true", help="start anew instead of from a checkpoint")
    teacher_options(distill, None, None)

    evaluate = command("evaluate", _evaluate, "Compare a student with its teacher on a retrieval collection",
                       "Prints teacher, untrained base, student, and student on the teacher's documents.")  # fmt: skip
    evaluate.add_argument("--student", required=True, help="folder of the student")
    evaluate.add_argument("--collection", default="tutorial", help="'tutorial' or a folder in BEIR layout")
    evaluate.add_argument("--split", default="test", help="which judgments to use")
    evaluate.add_argument("--base", help="the untrained model to compare with (default: what the student started from)")
    evaluate.add_argument(
        "--curves", action="store_true", help="measure truncated and quantised vectors too, as real indexes"
    )
    evaluate.add_argument(
        "--json", help="where to write the table (default: evaluate-NAME.json in the workbench's folder)"
    )
    teacher_options(evaluate, None, None)

    bench = command("benchmark", _benchmark, "Run teacher, base, student and pair on tasks of mteb",
                    "Tasks by name need the hub; folders on this machine do not. Finished evaluations are kept, and the "
                    "same command goes on from there.")  # fmt: skip
    bench.add_argument("--student", required=True, help="folder of the student")
    bench.add_argument(
        "--tasks", nargs="+", required=True, metavar="TASK",
        help="tasks or benchmarks by mteb's names (SciFact, BEIR, 'MTEB(eng, v2)'), or folders in the layouts of the README",
    )  # fmt: skip
    bench.add_argument("--split", default="test", help="of the folders")
    bench.add_argument(
        "--model", action="append", default=[], help="another sentence-transformers model to compare with"
    )
    bench.add_argument("--base", help="the untrained model (default: what the student started from)")
    bench.add_argument("--results", help="folder for mteb's results (default: benchmarks/ in the workbench's folder)")
    bench.add_argument("--json", help="where to write the tables (default: benchmark.json in the workbench's folder)")
    teacher_options(bench, None, None)

    fetch = command("fetch", _fetch, "Fetch the paper's mixture of texts from the hub",
                    "Parquet files of 100,000 texts; stopped or cut off, the same command goes on behind the last whole one.")  # fmt: skip
    fetch.add_argument("--output", required=True, help="folder for the texts")
    fetch.add_argument("--dry-run", action="store_true", help="only list the sources")

    publish = command("publish", _publish, "Write a student as a folder that others can load",
                      "The model, its card and, if asked for, the teacher and ONNX; nothing leaves this machine.", at_once=True)  # fmt: skip
    publish.add_argument("--student", required=True, help="folder of the student, as distill wrote it")
    publish.add_argument("--output", required=True, help="new or empty folder")
    publish.add_argument(
        "--results", nargs="+", default=[], metavar="JSON", help="reports of `workbench evaluate`; the card states them"
    )
    publish.add_argument("--name", help="what the card calls it, such as me/my-student (default: the folder's name)")
    publish.add_argument(
        "--pair", action="store_true", help="the teacher for documents and the student for queries, as one model"
    )
    publish.add_argument("--teacher", help="where the teacher is (default: where distill had it)")
    publish.add_argument("--onnx", action="store_true", help="the whole student as ONNX too, in float32 and int8")
    publish.add_argument("--latency", metavar="JSON", help="report of `python -m bench.latency`; the card states it")
    publish.add_argument("--licence", default="apache-2.0", help="as the hub abbreviates it")

    push = command("push", _push, "Send a published folder to the hub",
                   "With the token of HF_TOKEN or of `hf auth login`; a new model is private unless you say --public.", at_once=True)  # fmt: skip
    push.add_argument("folder", help="what `workbench publish` wrote")
    push.add_argument("name", help="owner/name on the hub")
    push.add_argument("--dry-run", action="store_true", help="only list what would be sent")
    push.add_argument("--public", action="store_true", help="make a new model public")

    lab = command("lab", _lab, "Open the notebooks in JupyterLab", "Listens on this machine only, with a token.")
    lab.add_argument("--port", type=_positive, default=8888, help="port to listen on")
    lab.add_argument("--no-browser", action="store_true", help="print the address instead of opening it")
    lab.add_argument("jupyter_options", nargs="*", help="passed on to JupyterLab, after --")
    return parser


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, []) else super()._get_help_string(action)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


if __name__ == "__main__":
    sys.exit(main())
