import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workbench import data, docstrings
from workbench._stored import StoredTexts
from workbench.data import Role, Text
from workbench.docstrings import docstring_corpus
from workbench.errors import DataError


def write_beir(folder, documents=None, queries=None, qrels=None):
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    documents = (
        documents
        if documents is not None
        else [{"_id": "d1", "title": "T", "text": "one"}, {"_id": "d2", "text": "two"}]
    )
    queries = queries if queries is not None else [{"_id": "q1", "text": "which"}, {"_id": "q2", "text": "unjudged"}]
    qrels = qrels if qrels is not None else [("q1", "d1", 2), ("q1", "d2", 0)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    (folder / "queries.jsonl").write_text("".join(json.dumps(q) + "\n" for q in queries))
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in qrels)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return folder


def test_beir_reads_titles_roles_and_judged_queries(tmp_path):
    collection = data.beir(write_beir(tmp_path / "small"))
    assert collection.name == "small"
    assert collection.corpus == {"d1": "T one", "d2": "two"}
    assert collection.queries == {"q1": "which"}
    assert collection.qrels == {"q1": {"d1": 2, "d2": 0}}
    assert [t.role for t in collection.query_texts()] == [Role.QUERY]
    assert [t.role for t in collection.document_texts()] == [Role.DOCUMENT] * 2


def test_beir_keeps_empty_documents_and_says_so(tmp_path):
    folder = write_beir(tmp_path, documents=[{"_id": "d1", "text": "one"}, {"_id": "d2", "title": "", "text": ""}])
    with pytest.warns(UserWarning, match="1 of 2 documents are empty"):
        assert data.beir(folder).corpus["d2"] == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"documents": []}, "corpus.jsonl is empty"),
        ({"queries": []}, "queries.jsonl is empty"),
        ({"qrels": []}, "has no judgments"),
        ({"documents": [{"_id": "d1", "text": "one"}] * 2}, r"line 2: id 'd1' comes twice"),
        ({"documents": [{"text": "one"}]}, "line 1: no '_id'"),
        ({"documents": [{"_id": "d1"}]}, "line 1: no 'text'"),
        ({"documents": [{"_id": "d1", "text": 7}]}, "line 1: 'text' is of type int"),
        ({"documents": [{"_id": "d1", "text": "a\0b"}]}, "line 1: 'text' is binary"),
        ({"documents": [{"_id": "d1", "text": "\ud800"}]}, "line 1: 'text' is not valid Unicode"),
        ({"documents": [["d1"]]}, "line 1: a JSON object is expected"),
        ({"qrels": [("q1", "d9", 1)]}, "1 unknown ids, first line 2: document 'd9'"),
        ({"qrels": [("q9", "d1", 1)]}, "query 'q9'"),
        ({"qrels": [("q1", "d1", "high")]}, "line 2: expected query-id, corpus-id and an integer score"),
        ({"queries": [{"_id": "q1", "text": "  "}]}, "judged query 'q1' is empty"),
    ],
)
def test_beir_names_the_file_and_line_of_what_is_wrong(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        data.beir(write_beir(tmp_path, **change))


def test_beir_malformed_json_and_encoding(tmp_path):
    folder = write_beir(tmp_path)
    (folder / "corpus.jsonl").write_text('{"_id": "d1", "text": "one"}\n{"_id": "d2", "te\n')
    with pytest.raises(DataError, match=r"corpus.jsonl, line 2: not JSON"):
        data.beir(folder)
    (folder / "corpus.jsonl").write_bytes(b'{"_id": "d1", "text": "\xff\xfe\xfa"}\n')
    with pytest.raises(DataError, match=r"line 1: not UTF-8"):
        data.beir(folder)


def test_beir_missing_folder_file_and_split(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        data.beir(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"splits found: test"):
        data.beir(write_beir(tmp_path), split="dev")
    (tmp_path / "queries.jsonl").unlink()
    with pytest.raises(DataError, match="queries.jsonl is missing"):
        data.beir(tmp_path)


@pytest.mark.parametrize("text", ["العربية نص طويل", "日本語の文章です", "👩‍🔬🧪 emoji", "x" * 100_000, "Ωμέγα", ""])
def test_texts_of_every_script_are_texts(text):
    assert Text(text, "query").role is Role.QUERY


def test_a_string_is_a_document_wherever_texts_are_wanted(tmp_path):
    assert Text("a") == Text("a", "document")
    query, wanted = Text("q", "query"), [Text("a"), Text("q", "query"), Text("")]
    given = ["a", query, ""]
    makers = (list, tuple, iter, lambda x: np.array(x, dtype=object), pd.Series)
    assert all(data.as_texts(make(given)) == wanted for make in makers)
    assert (
        data.as_texts(np.array(["a", "b"]))
        == data.as_texts(pd.Series(["a", "b"], dtype="str"))
        == list(map(Text, "ab"))
    )
    assert data.as_texts(wanted) is wanted
    stored = StoredTexts.write(wanted, tmp_path / "texts.arrow")
    assert data.as_texts(stored) is stored


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "queries: expected a list of strings, got NoneType"),
        (3, "got int"),
        (b"bytes", "got bytes"),
        ({"a": "b"}, "got dict"),
        ("one", "got one text where a list of texts is expected"),
        (Text("one"), "put it in a list"),
        ([], "queries: got no texts; at least one is needed"),
        (iter([]), "got no texts"),
        (pd.DataFrame({"body": ["x"], "id": [1]}), r"got a table; choose one of its columns \(body, id\)"),
        (["a", None], "queries: item 1 is missing"),
        (pd.Series(["a", None]), "item 1 is missing"),
        (pd.Series(["a", None], dtype="string"), "item 1 is missing"),
        ([3.0], "item 0 is of type float, and a string is expected"),
        ([float("nan")], "item 0 is missing"),
        (["a", b"b"], "item 1 is of type bytes"),
        (["a", ["b", "c"]], "item 1 is of type list"),
        (np.eye(2), "item 0 is of type ndarray"),
        ([{"text": "a"}], "item 0 is of type dict"),
        (["a", "b\0"], "queries, item 1: a document is binary"),
    ],
)
def test_what_is_no_list_of_texts_gets_a_sentence(given, message):
    with pytest.raises(DataError, match=message):
        data.as_texts(given, "queries")


