"""The contract of a teacher, and what `Teacher(...)` makes of what people have."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from tests.conftest import HashTeacher, sentences
from workbench.cache import TargetCache
from workbench.data import Role, Text
from workbench.errors import DataError, IncompleteError, ModelError, TeacherError, WorkbenchError
from workbench.extras.api_teachers import ApiTeacher
from workbench.models import fingerprint
from workbench.pipeline import TOUR
from workbench.teachers import ArrayTeacher, FunctionTeacher, LocalTeacher, Teacher, make_teacher

HASHED = HashTeacher()


def embed(texts):
    return np.stack([HASHED.vector(text, "document") for text in texts])


class Returning(Teacher):
    """A teacher of one's own, which returns what a function makes of texts."""

    def __init__(self, function=embed):
        super().__init__("minimal", 16, normalize=True)
        self.function = function

    def encode(self, texts, role=Role.DOCUMENT, *, stop=None):
        return self.function(texts)


def test_an_identity_is_complete_and_nothing_is_written_to_a_teacher(tmp_path, tiny_model, recwarn):
    teacher = Returning()
    assert teacher.identity == {"teacher": "minimal", "normalize": True, "dimension": 16}
    assert teacher.prompts == {"query": "", "document": ""}
    assert (teacher.concurrency, teacher.batch_size, teacher.usage) == (1, None, None)
    assert teacher.probes and teacher.estimate(sentences(3)) is None
    before = dict(vars(teacher))
    cache = TargetCache(tmp_path, teacher)
    cache.fill(sentences(3))
    assert vars(teacher) == before and cache.teacher is teacher and not recwarn
    TargetCache(tmp_path, Returning()).targets(sentences(3))
    recipe = replace(TOUR, base=str(tiny_model), max_length=40)
    assert recipe.student(cache).get_embedding_dimension() == 16


def test_what_a_teacher_can_be_made_of(tiny_model, tmp_path):
    assert isinstance(Teacher(str(tiny_model), device="cpu"), LocalTeacher)
    assert isinstance(Teacher(tiny_model, device="cpu", max_length=20), LocalTeacher)
    assert isinstance(Teacher(embed), FunctionTeacher)
    listed = Teacher([[1.0, 0.0], [0.0, 1.0]], texts=["a", Text("b", "query")])
    assert isinstance(listed, ArrayTeacher) and listed.encode(["b"], "query").tolist() == [[0, 1]]
    assert isinstance(Teacher("openai:m", url="http://localhost:1", dimensions=4), ApiTeacher)
    assert make_teacher(HASHED) is HASHED
    # A cache takes what a teacher is made of.
    assert TargetCache(tmp_path, embed).fill(sentences(3)).encoded == 3
    assert repr(Teacher(embed, name="mine")) == "FunctionTeacher('mine', dimension=16)"
    with pytest.raises(DataError, match="role 'foo'"):
        Teacher(embed).encode(["a"], "foo")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (None, "cannot be made of NoneType"),
        (np.eye(3), "texts="),
        (torch.nn.Linear(2, 2), "Linear"),
        (lambda texts: embed(texts), "give name="),
        ("openal:m", "the providers are openai"),
    ],
)
def test_what_a_teacher_cannot_be_made_of(source, words):
    with pytest.raises((TeacherError, ModelError), match=words):
        Teacher(source)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "int4"),
        ({"max_length": "9"}, "max_length"),
        ({"max_length": 1000}, "takes from 3 to 48 tokens"),
        ({"prompts": {"passage": "x"}}, "the roles are query and document"),
    ],
)
def test_settings_that_make_no_sense(tiny_model, options, message):
    with pytest.raises(WorkbenchError, match=message):
        LocalTeacher(str(tiny_model), device="cpu", **options)


