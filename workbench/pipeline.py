"""The one road from texts to a student: fill the cache, fit the head, train, save."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from workbench import data, student
from workbench._recipes import (
    ADAPT,
    BROAD,
    HEAD_STARTS,
    IN_DOMAIN,
    RECIPES,
    TOUR,
    Recipe,
    find_recipe,
    provenance_of,
)
from workbench._util import counted, home
from workbench.cache import TargetCache, Targets
from workbench.data import Role, Text, hold
from workbench.errors import TrainingError, WorkbenchError
from workbench.teachers import ArrayTeacher, Teacher, is_api, make_teacher
from workbench.train import Result, TrainingStep, provenance, train_head, train_student

__all__ = [
    "ADAPT", "BROAD", "IN_DOMAIN", "RECIPES", "TOUR", "Distilled", "Recipe",
    "TrainingBar", "distill", "features_of", "find_recipe", "prepare", "run", "teacher_of",
]  # fmt: skip

LEAST_TEXTS = 20  # different texts that a student can be made of
STOPPED = "stopped; what is finished is kept, and the same command goes on from here"
_CROPPED = 1000  # documents that queries are cropped from, where there are no queries


@dataclass(frozen=True)
class Distilled:
    """What `run` returns."""

    student: SentenceTransformer  # in evaluation mode; the best one so far if training was stopped
    folder: Path  # where it was saved
    provenance: dict  # how it was made, as in `provenance.json`
    result: Result | None = None  # of the training; None if an earlier run finished it


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

    Targets are cached and training writes checkpoints: the same call continues where an earlier one
    was stopped, and returns a finished student at once.

    Args:
        texts: what `data.read_texts` takes, at least 20 different texts. Plain strings are
            documents. Without any query, queries are cropped from them.
        teacher: what `Teacher` takes, such as a model's name; the recipe's if None.
        base: the small model to start from; the recipe's if None.
        recipe: one of `RECIPES`, a TOML file, or a `Recipe`. By default in-domain (many passes) for
            fewer than 5,000 texts, and tour (two passes) for more.
        output: folder for the student; by default one below `students/` in the workbench's folder.
        held_out: texts to choose the best student by, which it does not learn from; a twentieth of
            `texts`, 500 at most, if None.
        progress: show bars.
        stop: when set, the run ends at the next safe point.
        resume: use what an earlier call of the same identity made; False starts over.
        skip: share of the texts that may get no target, see `TargetCache`; they are left out.
        **changes: values of the recipe to change, such as `max_length=64`, `epochs=1` or `seed=7`.

    Raises:
        TrainingError: too few texts, a value that makes no sense, or stopped before training.
        WorkbenchError: the texts, the teacher or the base cannot be used.

    Example:
        >>> import workbench as wb
        >>> texts = wb.read_texts("tutorial", limit=60)  # some hundreds make a useful student
        >>> quick = {"recipe": "tour", "epochs": 1, "max_length": 40, "progress": False}
        >>> student = wb.distill(texts, "all-mpnet-base-v2", base="all-MiniLM-L6-v2", **quick)
        >>> student.encode_query("where does the river begin?").shape
        (768,)
    """
    source = str(texts) if isinstance(texts, str | Path) else "a list of texts"
    texts = data.read_texts(texts)
    if held_out is not None:
        held_out = data.as_texts(held_out, "held_out")
        unseen = {text.text for text in held_out}  # whatever their role
        texts = hold((text for text in texts if text.text not in unseen), data.IN_MEMORY)
    # A teacher of stored vectors has none of a query that is cropped here.
    crop = not isinstance(teacher, ArrayTeacher)
    texts, recipe = prepare(texts, recipe, crop=crop, progress=progress, base=base, **changes)
    cache = TargetCache(home() / "cache", teacher_of(teacher, recipe), skip=skip)
    options = {"held_out": held_out, "progress": progress, "resume": resume, "stop": stop}
    return run(texts, cache, recipe, output, source=source, **options).student


