import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from workbench import evaluate, models, student
from workbench.data import Role, Text
from workbench.errors import DataError, ModelError, WorkbenchError
from workbench.teachers import LocalTeacher


@given(st.lists(st.integers(1, 600), max_size=200), st.integers(1, 4096))
def test_buckets_hold_every_item_once_within_the_budget(lengths, budget):
    batches = models.length_buckets(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


TEXTS = [
    "bread",
    "the river and the stone in the night",
    "",
    "a dog " * 60,
    "日本語 العربية 👩‍🔬",
    "bread oven",
]


def test_encode_gives_what_sentence_transformers_gives(tiny_model):
    model = models.load(tiny_model, device="cpu")
    ours = models.encode(model, TEXTS, "document", precision="float32", token_budget=64)
    np.testing.assert_allclose(ours, model.encode(TEXTS), atol=1e-5)
    assert ours.dtype == np.float32


def test_stored_tokens_give_the_same_vectors_and_each_text_is_tokenized_once(
    tiny_model, monkeypatch
):
    model = models.load(tiny_model, device="cpu")
    model.prompts = {"query": "find: "}
    texts = [Text(text, role) for text in TEXTS for role in Role]
    tokens, tokenized = models.Tokens(model, texts), []
    preprocess = model.preprocess
    monkeypatch.setattr(
        model,
        "preprocess",
        lambda plain, **more: tokenized.extend(plain) or preprocess(plain, **more),
    )
    vectors = models.encode(model, texts, precision="float32")
    assert sorted(tokenized) == sorted(text.text for text in texts)
    stored = models.forward_batches(model, tokens, precision="float32", token_budget=64)
    np.testing.assert_allclose(stored, vectors, atol=1e-5)
    rows = np.array([3, 0, 7])
    features = models.forward_batches(model, tokens, rows=rows, modules=2, precision="float32")
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, vectors[rows], atol=1e-5)


def test_prompts_by_role(tiny_model):
    prompts = {"query": "find: "}
    teacher = LocalTeacher(str(tiny_model), prompts=prompts, device="cpu", precision="float32")
    assert teacher.prompts == {"query": "find: ", "document": ""}
    query, document = (teacher.encode(["bread"], role)[0] for role in (Role.QUERY, Role.DOCUMENT))
    reference = models.load(tiny_model, device="cpu").encode(["find: bread", "bread"])
    np.testing.assert_allclose([query, document], reference, atol=1e-5)


def test_auto_precision_falls_back_where_it_would_cost_too_much(tiny_model, monkeypatch):
    monkeypatch.setattr(models, "best_dtype", lambda device: torch.bfloat16)
    assert LocalTeacher(str(tiny_model), device="cpu").dtype == torch.bfloat16
    monkeypatch.setattr("workbench.teachers.LEAST_COSINE", 1.0001)
    strict = LocalTeacher(str(tiny_model), device="cpu")
    assert strict.dtype == torch.float32
    reference = models.load(tiny_model, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(strict.encode(TEXTS, Role.DOCUMENT), reference, atol=1e-6)


def test_identity_states_what_decides_the_vectors(tiny_model, other_tiny_model):
    one = LocalTeacher(str(tiny_model), device="cpu")
    assert one.identity["pooling"][0] == "Pooling:mean"
    assert one.identity["normalize"] is True and one.identity["dimension"] == 32
    assert LocalTeacher(str(tiny_model), device="cpu").identity == one.identity
    assert LocalTeacher(str(tiny_model), device="cpu", max_length=20).identity != one.identity
    assert LocalTeacher(str(other_tiny_model), device="cpu").identity != one.identity


@pytest.mark.parametrize("length", [None, 5])
def test_a_static_model_is_a_teacher_too(tiny_model, tmp_path, length):
    """It has a tokenizer of another library and no limit of its own."""
    tokenizer = models.load(tiny_model).tokenizer.backend_tokenizer
    tokenizer.no_truncation()
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")
    model.save_pretrained(str(tmp_path / "static"))
    long = "river stone bread oven water light wheel garden"
    named, loaded = (
        LocalTeacher(source, max_length=length) for source in (str(tmp_path / "static"), model)
    )
    assert named.identity["max_length"] == loaded.identity["max_length"] == length
    for teacher in (named, loaded):
        vectors = teacher.encode([long, "river stone bread oven water", ""])
        assert np.isfinite(vectors).all() and np.allclose(vectors[0], vectors[1]) == (length == 5)
    assert model.tokenizer.truncation is None  # the model that was given is as it was
    np.testing.assert_allclose(
        models.encode(model, [long], precision="float32"), model.encode([long])
    )
    table = evaluate.compare({"static": model, "tiny": tiny_model}, [long, "bread", "wheel"])
    assert table["dimension"].tolist() == [8, 32]
    with pytest.raises(ModelError, match="transformer"):
        student.build(tmp_path / "static", 16)


def test_a_role_a_precision_and_a_budget_are_checked(tiny_model):
    for wrong in ({"role": "foo"}, {"precision": "int4"}, {"token_budget": 0}):
        with pytest.raises(WorkbenchError, match=next(iter(wrong))):
            models.encode(tiny_model, ["a"], **wrong)


def test_strings_and_texts_mix_and_each_keeps_its_role(tiny_model):
    model = models.load(tiny_model, device="cpu")
    model.prompts = {"query": "find: ", "document": ""}
    model.train()
    mixed = ["bread", Text("bread", "query"), Text("river", "document"), "bread oven " * 20]
    vectors = models.encode(model, mixed, precision="float32")
    assert model.training
    reference = model.encode(["bread", "find: bread", "river", "bread oven " * 20], prompt="")
    np.testing.assert_allclose(vectors, reference, atol=1e-5)
    as_queries = models.encode(model, mixed, "query", precision="float32")
    np.testing.assert_allclose(as_queries[[0, 1]], reference[[1, 1]], atol=1e-5)
    assert models.encode(model, []).shape == (0, 32)
    with pytest.raises(DataError, match="list"):
        models.encode(model, "bread")


def test_any_form_of_a_model_is_taken(tiny_model):
    model = models.load_model(tiny_model, device="cpu")
    assert models.load_model(model) is model
    for source in (str(tiny_model), models.resolve(tiny_model)):
        assert models.load_model(source, device="cpu").get_embedding_dimension() == 32
    for wrong in (None, 7, model[0].model):
        with pytest.raises(ModelError, match="expected"):
            models.load_model(wrong)
