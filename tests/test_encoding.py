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

TEXTS = [
    "bread",
    "the river and the stone in the night",
    "",
    "a dog " * 60,
    "日本語 العربية 👩‍🔬",
    "bread oven",
]


@pytest.fixture
def model(tiny_model, monkeypatch):
    monkeypatch.setattr(models, "best_token_budget", lambda device: 64)  # several batches
    model = models.load_model(tiny_model, device="cpu")
    model.prompts = {"query": "find: ", "document": ""}
    return model


@given(st.lists(st.integers(1, 600), max_size=200), st.integers(1, 4096))
def test_buckets_hold_every_item_once_within_the_budget(lengths, budget):
    batches = models.length_buckets(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


def test_strings_and_texts_mix_and_give_what_sentence_transformers_gives(model):
    model.train()
    mixed = [*TEXTS, Text("bread", "query"), Text("river", "document")]
    vectors = models.encode(model, mixed, precision="float32")
    assert model.training and vectors.dtype == np.float32
    reference = model.encode([*TEXTS, "find: bread", "river"], prompt="")
    np.testing.assert_allclose(vectors, reference, atol=1e-5)
    as_queries = models.encode(model, mixed, "query", precision="float32")
    np.testing.assert_allclose(as_queries[[0, 6]], reference[[6, 6]], atol=1e-5)
    assert models.encode(model, []).shape == (0, 32)
    with pytest.raises(DataError, match="list"):
        models.encode(model, "bread")
    for wrong in ({"role": "foo"}, {"precision": "int4"}):
        with pytest.raises(WorkbenchError, match=next(iter(wrong))):
            models.encode(model, ["a"], **wrong)


def test_stored_tokens_give_the_same_vectors_and_each_text_is_tokenized_once(model, monkeypatch):
    texts = [Text(text, role) for text in TEXTS for role in Role]
    tokens, tokenized, preprocess = models.Tokens(model, texts), [], model.preprocess

    def counting(strings, **options):
        tokenized.extend(strings)
        return preprocess(strings, **options)

    monkeypatch.setattr(model, "preprocess", counting)
    vectors = models.encode(model, texts, precision="float32")
    assert sorted(tokenized) == sorted(text.text for text in texts)
    stored = models.forward_batches(model, tokens.batches(), len(texts), precision="float32")
    np.testing.assert_allclose(stored, vectors, atol=1e-5)
    rows = np.array([3, 0, 7])
    options = {"modules": 2, "precision": "float32"}
    features = models.forward_batches(model, tokens.batches(rows), 3, **options)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, vectors[rows], atol=1e-5)


def test_a_local_teacher_has_prompts_by_role(tiny_model):
    prompts = {"query": "find: "}
    teacher = LocalTeacher(str(tiny_model), prompts=prompts, device="cpu", precision="float32")
    assert teacher.prompts == {"query": "find: ", "document": ""}
    query, document = (teacher.encode(["bread"], role)[0] for role in (Role.QUERY, Role.DOCUMENT))
    reference = models.load_model(tiny_model, device="cpu").encode(["find: bread", "bread"])
    np.testing.assert_allclose([query, document], reference, atol=1e-5)


def test_auto_precision_falls_back_where_it_would_cost_too_much(tiny_model, monkeypatch):
    monkeypatch.setattr(models, "best_dtype", lambda device: torch.bfloat16)
    assert LocalTeacher(str(tiny_model), device="cpu").dtype == torch.bfloat16
    monkeypatch.setattr("workbench.teachers.LEAST_COSINE", 1.0001)
    strict = LocalTeacher(str(tiny_model), device="cpu")
    assert strict.dtype == torch.float32
    reference = models.load_model(tiny_model, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(strict.encode(TEXTS, Role.DOCUMENT), reference, atol=1e-6)


def test_identity_states_what_decides_the_vectors(tiny_model, other_tiny_model):
    one = LocalTeacher(str(tiny_model), device="cpu")
    assert one.identity["normalize"] is True and one.identity["dimension"] == 32
    assert LocalTeacher(str(tiny_model), device="cpu").identity == one.identity
    assert LocalTeacher(str(tiny_model), device="cpu", max_length=20).identity != one.identity
    assert LocalTeacher(str(other_tiny_model), device="cpu").identity != one.identity


@pytest.mark.parametrize("length", [None, 5])
def test_a_static_model_is_a_teacher_too(tiny_model, tmp_path, length):
    """It has a tokenizer of another library and no limit of its own."""
    tokenizer = models.load_model(tiny_model).tokenizer.backend_tokenizer
    tokenizer.no_truncation()
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")
    model.save_pretrained(str(tmp_path / "static"))
    long = "river stone bread oven water light wheel garden"
    for source in (str(tmp_path / "static"), model):
        teacher = LocalTeacher(source, max_length=length)
        assert teacher.identity["max_length"] == length
        vectors = teacher.encode([long, "river stone bread oven water", ""])
        assert np.isfinite(vectors).all() and np.allclose(vectors[0], vectors[1]) == (length == 5)
    assert model.tokenizer.truncation is None  # the model that was given is as it was
    ours = models.encode(model, [long], precision="float32")
    np.testing.assert_allclose(ours, model.encode([long]))
    table = evaluate.compare({"static": model, "tiny": tiny_model}, [long, "bread", "wheel"])
    assert table["dimension"].tolist() == [8, 32]
    with pytest.raises(ModelError, match="transformer"):
        student.build(tmp_path / "static", 16)


def test_any_form_of_a_model_is_taken(tiny_model):
    model = models.load_model(tiny_model, device="cpu")
    assert models.load_model(model) is model
    for source in (str(tiny_model), models.resolve(tiny_model)):
        assert models.load_model(source, device="cpu").get_embedding_dimension() == 32
    for wrong in (None, model[0].model):
        with pytest.raises(ModelError, match="expected"):
            models.load_model(wrong)
