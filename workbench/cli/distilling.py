"""Commands that make something of texts: demo, cache, distill."""

from __future__ import annotations

import os
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from workbench import data, evaluate, models, pipeline, planning, student
from workbench._util import counted, duration, expanded, home, spread, write_json
from workbench.cache import TargetCache
from workbench.cli.inputs import READING, TeacherChoice, texts_of, vectors_of
from workbench.data import Role, Text
from workbench.docstrings import docstring_corpus
from workbench.errors import TrainingError, WorkbenchError
from workbench.head import FrozenFeatures
from workbench.pipeline import TOUR, TOUR_DOCUMENTS, CacheBar, Recipe
from workbench.ready import load_ready
from workbench.teachers import LocalTeacher


def demo(options: Namespace, stop: threading.Event) -> None:
    """Let the ready student learn docstrings, and compare it; what an earlier run finished is used again."""
    started, folder, recipe = time.perf_counter(), home() / "demo", TOUR.change(start="ready")
    print("Reading docstrings of the installed libraries ...", flush=True)
    corpus = docstring_corpus()
    queries = [text for text in corpus.train if text.role is Role.QUERY]
    documents = [text for text in corpus.train if text.role is Role.DOCUMENT]
    texts, held_out = queries + documents[:TOUR_DOCUMENTS], corpus.held_out
    chosen_by = set(
        spread(len(texts), 500)
    )  # the best student is not chosen by the texts that it is measured on
    print(
        f"{len(texts):,} texts to learn from, {len(held_out.queries):,} pairs held out to measure on."
    )

    cache = TargetCache(home() / "cache", pipeline.teacher_of(None, recipe))
    made = pipeline.run(
        [text for i, text in enumerate(texts) if i not in chosen_by],
        cache,
        recipe,
        folder / "student",
        source="docstrings",
        held_out=[texts[i] for i in sorted(chosen_by)],
        resume=not options.fresh,
        stop=stop,
    )
    if made.result is None:
        print(f"The student in {made.folder} is of this very run: using it again.")
    elif made.result.stopped:
        raise TrainingError(
            "stopped; what is finished is kept, and the same command goes on from here"
        )
    base = models.load(recipe.base)
    base.max_seq_length = recipe.max_length
    pipeline.fill(cache, held_out.query_texts() + held_out.document_texts(), stop=stop)
    print(
        f"Searching {len(held_out.corpus):,} documents with {len(held_out.queries):,} queries ...",
        flush=True,
    )
    # The base cannot search the teacher's index, also with its vectors made as wide: a row shows it.
    own = evaluate.vectors(base, held_out)
    wide = tuple(np.pad(each, [(0, 0), (0, cache.dimension - each.shape[1])]) for each in own)
    compared = {"teacher": cache, "base": own, "padded base": wide, "ready student": load_ready()}
    shown = evaluate.compare(compared | {"student": made.student}, held_out)
    shown = shown[(shown["model"] != "padded base") | (shown["mode"] == "asymmetric")]
    seconds = time.perf_counter() - started
    print(f"\nHeld-out docstrings: find the text that a summary was taken from ({recipe.name}).\n")
    print(evaluate.format_table(shown))
    measured = ("best_step", "held_out_loss", "texts_per_second", "evaluations")
    report = {
        "rows": evaluate.as_rows(shown),
        "training": {name: made.provenance[name] for name in measured},
        "recipe": recipe.as_dict(),
        "texts": len(texts),
        "held_out_pairs": len(held_out.queries),
        "seconds": round(seconds, 1),
    }
    path = write_json(home() / "demo.json", report)
    print(f"\nDone in {duration(seconds)}. The student is in {made.folder}, the table in {path}.")
    print("Open the notebooks with `make lab` (or `workbench lab`).")


def cache(options: Namespace, stop: threading.Event) -> None:
    """Encode texts with the teacher and store the vectors."""
    choice = TeacherChoice(options)
    name, length = choice.name or models.MPNET, choice.max_length or TOUR.max_length
    if options.workers:
        without = ("limit", "sample", *READING, "dry_run", "vectors", "skip")
        if any(getattr(options, each) for each in without) or choice.is_api(name):
            raise WorkbenchError(
                "--workers encodes all .parquet files of a folder with local teachers: leave out --limit, --sample, "
                "--column, --role, --passages, --encoding, --dry-run, --vectors, --skip and API teachers (which make parallel requests without it)"
            )
        from workbench.extras import cluster

        make, where = (
            partial(LocalTeacher, name, **choice.options(name, length, None)),
            f"below {choice.cache}",
        )
        count, gpus = options.workers, options.gpus_per_worker
        with CacheBar("teachers") as bar:
            done = cluster.fill(
                choice.cache,
                make,
                options.texts,
                workers=count,
                gpus=gpus,
                on_progress=bar.progress,
                stop=stop,
            )
    else:
        given = vectors_of(choice, options)
        targets = TargetCache(choice.cache, given or choice.make(name, length), skip=choice.skip)
        found = (
            given.texts[: options.limit] if given else texts_of(options, stream=not options.dry_run)
        )
        if options.dry_run:
            print(targets.plan(found))
            if (estimate := targets.teacher.estimate(targets.missing(found))) is not None:
                print(estimate)
            return
        done, where = pipeline.fill(targets, found, stop=stop), f"in {targets.folder}"
    failed = f", {done.failed:,} without a target" if done.failed else ""
    print(
        f"{counted(done.done, 'text')}, {done.encoded:,} encoded now, {done.hits:,} already there{failed}; targets {where}"
    )


