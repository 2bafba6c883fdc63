"""Whatever is in a file, a list or a table: texts come out and what is skipped is counted, or a WorkbenchError says why."""

import contextlib
import csv
import gzip
import io
import json
import os
import re
import tempfile
import warnings
from decimal import Decimal
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench import data
from workbench.data import Role, Text
from workbench.errors import WorkbenchError

# The same examples in every run; FUZZ=50 tries fifty times as many, others every time.
MORE = int(os.environ.get("FUZZ", "1"))
EXAMPLES = settings(
    max_examples=100 * MORE,
    derandomize=MORE == 1,
    deadline=None,
    suppress_health_check=[*HealthCheck],
)


def mostly(usual, other, share=12):
    """Give one of `other` now and then."""
    return st.integers(1, share).flatmap(lambda number: other if number == share else usual)


CHARACTERS = st.characters(exclude_categories=())  # lone surrogates and NUL too
STRINGS = st.text(CHARACTERS, max_size=12)
GOOD = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12).map(
    lambda text: f"{text}x"  # never blank
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), STRINGS, st.binary(max_size=6), st.decimals(), st.dates(),
    st.datetimes(), st.timedeltas(), st.just(pd.NA), st.just(pd.NaT), st.just(np.float32("nan")), st.builds(np.str_, GOOD),
)  # fmt: skip
NAMES = st.one_of(
    st.sampled_from(
        [
            "text",
            "Text",
            "TEXT",
            "role",
            "Role",
            "ROLE",
            "body",
            "_id",
            "id",
            "title",
            "metadata",
            "",
        ]
    ),
    STRINGS,
)
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=2),
    st.dictionaries(NAMES, SCALARS, max_size=2),
    st.sampled_from([np.zeros(2), np.array("x"), object(), bytearray(b"x"), {1}]),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), STRINGS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
ROLES = mostly(
    st.sampled_from(["query", "document", "Query", " DOCUMENT ", "", "  ", None]),
    st.sampled_from(["user", 3, b"query", [1]]),
)
OPTIONS = mostly(
    st.fixed_dictionaries(
        {}, optional={"role": st.sampled_from(["query", "DOCUMENT"]), "passages": st.just(10)}
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "column": NAMES,
            "role": ROLES,
            "passages": st.sampled_from([10, 9, None]),
            "encoding": st.sampled_from(
                [
                    "utf-8",
                    "cp1252",
                    "utf-16",
                    "utf-16-le",
                    "utf-7",
                    "shift_jis",
                    "klingon",
                    "rot13",
                    "idna",
                    "\0",
                ]
            ),
            "limit": st.sampled_from([1, 3, 0, None]),
            "sample": st.sampled_from([1, 3, None]),
        },
    ),
    4,
)


@st.composite
def records(draw, values=VALUES):
    """Make rows of a table: a column of texts, perhaps one of roles and others; now and then something else."""
    usual = mostly(GOOD, mostly(st.sampled_from([None, "", " \t"]), values, 3), 8)
    columns = {draw(mostly(st.sampled_from(["text", "TEXT", "body"]), NAMES)): usual}
    if draw(st.booleans()):
        columns[draw(st.sampled_from(["role", "Role"]))] = ROLES
    if draw(st.integers(0, 3)) == 3:
        columns[draw(NAMES)] = values
    rows = draw(st.lists(st.fixed_dictionaries(columns), min_size=1, max_size=6))
    return (
        rows
        if draw(st.integers(0, 9))
        else [*rows, draw(st.one_of(values, st.dictionaries(NAMES, values, max_size=3)))]
    )


