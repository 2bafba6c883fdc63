"""What the notebooks share: how much they take on, and the student that they look at."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from workbench import student
from workbench._util import home
from workbench.cache import TargetCache
from workbench.data import Text
from workbench.errors import WorkbenchError
from workbench.pipeline import TOUR
from workbench.train import TrainingConfig, provenance


@dataclass(frozen=True)
class Profile:
    """How much a notebook takes on.

    Attributes:
        name: "tour" or "full".
        pairs: docstring pairs to learn from; all of them if None.
        held_out: docstring pairs to measure on.
        lesson: texts that a closed-form start learns from, where that is all; all of them if None.
        config: of training.
    """

    name: str
    pairs: int | None
    held_out: int
    lesson: int | None
    config: TrainingConfig

    @property
    def folder(self) -> Path:
        """Where the notebooks keep what they make, besides the cache of targets."""
        return home() / ("notebook" if self.name == "tour" else f"notebook-{self.name}")


# In minutes on two cores. So few steps leave no time to make up for a higher learning rate.
_TOUR = Profile("tour", 1000, 200, 1000, replace(TOUR.config, epochs=1, learning_rate=1.5e-4))
_FULL = Profile("full", None, 500, None, replace(TOUR.config, epochs=4, evaluations=1))
PROFILES = {profile.name: profile for profile in (_TOUR, _FULL)}


def profile() -> Profile:
    """Return the profile that `WORKBENCH_PROFILE` names, "tour" if it is not set.

    Raises:
        WorkbenchError: there is none of that name.
    """
    name = os.environ.get("WORKBENCH_PROFILE") or "tour"
    if name not in PROFILES:
        raise WorkbenchError(f"WORKBENCH_PROFILE is {name!r}: choose from {', '.join(PROFILES)}")
    return PROFILES[name]


def learned(cache: TargetCache, lesson: Sequence[Text]) -> Path:
    """Return the folder of notebook 2's student, or else of one that has nothing but a closed-form start.

    Args:
        cache: holds the teacher's vectors of the lesson. A student of another teacher, or a damaged one, is not taken.
        lesson: what the closed-form start learns from; one that has learned the same is taken again.
    """
    folder = profile().folder
    if _usable(folder / "student", {"teacher": cache.identity}):
        return folder / "student"
    learned = hashlib.sha256(cache.keys(lesson).tobytes()).hexdigest()
    if _usable(folder / "closed-form", {"teacher": cache.identity, "lesson": learned}):
        return folder / "closed-form"
    model = TOUR.student(cache)
    student.fit_head(model, lesson, cache.targets(lesson))
    made = {"teacher": TOUR.teacher, "base": TOUR.base, "source": "docstrings"}
    return student.save(model, folder / "closed-form", provenance(cache, lesson, **made) | {"lesson": learned})


def _usable(folder: Path, stated: dict) -> bool:
    """Say whether a student lies there that states all this, and loads."""
    try:
        about = student.read_provenance(folder)
        if any(about.get(name) != value for name, value in stated.items()):
            return False
        student.load(folder)
    except WorkbenchError as error:
        warnings.warn(f"{folder} is left aside ({error}): delete it, or make it anew with notebook 2", stacklevel=3)
        return False
    return True
