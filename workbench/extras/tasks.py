"""Benchmarks by name, and folders on this machine as tasks of the same kind: both run by `mteb`."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from workbench import data
from workbench._files import json_objects, member
from workbench._retrieval import files_of
from workbench._util import expanded, nearest, need
from workbench.errors import BenchmarkError

if TYPE_CHECKING:
    from mteb import AbsTask

# Kind to the measure that mteb reports of it first.
KINDS = {
    "Retrieval": "ndcg_at_10",
    "Classification": "accuracy",
    "Clustering": "v_measure",
    "STS": "cosine_spearman",
    "PairClassification": "cosine_ap",  # mteb's own tasks of this kind have the best of several distances
}
_CLUSTERED_TEXTS = 4096  # drawn with mteb's seed from a larger folder


def tasks(names: Iterable[str | Path], split: str = "test") -> list[AbsTask]:
    """Turn names and folders into tasks, in their order; folders are read and checked, nothing is downloaded yet.

    Args:
        names: a task of mteb ("SciFact"), a whole benchmark ("BEIR", "MTEB(eng, v2)"), or a folder (see `local`).
        split: of the folders.

    Raises:
        BenchmarkError: a name is unknown (the message has the nearest), a folder is not usable, a task is not about
            text, or one comes twice.
        DataError: a file has a line that cannot be read.
    """
    mteb = need("mteb", "benchmark")
    known = {task.metadata.name for task in mteb.get_tasks()}
    benchmarks = {benchmark.name: benchmark for benchmark in mteb.get_benchmarks()}
    found: dict[str, AbsTask] = {}
    for name in map(str, names):
        path = expanded(name)
        if not name.strip() or path.is_file():
            what = "a file" if name.strip() else "no name"
            raise BenchmarkError(f"{name!r} is {what}: name a task, a benchmark or a folder")
        if path.is_dir():
            some = [local(path, split)]
        elif name in benchmarks:
            some = list(benchmarks[name].tasks)
        elif name in known:
            some = [mteb.get_task(name)]
        else:
            near = nearest(name, known | set(benchmarks))
            kind = "folder" if os.sep in name else "task, benchmark or folder"
            hint = (
                f"; the nearest {'names are' if len(near) > 1 else 'name is'} {', '.join(near)}"
                if near
                else ""
            )
            raise BenchmarkError(f"there is no {kind} {name!r}{hint}")
        for task in some:
            if task.metadata.modalities != ["text"]:
                about = ", ".join(task.metadata.modalities)
                raise BenchmarkError(f"{task.metadata.name} is about {about}, not text alone")
            if task.metadata.name in found:
                raise BenchmarkError(
                    f"task {task.metadata.name!r} comes twice: name it once, or rename a folder"
                )
            found[task.metadata.name] = task
    if not found:
        raise BenchmarkError("no task was named")
    return list(found.values())


def local(folder: str | Path, split: str = "test", kind: str | None = None) -> AbsTask:
    """Make a task of a folder; its name becomes the task's name.

    What the folder holds says which kind of task it is:

    - Retrieval: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, as BEIR has them.
    - Classification: train.jsonl and SPLIT.jsonl of `text` and `label`.
    - Clustering: SPLIT.jsonl of `text` and `label`, no train.jsonl.
    - PairClassification: SPLIT.jsonl of `sentence1`, `sentence2` and a `score` of 0 or 1.
    - STS: the same with other scores.

    Args:
        folder: read once to be checked, and again when the task runs.
        split: which judgments or file to evaluate.
        kind: one of `KINDS`, if the folder's own is not wanted.

    Raises:
        BenchmarkError: files are missing or of no kind, or there is nothing to tell apart: a single class or pair, or
            scores that are all the same.
        DataError: a file has a line that cannot be read.
    """
    need("mteb", "benchmark")
    folder = expanded(folder).resolve()
    own = _kind(folder, split)
    kind = kind or own
    if kind not in KINDS:
        raise BenchmarkError(f"kind {kind!r}: it must be one of {', '.join(KINDS)}")
    if {own, kind} not in ({kind}, {"STS", "PairClassification"}, {"Classification", "Clustering"}):
        raise BenchmarkError(f"{folder.name} is a folder for {own}, not for {kind}")
    files = _files(folder, kind, split)
    if missing := [str(path) for path in files if not path.is_file()]:
        raise BenchmarkError(f"{folder.name}: {', '.join(missing)} is missing, which {kind} needs")
    if folder.name == "model_meta" or folder.name.endswith(".units"):
        raise BenchmarkError(
            f"{folder}: result files of that name have another meaning, rename the folder"
        )
    _read(folder, split, kind)
    digest = hashlib.sha256(f"{kind} {split}".encode())  # other data or another use: other results
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return _task(folder, split, kind, digest.hexdigest()[:16])


def _kind(folder: Path, split: str) -> str:
    if not folder.is_dir():
        raise BenchmarkError(f"there is no folder {folder}")
    if (folder / "qrels").exists() or any(
        path.exists() for path in _files(folder, "Retrieval", split)
    ):
        return "Retrieval"
    path, *_ = _files(folder, "Clustering", split)
    if not path.is_file():
        held = ", ".join(sorted(each.name for each in folder.iterdir())[:8]) or "nothing"
        raise BenchmarkError(
            f"{folder} is no task: neither corpus.jsonl, queries.jsonl and qrels/{split}.tsv nor {split}.jsonl is "
            f"there (it holds {held})"
        )
    columns = set(next(json_objects(path))[1])
    if {"text", "label"} <= columns:
        return "Classification" if member(folder, "train.jsonl").is_file() else "Clustering"
    if {"sentence1", "sentence2", "score"} <= columns:
        return "PairClassification" if set(_scores(path, "STS")) <= {0, 1} else "STS"
    raise BenchmarkError(
        f"{path}: its lines need text and label, or sentence1, sentence2 and score; they have "
        f"{', '.join(sorted(map(str, columns)))}"
    )


def _files(folder: Path, kind: str, split: str) -> list[Path]:
    if kind == "Retrieval":
        return files_of(folder, split)
    return [member(folder, f"{name}.jsonl") for name in _splits(kind, split)]


def _splits(kind: str, split: str) -> tuple[str, ...]:
    return ("train", split) if kind == "Classification" else (split,)


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
            category="t2t" if kind in ("Retrieval", "STS", "PairClassification") else "t2c",
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
    from datasets import Dataset, DatasetDict

    if kind == "Retrieval":
        collection = data.read_dataset(folder, split)
        ids, texts = list(collection.corpus), list(collection.corpus.values())
        queries = {"id": list(collection.queries), "text": list(collection.queries.values())}
        return {
            split: {
                "corpus": Dataset.from_dict({"id": ids, "title": [""] * len(ids), "text": texts}),
                "queries": Dataset.from_dict(queries),
                "relevant_docs": {
                    query: dict(grades) for query, grades in collection.qrels.items()
                },
                "top_ranked": None,
            }
        }
    paths = dict(zip(_splits(kind, split), _files(folder, kind, split), strict=True))
    if kind in ("Classification", "Clustering"):
        labels = {name: _column(path, "label") for name, path in paths.items()}
        every = [each for some in labels.values() for each in some]
        if {type(each) for each in every} not in ({str}, {int}):
            raise BenchmarkError(f"{folder.name}: labels must be all strings or all whole numbers")
        for name, some in labels.items():
            if len(set(some)) < 2:
                raise BenchmarkError(
                    f"{paths[name]}: all texts have the label {some[0]!r}, at least two are needed"
                )
        number = {label: index for index, label in enumerate(sorted(set(every)))}
        text, label = ("text", "label") if kind == "Classification" else ("sentences", "labels")
        columns = {
            name: {
                text: _column(path, "text", data.text_problem),
                label: [number[each] for each in labels[name]],
            }
            for name, path in paths.items()
        }
    else:
        scores = _scores(paths[split], kind)
        if len(set(scores)) < 2:
            raise BenchmarkError(
                f"{paths[split]}: all pairs have the same score, so there is nothing to tell apart"
            )
        pairs = {
            name: _column(paths[split], name, data.text_problem)
            for name in ("sentence1", "sentence2")
        }
        columns = {split: pairs | {"score" if kind == "STS" else "labels": scores}}
    return DatasetDict({name: Dataset.from_dict(each) for name, each in columns.items()})


def _column(
    path: Path, name: str, problem: Callable[[object], str | None] = lambda _: None
) -> list:
    """Return a column of a file; `problem` says what is wrong with a value."""
    values = []
    for where, row in json_objects(path):
        if (value := row.get(name)) is None:
            raise BenchmarkError(f"{where}: no {name!r}")
        if said := problem(value):
            raise BenchmarkError(f"{where}: the {name} {said}")
        values.append(value)
    return values


def _scores(path: Path, kind: str) -> list:
    def problem(value: object) -> str | None:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            return f"is {value!r}, not a number"
        return (
            f"is {value!r}, not 0 or 1"
            if kind == "PairClassification" and value not in (0, 1)
            else None
        )

    return [
        int(value) if kind == "PairClassification" else float(value)
        for value in _column(path, "score", problem)
    ]
