import gzip
import json
import subprocess
import sys

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workbench import data, docstrings, views
from workbench._stored import StoredTexts
from workbench.data import Role, Text
from workbench.docstrings import docstring_corpus
from workbench.errors import DataError, WorkbenchError


def write_beir(folder, documents=None, queries=None, qrels=None):
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    documents = (
        documents
        if documents is not None
        else [{"_id": "d1", "title": "T", "text": "one"}, {"_id": "d2", "text": "two"}]
    )
    queries = (
        queries
        if queries is not None
        else [{"_id": "q1", "text": "which"}, {"_id": "q2", "text": "unjudged"}]
    )
    qrels = qrels if qrels is not None else [("q1", "d1", 2), ("q1", "d2", 0)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    (folder / "queries.jsonl").write_text("".join(json.dumps(q) + "\n" for q in queries))
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in qrels)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return folder


def test_a_beir_folder_reads_titles_roles_and_judged_queries(tmp_path):
    collection = data.read_dataset(write_beir(tmp_path / "small"))
    assert collection.name == "small"
    assert collection.corpus == {"d1": "T one", "d2": "two"}
    assert collection.queries == {"q1": "which"}
    assert collection.qrels == {"q1": {"d1": 2, "d2": 0}}
    assert [t.role for t in collection.query_texts()] == [Role.QUERY]
    assert [t.role for t in collection.document_texts()] == [Role.DOCUMENT] * 2


def test_a_beir_folder_keeps_empty_documents_and_says_so(tmp_path):
    folder = write_beir(
        tmp_path, documents=[{"_id": "d1", "text": "one"}, {"_id": "d2", "title": "", "text": ""}]
    )
    with pytest.warns(UserWarning, match="1 of 2 documents are empty"):
        assert data.read_dataset(folder).corpus["d2"] == ""


def test_a_relevant_document_with_an_unjudged_twin_is_counted(tmp_path):
    rows = [
        {"_id": f"d{i}", "text": text}
        for i, text in enumerate(["one", "one", "two", "two", "three"])
    ]
    judged = [("q1", "d0", 1), ("q1", "d2", 1), ("q1", "d3", 0)]  # the twin of d2 is judged
    with pytest.warns(UserWarning, match="1 relevant document of a query has a twin"):
        data.read_dataset(write_beir(tmp_path, documents=rows, qrels=judged))


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
        (
            {"documents": [{"_id": ["d1"], "text": "one"}]},
            "line 1: '_id' is .*; expected a string or a number",
        ),
        (
            {"documents": [{"id": True, "text": "one"}]},
            "line 1: 'id' is True; expected a string or a number",
        ),
        (
            {"documents": [{"_id": "d1", "title": ["T", 3], "text": "one"}]},
            "line 1: 'title' is of type int",
        ),
        ({"documents": [["d1"]]}, "line 1: a JSON object is expected"),
        (
            {"qrels": [("q1", "d9", 1)]},
            "1 of 1 judgments have unknown ids, first line 2: document 'd9'. No more than 1 %",
        ),
        ({"qrels": [("q9", "d1", 1)]}, "query 'q9'"),
        (
            {"qrels": [("q1", "d1", "high")]},
            "line 2: expected query-id, corpus-id and an integer score",
        ),
        ({"queries": [{"_id": "q1", "text": "  "}]}, "judged query 'q1' is empty"),
    ],
)
def test_a_beir_folder_names_the_file_and_line_of_what_is_wrong(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        data.read_dataset(write_beir(tmp_path, **change))


def test_a_beir_folder_malformed_json_and_encoding(tmp_path):
    folder = write_beir(tmp_path)
    (folder / "corpus.jsonl").write_text('{"_id": "d1", "text": "one"}\n{"_id": "d2", "te\n')
    with pytest.raises(DataError, match=r"corpus.jsonl, line 2: not JSON"):
        data.read_dataset(folder)
    (folder / "corpus.jsonl").write_bytes(b'{"_id": "d1", "text": "\xff\xfe\xfa"}\n')
    with pytest.raises(DataError, match=r"line 1: not UTF-8"):
        data.read_dataset(folder)


@pytest.mark.parametrize(
    "lines",
    [
        "q1\td1\t2\nq1\td2\t0",
        "q1\td1\t2e0\nq1\td2\t0.0",  # no header, though the first grade looks unlike the others
        "q1\t0\td1\t2\nq1\t0\td2\t0",  # TREC
        "q1 Q0 d1 2\nq1  Q0  d2  0",
        "query-id,corpus-id,score\nq1,d1,2\nq1, d2, 0",
        '"query-id"\t"corpus-id"\t"score"\n"q1"\t"d1"\t"2"\n"q1"\t"d2"\t"0"',
        '"q1"\t"d1"\t2\n"q1"\t"d2"\t0',
        "# judged by hand\n\nquery\tdocument\tgrade\nq1\td1\t2\n# the rest\nq1\td2\t0",
        "\ufeffq1\td1\t2\r\nq1\td2\t0\r\n",
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_judgments_of_every_usual_form(tmp_path, lines, packed, recwarn):
    folder = write_beir(tmp_path)
    (folder / "qrels" / "test.tsv").write_text(lines + "\n", "utf-8")
    for path in list(folder.rglob("*.*")) if packed else []:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    collection = data.read_dataset(folder)
    assert collection.qrels == {"q1": {"d1": 2, "d2": 0}} and collection.corpus == {
        "d1": "T one",
        "d2": "two",
    }
    assert data.is_dataset(folder) and len(data.read_texts(folder)) == 2 and not recwarn
    for name in ("test.csv", "test.txt"):
        next((folder / "qrels").glob("test.*")).rename(folder / "qrels" / (name + ".gz" * packed))
        assert data.read_dataset(folder) == collection


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("q1\td1\t0.5", "line 1: expected .* an integer score .*got 'q1.td1.t0.5'"),
        ("q1\td1\tnan", "line 1: expected"),
        ("q1\td1\t12345", "line 1: expected"),
        ("q1\td1\thigh\nq1\td2\t1", "line 1: expected"),  # known ids: no header
        ("a\tb\tc\nd\te\tf", "line 2: expected"),
        ("q1\td1\t1\nq1\t0\td2\t1", "line 2: expected .*the same in every line"),
        ("q1\td1", "line 1: expected"),
        ("q1\td1\t1\nq1\td1\t2", "line 2: query 'q1' and document 'd1' were judged differently"),
        ("# q1\td1\t1", "has no judgments"),
        ('"q1\td1\t1', "unknown ids, first line 1: query '\"q1'"),
    ],
)
def test_judgments_that_are_not_clear_are_refused_by_line(tmp_path, lines, words):
    (write_beir(tmp_path) / "qrels" / "test.tsv").write_text(lines)
    with pytest.raises(DataError, match=words):
        data.read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("own", "judged", "words"),
    [
        (
            " d1",
            "d1",
            "document 'd1' .there is ' d1', which differs only by outer spaces: write both alike",
        ),
        (2.0, "2", "document '2' .there is '2.0', which differs only by how the number is written"),
        (2, "2.0", "document '2.0' .there is '2', which differs only by how"),
        ("d2", "d1", "document 'd1'[.] No more"),
    ],
)
def test_ids_that_are_nearly_the_same_stay_different_and_are_pointed_out(
    tmp_path, own, judged, words
):
    folder = write_beir(
        tmp_path, documents=[{"_id": own, "text": "one"}], qrels=[("q1", judged, 1)]
    )
    with pytest.raises(DataError, match=words):
        data.read_dataset(folder)
    assert data.read_dataset(
        write_beir(tmp_path, [{"_id": own, "text": "one"}], qrels=[("q1", own, 1)])
    ).qrels


