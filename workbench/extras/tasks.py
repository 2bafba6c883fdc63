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
from workbench.models import file_sha256

if TYPE_CHECKING:
    from mteb import AbsTask

# Kind to the measure that mteb reports of it first.
_KINDS = {
    "Retrieval": "ndcg_at_10",
    "Classification": "accuracy",
    "Clustering": "v_measure",
    "STS": "cosine_spearman",
    "PairClassification": "cosine_ap",  # mteb's own tasks have the best of several distances
}


def tasks(names: Iterable[str | Path], split: str = "test") -> list[AbsTask]:
    """Turn names and folders into tasks, in their order; nothing is downloaded yet.

    Args:
        names: a task or benchmark of mteb ("SciFact", "BEIR"), or a folder, with the files of:

            - Retrieval: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, as BEIR has them.
            - Classification: train.jsonl and SPLIT.jsonl of `text` and `label`.
            - Clustering: SPLIT.jsonl of `text` and `label`, no train.jsonl.
            - STS: SPLIT.jsonl of `sentence1`, `sentence2` and `score`.
            - PairClassification: the same with scores of 0 and 1.
        split: of the folders.
    """
    mteb = need("mteb", "benchmark")
    selected: dict[str, AbsTask] = {}
    for name in map(str, names):
        if expanded(name).is_dir():
            members = [_local(expanded(name).resolve(), split)]
        else:
            try:
                members = [mteb.get_task(name)]
            except KeyError as error:
                try:
                    members = mteb.get_benchmark(name).tasks
                except KeyError:
                    raise BenchmarkError(
                        f"no task, benchmark or folder {name!r}: {error}"
                    ) from None
        for task in members:
            if task.metadata.name in selected:
                raise BenchmarkError(f"task {task.metadata.name!r} comes twice")
            selected[task.metadata.name] = task
    return list(selected.values())


def _local(folder: Path, split: str) -> AbsTask:
    """Make a task of a folder; its revision changes with the files."""
    from mteb import abstasks
    from mteb.abstasks.task_metadata import TaskMetadata

    kind, _ = _read(folder, split)
    digest = hashlib.sha256(f"{kind} {split}".encode())
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.name} {file_sha256(path)}".encode())
    revision = digest.hexdigest()[:16]

    class Local(getattr(abstasks, f"AbsTask{kind}")):
        metadata = TaskMetadata(
            name=folder.name,
            description=f"The folder {folder.name}, read from this machine.",
            dataset={"path": f"local/{folder.name}", "revision": revision},
            type=kind,
            category="t2c" if kind in ("Classification", "Clustering") else "t2t",
            eval_splits=[split],
            eval_langs=["eng-Latn"],
            main_score=_KINDS[kind],
        )
        ignore_identical_ids = True  # BEIR's rule: a query does not find itself
        if kind == "Clustering":
            max_fraction_of_documents_to_embed = None
            max_document_to_embed = 4096  # drawn with mteb's seed

        def load_data(self, **_: object) -> None:
            self.dataset, self.data_loaded = {"default": _read(folder, split)[1]}, True

    return Local()


def _read(folder: Path, split: str) -> tuple[str, dict]:
    """Return which kind of task a folder is, and its data as mteb wants them."""
    from datasets import Dataset

    if (folder / "qrels").is_dir():
        collection = data.read_dataset(folder, split)
        corpus = {"id": list(collection.corpus), "text": list(collection.corpus.values())}
        queries = {"id": list(collection.queries), "text": list(collection.queries.values())}
        parts = {
            "corpus": Dataset.from_dict(corpus | {"title": [""] * len(collection.corpus)}),
            "queries": Dataset.from_dict(queries),
            "relevant_docs": {query: dict(docs) for query, docs in collection.qrels.items()},
            "top_ranked": None,
        }
        return "Retrieval", {split: parts}
    table = _table(folder / f"{split}.jsonl")
    tables, train = {split: table}, folder / "train.jsonl"
    if "score" in table:
        kind = "STS"
        if set(table["score"]) <= {0, 1}:
            kind = "PairClassification"
            tables[split] = table.astype({"score": int}).rename(columns={"score": "labels"})
    else:
        kind = "Classification" if train.is_file() else "Clustering"
        if kind == "Classification":
            tables["train"] = _table(train)
        labels = sorted(pd.concat(tables.values())["label"].unique())
        for name, part in tables.items():
            part = part.assign(label=pd.Categorical(part["label"], labels).codes.astype(int))
            new_names = {"text": "sentences", "label": "labels"} if kind == "Clustering" else {}
            tables[name] = part.rename(columns=new_names)
    parts = tables.items()
    return kind, {name: Dataset.from_pandas(part, preserve_index=False) for name, part in parts}


def _table(path: Path) -> pd.DataFrame:
    """Read JSON lines of `text` and `label`, or of `sentence1`, `sentence2` and `score`."""
    try:
        table = pd.read_json(path, lines=True, dtype=False, convert_dates=False)
        columns = ["text", "label"] if "label" in table else ["sentence1", "sentence2", "score"]
        table = table[columns]
        if table.isna().any(axis=None):
            raise ValueError("a value is missing")
    except (OSError, ValueError, KeyError) as error:
        message = f"{path}: expected text and label, or sentence1, sentence2 and score: {error}"
        raise BenchmarkError(message) from None
    return table
