"""What is checked before a training run: texts and targets that would spoil it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sklearn.feature_extraction.text import HashingVectorizer

from workbench import models
from workbench.data import Text
from workbench.errors import TrainingError
from workbench.models import by_role
from workbench.student import Tokens, head_of, pooled, ridge

_ONE_ROLE = {
    "query": "no query among the training texts: the student will embed short queries less well. "
    "Add some of your own, or data.crop_queries(texts), which cuts them from documents",
    "document": "no document among the training texts: the student will embed documents less well. Add some of your own",
}


def check(
    student: SentenceTransformer,
    texts: Sequence[Text],
    targets: np.ndarray,
    held_out: tuple[Sequence[Text], np.ndarray] | None = None,
    *,
    batch_size: int = 16,
    tokens: Tokens | None = None,
    pairs: bool = True,
) -> None:
    """Find what would spoil a training run before it starts. Arguments are those of `train_student`.

    Raises:
        TrainingError: too few texts, texts and targets out of step, a wrong width, NaN, or targets
            whose norms the student cannot reach. A role that does not occur is a warning.
    """
    width = head_of(student)[-1].out_features
    normalize = models.normalizes(student)
    for name, some, wanted in (
        ("training", texts, targets),
        *((("held-out", *held_out),) if held_out else ()),
    ):
        least = batch_size if name == "training" else 1
        if len(some) < least:
            raise TrainingError(
                f"{len(some):,} {name} texts are too few: at least {least} are needed, a batch; a smaller batch_size needs fewer"
            )
        if len(some) != len(wanted):
            raise TrainingError(
                f"{len(some):,} {name} texts and {len(wanted):,} targets are out of step"
            )
        if wanted.shape[1] != width:
            raise TrainingError(
                f"the {name} targets are {wanted.shape[1]} wide and the student's vectors {width}: "
                "build the student with the teacher's dimension"
            )
        if blank := sum(not text.text.strip() for text in some):
            raise TrainingError(
                f"{blank:,} of {len(some):,} {name} texts are blank: leave them out"
            )
        for start in range(0, len(some), 8192):
            norms = np.linalg.norm(wanted[np.arange(start, min(start + 8192, len(some)))], axis=1)
            if not (finite := np.isfinite(norms)).all():
                where = start + int(np.argmin(finite))
                raise TrainingError(
                    f"{name} target {where:,} contains NaN or infinity ({some[where].text[:60]!r})"
                )
            if normalize and np.abs(norms - 1).max() > 0.01:
                where = start + int(np.argmax(np.abs(norms - 1)))
                raise TrainingError(
                    f"the student's vectors have unit norm, but {name} target {where:,} has norm "
                    f"{norms[where - start]:.3f}: build it with normalize=False"
                )
    if (
        not normalize
        and np.abs(np.linalg.norm(targets[np.arange(min(256, len(texts)))], axis=1) - 1).max()
        < 0.01
    ):
        warnings.warn(
            "all targets have unit norm: a student built with normalize=True fits better",
            stacklevel=3,
        )
    if absent := {"query", "document"} - set(by_role(texts)):
        warnings.warn(_ONE_ROLE[absent.pop()], stacklevel=3)
    if pairs:
        _check_in_step(student, texts, targets, tokens)


def _check_in_step(
    student: SentenceTransformer, texts: Sequence[Text], targets: np.ndarray, tokens: Tokens | None
) -> None:
    """Raise if neither the student's features nor the words say anything about the targets: rows are shifted or shuffled.

    A permutation test on a sample: a ridge regression has to predict unseen targets better than it does after the targets
    were shuffled within each role. A weak base's features can fail that in order, so the letters get a chance too.
    """
    if len(texts) < 200:
        return
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(texts), size=min(400, len(texts)), replace=False)
    wanted = torch.from_numpy(np.asarray(targets[chosen], dtype=np.float32)).double()
    fitted = len(chosen) * 3 // 4
    roles = by_role([texts[i] for i in chosen])

    def error(features: torch.Tensor, order: np.ndarray) -> float:
        weight, bias = ridge(features[:fitted], wanted[order[:fitted]], 0.1)
        return float(
            (features[fitted:] @ weight.T + bias - wanted[order[fitted:]]).pow(2).sum(dim=1).mean()
        )

    def shuffled() -> np.ndarray:
        order = np.arange(len(chosen))
        for rows in roles.values():
            order[rows] = rng.permutation(rows)
        return order

    letters = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), n_features=512)
    for make in (
        lambda: pooled(student, texts, chosen, tokens),
        lambda: letters.transform([texts[i].text for i in chosen]).toarray(),
    ):
        features = torch.from_numpy(make()).double()
        found = error(features, np.arange(len(chosen)))
        by_chance = np.array([error(features, shuffled()) for _ in range(20)])
        if found <= by_chance.mean() - 3 * by_chance.std():
            return
    raise TrainingError(
        f"texts and targets look out of step: {fitted} of them say no more about the others (squared error {found:.3f}) "
        f"than after shuffling ({by_chance.mean():.3f}). Check that row i of the targets belongs to text i; if it does, "
        "check_pairs=False (--unchecked) trains all the same."
    )