def test_a_few_judgments_of_what_is_not_there_are_left_out_and_counted(tmp_path):
    documents = [{"id": f"d{i}", "title": ["A", "title"], "text": f"{i}"} for i in range(198)]
    qrels = [("q1", f"d{i}", 1) for i in range(198)]
    folder = write_beir(tmp_path, documents, qrels=[*qrels, ("q1", "gone", 1), ("gone", "d1", 1)])
    with pytest.warns(
        UserWarning, match="2 of 200 judgments have unknown ids, first line 200: document 'gone'"
    ) as said:
        collection = data.read_dataset(folder)
    assert said[0].filename == __file__ and collection.corpus["d7"] == "A title 7"
    assert collection.qrels == {"q1": dict.fromkeys(collection.corpus, 1)}
    with pytest.raises(DataError, match="3 of 200 judgments have unknown ids"):
        data.read_dataset(
            write_beir(
                tmp_path, documents, qrels=[*qrels[1:], *[("q1", f"gone {i}", 1) for i in "abc"]]
            )
        )


def test_a_missing_text_of_a_beir_folder_is_an_empty_one(tmp_path):
    documents = [{"_id": "d1", "title": "T", "text": None}, {"_id": "d2", "text": None}]
    with pytest.warns(UserWarning, match="1 of 2 documents are empty"):
        assert data.read_dataset(write_beir(tmp_path, documents)).corpus == {"d1": "T", "d2": ""}
    with pytest.warns(UserWarning, match="1 blank text of 2 left out"):
        assert data.read_texts(tmp_path) == [Text("T")]


def test_a_beir_folder_missing_folder_file_and_split(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        data.read_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"splits found: test"):
        data.read_dataset(write_beir(tmp_path), split="dev")
    (tmp_path / "queries.jsonl").unlink()
    with pytest.raises(DataError, match="queries.jsonl is missing"):
        data.read_dataset(tmp_path)


@pytest.mark.parametrize(
    "text", ["العربية نص طويل", "日本語の文章です", "👩‍🔬🧪 emoji", "x" * 100_000, "Ωμέγα", ""]
)
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
        (
            pd.DataFrame({"body": ["x"], "id": [1]}),
            r"got a table; choose one of its columns \(body, id\)",
        ),
        (["a", None], "queries: item 1 is missing"),
        (pd.Series(["a", None]), "item 1 is missing"),
        (pd.Series(["a", None], dtype="string"), "item 1 is missing"),
        ([3.0], "item 0 is of type float, and a string is expected"),
        ([float("nan")], "item 0 is missing"),
        (["a", b"b"], "item 1 is of type bytes"),
        (["a", ["b", "c"]], "item 1 is of type list"),
        (np.eye(2), "item 0 is of type ndarray"),
        (np.array("a"), "expected a list of strings, got ndarray"),
        ([{"text": "a"}], "item 0 is of type dict"),
        (["a", "b\0"], "queries, item 1: a document is binary"),
    ],
)
def test_what_is_no_list_of_texts_gets_a_sentence(given, message):
    with pytest.raises(DataError, match=message):
        data.as_texts(given, "queries")


