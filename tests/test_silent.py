"""What was wrong without a word in neighboring tools, and was here: each test is named after its kind."""

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from tokenizers import normalizers
from transformers import AutoTokenizer, BertConfig, BertModel, RobertaConfig, RobertaModel

import workbench as wb
from tests.conftest import make_tiny_model, sentences
from workbench import evaluate, models, student
from workbench._util import unit
from workbench.cache import TargetCache
from workbench.data import Role, Text
from workbench.errors import CacheError, ModelError, TeacherError
from workbench.extras import benchmark, publish
from workbench.teachers import FunctionTeacher


def _more_heads(model):
    model[0].model.config.num_attention_heads = 2
    for layer in model[0].model.encoder.layer:
        attention = layer.attention.self
        attention.num_attention_heads, attention.attention_head_size = 2, 16


def _set(path, value):
    """Return what sets an attribute of a model, such as `1.pooling_mode`."""

    def change(model):
        *names, last = path.split(".")
        for name in names:
            model = model[int(name)] if name.isdigit() else getattr(model, name)
        setattr(model, last, value)

    return change


# What people change of a model, and what tools have left out of their keys or of their exports.
CHANGES = {
    "e5's prompts": _set("prompts", {"query": "find: ", "document": "", "passage": "coffee: "}),
    "prompt": _set("prompts", {"query": "the river "}),
    "pooling": _set("1.pooling_mode", "cls"),
    "max": _set("1.pooling_mode", "max"),
    "prompt not pooled": _set("1.include_prompt", False),
    "width": _set("truncate_dim", 8),
    "length": _set("max_seq_length", 8),
    "length of queries": _set("0.query_length", 6),
    "cut in front": _set("tokenizer.truncation_side", "left"),
    "padded in front": _set("tokenizer.padding_side", "left"),
    "no accents": _set("tokenizer.backend_tokenizer.normalizer", normalizers.StripAccents()),
    "not normalized": lambda model: model.pop(2),
    "heads": _more_heads,
    "bfloat16": lambda model: model.bfloat16(),
}
some_changes = st.sets(st.sampled_from(sorted(CHANGES)), max_size=3)
# Of all scripts, lengths and roles; "\0" is refused.
letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
words = st.sampled_from("River stone été 图书馆 🙂 bread, 12".split())
strings = st.text(letters, min_size=1, max_size=30) | st.lists(words, min_size=1, max_size=90).map(
    " ".join
)
some_texts = st.lists(st.builds(Text, strings, st.sampled_from(Role)), min_size=1, max_size=6)
quiet = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def changed(folder, changes):
    model = models.load_model(folder, device="cpu")
    for name in sorted(changes):
        CHANGES[name](model)
    return models.load_model(model)


@settings(quiet, max_examples=60)
@given(some_changes, some_changes, st.sampled_from(["model", "function"]), some_texts)
@pytest.mark.filterwarnings("ignore:.*pads on the left")
def test_what_a_cache_serves_is_what_its_teacher_embeds(tiny_model, one, other, kind, texts):
    """Two teachers that embed differently never share an entry."""

    def teacher(changes):
        model = changed(tiny_model, changes)
        if kind == "model":
            return wb.Teacher(model)
        return wb.Teacher(
            lambda texts, role: models.encode(model, texts, role), name="f", normalize=False
        )

    with tempfile.TemporaryDirectory() as root:
        TargetCache(root, teacher(one), dtype="float32").fill(texts)
        second = teacher(other)
        cache = TargetCache(root, second, dtype="float32")
        try:
            served = np.asarray(cache.embed(texts))
        except CacheError:
            assert kind == "function" and one != other
            return
        for text, vector in zip(texts, served, strict=True):
            alone = second.encode([text.text], text.role)[0]
            most = 2e-3 if kind == "model" else 0.1  # functions are told apart by their probes
            assert np.linalg.norm(vector - alone) <= most * np.linalg.norm(alone)


