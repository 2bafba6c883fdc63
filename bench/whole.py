"""What reading whole documents is worth: each collection searched by its documents' first tokens, and by passages.

`python -m bench.whole COLLECTION...` writes build/whole.json: the teacher, and the ready student's queries on its index.
`--model NAME` measures another model in its own space.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from workbench import data, evaluate, models, passages, pipeline, ready
from workbench._util import home, write_json
from workbench.models import encode
from workbench.pipeline import ADAPT


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.whole", description=__doc__.splitlines()[0]
    )
    parser.add_argument("collections", nargs="+", type=Path, metavar="COLLECTION")
    parser.add_argument("--model", help="instead of the teacher and the ready student")
    options = parser.parse_args()
    if options.model:
        model, student = models.load_model(options.model), None
        models.shorten(model, ADAPT.max_length, options.model)
        readers = [passages.reader_of(model)]
    else:
        model, student = pipeline.teacher_of(None, ADAPT), ready.load_ready()
        readers = ADAPT.readers(model)
    path = home() / "whole.json"
    reports = json.loads(path.read_text()) if path.is_file() else {}
    for folder in options.collections:
        collection = data.read_dataset(folder)
        sizes = readers[0].sizes(list(collection.corpus.values()))
        cut = passages.cut_dataset(collection, readers)
        report = {
            "documents": len(collection.corpus),
            "passages": len(cut.rows),
            "queries": len(collection.queries),
            "tokens_read": float(sizes.clip(max=ADAPT.max_length).sum() / sizes.sum()),
            "searches": {},
        }
        for name, version in {"first tokens": collection, "passages": cut}.items():
            queries, documents = evaluate.vectors(model, version, allow_missing=True)
            scores = {"teacher": evaluate.score(version, queries, documents)}
            if student is not None:
                asked = encode(student, version.query_texts())
                scores["asymmetric"] = evaluate.score(version, asked, documents)
            report["searches"][name] = evaluate.as_rows(evaluate.summarize(scores))
        reports.setdefault(options.model or "teacher", {})[collection.name] = report
        write_json(path, reports)
        print(json.dumps({collection.name: report}, indent=1), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