def test_roles_are_what_they_say_in_any_case():
    assert Role("QUERY") is Role(" Query ") is Role.QUERY and Text("a", "Document") == Text("a")
    for wrong in ("passage", None, 3, ["query"], np.zeros(2)):
        with pytest.raises(DataError, match="must be 'query' or 'document'"):
            Text("a", wrong)


def test_text_refuses_what_cannot_be_embedded():
    with pytest.raises(DataError, match="split it"):
        Text("x" * (data.MAX_CHARACTERS + 1), Role.DOCUMENT)
    with pytest.raises(DataError, match="must be 'query' or 'document'"):
        Text("x", "passage")
    with pytest.raises(DataError, match="type bytes"):
        Text(b"x", Role.QUERY)


ROWS = [
    {"text": "one", "role": "query"},
    {"text": "  ", "role": "query"},
    {"text": "two", "role": None},
]
WANTED = [Text("one", "query"), Text("two")]


def write(path, content, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def formats(folder):
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "t.parquet")
    write(folder / "t.jsonl", "\n".join(map(json.dumps, ROWS)))
    write(folder / "lines.json", "\n".join(map(json.dumps, ROWS)))
    write(folder / "t.json", json.dumps(ROWS))
    write(folder / "t.csv", "role,text\nquery,one\nquery,  \n\n,two\n")
    write(folder / "t.tsv", "text\trole\none\tquery\n\t\ntwo\tdocument\n")
    return sorted(folder.iterdir())


def test_every_format_of_file_gives_the_same_texts(tmp_path):
    paths = formats(tmp_path)
    assert len(paths) == 6
    for path in paths:
        with pytest.warns(UserWarning, match="^1 blank text of 3 left out"):
            assert data.read_texts(path) == WANTED, path
        with pytest.warns(UserWarning, match="1 blank text of"):
            assert data.read_texts(str(path), role="query") == [
                Text("one", "query"),
                Text("two", "query"),
            ]
        with pytest.warns(UserWarning, match="1 blank text of"):
            assert list(data.stream_texts(path)) == WANTED
        assert data.read_texts(path, limit=1) == WANTED[:1]
    with pytest.warns(UserWarning, match="^6 blank and 10 duplicate texts of 18 left out"):
        assert sorted(data.read_texts(tmp_path), key=lambda t: t.text) == WANTED


def test_lists_tables_and_data_sets_give_texts(monkeypatch):
    frame = pd.DataFrame(ROWS)
    dataset = datasets.Dataset.from_list(ROWS)
    sources = [
        ROWS, frame, pa.Table.from_pylist(ROWS), frame.astype("string"), dataset, dataset.to_iterable_dataset(), datasets.DatasetDict(train=dataset),
        ["two", Text("one", "query"), None], (each for each in [Text("one", "query"), "", "two"]),
    ]  # fmt: skip
    for source in sources:
        with pytest.warns(UserWarning, match="1 blank text of 3 left out"):
            assert sorted(data.read_texts(source), key=lambda t: t.text) == WANTED
    with pytest.warns(UserWarning, match="1 blank text of 3"):
        assert data.read_texts(frame["text"]) == [Text("one"), Text("two")]
    assert (
        data.read_texts(("a", "b"))
        == data.read_texts(np.array(["a", "b"]))
        == [Text("a"), Text("b")]
    )
    assert data.read_texts(pd.DataFrame({"body": ["a"], "id": [1]})) == [
        Text("a")
    ]  # the only column of strings
    assert data.read_texts(pd.DataFrame({"body": ["a"], "id": ["b"]}), column="id") == [Text("b")]
    assert len(data.read_texts("tutorial")) == len(data.read_texts(data.tutorial())) == 192
    some = docstring_corpus(held_out=5, libraries=["traitlets"])
    monkeypatch.setattr(docstrings, "docstring_corpus", lambda: some)
    assert data.read_texts("docstrings", limit=3) == some.train[:3]


def test_duplicates_are_those_of_the_same_role():
    texts = ["a", Text("a", "query"), "b", "a", "a "]
    with pytest.warns(UserWarning, match="^1 duplicate text of 5 left out"):
        assert data.read_texts(texts) == [Text("a"), Text("a", "query"), Text("b"), Text("a ")]
    assert list(data.stream_texts(texts)) == data.as_texts(texts)