def teacher_of(source: object, recipe: Recipe, **options: object) -> Teacher:
    """Return a teacher, the recipe's if None; a named one gets the recipe's prompts and length."""
    source = recipe.teacher if source is None else source
    if not isinstance(source, str | Path):
        return make_teacher(source)
    if not is_api(source):
        return Teacher(source, prompts=recipe.prompts, max_length=recipe.max_length, **options)
    teacher = Teacher(source, prompts=recipe.prompts, **options)
    teacher.name = str(source)  # with its provider, which a later command needs
    return teacher


def prepare(
    texts: Sequence[Text],
    recipe: str | Recipe | None = None,
    *,
    crop: bool = True,
    progress: bool = False,
    **changes: object,
) -> tuple[Sequence[Text], Recipe]:
    """Return the texts that a student learns from, and the recipe with changes.

    Queries are cropped from documents if there are fewer texts than the recipe wants, or no query.
    TrainingError for fewer than 20 texts, or a value of the recipe that makes no sense.
    """
    if recipe is None and changes.get("start") not in (None, *HEAD_STARTS):
        recipe = ADAPT
    recipe = find_recipe(recipe, len(texts)).change(**changes)
    if len(texts) < LEAST_TEXTS:
        raise TrainingError(
            f"{counted(len(texts), 'different text')} are too few to distill from: at least "
            f"{LEAST_TEXTS} are needed, and some hundreds make a useful student"
        )
    if not crop or recipe.continues:  # such a student knows queries
        return texts, recipe
    enough = texts
    if len(texts) < recipe.texts:
        per_text = -(-recipe.texts // len(texts)) - 1
        enough = [*texts, *data.crop_queries(texts, per_text)]
    elif not any(text.role is Role.QUERY for text in texts):
        enough = hold(chain(texts, data.crop_queries(texts[:_CROPPED])), data.IN_MEMORY)
    cropped = len(enough) - len(texts)
    if progress and cropped:
        tqdm.write(f"{len(texts):,} texts and {cropped:,} queries cropped from them")
    return enough, recipe


def run(
    texts: Sequence[Text] | Targets,
    cache: TargetCache,
    recipe: Recipe,
    output: str | Path | None = None,
    *,
    source: str = "",
    held_out: Sequence[Text] | None = None,
    train: bool = True,
    progress: bool = True,
    resume: bool = True,
    on_start: Callable[[SentenceTransformer], None] | None = None,
    on_step: Callable[[TrainingStep], None] | None = None,
    stop: threading.Event | None = None,
) -> Distilled:
    """Make the student of a recipe, or load the one that an earlier call of the same identity made.

    The identity covers recipe, teacher, base and the exact texts. Under `torchrun` the first process
    writes. Errors, and what is not listed here, are as for `distill`.

    Args:
        texts: to learn from, see `prepare`; or their targets, from `cache.embed`.
        cache: of the teacher's targets; missing ones are made.
        recipe: how to make the student.
        source: where the texts are from, for the provenance.
        held_out: as for `distill`; no text is held out if it is empty.
        train: False leaves the student at the closed-form head.
        on_start: called before training with the student, which training changes in place.
        on_step: called after every training step and evaluation.
    """
    if held_out is None and recipe.continues:
        # It is to know these very documents, and a loss on others does not show that.
        held_out = []
    config = recipe.config.with_steps(recipe.steps, len(texts))
    recipe = replace(recipe, config=config, teacher=cache.teacher.name, base=str(recipe.base))
    started = provenance_of(recipe.start) if recipe.continues else {}
    base = recipe.base_files()
    identity = {
        "recipe": recipe.as_dict(),
        "teacher": cache.identity,
        "base": base.fingerprint,
        "head": started.get("head_sha256"),
        "texts": _digest(cache, texts),
        "held_out": None if held_out is None else _digest(cache, held_out),
        "train": train,
    }
    run_id = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    output = student.check_folder(output or home() / "students" / f"{recipe.name}-{run_id[:12]}")
    finished = _finished(output, run_id) if resume else None
    if finished:
        return finished

    model = recipe.student(cache)  # before the teacher runs, because it may fail
    show = {"progress": progress, "stop": stop}
    targets = cache.embed(texts, **show)
    held_targets = cache.embed(held_out, **show) if held_out else None
    if stop is not None and stop.is_set():
        raise TrainingError(STOPPED)
    if held_out is None and train:
        targets, held_targets = targets.split()

    # Hidden, and named after the output, so that it is found again and never taken for the student.
    checkpoints = output.with_name(f".{output.name}-checkpoints") / run_id[:12]
    stored, validation = None, None
    if recipe.frozen:  # the base's output is stored, so that no text goes through it twice
        features = features_of(model, recipe, cache)
        stored = features.embed(targets, what="features", **show)
        if held_targets:
            validation = features.embed(held_targets, what="features", **show), held_targets
        train_model = partial(train_head, model, stored)
    else:
        if held_targets:
            validation = held_targets.texts, held_targets
        resumable = {"checkpoints": checkpoints, "resume": resume}
        train_model = partial(train_student, model, targets.texts, **resumable)

    head_fit = None
    if recipe.start == "closed-form" or not (train or recipe.continues):
        head_fit = student.fit_head(model, targets.texts, targets, features=stored)
    about = {"base": started.get("base", base.name), "source": source, "start": recipe.start}
    describe = partial(provenance, cache, targets.texts, **about, head_fit=head_fit)
    if not train:
        made = describe() | {"run": run_id}
        return Distilled(model.eval(), student.save(model, output, made), made)

    if on_start is not None:
        on_start(model)
    with TrainingBar(disable=not progress) as bar:

        def report(step: TrainingStep) -> None:
            bar(step)
            if on_step is not None:
                on_step(step)

        result = train_model(targets, config, held_out=validation, on_step=report, stop=stop)
    model.eval()
    made = describe(config=config, result=result) | {"run": run_id}
    if int(os.environ.get("RANK", "0")) == 0:
        student.save(model, output, made)
        if progress and result.best_step == 0 and not result.stopped:
            tqdm.write("Training did not improve on its start: the student of step 0 is kept")
        if not result.stopped:
            shutil.rmtree(checkpoints.parent, ignore_errors=True)
    return Distilled(model, output, made, result)


def features_of(model: SentenceTransformer, recipe: Recipe, cache: TargetCache) -> TargetCache:
    """Return the cache of a student's features, what its base gives its head, beside a cache."""
    return TargetCache(
        cache.folder.parent, student.FrozenFeatures(model, recipe.base_files().fingerprint)
    )


def _digest(cache: TargetCache, texts: Sequence[Text] | Targets) -> str:
    """Return the SHA-256 (hex) over the keys of texts."""
    if isinstance(texts, Targets):
        return texts.digest
    return hashlib.sha256(cache.keys(texts).tobytes()).hexdigest()


def _finished(folder: Path, run_id: str) -> Distilled | None:
    """Return the student of this very run, if it is there and whole."""
    try:
        made = student.read_provenance(folder)
        if made.get("run") == run_id and made.get("finished"):
            return Distilled(student.load(folder).eval(), folder, made)
    except WorkbenchError as error:
        warnings.warn(f"{folder} is made again: {error}", stacklevel=3)
    return None


class TrainingBar(tqdm):
    """A bar for training: give it as `on_step`. It prints a line for each held-out evaluation."""

    def __init__(self, **options: object) -> None:
        super().__init__(desc="student", unit=" steps", **options)

    def __call__(self, step: TrainingStep) -> None:
        """Show a step."""
        if self.total is None:
            self.reset(step.steps)
            self.initial = self.n = step.step  # what an earlier run did is not in the rate
        self.update(step.step - self.n)
        if step.loss is not None:
            speed = f"{step.texts_per_second:.0f} texts/s"
            self.set_postfix_str(f"loss {step.loss:.3f}, {speed}", refresh=False)
        if step.held_out_loss is not None and not self.disable:
            self.write(f"epoch {step.epoch:4.2f}: held-out loss {step.held_out_loss:.4f}")
