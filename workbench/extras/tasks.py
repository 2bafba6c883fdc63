"""Benchmarks by name, and folders on this machine as tasks of the same kind: both run by `mteb`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from workbench import data
from workbench._util import expanded, need
from workbench.errors import BenchmarkError

if TYPE_CHECKING:
    from mteb import AbsTask

# Kind to the measure that mteb reports of it first.
KINDS = {
    "Retrieval": "ndcg_at_10",
    "Classification": "accuracy",
    "Clustering": "v_measure",
    "STS": "cosine_spearman",
    "PairClassification": "cosine_ap",  # mteb's own tasks have the best of several distances
}
_CLUSTERED_TEXTS = 4096  # drawn with mteb's seed from a larger folder


def tasks(names: Iterable[str | Path], split: str = "test") -> list[AbsTask]:
    """Turn names and folders into tasks, in their order.

    Folders are read and checked; nothing is downloaded yet.

    Args:
        names: a task of mteb ("SciFact"), a benchmark ("BEIR", "MTEB(eng, v2)"), or a folder (see
            `local`).
        split: of the folders.

    Raises:
        BenchmarkError: a name is unknown, a folder is not usable, a task is not about text, or one
            comes twice.
    """
    mteb = need("mteb", "benchmark")
    selected: dict[str, AbsTask] = {}
    for name in map(str, names):
        if expanded(name).is_dir():
            members = [local(name, split)]
        else:
            try:
                members = [mteb.get_task(name)]
            except KeyError as error:
                try:
                    members = list(mteb.get_benchmark(name).tasks)
                except KeyError:
                    raise BenchmarkError(
                        f"no task, benchmark or folder {name!r}: {error}"
                    ) from None
        for task in members:
            if task.metadata.modalities != ["text"]:
                raise BenchmarkError(f"{task.metadata.name} is not about text alone")
            if task.metadata.name in selected:
                raise BenchmarkError(f"task {task.metadata.name!r} comes twice")
            selected[task.metadata.name] = task
    if not selected:
        raise BenchmarkError("no task was named")
    return list(selected.values())


def local(folder: str | Path, split: str = "test") -> AbsTask:
    """Make a task of a folder, of its name. What it holds says which kind of task it is.

    - Retrieval: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, as BEIR has them.
    - Classification: train.jsonl and SPLIT.jsonl of `text` and `label`.
    - Clustering: SPLIT.jsonl of `text` and `label`, no train.jsonl.
    - PairClassification: SPLIT.jsonl of `sentence1`, `sentence2` and a `score` of 0 or 1.
    - STS: the same with other scores.

    Args:
        folder: of files that may be packed (.gz).
        split: which judgments or file to evaluate.

    Raises:
        BenchmarkError: files are missing, cannot be read, or lack a column.
        DataError: a retrieval data set that cannot be read.
    """
    need("mteb", "benchmark")
    folder = expanded(folder).resolve()
    kind, _ = _read(folder, split)
    digest = hashlib.sha256(f"{kind} {split}".encode())  # other data or another use: other results
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return _task(folder, split, kind, digest.hexdigest()[:16])


def _task(folder: Path, split: str, kind: str, revision: str) -> AbsTask:
    from mteb import abstasks
    from mteb.abstasks.task_metadata import TaskMetadata

    class Local(getattr(abstasks, f"AbsTask{kind}")):
        """A folder as a task."""

        metadata = TaskMetadata(
            name=folder.name,
            description=f"The folder {folder.name}, read from this machine.",
            dataset={"path": f"local/{folder.name}", "revision": revision},
            type=kind,
            category="t2c" if kind in ("Classification", "Clustering") else "t2t",
            eval_splits=[split],
            eval_langs=["eng-Latn"],
            main_score=KINDS[kind],
        )
        if kind == "Clustering":
            max_fraction_of_documents_to_embed = None
            max_document_to_embed = _CLUSTERED_TEXTS

        def load_data(self, **_: object) -> None:
            """Read the folder."""
            if not self.data_loaded:
                self.dataset = {"default": _read(folder, split)[1]}
                self.data_loaded = True

    return Local()


def _read(folder: Path, split: str) -> tuple[str, dict]:
    """Return which kind of task a folder is, and its data as mteb wants them."""
    from datasets import Dataset, DatasetDict

    if (folder / "qrels").is_dir():
        collection = data.read_dataset(folder, split)
        ids, texts = list(collection.corpus), list(collection.corpus.values())
        queries = {"id": list(collection.queries), "text": list(collection.queries.values())}
        parts = {
            "corpus": Dataset.from_dict({"id": ids, "title": [""] * len(ids), "text": texts}),
            "queries": Dataset.from_dict(queries),
            "relevant_docs": {query: dict(docs) for query, docs in collection.qrels.items()},
            "top_ranked": None,
        }
        return "Retrieval", {split: parts}
    files = {name: folder / f"{name}.jsonl" for name in ("train", split)}
    for name, path in files.items():
        packed = path.with_name(f"{path.name}.gz")
        files[name] = packed if packed.is_file() else path
    if not files[split].is_file():
        raise BenchmarkError(
            f"{folder} is no task: it has neither corpus.jsonl, queries.jsonl and "
            f"qrels/{split}.tsv nor {split}.jsonl"
        )
    tables, columns, new_names = {split: _table(files[split])}, ["text", "label"], {}
    if "label" not in tables[split]:
        kind, columns = "STS", ["sentence1", "sentence2", "score"]
    elif files["train"].is_file():
        kind, tables["train"] = "Classification", _table(files["train"])
    else:
        kind, new_names = "Clustering", {"text": "sentences", "label": "labels"}
    for name, table in tables.items():
        for column in columns:
            values = table.get(column, pd.Series([None]))
            if values.isna().any() or pd.api.types.infer_dtype(values).startswith("mixed"):
                needed = ", ".join(columns)
                raise BenchmarkError(f"{files[name]}: every line needs {needed}, each of one type")
        tables[name] = table[columns]
    if kind == "STS" and set(tables[split]["score"]) <= {0, 1}:
        kind, new_names = "PairClassification", {"score": "labels"}
        tables[split] = tables[split].astype({"score": int})
    if "label" in columns:
        labels = sorted({label for table in tables.values() for label in table["label"]})
        number = {label: index for index, label in enumerate(labels)}
        for name, table in tables.items():
            tables[name] = table.assign(label=table["label"].map(number))
    for name, table in tables.items():
        tables[name] = Dataset.from_dict(table.rename(columns=new_names).to_dict("list"))
    return kind, DatasetDict(tables)


def _table(path: Path) -> pd.DataFrame:
    """Read a file of JSON lines."""
    try:
        return pd.read_json(path, lines=True, dtype=False, convert_dates=False)
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{path} cannot be read as JSON lines: {error}") from None
