"""Benchmarks by name, and folders on this machine as tasks of the same kind: both run by `mteb`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
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
    kind = _kind(folder, split)
    _read(folder, split, kind)
    digest = hashlib.sha256(f"{kind} {split}".encode())  # other data or another use: other results
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return _task(folder, split, kind, digest.hexdigest()[:16])


def _kind(folder: Path, split: str) -> str:
    if (folder / "qrels").is_dir():
        return "Retrieval"
    path = _file(folder, split)
    if not path.is_file():
        raise BenchmarkError(
            f"{folder} is no task: it has neither corpus.jsonl, queries.jsonl and "
            f"qrels/{split}.tsv nor {split}.jsonl"
        )
    table = _table(path)
    if "label" in table:
        return "Classification" if _file(folder, "train").is_file() else "Clustering"
    binary = "score" in table and set(table["score"]) <= {0, 1}
    return "PairClassification" if binary else "STS"


def _file(folder: Path, name: str) -> Path:
    """Return a file of JSON lines, which may be packed."""
    packed = folder / f"{name}.jsonl.gz"
    return packed if packed.is_file() else folder / f"{name}.jsonl"


def _table(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read a file of JSON lines that has values in all of these columns."""
    try:
        table = pd.read_json(path, lines=True, dtype=False, convert_dates=False)
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{path} cannot be read as JSON lines: {error}") from None
    for column in columns:
        values = table.get(column, pd.Series([None]))
        if values.isna().any() or pd.api.types.infer_dtype(values).startswith("mixed"):
            needed = ", ".join(columns)
            raise BenchmarkError(f"{path}: every line needs {needed}, each of one type")
    return table


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
                self.dataset = {"default": _read(folder, split, kind)}
                self.data_loaded = True

    return Local()


def _read(folder: Path, split: str, kind: str) -> dict:
    """Read a folder as mteb wants the data of this kind of task."""
    from datasets import Dataset, DatasetDict

    if kind == "Retrieval":
        collection = data.read_dataset(folder, split)
        ids, texts = list(collection.corpus), list(collection.corpus.values())
        queries = {"id": list(collection.queries), "text": list(collection.queries.values())}
        return {
            split: {
                "corpus": Dataset.from_dict({"id": ids, "title": [""] * len(ids), "text": texts}),
                "queries": Dataset.from_dict(queries),
                "relevant_docs": {query: dict(docs) for query, docs in collection.qrels.items()},
                "top_ranked": None,
            }
        }
    classes = kind in ("Classification", "Clustering")
    columns = ["text", "label"] if classes else ["sentence1", "sentence2", "score"]
    splits = ["train", split] if kind == "Classification" else [split]
    tables = {name: _table(_file(folder, name), columns)[columns] for name in splits}
    if classes:
        labels = sorted({label for table in tables.values() for label in table["label"]})
        number = {label: index for index, label in enumerate(labels)}
        for table in tables.values():
            table["label"] = table["label"].map(number)
    names = {"text": "sentences", "label": "labels"} if kind == "Clustering" else {}
    if kind == "PairClassification":
        names = {"score": "labels"}
        tables[split]["score"] = tables[split]["score"].astype(int)
    for name, table in tables.items():
        tables[name] = Dataset.from_dict(table.rename(columns=names).to_dict("list"))
    return DatasetDict(tables)
