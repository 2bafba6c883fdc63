"""What reading whole documents is worth: each collection searched by its documents' first tokens, and by passages.

`python -m bench.whole COLLECTION...` writes build/whole.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from workbench import data, evaluate, passages, pipeline, ready
from workbench._util import home, write_json
from workbench.cache import TargetCache
from workbench.models import encode
from workbench.pipeline import ADAPT


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.whole", description=__doc__.splitlines()[0]
    )
    parser.add_argument("collections", nargs="+", type=Path, metavar="COLLECTION")
    options = parser.parse_args()
    cache = TargetCache(home() / "cache", pipeline.teacher_of(None, ADAPT))
    student, path = ready.load_ready(), home() / "whole.json"
    reports = json.loads(path.read_text())["collections"] if path.is_file() else {}
    for folder in options.collections:
        collection = data.read_dataset(folder)
        readers = ADAPT.readers(cache.teacher)
        sizes = readers[0].sizes(list(collection.corpus.values()))
        cut = passages.cut_dataset(collection, readers)
        report = {
            "documents": len(collection.corpus),
            "passages": len(cut.rows),
            "queries": len(collection.queries),
            "tokens_read": float(sizes.clip(max=ADAPT.max_length).sum() / sizes.sum()),
        }
        for name, version in {"first tokens": collection, "passages": cut}.items():
            texts = [*version.query_texts(), *version.document_texts()]
            cache.embed(texts, progress=True)
            queries, documents = evaluate.vectors(cache, version, allow_missing=True)
            asked = encode(student, version.query_texts())
            scores = {
                "teacher": evaluate.score(version, queries, documents),
                "asymmetric": evaluate.score(version, asked, documents),
            }
            report[name] = evaluate.as_rows(evaluate.summarize(scores))
        reports[collection.name] = report
        write_json(path, {"teacher": cache.teacher.name, "collections": reports})
        print(json.dumps({collection.name: report}, indent=1), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
