"""Recipes: everything that decides a student besides its texts."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

from sentence_transformers import SentenceTransformer

from workbench import models, student
from workbench._util import expanded, nearest, whole
from workbench.errors import TrainingError
from workbench.head import HEAD
from workbench.ready import READY, is_ready, load_ready, statement
from workbench.train import TrainingConfig

if TYPE_CHECKING:
    from workbench._model_files import ModelFiles
    from workbench.cache import TargetCache

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

    Attributes:
        name: what reports call it.
        teacher: model that makes the targets.
        base: model whose transformer the student starts from.
        max_length: tokens that teacher and student read of a text.
        bias: whether the student's head has a bias.
        hidden: units of the head's hidden layer, see `student.build`; 0 for a linear head.
        pooling: of the tokens' vectors into the head's features, see `student.build`.
        frozen: whether the head alone learns, on stored features of the base, see `head.train_head`.
        prompts: role to the teacher's prompt; the prompts of the teacher's own files if None.
        start: of the head, "closed-form" or "random"; or the student to go on from: "ready", see `ready.load_ready`, or the
            folder of a student (or of `ready.save_ready`) of the same teacher, whose base, head and length then count.
        config: how to train.
        steps: least number of training steps: few texts are passed over more often (`TrainingConfig.with_steps`).
        texts: least number of texts: queries cropped from the documents make up for what is missing.
    """

    name: str
    teacher: str = models.MPNET
    base: str = models.MINILM
    max_length: int = 128
    bias: bool = True
    hidden: int = 0
    pooling: str | tuple[str, ...] = "mean"
    frozen: bool = False
    prompts: dict[str, str] | None = None
    start: str = "closed-form"
    config: TrainingConfig = field(default_factory=TrainingConfig)
    steps: int = 0
    texts: int = 0

    def __post_init__(self) -> None:
        if self.start not in (*HEAD_STARTS, "ready"):
            if not _is_folder(self.start):
                raise TrainingError(
                    f"start {self.start!r}: it must be closed-form, random or ready, or the folder of a student"
                )
            object.__setattr__(self, "start", str(expanded(self.start)))
        for name, least in (("max_length", 3), ("hidden", 0), ("steps", 0), ("texts", 0)):
            whole(getattr(self, name), name, least, TrainingError)

    def as_dict(self) -> dict:
        """Return the recipe as JSON values."""
        return asdict(self)

    def change(self, **changes: object) -> Recipe:
        """Return the recipe with other values, of its own fields or of its training configuration.

        None leaves a value as it is. A given number of `epochs` is not raised to `steps`, and the final learning rate
        never exceeds the first one. TrainingError for an unknown name or a value that is out of range.
        """
        changes = {name: value for name, value in changes.items() if value is not None}
        own, training = ({each.name for each in fields(kind)} for kind in (Recipe, TrainingConfig))
        if unknown := sorted(set(changes) - own - training):
            known = ", ".join(sorted((own | training) - {"config"}))
            raise TrainingError(f"a recipe has no {', '.join(unknown)}; it has {known}")
        fixed = {"base", "bias", "hidden", "max_length", "pooling", "prompts"} & {*changes}
        start = changes.get("start", self.start)
        if fixed and (start == "ready" or _is_folder(start)):
            raise TrainingError(
                f"{', '.join(sorted(fixed))}: decided by the student to start from; leave it out"
            )
        if "epochs" in changes:
            changes.setdefault("steps", 0)
        if isinstance(changes.get("learning_rate"), Real):
            changes.setdefault(
                "final_learning_rate",
                min(self.config.final_learning_rate, changes["learning_rate"]),
            )
        config = replace(
            self.config, **{name: value for name, value in changes.items() if name in training}
        )
        return replace(
            self,
            **{"config": config} | {name: value for name, value in changes.items() if name in own},
        )

    def student(self, cache: TargetCache) -> SentenceTransformer:
        """Return the student that training starts from, for a cache's targets; a closed form is yet to be fitted.

        Raises:
            TrainingError: the student to go on from is of another teacher.
        """
        if self.start not in HEAD_STARTS:
            self.check_teacher(cache)
            folder = self._folder()
            return load_ready(folder) if is_ready(folder) else student.load(folder)
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
        """Raise TrainingError if the student to go on from has learned from another teacher than a cache's."""
        learned = self.started_from()
        given, now = (
            each.get("fingerprint") or each.get("teacher")
            for each in (learned["teacher"], cache.identity)
        )
        if given != now:
            raise TrainingError(
                f"the student to start from has learned from {learned.get('teacher_name')}, and its vectors are of no use "
                f"beside those of {cache.teacher.name}: give {learned.get('teacher_name')} as the teacher, by its name or "
                "folder (a loaded model counts as another one), or another start"
            )

    def base_files(self) -> ModelFiles | None:
        """Return the files of the student's base; None where the folder to go on from holds the whole student.

        Raises:
            ModelError: the base is not found.
        """
        started = self.started_from()
        if started and "head_sha256" not in started:
            return None  # where it came from may be gone
        return models.resolve(started.get("base", self.base))

    def started_from(self) -> dict:
        """Return the provenance of the student to go on from; {} where there is none."""
        if self.start in HEAD_STARTS:
            return {}
        folder = self._folder()
        stated = statement(folder) if is_ready(folder) else student.read_provenance(folder)
        if not isinstance(stated.get("teacher"), dict):
            raise TrainingError(
                f"{self.start} does not say which teacher its student has learned from"
            )
        return stated

    def _folder(self) -> Path:
        return READY if self.start == "ready" else Path(self.start)


