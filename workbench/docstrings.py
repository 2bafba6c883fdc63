"""A training corpus that every machine has: the docstrings of installed libraries."""

import ast
import hashlib
import importlib.util
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from workbench._texts import RetrievalDataset, Role, Text
from workbench.errors import DataError

# Large, carefully documented libraries that `make setup` installs.
DOCSTRING_LIBRARIES = tuple(
    "IPython accelerate datasets fsspec huggingface_hub jupyter_server networkx numpy pandas "
    "pyarrow rich scipy sentence_transformers sklearn tornado traitlets".split()
)
# Doctests, code fences and rules below headings.
_NO_PROSE = re.compile(r"\s*(>>>|\.\.\.|```|[-=~^`]{3,}\s*$)")
_FIELD = re.compile(r"^\s*(:\w+[^:]*:|\.\. [\w-]+::.*|@\w+.*)")
_ROLE_MARKUP = re.compile(r":[\w:+-]+:`~?([^`<]*)(?:<[^>]*>)?`")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


@dataclass(frozen=True)
class DocstringCorpus:
    """Training texts of both roles, pair after pair, and other pairs as a retrieval data set."""

    train: list[Text]
    held_out: RetrievalDataset


def docstring_corpus(
    pairs: int | None = None, held_out: int = 500, libraries: Iterable[str] = DOCSTRING_LIBRARIES
) -> DocstringCorpus:
    """Build at most so many pairs of texts from docstrings of libraries, without importing them.

    The query is a docstring's first sentence. The document is the rest of its prose without code
    and names, so that words alone do not find it. DataError if a library is missing.
    """
    pair_of: dict[str, tuple[str, str]] = {}
    for library in sorted(set(libraries)):
        for summary, body in _library_pairs(library):
            # Inherited docstrings repeat: keep one pair per beginning of a summary or of a body.
            keys = {" ".join(re.findall(r"[a-z]+", t.lower())[:12]) for t in (summary, body)}
            if not keys & pair_of.keys():
                pair_of |= dict.fromkeys(keys, (summary, body))
    # In the order of hashes, the same pairs are held out on every machine.
    hashes = {hashlib.sha256("\n".join(pair).encode()).digest(): pair for pair in pair_of.values()}
    ordered = [hashes[digest] for digest in sorted(hashes)]
    train = []
    for summary, body in ordered[held_out:][:pairs]:
        train += [Text(summary, Role.QUERY), Text(body, Role.DOCUMENT)]
    corpus = {f"d{i}": body for i, (_, body) in enumerate(ordered[:held_out])}
    queries = {f"q{i}": summary for i, (summary, _) in enumerate(ordered[:held_out])}
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(held_out)}
    return DocstringCorpus(train, RetrievalDataset("docstrings", corpus, queries, qrels))


def _library_pairs(library: str) -> Iterator[tuple[str, str]]:
    spec = importlib.util.find_spec(library)  # locates the package without importing it
    if spec is None:
        raise DataError(f"library {library!r} is not installed: install it or leave it out")
    root = Path(spec.submodule_search_locations[0])
    for path in sorted(root.rglob("*.py")):
        if {"tests", "test", "testing", "_vendor"} & set(path.relative_to(root).parts):
            continue
        try:
            with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # templates and files for other Python versions
            continue
        for node in _definitions(tree):
            if pair := _split_docstring(ast.get_docstring(node) or "", node.name):
                yield pair


def _definitions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Walk classes, methods and functions, except those inside functions."""
    for node in getattr(tree, "body", []):
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if is_function or isinstance(node, ast.ClassDef):
            yield node
        if not is_function:
            yield from _definitions(node)


def _split_docstring(docstring: str, name: str) -> tuple[str, str] | None:
    """Return the summary and the rest of a docstring, or None if they are no good pair."""
    paragraphs = re.split(r"\n\s*\n", docstring.strip())
    while len(paragraphs) > 1 and re.match(rf"^\W*[\w.]*{re.escape(name)}\s*\(", paragraphs[0]):
        paragraphs = paragraphs[1:]  # a signature above the summary
    summary, *more = _SENTENCE_END.split(_plain(paragraphs[0]), maxsplit=1)
    body = " ".join([*more, _plain("\n".join(paragraphs[1:]))])
    body = body.replace(summary, " ").replace(summary.rstrip("."), " ")
    if len(name) > 2:
        is_named = re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])").search
        sentences = _SENTENCE_END.split(body)
        body = " ".join(sentence for sentence in sentences if not is_named(sentence))
    body = re.sub(r"\s+", " ", body).strip()
    if not 4 <= len(summary.split()) <= 40 or not summary[0].isupper() or ", optional" in summary:
        return None
    is_prose = sum(c.isalpha() or c.isspace() for c in body) > 0.75 * len(body)
    return (summary, body) if is_prose and len(body.split()) >= 20 and len(body) <= 20_000 else None


def _plain(text: str) -> str:
    """Join the lines of a docstring into prose without doctests, rules, fields and markup."""
    lines = [line for line in text.splitlines() if not _NO_PROSE.match(line)]
    text = _ROLE_MARKUP.sub(r"\1", " ".join(_FIELD.sub("", line).strip() for line in lines))
    return re.sub(r"\s+", " ", re.sub(r"[`*|]+", "", text)).strip()