@settings(quiet, max_examples=30)
@given(some_changes, some_changes, some_texts, st.integers(0, 9))
@pytest.mark.filterwarnings("ignore:.*pads on the left")
def test_what_is_published_embeds_as_what_was_measured(
    tiny_model, wide_as_tiny, one, other, texts, draw
):
    """A student alone, truncated, in a pair, as ONNX and int8."""
    small, large = changed(tiny_model, one), changed(wide_as_tiny, other | (one & {"width"}))
    if draw % 3 == 0:
        small = publish.truncated(small, 5)
    strings = [text.text for text in texts]

    def check(published, role, measured, least=0.999):
        """Embed as people do who have sentence-transformers, or the graph, alone."""
        if isinstance(published, publish.OnnxModel):
            vectors = published.encode(strings, role)
        else:
            vectors = getattr(published, f"encode_{role}")(strings)
        expected = models.encode(measured, strings, role, precision="float32")
        assert (unit(vectors) * unit(expected)).sum(axis=1).min() > least, role

    with tempfile.TemporaryDirectory() as scratch:
        alone = publish.save_student(small, Path(scratch, "alone"))
        for role in Role:
            check(SentenceTransformer(str(alone), device="cpu"), role, small)
        if small.get_embedding_dimension() == large.get_embedding_dimension():
            folder = publish.save_pair(large, small, Path(scratch, "pair"))
            pair = SentenceTransformer(str(folder), device="cpu")
            check(pair, "query", small)
            check(pair, "document", large)
        if draw > 6:
            try:
                folder = publish.save_onnx(small, Path(scratch, "onnx"))
            except ModelError:  # what a graph cannot do
                assert one & {"prompt not pooled", "bfloat16", "length of queries"}
                return
            for role in Role:
                check(publish.OnnxModel(folder), role, small)
                check(publish.OnnxModel(folder, int8=True), role, small, 0.99)


class Embedder:
    """Two objects of one class, whose methods have one name."""

    def __init__(self, seed):
        self.seed = seed

    def encode(self, texts):
        return np.stack(
            [np.random.default_rng([self.seed, *text.encode()]).normal(size=16) for text in texts]
        )


@pytest.fixture(scope="session")
def wide_as_tiny(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("models") / "large", seed=2)


def test_another_function_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    texts = [text.text for text in sentences(40)]
    one, other = Embedder(1), Embedder(2)
    cache = TargetCache(tmp_path / "cache", wb.Teacher(one.encode))
    cache.fill(texts)
    assert cache.fill(texts).encoded == 0  # the same function is known again
    for call in (TargetCache.fill, TargetCache.embed):
        with pytest.raises(CacheError, match="give the teacher another name"):
            call(TargetCache(tmp_path / "cache", wb.Teacher(other.encode)), texts)
    compared = {
        "one": wb.Teacher(one.encode, name="a"),
        "other": wb.Teacher(other.encode, name="b"),
    }
    assert abs(wb.compare(compared, texts)["cosine"][1]) < 0.2
    with pytest.raises(wb.WorkbenchError, match="another name"):
        wb.compare({"one": wb.Teacher(one.encode), "other": wb.Teacher(other.encode)}, texts)


def test_a_teacher_of_ones_own_and_a_model_that_learns_on_are_told_from_what_they_were(
    tmp_path, tiny_model
):
    class Mine(wb.Teacher):
        def __init__(self, seed, length=9999):
            super().__init__("mine", 16, normalize=False)
            self.embed, self.length = Embedder(seed).encode, length

        def encode(self, texts, role=Role.DOCUMENT, *, stop=None):
            return self.embed([text[: self.length] for text in texts])

    cache = TargetCache(tmp_path, Mine(1))
    cache.fill(["bread"])
    for other in (Mine(2), Mine(1, length=500)):  # which differs for long texts alone
        with pytest.raises(CacheError, match="another name"):
            TargetCache(tmp_path, other).fill(["bread"])
    model = models.load_model(tiny_model, device="cpu")
    cache = TargetCache(tmp_path, wb.Teacher(model))
    cache.fill(["bread"])
    with torch.no_grad():
        model[0].model.embeddings.word_embeddings.weight.mul_(-1)
    with pytest.raises(CacheError, match="another name"):
        cache.fill(["stone"])


