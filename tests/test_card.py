import json
import re
import shutil

import numpy as np
import pytest
from conftest import sentences
from huggingface_hub import ModelCard

from workbench import models, student, train
from workbench.cache import TargetCache
from workbench.errors import ModelError
from workbench.extras import card, publish
from workbench.teachers import LocalTeacher

PROVENANCE = {
    "teacher": {"teacher": "lab/teacher", "normalize": True, "max_length": 96},
    "teacher_name": "lab/teacher",
    "fingerprint": "0123456789abcdef0123",
    "base": "lab/base",
    "texts": "docstrings",
    "texts_by_role": {"query": 1200, "document": 800},
    "start": "closed-form",
    "settings": {"batch_size": 16, "seed": 7},
    "held_out_loss": 0.25,
    "workbench": "0.1.0",
}
COLUMNS = ["mode", "ndcg_at_10", "share_of_teacher", "share_low", "share_high"]
ROWS = [
    dict(zip(COLUMNS, row, strict=True))
    for row in (
        ("teacher", 0.5, 1.0, 1.0, 1.0),
        ("base", 0.49, 0.98, 0.9, 1.02),
        ("symmetric", 0.48, 0.96, 0.93, 0.99),
        ("asymmetric", 0.47, 0.94, 0.91, 0.97),
    )
]
REPORT = {"collection": "moths", "documents": 1400, "queries": 20, "rows": ROWS}


def written(**options):
    defaults = {"provenance": PROVENANCE, "results": [REPORT], "name": "me/small", "dimension": 768}
    return card.card(**(defaults | options))


def test_the_hub_can_read_it():
    alone = ModelCard(written(onnx=True, language=["en", "pt-BR"]).content).data
    assert alone.license == "apache-2.0" and alone.language == ["en", "pt-BR"]
    assert alone.base_model == ["lab/base"] and "onnx" in alone.tags
    (result,) = alone.eval_results
    assert (result.dataset_name, result.metric_value) == ("moths", 0.48)
    pair = ModelCard(written(pair=True).content).data
    assert pair.base_model == ["lab/base", "lab/teacher"]
    assert pair.eval_results[0].metric_value == 0.47


def test_it_states_what_was_measured_beside_its_baselines():
    text = written().text
    for line in (
        "| moths (1,400 documents) | teacher | 0.500 | 100.0% |  |",
        "| moths (1,400 documents) | untrained base | 0.490 | 98.0% | 90.0% to 102.0% |",
        "| moths (1,400 documents) | student, asymmetric | 0.470 | 94.0% | 91.0% to 97.0% |",
        "| training texts | docstrings: 1,200 queries, 800 documents; no judgments, no negatives |",
        "| seed | 7 |",
        "it kept 94.0% of its teacher on the one collection measured here, moths.",
    ):
        assert line in text
    # What was not measured is not said.
    assert "Shorter and coarser" not in text


def test_it_says_which_collection_was_learned_from():
    text = written(provenance=PROVENANCE | {"texts": "moths"}).text
    assert "has learned from the documents of moths" in text
    assert "has learned from the documents" not in written().text


def test_curves_are_stated_where_they_were_measured():
    point = {"dimensions": 96, "precision": "int8", "bytes_per_document": 1096}
    curves = [
        point | {"mode": mode, "share_of_teacher": share}
        for mode, share in (("teacher", 0.97), ("asymmetric", 0.93))
    ]
    text = written(results=[REPORT | {"curves": curves}]).text
    assert "| 96, int8 | 1,096 | 97.0% | 93.0% |" in text


def test_where_things_lay_stays_private(tmp_path):
    folder = tmp_path / "secret" / "teacher"
    folder.mkdir(parents=True)
    text = written(
        provenance=PROVENANCE | {"teacher_name": str(folder), "texts": str(folder / "mine.parquet")}
    ).content
    assert "secret" not in text and "mine.parquet" in text
    assert ModelCard(text).data.base_model == ["lab/base"]
    text = written(provenance=PROVENANCE | {"base": "../clients/acme/base"}).content
    assert "acme" not in text and ModelCard(text).data.base_model is None
    assert "lab/data" in written(provenance=PROVENANCE | {"texts": "hub:lab/data"}).text


def test_hostile_names_stay_text():
    hostile = 'a/b"); import os; os.system("id")\n# Pwned <script>|'
    names = {"teacher_name": hostile, "base": hostile, "settings": {hostile: 1}}
    report = REPORT | {"collection": "a|b\n<script>"}
    text = written(provenance=PROVENANCE | names, results=[report]).text
    assert "\n# Pwned" not in text and "<script>" not in text.replace("\\<script\\>", "")
    assert "a\\|b \\<script\\>" in text
    assert "teacher = SentenceTransformer" not in text  # no code is made of what is no name


