import json

import paper_texts
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workbench import data
from workbench.data import Role
from workbench.errors import DataError


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Make a folder for each source of the paper, of the same configuration, split and column."""
    monkeypatch.setattr(paper_texts, "PART_ROWS", 3)
    where = {}
    for name in {source.data for source in paper_texts.PAPER}:
        where[name] = str(folder := tmp_path / "hub" / name.replace("/", "-"))
        folder.mkdir(parents=True)
        sources = [source for source in paper_texts.PAPER if source.data == name]
        for source in sources:
            rows = [f"{source.column} {i} of {source.name}" for i in range(5)]
            rows += ["bad\0", "x" * 9000]
            table = pa.table({"other": list(range(7)), source.column: rows})
            pq.write_table(table, folder / f"{source.split}.parquet")
        files = [{"split": source.split, "path": f"{source.split}.parquet"} for source in sources]
        config = {"config_name": sources[0].config or "default", "data_files": files}
        (folder / "README.md").write_text(f"---\n{json.dumps({'configs': [config]})}\n---\n")
    return where


def test_the_mixture_is_streamed_with_its_roles(hub, tmp_path):
    seen = []
    folder = paper_texts.fetch(
        paper_texts.PAPER,
        tmp_path / "texts",
        elsewhere=hub,
        on_progress=lambda source, done: seen.append(done),
    )
    assert len(list(folder.iterdir())) == 3 * len(paper_texts.PAPER) and seen == [3, 6, 7] * 10
    texts = list(data.stream_texts(folder))
    assert len(texts) == 60 and max(len(text.text) for text in texts) == paper_texts.CHARACTERS
    roles = {text.text.partition(" of ")[2]: text.role for text in texts if " of " in text.text}
    assert roles == {source.name: source.role for source in paper_texts.PAPER}
    documents = [source for source in paper_texts.PAPER if source.role is Role.DOCUMENT]
    assert sum(source.texts for source in documents) == 3_900_000


def test_a_source_that_fails_costs_only_itself(hub, tmp_path):
    broken = hub | {paper_texts.PAPER[2].data: str(tmp_path / "gone")}
    with pytest.raises(DataError, match="gone cannot be read"):
        paper_texts.fetch(paper_texts.PAPER, tmp_path / "texts", elsewhere=broken)
    kept = list((tmp_path / "texts").iterdir())
    assert len(kept) == 6
    assert all(path.name.startswith(("HuggingFaceFW-", "vblagoje-")) for path in kept)
    (tmp_path / "texts" / f"{paper_texts.PAPER[1].name}-0002.parquet").unlink()
    paper_texts.fetch(paper_texts.PAPER, tmp_path / "texts", elsewhere=hub)
    assert len(list(data.stream_texts(tmp_path / "texts"))) == 60


def test_an_interrupt_leaves_no_half_a_file(hub, tmp_path, monkeypatch, capsys):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    options = {"elsewhere": hub, "on_progress": interrupt}
    with pytest.raises(KeyboardInterrupt):
        paper_texts.fetch(paper_texts.PAPER, tmp_path / "texts", **options)
    assert list((tmp_path / "texts").iterdir()) == []
    monkeypatch.setattr(paper_texts, "fetch", interrupt)
    assert paper_texts.main(["--output", str(tmp_path / "texts")]) == 130
    assert "the same command continues" in capsys.readouterr().err


def test_the_script_lists_its_sources_and_reports_errors(tmp_path, capsys):
    assert paper_texts.main(["--output", str(tmp_path / "texts"), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "3,000,000  document  HuggingFaceFW-fineweb-sample-10BT-text" in out
    assert "5,680,922  in all" in out
    assert not (tmp_path / "texts").exists()
    (tmp_path / "file").touch()
    assert paper_texts.main(["--output", str(tmp_path / "file" / "texts")]) == 1
    assert "error: " in capsys.readouterr().err


def test_sources_are_refused(hub, tmp_path):
    with pytest.raises(DataError, match="join them"):
        paper_texts.fetch(paper_texts.PAPER[:1] * 2, tmp_path)
    for column, message in (("other", "'other' has 0, which is not a text"), ("body", "body")):
        source = paper_texts.Source(paper_texts.PAPER[1].data, column, Role.DOCUMENT, 5)
        with pytest.raises(DataError, match=message):
            paper_texts.fetch([source], tmp_path / "texts", elsewhere=hub)