def test_a_function_that_only_knows_its_own_texts():
    known = {"bread": [1.0, 2.0]}
    with pytest.raises(TeacherError, match=r"cannot embed .*wb.Teacher\(vectors, texts=texts\)"):
        FunctionTeacher(lambda texts: [known[text] for text in texts], "lookup")


def test_weights_outside_the_folder(tmp_path, tiny_model):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(tiny_model, base)
    shutil.copytree(tiny_model, adapter)
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    before = models.resolve(adapter).fingerprint
    (base / "note.txt").write_text("retrained")
    assert models.resolve(adapter).fingerprint != before
    (adapter / "query").mkdir()  # as in a Router
    (adapter / "adapter_config.json").rename(adapter / "query" / "adapter_config.json")
    before = models.resolve(adapter).fingerprint
    (base / "note.txt").write_text("retrained again")
    assert models.resolve(adapter).fingerprint != before


def test_every_file_that_is_opened_counts(tmp_path, tiny_model, other_tiny_model):
    small = student.build(tiny_model, 48, max_length=40, device="cpu")
    large = models.load_model(other_tiny_model, device="cpu")
    folder = publish.save_pair(large, small, tmp_path / "pair")
    opened = set()

    def record(event, arguments):
        if event == "open" and str(arguments[0]).startswith(str(folder)):
            opened.add(Path(str(arguments[0])))

    sys.addaudithook(record)  # safetensors are mapped by Rust, which is not seen here
    SentenceTransformer(str(folder), device="cpu")
    opened |= set(folder.rglob("*.safetensors"))
    assert len(opened) > 8
    before = models.resolve(folder).fingerprint
    for path in filter(Path.is_file, opened - {folder / "README.md"}):
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        assert models.resolve(folder).fingerprint != before, path
        path.write_bytes(content)


def test_stale_weights_beside_newer_pickles_are_refused(tmp_path, tiny_model):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    weights, pickle = folder / "model.safetensors", folder / "pytorch_model.bin"
    pickle.write_bytes(b"x")
    os.utime(weights)
    models.resolve(folder)  # copied together
    os.utime(weights, (time.time() - 3600,) * 2)
    with pytest.raises(ModelError, match=r"pytorch_model.bin is newer"):
        models.resolve(folder)
    pickle.unlink()
    (folder / "query").mkdir()
    (folder / "query" / "pytorch_model-00001-of-00002.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"lacks .safetensors"):
        models.resolve(folder)


def test_a_student_on_an_adapter_is_refused(tiny_model):
    model = models.load_model(tiny_model, device="cpu")
    model[0].model.peft_config = {}
    with pytest.raises(ModelError, match="merge it"):
        student.build(model, 48)


def test_width_is_part_of_the_identity_and_of_what_is_published(
    tiny_model, other_tiny_model, tmp_path
):
    teacher = models.load_model(other_tiny_model, device="cpu")
    small = models.load_model(tiny_model, device="cpu")
    whole = models.fingerprint(teacher)
    texts = [text.text for text in sentences(20)]
    full = models.encode(teacher, texts, precision="float32")
    teacher.truncate_dim = small.get_embedding_dimension()
    assert models.fingerprint(teacher) != whole
    cut = full[:, : teacher.truncate_dim]
    cut = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    vectors = models.encode(teacher, texts, precision="float32")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors / norms, cut, atol=1e-5)
    pair = models.load_model(publish.save_pair(teacher, small, tmp_path / "pair"), device="cpu")
    assert pair.encode_query(texts).shape == pair.encode_document(texts).shape == cut.shape
    np.testing.assert_allclose(pair.encode_document(texts), cut, atol=1e-5)
    alone = models.load_model(publish.save_student(teacher, tmp_path / "alone"), device="cpu")
    np.testing.assert_allclose(alone.encode(texts), cut, atol=1e-5)


