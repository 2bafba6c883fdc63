"""Whatever is in a file: texts come out and what is left out is counted, or a WorkbenchError says why."""

import csv
import gzip
import io
import json
import os
import re
import tempfile
import warnings
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench import data
from workbench.data import Role, Text
from workbench.errors import WorkbenchError

# The same examples in every run; FUZZ=50 tries fifty times as many, others every time.
MORE = int(os.environ.get("FUZZ", "1"))
EXAMPLES = settings(
    max_examples=60 * MORE,
    derandomize=MORE == 1,
    deadline=None,
    suppress_health_check=[*HealthCheck],
)
VALID = st.characters(exclude_categories=("Cs", "Cc"))
WORDS = st.text(VALID, max_size=12).map(lambda text: f"{text}x")  # never blank
ODD = st.text(st.characters(exclude_categories=()), max_size=9)  # lone surrogates and NUL too
JSON = st.none() | st.booleans() | st.integers() | st.floats() | ODD | st.lists(ODD, max_size=3)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"text": WORDS | WORDS | WORDS | JSON},
        optional={"role": st.sampled_from(["query", "document", "", None, "user"]), "id": JSON},
    ),
    min_size=1,
    max_size=6,
)


def read(reader, *arguments, **options):
    """Return what was read and how many texts the warnings count, or None after a WorkbenchError."""
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        try:
            result = reader(*arguments, **options)
        except WorkbenchError as error:
            assert str(error).strip()
            return None, 0
    counts = [re.findall(r"(\d+) (?:blank|duplicate)", str(m.message)) for m in messages]
    return result, sum(int(number) for numbers in counts for number in numbers)


def content(rows, suffix, encoding="utf-8"):
    """Write rows in a format; what it cannot hold becomes a string."""
    if suffix == ".jsonl":
        return "\n".join(map(json.dumps, rows)).encode(encoding, "replace")
    if suffix == ".json":
        return json.dumps(rows).encode(encoding, "replace")
    out = io.StringIO()
    writer = csv.DictWriter(out, ["text", "role", "id"], quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode(encoding, "replace")


@st.composite
def damaged(draw, raw):
    """Return bytes as they are, cut, with a byte changed, or others."""
    kind, place = draw(st.integers(0, 5)), draw(st.integers(0, max(0, len(raw) - 1)))
    if kind == 0:
        return raw[:place]
    if kind == 1 and raw:
        return raw[:place] + bytes([draw(st.integers(0, 255))]) + raw[place + 1 :]
    return draw(st.binary(max_size=100)) if kind == 2 else raw


SUFFIXES = st.sampled_from([".csv", ".tsv", ".jsonl", ".json", ".txt", ".parquet", ".png"])
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "column": st.sampled_from(["text", "id", "none"]),
        "role": st.sampled_from(["query", "user"]),
        "encoding": st.sampled_from(["cp1252", "utf-16", "klingon"]),
        "sample": st.sampled_from([1, 3]),
    },
)


@EXAMPLES
@given(st.data(), OPTIONS, st.booleans())
def test_files_and_folders_give_texts_or_an_error(draw, options, is_folder):
    with tempfile.TemporaryDirectory() as root:
        for number in range(draw.draw(st.integers(1, 3))):
            suffix, is_packed = draw.draw(SUFFIXES), draw.draw(st.booleans())
            encoding = draw.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]))
            raw = draw.draw(damaged(content(draw.draw(ROWS), suffix, encoding)))
            path = Path(root, f"{number}{suffix}{'.gz' if is_packed else ''}")
            path.write_bytes(draw.draw(damaged(gzip.compress(raw, 0))) if is_packed else raw)
        texts, _ = read(data.read_texts, root if is_folder else path, **options)
    for text in texts or []:
        assert type(text) is Text and type(text.text) is str and type(text.role) is Role
        assert text.text.strip() and "\0" not in text.text and text.text.encode()


@EXAMPLES
@given(ROWS, st.sampled_from([".csv", ".jsonl", ".json", "list"]))
def test_every_row_is_read_or_counted(rows, suffix):
    with tempfile.TemporaryDirectory() as root:
        path = Path(root, f"t{suffix}")
        path.write_bytes(content(rows, suffix))
        texts, left_out = read(data.read_texts, rows if suffix == "list" else path)
    if texts is not None:
        assert len(texts) + left_out == len(rows)


@EXAMPLES
@given(st.data())
def test_a_damaged_data_set_is_read_or_an_error(draw):
    with tempfile.TemporaryDirectory() as root:
        for path in (data.DATA / "tutorial").rglob("*.*l*"):
            copy = Path(root, path.relative_to(data.DATA / "tutorial"))
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(draw.draw(damaged(path.read_bytes())))
        read(data.read_texts, root)
        collection, _ = read(data.read_dataset, root)
    assert collection is None or collection.qrels.keys() == collection.queries.keys()
