"""Documents are cut so that nothing is left unread, found by their names, and read from what people have."""

import json
import re
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workbench as wb
from tests.conftest import sentences
from workbench import data, evaluate, models, passages, pipeline, ranking
from workbench._util import PROJECT
from workbench.data import RetrievalDataset, Text
from workbench.errors import DataError
from workbench.passages import Reader, cut, reader_of
from workbench.teachers import LocalTeacher

SHARED = PROJECT.parent / "shared" / "data"
LANGUAGES = {
    "English": "The council met in the old hall. Nobody had read the minutes! ",
    "German": "Der Rat traf sich im alten Saal. Niemand hatte das Protokoll gelesen! ",
    "Chinese": "委员会在旧大厅开会。没有人读过会议记录！",
    "Thai": "สภาประชุมกันในห้องโถงเก่าไม่มีใครอ่านบันทึกการประชุม",
    "none": "x" * 60,
}


def squeezed(text):
    return re.sub(r"\s", "", text)


@pytest.fixture
def reader(tiny_model):
    model = models.load_model(tiny_model, device="cpu")
    models.shorten(model, 48, "tiny")
    return reader_of(model)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_letter_is_read_in_any_script(language, reader, other_tiny_model):
    text = LANGUAGES[language] * 40
    other = LocalTeacher(other_tiny_model, max_length=46, prompts={"document": "text: "}).reader
    result = cut([Text("A short one."), Text(text, id="long")], [reader, other, None])
    assert result.documents.tolist() == [0] + [1] * (len(result.texts) - 1)
    pieces = [piece.text for piece in result.texts[1:]]
    assert squeezed("".join(pieces)) == squeezed(text)
    assert [text[a:b] for a, b in result.spans[1:]] == pieces
    assert {piece.id for piece in result.texts[1:]} == {"long"}
    for one in (reader, other):
        assert one.sizes(pieces).max() <= one.length
    if language in ("English", "German", "Chinese"):
        assert sum(piece.rstrip()[-1] in ".!。！" for piece in pieces) >= len(pieces) / 2


@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=600))
def test_no_text_loses_a_letter(text, tmp_path_factory, session_reader):
    text = text.replace("\0", "").encode("utf-8", "ignore").decode()
    result = cut([Text(text)], [session_reader])
    assert squeezed("".join(piece.text for piece in result.texts)) == squeezed(text)


@pytest.fixture(scope="module")
def session_reader():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    reader = Reader(tokenizer, 12)
    reader._unknown = 0
    return reader


def test_a_title_stays_with_every_passage_and_a_heading_with_its_own(reader):
    body = "\n\n".join(f"## Part {i}\n\nThe pump {i} leaks by day. It is dry." for i in range(8))
    text = Text(f"Pumps. {body}", title="Pumps", id="pumps.md")
    pieces = [piece.text for piece in cut([text], [reader]).texts]
    assert len(pieces) >= 4 and all(piece.startswith("Pumps. ") for piece in pieces)
    for i in range(8):
        assert any(f"## Part {i}\n\nThe pump {i}" in piece for piece in pieces)
    long = Text("word " * 80, title="word " * 50)  # a title that would fill the passage
    assert not any(t.text.startswith("word " * 50) for t in cut([long], [reader]).texts[1:])


def test_what_is_not_cut_says_what_is_not_read(reader, tiny_model):
    texts = [Text("The hall is old. " * 30), Text("Short.")]
    line = passages.unread(texts, [reader])
    assert re.fullmatch(
        r"1 of 2 documents are longer than 48 tokens; \d+% of the text is read", line
    )
    assert passages.unread(texts[1:], [reader]) == ""


def test_a_document_is_as_near_as_its_nearest_passage():
    rng = np.random.default_rng(0)
    vectors, queries = rng.standard_normal((60, 8)), rng.standard_normal((5, 8))
    rows = np.sort(rng.integers(0, 20, 60))
    scores, positions = ranking.top_k(queries, vectors, 4, rows=rows)
    unit = lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)  # noqa: E731
    products = unit(queries) @ unit(vectors).T
    for row in range(5):
        best = {document: products[row][rows == document].max() for document in set(rows)}
        expected = sorted(best, key=best.get, reverse=True)[:4]
        assert positions[row].tolist() == expected
        np.testing.assert_allclose(scores[row], [best[d] for d in expected], atol=1e-5)


