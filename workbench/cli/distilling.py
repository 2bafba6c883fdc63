"""Commands that make something of texts: demo, cache, distill."""

from __future__ import annotations

import os
import threading
import time
from argparse import Namespace
from collections.abc import Sequence
from functools import partial

import numpy as np

from workbench import evaluate, models, pipeline
from workbench._util import counted, duration, home, write_json
from workbench.cache import FillBar, Progress, TargetCache
from workbench.cli.inputs import READING, cache_of, chosen, teacher_of, texts_of, vectors_of
from workbench.data import Text
from workbench.docstrings import docstring_corpus
from workbench.errors import TrainingError, WorkbenchError
from workbench.pipeline import ADAPT, STOPPED, TOUR, Recipe
from workbench.ready import load_ready
from workbench.teachers import LocalTeacher, is_api

DEMO_PAIRS = 500  # documents that the demo's student learns, each with a query to measure on
_RECIPE = (  # options that are values of a recipe
    "base", "teacher", "max_length", "start", "epochs", "restarts", "batch_size", "learning_rate",
    "seed", "check_pairs",
)  # fmt: skip


def demo(options: Namespace, stop: threading.Event) -> None:
    """Let the ready student learn documents, and compare it; what an earlier run made is used."""
    started = time.perf_counter()
    print("Reading docstrings of the installed libraries ...", flush=True)
    pairs = docstring_corpus(held_out=DEMO_PAIRS).held_out
    cache = TargetCache(home() / "cache", pipeline.teacher_of(None, ADAPT))
    documents = cache.embed(pairs.document_texts(), progress=True, stop=stop)
    folder, source, resume = home() / "demo" / "student", "docstrings", not options.fresh
    done = pipeline.run(documents, cache, ADAPT, folder, source=source, resume=resume, stop=stop)
    cache.embed(pairs.query_texts(), progress=True, stop=stop)
    if stop.is_set():
        raise TrainingError(STOPPED)
    base = models.load(models.MINILM)
    base.max_seq_length = ADAPT.max_length
    base_vectors = evaluate.vectors(base, pairs)
    # The base cannot search the teacher's index, not even with vectors padded to its width.
    padding = [(0, 0), (0, cache.dimension - base_vectors[0].shape[1])]
    padded = tuple(np.pad(vectors, padding) for vectors in base_vectors)
    compared = {"teacher": cache, "base": base_vectors, "padded base": padded}
    compared |= {"ready student": load_ready(), "student": done.student}
    rows = evaluate.compare(compared, pairs)
    rows = rows[(rows["model"] != "padded base") | (rows["mode"] == "asymmetric")]
    seconds = time.perf_counter() - started
    print("\nDocstrings: find the text that a summary was taken from. The student has learned the")
    print("texts, and has seen no summary.\n")
    print(evaluate.format_table(rows))
    report = {"rows": evaluate.as_rows(rows), "texts": len(documents), "seconds": round(seconds, 1)}
    path = write_json(home() / "demo.json", report)
    print(f"\nDone in {duration(seconds)}. The student is in {folder}, the table in {path}.")
    print("Open the notebooks with `make lab` (or `workbench lab`).")


def cache(options: Namespace, stop: threading.Event) -> None:
    """Encode texts with the teacher and store the vectors."""
    recipe = TOUR.change(**chosen(options, "teacher", "max_length"))
    if options.workers:
        progress = _fill_on_ray(options, recipe, stop)
    else:
        vectors = vectors_of(options)
        texts = texts_of(options, vectors, stream=not options.dry_run)
        targets = cache_of(options, vectors or teacher_of(options, recipe))
        if isinstance(texts, Sequence):
            _print_plan(targets, texts)
        if options.dry_run:
            return
        with FillBar("teacher") as bar:
            progress = targets.fill(texts, on_progress=bar.progress, stop=stop)
        if targets.teacher.usage is not None:
            print(targets.teacher.usage)
    counts = f"{progress.encoded:,} encoded now, {progress.hits:,} already there"
    if progress.failed:
        counts += f", {progress.failed:,} without a target"
    place = options.cache or home() / "cache"
    print(f"{counted(progress.done, 'text')}, {counts}; targets below {place}")


def _fill_on_ray(options: Namespace, recipe: Recipe, stop: threading.Event) -> Progress:
    """Fill the cache with many teachers at once."""
    from workbench.extras import cluster

    unused = chosen(options, "limit", "sample", *READING, "vectors")
    if unused or options.dry_run or is_api(recipe.teacher):
        raise WorkbenchError(
            "--workers reads all .parquet files of a folder for a local teacher: leave out the "
            f"other options of texts ({', '.join(unused)})"
        )
    root, length, precision = (
        options.cache or home() / "cache",
        recipe.max_length,
        options.precision,
    )
    make = partial(LocalTeacher, recipe.teacher, max_length=length, precision=precision)
    machines = {"workers": options.workers, "gpus": options.gpus_per_worker}
    with FillBar("teachers") as bar:
        show = {"on_progress": bar.progress, "stop": stop}
        return cluster.fill(root, make, options.texts, **machines, **show)


def distill(options: Namespace, stop: threading.Event) -> None:
    """Train a student on a teacher's vectors; the recipe decides what options do not name."""
    vectors, changes = vectors_of(options), chosen(options, *_RECIPE)
    # Nobody has vectors of queries that would be cropped from the texts.
    crop = {"crop": vectors is None, "progress": True}
    texts = texts_of(options, vectors)
    texts, recipe = pipeline.prepare(texts, options.recipe, **crop, **changes)
    targets = cache_of(options, vectors or teacher_of(options, recipe))
    if options.dry_run:
        _print_plan(targets, texts)
        return
    output, source, resume = options.output, options.texts, not options.fresh
    done = pipeline.run(texts, targets, recipe, output, source=source, resume=resume, stop=stop)
    if int(os.environ.get("RANK", "0")):
        return
    if done.result and done.result.stopped:
        print(f"{STOPPED}; the best student so far is in {output}")
        return
    loss, step = done.provenance["held_out_loss"], done.provenance["best_step"]
    about = "" if loss is None else f" (held-out loss {loss:.4f} at step {step:,})"
    print(f"student saved to {output}{about}")


def _print_plan(targets: TargetCache, texts: Sequence[Text]) -> None:
    """Print what the teacher has to do, and what its API will cost."""
    print(targets.plan(texts))
    if targets.teacher.usage is not None:
        print(targets.teacher.estimate(targets.missing(texts)))