def test_a_folder_of_notes_is_one_text_a_file(tmp_path):
    write(tmp_path / "b.md", "# Rivers\n\nThey flow.\n")
    write(tmp_path / "below" / "a.txt", "caf\xe9 \u6f22")
    write(tmp_path / "picture.png", b"\x89PNG\r\n\0\0")
    write(tmp_path / "below" / "renamed.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    write(tmp_path / "empty.jsonl", b"")
    write(tmp_path / ".hidden" / "c.txt", "hidden")
    with pytest.warns(
        UserWarning,
        match="3 empty, binary or other files left out .empty.jsonl, picture.png, below/ren",
    ):
        assert data.read_texts(tmp_path) == [Text("# Rivers\n\nThey flow."), Text("caf\xe9 \u6f22")]
    write_beir(tmp_path / "inner", qrels=[])
    with pytest.warns(UserWarning, match="3 empty"):
        assert (
            len(data.read_texts(tmp_path)) == 4
        )  # with the documents, without queries and judgments


def test_only_the_documents_of_a_beir_folder_are_read(tmp_path, recwarn):
    assert data.read_texts(write_beir(tmp_path)) == [Text("T one"), Text("two")] and not recwarn
    write(tmp_path / "more" / "notes.txt", "left out")
    with pytest.warns(UserWarning, match=r"1 empty, binary or other file left out .more.notes.txt"):
        assert data.read_texts(tmp_path) == [Text("T one"), Text("two")]


def test_files_of_a_mixed_folder_are_read_packed_and_in_capitals_or_named(tmp_path):
    for name in "a.jsonl b.jsonl.gz C.JSONL d.json e.csv f.CSV.GZ g.txt.gz h.parquet.gz i.tsv.gz j.gz k.csv.zip".split():
        letter = name[0].lower()
        kind = name.lower().split(".")[1]
        content = {
            "jsonl": json.dumps({"text": letter}),
            "json": json.dumps([letter]),
            "txt": letter,
        }
        content = content.get(kind, f"text\n{letter}\n").encode()
        write(tmp_path / name, gzip.compress(content) if name.lower().endswith(".gz") else content)
    write(tmp_path / "torn.jsonl.gz", b"\x1f\x8b torn")
    with pytest.warns(
        UserWarning,
        match=r"4 empty, binary or other files left out .h.parquet.gz, j.gz, k.csv.zip, ...",
    ):
        assert sorted(text.text for text in data.read_texts(tmp_path)) == list("abcdefgi")
    with pytest.raises(DataError, match="torn.jsonl.gz cannot be read after line 0: "):
        data.read_texts(tmp_path / "torn.jsonl.gz")
    whole = gzip.compress(
        "".join(json.dumps({"text": f"{i} {hash(str(i))}"}) + "\n" for i in range(9999)).encode()
    )
    with pytest.raises(
        DataError, match="cut.jsonl.gz cannot be read after line [1-9].*: Compressed file ended"
    ):
        data.read_texts(write(tmp_path / "cut.jsonl.gz", whole[: len(whole) // 2]))


def test_roles_and_names_in_capitals_missing_texts_and_bytes(tmp_path):
    wanted = [Text("one", "query"), Text("two")]
    write(tmp_path / "t.csv", "Role,TEXT\nQuery,one\nDOCUMENT,two\n,\n")
    rows = [
        {"Text": "one", "ROLE": " QUERY "},
        {"Text": "two", "ROLE": None},
        {"Text": None, "ROLE": "query"},
    ]
    binary = [
        {"text": b"one", "role": b"query"},
        {"text": b"two", "role": b""},
        {"text": None, "role": None},
    ]
    write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    pq.write_table(pa.Table.from_pylist(binary), tmp_path / "binary.parquet")
    sources = [
        rows,
        binary,
        rows[::-1],
        pd.DataFrame(rows),
        pd.DataFrame(binary),
        pa.Table.from_pylist(rows),
    ]
    sources += [
        datasets.Dataset.from_list(rows),
        datasets.Dataset.from_list(binary),
        *tmp_path.iterdir(),
    ]
    for source in sources:
        with pytest.warns(UserWarning, match="^1 blank text of 3 left out"):
            assert sorted(data.read_texts(source), key=lambda text: text.text) == wanted, source
    pq.write_table(pa.table({"body": [b"one"], "n": [1], "tags": [["a"]]}), tmp_path / "t.parquet")
    assert data.read_texts(tmp_path / "t.parquet") == [
        Text("one")
    ]  # no strings: the only column of bytes
    late = [{"body": None, "n": 1}, {"body": "one", "n": 2}]  # the first has no string
    with pytest.warns(UserWarning, match="1 blank"):
        assert data.read_texts(late) == [Text("one")]
    with pytest.raises(DataError, match="has 2 columns named 'role': rename"):
        data.read_texts(pd.DataFrame([["one", "query", "query"]], columns=["text", "ROLE", "Role"]))
    with pytest.raises(
        DataError, match="row 0: role 'Engineer'.*role='document'. ignores the column"
    ):
        data.read_texts(pd.DataFrame({"text": ["one"], "Role": ["Engineer"]}))


def test_long_texts_are_cut_at_sentence_ends(tmp_path):
    sentences_ = [
        f"Sentence number {i} has a few more words, {'and more ' * (i % 7)}in it."
        for i in range(100)
    ]
    long = "\n".join(sentences_)
    pieces = [text.text for text in data.read_texts([long, "Short. Very short."], passages=50)]
    assert pieces[-1] == "Short. Very short."
    assert " ".join(pieces[:-1]).split() == long.split()
    assert all(piece.endswith("in it.") and 38 <= len(piece.split()) <= 62 for piece in pieces[:-1])
    assert 30 <= len(pieces) - 1 <= 36
    assert data.cut("one two. " * 5, 10) == ["one two. " * 5]
    assert [len(piece.split()) for piece in data.cut("word " * 45, 20)] == [20, 25]
    assert (
        data.cut("\u6f22\u5b57\u3067\u3059\u3002" * 6, 10)
        == ["\u6f22\u5b57\u3067\u3059\u3002" * 2] * 3
    )
    for words in (9, -1, True, "many", 20.5):
        with pytest.raises(
            DataError, match="a number of words, is .*; expected a whole number of at least 10"
        ):
            data.read_texts(["text"], passages=words)
    path = write(tmp_path / "book.txt", "A sentence of a long book.\n" * 100_000)
    numbered = write(
        tmp_path / "numbered.txt", "".join(f"Sentence {i} of a book.\n" for i in range(100_000))
    )
    with pytest.warns(UserWarning, match="duplicate"):
        assert len(data.read_texts(path, passages=60)) < 10
    passages = data.read_texts(numbered, passages=60)
    assert (
        8_000 < len(passages) < 9_500
        and " ".join(t.text for t in passages).split() == numbered.read_text().split()
    )
    with pytest.warns(UserWarning, match="1 blank"):  # a part of a cell and of a blank row
        assert len(data.read_texts(pd.Series([long, " "]), passages=50)) == len(pieces) - 1


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("text,id\ncaf\xe9,1\n\u6f22,2\n", "utf-8-sig"),
        ("text,id\ncaf\xe9,1\n\u6f22,2\n", "utf-16"),
        ("text,id\r\ncaf\xe9,1\r\n\u6f22,2\r\n", "utf-16"),
        ("text,id\ncaf\xe9,1\n\u6f22,2\n", "utf-32"),
        ("id;text\n1;caf\xe9\n2;\u6f22\n", "utf-8"),
        ("id\ttext\n1\tcaf\xe9\n2\t\u6f22\n", "utf-8"),
        ("id|body\n1|caf\xe9\n2|\u6f22", "utf-8-sig"),
        ('id;"body, all of it"\n1;caf\xe9\n2;\u6f22', "utf-8"),
        ("caption\ncaf\xe9\n\u6f22", "utf-8"),
    ],
)
def test_tables_are_read_whatever_separates_their_columns_and_with_marks(
    tmp_path, content, encoding
):
    assert data.read_texts(write(tmp_path / "t.csv", content, encoding)) == [
        Text("caf\xe9"),
        Text("\u6f22"),
    ]


@pytest.mark.parametrize("content", ["red\ngreen\nblue\n", "red,1\ngreen,2\nblue,3\n"])
def test_a_first_line_that_may_be_a_text_is_pointed_out(tmp_path, recwarn, content):
    path = write(tmp_path / "t.csv", content)
    with pytest.warns(
        UserWarning,
        match=r"its first line, 'red', was taken as the column's name.*column='red'\) says so",
    ):
        assert len(data.read_texts(path)) == 2
    assert not recwarn and len(data.read_texts(path, column="red")) == 2 and not recwarn
    for name in ("text", "Notes", "question", "queries"):
        assert (
            len(data.read_texts(write(path, f"{name}\n{content.partition(',')[0]}"))) >= 1
            and not recwarn
        )


def test_a_retrieval_data_set_by_hand_is_checked():
    good = {"corpus": {"d": "bread"}, "queries": {"q": "why?"}, "qrels": {"q": {"d": np.int64(1)}}}
    assert data.RetrievalDataset("mine", **good).qrels["q"]["d"] == 1
    for wrong, words in (
        ({"corpus": ["bread"]}, "corpus is of type list; expected a dictionary"),
        ({"queries": {1: "why?"}}, "queries: 1 has 'why.'; expected an id and a text"),
        ({"corpus": {"d": None}}, "corpus: 'd' has None"),
        ({"qrels": {"q": ["d"]}}, "qrels: 'q' has .*; expected a query's grades by document id"),
        ({"qrels": {"q": ["d"]}}, "qrels: 'q' has "),
        ({"qrels": {"q": {"e": 1}}}, "qrels of 'q': 'e' has 1; expected a known document"),
        (
            {"qrels": {"q": {"d": 0.5}}},
            "qrels of 'q': 'd' has 0.5; expected a known document and a whole number",
        ),
        ({"query_metadata": None}, "query_metadata is of type NoneType"),
    ):
        with pytest.raises(DataError, match=words):
            data.RetrievalDataset("mine", **good | wrong)


def test_other_encodings_are_named_and_read_when_asked_for(tmp_path):
    path = write(tmp_path / "t.csv", "text\none\ncaf\xe9\n", "latin-1")
    with pytest.raises(
        DataError,
        match=r"t.csv, line 3: not UTF-8 .*Windows-1252.*wb.read_texts\(..., encoding='cp1252'\)",
    ):
        data.read_texts(path)
    assert data.read_texts(path, encoding="cp1252")[1].text == "caf\xe9"
    for kind in ("utf-16-le", "utf-16-be"):
        path = write(tmp_path / "u.txt", "caf\xe9 is what it says, in most of it", kind)
        with pytest.raises(
            DataError, match=f"UTF-16 without a byte-order mark: read it with .*encoding='{kind}'"
        ):
            data.read_texts(path)
        with pytest.raises(DataError, match=f"--encoding {kind}, or save it as UTF-8"):
            data.read_dataset(
                write(write_beir(tmp_path / "beir") / "corpus.jsonl", '{"_id": "d1"}', kind).parent
            )
        assert data.read_texts(path, encoding=kind)[0].text.startswith("caf\xe9")
    with pytest.raises(DataError, match="encoding 'klingon' is unknown"):
        data.read_texts(path, encoding="klingon")
    for wrong in ("rot13", "nul\0", 7):
        with pytest.raises(DataError, match="is unknown"):
            data.read_texts(path, encoding=wrong)
    with pytest.raises(DataError, match="is not ascii text"):
        data.read_texts(path, encoding="ascii")
    folder = tmp_path / "mixed"
    write(folder / "a.txt", "caf\xe9", "latin-1")
    write(folder / "b.txt", "na\xefve \u6f22", "utf-8")
    assert [t.text for t in data.read_texts(folder, encoding="latin-1")] == [
        "caf\xe9",
        "na\xefve \u6f22",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "", "t.csv is empty"),
        ("t.csv", "\n\n", "t.csv is empty"),
        ("t.csv", "text\n", "there are no texts in .*t.csv"),
        ("t.csv", "title,body,n\nShort,The whole of a longer text,1\n", "column='body'"),
        ("t.csv", 'text\n \n" "\n', "all 2 texts are blank"),
        (
            "t.csv",
            "a,b\nx,y\n",
            r"it has a, b. Choose the column with wb.read_texts\(..., column='a'\).*no header, put one above",
        ),
        ("t.csv", "id,n\n1,2\n", r"separated by ','\) has no column 'text'; it has id, n"),
        ("t.csv", "id;title, text\nx;y, z\n", "no column 'text'"),
        (
            "t.csv",
            "text,id\nHello, world,1\n",
            "line 2: 3 fields, and the header has 2; a field with ',' in it needs quotes",
        ),
        ("t.csv", 'text,id\n"a\nb",1\nc,d,e\n', "line 4: 3 fields"),
        (
            "t.csv",
            'text,id\na,1\n"open,1\nb,2\n',
            "line 3: not a table .*are quotes opened and closed",
        ),
        (
            "t.csv",
            "This is the first of my sentences\nThis is the second\n",
            "seems to have no header",
        ),
        ("t.csv", "text,text\na,b\n", "has 2 columns named 'text': rename all but one"),
        ("t.csv", b"\x89PNG\r\n\0\0", "t.csv is binary"),
        ("t.txt", b"\xff\xd8\xff\0\0\x10JFIF", "t.txt is binary"),
        (
            "t.png",
            b"\x89PNG\r\n\0\0",
            r"t.png: texts are read from files that end in .csv, .tsv, .txt",
        ),
        ("t.jsonl", "", "t.jsonl is empty"),
        ("t.jsonl", '{"text": "x"}\n{"body": "y"}', "line 2: no 'text'; it has body"),
        (
            "t.jsonl",
            '{"text": "x"}\n{"text": 3}',
            "line 2: a document is of type int, not a string",
        ),
        ("t.jsonl", '{"text": "x"}\n[1, 2]', "line 2: a document is of type list"),
        (
            "t.jsonl",
            '{"text": "x", "role": "query"}\n{"text": "x", "role": "user"}',
            "line 2: role 'user'.*role='document'. ignores",
        ),
        ("t.jsonl", '{"text": "x"}\n{"te', "line 2: not JSON"),
        ("t.json", '{"a": {"b": 1}', "t.json: not JSON"),
        ("t.json", '\n{"a":\n 1}', "a list of strings or objects is expected, not dict"),
        ("t.json", "[]", "there are no texts"),
        ("t.parquet", "no parquet", "cannot be read as parquet"),
    ],
)
def test_a_file_that_cannot_be_read_says_why_and_where(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        data.read_texts(write(tmp_path / name, content))


def test_parquet_columns(tmp_path):
    pq.write_table(pa.table({"body": ["x"], "id": [1]}), tmp_path / "t.parquet")
    assert data.read_texts(tmp_path / "t.parquet") == [Text("x")]
    pq.write_table(pa.table({"body": ["x"], "title": ["y"]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="no column 'text'; it has body, title"):
        data.read_texts(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="no column 'txt'; it has body, title"):
        data.read_texts(tmp_path / "t.parquet", column="txt")
    assert data.read_texts(tmp_path / "t.parquet", column="title") == [Text("y")]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            None,
            "expected a list of strings, a table, or the name of a file or folder; got NoneType",
        ),
        (7, "got int"),
        (b"text", "got bytes"),
        ({"a": "b"}, "got dict"),
        (Text("one"), "got Text"),
        ([], "there are no texts$"),
        (iter([]), "an iterator can be read once only"),
        (["a", 3], "item 1: a document is of type int, not a string"),
        ([["a", "b"], ["c"]], "item 0: a document is of type list"),
        (
            [b"caf\xe9"],
            r"item 0: bytes that are not UTF-8; decode them first: value.decode\('cp1252'\)",
        ),
        (np.array("one"), "got ndarray"),
        (pa.scalar("one"), "got StringScalar"),
        (np.eye(3), "item 0: a document is of type ndarray"),
        (["", None, "  "], "all 3 texts are blank"),
        ([{"text": "a"}, {"body": "b"}], "item 1: no 'text'; it has body"),
        (["a", "b\0"], "item 1: a document is binary"),
        (
            pd.DataFrame({"body": ["x"], "title": ["y"]}),
            "the table has no column 'text'; it has body, title",
        ),
        (
            pd.DataFrame([["x", "y"]], columns=["text", "text"]),
            "the table has 2 columns named 'text'",
        ),
        (pd.DataFrame([["x", 1, 2]], columns=["text", "role", "role"]), "2 columns named 'role'"),
        (pd.DataFrame({"n": [1]}), "the table has no column 'text'; it has n"),
        (pd.DataFrame({"text": [1]}), "row 0: a document is of type int"),
        (
            "A whole text where a name is expected.",
            "no such file or folder.*One text goes in a list",
        ),
        ("long " * 1000, "no such file or folder"),
        ("nowhere/notes", "no texts at nowhere/notes: there is no such file or folder in /"),
        ("nul\0", "no such file"),
        ("~nul\0", "no such file"),
        ("~nobody/texts.csv", "no such file"),
        ("hub:name", "expected hub:NAME:COLUMN:ROLE"),
    ],
)
def test_what_holds_no_texts_gets_a_sentence(source, message):
    with pytest.raises(DataError, match=message):
        data.read_texts(source)


