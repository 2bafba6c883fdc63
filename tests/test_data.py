"""Texts from lists, tables, files and folders; retrieval data sets in BEIR layout; docstrings."""

import gzip
import json
import shutil
import subprocess
import sys

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workbench import data, docstrings, views
from workbench.data import Role, StoredTexts, Text
from workbench.docstrings import docstring_corpus
from workbench.errors import DataError, WorkbenchError

ROWS = [
    {"text": "one", "role": "query"},
    {"text": "  ", "role": "query"},
    {"text": "two", "role": None},
]
TEXTS = [Text("one", "query"), Text("two")]
DOCUMENTS = [{"_id": "d1", "title": "T", "text": "one"}, {"_id": "d2", "text": "two"}]
QUERIES = [{"_id": "q1", "text": "which"}, {"_id": "q2", "text": "unjudged"}]
JUDGMENTS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n"


def write(path, content, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def write_beir(folder, documents=DOCUMENTS, queries=QUERIES, qrels=JUDGMENTS):
    write(folder / "corpus.jsonl", "\n".join(map(json.dumps, documents)))
    write(folder / "queries.jsonl", "\n".join(map(json.dumps, queries)))
    write(folder / "qrels" / "test.tsv", qrels)
    return folder


# --- texts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "role"), [("a\0", "query"), ("\ud800", "query"), (b"x", "query"), ("x", "user")]
)
def test_text_refuses_what_cannot_be_embedded(text, role):
    with pytest.raises(DataError):
        Text(text, role)


def test_a_string_is_a_document_wherever_texts_are_expected(tmp_path):
    mixed, expected = ["a", Text("q", "query"), ""], [Text("a"), Text("q", "query"), Text("")]
    for make in (list, tuple, iter, lambda x: np.array(x, dtype=object), pd.Series):
        assert data.as_texts(make(mixed)) == expected
    assert type(data.as_texts(np.array(["a", "b"]))[0].text) is str
    assert data.as_texts(expected) is expected
    stored = StoredTexts.write(expected, tmp_path / "texts.arrow")
    assert data.as_texts(stored) is stored


@pytest.mark.parametrize("wrong", [{"a": "b"}, "one", Text("one"), [], [{"id": "x"}], ["a", None]])
def test_what_is_no_list_of_texts_is_refused(wrong):
    with pytest.raises(DataError, match="queries"):
        data.as_texts(wrong, "queries")
    for source in (None, {"a": "b"}, [], ["a", 3], ["", None], "no/such.csv", "long " * 1000):
        with pytest.raises(DataError):
            data.read_texts(source)


# --- reading ------------------------------------------------------------------------------------


