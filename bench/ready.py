"""Make the student that comes with the package: `data/ready`. Texts and teacher's vectors are kept, a stopped run goes on.

    python -m bench.ready TEXTS [--output data/ready]

TEXTS is a folder of parquet files (`text`, `role`), one a source. The head alone learns (recipe "broad"). The best pass is
chosen by a source that is held out whole, Reuters, which may be used for research alone: no text of it is trained on.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from bench.__main__ import machine
from workbench import pipeline, ready
from workbench._util import home, write_json
from workbench.cache import TargetCache
from workbench.data import Role, Text
from workbench.errors import WorkbenchError
from workbench.pipeline import BROAD

# Source to documents and queries drawn from it.
LESSON = {
    "arxiv": (3500, 3500), "debian": (2500, 2500), "medquad": (1500, 2000), "wordnet": (4000, 0), "wikisplit": (5000, 0),
    "questions": (0, 3000), "trivia": (0, 3000), "web_queries": (0, 4000), "claims": (0, 2500),
}  # fmt: skip
HELD_OUT = {"reuters": (500, 500)}
RECIPE = replace(BROAD, config=replace(BROAD.config, epochs=25))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.ready", description=__doc__.splitlines()[0])
    parser.add_argument("texts", type=Path, metavar="TEXTS")
    parser.add_argument("--output", type=Path, default=ready.READY)
    options = parser.parse_args()
    started = time.perf_counter()
    try:
        lesson, held_out = (draw(options.texts, plan) for plan in (LESSON, HELD_OUT))
        cache = TargetCache(home() / "cache", pipeline.teacher_of(None, RECIPE))
        sources = ", ".join(sorted(LESSON))
        made = pipeline.run(lesson, cache, RECIPE, home() / "ready", source=sources, held_out=held_out)
        provenance = made.provenance | {"held_out": ", ".join(HELD_OUT), "machine": machine()}
        ready.save_ready(made.student, options.output, provenance)
    except (OSError, WorkbenchError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    took = round(time.perf_counter() - started)
    write_json(home() / "ready.json", {"seconds": took, "machine": machine()} | made.provenance)
    print(f"written to {options.output} after {took} s")
    return 0


def draw(folder: Path, plan: dict[str, tuple[int, int]], seed: int = 0) -> list[Text]:
    """Draw texts from each source, by role."""
    texts = []
    for source, counts in plan.items():
        table = pq.read_table(folder / f"{source}.parquet", columns=["text", "role"]).to_pandas()
        for role, count in zip((Role.DOCUMENT, Role.QUERY), counts, strict=True):
            some = table[(table["role"] == role.value) & (table["text"].str.strip() != "")].drop_duplicates("text")
            texts += [Text(text, role) for text in some["text"].sample(min(count, len(some)), random_state=seed)]
    return texts


if __name__ == "__main__":
    sys.exit(main())
