"""Named settings: what to distill from what, and how."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches

from sentence_transformers import SentenceTransformer

from workbench import models, student
from workbench.cache import TargetCache
from workbench.errors import TrainingError
from workbench.train import TrainingConfig


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a student besides its texts.

    Attributes:
        name: what reports call it.
        teacher: model that makes the targets.
        base: model whose transformer the student starts from.
        max_length: tokens that teacher and student read of a text.
        bias: whether the student's head has one.
        prompts: role to the teacher's prompt; what the teacher's own files say if None.
        start: of the head, "closed-form" or "random".
        config: how to train.
        steps: of training at least: there are more passes over few texts (`TrainingConfig.with_steps`).
        texts: to learn from at least: fewer documents are joined by pieces of theirs (`data.add_cropped_queries`).
    """

    name: str
    teacher: str = models.MPNET
    base: str = models.MINILM
    max_length: int = 128
    bias: bool = True
    prompts: dict[str, str] | None = None
    start: str = "closed-form"
    config: TrainingConfig = field(default_factory=TrainingConfig)
    steps: int = 0
    texts: int = 0

    def as_dict(self) -> dict:
        """Return the recipe as JSON values."""
        return asdict(self)

    def student(self, cache: TargetCache) -> SentenceTransformer:
        """Return the student for a cache's targets, its head still at random."""
        return student.build(
            self.base,
            cache.dimension,
            normalize=cache.identity["normalize"],
            bias=self.bias,
            max_length=self.max_length,
            prompts=cache.prompts,
            seed=self.config.seed,
        )


# Minutes on two cores.
TOUR = Recipe("tour", max_length=96)
# For the documents of one subject, within half an hour on two cores. Few of them are read again and again, and a few
# hundred are too few by themselves.
IN_DOMAIN = replace(
    TOUR, name="in-domain", config=replace(TOUR.config, epochs=4, evaluations=1), steps=1200, texts=1000
)
# The documents of the tour: queries are six times shorter, so all of them are used.
TOUR_DOCUMENTS = 2000

_PAPER = TrainingConfig(
    batch_size=32, learning_rate=1e-4, final_learning_rate=1e-5, epochs=10, restarts=3, checkpoint_steps=500
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
REDACT_MT = replace(REDACT_IR, name="redact-mt", teacher="mixedbread-ai/mxbai-embed-large-v1", bias=False)

# The same with what `python -m bench.ablation` shows to help: the closed-form start, batches of like lengths and bfloat16.
_FASTER = {"start": "closed-form", "config": _PAPER}
REDACT_IR_FAST = replace(REDACT_IR, name="redact-ir-fast", **_FASTER)
REDACT_MT_FAST = replace(REDACT_MT, name="redact-mt-fast", **_FASTER)

RECIPES = {recipe.name: recipe for recipe in (TOUR, IN_DOMAIN, REDACT_IR, REDACT_IR_FAST, REDACT_MT, REDACT_MT_FAST)}


def recipe(name: str) -> Recipe:
    """Return a recipe by its name.

    Raises:
        TrainingError: there is none; the message has the nearest names.
    """
    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, cutoff=0.3) or RECIPES
        raise TrainingError(f"there is no recipe {name!r}; the nearest are {', '.join(near)}")
    return RECIPES[name]
