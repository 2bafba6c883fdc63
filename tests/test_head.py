"""Heads of two layers start as the closed form, learn on stored features, and go wherever a student goes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import sentences
from sentence_transformers import SentenceTransformer
from test_train import build

from bench.ready import HEAD, train_head
from workbench import closed_form, student
from workbench.cache import TargetCache
from workbench.data import Text
from workbench.errors import TrainingError
from workbench.extras import publish
from workbench.models import encode
from workbench.student import FrozenFeatures, through_head
from workbench.train import TrainingConfig, train_student, validate

EIGHT = replace(HEAD, epochs=8, batch_size=32)


@pytest.mark.parametrize("normalize", [True, False])
def test_two_layers_carry_a_linear_map(tiny_model, lesson, normalize):
    train, targets, held_out, _ = lesson
    one, two = (build(tiny_model, normalize=normalize, hidden=hidden) for hidden in (0, 64))
    options = {"kind": "rotation"}
    assert student.fit_head(one, train, targets, **options) == student.fit_head(
        two, train, targets, **options
    )
    first, second = (encode(model, held_out, precision="float32") for model in (one, two))
    np.testing.assert_allclose(second, first, atol=2e-5)
    assert [layer.out_features for layer in student.head_of(two)] == [64 + 2 * 32, 48]
    with pytest.raises(TrainingError, match="bias"):
        build(tiny_model, bias=False, hidden=64)


def test_a_feature_that_never_varies_gives_no_weight_beyond_float16(tiny_model):
    model, features = build(tiny_model, hidden=8), torch.randn(50, 32)
    features[:, 3] = 1.5  # all-MiniLM-L6-v2 has three such
    student.set_head(model, torch.randn(48, 32), torch.zeros(48), features)
    for layer in student.head_of(model):
        assert all(parameter.half().isfinite().all() for parameter in layer.parameters())


def test_features_are_kept_and_a_text_goes_through_the_base_once(
    tiny_model, other_tiny_model, tmp_path
):
    model, texts = build(tiny_model, hidden=8), sentences(40)
    cache = TargetCache(tmp_path, FrozenFeatures(model))
    assert cache.fill(texts).encoded == 40
    stored = np.asarray(cache.targets(texts))
    np.testing.assert_allclose(stored, student.pooled(model, texts), atol=2e-3)
    np.testing.assert_allclose(through_head(model, stored), encode(model, texts), atol=5e-3)
    wide = build(tiny_model, pooling=("mean", "cls"))
    features = FrozenFeatures(wide).encode([text.text for text in texts[::2]])
    np.testing.assert_allclose(features[:, :32], stored[::2], atol=5e-3)
    again = TargetCache(tmp_path, FrozenFeatures(build(tiny_model)))  # the head does not matter
    assert again.fill(texts).encoded == 0 and again.folder == cache.folder
    shorter = student.build(tiny_model, 48, max_length=9, device="cpu")
    prompted = build(tiny_model, prompts={"query": "q: "})
    for other in (build(other_tiny_model), shorter, prompted, wide):
        assert TargetCache(tmp_path, FrozenFeatures(other)).folder != cache.folder


@pytest.mark.parametrize("hidden", [0, 64])
def test_the_head_learns_on_features_and_the_transformer_stays(
    tiny_model, lesson, hidden, monkeypatch
):
    monkeypatch.setattr(closed_form, "ALPHAS", (10.0,))  # far from the best
    train, targets, held_out, wanted = lesson
    students, seen = [build(tiny_model, hidden=hidden) for _ in range(2)], []
    for model in students:
        before = {name: tensor.clone() for name, tensor in model[0].state_dict().items()}
        student.fit_head(model, train, targets, kind="ridge")
        start = validate(model, held_out, wanted)["loss"]
        features, unseen = student.pooled(model, train), student.pooled(model, held_out)
        result = train_head(
            model, features, targets, EIGHT, held_out=(unseen, wanted), on_step=seen.append
        )
    assert result.best_loss < 0.9 * start and result.history["loss"][3] == seen[3].loss
    assert validate(model, held_out, wanted)["loss"] == pytest.approx(result.best_loss, rel=0.02)
    assert result.history["held_out_loss"].notna().sum() == 9  # the start and eight passes
    for name, tensor in before.items():
        assert torch.equal(tensor, model[0].state_dict()[name])
    assert torch.equal(*(student.head_of(model)[-1].linear.weight for model in students))


def test_a_head_that_only_gets_worse_is_not_kept(tiny_model, lesson):
    train, targets, held_out, wanted = lesson
    model = build(tiny_model, hidden=16)
    student.fit_head(model, train, targets)
    start = model[2].linear.weight.clone()
    features, unseen = student.pooled(model, train), student.pooled(model, held_out)
    result = train_head(model, features, targets[::-1].copy(), EIGHT, held_out=(unseen, wanted))
    assert result.best_step == 0
    assert torch.equal(model[2].linear.weight, start)
    with pytest.raises(TrainingError, match="do not fit"):
        train_head(model, features[1:], targets)


def test_two_layers_are_saved_trained_truncated_and_exported(tiny_model, lesson, tmp_path):
    train, targets, held_out, wanted = lesson
    model = build(tiny_model, hidden=16, pooling=("mean", "cls"))
    assert student.head_of(model)[0].in_features == 64
    student.fit_head(model, train, targets)
    train_student(
        model, train, targets, TrainingConfig(epochs=1, batch_size=40), held_out=(held_out, wanted)
    )
    student.save(model, tmp_path / "student")
    texts = ["bread in the oven", "a river"]
    plain = SentenceTransformer(str(tmp_path / "student"), device="cpu").encode(texts)
    np.testing.assert_allclose(plain, model.encode(texts), atol=1e-6)
    loaded = student.load(tmp_path / "student")
    assert len(student.head_of(loaded)) == 2 and not publish.is_truncated(loaded)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((48, 48)))[0]
    short = publish.truncated(model, 24, turn)
    assert publish.is_truncated(short) and short.encode(texts).shape == (2, 24)
    ours = encode(model, [Text(text) for text in texts], precision="float32")
    np.testing.assert_allclose(ours, plain, atol=1e-5)
    exported = publish.OnnxModel(publish.save_onnx(model, tmp_path / "onnx"))
    np.testing.assert_allclose(exported.encode(texts), plain, atol=1e-5)