def test_text_refuses_what_cannot_be_embedded():
    with pytest.raises(DataError, match="split it"):
        Text("x" * (data.MAX_CHARACTERS + 1), Role.DOCUMENT)
    with pytest.raises(DataError, match="must be 'query' or 'document'"):
        Text("x", "passage")
    with pytest.raises(DataError, match="type bytes"):
        Text(b"x", Role.QUERY)


def test_read_texts_from_parquet_and_jsonl(tmp_path):
    rows = [{"text": "one", "role": "query"}, {"text": "  ", "role": "query"}, {"text": "two", "role": "document"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in ("t.parquet", "t.jsonl"):
        with pytest.warns(UserWarning, match="skipped 1 blank"):
            assert [t.text for t in data.read_texts(tmp_path / name)] == ["one", "two"]


def test_read_texts_errors(tmp_path):
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="no column role or text; it has body"):
        list(data.read_texts(tmp_path / "t.parquet"))
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        list(data.read_texts(tmp_path / "bad.parquet"))
    (tmp_path / "t.jsonl").write_text('{"text": "x", "role": "query"}\n{"text": "x", "role": "passage"}\n')
    with pytest.raises(DataError, match="line 2: role 'passage'"):
        list(data.read_texts(tmp_path / "t.jsonl"))
    with pytest.raises(DataError, match="no such file"):
        list(data.read_texts(tmp_path / "nothing.jsonl"))
    (tmp_path / "t.csv").touch()
    with pytest.raises(DataError, match=r"\.parquet or \.jsonl"):
        list(data.read_texts(tmp_path / "t.csv"))


def test_hub_texts_reads_a_local_data_set_and_explains_failure(tmp_path):
    (tmp_path / "part.jsonl").write_text('{"question": "why"}\n{"question": ""}\n{"question": "how"}\n')
    texts = list(data.hub_texts(str(tmp_path), "question", "query"))
    assert texts == [Text("why", Role.QUERY), Text("how", Role.QUERY)]
    with pytest.raises(DataError, match="no column 'body'; it has question"):
        list(data.hub_texts(str(tmp_path), "body", "query"))
    with pytest.raises(DataError, match="needs no hub"):
        list(data.hub_texts("nobody/no-such-data-set", "text", "query"))


def test_docstrings_are_deterministic_disjoint_and_cannot_be_copied():
    one = docstring_corpus(held_out=50, libraries=["traitlets", "tornado", "fsspec"])
    two = docstring_corpus(held_out=50, libraries=["fsspec", "traitlets", "tornado"])
    assert one == two
    assert len(one.train) > 300
    assert {t.role for t in one.train} == set(Role)
    held_out = set(one.held_out.corpus.values()) | set(one.held_out.queries.values())
    assert not held_out & {t.text for t in one.train}
    for query, document in zip(one.held_out.queries.values(), one.held_out.corpus.values(), strict=True):
        assert query.rstrip(".") not in document
        assert 4 <= len(query.split()) <= 40 <= len(document) * 2


def test_docstring_loses_name_signature_and_summary():
    docstring = """frobnicate(x, y=1)

    Turn the knobs until it hums. Then wait.

    Calling ``frobnicate`` twice is the same as once, as Turn the knobs until it hums says, and
    other.frobnicate(3) is better avoided by anybody who wants a quiet and peaceful afternoon.

    >>> frobnicate(1)
    """
    query, document = docstrings._split_docstring(docstring, "frobnicate")
    assert query == "Turn the knobs until it hums."
    assert document.startswith("Then wait. Calling")
    assert "frobnicate" not in document and "knobs" not in document and ">>>" not in document


def test_docstrings_are_read_without_importing_the_library():
    code = (
        "import sys; from workbench.docstrings import docstring_corpus; docstring_corpus(held_out=5, libraries=['tornado', 'networkx']);"
        "sys.exit(any(name in sys.modules for name in ('tornado', 'networkx')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_docstrings_errors():
    with pytest.raises(DataError, match="'no_such_library' is not installed"):
        docstring_corpus(libraries=["no_such_library"])
    with pytest.raises(DataError, match="name more libraries or ask for fewer"):
        docstring_corpus(held_out=100_000, libraries=["traitlets"])


def test_the_tutorial_collection_is_what_it_says():
    collection = data.tutorial()
    assert 150 <= len(collection.corpus) <= 250
    assert len(collection.queries) >= 50
    forms = {m["form"] for m in collection.query_metadata.values()}
    assert forms == {"keywords", "question", "description", "misspelling"}
    assert len({identifier.rpartition("-")[0] for identifier in collection.corpus}) == 12
    grades = {g for judged in collection.qrels.values() for g in judged.values()}
    assert grades == {1, 2, 3}
    assert all(max(judged.values()) >= 2 for judged in collection.qrels.values())
    assert len(set(collection.corpus.values())) == len(collection.corpus)