def test_a_loaded_model_is_a_teacher(tiny_model, other_tiny_model):
    model = SentenceTransformer(str(tiny_model), device="cpu")
    teacher = Teacher(model)
    assert teacher.model is model and teacher.name == tiny_model.name
    named = LocalTeacher(str(tiny_model), device="cpu", precision="float32")
    texts = [text.text for text in sentences(9)]
    np.testing.assert_array_equal(teacher.encode(texts), named.encode(texts))
    other = Teacher(SentenceTransformer(str(other_tiny_model), device="cpu"), name=teacher.name)
    assert other.identity["fingerprint"] != teacher.identity["fingerprint"] == fingerprint(model)
    short = Teacher(model, max_length=8)
    assert model.max_seq_length == 48 and short.identity["max_length"] == 8
    half = Teacher(model, precision="bfloat16")
    assert half.dtype == torch.bfloat16 and next(model.parameters()).dtype == torch.float32
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1
    assert Teacher(model).identity != teacher.identity, "trained on, it is another teacher"
    with pytest.raises(ModelError, match="CrossEncoder"):
        Teacher(CrossEncoder(str(tiny_model), device="cpu"))


def test_a_function_has_its_own_name_and_width_and_gets_a_role_if_it_names_one():
    teacher = FunctionTeacher(embed)
    assert teacher.dimension == 16 and teacher.identity["teacher"].endswith("test_teachers.embed")
    np.testing.assert_allclose(teacher.encode(["a"], "query"), embed(["a"]), atol=1e-6)
    roles = []

    def named(texts, role):
        roles.append(role)
        return 3 * embed(texts)

    teacher = FunctionTeacher(named, dimension=16, prompts={"query": "q: "})
    np.testing.assert_allclose(teacher.encode(["a"], "query"), embed(["q: a"]), atol=1e-6)
    assert roles == [Role.DOCUMENT, Role.QUERY]  # the first asked for the width


@pytest.mark.parametrize(
    "form",
    [
        lambda vectors: vectors.tolist(),
        lambda vectors: list(torch.from_numpy(vectors)),
        lambda vectors: torch.from_numpy(vectors).bfloat16().requires_grad_(),
        lambda vectors: (row for row in vectors),
    ],
)
def test_vectors_of_every_form_are_targets(tmp_path, form):
    texts = sentences(40)
    own = Returning(lambda texts: form(embed(texts)))
    function = FunctionTeacher(lambda texts: form(embed(texts)), "function")
    for teacher in (own, function):
        targets = TargetCache(tmp_path, teacher).embed(texts)
        np.testing.assert_allclose(targets[:], embed([t.text for t in texts]), atol=5e-3)


@pytest.mark.parametrize(
    "returned",
    [
        lambda texts: embed(texts)[:-1],
        lambda texts: embed(texts)[:, :-1],
        lambda texts: [[1.0], [1.0, 2.0]] * len(texts),
        lambda texts: None,
        lambda texts: np.full((len(texts), 16), np.nan),
    ],
)
def test_what_is_not_vectors_is_refused(tmp_path, returned):
    with pytest.raises(TeacherError):
        TargetCache(tmp_path, Returning(returned)).fill(sentences(4))


def test_zeros_have_no_direction(tmp_path):
    def zeros(texts):
        return embed(texts) * [[text != "nothing"] for text in texts]

    texts = [*sentences(4), Text("nothing")]
    cache = TargetCache(tmp_path, FunctionTeacher(zeros, "zeros"))
    with pytest.raises(TeacherError, match="'nothing'"):
        cache.fill(texts)
    assert len(cache.missing(texts)) == 1, "the others are stored"
    kept = FunctionTeacher(zeros, "zeros", normalize=False)
    assert not kept.encode(["nothing"]).any()


def test_vectors_know_their_texts_and_no_others():
    vectors = np.array([[3.0, 4.0], [0.0, 0.0], [1.0, 1.0]])
    teacher = ArrayTeacher(vectors, ["a", "b", "a"])
    np.testing.assert_allclose(teacher.encode(["a"]), [[0.6, 0.8]])
    for text in ("b", "c"):
        with pytest.raises(IncompleteError) as caught:
            teacher.encode(["a", text])
        assert [*caught.value.failed] == [1] and np.isfinite(caught.value.vectors[0]).all()
    with pytest.raises(TeacherError, match="one row of real numbers"):
        ArrayTeacher(np.eye(2), ["a", "b", "c"])
