"""Commands that measure a student: evaluate, benchmark."""

from __future__ import annotations

import threading
from argparse import Namespace
from pathlib import Path

from sentence_transformers import SentenceTransformer
from tqdm import tqdm

from workbench import data, models, pipeline, quantize, ready, student
from workbench import evaluate as scoring
from workbench._util import counted, home, write_json
from workbench.cache import TargetCache
from workbench.cli.inputs import TeacherChoice
from workbench.data import Role
from workbench.errors import WorkbenchError


def evaluate(options: Namespace, stop: threading.Event) -> None:
    """Compare a student with its teacher on a retrieval data set."""
    dataset = data.read_dataset(options.collection, options.split)
    path = Path(options.json or home() / f"evaluate-{dataset.name}.json")
    if path.is_dir():
        raise WorkbenchError(f"--json {path} is a folder: name a file")
    sides = _Sides(options)
    pipeline.fill(sides.cache, dataset.query_texts() + dataset.document_texts(), stop=stop)
    if stop.is_set():
        return
    compared = {"teacher": sides.cache, "base": sides.base, "student": sides.student}
    compared = {
        name: scoring.vectors(each, dataset, filled=True) for name, each in compared.items()
    }
    rows = scoring.compare(compared, dataset)
    print(
        f"{dataset.name}: {len(dataset.corpus):,} documents, {len(dataset.queries):,} judged queries"
    )
    if options.collection == "tutorial":
        print(
            "Everyday passages: a student of other texts may do worse. Judged texts of your own: --collection FOLDER"
        )
    print()
    print(scoring.format_table(rows))
    for note in rows.attrs["notes"]:
        print(f"note: {note}")
    swept = None
    if options.curves:
        large, small = compared["teacher"], compared["student"]
        own = {"teacher": large, "symmetric": small, "asymmetric": (small[0], large[1])}
        specs = quantize.grid(sides.cache.dimension)
        with tqdm(total=len(own) * len(specs), unit="points", desc="curves", leave=False) as bar:
            swept = quantize.sweep(
                dataset, own, specs, on_progress=lambda done, _: bar.update(done - bar.n)
            )
        print("\nShare of the teacher's nDCG@10 in full, by dimensions and precision\n")
        print(quantize.format_table(swept))
    measured = {"student": options.student, "fingerprint": sides.fingerprint}
    report = scoring.report(dataset, rows, swept, **measured, max_length=sides.max_length)
    print(f"\nwritten to {write_json(path, report)}")


def benchmark(options: Namespace, stop: threading.Event) -> None:
    """Run teacher, base, student and pair on tasks of mteb."""
    from workbench.extras import benchmark as running
    from workbench.extras import benchmark_tables as tables
    from workbench.extras import tasks as known

    folder, path = (
        Path(options.results or home() / "benchmarks"),
        Path(options.json or home() / "benchmark.json"),
    )
    if folder.is_file() or path.is_dir():
        raise WorkbenchError(f"--results must be a folder and --json a file: {folder}, {path}")
    found = known.tasks(options.tasks, options.split)
    sides = _Sides(options)
    large = running.of_teacher(sides.cache, name=models.full_name(sides.cache.teacher.name))
    small = running.of_model(sides.student, "symmetric", Path(options.student).resolve().name)
    entries = [
        large,
        running.of_model(sides.base, "base", models.full_name(sides.base_name)),
        small,
        running.of_pair(small, large),
        *(running.of_model(sides.load(name), models.full_name(name)) for name in options.model),
    ]
    with tqdm(total=len(entries) * len(found), unit=" evaluations") as bar:

        def show(progress: running.EvalProgress) -> None:
            bar.update(progress.done - bar.n)
            if progress.task:
                bar.set_postfix_str(
                    f"{progress.label} on {progress.task}, {counted(progress.texts, 'text')}"
                )

        outcomes = running.run(entries, found, folder, on_progress=show, stop=stop)
    shown, differences, by_kind = (
        f(outcomes) for f in (tables.scores, tables.differences, tables.by_kind)
    )
    print(
        f"\n{shown.round(4).to_string()}\n\n{tables.share_table(differences)}\n\n{by_kind.round(4).to_string()}"
    )
    written = {
        "student": options.student,
        "max_length": sides.max_length,
        "scores": scoring.as_rows(shown.reset_index()),
        "differences": scoring.as_rows(differences),
        "by_kind": scoring.as_rows(by_kind.rename_axis("kind").reset_index()),
    }
    print(f"\nwritten to {write_json(path, written)}; results in mteb's format are in {folder}")


class _Sides:
    """A student with its teacher's cache and its untrained base, all cut to the same number of tokens."""

    def __init__(self, options: Namespace) -> None:
        """Take what options name, and the rest from the student's provenance."""
        choice, folder = (
            TeacherChoice(options),
            ready.READY if options.student == "ready" else options.student,
        )
        if ready.is_ready(folder):
            self.student, made = ready.load_ready(folder), ready.statement(folder)
            self.fingerprint = made["head_sha256"]
        else:
            self.student, made = student.load(folder), student.read_provenance(folder)
            self.fingerprint = models.resolve(folder).fingerprint
        if made.get("rotated"):
            raise WorkbenchError(
                f"{folder} learned a rotated space, in which the teacher's own vectors cannot be compared: compare it in "
                "Python, with the targets rotated alike"
            )
        if not choice.name and made.get("teacher", {}).get("kind"):
            raise WorkbenchError(
                f"{folder} was distilled from vectors alone: name the model that they come from with --teacher"
            )
        self.max_length = choice.max_length or self.student.max_seq_length
        # A student has its teacher's prompts, which a recipe may have chosen.
        prompts = {role: self.student.prompts.get(role) or "" for role in Role} if made else None
        teacher = choice.make(
            choice.name or made.get("teacher_name") or models.MPNET, self.max_length, prompts
        )
        self.cache = TargetCache(choice.cache, teacher, skip=choice.skip)
        if made.get("fingerprint") not in (None, self.cache.identity.get("fingerprint")):
            raise WorkbenchError(
                f"{folder} was distilled from {made['teacher_name']}, not from these weights"
            )
        width = self.student.get_embedding_dimension()
        if width != self.cache.dimension:
            raise WorkbenchError(
                f"{folder} has vectors of {width} dimensions and its teacher of {self.cache.dimension}: it was distilled "
                "from another teacher, or truncated since"
            )
        self._cut(folder, self.student)
        self.base_name = options.base or made.get("base") or models.MINILM
        self.base = self.load(self.base_name)

    def load(self, name: str) -> SentenceTransformer:
        """Load a model, cut to the common length."""
        return self._cut(name, models.load(name))

    def _cut(self, name: str, model: SentenceTransformer) -> SentenceTransformer:
        config = getattr(model.transformers_model, "config", None)
        models.shorten(
            model,
            self.max_length,
            str(name),
            most=getattr(config, "max_position_embeddings", self.max_length),
        )
        return model
