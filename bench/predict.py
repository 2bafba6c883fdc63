"""Which agreement measures, taken without a judgment, predict what a student loses in retrieval?

    python -m bench.predict COLLECTION... --student demo=build/demo/student --student own=students/{collection}

A collection is a folder in BEIR's layout; `{collection}` in a student's folder stands for its name, and a
student that is not there is left out. A closed-form start of the collection's own documents is always among
the students. Writes build/predict.json and prints two tables.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from workbench import agreement, data, evaluate, student
from workbench._util import home, write_json
from workbench.cache import TargetCache
from workbench.data import RetrievalDataset
from workbench.errors import WorkbenchError
from workbench.pipeline import TOUR
from workbench.teachers import LocalTeacher

MODES = ("symmetric", "asymmetric")
# 1 where a higher value should mean a smaller loss, -1 where a lower one should.
WHOLE = {
    "document_cosine": 1, "document_overlap": 1, "document_cka": 1, "document_rank_correlation": 1,
    "document_relative_distance": -1, "document_procrustes": -1, "document_centroid_shift": -1,
    "document_effective_rank_student": 1,
    "query_cosine": 1, "query_centroid_shift": -1,
    "query_overlap_symmetric": 1, "query_nearest_rank_symmetric": -1,
    "query_overlap_asymmetric": 1, "query_nearest_rank_asymmetric": -1,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.predict", description=__doc__.splitlines()[0]
    )
    parser.add_argument("collections", nargs="+", type=Path, metavar="COLLECTION")
    parser.add_argument("--student", action="append", default=[], metavar="NAME=FOLDER")
    options = parser.parse_args()
    if not all("=" in named for named in options.student):
        parser.error("name each student: --student NAME=FOLDER")
    named = dict(student.split("=", 1) for student in options.student)
    try:
        cache = TargetCache(
            home() / "cache", LocalTeacher(TOUR.teacher, max_length=TOUR.max_length)
        )
        points, queries = [], []
        for folder in options.collections:
            for point, each in measured(folder, cache, named):
                points.append(point)
                queries.append(each)
                losses = ", ".join(f"{mode} loses {point[f'loss_{mode}']:.1%}" for mode in MODES)
                print(f"{point['collection']}, {point['student']}: {losses}", flush=True)
    except WorkbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    whole, single = predict(pd.DataFrame(points)), predict_queries(queries)
    found = {"points": pd.DataFrame(points)}
    found |= {
        "whole": whole.reset_index(names="measure"),
        "queries": single.reset_index(names="measure"),
    }
    path = write_json(
        home() / "predict.json", {name: evaluate.as_rows(table) for name, table in found.items()}
    )
    print(
        f"\n{len(points)} students on {len(options.collections)} collections\n{whole.round(2).to_string()}"
    )
    print(
        f"\nper query, mean of the rank correlations within each point\n{single.round(2).to_string()}"
    )
    print(f"written to {path}")
    return 0


def measured(folder: Path, cache: TargetCache, named: dict[str, str]):
    """Yield measures and losses of each student, and the same query by query."""
    collection = data.read_dataset(folder)
    documents = collection.document_texts()
    cache.embed(collection.query_texts() + documents, progress=True)
    target, start = evaluate.vectors(cache, collection), TOUR.student(cache)
    student.fit_head(start, documents, cache.targets(documents))
    models = {"own closed form": start}
    for name, path in named.items():
        path = Path(path.format(collection=folder.name))
        if path.is_dir():
            models[name] = student.load(path)
    for name, model in models.items():
        yield point(collection, folder.name, name, target, evaluate.vectors(model, collection))


def point(
    collection: RetrievalDataset, where: str, name: str, target: tuple, vectors: tuple
) -> tuple[dict, pd.DataFrame]:
    """Measure one student on one collection."""
    sides = {"teacher": target, "symmetric": vectors, "asymmetric": (vectors[0], target[1])}
    scores = {mode: evaluate.score(collection, *pair) for mode, pair in sides.items()}
    mean = {mode: table["ndcg_at_10"].mean() for mode, table in scores.items()}
    found = {"collection": where, "student": name, "queries": len(scores["teacher"])}
    found |= {f"loss_{mode}": 1 - mean[mode] / mean["teacher"] for mode in MODES}
    whole = agreement.summary(target[1], vectors[1])["value"]
    whole["relative_distance"] = relative_distance(target[1], vectors[1])
    whole["procrustes"] = procrustes(target[1], vectors[1])
    found |= {f"document_{measure}": whole[measure] for measure in whole.index}
    found["document_centroid_shift"] = centroid_shift(target[1], vectors[1])
    found["document_effective_rank_student"] = effective_rank(vectors[1])
    each = pd.DataFrame(index=list(collection.queries))
    for mode, among in zip(MODES, ((target[1], vectors[1]), (target[1], target[1])), strict=True):
        near = agreement.per_text(target[0], vectors[0], among=among)
        each["cosine"] = near["cosine"].to_numpy()
        each[f"overlap_{mode}"] = near["overlap"].to_numpy()
        each[f"nearest_rank_{mode}"] = near["nearest_rank"].to_numpy()
        each[f"loss_{mode}"] = scores["teacher"]["ndcg_at_10"] - scores[mode]["ndcg_at_10"]
        found[f"query_overlap_{mode}"] = near["overlap"].mean()
        # A median is 1 for every good student, so the mean of logarithms.
        found[f"query_nearest_rank_{mode}"] = np.exp(np.log(near["nearest_rank"]).mean())
    found["query_cosine"] = each["cosine"].mean()
    found["query_centroid_shift"] = centroid_shift(target[0], vectors[0])
    return found, each.dropna()


def relative_distance(teacher: np.ndarray, student: np.ndarray) -> float:
    """Sum of squared distances over that of the teacher's squared norms; NaN if widths differ."""
    if teacher.shape[1] != student.shape[1]:
        return np.nan
    return float(((teacher - student) ** 2).sum() / (teacher**2).sum())


