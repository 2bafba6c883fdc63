"""The one road from texts to a student: a recipe, and a run that fills, fits, trains, saves."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import threading
import tomllib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

from workbench import agreement, closed_form, data, models, student
from workbench import train as training
from workbench._util import Bar, counted, expanded, home, spread
from workbench.cache import TargetCache, Targets
from workbench.data import RetrievalDataset, Role, Text, list_or_store
from workbench.docstrings import docstring_corpus
from workbench.errors import TrainingError, WorkbenchError
from workbench.passages import Reader, in_passages
from workbench.ready import READY, is_ready, load_ready
from workbench.teachers import ArrayTeacher, LocalTeacher, Teacher, is_api, make_teacher
from workbench.train import Result, TrainingConfig, TrainingStep, provenance

LEAST_TEXTS = 20  # different texts that a student can be made of
STOPPED = "stopped; what is finished is kept, and the same command goes on from here"
_HEAD_STARTS = *student.CLOSED_FORMS, "random"
_OF_STUDENT = {"base", "bias", "hidden", "max_length", "pooling", "prompts"}
_FEW_PASSAGES = 2000  # fewer leave directions of the space that no text points in
_FEW_TEXTS = 5000  # fewer are passed over more often by default


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a student besides its texts.

    Example:
        >>> from workbench.pipeline import TOUR
        >>> TOUR.change(base="all-MiniLM-L6-v2", epochs=1).config.epochs
        1
    """

    name: str  # what reports call it
    teacher: str = models.MPNET  # makes the targets
    base: str = models.MINILM  # the student starts from its transformer
    max_length: int = 128  # tokens that teacher and student read of a text
    bias: bool = True  # whether the head has a bias
    hidden: int = 0  # units of the head's hidden layer, see `student.build`; 0 for a linear head
    others: int = 0  # texts of other subjects that a local teacher embeds too, where texts are few
    pooling: str | tuple[str, ...] | None = None  # of token vectors; None for the base's own
    prompts: dict[str, str] | None = None  # role to the teacher's prompt; None for its own ones
    # Of the head, a closed form ("rotation", "ridge", or "closed-form" for what searches best of
    # them and their sums) or "random"; or the student to go on from, "ready" or a folder. It has
    # the same teacher, and its base, head and length count.
    start: str = "closed-form"
    # False leaves the student at its start: the base as it is, with its own prompts, and a head.
    train: bool = True
    config: TrainingConfig = field(default_factory=TrainingConfig)  # how to train
    steps: int = 0  # least number of training steps: few texts are passed over more often
    texts: int = 0  # least number of texts: cropped queries make up for missing ones

    @property
    def continues(self) -> bool:
        """Whether training goes on from another student."""
        return self.start not in _HEAD_STARTS

    def change(self, **changes: object) -> Recipe:
        """Return the recipe with other values, of its fields or of those of its `config`.

        None leaves a value as it is. TrainingError for an unknown name, or a value out of range.
        """
        changes = {name: value for name, value in changes.items() if value is not None}
        if "epochs" in changes:
            changes.setdefault("steps", 0)  # or they would be raised
        if changes.get("start", "random") not in _HEAD_STARTS:
            changes.setdefault("train", True)
        if "learning_rate" in changes:
            final = min(self.config.final_learning_rate, changes["learning_rate"])
            changes.setdefault("final_learning_rate", final)
        of_training = {item.name for item in fields(TrainingConfig)} & changes.keys()
        if of_training - {"seed"} and not changes.get("train", self.train):
            names, trained = ", ".join(sorted(of_training)), "choose in-domain or tour"
            raise TrainingError(f"{names}: recipe {self.name} does not train; {trained}")
        config = replace(self.config, **{name: changes.pop(name) for name in of_training})
        try:
            changed = replace(self, **{"config": config} | changes)
        except TypeError as error:
            raise TrainingError(f"recipe {self.name} cannot be changed: {error}") from None
        fixed = changes.keys() & _OF_STUDENT
        if fixed and changed.continues:
            names = ", ".join(sorted(fixed))
            raise TrainingError(f"{names}: decided by the student to start from; leave it out")
        return changed

    def student(self, cache: TargetCache) -> SentenceTransformer:
        """Return the untrained student for a cache's targets; a closed form is yet to be fitted."""
        if self.continues:
            self.check_teacher(cache)
            return load_student(self.start)
        return student.build(
            self.base,
            cache.dimension,
            normalize=cache.identity["normalize"],
            bias=self.bias,
            hidden=self.hidden,
            pooling=self.pooling,
            max_length=self.max_length,
            prompts=cache.prompts if self.train else None,
            seed=self.config.seed,
        )

    def check_teacher(self, cache: TargetCache) -> None:
        """Raise TrainingError if the student to go on from has another teacher than the cache."""
        about = provenance_of(self.start)
        if not has_teacher(about, cache):
            message = f"the teacher of the student to start from is {about.get('teacher_name')}"
            raise TrainingError(f"{message}, not {cache.teacher.name}: name it, not a loaded model")

    def readers(self, teacher: Teacher) -> list[Reader | None]:
        """Return how teacher and student read documents; the student's weights are not loaded."""
        path, length = self.base_files().path, self.max_length
        tokenizer, prompt = AutoTokenizer.from_pretrained(path), teacher.prompts["document"]
        if not self.train:
            own = models.read_json(path / "config_sentence_transformers.json").get("prompts", {})
            prompt = models.role_prompts(own)["document"]
        if self.continues:
            build = provenance_of(self.start).get("build", {})  # of a ready student
            length = build.get("max_length", tokenizer.model_max_length)
        return [teacher.reader, Reader(tokenizer, length, prompt)]

    def base_files(self) -> models.ModelFiles:
        """Return the files that have the transformer's weights."""
        if not self.continues:
            return models.resolve(self.base)
        folder = _folder(self.start)
        return models.resolve(provenance_of(folder)["base"] if is_ready(folder) else folder)