def test_every_format_of_file_gives_the_same_texts(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    for name in ("t.jsonl", "lines.json"):
        write(tmp_path / name, "\n".join(map(json.dumps, ROWS)))
    write(tmp_path / "t.json", json.dumps(ROWS))
    write(tmp_path / "t.csv", "Role,TEXT\nquery,one\nquery,  \n\n,two\n")
    write(tmp_path / "t.tsv", "text\trole\none\tquery\n\t\ntwo\tdocument\n")
    for name in ("t.jsonl", "t.csv", "t.tsv"):
        write(tmp_path / f"{name}.gz", gzip.compress((tmp_path / name).read_bytes()))
    for path in tmp_path.iterdir():
        with pytest.warns(UserWarning, match="left out of 3 texts: 1 blank"):
            assert data.read_texts(path) == TEXTS, path
        with pytest.warns(UserWarning):
            queries = data.read_texts(str(path), role="query")
            assert [text.role for text in queries] == [Role.QUERY] * 2
            assert list(data.stream_texts(path)) == TEXTS
        assert data.read_texts(path, limit=1) == TEXTS[:1]
    with pytest.warns(
        UserWarning, match="left out of 27 texts: 9 blank .lines.json:2, .*, 16 duplicate"
    ):
        assert sorted(data.read_texts(tmp_path), key=lambda text: text.text) == TEXTS


def test_lists_tables_and_data_sets_give_texts(monkeypatch):
    frame, dataset = pd.DataFrame(ROWS), datasets.Dataset.from_list(ROWS)
    table = pa.Table.from_pylist(ROWS)
    mixed = [Text("one", "query"), None, "two"]
    for source in (ROWS, frame, table, frame.astype("string"), dataset, mixed, iter(mixed),
                   dataset.to_iterable_dataset()):  # fmt: skip
        with pytest.warns(UserWarning, match="3 texts: 1 blank"):
            assert data.read_texts(source) == TEXTS
    for column in (frame["text"], dataset["text"], table["text"]):
        with pytest.warns(UserWarning, match="1 blank"):
            assert data.read_texts(column) == [Text("one"), Text("two")]
    assert data.read_texts(pd.DataFrame({"body": ["a"]})) == [Text("a")]  # the only column
    assert data.read_texts(pd.DataFrame({"body": ["a"], "id": ["1"]}), column="id") == [Text("1")]
    texts = ["a", Text("a", "query"), "b", "a", "a "]
    with pytest.warns(UserWarning, match="left out of 5 texts: 1 duplicate"):
        assert data.read_texts(texts) == [Text("a"), Text("a", "query"), Text("b"), Text("a ")]
    assert list(data.stream_texts(texts)) == data.as_texts(texts)
    collection = data.read_dataset("tutorial")
    assert data.read_texts(collection) == data.read_texts("tutorial") == collection.document_texts()
    corpus = docstring_corpus(held_out=5, libraries=["traitlets"])
    monkeypatch.setattr(docstrings, "docstring_corpus", lambda: corpus)
    assert data.read_texts("docstrings", limit=3) == corpus.train[:3]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ([{"text": "a", "id": 1}], {"column": 2024}, "no column 2024"),
        ([{"text": "a"}], {"column": []}, "no column"),
        (["a"], {"limit": -1}, "limit is -1"),
        (["a"], {"sample": "x"}, "sample is 'x'"),
        ("", {}, "no file"),
        (
            [{"text": "a", "m": "b"}, {"text": "a", "m": {"x": 1}}],
            {"column": "m"},
            "1: 'm' is no text",
        ),
    ],
)
def test_a_wrong_option_says_so(source, options, message):
    with pytest.raises(DataError, match=message):
        data.read_texts(source, **options)


def test_ids_of_a_table_with_missing_ones_are_whole_numbers():
    table = pd.DataFrame({"id": [101, 102, None], "text": list("abc"), "title": [1, 2, 3]})
    assert [text.id for text in data.read_texts(table)] == ["101", "102", "2"]
    with pytest.raises(DataError, match="unknown option colum: expected one of"):
        views.search(table, colum="text")


def test_a_folder_is_read_file_by_file(tmp_path):
    write(tmp_path / "b.md", "# Rivers\n\nThey flow.\n")
    write(tmp_path / "below" / "a.txt", "caf\xe9 \u6f22")
    write(tmp_path / "c.txt.gz", gzip.compress(b"packed"))
    write(tmp_path / "picture.png", b"\x89PNG\r\n\0\0")
    write(tmp_path / "empty.jsonl", b"")
    write(tmp_path / ".hidden" / "c.txt", "hidden")
    write_beir(tmp_path / "search")
    with pytest.warns(UserWarning, match="2 other or empty files left out, such as empty.jsonl, p"):
        read = data.read_texts(tmp_path)
    texts = [text.text for text in read]
    assert texts == ["Rivers. They flow.", "packed", "caf\xe9 \u6f22", "T. one", "two"]
    names = ["b.md", "c.txt.gz", "below/a.txt", "d1", "d2"]
    assert [text.id for text in read] == names and [read[0].title, read[3].title] == ["Rivers", "T"]
    assert read[2].fields == {"file": str(tmp_path / "below" / "a.txt")}
    with pytest.raises(DataError, match="no texts"):
        data.read_texts(write(tmp_path / "none" / ".hidden", "x").parent)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "id;text\n1;caf\xe9\n2;\u6f22\n"),
        ("t.csv", "\ufeffbody|role\ncaf\xe9|\n\u6f22|"),
        ("t.csv", 'text,n\r\n"caf\xe9",1\r\n\u6f22,x\r\n'),
        ("t.jsonl", '\ufeff{"text": "caf\xe9"}\n\n{"text": "\u6f22"}\n'),
        ("t.json", '[\n"caf\xe9", "\u6f22"]'),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_tables_are_read_whatever_separates_their_columns(tmp_path, name, content, encoding):
    path = write(tmp_path / name, content.removeprefix("\ufeff" * (encoding != "utf-8")), encoding)
    texts = data.read_texts(path, encoding=None if encoding == "utf-8" else encoding)
    assert texts == [Text("caf\xe9"), Text("\u6f22")]


