"""Commands that make something of texts: demo, cache, distill."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.cli import inputs
from workbench.cli.inputs import TeacherChoice
from workbench.errors import DataError, TrainingError, WorkbenchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workbench.cache import TargetCache
    from workbench.data import Text
    from workbench.pipeline import Recipe


def demo(*, fresh: bool, stop: threading.Event) -> None:
    """Run the main job once."""
    from workbench.cli import demo as job

    job.run(stop=stop, fresh=fresh)
    print("Open the notebooks with `make lab` (or `workbench lab`).")


def cache(
    *,
    choice: TeacherChoice,
    texts: str,
    limit: int | None,
    sample: int | None,
    vectors: str | None,
    dry_run: bool,
    workers: int | None,
    gpus_per_worker: float,
    stop: threading.Event,
) -> None:
    """Encode texts with the teacher and store the vectors."""
    from workbench import models, pipeline
    from workbench.cache import TargetCache

    name, length = choice.name or models.MPNET, choice.max_length or 128
    if workers:
        if limit or sample or dry_run or vectors or choice.is_api(name):
            raise WorkbenchError(
                "--workers encodes all .parquet files of a folder with local teachers: leave out --limit, --sample, "
                "--dry-run, --vectors and API teachers (which make parallel requests without it)"
            )
        _cache_on_cluster(choice, name, length, texts, workers, gpus_per_worker, stop)
        return
    given = inputs.vectors_of(choice, vectors, texts, limit)
    targets = TargetCache(choice.cache, given or choice.make(name, length))
    found = given.texts[:limit] if given else inputs.texts_of(texts, limit, sample)
    if dry_run:
        found = list(found)
        print(targets.plan(found))
        if (estimate := targets.teacher.estimate(targets.missing(found))) is not None:
            print(estimate)
        return
    done = pipeline.fill(targets, found, stop=stop)
    print(
        f"{done.done:,} texts, {done.encoded:,} encoded now, {done.hits:,} already there; targets in {targets.folder}"
    )


def _cache_on_cluster(
    choice: TeacherChoice, name: str, length: int, texts: str, workers: int, gpus: float, stop: threading.Event
) -> None:
    from functools import partial

    from workbench.extras import cluster
    from workbench.pipeline import CacheBar
    from workbench.teachers import LocalTeacher

    make = partial(LocalTeacher, name, **choice.options(name, length, None))
    with CacheBar("teachers") as bar:
        done = cluster.fill(choice.cache, make, texts, workers=workers, gpus=gpus, on_progress=bar.progress, stop=stop)
    print(
        f"{done.done:,} texts, {done.encoded:,} encoded now, {done.hits:,} already there; targets below {choice.cache}"
    )


def distill(
    *,
    choice: TeacherChoice,
    texts: str,
    limit: int | None,
    sample: int | None,
    vectors: str | None,
    dry_run: bool,
    speeds: str | None,
    recipe: str | None,
    output: str,
    fresh: bool,
    stop: threading.Event,
    **changes: object,
) -> None:
    """Train a student on a teacher's vectors; `changes` are values of the recipe, None where not named."""
    from workbench import data, models, pipeline, student
    from workbench.cache import TargetCache

    if speeds and not dry_run:
        raise TrainingError("--speeds is for a plan: add --dry-run")
    if vectors and sample:
        raise DataError("--vectors goes with --texts FILE or hub:NAME:COLUMN:ROLE, and without --sample")
    given = inputs.vectors_of(choice, vectors, texts, limit)
    changes |= {"teacher": choice.name, "max_length": choice.max_length}
    # Wrong values, and models that cannot be found, are noticed before texts are read.
    first = pipeline.find_recipe(recipe or "tour").change(**changes)
    folder = student.check_folder(output)
    for option, name in (("base", first.base), ("teacher", first.teacher)):
        if folder == Path(name).expanduser().resolve():
            raise TrainingError(f"--output is the folder of the {option}: choose another one")
    models.resolve(first.base)
    if not given and not choice.is_api(first.teacher):
        models.resolve(first.teacher)
    if sample and limit:
        raise DataError("--sample draws from all texts: give it without --limit")
    found = data.read_texts(
        given.texts[:limit] if given else texts, **({} if given else {"limit": limit, "sample": sample})
    )
    # Nobody has vectors of queries that are made here.
    lesson, chosen = pipeline.prepare(found, recipe, crop=not given, **changes)
    cache = TargetCache(choice.cache, given or choice.make(chosen.teacher, chosen.max_length, chosen.prompts))
    if dry_run:
        _plan(speeds, chosen, lesson, cache)
        return
    source = str(Path(texts).resolve()) if Path(texts).exists() else texts
    made = pipeline.run(lesson, cache, chosen, folder, source=source, resume=not fresh, stop=stop)
    if int(os.environ.get("RANK", "0")):
        return
    if made.result and made.result.stopped:
        print(f"stopped; the best student so far is in {output}, and the same command continues from here")
        return
    loss, step = made.provenance["held_out_loss"], made.provenance["best_step"]
    print(f"student saved to {output} (held-out loss {loss:.4f} at step {step:,})")


def _plan(speeds: str | None, recipe: Recipe, texts: Sequence[Text], cache: TargetCache) -> None:
    from workbench import planning

    config, teacher = recipe.config.with_steps(recipe.steps, len(texts)), cache.teacher
    estimate = teacher.estimate(cache.missing(texts))
    if speeds:
        device, *given = speeds.rsplit(":", 2)
        try:
            measured = planning.Speeds(device, *map(float, given))
        except (TypeError, ValueError):
            raise TrainingError(f"--speeds {speeds}: expected DEVICE:TEACHER:STUDENT, texts a second") from None
    else:
        who = "teacher and student" if estimate is None else "student"
        print(f"Timing {who} on some of the texts ...", file=sys.stderr, flush=True)
        timed = teacher if estimate is None else None  # asking an API costs money
        measured = planning.measure(timed, recipe.student(cache), texts, config)
        if estimate is not None:
            print(estimate)
    stored = cache.plan(texts)
    print(f"recipe   {recipe.name}: {recipe.teacher} to a student of {recipe.base}, {recipe.max_length} tokens")
    print(planning.plan(config, measured, stored.unique, cache.dimension, stored.missing))
    print("Nothing was stored.")
