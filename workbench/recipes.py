"""Named settings: what to distil from what, and how."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from workbench import models
from workbench.distill import Settings


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a student besides its texts.

    Attributes:
        name: what reports call it.
        teacher: model that makes the targets.
        base: model whose transformer the student starts from.
        max_length: tokens that teacher and student read of a text.
        bias: whether the student's head has one.
        settings: how to train.
    """

    name: str
    teacher: str = models.MPNET
    base: str = models.MINILM
    max_length: int = 128
    bias: bool = True
    settings: Settings = field(default_factory=Settings)

    def as_dict(self) -> dict:
        """Return the recipe as JSON values."""
        return asdict(self)


# Minutes on two cores. The learning rate is higher and the batch smaller than the paper's, because
# there are hundreds of steps here where the paper has millions.
TOUR = Recipe(
    "tour",
    max_length=96,
    settings=Settings(
        batch_size=16,
        learning_rate=3e-4,
        final_learning_rate=1e-5,
        epochs=2,
        cycles=1,
        evaluations=2,
        checkpoint_steps=200,
    ),
)
# The documents of the tour: queries are six times shorter, so all of them are used.
TOUR_DOCUMENTS = 2000