def test_cells_keep_line_breaks_and_numbers_and_other_encodings_have_to_be_named(tmp_path):
    path = write(tmp_path / "t.csv", f'text,n\n"a\r\nb",1\n"{"x" * 10**6}",2\n007,3\n')
    assert [text.text for text in data.read_texts(path)] == ["a\r\nb", "x" * 10**6, "007"]
    for name, content in (("t.csv", "text\ncaf\xe9\n"), ("t.txt", "caf\xe9")):
        path = write(tmp_path / name, content, "latin-1")
        with pytest.raises(DataError, match=f"{name}.* encoding"):
            data.read_texts(path)
        assert data.read_texts(path, encoding="cp1252")[0].text == "caf\xe9"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "", "no texts"),
        ("t.csv", "text\n", "no texts"),
        ("t.csv", "subject,body\nx,y\n", "with column=, of subject, body"),
        ("t.csv", "text,id\nHello, world,1\n", "line 2: expected 2 fields"),
        ("t.csv", 'id,text\n1,"open\n2,b\n', "t.csv"),
        ("t.png", b"\x89PNG\r\n\0\0", "end in .csv"),
        ("t.jsonl", '{"text": "x"}\n{"text": 3}', "t.jsonl:2: .*got 3"),
        ("t.jsonl", '{"text": "x"}\n{"text": "x", "role": "user"}', "t.jsonl:2: role 'user'"),
        ("t.jsonl", '{"text": "x"}\n{"te', "line 2: not a JSON object"),
        ("t.parquet", "no parquet", "t.parquet"),
        ("t.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 99, mtime=0)[:-9], "t.jsonl.gz"),
    ],
)
def test_a_file_that_cannot_be_read_says_why_and_where(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        data.read_texts(write(tmp_path / name, content))


def test_parquet_columns(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"body": ["x"], "id": [1], "vector": [[1.0]]}), path)
    assert data.read_texts(path) == [Text("x")]  # the only column of strings
    pq.write_table(pa.table({"body": ["x"], "title": ["y"]}), path)
    assert data.read_texts(path, column="title") == [Text("y")]
    with pytest.raises(
        DataError, match="no column 'txt' of texts: name one with column=, of body, title"
    ):
        data.read_texts(path, column="txt")


