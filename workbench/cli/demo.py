"""The main job once through: real texts, real models, a table at the end."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from dataclasses import asdict
from pathlib import Path

from workbench import data, evaluate, models, student
from workbench._progress import CacheBar, TrainingBar
from workbench._util import duration, home, write_json
from workbench.cache import TargetCache
from workbench.data import Role, Text
from workbench.docstrings import docstring_corpus
from workbench.errors import TrainingError
from workbench.pipeline import TOUR, TOUR_DOCUMENTS, Recipe
from workbench.teachers import LocalTeacher
from workbench.train import provenance, train_student


def tour_texts() -> tuple[list[Text], data.RetrievalDataset]:
    """Return the tour's training texts (every query, some documents) and its held-out collection."""
    corpus = docstring_corpus()
    queries = [text for text in corpus.train if text.role is Role.QUERY]
    documents = [text for text in corpus.train if text.role is Role.DOCUMENT]
    return queries + documents[:TOUR_DOCUMENTS], corpus.held_out


def run(
    recipe: Recipe = TOUR, folder: Path | None = None, stop: threading.Event | None = None, fresh: bool = False
) -> Path:
    """Distill the tour's student and compare it; return the path of the JSON report.

    Whatever an earlier run finished (targets, checkpoints, the student) is used again.

    Args:
        recipe: what to distill.
        folder: where the student goes; `demo/` in the workbench's folder if None.
        stop: when set, the run ends at the next safe point and can be taken up again.
        fresh: train anew even if a finished student or a checkpoint is there.

    Raises:
        TrainingError: it was stopped.
    """
    started = time.perf_counter()
    folder = folder or home() / "demo"
    print("Reading docstrings of the installed libraries ...", flush=True)
    texts, held_out = tour_texts()
    evaluated = held_out.query_texts() + held_out.document_texts()
    print(f"{len(texts):,} texts to learn from, {len(held_out.queries):,} pairs held out to measure on.")

    teacher = LocalTeacher(recipe.teacher, max_length=recipe.max_length)
    cache = TargetCache(home() / "cache", teacher)
    with CacheBar("teacher") as bar:
        cache.fill(texts + evaluated, on_plan=bar.plan, on_progress=bar.progress, stop=stop)
    _stop_here(stop)

    model, start, trained = _student(recipe, folder, cache, texts, evaluated, stop, fresh)
    base = models.load(recipe.base)
    base.max_seq_length = recipe.max_length
    print(f"Searching {len(held_out.corpus):,} documents with {len(held_out.queries):,} queries ...", flush=True)
    compared = {"teacher": cache, "base": base, "student": model, "closed-form start": start}
    shown = evaluate.compare(compared, held_out)
    closed_form = shown["model"] == "closed-form start"
    seconds = time.perf_counter() - started
    print(f"\nHeld-out docstrings: find the text that a summary was taken from ({recipe.name}).\n")
    print(evaluate.format_table(shown))
    report = write_json(
        home() / "demo.json",
        {
            "rows": evaluate.as_rows(shown[~closed_form]),
            "closed_form_rows": evaluate.as_rows(shown[closed_form]),
            "training": trained,
            "recipe": recipe.as_dict(),
            "texts": len(texts),
            "held_out_pairs": len(held_out.queries),
            "seconds": round(seconds, 1),
        },
    )
    print(f"\nDone in {duration(seconds)}. The student is in {folder / 'student'}, the table in {report}.")
    return report


def _student(recipe, folder, cache, texts, evaluated, stop, fresh):
    """Return the trained student, its closed-form start, and what training measured."""
    identity = {
        "recipe": recipe.as_dict(),
        "cache": cache.identity,
        "texts": hashlib.sha256(cache.keys(texts + evaluated).tobytes()).hexdigest(),
    }
    identity = json.loads(json.dumps(identity))
    finished = folder / "run.json"
    if not fresh and finished.is_file():
        done = json.loads(finished.read_text())
        if done["identity"] == identity:
            print(f"The student in {folder / 'student'} is of this very run: using it again.")
            return student.load(folder / "student"), student.load(folder / "closed-form"), done["training"]
    config = recipe.config.with_steps(recipe.steps, len(texts))
    targets, wanted = cache.targets(texts), cache.targets(evaluated)
    model = recipe.student(cache)
    print("Solving for the head in closed form ...", flush=True)
    warm = student.fit_head(model, texts, targets)
    student.save(model, folder / "closed-form")
    print(f"Closed-form start: held-out loss {warm.held_out_loss:.4f}. Now training.", flush=True)
    with TrainingBar() as bar:
        result = train_student(
            model,
            texts,
            targets,
            config,
            held_out=(evaluated, wanted),
            checkpoints=folder / "checkpoints",
            resume=not fresh,
            on_step=bar,
            stop=stop,
        )
    if result.stopped:
        _stop_here(stop)
    evaluations = result.history.dropna(subset=["held_out_loss"])
    measured = {
        "fit_head": asdict(warm),
        "best_step": result.best_step,
        "held_out_loss": result.best_loss,
        "texts_per_second": round(result.texts_per_second, 1),
        "evaluations": json.loads(evaluations.to_json(orient="records")),
    }
    made = {"teacher": recipe.teacher, "base": recipe.base, "source": "docstrings"}
    about = provenance(cache, texts, **made, config=config, result=result)
    student.save(model, folder / "student", about)
    write_json(finished, {"identity": identity, "training": measured})
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return model, student.load(folder / "closed-form"), measured


def _stop_here(stop: threading.Event | None) -> None:
    if stop is not None and stop.is_set():
        raise TrainingError("stopped; what is finished is kept, and the same command goes on from here")
