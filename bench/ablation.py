"""Which of our additions to the paper's recipe help? One row a variant, trained on the same texts. Writes build/ablation.json.

    python -m bench.ablation TEXTS COLLECTION... [--sample 4000] [--passes 1]

TEXTS is a folder of parquet or JSON-lines files, COLLECTION a folder in BEIR's layout. All variants read the same
texts equally often; what differs is the start of the head, the batches, the arithmetic, the learning rate and what is
trained.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from bench.__main__ import machine
from bench.quality import fill, mean_share
from workbench import data, evaluate, student
from workbench._util import PROJECT, home, write_json
from workbench.cache import TargetCache
from workbench.errors import WorkbenchError
from workbench.pipeline import TOUR, Recipe, find_recipe
from workbench.teachers import LocalTeacher
from workbench.train import train_student, validate

# The paper's recipe with the tour's teacher, base and length, so that it runs on two cores.
PAPER = replace(
    find_recipe(PROJECT / "recipes" / "redact-ir.toml"),
    name="as in the paper",
    teacher=TOUR.teacher,
    prompts=None,
    max_length=TOUR.max_length,
)


def variants() -> list[tuple[Recipe, bool]]:
    """Return recipes, each with whether the transformer is frozen."""

    start = PAPER.change(name="+ closed-form start", start="closed-form")
    buckets = start.change(name="+ batches of like lengths", group_by_length=True)
    fast = buckets.change(name="+ bfloat16", precision="auto")
    tour = fast.change(name="+ the tour's rate and batches", learning_rate=3e-4, batch_size=16)
    low = fast.change(
        name="+ bfloat16, a tenth of the rate", learning_rate=1e-5, final_learning_rate=1e-6
    )
    head = fast.change(name="+ bfloat16, transformer frozen")
    return [(recipe, recipe is head) for recipe in (PAPER, start, buckets, fast, tour, low, head)]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.ablation", description=__doc__.splitlines()[0]
    )
    parser.add_argument("texts", type=Path, metavar="TEXTS")
    parser.add_argument("collections", nargs="+", type=Path, metavar="COLLECTION")
    parser.add_argument("--sample", type=int, default=4000)
    parser.add_argument("--passes", type=int, default=1)
    options = parser.parse_args()
    try:
        rows = measure(options)
    except WorkbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    table = pd.DataFrame(rows)
    report = {"machine": machine(), "sample": options.sample, "passes": options.passes}
    path = write_json(home() / "ablation.json", report | {"rows": evaluate.as_rows(table)})
    print(f"{table.round(4).to_string(index=False)}\nwritten to {path}")
    return 0


def measure(options: argparse.Namespace) -> list[dict]:
    texts = data.read_texts(options.texts, sample=options.sample)
    collections = [data.read_dataset(folder) for folder in options.collections]
    teacher = LocalTeacher(PAPER.teacher, max_length=PAPER.max_length)
    cache = TargetCache(home() / "cache", teacher)
    fill(cache, texts + [t for c in collections for t in c.query_texts() + c.document_texts()])
    held_out, train = texts[::20], [t for i, t in enumerate(texts) if i % 20]
    targets, wanted = cache.targets(train), cache.targets(held_out)
    share_of, rows = mean_share(collections, cache), []
    for recipe, frozen in variants():
        model = recipe.student(cache)
        started = time.perf_counter()
        if recipe.start == "closed-form":
            student.fit_head(model, train, targets)
        start_seconds = time.perf_counter() - started
        if recipe is not PAPER and not any(
            row["variant"] == "closed-form start alone" for row in rows
        ):
            rows.append(
                row_of(
                    "closed-form start alone",
                    model,
                    held_out,
                    wanted,
                    share_of,
                    start_seconds,
                    np.nan,
                )
            )
        model[0].requires_grad_(not frozen)
        config = recipe.change(epochs=options.passes, restarts=1, evaluations=1).config
        started = time.perf_counter()
        speed = train_student(model, train, targets, config).texts_per_second
        seconds = start_seconds + time.perf_counter() - started
        rows.append(row_of(recipe.name, model, held_out, wanted, share_of, seconds, speed))
    return rows


def row_of(name, model, held_out, wanted, share_of, seconds, speed) -> dict:
    row = {"variant": name, "seconds": round(seconds, 1), "texts_per_second": round(speed, 1)}
    row |= {
        "held_out_loss": validate(model, held_out, wanted)["loss"],
        "asymmetric_share": share_of(model),
    }
    print(row, flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main())
