"""What was wrong without a word in neighboring tools, and was here: each test is named after its kind."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel, RobertaConfig, RobertaModel

import workbench as wb
from tests.conftest import sentences
from workbench import evaluate, models, student
from workbench.cache import TargetCache
from workbench.errors import CacheError, ModelError, TeacherError
from workbench.extras import publish
from workbench.teachers import FunctionTeacher


class Embedder:
    """Two objects of one class, whose methods have one name."""

    def __init__(self, seed):
        self.seed = seed

    def encode(self, texts):
        return np.stack(
            [np.random.default_rng([self.seed, *text.encode()]).normal(size=16) for text in texts]
        )


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


def test_another_similarity_is_refused(tiny_model):
    model = models.load_model(tiny_model, device="cpu")
    model.similarity_fn_name = "dot"
    if models.normalizes(model):
        model = type(model)(
            modules=list(model.children())[:2], similarity_fn_name="dot", device="cpu"
        )
    data = wb.RetrievalDataset("d", {"a": "x"}, {"q": "x"}, {"q": {"a": 1}})
    for other in (model, wb.Teacher(model)):
        with pytest.raises(wb.WorkbenchError, match="compared by dot"):
            evaluate.same_models({"one": other, "two": model}, data)


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
        models._check(model, "unpadded")


def test_what_a_graph_cannot_hold_is_refused(tiny_model, tmp_path):
    model = models.load_model(tiny_model, device="cpu")
    model[1].include_prompt = False
    with pytest.raises(ModelError, match="prompts are left out"):
        publish.save_onnx(model, tmp_path / "prompts")
    with pytest.raises(ModelError, match=r"bfloat16: export model.float"):
        publish.save_onnx(models.load_model(tiny_model, device="cpu").bfloat16(), tmp_path / "half")
