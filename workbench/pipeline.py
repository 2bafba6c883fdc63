"""The one way from texts to a student: fill the cache, fit the head, train, save."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from workbench import _checkpoints, data, models, student
from workbench._recipes import (
    ADAPT,
    BROAD,
    HEAD_STARTS,
    IN_DOMAIN,
    RECIPES,
    REDACT_IR,
    REDACT_IR_FAST,
    REDACT_MT,
    REDACT_MT_FAST,
    TOUR,
    TOUR_DOCUMENTS,
    Recipe,
    find_recipe,
)
from workbench._stored import StoredTexts, hold
from workbench._util import counted, expanded, home, write_json
from workbench.cache import Plan, Progress, TargetCache
from workbench.data import Role, Text
from workbench.errors import TeacherError, TrainingError, WorkbenchError
from workbench.head import FrozenFeatures, train_head
from workbench.student import Tokens
from workbench.teachers import ArrayTeacher, Teacher
from workbench.train import Result, TrainingStep, provenance, train_student

__all__ = [
    "ADAPT", "BROAD", "IN_DOMAIN", "RECIPES", "REDACT_IR", "REDACT_IR_FAST", "REDACT_MT", "REDACT_MT_FAST", "TOUR", "TOUR_DOCUMENTS",
    "CacheBar", "Distilled", "Recipe", "TrainingBar", "distill", "fill", "find_recipe", "prepare", "run", "say_cropped",
    "teacher_of",
]  # fmt: skip

LEAST_TEXTS = 20  # different texts that a student can be made of
_CROPPED = 1000  # documents that queries are cropped from, where there are no queries


@dataclass(frozen=True)
class Distilled:
    """What `run` made."""

    student: (
        SentenceTransformer  # in evaluation mode; the best one so far where training was stopped
    )
    folder: Path  # where it was saved
    provenance: dict  # how it was made, as in `provenance.json`
    result: Result | None = None  # of the training; None if there was none in this run


def distill(
    texts: object,
    teacher: object = None,
    *,
    base: str | None = None,
    recipe: str | Recipe | None = None,
    output: str | Path | None = None,
    held_out: Sequence[Text | str] | None = None,
    progress: bool = True,
    stop: threading.Event | None = None,
    resume: bool = True,
    skip: float = 0.01,
    **changes: object,
) -> SentenceTransformer:
    """Train a small model to embed texts where a large one does, and return it.

    Targets are cached and training writes checkpoints: the same call continues where an earlier one was stopped, and
    returns the finished student at once.

    Args:
        texts: what `data.read_texts` takes: a list of strings or `Text` objects, a file, a folder, a data set; at least 20
            different ones. Plain strings are documents. Without any query, queries are cropped from them.
        teacher: a model's name or folder, "openai:MODEL", or anything else that `Teacher` takes; the recipe's if None.
        base: the small model to start from; the recipe's if None.
        recipe: "tour", "in-domain" or another of `RECIPES`, or a `Recipe`. By default in-domain (many passes) for
            fewer than 5,000 texts, and tour (two passes) for more.
        output: folder for the student; by default one below `students/` in the workbench's folder.
        held_out: texts to choose the best student by, which it does not learn from, also if they are among `texts`; a
            twentieth of `texts`, 500 at most, if None.
        progress: show bars.
        stop: when set, the run ends at the next safe point.
        resume: use what an earlier call of the same identity made; False starts over.
        skip: share of the texts that may get no target, see `TargetCache`; nothing is learned from them.
        **changes: values of the recipe to change, such as `max_length=64`, `epochs=1` or `seed=7`.

    Raises:
        DataError: no texts, or something that is not texts.
        TrainingError: too few texts, also after `held_out` was left out; a value that makes no sense; or the run was
            stopped before training.
        ModelError: a model cannot be found or loaded.
        TeacherError: the teacher cannot be used.

    Example:
        >>> import workbench as wb
        >>> texts = wb.read_texts("tutorial", limit=60)  # some hundreds make a useful student
        >>> quick = {"recipe": "tour", "epochs": 1, "max_length": 40, "progress": False}
        >>> student = wb.distill(texts, "all-mpnet-base-v2", base="all-MiniLM-L6-v2", **quick)
        >>> student.encode_query("where does the river begin?").shape
        (768,)
    """
    given = data.read_texts(texts)
    unseen = None if held_out is None else data.as_texts(held_out, "held_out")
    if unseen:
        left = _without(given, unseen)
        if progress and (both := len(given) - len(left)):
            tqdm.write(
                f"{both:,} of {counted(len(given), 'text')} are held out: nothing is learned from them"
            )
        given = left
    # Vectors that exist already have no vector of a query that is cropped here.
    training_texts, recipe = prepare(
        given, recipe, crop=not isinstance(teacher, ArrayTeacher), base=base, **changes
    )
    if progress:
        say_cropped(given, training_texts, recipe)
    cache = TargetCache(home() / "cache", teacher_of(teacher, recipe), skip=skip)
    return run(
        training_texts,
        cache,
        recipe,
        output,
        source=str(texts) if isinstance(texts, str | Path) else "a list of texts",
        held_out=unseen,
        progress=progress,
        resume=resume,
        stop=stop,
    ).student


def run(
    texts: Sequence[Text],
    cache: TargetCache,
    recipe: Recipe,
    output: str | Path | None = None,
    *,
    source: str = "",
    held_out: Sequence[Text] | None = None,
    start_output: str | Path | None = None,
    train: bool = True,
    progress: bool = True,
    resume: bool = True,
    on_start: Callable[[SentenceTransformer], None] | None = None,
    on_step: Callable[[TrainingStep], None] | None = None,
    stop: threading.Event | None = None,
) -> Distilled:
    """Make the student of a recipe, or load the one that an earlier call of the same identity finished.

    The identity covers recipe, teacher, base and the exact texts. Under `torchrun` the first process writes. What is not
    listed here is as for `distill`.

    Args:
        texts: to learn from, see `prepare`.
        cache: of the teacher's targets; missing ones are made.
        recipe: how to make the student. Its `steps` are turned into passes here.
        source: where the texts are from, for the provenance.
        held_out: as for `distill`; none if empty.
        start_output: folder for the student as it is before training; not saved if None.
        train: False leaves it at the closed-form head.
        on_start: called before training with the student, which training changes in place.
        on_step: called after every training step and evaluation.

    Raises:
        TrainingError: too few texts, or it was stopped before training.
        ModelError: the output folder holds something else.
    """
    texts, started = data.as_texts(texts), recipe.started_from()
    if held_out is None and started:
        held_out = []  # what says most of search, knowing the documents by heart, no loss on other texts shows: see measured.md
    split_off = held_out is None
    keys = cache.keys(texts)
    kept = keys[:0] if split_off else cache.keys(held_out)  # each text is hashed once
    base, config = recipe.base_files(), recipe.config.with_steps(recipe.steps, len(texts))
    recipe = replace(recipe, config=config, teacher=cache.teacher.name, base=str(recipe.base))
    parts = [recipe.as_dict(), cache.identity, base and base.fingerprint, train, split_off]
    parts += [started.get("head_sha256") or (started and models.resolve(recipe.start).fingerprint)]
    parts += [hashlib.sha256(some.tobytes()).hexdigest() for some in (keys, kept)]
    identity = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    output = student.check_folder(output or home() / "students" / f"{recipe.name}-{identity[:12]}")
    start_output = start_output and student.check_folder(start_output)
    if (
        resume
        and (finished := _finished(output, identity))
        and (not start_output or _finished(start_output, identity))
    ):
        return finished

    model = recipe.student(cache)  # what is wrong with base or length shows before the teacher runs
    for some in (texts, held_out):
        if some:
            fill(cache, some, progress=progress, stop=stop)
        if stop is not None and stop.is_set():
            raise TrainingError(
                "stopped; what is finished is kept, and the same command goes on from here"
            )
    # Texts that the teacher has no vector of, see `TargetCache.skip`, are not learned from.
    texts, keys = _with_targets(cache, texts, keys)
    held_out, kept = _with_targets(cache, held_out, kept) if held_out else (held_out, kept)
    if split_off and train:
        texts, keys, held_out, kept = _split(texts, keys)
    targets = cache.targets(texts)
    tokens = seen = unseen = None
    if recipe.frozen:  # no text goes through the base twice
        features = TargetCache(cache.folder.parent, FrozenFeatures(model))
        for some in (texts, held_out):
            if some:
                fill(features, some, progress=progress, stop=stop, what="features")
        seen, unseen = features.targets(texts), features.targets(held_out) if held_out else None
    else:
        tokens = Tokens(model, texts)

    # Hidden, and named after the output: it is found again, and never taken for the student.
    checkpoints = output.with_name(f".{output.name}-checkpoints") / identity[:12]
    head_fit, first = None, int(os.environ.get("RANK", "0")) == 0

    def describe(**more: object) -> dict:
        name = base.name if base else started.get("base")
        made = {"base": name, "source": source, "start": recipe.start, "head_fit": head_fit, **more}
        return provenance(cache, texts, **made) | {"run": identity}

    if train and resume and _checkpoints.complete(checkpoints):  # its weights replace these ones
        with contextlib.suppress(OSError, ValueError):
            head_fit = student.HeadFit(**json.loads((checkpoints / "head_fit.json").read_text()))
    else:
        if recipe.start == "closed-form" or (not train and not started):
            head_fit = student.fit_head(model, texts, targets, tokens=tokens, features=seen)
        if first and train and head_fit:
            write_json(checkpoints / "head_fit.json", asdict(head_fit))
        if first and start_output:
            student.save(model, start_output, describe())
    if not train:
        return Distilled(model.eval(), student.save(model, output, describe()), describe())
    if on_start:
        on_start(model)
    wanted = cache.targets(held_out) if held_out else None
    with TrainingBar() if progress else contextlib.nullcontext() as bar:
        reports = {
            "on_step": lambda step: [show(step) for show in (bar, on_step) if show],
            "stop": stop,
        }
        if recipe.frozen:
            held = (unseen, wanted) if held_out else None
            result = train_head(model, seen, targets, recipe.config, held_out=held, **reports)
            model.eval()
        else:
            result = train_student(
                model,
                texts,
                targets,
                recipe.config,
                held_out=(held_out, wanted) if held_out else None,
                checkpoints=checkpoints,
                resume=resume,
                tokens=tokens,
                digest=hashlib.sha256(keys.tobytes()).hexdigest(),
                **reports,
            )
    found = describe(config=recipe.config, result=result)
    if first:
        student.save(model, output, found)
        if (
            progress
            and not result.stopped
            and result.best_loss is not None
            and result.best_step == 0
        ):
            tqdm.write("Training did not improve on its start: the student of step 0 is kept")
        if not result.stopped:
            shutil.rmtree(checkpoints.parent, ignore_errors=True)
    return Distilled(model, output, found, result)


def _finished(folder: Path, identity: str) -> Distilled | None:
    """Return the student of this very run, if it is there and whole."""
    try:
        found = student.read_provenance(folder)
        if found.get("run") == identity and found.get("finished"):
            return Distilled(student.load(folder).eval(), folder, found)
    except WorkbenchError as error:
        warnings.warn(f"{folder} is made again: {error}", stacklevel=3)
    return None


def fill(
    cache: TargetCache,
    texts: Iterable[Text],
    *,
    progress: bool = True,
    stop: threading.Event | None = None,
    what: str = "teacher",
) -> Progress:
    """Fill a cache, see `TargetCache.fill`, with a bar; say what an API teacher will cost and has cost.

    Raises:
        TeacherError: several processes would each pay an API.
    """
    teacher = cache.teacher
    if teacher.usage is not None:
        missing = (
            cache.missing(texts) if isinstance(texts, Sequence) else None
        )  # unknown for a stream
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and missing != []:
            raise TeacherError(
                "each process would ask the API by itself, with a budget and limits of its own: run workbench cache with "
                "these texts first, in one process"
            )
        if progress and missing is not None:
            print(teacher.estimate(missing), file=sys.stderr)
    if not progress:
        return cache.fill(texts, stop=stop)
    try:
        with CacheBar(what) as bar:
            return cache.fill(texts, on_plan=bar.plan, on_progress=bar.progress, stop=stop)
    finally:
        if teacher.usage is not None:
            print(teacher.usage, file=sys.stderr)


def teacher_of(source: object, recipe: Recipe) -> Teacher:
    """Return the teacher of a source, the recipe's if None; a named model gets the recipe's prompts and length."""
    source = recipe.teacher if source is None else source
    if not isinstance(source, str | Path):
        return Teacher(source)
    local = ":" not in str(source)[2:] or expanded(source).exists()
    return Teacher(
        source, prompts=recipe.prompts, **({"max_length": recipe.max_length} if local else {})
    )


def prepare(
    texts: Sequence[Text],
    recipe: str | Recipe | None = None,
    *,
    crop: bool = True,
    **changes: object,
) -> tuple[Sequence[Text], Recipe]:
    """Return the texts that a student learns from, and the recipe.

    Queries are cropped from documents where there are fewer texts than the recipe wants, or no query among them.

    Args:
        texts: what `data.read_texts` returned.
        recipe: see `find_recipe`.
        crop: whether to add queries.
        **changes: see `Recipe.change`.

    Raises:
        TrainingError: fewer than 20 texts, or a value of the recipe that makes no sense.
    """
    if recipe is None and changes.get("start") not in (None, *HEAD_STARTS):
        recipe = ADAPT  # a student goes on
    recipe = find_recipe(recipe, len(texts)).change(**changes)
    if len(texts) < LEAST_TEXTS:
        raise TrainingError(
            f"{len(texts)} different text{' is' if len(texts) == 1 else 's are'} too few to distill from: at least "
            f"{LEAST_TEXTS} are needed, and some hundreds make a useful student"
        )
    crop = crop and not recipe.started_from()  # that student knows queries
    if crop and len(texts) < recipe.texts:
        return data.add_cropped_queries(texts, recipe.texts), recipe
    if crop and not any(text.role is Role.QUERY for text in texts):
        return hold(chain(texts, data.crop_queries(texts[:_CROPPED])), data.IN_MEMORY), recipe
    return texts, recipe


def say_cropped(given: Sequence[Text], training_texts: Sequence[Text], recipe: Recipe) -> None:
    """Print how many queries `prepare` has added to the texts, if any."""
    if cropped := len(training_texts) - len(given):
        queries = f"{cropped:,} quer{'y' if cropped == 1 else 'ies'} cropped from them"
        tqdm.write(f"{counted(len(given), 'text')} and {queries}; recipe {recipe.name}")


def _split(
    texts: Sequence[Text], keys: np.ndarray
) -> tuple[Sequence[Text], np.ndarray, list[Text], np.ndarray]:
    """Return training texts and held-out texts (a twentieth, 500 at most, whatever the order), each with keys."""
    unique, first = np.unique(keys, return_index=True)
    kept_out = min(500, len(unique) // 20)
    if not kept_out:
        raise TrainingError(
            f"{len(unique)} different texts are too few: at least {LEAST_TEXTS} are needed"
        )
    rows = np.flatnonzero(keys > unique[kept_out - 1])
    return _subset(texts, rows), keys[rows], [texts[i] for i in first[:kept_out]], unique[:kept_out]


def _subset(texts: Sequence[Text], rows: np.ndarray) -> Sequence[Text]:
    return texts.subset(rows) if isinstance(texts, StoredTexts) else [texts[i] for i in rows]


def _without(texts: Sequence[Text], held_out: Sequence[Text]) -> Sequence[Text]:
    """Return the texts that are not held out, whatever their role."""
    out = {text.text for text in held_out}
    left = np.flatnonzero([text.text not in out for text in texts])
    if len(left) < LEAST_TEXTS <= len(texts):
        raise TrainingError(
            f"held_out leaves {len(left):,} of {counted(len(texts), 'text')} to learn from, and at least {LEAST_TEXTS} are "
            "needed: hold out fewer"
        )
    return texts if len(left) == len(texts) else _subset(texts, left)


def _with_targets(
    cache: TargetCache, texts: Sequence[Text], keys: np.ndarray
) -> tuple[Sequence[Text], np.ndarray]:
    """Return the texts that have a target, with their keys."""
    has = cache.known(keys)
    return (texts, keys) if has.all() else (_subset(texts, np.flatnonzero(has)), keys[has])


class _Bar:
    _bar: tqdm | None = None  # shown from the first report on

    def _advance(
        self,
        done: int,
        total: int | None,
        what: str,
        unit: str,
        initial: int = 0,
        seconds: float = 0.0,
    ) -> None:
        """Advance the bar; the first time, with what an earlier run did, and the seconds of what this one has done."""
        if self._bar is None:
            self._bar = bar = tqdm(
                total=total, initial=initial, desc=what, unit=f" {unit}", mininterval=0.5
            )
            bar.start_t = bar.last_print_t = bar.last_print_t - seconds
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


class CacheBar(_Bar):
    """Shows a `TargetCache.fill`: pass `bar.plan` as on_plan and `bar.progress` as on_progress."""

    def __init__(self, what: str = "teacher") -> None:
        self.what = what

    def plan(self, plan: Plan) -> None:
        """Print the plan before the long part."""
        tqdm.write(f"{self.what}: {plan}")

    def progress(self, progress: Progress) -> None:
        """Advance the bar. It counts what the teacher encodes, not what was cached, so the time left is right."""
        seconds = progress.encoded / progress.texts_per_second if progress.encoded else 0.0
        self._advance(progress.encoded, progress.encoded_total, self.what, "texts", seconds=seconds)
        failed = f", {progress.failed:,} without a target" if progress.failed else ""
        self._bar.set_postfix_str(f"{progress.bytes / 1e6:.1f} MB, {progress.hits:,} hits{failed}")


class TrainingBar(_Bar):
    """Shows a `train_student`: pass the bar itself as on_step."""

    def __call__(self, step: TrainingStep) -> None:
        """Advance the bar, and print a line for each held-out evaluation."""
        self._advance(step.step, step.steps, "student", "steps", step.step)
        if step.loss is not None:
            self._bar.set_postfix_str(
                f"loss {step.loss:.3f}, {step.texts_per_second:.0f} texts/s", refresh=False
            )
        if step.held_out_loss is not None:
            cosines = {"queries": step.cosine_query, "documents": step.cosine_document}
            line = [f"held-out loss {step.held_out_loss:.4f}"]
            line += [
                f"cosine {value:.3f} on {texts}"
                for texts, value in cosines.items()
                if value is not None
            ]
            tqdm.write(f"epoch {step.epoch:4.2f}: {', '.join(line)}")
