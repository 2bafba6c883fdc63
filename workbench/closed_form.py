"""Linear maps between spaces in closed form: a rotation, a ridge regression, what lies between."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch

from workbench import agreement

MIXES = 0.0, 0.25, 0.5, 0.75, 1.0  # shares of the ridge regression; the rest is the rotation
ALPHAS = 0.01, 0.03, 0.1, 0.3  # strengths of the ridge, in units of the mean variance
NEAREST = 10  # documents that teacher and student are to have in common
_PROBES = 400  # held-out documents are enough
_FOLDS = 5
_CENTERED_FROM = 1.1  # times as many found, as for a base whose vectors share a direction


class Linear(NamedTuple):
    """A map of features x to `weight @ x + bias`, of shapes (d, width) and (d,), float64."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Map features of shape (n, width)."""
        return features @ self.weight.T + self.bias


def rotation(features: torch.Tensor, targets: torch.Tensor, *, center: bool = False) -> Linear:
    """Return the rotation and scale, and with `center` shift, that bring features to targets.

    It solves the orthogonal Procrustes problem (Schönemann, 1966): U V' of the SVD of Y'H. The
    scale keeps the mean square; the one of least squares would draw all vectors to their mean.
    """
    mean_in, mean_out, inputs, outputs = _centered(features, targets, center)
    left, values, right = torch.linalg.svd(outputs.T @ inputs, full_matrices=False)
    seen = (values > 1e-6 * values[0]).double()  # where no text points, a rotation is arbitrary
    weight = (left * seen) @ right * (outputs.norm() / inputs.norm())
    return Linear(weight, mean_out - weight @ mean_in)


def ridge(
    features: torch.Tensor, targets: torch.Tensor, alphas: Sequence[float], *, center: bool = True
) -> list[Linear]:
    """Return the ridge regressions of targets on features (Hoerl and Kennard, 1970).

    W = (H'H + a n v I)^-1 H'Y on centered features H and targets Y, for each strength a, where v is
    the mean variance of the features; without `center` there is no bias.
    """
    mean_in, mean_out, inputs, outputs = _centered(features, targets, center)
    strength = inputs.pow(2).sum() / inputs.shape[1]
    is_wide = inputs.shape[1] > len(inputs)  # the dual form, with the same solution, is smaller
    gram = inputs @ inputs.T if is_wide else inputs.T @ inputs
    right = outputs if is_wide else inputs.T @ outputs
    maps = []
    for alpha in alphas:
        system = gram.clone()
        system.diagonal().add_(alpha * strength)
        solved = torch.cholesky_solve(right, torch.linalg.cholesky(system))
        weight = solved.T @ inputs if is_wide else solved.T
        maps.append(Linear(weight, mean_out - weight @ mean_in))
    return maps


def _centered(features: torch.Tensor, targets: torch.Tensor, center: bool) -> tuple:
    mean_in, mean_out = features.mean(dim=0) * center, targets.mean(dim=0) * center
    return mean_in, mean_out, features - mean_in, targets - mean_out


class Choice(NamedTuple):
    """What decides a sum of a rotation and a ridge regression."""

    mix: float  # share of the regression
    alpha: float  # its strength
    center: bool  # whether the rotation has a shift
    others: int  # how many other texts are learned too


class Fit(NamedTuple):
    """What `fit` returns: `mix` times the regression, the rest times the rotation, and a shift."""

    rotation: Linear
    regression: Linear
    shift: torch.Tensor  # (d,)
    choice: Choice
    # Shares of the teacher's nearest that are found for held-out documents:
    found: float
    found_by_rotation: float  # of a rotation that learned no other texts