def has_teacher(about: Mapping[str, Any], cache: TargetCache) -> bool:
    """Say whether a student, of which a provenance tells, has the teacher of a cache."""
    teacher = about.get("teacher") or {"teacher": None}
    # A local model is known by its weights, any other teacher by its name.
    key = "fingerprint" if "fingerprint" in teacher else "teacher"
    return teacher[key] == cache.identity.get(key)


def provenance_of(name: str | Path) -> dict:
    """Return the provenance of a student, which is "ready" or a folder."""
    return student.read_provenance(_folder(name))


def load_student(name: str | Path) -> SentenceTransformer:
    """Load a student, which is "ready" or a folder."""
    folder = _folder(name)
    return load_ready(folder) if is_ready(folder) else student.load(folder)


def _folder(name: str | Path) -> Path:
    return READY if name == "ready" else expanded(name)


# In the order of their cost. Those without training take seconds once the teacher's vectors are
# there, and search an index of these, but know no more of its texts than the base does.
ROTATION = Recipe("rotation", max_length=96, start="rotation", train=False)
RIDGE = replace(ROTATION, name="ridge", start="ridge")
# The best closed form, with a hidden layer of random units.
ADAPT = Recipe(
    "adapt", max_length=96, hidden=1536, others=1500, pooling=("mean", "cls"), train=False
)
# Minutes on two cores.
TOUR = Recipe("tour", max_length=96)
# For the documents of one subject, within half an hour on two cores.
IN_DOMAIN = TOUR.change(name="in-domain", epochs=4, evaluations=1, steps=1200, texts=1000)
RECIPES = {each.name: each for each in (ROTATION, RIDGE, ADAPT, IN_DOMAIN, TOUR)}