def test_a_data_set_in_passages_is_scored_by_document(tiny_model, other_tiny_model):
    documents = {f"d{i}": " ".join(t.text + "." for t in sentences(12, seed=i)) for i in range(12)}
    queries = {f"q{i}": text.split(".")[-2] for i, text in enumerate(documents.values())}
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(12)}
    whole = RetrievalDataset("long", documents, queries, qrels)
    teacher = LocalTeacher(other_tiny_model, max_length=20)
    compared = {"teacher": teacher, "student": LocalTeacher(tiny_model, max_length=20)}
    read = evaluate.compare(compared, whole)
    unread = evaluate.compare(compared, whole, passages=False)
    assert read["ndcg_at_10"][0] > unread["ndcg_at_10"][0]
    assert "12 of 12 documents are longer than 20 tokens" in unread.attrs["notes"][-1]
    dataset, _ = evaluate.cut_for(evaluate.same_models(compared, whole), whole)
    vectors = evaluate.vectors(teacher, dataset)
    assert len(vectors[1]) == len(dataset.rows) > 24
    scores = evaluate.score(dataset, *vectors)["ndcg_at_10"].mean()
    assert scores == pytest.approx(read["ndcg_at_10"][0])
    assert evaluate.failures(dataset, vectors, vectors).empty
    assert passages.cut_dataset(dataset, [teacher.reader]) is dataset  # cut once, not twice
    again = evaluate.compare(compared, dataset)
    assert again["ndcg_at_10"].tolist() == read["ndcg_at_10"].tolist()


def test_a_search_shows_the_passage_its_surroundings_and_its_name(
    tmp_path, tiny_model, other_tiny_model, monkeypatch
):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for i in range(6):
        path = tmp_path / "notes" / "2026" / f"note-{i}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        filler = " ".join(text.text + "." for text in sentences(40, seed=i))
        path.write_text(f"# Note {i}\n\n{filler}\n\nThe number of pump {i} is {i}{i}{i}.")
    small = LocalTeacher(tiny_model, max_length=30)
    view = wb.search("notes", LocalTeacher(other_tiny_model, max_length=30), small, progress=False)
    view.ask("The number of pump 3 is 333.")
    assert view.results["document_id"][0] == "2026/note-3.md"
    first = view.lists.columns[0]["rows"][0]
    assert "333" in first["full"] and first["before"] and first["file"] == "notes/2026/note-3.md"
    assert view.query is None and view.scores.index[0].startswith("piece of 2026/note-0.md")
    whole = wb.search("notes", LocalTeacher(other_tiny_model, max_length=30), small, progress=False,
                      passages=False)  # fmt: skip
    assert "6 of 6 documents are longer than 30 tokens" in whole.status.value


# --- reading ---


TICKET = {"id": "T-1", "ticket": {"message": {"text": "It leaks."}}, "tags": ["a"], "open": True,
          "messages": [{"role": "user", "content": "Help."}, {"role": "bot", "content": "Yes."}]}  # fmt: skip


@pytest.mark.parametrize(
    ("column", "text", "title"),
    [
        ("ticket.message.text", "It leaks.", ""),
        ("messages[].content", "Help.\nYes.", ""),
        (["id", "ticket.message.text"], "T-1. It leaks.", "T-1"),
    ],
)
def test_columns_can_be_nested_and_several(tmp_path, column, text, title):
    path = tmp_path / "tickets.jsonl"
    path.write_text(json.dumps(TICKET) + "\n")
    for source in (path, [TICKET], pd.DataFrame([TICKET])):
        (read,) = data.read_texts(source, column=column)
        assert (read.text, read.title, read.id) == (text, title, "T-1")
        assert read.fields == {"open": True, "tags": ["a"]}