def fit(
    features: torch.Tensor,
    rotated: torch.Tensor,
    targets: torch.Tensor,
    groups: Sequence[str],
    is_query: np.ndarray,
    *,
    mixes: Sequence[float] = MIXES,
    bias: bool = True,
) -> Fit:
    """Choose, without judgments, the sum of a rotation and a ridge regression that searches best.

    Both learn the documents, and what counts is how many of the teacher's 10 nearest documents are
    found for documents that are held out, each with its group. The squared error is no guide: that
    of a ridge is smaller than that of a rotation, which searches better. Queries, which a prompt
    may keep apart from documents, only say where their mean belongs: cropped ones, which are no
    questions, mislead in the rest.

    Args:
        features: of n texts, float64 (n, width), for the regression.
        rotated: of the same texts, for the rotation.
        targets: (n, d).
        groups: names of the first texts; the passages of a document, and queries made of it, have
            the same. The rest, without a name, are other documents, learned where that helps.
        is_query: which of the texts are queries, bool (n,).
        bias: whether the result may have a bias.
    """
    own, rows = len(groups), np.arange(len(targets))
    is_query = is_query & ~is_query[:own].all()
    documents = np.flatnonzero(~is_query[:own])
    pool, k = targets[documents].float().numpy(), min(NEAREST, len(documents))
    names, name_of = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < _FOLDS:  # one long document: its passages are held out one by one
        names = name_of = rows[:own]
    fold_of = np.full(len(targets), -1)
    fold_of[:own] = np.random.default_rng(0).permutation(len(names))[name_of] % _FOLDS
    centers, counts = (False, True) if bias else (False,), sorted({0, len(targets) - own})
    # The simplest first, which is kept among equals.
    rotations = [Choice(0, ALPHAS[0], *rest) for rest in product(centers, counts)]
    sums = [Choice(*parts) for parts in product(mixes, ALPHAS, centers, counts)]
    # Centering is of the rotation alone.
    sums = [choice for choice in sums if 0 < choice.mix < 1 or (choice.mix and not choice.center)]
    shares = {choice: [] for choice in [*rotations, *sums]}

    def maps(fold: int, others: int, alphas: Sequence[float]) -> tuple[dict, dict]:
        """Return rotations by whether they are centered, and regressions by strength."""
        part = torch.from_numpy((fold_of != fold) & ~is_query & (rows < own + others))
        turns = {c: rotation(rotated[part], targets[part], center=c) for c in centers}
        regressions = ridge(features[part], targets[part], alphas, center=bias) if alphas else []
        return turns, dict(zip(alphas, regressions, strict=True))

    held_out = 0
    for fold, others in product(range(_FOLDS), counts):
        probes = documents[fold_of[documents] == fold]
        if not 0 < len(probes) < len(documents) or held_out >= _PROBES * len(counts):
            continue
        held_out += len(probes)
        turns, regressions = maps(fold, others, ALPHAS if sums else ())
        probes = probes[:_PROBES]
        wanted = agreement.neighbors(targets[probes].float().numpy(), k, among=pool)
        turned = {center: turn(rotated[probes]) for center, turn in turns.items()}
        regressed = {alpha: each(features[probes]) for alpha, each in regressions.items()}
        for choice in (choice for choice in shares if choice.others == others):
            vectors = (1 - choice.mix) * turned[choice.center]
            if choice.mix:
                vectors = vectors + choice.mix * regressed[choice.alpha]
            hits = agreement.neighbors(vectors.float().numpy(), k, among=pool)
            shares[choice].append(agreement.overlap(wanted, hits))

    found = {choice: float(np.concatenate(parts).mean()) for choice, parts in shares.items()}
    by_rotation = {choice.center: found[choice] for choice in rotations if not choice.others}
    # A shift of the mean is less certain for queries than for documents.
    center = bias and by_rotation[True] > _CENTERED_FROM * by_rotation[False]
    tried = [each for each in found if each.mix in mixes]
    tried = [each for each in tried if each.mix == 1 or each.center == center]
    choice = max(tried, key=found.get)
    turns, regressions = maps(-2, choice.others, [choice.alpha])
    turn, regression, shift = turns[center], regressions[choice.alpha], torch.zeros_like(targets[0])
    if bias and is_query.any():
        asked = torch.from_numpy(is_query)
        means = [values[asked].mean(dim=0) for values in (targets, rotated, features)]
        shift = means[0] - (1 - choice.mix) * turn(means[1]) - choice.mix * regression(means[2])
    return Fit(turn, regression, shift, choice, found[choice], by_rotation[center])