def find_recipe(name: str | Path | Recipe | None, texts: int = 0) -> Recipe:
    """Return a recipe by its name, or from a TOML file of fields of `Recipe` and `TrainingConfig`.

    None chooses "in-domain" for fewer than 5,000 texts, and "tour" for more.
    """
    if isinstance(name, Recipe):
        return name
    if name is None:
        return IN_DOMAIN if texts < _FEW_TEXTS else TOUR
    if name in RECIPES:
        return RECIPES[name]
    try:
        values = tomllib.loads(expanded(name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        names = ", ".join(RECIPES)
        message = f"no recipe {str(name)!r}: expected {names} or a TOML file ({error})"
        raise TrainingError(message) from None
    return Recipe(values.pop("name", Path(name).stem)).change(**values)


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
    recipe: str | Recipe | None = None,
    output: str | Path | None = None,
    held_out: object = None,
    passages: bool = True,
    progress: bool = True,
    skip: float = 0.01,
    **changes: object,
) -> SentenceTransformer:
    """Train a small model to embed texts where a large one does, and return it.

    The same call goes on where an earlier one was stopped, and returns a finished student at once.

    Args:
        texts: what `read_texts` takes, at least 20 different texts. Plain strings are documents.
            Without any query, queries are cropped from them.
        teacher: what `Teacher` takes; the recipe's if None. Or stored vectors of the texts, float
            of shape (n, dimension), such as those of an index that is to be moved.
        recipe: one of `RECIPES`, a TOML file, or a `Recipe`. In seconds: rotation, ridge, adapt.
            By default in-domain (many passes) for fewer than 5,000 texts, else tour (two passes).
        output: folder for the student; by default one below `students/` in the workbench's folder.
        held_out: texts to choose the best student by; by default a twentieth of the texts.
        passages: cut documents into passages that teacher and student read whole.
        skip: share of the texts that may get no target, see `TargetCache`; they are left out.
        **changes: options of `read_texts`, and values of the recipe to change, such as `base`,
            `max_length`, `epochs` or `seed`.

    Example:
        >>> texts = wb.read_texts("tutorial", limit=60)  # some hundreds make a useful student
        >>> quick = {"recipe": "tour", "epochs": 1, "max_length": 40, "progress": False}
        >>> student = wb.distill(texts, "all-mpnet-base-v2", base="all-MiniLM-L6-v2", **quick)
        >>> student.encode_query("where does the river begin?").shape
        (768,)
    """
    source = str(texts) if isinstance(texts, str | Path) else "a list of texts"
    reading = {name: changes.pop(name) for name in data.READING if name in changes}
    if hasattr(teacher, "__array__"):
        teacher = Teacher(teacher, texts=list(data.stream_texts(texts, **reading)))
    texts = data.read_texts(texts, **reading)
    recipe = choose(recipe, len(texts), **changes)
    cache = TargetCache(home() / "cache", teacher_of(teacher, recipe), skip=skip)
    texts = prepare(texts, recipe, cache.teacher, passages)
    held_out = None if held_out is None else data.read_texts(held_out, **reading)
    options = {"source": source, "held_out": held_out, "progress": progress}
    return run(texts, cache, recipe, output, **options).student


def teacher_of(source: object, recipe: Recipe, **options: object) -> Teacher:
    """Return a teacher, the recipe's if None; a named one gets the recipe's prompts and length."""
    source = recipe.teacher if source is None else source
    if not isinstance(source, str | Path):
        return make_teacher(source)
    if not is_api(source):
        return Teacher(source, prompts=recipe.prompts, max_length=recipe.max_length)
    teacher = Teacher(source, prompts=recipe.prompts, **options)
    teacher.name = str(source)  # with its provider, which a later command needs
    return teacher


def choose(recipe: str | Recipe | None, texts: int, **changes: object) -> Recipe:
    """Return a recipe with changes, by default the one for so many texts."""
    if texts < LEAST_TEXTS:
        count = counted(texts, "different text")
        raise TrainingError(f"{count}: expected {LEAST_TEXTS}, and hundreds for a useful student")
    return find_recipe(recipe, texts).change(**changes)


def prepare(
    texts: Sequence[Text], recipe: Recipe, teacher: Teacher, passages: bool = True
) -> Sequence[Text]:
    """Return what a recipe learns from: passages of the texts, with cropped queries if few."""
    if isinstance(teacher, ArrayTeacher):  # it knows these texts and no others
        return texts
    texts, cost = in_passages(texts, recipe.readers(teacher), passages)
    if cost:
        warnings.warn(cost, stacklevel=3)
    if recipe.continues:  # such a student knows queries
        return texts
    if len(texts) < recipe.texts:
        per_text = -(-recipe.texts // len(texts)) - 1
        texts = [*texts, *data.crop_queries(texts, per_text)]
    return with_queries(texts)


def with_queries(texts: Sequence[Text]) -> Sequence[Text]:
    """Return texts, with queries cropped from 1,000 of the documents if there are none."""
    if any(text.role is Role.QUERY for text in texts):
        return texts
    return list_or_store(chain(texts, _crops(texts)), data.IN_MEMORY)


def _crops(documents: Sequence[Text]) -> list[Text]:
    return data.crop_queries(documents[row] for row in spread(len(documents), 1000))


def with_new_queries(dataset: RetrievalDataset) -> RetrievalDataset:
    """Return documents with 200 other queries than those that `with_queries` crops, unjudged.

    A document that is too short for one stands for itself.
    """
    documents, queries = dataset.document_texts(), {}
    learned = {query.text for query in _crops(documents)}
    for row in spread(len(documents), 200):
        crops = [text.text for text in data.crop_queries([documents[row]], 5)]
        new = [text for text in crops if text not in learned] or [documents[row].text]
        queries[f"piece {len(queries) + 1} of {documents[row].id}"] = new[-1]
    return replace(dataset, queries=queries, qrels={})


def run(
    texts: Sequence[Text] | Targets,
    cache: TargetCache,
    recipe: Recipe,
    output: str | Path | None = None,
    *,
    source: str = "",
    held_out: Sequence[Text] | None = None,
    progress: bool = True,
    resume: bool = True,
    on_step: Callable[[TrainingStep], None] | None = None,
    stop: threading.Event | None = None,
) -> Distilled:
    """Make the student of a recipe, or load what the same recipe, teacher, base and texts made.

    Args:
        texts: to learn from, see `prepare`; or their targets, from `cache.embed`.
        source: where the texts are from, for the provenance.
        held_out: texts that choose among steps of training; a twentieth of `texts`, 500 at most, if
            None.
        resume: False starts over.
    """
    train = recipe.train
    if not train or (held_out is None and recipe.continues):
        held_out = []  # it is to know these very documents, which a loss on others does not show
    config = recipe.config.with_steps(recipe.steps, len(texts))
    names = {"teacher": cache.teacher.name, "base": str(recipe.base), "start": str(recipe.start)}
    recipe = replace(recipe, config=config, **names)
    started = provenance_of(recipe.start) if recipe.continues else {}
    base = recipe.base_files()
    identity = {
        "recipe": asdict(recipe),
        "teacher": cache.identity,
        "base": base.fingerprint,
        "head": started.get("head_sha256"),
        "texts": _digest(cache, texts),
        "held_out": None if held_out is None else _digest(cache, held_out),
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
    if held_out is None:
        targets, held_targets = targets.split()

    if train:
        inputs = {"tokens": models.Tokens(model, targets.texts)}
    else:  # the base's output is stored, so that no text goes through it twice
        features = features_of(model, recipe, cache).embed(targets, what="features", **show)
        inputs = {"features": features}
        if stop is not None and stop.is_set():  # some rows are missing
            raise TrainingError(STOPPED)
    about = {"base": started.get("base", base.name), "source": source, "start": recipe.start}
    if recipe.start in student.CLOSED_FORMS:
        model, about["head_fit"] = _fitted(model, targets, recipe, cache, inputs, show)
    result = None
    if train:
        # Hidden, and named after the output: found again, and never taken for the student.
        checkpoints = output.with_name(f".{output.name}-checkpoints") / run_id[:12]
        start = copy.deepcopy(model.state_dict())
        before = found(model, held_targets, targets) if held_targets else 0.0
        with TrainingBar(on_step, disable=not progress) as bar:
            result = training.train_student(
                model,
                targets.texts,
                targets,
                config,
                held_out=(held_targets.texts, held_targets) if held_targets else None,
                checkpoints=checkpoints,
                resume=resume,
                on_step=bar,
                stop=stop,
                **inputs,
            )
        about |= {"config": config, "result": result}
        is_same = result.best_step == 0 or not held_targets
        after = before if is_same else found(model, held_targets, targets)
        about["found"] = {"before": before, "after": after}
        if after < before:  # the loss is no guide to what searches better
            model.load_state_dict(start)
    statement = provenance(cache, targets.texts, **about) | {"run": run_id}
    if int(os.environ.get("RANK", "0")) == 0:
        student.save(model.eval(), output, statement)
        if result is not None and not result.stopped:
            shutil.rmtree(checkpoints.parent, ignore_errors=True)
            if progress and (after < before or result.best_step == 0):
                Bar.write("Training did not improve on its start: the student of step 0 is kept")
    return Distilled(model.eval(), output, statement, result)


def _fitted(
    model: SentenceTransformer,
    targets: Targets,
    recipe: Recipe,
    cache: TargetCache,
    inputs: dict,
    show: dict,
) -> tuple[SentenceTransformer, dict]:
    """Return a student with a head in closed form, or the ready one if that finds more."""
    options = {"kind": recipe.start}
    is_few = len(targets) < _FEW_PASSAGES and isinstance(cache.teacher, LocalTeacher)
    if recipe.others and is_few:
        others = cache.embed(other_texts(recipe.others), what="other texts", **show)
        features = features_of(model, recipe, cache).embed(others, what="features", **show)
        options["others"] = np.asarray(features), np.asarray(others)
    fitted = student.fit_head(model, targets.texts, targets, **inputs, **options)
    finds = f"{fitted['found']:.0%} of the teacher's 10 nearest for held-out texts"
    rotation = f"a rotation {fitted['found_by_rotation']:.0%}"
    of_ready = provenance_of("ready")
    has_base = of_ready["base_fingerprint"] == recipe.base_files().fingerprint
    if recipe.others and has_base and has_teacher(of_ready, cache):
        ready = load_ready()
        rows = models.by_role(targets.texts)
        documents = targets.subset(rows.get("document", rows.get("query")))
        fitted["found_by_ready"] = found(ready, documents, documents)
        model = ready if is_readys(fitted) else model
    if show["progress"]:
        Bar.write(f"Closed forms find {finds} ({rotation}). The head is {form_of(fitted)}")
    return model, fitted


def _some(targets: Targets, most: int) -> Targets:
    return targets.subset(np.array(spread(len(targets), most)))


def is_readys(fitted: Mapping[str, float]) -> bool:
    """Say whether the ready student, which has not learned the documents, finds more for them."""
    return fitted.get("found_by_ready", 0) > fitted["found"]


def form_of(fitted: Mapping[str, float]) -> str:
    """Say which closed form was chosen, of what `student.fit_head` returns."""
    if is_readys(fitted):
        return "the ready student's"
    mix, others = fitted["mix"], fitted["others"]
    kinds = {0: "a rotation", 1: "a ridge regression"}
    form = kinds.get(mix, f"a rotation ({1 - mix:.0%}) and a ridge regression ({mix:.0%})")
    return form + (f", of these and {others:,} other texts" if others else "")


def found(model: SentenceTransformer, held_out: Targets, learned: Targets) -> float:
    """Return the share of the teacher's 10 nearest documents that a student finds.

    It is asked 500 of the queries that are held out, or of the documents if there are none.
    """
    rows = models.by_role(held_out.texts)
    asked = _some(held_out.subset(rows.get("query", rows.get("document"))), 500)
    pool = []
    for each in [learned] if held_out is learned else [learned, held_out]:
        rows = models.by_role(each.texts)
        pool.append(_some(each.subset(rows.get("document", rows.get("query"))), 20_000))
    documents, vectors = np.concatenate(pool), models.encode(model, asked.texts)
    k = min(closed_form.NEAREST, len(documents))
    nearest, hits = (agreement.neighbors(each, k, among=documents) for each in (asked, vectors))
    return float(agreement.overlap(nearest, hits).mean())


def other_texts(count: int) -> list[Text]:
    """Return texts of other subjects: the tutorial's documents, and docstrings of libraries."""
    texts = chain(data.read_dataset("tutorial").document_texts(), docstring_corpus(count).train)
    return list(islice((text for text in texts if text.role is Role.DOCUMENT), count))


def features_of(model: SentenceTransformer, recipe: Recipe, cache: TargetCache) -> TargetCache:
    """Return the cache of a student's features, what its base gives its head, beside a cache."""
    weights = recipe.base_files().fingerprint
    return TargetCache(cache.folder.parent, student.FrozenFeatures(model, weights))


def _digest(cache: TargetCache, texts: Sequence[Text] | Targets) -> str:
    """Return the SHA-256 (hex) over the keys of texts."""
    keys = texts.keys if isinstance(texts, Targets) else cache.keys(texts)
    return hashlib.sha256(keys.tobytes()).hexdigest()


def _finished(folder: Path, run_id: str) -> Distilled | None:
    """Return the student of this very run, if it is there and whole."""
    try:
        statement = student.read_provenance(folder)
        if statement.get("run") == run_id and statement.get("finished"):
            return Distilled(student.load(folder).eval(), folder, statement)
    except WorkbenchError as error:
        warnings.warn(f"{folder} is made again: {error}", stacklevel=3)
    return None


class TrainingBar(Bar):
    """A bar for training: give it as `on_step`. It prints a line for each held-out evaluation."""

    def __init__(self, on_step: Callable[[TrainingStep], None] | None = None, **options) -> None:
        super().__init__(desc="student", unit=" steps", **options)
        self._on_step = on_step

    def __call__(self, step: TrainingStep) -> None:
        """Show a step, and hand it on to another `on_step`."""
        if self.total is None:
            self.reset(step.steps)
            self.initial = self.n = step.step  # what an earlier run did is not in the rate
        self.update(step.step - self.n)
        if step.loss is not None:
            speed = f"{step.texts_per_second:.0f} texts/s"
            self.set_postfix_str(f"loss {step.loss:.3f}, {speed}", refresh=False)
        if step.held_out_loss is not None and not self.disable:
            self.write(f"epoch {step.epoch:4.2f}: held-out loss {step.held_out_loss:.4f}")
        if self._on_step is not None:
            self._on_step(step)