@pytest.mark.parametrize("missing", [None, "ticket.body", "messages", "open", "body text"])
def test_nested_records_are_refused_with_the_path_to_name(missing, tmp_path):
    row = {name: TICKET[name] for name in ("id", "messages")}
    paths = r"messages\[\].content"
    for source in ([row], pd.DataFrame([row])):
        with pytest.raises(DataError, match=paths):
            data.read_texts(source)
    expected = "no texts in 'ticket.body' but 1" if missing == "ticket.body" else paths
    with pytest.raises(DataError, match=expected):
        data.read_texts([TICKET], column=missing)


def test_rows_that_are_left_out_are_named_and_columns_come_along():
    table = pd.DataFrame({"id": [f"T-{i}" for i in range(40)], "product": list("abcd") * 10})
    table["subject"] = [f"Subject {i}?" for i in range(40)]
    table["body"] = [f"The pump {i} leaks." for i in range(40)]
    table.loc[[3, 7], "body"] = ["", None]
    table.loc[9, "body"] = "The pump 8 leaks."
    with pytest.warns(UserWarning, match=r"2 blank \(T-3, T-7\), 1 duplicate \(T-9\)"):
        texts = data.read_texts(table, column="body")
    assert texts[3].id == "T-4" and texts[3].fields == {"product": "a", "subject": "Subject 4?"}
    first = data.read_texts(table, column=["subject", "body"])[0]
    assert first.text == "Subject 0? The pump 0 leaks." and first.title == "Subject 0?"
    assert data.as_texts([{"id": 7, "text": "x"}])[0].id == "7"


@pytest.mark.parametrize(
    "content",
    ['id,text\n1,"It leaks\n2,It is dry\n3,It is old\n4,He said ""no""."\n',
     'id\ttext\nT-1\t"It leaks\nT-2\tIt is dry\nT-3\tdone"\n'],
)  # fmt: skip
def test_a_quotation_mark_without_its_pair_merges_no_rows(tmp_path, content):
    path = tmp_path / ("t.tsv" if "\t" in content else "t.csv")
    path.write_text(content)
    with pytest.raises(DataError, match="line 2: a field holds what looks like other rows"):
        data.read_texts(path)


def test_a_file_of_lines_says_how_to_read_a_line_each(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(f"line {i}" for i in range(350)))
    with pytest.warns(UserWarning, match="350 lines are one text"):
        assert len(data.read_texts(path)) == 1
    with path.open() as lines:
        assert len(data.read_texts(lines)) == 350


def test_documents_of_offices_are_converted_or_counted(tmp_path, monkeypatch):
    from pptx import Presentation

    slides = Presentation()
    slides.slides.add_slide(slides.slide_layouts[0]).shapes.title.text = "The pump leaks."
    slides.save(tmp_path / "talk.pptx")
    (tmp_path / "page.html").write_text("<h1>Halls</h1><script>1</script><p>The hall is old.</p>")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    with pytest.warns(UserWarning, match="1 other or empty file left out, such as photo.png"):
        page, talk = data.read_texts(tmp_path)
    assert (page.text, page.title, page.id) == ("Halls. The hall is old.", "Halls", "page.html")
    assert "The pump leaks." in talk.text
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "markitdown", None)
    with (
        pytest.warns(UserWarning, match=r"2 other or empty files left out.*\[files\]"),
        pytest.raises(DataError),
    ):
        data.read_texts(tmp_path)
    with pytest.raises(wb.WorkbenchError, match=r"\[files\]"):
        data.read_texts(tmp_path / "talk.pptx")


def test_queries_are_cropped_in_scripts_without_spaces():
    for language in ("Chinese", "Thai"):
        text = LANGUAGES[language] * 5
        queries = data.crop_queries([Text(text)], 5)
        assert queries and all(q.text in text and len(q.text) < 60 for q in queries)


