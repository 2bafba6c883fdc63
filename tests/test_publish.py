import numpy as np
import pytest
from conftest import sentences
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Normalize

from workbench import models, publish, student
from workbench.compression import principal_rotation, truncate
from workbench.errors import ModelError, WorkbenchError


@pytest.fixture
def pair(tiny_model, other_tiny_model):
    teacher = models.load(other_tiny_model, device="cpu")
    prompts = {"query": "find: ", "document": ""}
    return teacher, student.build(tiny_model, 48, max_length=40, prompts=prompts, device="cpu")


TEXTS = [text.text for text in sentences(20)]


def test_the_pair_loads_as_one_model(pair, tmp_path):
    teacher, model = pair
    folder = publish.save_pair(teacher, model, tmp_path / "pair")
    again = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(again.encode_query(TEXTS), model.encode_query(TEXTS), atol=1e-6)
    np.testing.assert_allclose(again.encode_document(TEXTS), teacher.encode(TEXTS), atol=1e-6)
    np.testing.assert_allclose(again.encode(TEXTS), teacher.encode(TEXTS), atol=1e-6)
    assert np.abs(again.encode_query(TEXTS) - model.encode(TEXTS, prompt="")).max() > 1e-3  # the prompt is in it
    assert again.similarity_fn_name == "cosine"


def test_onnx_gives_the_students_vectors(pair, tmp_path):
    model = pair[1].train()
    folder = publish.save_onnx(model, tmp_path / "onnx")
    assert model.training
    texts = [*TEXTS, "", "many words " * 60]  # nothing, and more than the 40 tokens that are read
    for int8, least in ((False, 0.999999), (True, 0.99)):
        for budget in (1, 200, 10_000):  # alone, and padded with others
            vectors = publish.OnnxModel(folder, int8=int8).encode(texts, "query", token_budget=budget)
            assert vectors.dtype == np.float32 and vectors.shape == (len(texts), 48)
            assert (vectors * model.encode_query(texts)).sum(axis=1).min() > least
    assert (folder / publish.INT8).stat().st_size < (folder / publish.FLOAT32).stat().st_size
    assert publish.OnnxModel(folder).encode([]).shape == (0, 48)


def test_a_shortened_pair_loads_at_its_width(pair, tmp_path):
    teacher, model = pair
    rotation = principal_rotation(teacher.encode(TEXTS))
    short = [publish.shortened(one, 16, rotation) for one in pair]
    folder = publish.save_pair(*short, tmp_path / "pair")
    again = SentenceTransformer(str(folder), device="cpu")
    assert again.get_embedding_dimension() == 16
    for encode, whole in ((again.encode_query, model.encode_query), (again.encode_document, teacher.encode_document)):
        np.testing.assert_allclose(encode(TEXTS), truncate(whole(TEXTS) @ rotation, 16), atol=1e-5)
    turned = publish.shortened(model, rotation=rotation).encode(TEXTS)
    np.testing.assert_allclose(turned @ turned.T, model.encode(TEXTS) @ model.encode(TEXTS).T, atol=1e-5)
    exported = publish.OnnxModel(publish.save_onnx(short[1], tmp_path / "onnx", int8=False))
    np.testing.assert_allclose(exported.encode(TEXTS, "query"), again.encode_query(TEXTS), atol=1e-5)
    with pytest.raises(ModelError, match="49 dimensions"):
        publish.shortened(model, 49)
    for wrong in (rotation[:16, :16], 2 * rotation):
        with pytest.raises(WorkbenchError, match="orthogonal"):
            publish.shortened(model, 16, wrong)


def test_onnx_says_what_it_cannot_read(tmp_path, pair):
    with pytest.raises(ModelError, match="no exported model"):
        publish.OnnxModel(tmp_path / "none")
    folder = publish.save_onnx(pair[1], tmp_path / "onnx", int8=False)
    with pytest.raises(ModelError, match=publish.INT8):
        publish.OnnxModel(folder, int8=True)
    (folder / publish.FLOAT32).write_bytes(b"damaged")
    with pytest.raises(ModelError, match="no exported model"):
        publish.OnnxModel(folder)


def test_refuses_what_cannot_be_published(pair, tiny_model, tmp_path):
    teacher, model = pair
    narrow = models.load(tiny_model, device="cpu")
    with pytest.raises(ModelError, match="48 wide and the student's 32"):
        publish.save_pair(teacher, narrow, tmp_path / "new")
    with pytest.raises(ModelError, match="starts with a transformer"):
        publish.save_onnx(SentenceTransformer(modules=[Normalize()]), tmp_path / "new")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    for save in (lambda f: publish.save_pair(teacher, model, f), lambda f: publish.save_onnx(model, f)):
        with pytest.raises(ModelError, match="not empty"):
            save(tmp_path / "full")
        with pytest.raises(ModelError, match="not empty"):
            save(tmp_path / "full" / "mine.txt")
    assert [p.name for p in tmp_path.rglob("*")] == ["full", "mine.txt"]


def test_an_export_that_breaks_leaves_nothing(pair, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxruntime.quantization.quantize_dynamic", broken)
    with pytest.raises(KeyboardInterrupt):
        publish.save_onnx(pair[1], tmp_path / "onnx")
    assert not list(tmp_path.iterdir())