def distill(options: Namespace, stop: threading.Event) -> None:
    """Train a student on a teacher's vectors; the recipe decides what options do not name."""
    if options.speeds and not options.dry_run:
        raise TrainingError("--speeds is for a plan: add --dry-run")
    choice = TeacherChoice(options)
    given = vectors_of(choice, options)
    changed = (
        "base", "teacher", "max_length", "start", "epochs", "restarts", "batch_size", "learning_rate", "seed", "check_pairs"
    )  # fmt: skip
    changes = {name: getattr(options, name) for name in changed}
    # Wrong values, and models that cannot be found, are noticed before texts are read.
    first = pipeline.find_recipe(options.recipe or "tour").change(**changes)
    folder = student.check_folder(options.output)
    for option, name in (("base", first.base), ("teacher", first.teacher)):
        if folder == expanded(name).resolve():
            raise TrainingError(f"--output is the folder of the {option}: choose another one")
    first.base_files()
    if not given and not choice.is_api(first.teacher):
        models.resolve(first.teacher)
    named = {name: getattr(options, name) for name in ("limit", "sample", *READING)}
    found = (
        data.read_texts(given.texts, limit=options.limit)
        if given
        else data.read_texts(options.texts, **named)
    )
    # Nobody has vectors of queries that are made here.
    training_texts, chosen = pipeline.prepare(found, options.recipe, crop=not given, **changes)
    pipeline.say_cropped(found, training_texts, chosen)
    teacher = given or choice.make(chosen.teacher, chosen.max_length, chosen.prompts)
    targets = TargetCache(choice.cache, teacher, skip=choice.skip)
    if options.dry_run:
        _plan(options.speeds, chosen, training_texts, targets)
        return
    source = str(Path(options.texts).resolve()) if Path(options.texts).exists() else options.texts
    made = pipeline.run(
        training_texts, targets, chosen, folder, source=source, resume=not options.fresh, stop=stop
    )
    if int(os.environ.get("RANK", "0")):
        return
    if made.result and made.result.stopped:
        print(
            f"stopped; the best student so far is in {options.output}, and the same command continues from here"
        )
        return
    loss, step = made.provenance["held_out_loss"], made.provenance["best_step"]
    about = "" if loss is None else f" (held-out loss {loss:.4f} at step {step:,})"
    print(f"student saved to {options.output}{about}")


def _plan(speeds: str | None, recipe: Recipe, texts: Sequence[Text], cache: TargetCache) -> None:
    config, teacher, stored = (
        recipe.config.with_steps(recipe.steps, len(texts)),
        cache.teacher,
        cache.plan(texts),
    )
    if recipe.frozen:
        print(
            f"recipe   {recipe.name}: the head alone learns, within seconds once targets and features are there"
        )
        print(f"targets  {stored}")
        sample = [texts[i] for i in spread(len(texts), planning.MEASURED_TEXTS)]
        works = {"teacher": (teacher, stored.missing)} if teacher.usage is None else {}
        works["features"] = FrozenFeatures(recipe.student(cache)), stored.unique
        for name, (work, count) in works.items():
            if count:
                speed, _ = planning.encoding_speed(work, sample)
                print(f"{name:8} {duration(count / speed)} at {speed:,.0f} texts a second")
        print("Nothing was stored.")
        return
    if speeds:
        device, *given = speeds.rsplit(":", 2)
        try:
            measured = planning.Speeds(device, *map(float, given))
        except (TypeError, ValueError):
            raise TrainingError(
                f"--speeds {speeds}: expected DEVICE:TEACHER:STUDENT, texts a second"
            ) from None
    else:
        estimate = teacher.estimate(cache.missing(texts))
        who = "teacher and student" if estimate is None else "student"
        print(f"Timing {who} on some of the texts ...", file=sys.stderr, flush=True)
        timed = teacher if estimate is None else None  # asking an API costs money
        measured = planning.measure(timed, recipe.student(cache), texts, config)
        if estimate is not None:
            print(estimate)
    print(
        f"recipe   {recipe.name}: {recipe.teacher} to a student of {recipe.base}, {recipe.max_length} tokens"
    )
    print(planning.plan(config, measured, stored.unique, cache.dimension, stored.missing))
    print("Nothing was stored.")
