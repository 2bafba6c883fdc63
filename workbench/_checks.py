"""What would silently spoil a training run, found before it starts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sklearn.feature_extraction.text import HashingVectorizer

from workbench import models
from workbench.data import Text
from workbench.errors import TrainingError
from workbench.models import Tokens
from workbench.student import check_shapes, pooled, ridge


def check(student: SentenceTransformer, texts: Sequence[Text], targets: np.ndarray) -> None:
    """Raise TrainingError for targets that do not fit the texts or the student."""
    check_shapes(student, len(texts), targets)
    unit_norm = models.normalizes(student)
    for start in range(0, len(texts), 8192):
        rows = np.arange(start, min(start + 8192, len(texts)))
        norms = np.linalg.norm(targets[rows], axis=1)
        if not np.isfinite(norms).all():
            row = rows[np.argmin(np.isfinite(norms))]
            raise TrainingError(f"target {row:,} has NaN or infinity ({texts[row].text[:60]!r})")
        if unit_norm and np.abs(norms - 1).max() > 0.01:
            raise TrainingError(
                "the student's vectors have unit norm, and the targets do not: build it with "
                "normalize=False"
            )


def check_in_step(
    student: SentenceTransformer, texts: Sequence[Text], targets: np.ndarray, tokens: Tokens
) -> None:
    """Raise TrainingError if texts say nothing about their targets: rows are shifted or shuffled.

    This is a permutation test on a sample. A ridge regression has to predict unseen targets better
    than it does after the targets were shuffled within each role.
    """
    if len(texts) < 200:
        return
    rng = np.random.default_rng(0)
    rows = rng.choice(len(texts), size=min(400, len(texts)), replace=False)
    sample = [texts[row] for row in rows]
    outputs = torch.from_numpy(np.asarray(targets[rows], dtype=np.float32)).double()
    fitted = len(rows) * 3 // 4

    def error(features: torch.Tensor, order: np.ndarray) -> float:
        weight, bias = ridge(features[:fitted], outputs[order[:fitted]], 0.1)
        predicted = features[fitted:] @ weight.T + bias
        return float((predicted - outputs[order[fitted:]]).pow(2).sum(dim=1).mean())

    def shuffled() -> np.ndarray:
        order = np.arange(len(rows))
        for of_role in models.by_role(sample).values():
            order[of_role] = rng.permutation(of_role)
        return order

    def beats_chance(features: np.ndarray) -> bool:
        features = torch.from_numpy(features).double()
        by_chance = np.array([error(features, shuffled()) for _ in range(20)])
        return error(features, np.arange(len(rows))) <= by_chance.mean() - 3 * by_chance.std()

    # The features of a weak base can fail although all is well, so letters get a chance too.
    letters = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), n_features=512)
    if not (
        beats_chance(pooled(student, texts, rows, tokens))
        or beats_chance(letters.transform([text.text for text in sample]).toarray())
    ):
        raise TrainingError(
            "texts and targets look out of step. Check that row i of the targets belongs to text "
            "i; if it does, check_pairs=False (--unchecked) trains all the same"
        )