def procrustes(teacher: np.ndarray, student: np.ndarray) -> float:
    """Return the distance of half of the texts after an orthogonal map fitted on the others."""
    from scipy.linalg import orthogonal_procrustes

    width = max(teacher.shape[1], student.shape[1])
    if len(teacher) < 4 * width:  # some rotation always fits as many texts as dimensions
        return np.nan
    teacher = np.pad(teacher, ((0, 0), (0, width - teacher.shape[1])))
    student = np.pad(student, ((0, 0), (0, width - student.shape[1])))
    fit, judge = np.array_split(np.random.default_rng(0).permutation(len(teacher)), 2)
    rotation, _ = orthogonal_procrustes(student[fit].astype(np.float64), teacher[fit])
    return relative_distance(teacher[judge], (student[judge] @ rotation).astype(np.float32))


def centroid_shift(teacher: np.ndarray, student: np.ndarray) -> float:
    """Return the distance of both means over the teacher's root mean square norm."""
    scale = np.sqrt((teacher**2).sum(axis=1).mean())
    return float(np.linalg.norm(teacher.mean(axis=0) - student.mean(axis=0)) / scale)


def effective_rank(vectors: np.ndarray) -> float:
    """Return the exponential of the entropy of the centered singular values (Roy and Vetterli 2007)."""
    values = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def predict(points: pd.DataFrame) -> pd.DataFrame:
    """Judge each measure of the whole: does it order students as their losses do?

    Returns:
        Index: measure. For each mode `all_MODE`, the Spearman correlation with the loss over all
        points, its sign chosen so that 1 is perfect, and `same_MODE`, the share of pairs of students on the
        same collection that it puts in the right order (0.5 is chance).
    """
    result = {}
    for name, sign in WHOLE.items():
        known = points.dropna(subset=[name])
        row = {"points": len(known)}
        for mode in MODES:
            row[f"all_{mode}"] = -sign * spearmanr(known[name], known[f"loss_{mode}"]).statistic
            right = [
                (sign * (a[name] - b[name]) > 0) == (a[f"loss_{mode}"] < b[f"loss_{mode}"])
                for _, group in known.groupby("collection")
                for a, b in itertools.combinations(group.to_dict("records"), 2)
            ]
            row[f"same_{mode}"], row["pairs"] = np.mean(right), len(right)
        result[name] = row
    return pd.DataFrame.from_dict(result, orient="index")


def predict_queries(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Judge the measures of single queries: Spearman correlation with the query's loss, mean over points."""
    result = pd.DataFrame(index=["cosine", "overlap", "nearest_rank"], columns=MODES, dtype=float)
    for name, mode in itertools.product(result.index, MODES):
        column = name if name == "cosine" else f"{name}_{mode}"
        sign = 1 if name == "nearest_rank" else -1
        values = [sign * spearmanr(t[column], t[f"loss_{mode}"]).statistic for t in tables]
        result.loc[name, mode] = np.nanmean(values)
    return result


if __name__ == "__main__":
    sys.exit(main())