def test_a_generator_can_be_read_once(tmp_path):
    generator = (text for text in ["a", "b"])
    assert len(data.read_texts(generator)) == 2
    with pytest.raises(DataError, match="an iterator can be read once only"):
        data.read_texts(generator)
    with pytest.raises(DataError, match="an iterator can be read once only"):
        data.as_texts(generator)
    with pytest.raises(DataError, match="no texts in .*: it has no files that end in"):
        data.read_texts(tmp_path)
    with pytest.raises(DataError, match="sample=5, limit=5: give one of them"):
        data.read_texts(["a"], sample=5, limit=5)
    for name in ("limit", "sample"):
        for wrong in (0, -1, 1.5, "3", True):
            with pytest.raises(
                DataError, match=f"{name} is {wrong!r}; expected a whole number of at least 1"
            ):
                data.read_texts(["a"], **{name: wrong})
        assert len(data.read_texts(["a", "b"], **{name: np.int64(1)})) == 1


def test_a_long_field_is_no_trouble(tmp_path):
    path = write(tmp_path / "t.csv", f'text\n"{"word, " * 100_000}"\n')
    assert len(data.read_texts(path)[0].text) == 600_000
    big = write(tmp_path / "big.txt", "x" * (4 * data.MAX_CHARACTERS + 1))
    with pytest.raises(
        DataError,
        match="has more than 40 MB, and a .txt file is read as one text: .*passages=200. cuts it",
    ):
        data.read_texts(big)