def test_another_similarity_is_refused(tiny_model, tmp_path):
    model = models.load_model(tiny_model, device="cpu")
    model.similarity_fn_name = "dot"
    if models.normalizes(model):
        model = type(model)(
            modules=list(model.children())[:2], similarity_fn_name="dot", device="cpu"
        )
    data = wb.RetrievalDataset("d", {"a": "x"}, {"q": "x"}, {"q": {"a": 1}})
    for door in (
        lambda: evaluate.same_models({"one": model, "two": model}, data),
        lambda: wb.Teacher(model),
        lambda: benchmark.of_model(model, "dot"),
        lambda: publish.save_pair(model, model, tmp_path / "pair"),
    ):
        with pytest.raises(wb.WorkbenchError, match="compared by dot"):
            door()
    normalized = models.load_model(tiny_model, device="cpu")
    for name in ("dot", "euclidean", "cosine"):
        normalized.similarity_fn_name = name
        models.check_cosine(normalized)
    normalized.similarity_fn_name = "manhattan"
    with pytest.raises(ModelError, match="compared by manhattan"):
        models.check_cosine(normalized)


def test_positions_of_bert_and_of_roberta():
    sizes = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 8, "max_position_embeddings": 40}  # fmt: skip
    for kind, config, expected in ((BertModel, BertConfig, 40), (RobertaModel, RobertaConfig, 38)):
        backbone = kind(config(**sizes, pad_token_id=1))
        assert models.positions(SimpleNamespace(transformers_model=backbone)) == expected
        backbone(torch.full((1, expected), 5))  # reads so many
        with pytest.raises((IndexError, RuntimeError)):
            backbone(torch.full((1, expected + 1), 5))


def test_a_model_that_cannot_do_what_it_says(tiny_model, tmp_path):
    def changed(name, change):
        folder = tmp_path / name
        shutil.copytree(tiny_model, folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        change(tokenizer)
        tokenizer.save_pretrained(folder)
        return folder

    half = models.load_model(tiny_model, device="cpu").half()
    exact = models.load_model(tiny_model, device="cpu")
    texts = [text.text for text in sentences(20)]
    expected = models.encode(exact, texts, precision="float32")
    assert (models.encode(half, texts) * expected).sum(axis=1).min() > 0.999
    exact.tokenizer.padding_side = "left"  # its positions would depend on the batch
    with pytest.warns(UserWarning, match="pads on the left"):
        padded = models.encode(exact, texts, precision="float32")
    np.testing.assert_allclose(padded, expected, atol=1e-5)
    words = [f"neologism{i}" for i in range(5000)]
    with pytest.raises(ModelError, match="do not belong together"):
        models.load_model(changed("large", lambda tokenizer: tokenizer.add_tokens(words)))
    model = models.load_model(tiny_model, device="cpu")
    model.max_seq_length = 5000
    with pytest.warns(UserWarning, match="says it reads 5000 tokens"):
        models._check(model, "long")
    assert model.max_seq_length == models.positions(model)
    model.tokenizer.pad_token = None
    with pytest.raises(ModelError, match="no padding token"):
        models.encode(model, texts)  # one that was loaded before is checked too


def test_what_a_graph_cannot_hold_is_refused(tiny_model, tmp_path):
    model = models.load_model(tiny_model, device="cpu")
    model[1].include_prompt = False
    with pytest.raises(ModelError, match="prompts are left out"):
        publish.save_onnx(model, tmp_path / "prompts")
    with pytest.raises(ModelError, match=r"bfloat16: export model.float"):
        publish.save_onnx(models.load_model(tiny_model, device="cpu").bfloat16(), tmp_path / "half")


def test_a_pair_has_the_prompts_of_both(tiny_model, wide_as_tiny, tmp_path):
    """As e5 names them: `encode_document` of the library does not know "passage" otherwise."""
    teacher = models.load_model(wide_as_tiny, device="cpu")
    teacher.prompts = {"query": "ask: ", "document": "", "passage": "the river "}
    small = models.load_model(tiny_model, device="cpu")
    texts = [text.text for text in sentences(20)]
    measured = wb.Teacher(teacher, precision="float32").encode(texts)
    pair = SentenceTransformer(str(publish.save_pair(teacher, small, tmp_path / "pair")))
    np.testing.assert_allclose(pair.encode_document(texts), measured, atol=1e-5)
    np.testing.assert_allclose(pair.encode_query(texts), small.encode(texts), atol=1e-5)
