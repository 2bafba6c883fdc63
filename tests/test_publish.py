import numpy as np
import pytest
import test_card as cards_test
import torch
from conftest import sentences
from sentence_transformers import SentenceTransformer

from workbench import models, student
from workbench._util import unit
from workbench.errors import ModelError, WorkbenchError
from workbench.extras import publish
from workbench.quantize import principal_rotation
from workbench.teachers import LocalTeacher


@pytest.fixture
def pair(tiny_model, other_tiny_model):
    teacher = models.load_model(other_tiny_model, device="cpu")
    prompts = {"query": "find: ", "document": ""}
    return teacher, student.build(tiny_model, 48, max_length=40, prompts=prompts, device="cpu")


TEXTS = [text.text for text in sentences(20)]


def test_the_pair_loads_as_one_model(pair, tmp_path):
    teacher, model = pair
    folder = publish.save_pair(teacher, model, tmp_path / "pair", onnx=True)
    again = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(again.encode_query(TEXTS), model.encode_query(TEXTS), atol=1e-6)
    np.testing.assert_allclose(again.encode_document(TEXTS), teacher.encode(TEXTS), atol=1e-6)
    np.testing.assert_allclose(again.encode(TEXTS), teacher.encode(TEXTS), atol=1e-6)
    exported = publish.OnnxModel(folder / "onnx_whole").encode(TEXTS, "query")
    np.testing.assert_allclose(exported, model.encode_query(TEXTS), atol=1e-5)
    without_prompt = model.encode(TEXTS, prompt="")
    assert np.abs(again.encode_query(TEXTS) - without_prompt).max() > 1e-3
    assert again.similarity_fn_name == "cosine"


def test_what_is_published_has_no_pooler(pair, tmp_path):
    """Else whoever loads it is told that weights are missing, which nothing asks for."""
    model = student.load(student.save(pair[1], tmp_path / "student"))
    again = SentenceTransformer(str(publish.save_student(model, tmp_path / "alone")), device="cpu")
    assert not [name for name, _ in again.named_parameters() if "pooler" in name]


def test_onnx_gives_the_students_vectors(pair, tmp_path):
    model = pair[1].train()
    folder = publish.save_onnx(model, tmp_path / "onnx")
    assert model.training
    texts = [*TEXTS, "", "many words " * 60]  # nothing, and more than the 40 tokens that are read
    for int8, least in ((False, 0.999999), (True, 0.99)):
        vectors = publish.OnnxModel(folder, int8=int8).encode(texts, "query")
        assert vectors.dtype == np.float32 and vectors.shape == (len(texts), 48)
        assert (vectors * model.encode_query(texts)).sum(axis=1).min() > least
    assert (folder / publish.INT8).stat().st_size < (folder / publish.FLOAT32).stat().st_size
    assert publish.OnnxModel(folder).encode([]).shape == (0, 48)


def test_a_shortened_pair_loads_at_its_width(pair, tmp_path):
    teacher, model = pair
    rotation = principal_rotation(teacher.encode(TEXTS))
    short = [publish.truncated(one, 16, rotation) for one in pair]
    folder = publish.save_pair(*short, tmp_path / "pair")
    again = SentenceTransformer(str(folder), device="cpu")
    assert again.get_embedding_dimension() == 16
    for encode, whole in (
        (again.encode_query, model.encode_query),
        (again.encode_document, teacher.encode_document),
    ):
        np.testing.assert_allclose(
            encode(TEXTS), unit((whole(TEXTS) @ rotation)[:, :16]), atol=1e-5
        )
    rotated = publish.truncated(model, rotation=rotation).encode(TEXTS)
    np.testing.assert_allclose(
        rotated @ rotated.T, model.encode(TEXTS) @ model.encode(TEXTS).T, atol=1e-5
    )
    with pytest.raises(ModelError, match="49 dimensions"):
        publish.truncated(model, 49)
    with pytest.raises(WorkbenchError, match="orthogonal"):
        publish.truncated(model, 16, 2 * rotation)


def test_an_export_that_breaks_leaves_nothing(pair, tmp_path, monkeypatch):
    def fail(*args, **kwargs):  # as for Longformer
        raise RuntimeError("Could not guard on data-dependent expression\n\n" + "a trace\n" * 90)

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ModelError, match="cannot be exported to ONNX") as caught:
        publish.save_onnx(pair[1], tmp_path / "onnx")
    assert len(str(caught.value)) < 400 and not list(tmp_path.iterdir())


def test_refuses_what_cannot_be_published(pair, tiny_model, tmp_path):
    teacher, model = pair
    narrow = models.load_model(tiny_model, device="cpu")
    with pytest.raises(ModelError, match="48 wide"):
        publish.save_pair(teacher, narrow, tmp_path / "new")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    with pytest.raises(ModelError, match="not empty"):
        publish.save_pair(teacher, model, tmp_path / "full")
    assert [p.name for p in tmp_path.rglob("*")] == ["full", "mine.txt"]


def with_card(folder):
    (folder / publish.CARD).write_text(cards_test.written().content)
    return folder


def test_push_sends_what_the_dry_run_lists(pair, tmp_path, monkeypatch):
    calls = []

    class Api:
        def create_repo(self, name, **options):
            calls.append((name, options))

        def upload_folder(self, **options):
            calls.append(options)

    monkeypatch.setattr(publish, "HfApi", Api)
    folder = publish.save_student(pair[1], tmp_path / "out", card=cards_test.written())
    planned = publish.push(folder, "me/small", dry_run=True)
    assert not calls and set(planned["file"]) == {
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()
    }
    listing = publish.push(folder, "me/small")
    assert calls[0] == ("me/small", {"private": True, "exist_ok": True})
    assert calls[1]["allow_patterns"] == listing["file"].tolist() == planned["file"].tolist()
    assert calls[1]["repo_id"] == "me/small"
    monkeypatch.undo()
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    with pytest.raises(ModelError, match="was not sent") as refused:  # tests run without a hub
        publish.push(folder, "me/small")
    assert "hf_secret" not in str(refused.value)


def test_push_refuses_what_is_not_published(pair, tmp_path):
    def refused(message):
        with pytest.raises(ModelError, match=message):
            publish.push(folder, "me/small", dry_run=True)

    folder = publish.save_student(pair[1], tmp_path / "out")
    refused("no model card")
    (folder / publish.CARD).write_text("---\nlicense: apache-2.0\n---\n# small\n")
    refused("no results")
    with_card(folder)
    names = "weights.pkl", ".env", ".cache/config.json", "secrets.json", models.PROVENANCE
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
        refused("no part of a published model")
        (folder / name).unlink()
    with pytest.warns(UserWarning, match="me/other"):
        publish.push(folder, "me/other", dry_run=True)
    (folder / "vocab.txt").symlink_to("/etc/hostname")
    refused("no part of a published model")


def test_a_pair_is_a_teacher_of_unit_norm(pair, tmp_path):
    folder = publish.save_pair(*pair, tmp_path / "pair")
    teacher = LocalTeacher(folder, precision="bfloat16", device="cpu")
    assert teacher.identity["normalize"]
    for role in ("query", "document"):
        np.testing.assert_allclose(
            np.linalg.norm(teacher.encode(TEXTS, role), axis=1), 1, atol=1e-6
        )