def test_many_texts_go_to_a_file_and_duplicates_are_found_there(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(data, "IN_MEMORY", 50)
    lines = "".join(f"query,text {i % 90}\n" for i in range(300))
    path = write(tmp_path / "t.csv", f"role,text\n{lines}")
    with pytest.warns(UserWarning, match="300 texts: 210 duplicate"):
        texts = data.read_texts(path)
    assert isinstance(texts, StoredTexts)
    assert list(texts) == [Text(f"text {i}", "query") for i in range(90)]
    assert not list((tmp_path / "home").iterdir()), "what is mapped stays readable"
    assert isinstance(data.read_texts(path, limit=49), list)


def test_a_sample_is_even_and_nested(tmp_path):
    for name, count in (("large", 500), ("small", 10)):
        rows = [
            {"text": f"{name} {i}", "role": "query" if i % 2 else "document"} for i in range(count)
        ]
        write(tmp_path / f"{name}.jsonl", "\n".join(map(json.dumps, rows)))
    sample = data.read_texts(tmp_path, sample=100)
    assert len(sample) == len(set(sample)) == 100
    names = [text.text.split()[0] for text in sample]
    assert names.count("small") == 10 and "small" in names[:50] and "small" in names[50:]
    assert abs(sum(text.role is Role.QUERY for text in sample) - 50) <= 1
    assert set(sample) < set(data.read_texts(tmp_path, sample=200))
    assert [text.text for text in sample[:3]] == ["large 271", "large 55", "large 465"]
    write(tmp_path / "again.jsonl", (tmp_path / "large.jsonl").read_bytes())
    assert len(data.read_texts(tmp_path, sample=9999)) == 510
    texts = [f"text {i}" for i in range(5000)]
    assert data.read_texts(texts, sample=20) == data.read_texts(texts[::-1], sample=20)


def test_cropped_queries_are_pieces_of_documents():
    long = Text(f"A river runs by the old stone bridge. Too short. {'word ' * 60}.")
    queries = data.crop_queries([long, Text("no query of a query", "query"), Text("")], 8)
    assert 1 < len(queries) <= 8 and len(set(queries)) == len(queries)
    for query in queries:
        assert query.role is Role.QUERY and query.text in long.text
        assert 5 <= len(query.text.split()) <= 25
    assert data.crop_queries([Text("x y"), long], 8) == queries  # whatever is around
    assert data.crop_queries([long], 0) == []


def test_data_sets_of_the_hub(tmp_path, monkeypatch):
    write(tmp_path / "part.jsonl", '{"question": "why"}\n{"question": ""}\n{"question": "how"}\n')
    with pytest.warns(UserWarning, match="1 blank"):
        texts = data.read_texts(f"hub:{tmp_path}", column="question", role="query")
    assert texts == [Text("why", "query"), Text("how", "query")]
    for name, message in ((f"hub:{tmp_path}", "no column"), ("hub:nobody/no-such", "cannot be")):
        with pytest.raises(DataError, match=message):
            data.read_texts(name, column="body")
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert data.read_texts(write(tmp_path / "t.csv", "text\na\n")) == [Text("a")]
    with pytest.raises(WorkbenchError, match=r"pip install 'teacher-aligned-workbench\[hub\]'"):
        data.read_texts("hub:owner/name", column="text")


def test_a_search_reads_the_column_of_a_csv(tmp_path, tiny_model, other_tiny_model):
    path = write(tmp_path / "tickets.csv", "id,body\na,The pump leaks.\nb,The lamp is dark.\n")
    models = {"documents": str(tiny_model), "queries": str(other_tiny_model)}
    view = views.search(path, **models, column="body", progress=False)
    assert dict(view._documents) == {"a": "The pump leaks.", "b": "The lamp is dark."}


# --- retrieval data sets ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "qrels",
    [
        "q1\td1\t2\nq1\td2\t0",
        "q1 Q0 d1 2\nq1  Q0  d2  0",  # TREC
        '"query-id"\t"corpus-id"\t"score"\n"q1"\t"d1"\t"2"\n"q1"\t"d2"\t"0"',
        "\ufeffq1\td1\t2\r\nq1\td2\t0\r\n",
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_judgments_of_every_usual_form(tmp_path, qrels, packed, recwarn):
    folder = write_beir(tmp_path, qrels=qrels)
    for path in list(folder.rglob("*.*")) if packed else []:
        write(path.with_name(f"{path.name}.gz"), gzip.compress(path.read_bytes()))
        path.unlink()
    collection = data.read_dataset(folder)
    assert collection.qrels == {"q1": {"d1": 2, "d2": 0}} and collection.name == tmp_path.name
    assert collection.corpus == {"d1": "T. one", "d2": "two"}
    assert collection.query_texts() == [Text("which", "query")]
    assert data.is_dataset(folder) and not data.is_dataset(tmp_path.parent)
    assert data.read_texts(folder) == collection.document_texts() and not recwarn


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"documents": DOCUMENTS[:1] * 2}, "line 2: id 'd1'"),
        ({"documents": [{"text": "one"}]}, "line 1: id ''"),
        ({"qrels": "query\tdocument\tgrade\n"}, "no judgments"),
        ({"qrels": "q1\td1\t0.5"}, "test.tsv"),
        ({"qrels": "a\tb\tc\nq1\td1\thigh"}, "test.tsv"),
        ({"qrels": "q1\td1\t1\nq1\t0\td2\t1"}, "test.tsv"),
    ],
)
def test_a_beir_folder_names_what_is_wrong(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        data.read_dataset(write_beir(tmp_path, **change))
    with pytest.raises(DataError, match="qrels/dev.tsv"):
        data.read_dataset(write_beir(tmp_path), "dev")


def test_judgments_of_unknown_ids(tmp_path):
    folder = write_beir(tmp_path, qrels="q1\td1\t1\ngone\td1\t1\nq1\tgone\t1\n")
    with pytest.warns(UserWarning, match="2 of 3 judgments") as warned:
        assert data.read_dataset(folder).qrels == {"q1": {"d1": 1}}
    assert warned[0].filename == __file__
    with pytest.raises(DataError, match="'e'"):
        data.RetrievalDataset("mine", {"d": "bread"}, {"q": "why?"}, {"q": {"e": 1}})


def test_the_tutorial_collection_is_what_it_says():
    collection = data.read_dataset("tutorial")
    assert data.read_dataset(collection) is collection
    assert len(set(collection.corpus.values())) == len(collection.corpus) == 192
    assert len(collection.queries) >= 50
    assert len({name.rpartition("-")[0] for name in collection.corpus}) == 12
    assert {grade for grades in collection.qrels.values() for grade in grades.values()} == {1, 2, 3}
    assert all(max(grades.values()) >= 2 for grades in collection.qrels.values())


# --- docstrings ---------------------------------------------------------------------------------


def test_docstrings_are_deterministic_disjoint_and_cannot_be_copied():
    corpus = docstring_corpus(held_out=50, libraries=["traitlets", "tornado"])
    assert corpus == docstring_corpus(held_out=50, libraries=["tornado", "traitlets"])
    assert len(corpus.train) > 300 and {text.role for text in corpus.train} == set(Role)
    held_out = corpus.held_out
    texts = {*held_out.corpus.values(), *held_out.queries.values()}
    assert not texts & {text.text for text in corpus.train}
    pairs = zip(held_out.queries.values(), held_out.corpus.values(), strict=True)
    assert all(query.rstrip(".") not in document for query, document in pairs)
    with pytest.raises(DataError, match="no_such"):
        docstring_corpus(libraries=["no_such"])


def test_a_docstring_loses_name_signature_and_summary():
    docstring = """frobnicate(x, y=1)

    Turn the knobs until it hums. Then wait.

    Calling ``frobnicate`` twice is the same as once. One that is called too often, as Turn the
    knobs until it hums says, is better avoided by anybody who wants a quiet and peaceful afternoon.
    The other.frobnicate(3) is designed for use at night.

    >>> frobnicate(1)
    """
    query, document = docstrings._split_docstring(docstring, "frobnicate")
    assert query == "Turn the knobs until it hums."
    assert document.startswith("Then wait. One that is called")
    assert document.endswith("peaceful afternoon.")
    assert not any(word in document for word in ("frobnicate", "knobs", ">>>"))


def test_docstrings_are_read_without_importing_the_library():
    code = (
        "import sys; from workbench.docstrings import docstring_corpus\n"
        "docstring_corpus(held_out=5, libraries=['networkx'])\n"
        "sys.exit('networkx' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    "content",
    [
        "id,text\n1,bread oven\n2,river stone\n".encode("utf-16"),
        b"sep=;\r\nid;text\r\n1;bread oven\r\n2;river stone\r\n",
        b'"a, b, c";text\n1;bread oven\n2;river stone\n',
    ],
)
def test_tables_of_excel_are_read(tmp_path, content):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    texts = data.read_texts(path, column="text")
    assert [text.text for text in texts] == ["bread oven", "river stone"]


def test_what_is_no_text_says_so(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes("bread oven".encode("utf-16-le"))
    with pytest.raises(DataError, match=r"is not UTF-8.*utf-16-le"):
        data.read_texts(path)
    assert data.read_texts(path, encoding="utf-16-le")[0].text == "bread oven"
    for names in ([str(path)], [path, path]):
        for door in (data.read_texts, data.as_texts):
            with pytest.raises(DataError, match="a list of file names"):
                door(names)
    assert data.read_texts(["notes.txt is a file"])  # a text that ends in no name


def test_a_sample_is_as_large_as_it_can_be(tmp_path):
    """Also where a part has many rows and few texts, or the texts of another part."""
    (tmp_path / "a.csv").write_text("text\n" + "same\n" * 100 + "other\nb1\n")
    (tmp_path / "b.csv").write_text("text\n" + "".join(f"b{i}\n" for i in range(50)))
    sizes = [len(data.read_texts(tmp_path, sample=size)) for size in (1, 3, 40, 52, 90)]
    assert sizes == [1, 3, 40, 52, 52]


def test_a_missing_split_names_what_there_is(task_folders, tmp_path):
    shutil.copytree(task_folders / "search", tmp_path / "search")
    (tmp_path / "search" / "qrels" / "train.qrels.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"train.tsv is missing: .tsv and .*train.qrels.gz"):
        data.read_dataset(tmp_path / "search", "train")