def test_many_texts_go_to_a_file_and_duplicates_are_found_there(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(data, "IN_MEMORY", 50)
    path = write(
        tmp_path / "t.csv", "role,text\n" + "".join(f"query,text {i % 90}\n" for i in range(300))
    )
    with pytest.warns(UserWarning, match="210 duplicate texts of 300"):
        texts = data.read_texts(path)
    assert isinstance(texts, StoredTexts) and list(texts) == [
        Text(f"text {i}", "query") for i in range(90)
    ]
    assert not list((tmp_path / "home").iterdir()), "what is mapped stays readable"
    assert isinstance(data.read_texts(path, limit=49), list)


def test_a_sample_is_even_and_nested(tmp_path):
    for name, count in (("large", 500), ("small", 10)):
        rows = [
            {"text": f"{name} {i}", "role": "query" if i % 2 else "document"} for i in range(count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn = data.read_texts(tmp_path, sample=100)
    assert len(drawn) == len(set(drawn)) == 100
    sources = [text.text.split()[0] for text in drawn]
    assert sources.count("small") == 10 and "small" in sources[:50] and "small" in sources[50:]
    assert abs(sum(text.role is Role.QUERY for text in drawn) - 50) <= 1
    assert set(drawn) < set(data.read_texts(tmp_path, sample=200))
    assert [text.text for text in drawn[:3]] == ["large 79", "large 56", "large 11"]
    (tmp_path / "again.jsonl").write_text((tmp_path / "large.jsonl").read_text())
    with pytest.warns(UserWarning, match="500 duplicate texts of 1,010 left out"):
        assert len(data.read_texts(tmp_path, sample=9999)) == 510
    rows = [f"text {i}" for i in range(5000)]
    assert data.read_texts(rows, sample=20) == data.read_texts(rows[::-1], sample=20)


def test_cropped_queries_are_pieces_of_documents():
    long = Text(
        "A river runs by the old stone bridge. Too short. " + "word " * 60 + ".", Role.DOCUMENT
    )
    made = data.crop_queries(
        [long, Text("no query of a query is ever made", Role.QUERY), Text("", Role.DOCUMENT)], 8
    )
    assert 1 < len(made) <= 8 and len(set(made)) == len(made)
    for query in made:
        assert (
            query.role is Role.QUERY
            and query.text in long.text
            and 5 <= len(query.text.split()) <= 25
        )
    assert data.crop_queries([Text("x y", Role.DOCUMENT), long], 8) == made  # whatever is around
    assert data.crop_queries([long], 8, seed=1) != made
    few = [
        Text(
            f"The mill number {i} grinds the corn of the valley. It stands by the old river {i}.",
            "document",
        )
        for i in range(20)
    ]
    more = data.add_cropped_queries(few, 60)
    assert more[:20] == few and 20 < len(more) <= 60 and {t.role for t in more[20:]} == {Role.QUERY}
    assert data.add_cropped_queries(few, 20) == few and data.add_cropped_queries([], 20) == []


def test_data_sets_of_the_hub(tmp_path):
    (tmp_path / "part.jsonl").write_text(
        '{"question": "why"}\n{"question": ""}\n{"question": "how"}\n'
    )
    with pytest.warns(UserWarning, match="1 blank text of 3"):
        texts = data.read_texts(f"hub:{tmp_path}:question:query")
    assert texts == [Text("why", Role.QUERY), Text("how", Role.QUERY)]
    with pytest.raises(DataError, match="no column 'body'; it has question"):
        data.read_texts(f"hub:{tmp_path}:body:query")
    with pytest.raises(DataError, match="needs no hub"):
        data.read_texts("nobody/no-such-data-set", column="text")
    with pytest.raises(
        DataError, match="data set nobody/no-such-data-set .test. could not be read"
    ):
        list(data.stream_texts("nobody/no-such-data-set", column="text", split="test"))
    with pytest.raises(DataError, match="no split 'dev'; it has train"):
        data.read_texts(datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)), split="dev")


@pytest.mark.parametrize("values", [[["a"]], [1], [{"a": "x"}]], ids=["list", "number", "struct"])
def test_columns_of_a_data_set_that_are_no_texts_are_refused(values):
    table = datasets.Dataset.from_dict({"text": values, "other": ["x"]})
    for source in (table, table.to_iterable_dataset(), table["text"]):
        if isinstance(values[0], dict) and source is not table:
            continue
        with pytest.raises(
            DataError, match=f"(row|item) 0: a document is of type {type(values[0]).__name__}"
        ):
            data.read_texts(source)
    assert data.read_texts(table["other"]) == data.read_texts(table, column="other") == [Text("x")]


def test_the_hub_needs_an_extra_and_the_rest_does_not(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert data.read_texts(write(tmp_path / "t.csv", "text\na\n")) == [Text("a")]
    with pytest.raises(
        WorkbenchError,
        match=r"needs the package datasets: pip install 'teacher-aligned-workbench\[hub\]'",
    ):
        data.read_texts("owner/name", column="text")


@pytest.mark.parametrize("source", [None, 3, ["a"], b"x"])
def test_a_data_set_of_another_kind_gets_a_sentence(source):
    with pytest.raises(DataError, match="read from a folder in BEIR layout; got"):
        data.read_dataset(source)


def test_a_data_set_by_name_or_as_it_is():
    dataset = data.read_dataset("tutorial")
    assert dataset == data.tutorial() and data.read_dataset(dataset) is dataset


def test_docstrings_are_deterministic_disjoint_and_cannot_be_copied():
    one = docstring_corpus(held_out=50, libraries=["traitlets", "tornado", "fsspec"])
    two = docstring_corpus(held_out=50, libraries=["fsspec", "traitlets", "tornado"])
    assert one == two
    assert len(one.train) > 300
    assert {t.role for t in one.train} == set(Role)
    held_out = set(one.held_out.corpus.values()) | set(one.held_out.queries.values())
    assert not held_out & {t.text for t in one.train}
    for query, document in zip(
        one.held_out.queries.values(), one.held_out.corpus.values(), strict=True
    ):
        assert query.rstrip(".") not in document
        assert 4 <= len(query.split()) <= 40 <= len(document) * 2


def test_docstring_loses_name_signature_and_summary():
    docstring = """frobnicate(x, y=1)

    Turn the knobs until it hums. Then wait.

    Calling ``frobnicate`` twice is the same as once. One that is called too often, as Turn the knobs until it hums says, is
    better avoided by anybody who wants a quiet and peaceful afternoon. The other.frobnicate(3) is designed for use at night.

    >>> frobnicate(1)
    """
    query, document = docstrings._split_docstring(docstring, "frobnicate")
    assert query == "Turn the knobs until it hums."
    assert document.startswith("Then wait. One that is called") and document.endswith(
        "peaceful afternoon."
    )
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


@pytest.mark.parametrize("column", [3, ["body"], {}, ""])
def test_a_column_is_named(tmp_path, column):
    (tmp_path / "tickets.csv").write_text("id,body\na,The pump leaks.\nb,The lamp is dark.\n")
    with pytest.raises(DataError, match="give a column's name"):
        data.read_texts(tmp_path / "tickets.csv", column=column)
    with pytest.raises(DataError, match="column='body'"):
        data.read_texts(tmp_path / "tickets.csv")


def test_a_search_reads_the_column_of_a_csv(tmp_path, tiny_model, other_tiny_model):
    (tmp_path / "tickets.csv").write_text("id,body\na,The pump leaks.\nb,The lamp is dark.\n")
    view = views.search(
        tmp_path / "tickets.csv",
        documents=str(tiny_model),
        queries=str(other_tiny_model),
        column="body",
        progress=False,
    )
    assert sorted(view._document_texts) == ["The lamp is dark.", "The pump leaks."]
