"""Queries per second of teacher and student, including tokenization, and the loss of quality by int8.

    python -m bench.latency STUDENT [COLLECTION...]

The first collection's queries are timed in their order; without a collection, the tutorial's. int8's share is its
nDCG@10 divided by that of the same student in float32, each encoding queries and documents. Writes build/latency.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from bench.__main__ import best_of, machine
from workbench import data, evaluate, models, student
from workbench._util import home, write_json
from workbench.errors import WorkbenchError
from workbench.extras import publish
from workbench.pipeline import TOUR

SIZES = (1, 32)
Encode = Callable[..., np.ndarray]  # texts and a role to vectors


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.latency", description=__doc__.splitlines()[0]
    )
    parser.add_argument("student", type=Path, metavar="STUDENT")
    parser.add_argument("collections", nargs="*", type=Path, metavar="COLLECTION")
    options = parser.parse_args()
    try:
        model = student.load(options.student, device="cpu")
        collections = [data.read_dataset(folder) for folder in options.collections] or [
            data.read_dataset("tutorial")
        ]
        with tempfile.TemporaryDirectory() as folder:
            report = {
                "machine": machine(),
                "fingerprint": models.resolve(options.student).fingerprint,
            }
            report |= measure(model, collections, Path(folder))
    except WorkbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    path = write_json(home() / "latency.json", report)
    for name, value in report.items():
        print(f"{name:<32} {value:.4g}" if isinstance(value, float) else f"{name:<32} {value}")
    print(f"written to {path}")
    return 0


def measure(model, collections: Sequence[data.RetrievalDataset], folder: Path) -> dict:
    """Return the speeds on the first collection's queries, and int8's shares on every collection."""
    teacher = models.load_model(TOUR.teacher, device="cpu")
    teacher.max_seq_length = model.max_seq_length
    publish.save_onnx(teacher, folder / "teacher")
    publish.save_onnx(model, folder / "student")
    queries = [text.text for text in collections[0].query_texts()][:128]
    # In a separate process: after torch has computed in a process, its threads slow onnxruntime down.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        report = process.submit(onnx_speeds, folder, queries).result()

    def torch_teacher(texts):
        return teacher.encode(texts, batch_size=len(texts), show_progress_bar=False)

    report |= speeds({"teacher_torch": torch_teacher}, queries)
    for precision in ("float32", "int8"):
        for size in SIZES:
            # The teacher's faster runtime is the baseline.
            baseline = max(
                report[f"queries_per_second_teacher_{runtime}_{size}"]
                for runtime in ("torch", "onnx")
            )
            mine = report[f"queries_per_second_student_{precision}_{size}"]
            report[f"query_speedup_{precision}_{size}"] = mine / baseline
        report[f"query_speedup_{precision}"] = report[f"query_speedup_{precision}_1"]
    encoders = [publish.OnnxModel(folder / "student", int8=int8).encode for int8 in (False, True)]
    report["int8"] = [share(collection, *encoders) for collection in collections]
    report["int8_share"] = min(row["share"] for row in report["int8"])
    return report


def onnx_speeds(folder: Path, queries: list[str]) -> dict[str, float]:
    """Return the speeds of teacher and student as ONNX, timed in turn."""
    encoders = {
        "teacher_onnx": publish.OnnxModel(folder / "teacher").encode,
        "student_float32": publish.OnnxModel(folder / "student").encode,
        "student_int8": publish.OnnxModel(folder / "student", int8=True).encode,
    }
    return speeds(encoders, queries)


def speeds(encoders: Mapping[str, Encode], queries: list[str]) -> dict[str, float]:
    """Return queries per second of each encoder, one at a time and in batches of 32."""
    report = {}
    for size in SIZES:
        batches = [queries[i : i + size] for i in range(0, len(queries), size)]
        runs = [partial(_each, encode, batches) for encode in encoders.values()]
        for name, seconds in zip(encoders, best_of(5, *runs), strict=True):
            report[f"queries_per_second_{name}_{size}"] = len(queries) / seconds
    return report


def _each(encode: Encode, batches: list[list[str]]) -> None:
    for batch in batches:
        encode(batch)


def share(collection: data.RetrievalDataset, exact: Encode, int8: Encode) -> dict:
    """Return int8's share of the float32 student's nDCG@10, both sides encoded by one of them."""
    texts = (
        [text.text for text in collection.query_texts()],
        [text.text for text in collection.document_texts()],
    )
    scores, vectors = {}, {}
    for name, encode in (("teacher", exact), ("int8", int8)):
        vectors[name] = encode(texts[0], "query"), encode(texts[1])
        scores[name] = evaluate.score(collection, *vectors[name])
    row = evaluate.summarize(scores).set_index("mode").loc["int8"]
    return {
        "collection": collection.name,
        "share": float(row["share_of_teacher"]),
        "low": float(row["share_low"]),
        "high": float(row["share_high"]),
        "cosine_min": float(
            min((a * b).sum(1).min() for a, b in zip(*vectors.values(), strict=True))
        ),
    }


if __name__ == "__main__":
    sys.exit(main())
