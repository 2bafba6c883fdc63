"""Heads of two layers: they start as the closed form, learn on stored features, and go wherever a student goes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import sentences
from sentence_transformers import SentenceTransformer
from test_train import build, lesson  # noqa: F401

from workbench import student
from workbench.cache import TargetCache
from workbench.data import Text
from workbench.errors import ModelError, TrainingError
from workbench.extras import publish
from workbench.head import HEAD, FrozenFeatures, through_head, train_head
from workbench.models import encode
from workbench.train import TrainingConfig, train_student, validate

EIGHT = replace(HEAD, epochs=8, batch_size=32)


@pytest.mark.parametrize("normalize", [True, False])
def test_two_layers_start_as_the_closed_form(tiny_model, lesson, normalize):  # noqa: F811
    train, targets, held_out, _ = lesson
    one, two = (build(tiny_model, normalize=normalize, hidden=hidden) for hidden in (0, 64))
    assert student.fit_head(one, train, targets) == student.fit_head(two, train, targets)
    first, second = (encode(model, held_out, precision="float32") for model in (one, two))
    np.testing.assert_allclose(second, first, atol=2e-5)
    assert [layer.out_features for layer in student.head_of(two)] == [64 + 2 * 32, 48]
    with pytest.raises(TrainingError, match="has a bias"):
        build(tiny_model, bias=False, hidden=64)
    with pytest.raises(TrainingError, match="hidden is -1"):
        build(tiny_model, hidden=-1)
    for wrong in ("median", ["mean", "median"], []):
        with pytest.raises(TrainingError, match="it must be cls, max, mean"):
            build(tiny_model, pooling=wrong)


def test_a_feature_that_never_varies_gives_no_weight_beyond_float16(tiny_model):
    model, features = build(tiny_model, hidden=8), torch.randn(50, 32)
    features[:, 3] = 1.5  # all-MiniLM-L6-v2 has three such
    student.set_head(model, torch.randn(48, 32), torch.zeros(48), features)
    assert all(
        parameter.half().isfinite().all()
        for layer in student.head_of(model)
        for parameter in layer.parameters()
    )


def test_features_are_kept_and_a_text_goes_through_the_base_once(
    tiny_model, other_tiny_model, tmp_path, monkeypatch
):
    model, texts = build(tiny_model, hidden=8), sentences(40)
    cache = TargetCache(tmp_path, FrozenFeatures(model))
    assert cache.fill(texts).encoded == 40
    np.testing.assert_allclose(
        np.asarray(cache.targets(texts)), student.pooled(model, texts), atol=2e-3
    )
    np.testing.assert_allclose(
        through_head(model, cache.targets(texts)), encode(model, texts), atol=5e-3
    )
    wide = build(tiny_model, pooling=("mean", "cls"))
    features = FrozenFeatures(wide).encode([text.text for text in texts[::2]])
    np.testing.assert_allclose(features[:, :32], np.asarray(cache.targets(texts[::2])), atol=5e-3)
    again = TargetCache(tmp_path, FrozenFeatures(build(tiny_model)))  # the head does not matter
    assert again.fill(texts).encoded == 0 and again.folder == cache.folder
    for other in (
        build(other_tiny_model),
        student.build(tiny_model, 48, max_length=9, device="cpu"),
        build(tiny_model, prompts={"query": "q: "}),
        wide,
    ):
        assert TargetCache(tmp_path, FrozenFeatures(other)).folder != cache.folder


def test_the_head_learns_on_features_and_the_transformer_stays(tiny_model, lesson):  # noqa: F811
    train, targets, held_out, wanted = lesson
    model = build(tiny_model, hidden=64)
    before = {name: tensor.clone() for name, tensor in model[0].state_dict().items()}
    student.fit_head(model, train, targets, alphas=[10])  # far from the best
    start = validate(model, held_out, wanted)["loss"]
    features, unseen = student.pooled(model, train), student.pooled(model, held_out)
    seen = []
    history = train_head(
        model, features, targets, EIGHT, held_out=(unseen, wanted), on_step=seen.append
    ).history
    assert list(history["epoch"]) == list(range(9)) and seen[3].loss == history["loss"][3]
    assert history["held_out_loss"].min() < 0.9 * start
    assert validate(model, held_out, wanted)["loss"] == pytest.approx(
        history["held_out_loss"].min(), rel=0.02
    )
    assert all(torch.equal(tensor, model[0].state_dict()[name]) for name, tensor in before.items())
    repeated = build(tiny_model, hidden=64)
    student.fit_head(repeated, train, targets, alphas=[10])
    train_head(repeated, features, targets, EIGHT, held_out=(unseen, wanted))
    assert torch.equal(repeated[3].linear.weight, model[3].linear.weight)


def test_a_head_that_only_gets_worse_is_not_kept(tiny_model, lesson):  # noqa: F811
    train, targets, held_out, wanted = lesson
    model = build(tiny_model, hidden=16)
    student.fit_head(model, train, targets)
    start = model[2].linear.weight.clone()
    features, unseen = student.pooled(model, train), student.pooled(model, held_out)
    result = train_head(model, features, targets[::-1].copy(), EIGHT, held_out=(unseen, wanted))
    assert result.best_step == 0
    assert torch.equal(model[2].linear.weight, start)


def test_what_does_not_fit_is_refused(tiny_model, lesson):  # noqa: F811
    _, targets, *_ = lesson
    model = build(tiny_model, hidden=16)
    for features in (
        np.zeros((len(targets), 48), np.float32),
        np.zeros((len(targets) - 1, 32), np.float32),
    ):
        with pytest.raises(TrainingError, match="do not fit a head from 32 to 48"):
            train_head(model, features, targets)
    with pytest.raises(TrainingError, match="held-out features of shape .0, 32."):
        train_head(model, targets[:, :32], targets, held_out=(np.zeros((0, 32)), np.zeros((0, 48))))
    with pytest.raises(TrainingError, match="the loss is nan"):
        train_head(model, np.full((len(targets), 32), np.nan, np.float32), targets)
    plain = SentenceTransformer(str(tiny_model), device="cpu")
    with pytest.raises(ModelError, match="no student"):
        train_head(plain, np.zeros((len(targets), 32), np.float32), targets)


@pytest.mark.parametrize("pooling", ["mean", ("mean", "cls")])
def test_two_layers_are_saved_trained_truncated_and_exported(tiny_model, lesson, tmp_path, pooling):  # noqa: F811
    train, targets, held_out, wanted = lesson
    model = build(tiny_model, hidden=16, pooling=pooling)
    assert student.head_of(model)[0].in_features == (32 if pooling == "mean" else 64)
    student.fit_head(model, train, targets)
    result = train_student(
        model, train, targets, TrainingConfig(epochs=1, batch_size=16), held_out=(held_out, wanted)
    )
    assert result.best_loss is not None
    student.save(model, tmp_path / "student")
    student.save(model, tmp_path / "student")  # replaces itself
    texts = ["bread in the oven", "a river"]
    plain = SentenceTransformer(str(tmp_path / "student"), device="cpu").encode(texts)
    np.testing.assert_allclose(plain, model.encode(texts), atol=1e-6)
    loaded = student.load(tmp_path / "student")
    assert len(student.head_of(loaded)) == 2 and not publish.is_truncated(loaded)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((48, 48)))[0]
    short = publish.truncated(model, 24, turn)
    assert publish.is_truncated(short) and short.encode(texts).shape == (2, 24)
    np.testing.assert_allclose(
        encode(model, [Text(t) for t in texts], precision="float32"), plain, atol=1e-5
    )
    exported = publish.OnnxModel(publish.save_onnx(model, tmp_path / "onnx", int8=False))
    np.testing.assert_allclose(exported.encode(texts), plain, atol=1e-5)
