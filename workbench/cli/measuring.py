"""Commands that measure a student: evaluate, benchmark."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workbench._util import home, write_json
from workbench.cli.inputs import TeacherChoice
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from workbench.cache import TargetCache


def evaluate(
    *,
    choice: TeacherChoice,
    student: str,
    collection: str,
    split: str,
    base: str | None,
    curves: bool,
    json: str | None,
    stop: threading.Event,
) -> None:
    """Compare a student with its teacher on a retrieval data set."""
    from tqdm import tqdm

    from workbench import data, models, pipeline, quantize
    from workbench import evaluate as scoring

    dataset = data.read_dataset(collection, split)
    path = Path(json or home() / f"evaluate-{dataset.name}.json")
    if path.is_dir():
        raise WorkbenchError(f"--json {path} is a folder: name a file")
    sides = _Sides.of(student, choice, base)
    cache = sides.cache
    pipeline.fill(cache, dataset.query_texts() + dataset.document_texts(), stop=stop)
    if stop.is_set():
        return
    compared = {"teacher": cache, "base": sides.base, "student": sides.student}
    compared = {name: scoring.vectors(each, dataset) for name, each in compared.items()}
    rows = scoring.compare(compared, dataset)
    print(f"{dataset.name}: {len(dataset.corpus):,} documents, {len(dataset.queries):,} judged queries\n")
    print(scoring.format_table(rows))
    swept = None
    if curves:
        large, small = compared["teacher"], compared["student"]
        own = {"teacher": large, "symmetric": small, "asymmetric": (small[0], large[1])}
        specs = quantize.grid(cache.dimension)
        with tqdm(total=len(own) * len(specs), unit="points", desc="curves", leave=False) as bar:
            swept = quantize.sweep(dataset, own, specs, on_progress=lambda done, _: bar.update(done - bar.n))
        print("\nShare of the teacher's nDCG@10 in full, by dimensions and precision\n")
        print(quantize.format_table(swept))
    measured = {"student": student, "fingerprint": models.resolve(student).fingerprint, "max_length": sides.max_length}
    print(f"\nwritten to {write_json(path, scoring.report(dataset, rows, swept, **measured))}")


def benchmark(
    *,
    choice: TeacherChoice,
    student: str,
    tasks: list[str],
    split: str,
    base: str | None,
    model: list[str],
    results: str | None,
    json: str | None,
    stop: threading.Event,
) -> None:
    """Run teacher, base, student and pair on tasks of mteb."""
    from tqdm import tqdm

    from workbench import evaluate as scoring
    from workbench import models
    from workbench.extras import benchmark as running
    from workbench.extras import benchmark_tables as tables
    from workbench.extras import tasks as known

    folder, report = Path(results or home() / "benchmarks"), Path(json or home() / "benchmark.json")
    if folder.is_file() or report.is_dir():
        raise WorkbenchError(f"--results must be a folder and --json a file: {folder}, {report}")
    found = known.tasks(tasks, split)
    sides = _Sides.of(student, choice, base)
    others = [(models.full_name(name), sides.check_length(name, models.load(name))) for name in model]
    large = running.of_teacher(sides.cache, name=models.full_name(sides.cache.teacher.name))
    small = running.of_model(sides.student, "symmetric", Path(student).resolve().name)
    entries = [
        large,
        running.of_model(sides.base, "base", models.full_name(sides.base_name)),
        small,
        running.of_pair(small, large),
        *(running.of_model(other, name) for name, other in others),
    ]
    with tqdm(total=len(entries) * len(found), unit=" evaluations") as bar:

        def show(progress: running.EvalProgress) -> None:
            bar.update(progress.done - bar.n)
            if progress.task:
                bar.set_postfix_str(f"{progress.label} on {progress.task}, {progress.texts:,} texts")

        outcomes = running.run(entries, found, folder, on_progress=show, stop=stop)
    shown = tables.scores(outcomes)
    differences, by_kind = tables.differences(outcomes), tables.by_kind(outcomes)
    print(f"\n{shown.round(4).to_string()}\n\n{tables.share_table(differences)}\n")
    print(by_kind.round(4).to_string())
    written = {
        "student": student,
        "max_length": sides.max_length,
        "scores": scoring.as_rows(shown.reset_index()),
        "differences": scoring.as_rows(differences),
        "by_kind": scoring.as_rows(by_kind.rename_axis("kind").reset_index()),
    }
    print(f"\nwritten to {write_json(report, written)}; results in mteb's format are in {folder}")


@dataclass(frozen=True)
class _Sides:
    """A student with its teacher and untrained base, all cut to the same number of tokens."""

    student: SentenceTransformer
    base: SentenceTransformer
    base_name: str
    cache: TargetCache
    max_length: int

    @classmethod
    def of(cls, folder: str, choice: TeacherChoice, base: str | None) -> _Sides:
        """Take what options name, and the rest from the student's provenance."""
        from workbench import models
        from workbench import student as students
        from workbench.cache import TargetCache
        from workbench.data import Role

        model, made = students.load(folder), students.read_provenance(folder)
        if made.get("rotated"):
            raise WorkbenchError(
                f"{folder} learned a rotated space, in which the teacher's own vectors cannot be compared: compare it in "
                "Python, with the targets rotated alike"
            )
        if not choice.name and made.get("teacher", {}).get("kind"):
            raise WorkbenchError(
                f"{folder} was distilled from vectors alone: name the model that they come from with --teacher"
            )
        length = choice.max_length or model.max_seq_length
        # A student has its teacher's prompts, which a recipe may have chosen.
        prompts = {role: model.prompts.get(role) or "" for role in Role} if made else None
        name = choice.name or made.get("teacher_name") or models.MPNET
        cache = TargetCache(choice.cache, choice.make(name, length, prompts))
        if made.get("fingerprint") not in (None, cache.identity.get("fingerprint")):
            raise WorkbenchError(f"{folder} was distilled from {made['teacher_name']}, not from these weights")
        if model.get_embedding_dimension() != cache.dimension:
            raise WorkbenchError(
                f"{folder} has vectors of {model.get_embedding_dimension()} dimensions and its teacher of "
                f"{cache.dimension}: it was distilled from another teacher, or truncated since"
            )
        base = base or made.get("base") or models.MINILM
        sides = cls(model, models.load(base), base, cache, length)
        sides.check_length(folder, model)
        sides.check_length(base, sides.base)
        return sides

    def check_length(self, name: str, model: SentenceTransformer) -> SentenceTransformer:
        """Cut a model's input to the common length and return it, or say that it does not take so many tokens."""
        positions = getattr(model[0].model.config, "max_position_embeddings", self.max_length)
        if self.max_length > positions:
            raise WorkbenchError(f"--max-length {self.max_length}: {name} takes at most {positions} tokens")
        model.max_seq_length = self.max_length
        return model
