"""The contract of a teacher, and what `Teacher(...)` makes of what people have."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from tests.conftest import HashTeacher, sentences
from workbench.cache import TargetCache
from workbench.data import Role, Text
from workbench.errors import DataError, ModelError, TeacherError
from workbench.extras.api_teachers import ApiTeacher
from workbench.models import fingerprint
from workbench.pipeline import TOUR
from workbench.teachers import ArrayTeacher, FunctionTeacher, LocalTeacher, Teacher

KNOWS = HashTeacher()


def embed(texts):
    return np.stack([KNOWS.vector(text, "document") for text in texts])


class Minimal(Teacher):
    def encode(self, texts, role=Role.DOCUMENT, *, stop=None):
        return embed(texts)


def test_an_identity_is_always_complete(tmp_path, tiny_model, recwarn):
    """A cache opens without a warning and keeps its identity.json; a student of it can be built."""
    teacher = Minimal("minimal", 16, normalize=True)
    assert teacher.identity == {"teacher": "minimal", "normalize": True, "dimension": 16}
    assert teacher.prompts == {"query": "", "document": ""} and teacher.encode(["a"]).shape == (
        1,
        16,
    )
    cache = TargetCache(tmp_path, teacher)
    cache.fill(sentences(3))
    stated = cache.folder / "identity.json"
    before = stated.read_bytes(), stated.stat().st_ino
    TargetCache(tmp_path, Minimal("minimal", 16, normalize=True)).targets(sentences(3))
    assert (stated.read_bytes(), stated.stat().st_ino) == before and not len(recwarn)
    from dataclasses import replace

    assert (
        replace(TOUR, base=str(tiny_model), max_length=40).student(cache).get_embedding_dimension()
        == 16
    )


def test_a_teacher_cannot_forget_its_identity():
    class Forgetful(Teacher):
        def __init__(self):
            self.dimension = 16

    with pytest.raises(
        TeacherError,
        match=r"Forgetful.__init__ must call super\(\).__init__\(name, dimension, norm",
    ):
        Forgetful()
    with pytest.raises(TypeError, match="normalize"):
        Minimal("minimal", 16)
    for name, dimension, words in (
        ("", 16, "needs a name"),
        (None, 16, "got None"),
        ("a", 0, "is 0; expected a whole"),
    ):
        with pytest.raises(TeacherError, match=words):
            Minimal(name, dimension, normalize=True)
    with pytest.raises(
        TeacherError, match="FunctionTeacher has no option max_len; it has name, dimension, prompts"
    ):
        Teacher(len, max_len=3)
    with pytest.raises(
        TeacherError, match="ArrayTeacher has no option max_len; it has vectors, name, normalize"
    ):
        Teacher(np.eye(1), texts=["a"], max_len=3)
    for teacher in (
        Teacher(lambda texts: np.eye(len(texts), 2), name="f"),
        Teacher(np.eye(1), texts=["a"]),
    ):
        with pytest.raises(DataError, match="role 'foo': it must be 'query' or 'document'"):
            teacher.encode(["a"], "foo")
    with pytest.raises(TeacherError, match="must be JSON values"):
        Minimal("minimal", 16, normalize=True, seed=np.float64)
    with pytest.raises(
        TypeError, match=r"define Old.encode\(self, texts, role='document', \*, stop=None\)"
    ):

        class Old(Teacher):
            def encode(self, texts, role): ...


def test_capabilities_are_declared_and_nothing_is_written_to_a_teacher(tmp_path):
    teacher = Minimal("minimal", 16, normalize=True)
    assert (teacher.concurrency, teacher.batch_size, teacher.usage) == (1, None, None)
    assert teacher.probe() is None and teacher.estimate(sentences(3)) is None
    before = dict(vars(teacher))
    cache = TargetCache(tmp_path, teacher)
    cache.fill(sentences(200))
    assert vars(teacher) == before and cache.teacher is teacher


@pytest.mark.parametrize("rounded", [torch.float16, torch.bfloat16, 1 + 1e-6])
def test_vectors_of_one_text_that_differ_by_rounding_are_the_first(rounded):
    vectors = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    vectors[2] = (
        vectors[0] * rounded
        if isinstance(rounded, float)
        else torch.tensor(vectors[0]).to(rounded).float()
    )
    vectors[3] = vectors[1]
    texts = ["a", "b", "a", "b"]
    with pytest.warns(
        UserWarning, match="1 vector of texts that come again left out: only rounding .* the first"
    ) as said:
        teacher = ArrayTeacher(texts, vectors, normalize=False)
    assert len(said) == 1 and said[0].filename == __file__
    np.testing.assert_array_equal(teacher.encode(["a"])[0], vectors[0])
    assert teacher.texts == [Text("a"), Text("b")]


@pytest.mark.parametrize(
    "change",
    [lambda v: v + 0.05, lambda v: v * 1.02, lambda v: -v, lambda v: v * 0, lambda v: v * np.nan],
)
@pytest.mark.parametrize("turned", [False, True])
def test_vectors_of_one_text_that_differ_are_refused(change, turned):
    first = np.random.default_rng(0).standard_normal(16)
    pair = [first, change(first)][:: -1 if turned else 1]
    with pytest.raises(
        TeacherError,
        match="rows 0 and 1 are of the same document and differ by .*: 'a'. Keep one row",
    ):
        ArrayTeacher(["a", "a"], np.array(pair))


def test_equal_vectors_of_one_text_are_no_news(recwarn):
    for row in ([1.0, 2.0], [0.0, 0.0], [np.nan, 1.0]):
        assert ArrayTeacher(["a", "a"], np.array([row, row])).texts == [Text("a")] and not recwarn


def test_what_a_teacher_can_be_made_of(tiny_model, tmp_path):
    assert isinstance(Teacher(str(tiny_model), device="cpu"), LocalTeacher)
    assert isinstance(Teacher(tiny_model, device="cpu", max_length=20), LocalTeacher)
    assert isinstance(Teacher(embed), FunctionTeacher)
    assert isinstance(Teacher(embed(["a", "b"]), texts=["a", "b"]), ArrayTeacher)
    assert isinstance(
        Teacher([[1.0, 0.0], [0.0, 1.0]], texts=["a", Text("b", "query")]), ArrayTeacher
    )
    assert isinstance(Teacher("openai:m", url="http://localhost:1", dimensions=4), ApiTeacher)
    assert Teacher(KNOWS) is KNOWS
    assert TargetCache(tmp_path, embed).fill(sentences(3)).encoded == 3, (
        "a cache takes what a teacher is made of"
    )


@pytest.mark.parametrize(
    "source, words",
    [
        (None, "cannot be made of None: give a model's name or folder"),
        (3.5, "cannot be made of an object of type float"),
        (b"name", "an object of type bytes"),
        (HashTeacher, "an object of type _TeacherType"),
        (np.eye(3), r"vectors \(ndarray\) needs the text of each: give texts="),
        (torch.eye(3), "give texts="),
        ([[1.0]], "give texts="),
        (torch.nn.Linear(2, 2), "expected a text-embedding model, got an object of type Linear"),
        (lambda texts: embed(texts), "no name of its own: give name="),
        (len, r"returned an array of shape \(\) for 1 text; expected .* of shape \(1, dimension\)"),
        ("openal:m", "there is no provider 'openal'"),
        ("", "empty"),
    ],
)
def test_what_a_teacher_cannot_be_made_of(source, words):
    with pytest.raises((TeacherError, ModelError), match=words):
        Teacher(source)


def test_other_kinds_of_model_are_refused(tiny_model):
    from sentence_transformers import CrossEncoder
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    small = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    clip = CLIPModel(
        CLIPConfig(text_config=CLIPTextConfig(**small), vision_config=CLIPVisionConfig(**small))
    )
    with pytest.raises(
        ModelError, match="got an object of type CLIPModel: a transformers model has no pooling"
    ):
        Teacher(clip)
    with pytest.raises(ModelError, match="a cross-encoder scores pairs"):
        Teacher(CrossEncoder(str(tiny_model), device="cpu"))
    with pytest.raises(TeacherError, match="hash is a teacher already: it takes no max_length"):
        Teacher(KNOWS, max_length=3)


def test_a_loaded_model_is_a_teacher(tiny_model, other_tiny_model, tmp_path):
    model = SentenceTransformer(str(tiny_model), device="cpu")
    teacher = Teacher(model)
    assert teacher.model is model and teacher.name == tiny_model.name
    named = LocalTeacher(str(tiny_model), device="cpu", precision="float32")
    texts = [text.text for text in sentences(9)]
    np.testing.assert_array_equal(teacher.encode(texts), named.encode(texts))
    again = Teacher(SentenceTransformer(str(tiny_model), device="cpu"))
    assert again.identity == teacher.identity
    other = Teacher(SentenceTransformer(str(other_tiny_model), device="cpu"), name=teacher.name)
    assert other.identity["fingerprint"] != teacher.identity["fingerprint"] == fingerprint(model)
    cut = Teacher(model, max_length=8)
    assert cut.model is not model and model.max_seq_length == 48 and cut.identity["max_length"] == 8
    half = Teacher(model, precision="bfloat16")
    assert half.dtype == torch.bfloat16 and next(model.parameters()).dtype == torch.float32
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1
    assert Teacher(model).identity != teacher.identity, "trained on, it is another teacher"
    with pytest.raises(TeacherError, match="not a loaded model"):
        Teacher(model, revision="main")


def test_a_static_model_is_a_teacher(tiny_model, tmp_path):
    tokenizer = SentenceTransformer(str(tiny_model), device="cpu").tokenizer.backend_tokenizer
    static = SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu"
    )
    teacher = Teacher(static, name="static")
    assert (
        teacher.encode(["river stone", "bread"]).shape == (2, 8)
        and teacher.identity["normalize"] is False
    )
    assert TargetCache(tmp_path, teacher).fill(sentences(5)).encoded == 5


def test_a_function_says_its_own_name_and_width():
    teacher = FunctionTeacher(embed)
    assert teacher.dimension == 16 and teacher.identity["teacher"].endswith("test_teachers.embed")
    np.testing.assert_allclose(teacher.encode(["a"], "query"), embed(["a"]), atol=1e-6)


def test_a_function_takes_a_role_if_it_wants_one():
    seen = []

    def required(texts, kind):
        return seen.append(kind) or embed(texts)

    def named(texts, role=None):
        return seen.append(role) or embed(texts)

    def neither(texts, batch_size=32, **more):
        return seen.append(batch_size) or embed(texts)

    for function in (required, named, neither):
        FunctionTeacher(function, dimension=16).encode(["a"], "query")
    assert seen == [Role.QUERY, Role.QUERY, 32]


@pytest.mark.parametrize(
    "form",
    [
        lambda vectors: vectors.tolist(),
        lambda vectors: vectors.astype(np.float64),
        lambda vectors: torch.from_numpy(vectors).requires_grad_(),
        lambda vectors: list(torch.from_numpy(vectors)),
        lambda vectors: torch.from_numpy(vectors).bfloat16(),
        lambda vectors: [tuple(row) for row in vectors],
        lambda vectors: (row for row in vectors),
    ],
)
def test_vectors_of_every_form_are_targets(tmp_path, form):
    class Odd(Teacher):
        def encode(self, texts, role=Role.DOCUMENT, *, stop=None):
            return form(embed(texts))

    texts = sentences(40)
    for teacher in (
        Odd("odd", 16, normalize=True),
        FunctionTeacher(lambda texts: form(embed(texts)), "function"),
    ):
        cache = TargetCache(tmp_path, teacher)
        cache.fill(texts)
        np.testing.assert_allclose(
            cache.targets(texts)[:], embed([t.text for t in texts]), atol=5e-3
        )
    if isinstance(form(embed(["a"])), Iterator):
        return
    np.testing.assert_allclose(
        Teacher(form(embed(["a"])), texts=["a"]).encode(["a"]), embed(["a"]), atol=5e-3
    )


@pytest.mark.parametrize(
    "returned, words",
    [
        (lambda texts: embed(texts)[:-1], r"array of shape \(\d+, 16\) for \d+ texts; expected"),
        (
            lambda texts: [[1.0], [1.0, 2.0]] * len(texts),
            r"a list of rows of different widths .* shape \(\d, 16\)",
        ),
        (
            lambda texts: None,
            r"returned None for \d texts; expected an array, a tensor or lists of numbers",
        ),
        (lambda texts: ["a"] * len(texts), r"a list of strings for \d texts; expected"),
        (lambda texts: ("1" for _ in texts), "a generator of strings"),
        (lambda texts: [["1"] * 16] * len(texts), "a list of strings"),
        (lambda texts: dict.fromkeys(texts), "a dict of something other than numbers"),
        (lambda texts: embed(texts).astype(complex), "an array of complex numbers"),
        (lambda texts: embed(texts)[0], "array of shape"),
        (lambda texts: np.full((len(texts), 16), np.nan), "NaN or infinite"),
    ],
)
def test_what_is_not_vectors_is_refused(tmp_path, returned, words):
    class Odd(Teacher):
        def encode(self, texts, role=Role.DOCUMENT, *, stop=None):
            return returned(texts)

    with pytest.raises(TeacherError, match=words):
        TargetCache(tmp_path, Odd("odd", 16, normalize=True)).fill(sentences(4))


def test_zeros_have_no_direction(tmp_path):
    teacher = FunctionTeacher(
        lambda texts: embed(texts) * [[text != "nothing"] for text in texts], "zeros"
    )
    texts = [*sentences(4), Text("nothing")]
    cache = TargetCache(tmp_path, teacher)
    with pytest.raises(
        TeacherError,
        match="1 of 5 texts got no target, first 'nothing': its vector is all zeros, which have no",
    ):
        cache.fill(texts)
    assert cache.plan(texts).missing == 1, "the others are stored"
    assert (
        not FunctionTeacher(lambda texts: np.zeros((len(texts), 3)), "z", normalize=False)
        .encode(["a"])
        .any()
    )


def test_a_row_without_a_role_is_a_document():
    rows = [
        {"text": "a", "vector": [1.0, 0.0], "role": None},
        {"text": "b", "vector": [0.0, 1.0], "role": "query"},
    ]
    assert [text.role for text in ArrayTeacher.from_rows(rows, "rows", role="role").texts] == [
        Role.DOCUMENT,
        Role.QUERY,
    ]


def test_a_teacher_can_be_printed(tiny_model):
    assert repr(Teacher(embed, name="mine")) == "FunctionTeacher('mine', dimension=16)"
    assert repr(Teacher(tiny_model)) == f"LocalTeacher({str(tiny_model)!r}, dimension=32)"