def test_a_table_is_explored_by_its_columns(tmp_path, tiny_model, other_tiny_model, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    table = pd.DataFrame({"id": [f"T-{i}" for i in range(60)], "product": list("abc") * 20})
    table["body"] = [text.text for text in sentences(60)]
    compared = {"large": str(other_tiny_model), "small": str(tiny_model)}
    view = wb.explore(table, compared, column="body", color="product", umap=False)
    assert view.color.value == "product" and view.table["id"].tolist()[:2] == ["T-0", "T-1"]
    view.select([1])
    assert "T-1" in view.text.value and view.near.columns[0]["rows"][0]["id"].startswith("T-")
    with pytest.raises(wb.WorkbenchError, match="color 'colour'"):
        wb.explore(table, compared, column="body", color="colour", umap=False)


@pytest.mark.models
def test_the_language_is_mentioned_once_where_it_is_not_english():
    reader = pipeline.ADAPT.readers(pipeline.teacher_of(None, pipeline.ADAPT))[1]
    from workbench import views

    for language, is_known in {"English": True, "Chinese": False, "German": False}.items():
        texts = {f"d{i}": LANGUAGES[language] * (1 + i) for i in range(20)}
        line = views._language(RetrievalDataset("x", texts, {}, {}), reader)
        assert (line == "") == is_known, language


# --- what people have ---

FACTS = {
    "English": ("The spare key hangs behind the boiler, next to the blue valve.", "where is the spare key?"),
    "German": ("Der Ersatzschlüssel hängt hinter dem Heizkessel neben dem blauen Ventil.", "Der Ersatzschlüssel hängt hinter"),
    "Chinese": ("备用钥匙挂在锅炉后面的蓝色阀门旁边。", "备用钥匙挂在锅炉后面的蓝色阀门旁边。"),
    "Thai": ("กุญแจสำรองแขวนอยู่หลังหม้อไอน้ำข้างวาล์วสีน้ำเงิน", "กุญแจสำรองแขวนอยู่หลังหม้อไอน้ำ"),
}  # fmt: skip


@pytest.mark.models
@pytest.mark.parametrize("language", FACTS)
def test_a_fact_at_the_end_of_a_long_document_is_the_first_hit(language):
    fact, query = FACTS[language]
    model = models.load_model(models.MINILM)
    model.max_seq_length = 96
    filler, documents = LANGUAGES[language], {}
    rng = np.random.default_rng(0)
    words = filler.split() if language in ("English", "German") else list(filler)
    for i in range(6):
        end = f"\n\n{fact}" if i == 4 else ""
        join = " " if language in ("English", "German") else ""
        parts = [join.join(rng.permutation(words)) + ". " for _ in range(3000 // len(words) + 1)]
        documents[f"{language}-{i}.txt"] = "".join(parts) + end
    dataset = RetrievalDataset("long", documents, {"q": query}, {"q": {f"{language}-4.txt": 1}})
    dataset, _ = evaluate.cut_for({"model": model}, dataset)
    queries, rows = evaluate.vectors(model, dataset)
    hits = ranking.top_k(queries, rows, 3, rows=dataset.rows)[1][0]
    assert hits[0] == 4


@pytest.mark.models
@pytest.mark.parametrize("name", ["med", "cranfield", "cisi", "xquad_en", "npl_vaswani", "scifact"])
def test_all_tokens_of_a_shared_collection_are_read(name):
    folder = SHARED / "retrieval" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    dataset = data.read_dataset(folder)
    teacher = pipeline.teacher_of(None, pipeline.ADAPT)
    readers = pipeline.ADAPT.readers(teacher)
    texts = dataset.document_texts()[:1500]
    result = cut(texts, readers)
    pieces = [text.text for text in result.texts]
    for reader in readers:
        assert reader.sizes(pieces).max() <= reader.length
    read = [""] * len(texts)
    for document, (start, end) in zip(result.documents, result.spans, strict=True):
        read[document] += texts[document].text[start:end]
    for text, whole in zip(texts, read, strict=True):
        assert squeezed(text.text).endswith(squeezed(whole))
        head = text.text[: len(text.text) - len(text.text.removeprefix(f"{text.title}"))]
        assert len(squeezed(whole)) >= len(squeezed(text.text)) - len(squeezed(head)) - 1


def tickets(folder):
    rows = []
    for i, text in enumerate(sentences(400, seed=5)):
        subject, body = f"{text.text.split()[0]} {i}", f"Dear team;\nthe {text.text}.\n\nNo. {i}"
        if i % 20 == 3:
            subject = body = ""
        if i % 40 == 9:
            subject, body = rows[0]["subject"], rows[0]["body"]
        rows.append({"id": f"T-{i}", "subject": subject, "body": body,
                     "product": "abcd"[i % 4], "priority": i % 3})  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "tickets.csv", sep=";", index=False)
    return folder / "tickets.csv", {"column": ["subject", "body"]}, "product", r"T-\d+"


def notes(folder):
    import zipfile

    for i, text in enumerate(sentences(60, seed=6)):
        path = folder / "notes" / f"2026-{i % 12 + 1:02}" / f"{text.text.split()[0]}-{i}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# Note {i}\n\n" + f"The {text.text}. " * 12)
    (folder / "notes" / "plan.png").write_bytes(b"\x89PNG")
    words = '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">'
    kinds = '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    office = "http://schemas.openxmlformats.org"
    parts = {
        "[Content_Types].xml": f'{kinds}<Default Extension="rels" ContentType="application/vnd.'
        'openxmlformats-package.relationships+xml"/><Override PartName="/word/document.xml" '
        'ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.'
        'main+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{office}/package/2006/relationships"><Relationship '
        f'Id="r1" Type="{office}/officeDocument/2006/relationships/officeDocument" '
        'Target="word/document.xml"/></Relationships>',
        "word/document.xml": f"{words}<w:body><w:p><w:r><w:t>The pump is red.</w:t></w:r></w:p>"
        "</w:body></w:document>",
    }
    with zipfile.ZipFile(folder / "notes" / "pump.docx", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    drawing = b"BT /F1 12 Tf 72 700 Td (The lamp is green.) Tj ET"
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R"
        b"/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(drawing), drawing),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]  # fmt: skip
    body = b"".join(b"%d 0 obj%s endobj\n" % item for item in enumerate(objects, 1))
    pdf = b"%PDF-1.4\n" + body + b"trailer<</Root 1 0 R/Size 6>>\n%%EOF"
    (folder / "notes" / "lamp.pdf").write_bytes(pdf)
    return folder / "notes", {}, None, r"2026-\d\d/.*\.md|pump\.docx|lamp\.pdf"


def nested(folder):
    with (folder / "chats.jsonl").open("w") as file:
        for i, text in enumerate(sentences(80, seed=7)):
            row = {"id": f"C-{i}", "lang": "en", "chat": {"turns": [{"said": {"text": text.text}}]}}
            file.write(json.dumps(row) + "\n")
    return folder / "chats.jsonl", {"column": "chat.turns[].said.text"}, None, r"C-\d+"


def news(folder):
    rows = [{"title": f"Story {i}", "text": f"The {text.text}. " * (1 + i % 9), "desk": "abc"[i % 3]}
            for i, text in enumerate(sentences(3000, seed=8))]  # fmt: skip
    pd.DataFrame(rows).to_parquet(folder / "news.parquet")
    return folder / "news.parquet", {}, "desk", r"news\.parquet:\d+"


@pytest.mark.slow
@pytest.mark.parametrize("make", [tickets, notes, nested, news])
def test_what_people_have_is_searched_and_explored_in_one_call(
    make, tmp_path, tiny_model, other_tiny_model, monkeypatch
):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    source, reading, color, name = make(tmp_path)
    large, small = (LocalTeacher(model, max_length=40) for model in (other_tiny_model, tiny_model))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        search = wb.search(source, large, small, progress=False, **reading)
        view = wb.explore(
            source, {"large": large, "small": small}, color=color, umap=False, **reading
        )
    messages = " ".join(str(warning.message) for warning in caught)
    assert search.results["document_id"].map(lambda found: bool(re.fullmatch(name, found))).all()
    assert view.table["id"].map(lambda found: bool(re.fullmatch(name, found))).all()
    if make is tickets:
        assert "20 blank (T-3, T-23, T-43), 10 duplicate" in messages
        assert view.color.value == "product" and len(set(view.table["id"])) == 370
    if make is notes:
        assert "plan.png" in messages and {"pump.docx", "lamp.pdf"} <= set(view.table["id"])
        assert view.table.set_index("id").loc["pump.docx", "text"] == "The pump is red."
        assert "The lamp is green." in view.table.set_index("id").loc["lamp.pdf", "text"]