def read(reader, *arguments, **options):
    """Return what was read and how many texts the warnings count as left out, or None with a WorkbenchError."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = reader(*arguments, **options)
        except WorkbenchError as error:
            assert str(error).strip()
            return None, 0
    assert all(each.category is UserWarning for each in said), [str(each.message) for each in said]
    counts = [
        re.match(r"(?:([\d,]+) blank)?(?: and )?(?:([\d,]+) duplicate)?", str(each.message))
        for each in said
    ]
    return found, sum(
        int(count.replace(",", "")) for each in counts for count in each.groups() if count
    )


def texts_are_usable(texts):
    assert len(texts)
    for text in texts:
        assert type(text) is Text and type(text.text) is str and type(text.role) is Role
        assert text.text.strip() and "\0" not in text.text and text.text.encode()


@contextlib.contextmanager
def folder():
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        yield Path(name)


def counted(texts, left_out, rows, options):
    """See that every row of a source is there, or was said to be left out."""
    if texts is not None:
        texts_are_usable(texts)
        if not any(options.get(name) for name in ("limit", "sample", "passages")):
            assert len(texts) + left_out == rows


def content(rows, suffix, delimiter, encoding):
    """Write rows as a file of a format; what the format cannot hold is written as a string."""
    if suffix in (".jsonl", ".ndjson", ".JSONL"):
        return "\n".join(json.dumps(row, default=str) for row in rows).encode(encoding, "replace")
    if suffix == ".json":
        return json.dumps(rows, default=str).encode(encoding, "replace")
    if suffix in (".csv", ".tsv"):
        rows, out = [row for row in rows if isinstance(row, dict)], io.StringIO()
        names = list(rows[0])
        writer = csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writerows(
            [
                names,
                *(
                    ["" if row.get(name) is None else row.get(name) for name in names]
                    for row in rows
                ),
            ]
        )
        return out.getvalue().encode(encoding, "replace")
    return str(rows).encode(encoding, "replace")


@st.composite
def damaged(draw, raw):
    """Return bytes as they are, cut, with a byte changed, or others."""
    kind, place = draw(st.integers(0, 9)), draw(st.integers(0, max(0, len(raw) - 1)))
    if kind == 0:
        return raw[:place]
    if kind == 1 and raw:
        return raw[:place] + bytes([draw(st.integers(0, 255))]) + raw[place + 1 :]
    return draw(st.binary(max_size=100)) if kind == 2 else raw


SUFFIXES = mostly(
    st.sampled_from([".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".JSONL"]),
    st.sampled_from([".txt", ".md", ".parquet", ".png", ""]),
    6,
)
ENCODINGS = mostly(
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    st.sampled_from(["cp1252", "utf-16-le", "utf-16-be", "utf-7"]),
    6,
)


@EXAMPLES
@given(st.data(), OPTIONS, st.booleans())
def test_files_and_folders_give_texts_or_an_error(draw, options, whole):
    with folder() as root:
        for number in range(draw.draw(st.integers(1, 3))):
            rows, suffix, packed = (
                draw.draw(records()),
                draw.draw(SUFFIXES),
                draw.draw(st.booleans()),
            )
            raw = content(
                [rows[0], *rows], suffix, draw.draw(st.sampled_from(",;\t|")), draw.draw(ENCODINGS)
            )
            raw = draw.draw(damaged(raw))
            path = root / f"{number}{suffix}{'.gz' * packed}"
            path.write_bytes(draw.draw(damaged(gzip.compress(raw, 0))) if packed else raw)
        texts, _ = read(data.read_texts, root if whole else path, **options)
        if texts is not None:
            texts_are_usable(texts)


@EXAMPLES
@given(records(JSON), st.sampled_from([".csv", ".jsonl", ".json"]), OPTIONS)
def test_every_row_of_a_file_is_read_or_counted(rows, suffix, options):
    rows = [row for row in rows if isinstance(row, dict)] if suffix == ".csv" else rows
    with folder() as root:
        path = root / f"t{suffix}"
        path.write_bytes(content(rows, suffix, ",", "utf-8"))
        counted(*read(data.read_texts, path, **options), len(rows), options)


@EXAMPLES
@given(
    mostly(STRINGS, VALUES, 3) | st.sampled_from(["~nobody/x", "hub:a", "a/b", "", "no/such.csv"]),
    st.sampled_from([None, "text"]),
)
def test_any_source_gives_texts_or_an_error(source, column):
    if isinstance(source, str) and os.path.exists(source):  # ".", "/" and the like are read
        return
    texts, _ = read(data.read_texts, source, column=column)
    if texts is not None:
        texts_are_usable(texts)
    assert data.is_dataset(source) in (True, False)
    read(data.read_dataset, source)
    read(data.as_texts, source)


@EXAMPLES
@given(
    records()
    | st.lists(
        mostly(
            GOOD,
            st.one_of(VALUES, st.builds(Text, GOOD, ROLES.filter(lambda role: role in list(Role)))),
            4,
        ),
        max_size=6,
    ),
    OPTIONS,
)
def test_lists_give_texts_or_an_error(rows, options):
    counted(*read(data.read_texts, rows, **options), len(rows), options)
    counted(*read(data.read_texts, iter(rows), **options), len(rows), options)
    read(data.as_texts, rows)


@EXAMPLES
@given(
    records().map(lambda rows: [row for row in rows if isinstance(row, dict)]),
    OPTIONS,
    st.booleans(),
)
def test_tables_give_texts_or_an_error(rows, options, plain):
    frame = pd.DataFrame(rows, dtype=None if plain else object)
    counted(*read(data.read_texts, frame, **options), len(rows), options)
    for name in list(frame)[:1]:
        read(data.read_texts, frame[name], **options)


TYPES = {
    pa.string(): GOOD, pa.large_string(): GOOD, pa.string_view(): GOOD, pa.binary(): st.binary(max_size=5),
    pa.dictionary(pa.int8(), pa.string()): GOOD, pa.list_(pa.string()): st.lists(GOOD, max_size=2),
    pa.struct([("text", pa.string())]): st.fixed_dictionaries({"text": GOOD}), pa.int64(): st.integers(-9, 9),
    pa.map_(pa.string(), pa.string()): st.just([("a", "b")]), pa.timestamp("ns"): st.integers(-(2**63), 2**63 - 1),
    pa.duration("s"): st.integers(-(2**63), 2**63 - 1), pa.date64(): st.integers(-(2**62), 2**62), pa.bool_(): st.booleans(),
    pa.decimal128(30, 2): st.just(Decimal("1.50")), pa.null(): st.none(), pa.float16(): st.just(np.float16(1)),
}  # fmt: skip


@st.composite
def tables(draw):
    count, fields, columns = draw(st.integers(1, 5)), [], []
    texts = st.sampled_from(
        [kind for kind in TYPES if "string" in str(kind) or kind == pa.binary()]
    )
    for name in [
        draw(mostly(st.sampled_from(["text", "Text", "a.b"]), NAMES)),
        *draw(st.lists(NAMES, max_size=2)),
    ]:
        kind = draw(mostly(texts, st.sampled_from(list(TYPES)), 4 if not fields else 2))
        values = mostly(TYPES[kind], st.none(), 5)
        columns.append(pa.array(draw(st.lists(values, min_size=count, max_size=count)), kind))
        fields.append(pa.field(name.encode("utf-8", "replace").decode(), kind))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


@EXAMPLES
@given(tables(), OPTIONS, st.data())
def test_parquet_files_and_data_sets_give_texts_or_an_error(table, options, draw):
    with folder() as root:
        path = root / "t.parquet"
        with contextlib.suppress(
            pa.ArrowException, NotImplementedError
        ):  # what parquet cannot hold
            pq.write_table(table, path)
            counted(*read(data.read_texts, path, **options), table.num_rows, options)
            read(data.text_columns, path, options.get("column"))
            path.write_bytes(draw.draw(damaged(path.read_bytes())))
            read(data.read_texts, path, **options)
    counted(*read(data.read_texts, table, **options), table.num_rows, options)
    with contextlib.suppress(Exception):  # what `datasets` cannot hold
        hub = datasets.Dataset(table)
        next(iter(hub))
        table = hub
    counted(*read(data.read_texts, table, **options), table.num_rows, options)


@EXAMPLES
@given(st.lists(st.tuples(GOOD, st.sampled_from(list(Role))), min_size=1, max_size=5, unique=True))
def test_what_is_accepted_comes_back(pairs):
    wanted = [Text(*pair) for pair in pairs]
    rows = [{"text": text, "role": role.value} for text, role in pairs]
    with folder() as root:
        (root / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (root / "lines.ndjson.gz").write_bytes(
            gzip.compress("\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode())
        )
        (root / "t.json").write_text(json.dumps(rows))
        pq.write_table(pa.Table.from_pylist(rows), root / "t.parquet")
        for suffix, delimiter in ((".csv", ","), (".csv", ";"), (".tsv", "\t")):
            for kind in ("utf-8", "utf-16", "utf-8-sig"):
                with (root / f"{kind}{ord(delimiter)}{suffix}").open(
                    "w", encoding=kind, newline=""
                ) as file:
                    writer = csv.DictWriter(
                        file, ["role", "text"], delimiter=delimiter, quoting=csv.QUOTE_ALL
                    )
                    writer.writeheader()
                    writer.writerows(rows)
        for path in root.iterdir():
            assert read(data.read_texts, path) == (wanted, 0), path
        assert sorted(map(repr, read(data.read_texts, root)[0])) == sorted(map(repr, wanted))
    for source in (
        wanted,
        rows,
        pd.DataFrame(rows),
        pa.Table.from_pylist(rows),
        datasets.Dataset.from_list(rows),
    ):
        assert read(data.read_texts, source) == (wanted, 0)


# --- BEIR folders -------------------------------------------------------------------------------

ID = st.text(
    st.characters(exclude_categories=("C", "Z"), exclude_characters="\",#'\0"),
    min_size=1,
    max_size=4,
)
GRADES = st.integers(-2, 4)


def write_beir(root, documents, queries, qrels, packed=False):
    (root / "qrels").mkdir()
    for name, content in (
        ("corpus.jsonl", documents),
        ("queries.jsonl", queries),
        ("qrels/test.tsv", qrels),
    ):
        path = root / f"{name}{'.gz' * packed}"
        path.write_bytes(gzip.compress(content) if packed else content)
    return root


def json_lines(rows):
    return "\n".join(map(json.dumps, rows)).encode()


ROWS = st.lists(
    mostly(
        st.fixed_dictionaries(
            {"_id": ID, "text": GOOD},
            optional={"title": GOOD | st.lists(GOOD, max_size=2) | st.none()},
        ),
        st.dictionaries(
            st.sampled_from(["_id", "id", "text", "title", "metadata"]),
            st.one_of(ID, JSON),
            max_size=4,
        )
        | JSON,
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda row: str(row.get("_id")) if isinstance(row, dict) else str(row),
)


@EXAMPLES
@given(
    ROWS,
    ROWS,
    st.data(),
    st.booleans(),
    mostly(st.just("test"), st.sampled_from(["dev", "../x", "\0", "test.tsv"])),
)
def test_folders_in_beir_layout_give_a_data_set_or_an_error(
    documents, queries, draw, packed, split
):
    names = [
        [str(row.get("_id")) for row in rows if isinstance(row, dict)] or ["x"]
        for rows in (documents, queries)
    ]
    line = st.tuples(
        *(mostly(st.sampled_from(some), STRINGS) for some in names[::-1]),
        mostly(st.sampled_from("0123"), STRINGS),
    )
    separator, lines = (
        draw.draw(st.sampled_from("\t, ")),
        draw.draw(st.lists(line, min_size=1, max_size=4)),
    )
    qrels = "\n".join(separator.join(each) for each in lines).encode("utf-8", "replace")
    raw = [draw.draw(damaged(each)) for each in (json_lines(documents), json_lines(queries), qrels)]
    with folder() as root:
        collection, _ = read(data.read_dataset, write_beir(root, *raw, packed), split)
        if collection is not None:
            assert set(collection.queries) == set(collection.qrels)
            texts_are_usable(collection.query_texts())
        texts, _ = read(data.read_texts, root)
        if texts is not None:
            texts_are_usable(texts)


@st.composite
def collections(draw):
    documents = draw(st.dictionaries(ID, GOOD.map(str.strip), min_size=1, max_size=5))
    queries = draw(st.dictionaries(ID, GOOD.map(str.strip), min_size=1, max_size=3))
    grades = st.dictionaries(st.sampled_from(list(documents)), GRADES, min_size=1)
    return documents, queries, {query: draw(grades) for query in queries}


@EXAMPLES
@given(
    collections(),
    st.sampled_from(["\t", ",", " "]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from([None, "0", "Q0"]),
    st.sampled_from(["{}", "{}.0", "{}e0"]),
    st.sampled_from(["", "query-id corpus-id score", "# a comment"]),
    st.booleans(),
)
def test_a_data_set_comes_back_from_every_form_of_judgments(
    made, delimiter, quoting, trec, number, head, packed
):
    documents, queries, qrels = made
    out = io.StringIO()
    quoting = csv.QUOTE_MINIMAL if delimiter == " " else quoting
    writer = csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator="\n")
    for query, judged in qrels.items():
        for document, grade in judged.items():
            writer.writerow(
                [query, *([] if trec is None else [trec]), document, number.format(grade)]
            )
    lines = (
        f"{head if head[:1] == '#' else head.replace(' ', delimiter)}\n{out.getvalue()}".encode()
    )
    rows = [
        [{"_id": name, "text": text} for name, text in texts.items()]
        for texts in (documents, queries)
    ]
    with folder() as root:
        collection, _ = read(
            data.read_dataset, write_beir(root, *map(json_lines, rows), lines, packed)
        )
    assert collection is not None
    assert (collection.corpus, collection.queries, collection.qrels) == (documents, queries, qrels)
