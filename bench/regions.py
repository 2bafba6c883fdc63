"""Where a student fails on collections that it was not trained on: the map's lines, planted damage, more texts.

    python -m bench.regions TEXTS COLLECTION... [--lesson 1500] [--pool 12000]

TEXTS is what `read_texts` reads; a closed-form student of `--lesson` of its texts is measured. Three tables, each with a
baseline: what a line's length on the map says of lost neighbors, beside a joint UMAP and a shuffled map; how often a
region with damaged vectors comes first; and what 500 texts like the worst region give the student, beside 500 at random
(left out with `--pool 0`). Writes build/regions.json.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from workbench import agreement, data, evaluate, pipeline, projection, ranking, regions, student
from workbench._util import home, unit, write_json
from workbench.cache import TargetCache
from workbench.errors import WorkbenchError
from workbench.models import encode
from workbench.pipeline import TOUR
from workbench.teachers import LocalTeacher

K = 10
MORE = 500


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.regions", description=__doc__.splitlines()[0]
    )
    parser.add_argument("texts", metavar="TEXTS")
    parser.add_argument("collections", nargs="+", type=Path, metavar="COLLECTION")
    parser.add_argument(
        "--lesson", type=int, default=1500, help="texts that the student learns from"
    )
    parser.add_argument(
        "--pool", type=int, default=12_000, help="texts to choose more from; 0 leaves that out"
    )
    options = parser.parse_args()
    try:
        teacher = TargetCache(
            home() / "cache", LocalTeacher(TOUR.teacher, max_length=TOUR.max_length)
        )
        lesson = list(
            pipeline.prepare(data.read_texts(options.texts, sample=options.lesson), TOUR)[0]
        )
        pool = []
        if options.pool:
            known = {text.text for text in lesson}
            pool = [
                t
                for t in data.read_texts(options.texts, sample=options.pool)
                if t.text not in known
            ]
        found = measure(teacher, lesson, pool, options.collections)
    except WorkbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, rows in ((name, rows) for name, rows in found.items() if rows):
        print(f"\n{name}\n{pd.DataFrame(rows).round(3).to_string(index=False)}")
    print(f"written to {write_json(home() / 'regions.json', found)}")
    return 0


def measure(
    teacher: TargetCache, lesson: list, pool: list, collections: list[Path]
) -> dict[str, list[dict]]:
    """Return the rows of the three tables."""
    teacher.embed(lesson, progress=True)
    taught = TOUR.student(teacher)
    student.fit_head(taught, lesson, teacher.targets(lesson))
    base = TargetCache(home() / "cache", LocalTeacher(TOUR.base, max_length=TOUR.max_length))
    found = {"lines": [], "damage": [], "more": []}
    for folder in collections:
        collection = data.read_dataset(folder)
        texts = collection.document_texts() + collection.query_texts()
        teacher.embed([text for text in texts if text.text.strip()], progress=True)
        reference, other = np.asarray(teacher.targets(texts)), encode(taught, texts)
        found["lines"].append(
            {"collection": collection.name, "texts": len(texts)} | lines(reference, other)
        )
        print(found["lines"][-1], flush=True)
        names = regions.find_regions(reference, texts)
        for row in damage(reference, other, names):
            found["damage"].append({"collection": collection.name} | row)
        if pool:
            rows = more(teacher, base, taught, lesson, pool, collection, names, reference, other)
            found["more"] += [{"collection": collection.name} | row for row in rows]
            print(pd.DataFrame(rows).round(3).to_string(), flush=True)
    return found


def lines(reference: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Return the rank correlation of several lengths with the share of neighbors lost."""
    near, own = (ranking.top_k(v, v, K, exclude_self=True)[1] for v in (reference, other))
    lost = 1 - agreement.overlap(near, own)
    both = projection.umap(np.concatenate([reference, other])).points
    laid = projection.umap(reference)
    shuffled = replace(
        laid, points=laid.points[np.random.default_rng(0).permutation(len(laid.points))]
    )

    def length(ends: np.ndarray, starts: np.ndarray) -> float:
        lengths = pd.Series(np.linalg.norm(ends - starts, axis=1))
        return lengths.corr(pd.Series(lost), method="spearman")

    return {
        "joint UMAP": length(both[: len(near)], both[len(near) :]),
        "mean place of its neighbors": length(laid.points[own].mean(axis=1), laid.points),
        "as drawn": length(laid.landed(near, own).landings, laid.points),
        "as drawn, shuffled map": length(shuffled.landed(near, own).landings, shuffled.points),
    }


