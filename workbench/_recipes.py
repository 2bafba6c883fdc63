"""Recipes: everything that decides a student besides its texts."""

from __future__ import annotations

import os
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from sentence_transformers import SentenceTransformer

from workbench import models, student
from workbench._util import expanded
from workbench.cache import TargetCache
from workbench.errors import TrainingError
from workbench.ready import READY, is_ready, load_ready
from workbench.train import HEAD, TrainingConfig

HEAD_STARTS = "closed-form", "random"  # how a head can start
FEW_TEXTS = 5000  # below this many, "in-domain" is the default recipe: many passes, cropped queries


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a student besides its texts.

    Example:
        >>> from workbench.pipeline import TOUR
        >>> recipe = TOUR.change(base="all-MiniLM-L6-v2", epochs=1, seed=7)
        >>> recipe.config.epochs
        1
    """

    name: str  # what reports call it
    teacher: str = models.MPNET  # makes the targets
    base: str = models.MINILM  # the student starts from its transformer
    max_length: int = 128  # tokens that teacher and student read of a text
    bias: bool = True  # whether the head has a bias
    hidden: int = 0  # units of the head's hidden layer, see `student.build`; 0 for a linear head
    pooling: str | tuple[str, ...] = "mean"  # of token vectors into the head's features
    frozen: bool = False  # whether the head alone is trained, on stored features of the base
    prompts: dict[str, str] | None = None  # role to the teacher's prompt; None for its own ones
    # Of the head, "closed-form" or "random"; or the student to go on from, "ready" or a folder. It
    # has the same teacher, and its base, head and length count.
    start: str = "closed-form"
    config: TrainingConfig = field(default_factory=TrainingConfig)  # how to train
    steps: int = 0  # least number of training steps: few texts are passed over more often
    texts: int = 0  # least number of texts: cropped queries make up for missing ones

    def __post_init__(self) -> None:
        if self.start in (*HEAD_STARTS, "ready"):
            return
        if not os.path.isdir(expanded(self.start)):
            raise TrainingError(
                f"start {self.start!r}: expected closed-form, random, ready or a student's folder"
            )
        object.__setattr__(self, "start", str(expanded(self.start)))

    @property
    def continues(self) -> bool:
        """Whether training goes on from another student."""
        return self.start not in HEAD_STARTS

    def as_dict(self) -> dict:
        """Return the recipe as JSON values."""
        return asdict(self)

    def change(self, **changes: object) -> Recipe:
        """Return the recipe with other values, of its own fields or of its training configuration.

        None leaves a value as it is. A number of `epochs` is not raised to `steps`, and the final
        learning rate never exceeds the first one.

        Raises:
            TrainingError: an unknown name, or a value that is out of range.
        """
        changes = {name: value for name, value in changes.items() if value is not None}
        recipe_fields = {field.name for field in fields(Recipe)}
        training_fields = {field.name for field in fields(TrainingConfig)}
        if unknown := sorted(changes.keys() - recipe_fields - training_fields):
            names = ", ".join(sorted((recipe_fields | training_fields) - {"config"}))
            raise TrainingError(f"a recipe has no {', '.join(unknown)}; it has {names}")
        if "epochs" in changes:
            changes.setdefault("steps", 0)
        if "learning_rate" in changes:
            final = min(self.config.final_learning_rate, changes["learning_rate"])
            changes.setdefault("final_learning_rate", final)
        training = {name: changes.pop(name) for name in training_fields & changes.keys()}
        changed = replace(self, **{"config": replace(self.config, **training)} | changes)
        fixed = {"base", "bias", "hidden", "max_length", "pooling", "prompts"} & changes.keys()
        if fixed and changed.continues:
            names = ", ".join(sorted(fixed))
            raise TrainingError(f"{names}: decided by the student to start from; leave it out")
        return changed

    def student(self, cache: TargetCache) -> SentenceTransformer:
        """Return the untrained student for a cache's targets; a closed form is yet to be fitted.

        Raises:
            TrainingError: the student to go on from is of another teacher.
        """
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
            prompts=cache.prompts,
            seed=self.config.seed,
        )

    def check_teacher(self, cache: TargetCache) -> None:
        """Raise TrainingError if the student to go on from has another teacher than the cache."""
        provenance = provenance_of(self.start)
        teacher = provenance.get("teacher") or {"teacher": None}
        # A local model is known by its weights, any other teacher by its name.
        key = "fingerprint" if "fingerprint" in teacher else "teacher"
        if teacher[key] != cache.identity.get(key):
            raise TrainingError(
                f"the student to start from learned from {provenance.get('teacher_name')}, not "
                f"from {cache.teacher.name}: name its teacher (a loaded model counts as another)"
            )

    def base_files(self) -> models.ModelFiles:
        """Return the files that have the transformer's weights; ModelError if there are none."""
        if self.continues and not is_ready(_folder(self.start)):
            return models.resolve(self.start)
        return models.resolve(provenance_of(self.start)["base"] if self.continues else self.base)


def provenance_of(name: str | Path) -> dict:
    """Return the provenance of a student, which is "ready" or a folder."""
    return student.read_provenance(_folder(name))


def load_student(name: str | Path) -> SentenceTransformer:
    """Load a student, which is "ready" or a folder."""
    folder = _folder(name)
    return load_ready(folder) if is_ready(folder) else student.load(folder)


def fingerprint_of(name: str | Path) -> str:
    """Return the digest of the weights of a student, which is "ready" or a folder."""
    return provenance_of(name).get("head_sha256") or models.resolve(name).fingerprint


def _folder(name: str | Path) -> Path:
    return READY if name == "ready" else expanded(name)


# Minutes on two cores.
TOUR = Recipe("tour", max_length=96)
# For the documents of one subject, within half an hour on two cores. Few of them are read again
# and again, and a few hundred are too few by themselves.
_PATIENT = replace(TOUR.config, epochs=4, evaluations=1)
IN_DOMAIN = replace(TOUR, name="in-domain", config=_PATIENT, steps=1200, texts=1000)
# For any subject, from many texts of many sources: the head alone is trained, in seconds once the
# teacher's vectors are there.
BROAD = replace(TOUR, name="broad", hidden=1536, pooling=("mean", "cls"), frozen=True, config=HEAD)
# The documents of an index, from the student that knows a little of everything: seconds. It ends
# where it knows them best.
_ADAPTING = replace(HEAD, batch_size=256, epochs=20)
ADAPT = replace(BROAD, name="adapt", start="ready", config=_ADAPTING)

RECIPES = {recipe.name: recipe for recipe in (TOUR, IN_DOMAIN, BROAD, ADAPT)}


def find_recipe(name: str | Path | Recipe | None, texts: int = 0) -> Recipe:
    """Return a recipe.

    Args:
        name: of a recipe, or of a TOML file whose keys are fields of `Recipe` and `TrainingConfig`.
            None chooses "in-domain" for fewer than 5,000 texts and "tour" for more.
        texts: how many there are.

    Raises:
        TrainingError: an unknown name, or a file that is no recipe.
    """
    if isinstance(name, Recipe):
        return name
    if name is None:
        return IN_DOMAIN if texts < FEW_TEXTS else TOUR
    if name in RECIPES:
        return RECIPES[name]
    path = expanded(name)
    if path.is_file():
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TrainingError(f"{path} cannot be read as a recipe in TOML: {error}") from None
        return Recipe(values.pop("name", path.stem)).change(**values)
    raise TrainingError(f"no recipe {str(name)!r}; there are {', '.join(RECIPES)}, and TOML files")
