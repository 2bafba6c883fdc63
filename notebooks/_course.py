"""What the notebooks share: how much they do, and the student that they look at."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from workbench import evaluate, pipeline, ranking, student
from workbench._util import home, unit
from workbench.cache import TargetCache
from workbench.data import Text, as_texts, read_texts
from workbench.errors import WorkbenchError
from workbench.pipeline import TOUR
from workbench.train import TrainingConfig


@dataclass(frozen=True)
class Profile:
    """How much a notebook does.

    Attributes:
        name: "quick" or "full".
        pairs: docstring pairs to learn from; all of them if None.
        held_out: docstring pairs to measure on.
        train_texts: texts for a closed-form head without training; all of them if None.
        config: of training.
    """

    name: str
    pairs: int | None
    held_out: int
    train_texts: int | None
    config: TrainingConfig

    @property
    def folder(self) -> Path:
        """Where the notebooks keep what they make, besides the cache of targets."""
        return home() / ("notebook" if self.name == "quick" else f"notebook-{self.name}")


# Minutes on two cores. So few steps leave no time to make up for a higher learning rate.
_QUICK = Profile("quick", 400, 150, 800, replace(TOUR.config, epochs=1, learning_rate=1.5e-4))
_FULL = Profile("full", None, 500, None, replace(TOUR.config, epochs=4, evaluations=1))
SAME = 0.95  # cosine of near-duplicates
PROFILES = {profile.name: profile for profile in (_QUICK, _FULL)}


def profile() -> Profile:
    """Return the profile that `WORKBENCH_PROFILE` names, "quick" if it is not set.

    Raises:
        WorkbenchError: an unknown name.
    """
    name = os.environ.get("WORKBENCH_PROFILE") or "quick"
    if name not in PROFILES:
        raise WorkbenchError(f"WORKBENCH_PROFILE is {name!r}: choose from {', '.join(PROFILES)}")
    return PROFILES[name]


def learned(cache: TargetCache, texts: Sequence[Text]) -> Path:
    """Return the folder of notebook 2's student, or else of a student with a closed-form head and no training.

    Args:
        cache: of the teacher. A student of another teacher, or a damaged one, is not used.
        texts: for the closed form; a student of the same texts is used again.
    """
    trained = profile().folder / "student"
    try:
        if student.read_provenance(trained).get("teacher") == cache.identity:
            student.load(trained)
            return trained
    except WorkbenchError as error:
        warnings.warn(
            f"{trained} is not used ({error}): delete it, or run notebook 2 again", stacklevel=2
        )
    output = profile().folder / "closed-form"
    return pipeline.run(
        texts, cache, TOUR.change(train=False), output, source="docstrings", progress=False
    ).folder


def more_like(
    texts: Sequence[str | Text], pool: Any, count: int, model: Any, *, avoid: Sequence = ()
) -> list[Text]:
    """Pick texts from a pool by their highest cosine to others, without near-duplicates.

    `pool` and `model` are what `read_texts` and `wb.compare` take. Nothing like `avoid` is picked.
    """
    pool, others = read_texts(pool), as_texts([*texts, *avoid])
    model = evaluate.as_model(model, others)
    taken = unit(evaluate.vectors(model, others))
    candidates = unit(evaluate.vectors(model, pool))
    resemblance = ranking.top_k(candidates, taken[: len(texts)], 1, normalized=True)[0][:, 0]
    picked = []
    for row in np.argsort(-resemblance, kind="stable"):
        if len(picked) < count and (taken @ candidates[row]).max() < SAME:
            picked.append(pool[row])
            taken = np.concatenate([taken, candidates[row][None]])
    return picked