def damage(reference: np.ndarray, other: np.ndarray, names: np.ndarray) -> list[dict]:
    """Add noise to the vectors of one region at a time; count how often it comes first, and how often another is accused."""
    rng, rows = np.random.default_rng(0), []
    before = agreement.per_text(reference, other, k=0)
    shuffled = [
        before[["cosine"]].sample(frac=1, random_state=i).reset_index(drop=True) for i in range(200)
    ]
    accused = np.mean(
        [(regions.compare_regions(each, names)["cosine_high"] < 0).any() for each in shuffled]
    )
    for noise in (0.2, 0.4, 0.8):
        first = by_change = others = 0
        for name in (every := sorted(set(names))):
            hurt, damaged = names == name, other.copy()
            damaged[hurt] = unit(
                damaged[hurt]
                + noise * rng.standard_normal(damaged[hurt].shape) / other.shape[1] ** 0.5
            )
            after = agreement.per_text(reference, damaged, k=0)
            after["change"] = after["cosine"] - before["cosine"]
            first += regions.compare_regions(after[["cosine"]], names).index[0] == name
            change = pd.DataFrame({"cosine": after["change"]})
            changed = regions.compare_regions(change, names)
            by_change += changed.index[0] == name
            others += (changed["cosine_high"].drop(name) < 0).any()
        shares = {"first": first, "first by change": by_change, "others accused": others}
        rows.append(
            {"noise": noise, "regions": len(every)}
            | {what: n / len(every) for what, n in shares.items()}
        )
        rows[-1]["accused where none is damaged"] = accused
    return rows


def more(teacher, base, taught, lesson, pool, collection, names, reference, other) -> list[dict]:
    """Fit the head anew with 500 more texts, like the worst region or at random."""
    texts, documents = (
        collection.document_texts() + collection.query_texts(),
        len(collection.corpus),
    )
    before = agreement.per_text(reference, other)
    worst = regions.compare_regions(before, names).index[0]
    inside = names == worst
    ideal = evaluate.score(collection, reference[documents:], reference[:documents])[
        "ndcg_at_10"
    ].mean()
    here = [texts[i] for i in np.flatnonzero(inside) if texts[i].text.strip()]
    like = regions.more_like(
        here, pool, MORE, base, avoid=[text for text in texts if text.text.strip()]
    )
    drawn = np.random.default_rng(0).choice(len(pool), min(MORE, len(pool)), replace=False)
    rows = []
    for kind, extra in (("none", []), ("like it", like), ("random", [pool[i] for i in drawn])):
        teacher.fill(extra)
        all_texts = lesson + extra
        student.fit_head(taught, all_texts, teacher.targets(all_texts))
        now = encode(taught, texts)
        after = agreement.per_text(reference, now)
        scores = evaluate.score(collection, now[documents:], reference[:documents])["ndcg_at_10"]
        row = {
            "region": worst,
            "texts": int(inside.sum()),
            "more": kind,
            "asymmetric share": scores.mean() / ideal,
        }
        for measure in ("overlap", "cosine"):
            change = (after[measure] - before[measure]).to_numpy()[inside]
            low, high = evaluate.interval(change)
            row |= {
                measure: after[measure][inside].mean(),
                f"{measure}, the rest": after[measure][~inside].mean(),
            }
            row |= {
                f"{measure} change": change.mean(),
                f"{measure} low": low,
                f"{measure} high": high,
            }
        rows.append(row)
    return rows


if __name__ == "__main__":
    sys.exit(main())
