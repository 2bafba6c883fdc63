"""Rotation, ridge regression and their sums, and the choice among them without judgments."""

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes

from tests.conftest import sentences
from workbench import closed_form, pipeline, student
from workbench.agreement import neighbors, overlap
from workbench.cache import TargetCache
from workbench.data import Text, crop_queries
from workbench.models import encode
from workbench.teachers import Teacher


def space(count: int, width: int = 16, wide: int = 24, noise: float = 0.0, seed: int = 0):
    """Features, and targets that are the features turned into a wider space."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((count, width)) * np.linspace(1, 2, width)
    turn = np.linalg.qr(rng.standard_normal((wide, width)))[0].T
    targets = features @ turn + noise * rng.standard_normal((count, wide))
    return torch.from_numpy(features), torch.from_numpy(targets)


@pytest.mark.parametrize("center", [False, True])
def test_the_rotation_is_the_procrustes_solution_and_keeps_distances(center):
    features, targets = space(200, wide=16, noise=0.3)
    targets = targets + 2 * center
    found = closed_form.rotation(features, targets, center=center)
    h, y = features.numpy(), targets.numpy()
    h, y = (h - h.mean(0), y - y.mean(0)) if center else (h, y)
    expected = orthogonal_procrustes(h, y)[0] * np.linalg.norm(y) / np.linalg.norm(h)
    np.testing.assert_allclose(found.weight.T, expected, atol=1e-9)
    gram = found.weight.T @ found.weight  # a multiple of the identity
    np.testing.assert_allclose(gram / gram[0, 0], np.eye(16), atol=1e-9)
    np.testing.assert_allclose(
        found(features).mean(0), targets.mean(0), atol=0.05 + 3 * (not center)
    )


def test_where_no_text_points_the_rotation_gives_nothing():
    """Otherwise what it gives there depends on the machine, and is noise."""
    features, targets = space(60)
    features = features.clone()
    features[:, 12:] = 0
    found = closed_form.rotation(features, targets)
    assert found.weight[:, 12:].abs().max() < 1e-12 < found.weight[:, :12].abs().max()


@pytest.mark.parametrize("count", [10, 300])  # fewer texts than features, and more
def test_the_ridge_minimizes_error_plus_penalty(count):
    features, targets = space(count, noise=0.5)
    (found,) = closed_form.ridge(features, targets, [0.1])
    h, y = (part.numpy() - part.numpy().mean(0) for part in (features, targets))
    penalty = np.sqrt(0.1 * (h**2).sum() / h.shape[1]) * np.eye(h.shape[1])
    stacked = np.vstack([h, penalty]), np.vstack([y, np.zeros((len(penalty), y.shape[1]))])
    np.testing.assert_allclose(found.weight.T, np.linalg.lstsq(*stacked, rcond=None)[0], atol=1e-8)
    np.testing.assert_allclose(found(features).mean(0), targets.mean(0), atol=1e-9)


def fit(features, targets, groups=None, **options):
    groups = groups or [str(row) for row in range(len(targets))]
    return closed_form.fit(
        features, features, targets, groups, np.zeros(len(targets), bool), **options
    )


def test_a_turned_space_gives_the_rotation_and_a_stretched_one_the_regression():
    features, targets = space(60, noise=0.2)
    assert fit(features, targets).choice.mix <= 0.25
    stretched = targets * torch.linspace(0.02, 3, 24) ** 2
    regressed = fit(features, stretched)
    assert regressed.choice.mix >= 0.5 and regressed.found > regressed.found_by_rotation + 0.05
    forced = fit(features, stretched, mixes=(0.0,))
    assert forced.choice.mix == 0 and forced.found == forced.found_by_rotation


def test_what_is_found_is_what_documents_that_are_not_learned_find():
    """Noise that nothing can predict must not look learned: each text is held out with its document."""
    features, targets = space(200, noise=3.0)
    twice = torch.cat([features, features]), torch.cat([targets, targets])
    names = [str(row % 200) for row in range(400)]
    held = fit(*twice, names)
    leaked = fit(*twice)
    assert held.found < leaked.found - 0.02
    pool = targets.float().numpy()
    fresh, wanted = space(200, noise=3.0)  # the shares are as measured by hand, fold by fold
    rows = np.arange(200) % 5 > 0
    by_hand = closed_form.rotation(fresh[rows], wanted[rows])(fresh[~rows]).float().numpy()
    share = overlap(neighbors(pool[~rows], among=pool), neighbors(by_hand, among=pool)).mean()
    assert held.found_by_rotation == pytest.approx(share, abs=0.12)


def test_other_texts_are_learned_where_they_help_and_not_where_they_mislead():
    features, targets = space(400, width=64, wide=64, noise=0.2)
    few, names = 24, [str(row) for row in range(24)]
    queries = np.zeros(400, dtype=bool)
    helped = closed_form.fit(features, features, targets, names, queries)
    assert helped.choice.others == 400 - few and helped.found > helped.found_by_rotation + 0.03
    wrong = torch.cat([targets[:few], targets[few:].flip(0)])
    assert closed_form.fit(features, features, wrong, names, queries).choice.others == 0


def test_roles_that_prompts_keep_apart_are_brought_together(tiny_model, monkeypatch):
    """A map fitted to documents alone would take queries, which a prompt moves, to a wrong place."""
    texts = [
        Text(f"{text.text} {more.text}")
        for text, more in zip(sentences(150), sentences(150, seed=9), strict=True)
    ]
    targets = Teacher(tiny_model, max_length=40).encode([text.text for text in texts])
    queries = crop_queries(texts)
    wanted = Teacher(tiny_model, max_length=40).encode([text.text for text in queries])
    moved = {"query": "river river river river river river: ", "document": ""}
    near = {}
    for crops in (crop_queries, lambda texts: []):  # without them nothing tells where queries lie
        monkeypatch.setattr(student, "crop_queries", crops)
        model = student.build(
            tiny_model, targets.shape[1], prompts=moved, device="cpu", max_length=64
        )
        student.fit_head(model, texts, targets, kind="rotation")
        found = neighbors(encode(model, queries), among=targets)
        near[crops is crop_queries] = overlap(neighbors(wanted, among=targets), found).mean()
    assert near[True] > near[False] + 0.02


def test_queries_say_where_their_mean_belongs():
    """As with prompts by role: the teacher's queries lie apart from its documents, where the base's do not."""
    features, targets = space(400, noise=0.1)
    is_query = np.arange(400) >= 250
    step = 4 * targets.std() * torch.nn.functional.normalize(torch.ones(24, dtype=float), dim=0)
    targets = targets * torch.linspace(0.2, 2, 24) + torch.from_numpy(is_query)[:, None] * step
    names = [str(row) for row in range(400)]
    found = closed_form.fit(features, features, targets, names, is_query)
    blind = closed_form.fit(
        features[:250], features[:250], targets[:250], names[:250], is_query[:250]
    )
    assert blind.shift.norm() == 0
    np.testing.assert_allclose(found.shift, step, atol=0.35 * float(step.norm()))
    mapped = [
        fit.choice.mix * fit.regression(features[250:])
        + (1 - fit.choice.mix) * fit.rotation(features[250:]) + fit.shift
        for fit in (found, blind)
    ]  # fmt: skip
    pool, wanted = targets[:250].float().numpy(), targets[250:].float().numpy()
    near = [
        overlap(neighbors(wanted, among=pool), neighbors(each.float().numpy(), among=pool)).mean()
        for each in mapped
    ]
    assert near[0] > near[1] + 0.02


def test_stored_vectors_are_enough_for_another_models_queries(
    tiny_model, other_tiny_model, tmp_path, monkeypatch
):
    """Moving an index: vectors, texts and a new model."""
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    texts = [text.text for text in sentences(80)]
    vectors = Teacher(other_tiny_model, max_length=40).encode(texts)
    for recipe in ("rotation", "ridge", "adapt"):
        model = pipeline.distill(
            texts, vectors, base=str(tiny_model), recipe=recipe, max_length=40, progress=False
        )
        hits = neighbors(model.encode_query(texts), 1, among=vectors)[:, 0]
        assert (hits == np.arange(80)).mean() > 0.9
    with pytest.raises(Exception, match="80 texts"):
        pipeline.distill(texts, vectors[:-1], base=str(tiny_model), recipe="rotation")


def test_training_that_finds_less_is_not_kept(
    tiny_model, other_tiny_model, tmp_path, capsys, monkeypatch
):
    cache = TargetCache(tmp_path / "cache", Teacher(other_tiny_model, max_length=40))
    recipe = pipeline.TOUR.change(
        base=str(tiny_model), max_length=40, precision="float32", epochs=1
    )
    shares = iter([0.5, 0.4])
    monkeypatch.setattr(pipeline, "found", lambda *_: next(shares))
    texts = sentences(100)
    made = pipeline.run(texts, cache, recipe, tmp_path / "student")
    start = pipeline.run(texts, cache, recipe.change(train=False), tmp_path / "start").student
    assert made.provenance["found"] == {"before": 0.5, "after": 0.4}
    assert "did not improve" in capsys.readouterr().out
    own = encode(made.student, texts[:20], precision="float32")
    assert (own * encode(start, texts[:20], precision="float32")).sum(axis=1).min() > 0.99
