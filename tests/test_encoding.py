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


def test_prompts_by_role(tiny_model):
    teacher = LocalTeacher(
        str(tiny_model), prompts={"query": "find: "}, device="cpu", precision="float32"
    )
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "must be auto, float32 or bfloat16"),
        ({"max_len": 3}, "LocalTeacher has no option max_len; it has name, max_length, prompts, "),
        ({"max_length": "9"}, "max_length is '9'; expected a whole number of at least 3"),
        ({"max_length": 1000}, "takes from 3 to 48 tokens"),
        ({"prompts": {"passage": "x"}}, "the roles are query and document"),
    ],
)
def test_settings_that_make_no_sense(tiny_model, options, message):
    with pytest.raises(WorkbenchError, match=message):
        LocalTeacher(str(tiny_model), device="cpu", **options)


@pytest.mark.parametrize("length", [None, 5])
def test_a_static_model_is_a_teacher_too(tiny_model, tmp_path, length):
    """It has a tokenizer of another library and no limit of its own; it is what the fastest students compete with."""
    tokenizer = models.load(tiny_model).tokenizer.backend_tokenizer
    tokenizer.no_truncation()
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")
    model.save_pretrained(str(tmp_path / "static"))
    long = "river stone bread oven water light wheel garden"
    named, loaded = (
        LocalTeacher(source, max_length=length) for source in (str(tmp_path / "static"), model)
    )
    assert named.identity["max_length"] == loaded.identity["max_length"] == length
    assert named.identity["fingerprint"] != LocalTeacher(str(tiny_model)).identity["fingerprint"]
    for teacher in (named, loaded):
        vectors = teacher.encode([long, "river stone bread oven water", ""])
        assert np.isfinite(vectors).all() and np.allclose(vectors[0], vectors[1]) == (length == 5)
    assert model.tokenizer.truncation is None  # the model that was given is as it was
    table = evaluate.compare({"static": model, "tiny": tiny_model}, [long, "bread", "wheel"])
    assert table["dimension"].tolist() == [8, 32]
    with pytest.raises(ModelError, match="does not start with a transformer"):
        student.build(tmp_path / "static", 16)


def test_a_role_a_precision_and_a_budget_are_checked(tiny_model):
    with pytest.raises(DataError, match="role 'foo': it must be 'query' or 'document'"):
        LocalTeacher(str(tiny_model), device="cpu").encode(["a"], "foo")
    for wrong, words in (
        ({"role": "foo"}, "role 'foo': it must be"),
        ({"precision": "int4"}, "precision 'int4': it must be auto, float32 or bfloat16"),
        ({"token_budget": 0}, "token_budget is 0; expected a whole number of at least 1"),
        ({"token_budget": -5}, "token_budget is -5"),
    ):
        with pytest.raises(WorkbenchError, match=words):
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
    np.testing.assert_allclose(
        models.encode(model, mixed, "query", precision="float32")[[0, 1]],
        reference[[1, 1]],
        atol=1e-5,
    )
    np.testing.assert_array_equal(
        models.encode(tiny_model, tuple(mixed[2:])), models.encode(model, mixed[2:])
    )
    assert models.encode(model, []).shape == (0, 32)
    for wrong, said in (
        ("bread", "put it in a list"),
        ([1], "of type int"),
        ([None], "item 0 is missing"),
        ([["a"]], "list"),
    ):
        with pytest.raises(DataError, match=said):
            models.encode(model, wrong)


def test_a_static_model_is_a_text_model():
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers import models as kinds

    tokenizer = Tokenizer(kinds.WordLevel({"[UNK]": 0, "bread": 1, "river": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")
    texts = ["bread river", "bread", "river " * 50]
    np.testing.assert_allclose(
        models.encode(model, texts, precision="float32"), model.encode(texts), atol=1e-6
    )


def test_any_form_of_a_model_is_taken(tiny_model):
    model = models.load_model(tiny_model, device="cpu")
    assert models.load_model(model) is model
    for source in (str(tiny_model), models.resolve(tiny_model)):
        assert models.load_model(source, device="cpu").get_embedding_dimension() == 32
    for wrong, said in (
        (None, "got None"),
        (7, "of type int"),
        (model[0].model, "has no pooling"),
        (lambda texts: texts, "of type function"),
    ):
        with pytest.raises(ModelError, match=f"expected a text-embedding model.*{said}"):
            models.load_model(wrong)
