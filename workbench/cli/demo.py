"""The main job once through: real texts, real models, a table at the end."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from workbench import data, evaluate, models, pipeline, student
from workbench._util import duration, home, write_json
from workbench.cache import TargetCache
from workbench.data import Role, Text
from workbench.docstrings import docstring_corpus
from workbench.errors import TrainingError
from workbench.pipeline import TOUR, TOUR_DOCUMENTS, Recipe

_MEASURED = ("head_fit", "best_step", "held_out_loss", "texts_per_second", "evaluations")


def tour_texts() -> tuple[list[Text], data.RetrievalDataset]:
    """Return the tour's training texts (every query, some documents) and its held-out data set."""
    corpus = docstring_corpus()
    queries = [text for text in corpus.train if text.role is Role.QUERY]
    documents = [text for text in corpus.train if text.role is Role.DOCUMENT]
    return queries + documents[:TOUR_DOCUMENTS], corpus.held_out


def run(
    recipe: Recipe = TOUR, folder: Path | None = None, stop: threading.Event | None = None, fresh: bool = False
) -> Path:
    """Distill the tour's student and compare it; return the path of the JSON report.

    What an earlier run finished (targets, checkpoints, the student) is used again.

    Args:
        recipe: what to distill.
        folder: where the student goes; `demo/` in the workbench's folder if None.
        stop: when set, the run ends at the next safe point and can be continued.
        fresh: train again even if a finished student or a checkpoint exists.

    Raises:
        TrainingError: it was stopped.
    """
    started = time.perf_counter()
    folder = folder or home() / "demo"
    print("Reading docstrings of the installed libraries ...", flush=True)
    texts, held_out = tour_texts()
    evaluated = held_out.query_texts() + held_out.document_texts()
    print(f"{len(texts):,} texts to learn from, {len(held_out.queries):,} pairs held out to measure on.")

    cache = TargetCache(home() / "cache", pipeline.teacher_of(None, recipe))
    made = pipeline.run(
        texts,
        cache,
        recipe,
        folder / "student",
        source="docstrings",
        held_out=evaluated,
        start_output=folder / "closed-form",
        resume=not fresh,
        stop=stop,
    )
    if made.result is None:
        print(f"The student in {made.folder} is of this very run: using it again.")
    elif made.result.stopped:
        raise TrainingError("stopped; what is finished is kept, and the same command goes on from here")
    base = models.load(recipe.base)
    base.max_seq_length = recipe.max_length
    print(f"Searching {len(held_out.corpus):,} documents with {len(held_out.queries):,} queries ...", flush=True)
    start = student.load(folder / "closed-form")
    shown = evaluate.compare(
        {"teacher": cache, "base": base, "student": made.student, "closed-form start": start}, held_out
    )
    closed_form = shown["model"] == "closed-form start"
    seconds = time.perf_counter() - started
    print(f"\nHeld-out docstrings: find the text that a summary was taken from ({recipe.name}).\n")
    print(evaluate.format_table(shown))
    report = write_json(
        home() / "demo.json",
        {
            "rows": evaluate.as_rows(shown[~closed_form]),
            "closed_form_rows": evaluate.as_rows(shown[closed_form]),
            "training": {name: made.provenance[name] for name in _MEASURED},
            "recipe": recipe.as_dict(),
            "texts": len(texts),
            "held_out_pairs": len(held_out.queries),
            "seconds": round(seconds, 1),
        },
    )
    print(f"\nDone in {duration(seconds)}. The student is in {made.folder}, the table in {report}.")
    return report