def test_lengths_are_the_models():
    assert "texts are cut to 32 tokens" in written(max_length=32).text
    pair = written(max_length=32, pair=True).text
    assert "queries are cut to 32 tokens and documents to 96" in pair
    assert "before they were rotated or cut" in written(truncated=True).text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"results": [{"collection": "moths"}]}, "not as it was written"),
        ({"results": []}, "results"),
        ({"provenance": {}}, "how the student was made"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ModelError, match=message):
        written(**options)


def code_of(card):
    return "\n".join(part.split("```")[0] for part in card.split("```python")[1:])


def test_its_code_runs(tmp_path, monkeypatch, tiny_model, other_tiny_model):
    """What a reader copies from the card works on what lies beside it."""
    model = student.build(tiny_model, 48, max_length=40, device="cpu")
    folder = publish.save_student(model, tmp_path / "out", card=written(onnx=True), onnx=True)
    monkeypatch.chdir(folder)
    code = code_of((folder / "README.md").read_text()).replace("me/small", str(folder))
    code = code.replace("lab/teacher", str(other_tiny_model))
    names = {}
    exec(code.replace("teacher.max_seq_length = 96", "teacher.max_seq_length = 40"), names)
    expected = names["student"].encode_query("how does a sail work?")
    np.testing.assert_allclose(names["vectors"][0], expected, atol=1e-4)


@pytest.mark.parametrize("prompts", [None, {"query": "ask: ", "document": "read: "}, {}])
def test_its_code_gives_the_vectors_that_were_measured(
    tmp_path, tiny_model, other_tiny_model, prompts
):
    """The teacher's own configuration has a prompt "passage", which plain `encode_document` does not know."""
    folder = shutil.copytree(other_tiny_model, tmp_path / "teacher")
    config = json.loads((folder / "config_sentence_transformers.json").read_text())
    own = {"query": "query: ", "passage": "passage: "}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config | {"prompts": own}))
    cache = TargetCache(
        tmp_path / "cache",
        LocalTeacher(folder, max_length=40, prompts=prompts, precision="float32"),
    )
    model = student.build(tiny_model, 48, max_length=40, prompts=cache.prompts, device="cpu")
    texts = sentences(20)
    made = train.provenance(cache, texts, base=str(tiny_model), source="sentences")
    alone = written(provenance=made | {"teacher_name": "lab/teacher"}).text
    measured = {
        "queries": models.encode(model, ["how does a sail work?"], "query", precision="float32"),
        "documents": cache.teacher.encode(["Wind flows faster over the curved side of a sail."]),
    }
    publish.save_student(model, tmp_path / "student")
    cache.teacher.model.prompts = dict(cache.prompts)  # as `workbench publish` does
    publish.save_pair(cache.teacher.model, model, tmp_path / "pair")
    for text, saved in ((alone, "student"), (written(provenance=made, pair=True).text, "pair")):
        code = code_of(text).replace("me/small", str(tmp_path / saved))
        code = re.sub(r"\w+\.similarity\(", "vectors = (", code.replace("lab/teacher", str(folder)))
        names = {}
        exec(code, names)
        queries, documents = names["vectors"]
        np.testing.assert_allclose(queries, measured["queries"], atol=1e-4)
        np.testing.assert_allclose(documents, measured["documents"], atol=1e-4)


def test_a_teacher_without_weights_has_students_with_cards():
    teacher = {"teacher": "m", "normalize": True, "max_length": [512, "lab/tokenizer"]}
    text = written(provenance=PROVENANCE | {"teacher_name": "openai:m", "teacher": teacher}).text
    assert "openai:m has embedded" in text and "teacher.max_seq_length" not in text
    assert "cut to 512" in text


def test_provenance_is_published_nowhere(tmp_path, tiny_model):
    model = student.build(tiny_model, 48, max_length=40, device="cpu")
    student.save(model, tmp_path / "work", PROVENANCE)
    assert student.read_provenance(tmp_path / "work") == PROVENANCE
    folder = publish.save_student(student.load(tmp_path / "work"), tmp_path / "out")
    assert not (folder / models.PROVENANCE).exists()
    text = [sentences(1)[0].text]
    assert (student.load(folder).encode(text) == model.encode(text)).all()
