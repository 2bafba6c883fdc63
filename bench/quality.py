"""How good students get for their budget, beside teacher, untrained base and closed-form start. Writes build/quality.json.

    python -m bench.quality DATA [--recipes broad in-domain joint] [--texts 12000]

DATA has `retrieval/` with folders in BEIR's layout and `texts/` with parquet files of other, unlabeled texts. No
judgment and no query of a collection is used in training:

- broad: the tour's recipe on a draw from `texts/`; one student, which has never seen a text of a collection.
- in-domain: a student for each collection, of its documents, without judgments. The teacher has to encode these for
  asymmetric search anyway. Fewer than a thousand are joined by pieces of their sentences as queries.
- joint: the same, one student for all collections.

Targets, checkpoints and finished students are kept: a stopped run goes on with the same command.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from bench.__main__ import machine
from workbench import data, evaluate, models, pipeline, student
from workbench._util import home, write_json
from workbench.cache import TargetCache
from workbench.errors import WorkbenchError
from workbench.models import encode
from workbench.pipeline import IN_DOMAIN, TOUR
from workbench.teachers import LocalTeacher

CURVE_SECONDS = 240  # of training between two points of the curve


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality", description=__doc__.splitlines()[0]
    )
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument(
        "--recipes",
        nargs="+",
        default=["broad", "in-domain"],
        choices=["broad", "in-domain", "joint"],
    )
    parser.add_argument("--collections", nargs="+", metavar="NAME", help="only these")
    parser.add_argument(
        "--texts", type=int, default=12_000, help="texts drawn for the broad student"
    )
    options = parser.parse_args()
    if not (options.data / "retrieval").is_dir():
        print(f"skipped: there are no collections in {options.data / 'retrieval'}", file=sys.stderr)
        return 2
    try:
        measure(options)
    except WorkbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def measure(options: argparse.Namespace) -> None:
    folders = sorted(
        path for path in (options.data / "retrieval").iterdir() if (path / "corpus.jsonl").is_file()
    )
    wanted = options.collections or [folder.name for folder in folders]
    collections = [data.read_dataset(folder) for folder in folders if folder.name in wanted]
    teacher = LocalTeacher(TOUR.teacher, max_length=TOUR.max_length)
    cache = TargetCache(home() / "cache", teacher)
    fill(cache, [t for c in collections for t in c.query_texts() + c.document_texts()])
    base = models.load_model(TOUR.base)
    base.max_seq_length = TOUR.max_length
    rows, training = rows_of("base", collections, cache, base, ["teacher", "base"]), []
    for name in options.recipes:
        # Texts that a student learns from, and the collections that it is measured on.
        if name == "broad":
            jobs = [
                (
                    "broad",
                    TOUR,
                    data.read_texts(options.data / "texts", sample=options.texts),
                    collections,
                )
            ]
        elif name == "joint":
            jobs = [("joint", IN_DOMAIN, in_domain(collections), collections)]
        else:
            jobs = [(f"in-domain-{c.name}", IN_DOMAIN, in_domain([c]), [c]) for c in collections]
        for student_name, recipe, texts, measured_on in jobs:
            start, model, took = trained(student_name, recipe, texts, cache, measured_on)
            training.append({"student": student_name, **took})
            rows += rows_of(f"{name}, closed-form start", measured_on, cache, start)
            rows += rows_of(name, measured_on, cache, model)
    table = pd.DataFrame(rows)
    means = table.groupby(["recipe", "mode"], sort=False)["share_of_teacher"].agg(["mean", "min"])
    report = {
        "machine": machine(),
        "max_length": TOUR.max_length,
        "teacher": TOUR.teacher,
        "base": TOUR.base,
        "training": training,
        "rows": evaluate.as_rows(table),
        "means": evaluate.as_rows(means.reset_index()),
    }
    wide = table.pivot_table(
        index=["recipe", "mode"], columns="collection", values="share_of_teacher", sort=False
    )
    print(wide.assign(mean=wide.mean(axis=1)).map("{:.1%}".format).to_string())
    print(f"written to {write_json(home() / 'quality.json', report)}")


def fill(cache: TargetCache, texts: list) -> dict:
    """Return how many targets were made and how long it took."""
    started = time.perf_counter()
    missing = len(cache.missing(texts))
    cache.embed(texts, progress=True)
    return {
        "texts": len(texts),
        "encoded": missing,
        "seconds": round(time.perf_counter() - started, 1),
    }


def in_domain(collections: list) -> list:
    """Return the documents of collections, and pieces of them where they are few."""
    documents = [t for c in collections for t in c.document_texts() if t.text]
    return documents + data.crop_queries(documents, -(-IN_DOMAIN.texts // len(documents)) - 1)


def trained(name, recipe, texts, cache, collections):
    """Return a closed-form start, its student, and what making them took."""
    folder = home() / "quality" / name
    texts = list({(t.role, t.text): t for t in texts}.values())
    measured, share_of = {"teacher": fill(cache, texts)}, mean_share(collections, cache)
    curve, live = [], []  # the student in training
    started = time.perf_counter()

    def begin(model) -> None:
        measured["start_seconds"] = round(time.perf_counter() - started, 1)
        live.append(model)
        student.save(model, folder / "start")
        curve.append({"seconds": 0.0, "step": 0, "asymmetric": share_of(model)})

    def watch(step) -> None:
        seconds = (
            step.step * recipe.config.batch_size / step.texts_per_second
            if step.texts_per_second
            else 0
        )
        if seconds - curve[-1]["seconds"] > CURVE_SECONDS or step.step == step.steps:
            live[0].eval()
            share = share_of(live[0])
            live[0].train()
            curve.append({"seconds": round(seconds, 1), "step": step.step, "asymmetric": share})
            print(f"after {seconds:.0f} s: {share:.1%} asymmetric in the mean", flush=True)

    train_student = pipeline.training.train_student

    def training(model, *arguments, **options):
        begin(model)
        return train_student(model, *arguments, **options)

    pipeline.training.train_student = training
    held_out, train = texts[::40], [t for i, t in enumerate(texts) if i % 40]
    made = pipeline.run(
        train, cache, recipe, folder / "student", source=name, held_out=held_out, on_step=watch
    )
    pipeline.training.train_student = train_student
    record = folder / "training.json"
    if made.result is not None:
        measured |= {"curve": curve, "config": made.provenance["settings"]}
        measured |= {key: made.provenance[key] for key in ("texts_per_second", "held_out_loss")}
        write_json(record, measured)
    return student.load(folder / "start"), made.student, json.loads(record.read_text())


def mean_share(collections, cache):
    """Return what gives a student's mean over collections of the asymmetric share of the teacher's nDCG@10."""

    def ndcg(collection, queries: np.ndarray, documents: np.ndarray) -> float:
        return evaluate.score(collection, queries, documents)["ndcg_at_10"].mean()

    held = []
    for c in collections:
        documents = np.asarray(cache.targets(c.document_texts()))
        held.append((c, documents, ndcg(c, np.asarray(cache.targets(c.query_texts())), documents)))

    def share_of(model) -> float:
        return round(
            float(
                np.mean(
                    [ndcg(c, encode(model, c.query_texts()), d) / large for c, d, large in held]
                )
            ),
            4,
        )

    return share_of


def rows_of(recipe, collections, cache, model, modes=("symmetric", "asymmetric")) -> list[dict]:
    """Return a row for each collection and mode."""
    rows = []
    name = "base" if "base" in modes else "student"
    for c in collections:
        scored = evaluate.compare({"teacher": cache, name: model}, c)
        for row in scored[scored["mode"].isin(modes)].to_dict("records"):
            rows.append(
                {"collection": c.name, "recipe": "teacher" if row["mode"] == "teacher" else recipe}
                | row
            )
            print(
                f"{recipe}, {c.name}, {row['mode']}: {row['ndcg_at_10']:.4f}, {row['share_of_teacher']:.1%}",
                flush=True,
            )
    return rows


if __name__ == "__main__":
    sys.exit(main())