def _is_folder(start: object) -> bool:
    return isinstance(start, str | Path) and bool(str(start)) and os.path.isdir(expanded(start))


# Minutes on two cores.
TOUR = Recipe("tour", max_length=96)
# For the documents of one subject, within half an hour on two cores. Few of them are read again and again, and a few
# hundred are too few by themselves.
_PATIENT = replace(TOUR.config, epochs=4, evaluations=1)
IN_DOMAIN = replace(TOUR, name="in-domain", config=_PATIENT, steps=1200, texts=1000)
# For any subject, from many texts of many sources: the head alone learns, in seconds once the teacher's vectors are there.
BROAD = replace(TOUR, name="broad", hidden=1536, pooling=("mean", "cls"), frozen=True, config=HEAD)
# The documents of an index, from the student that knows a little of everything: seconds. It ends where it knows them best.
ADAPT = replace(BROAD, name="adapt", start="ready", config=replace(HEAD, batch_size=256, epochs=20))
# The documents of the tour: queries are six times shorter, so all of them are used.
TOUR_DOCUMENTS = 2000

_PAPER = TrainingConfig(
    batch_size=32,
    learning_rate=1e-4,
    final_learning_rate=1e-5,
    epochs=10,
    restarts=3,
    checkpoint_steps=500,
)
_SEARCH = {"query": "Represent this sentence for searching relevant passages: "}

# The paper's two students (arXiv 2509.12539): its teachers, prompts, heads, batch size, learning rates and restarts. It
# states neither training length nor precision: 128 tokens and float32 are ours. Weeks on two cores.
REDACT_IR = Recipe(
    "redact-ir",
    teacher="Snowflake/snowflake-arctic-embed-m-v1.5",
    prompts=_SEARCH,
    start="random",
    config=replace(_PAPER, group_by_length=False, precision="float32"),
)
REDACT_MT = replace(
    REDACT_IR, name="redact-mt", teacher="mixedbread-ai/mxbai-embed-large-v1", bias=False
)

# The same with what `python -m bench.ablation` shows to help: the closed-form start, batches of similar lengths and
# bfloat16.
_FASTER = {"start": "closed-form", "config": _PAPER}
REDACT_IR_FAST = replace(REDACT_IR, name="redact-ir-fast", **_FASTER)
REDACT_MT_FAST = replace(REDACT_MT, name="redact-mt-fast", **_FASTER)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        TOUR,
        IN_DOMAIN,
        BROAD,
        ADAPT,
        REDACT_IR,
        REDACT_IR_FAST,
        REDACT_MT,
        REDACT_MT_FAST,
    )
}


def find_recipe(name: str | Recipe | None, texts: int = 0) -> Recipe:
    """Return a recipe by its name; TrainingError names the nearest ones.

    Args:
        name: or a recipe; None chooses "in-domain" for fewer than 5,000 texts and "tour" for more.
        texts: how many there are.
    """
    if isinstance(name, Recipe):
        return name
    if name is None:
        return IN_DOMAIN if texts < FEW_TEXTS else TOUR
    if name not in RECIPES:
        near = nearest(str(name), RECIPES, cutoff=0.3)
        found = f"the nearest {'is' if len(near) == 1 else 'are'}" if near else "there are"
        raise TrainingError(f"no recipe {name!r}; {found} {', '.join(near or RECIPES)}")
    return RECIPES[name]
