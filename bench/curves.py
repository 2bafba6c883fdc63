"""What a student inherits: quality, size and query time of truncated and quantized vectors.

    python -m bench.curves COLLECTION... --student students/{collection}

A collection is a folder in BEIR's layout; `{collection}` stands for its name. Each curve is drawn twice: in
the teacher's space as it is, and rotated by the principal components of the teacher's documents. Turning
the vectors of a student is the same as turning its head, for its head is linear. Writes build/curves.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from bench.__main__ import machine
from workbench import data, evaluate, quantize, student
from workbench._util import home, write_json
from workbench.cache import TargetCache
from workbench.errors import WorkbenchError
from workbench.pipeline import TOUR
from workbench.teachers import LocalTeacher


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.curves", description=__doc__.splitlines()[0]
    )
    parser.add_argument("collections", nargs="+", type=Path, metavar="COLLECTION")
    parser.add_argument("--student", required=True, metavar="FOLDER")
    options = parser.parse_args()
    tables = []
    try:
        cache = TargetCache(
            home() / "cache", LocalTeacher(TOUR.teacher, max_length=TOUR.max_length)
        )
        for folder in options.collections:
            model = student.load(Path(options.student.format(collection=folder.name)))
            tables += curves(folder, cache, model)
    except WorkbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = pd.concat(tables, ignore_index=True)
    path = write_json(
        home() / "curves.json", {"machine": machine(), "rows": evaluate.as_rows(rows)}
    )
    index = ["collection", "space", "precision", "dimensions"]
    wide = rows.pivot_table(
        index=index, columns="mode", values="share_of_teacher", sort=False, observed=True
    )
    print(wide.map("{:.1%}".format).to_string(), f"\nwritten to {path}")
    return 0


def curves(folder: Path, cache: TargetCache, model) -> list[pd.DataFrame]:
    """Return the curves of one collection, in the space as it is and rotated."""
    collection = data.read_dataset(folder)
    cache.embed(collection.query_texts() + collection.document_texts(), progress=True)
    sides = {
        "teacher": evaluate.vectors(cache, collection),
        "symmetric": evaluate.vectors(model, collection),
    }
    sides["asymmetric"] = sides["symmetric"][0], sides["teacher"][1]
    rotation = quantize.principal_rotation(sides["teacher"][1])
    rotated = {mode: tuple(vectors @ rotation for vectors in pair) for mode, pair in sides.items()}
    tables = []
    for name, vectors in (("as it is", sides), ("rotated", rotated)):
        table = quantize.sweep(collection, vectors, quantize.grid(cache.dimension))
        table.insert(0, "collection", folder.name)
        table.insert(1, "space", name)
        tables.append(table)
    return tables


if __name__ == "__main__":
    sys.exit(main())
