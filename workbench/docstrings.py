"""A training corpus that every machine has: the docstrings of installed libraries."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from workbench._retrieval import RetrievalDataset
from workbench._texts import Role, Text
from workbench.errors import DataError

# Large, carefully documented libraries that `make setup` installs.
DOCSTRING_LIBRARIES = tuple(
    "IPython accelerate datasets fsspec huggingface_hub jupyter_server networkx numpy pandas pyarrow rich scipy "
    "sentence_transformers sklearn tornado traitlets".split()
)


@dataclass(frozen=True)
class DocstringCorpus:
    """Pairs of a docstring's summary (query) and the rest of it (document), split once.

    Attributes:
        train: the training texts of both roles, pair after pair.
        held_out: the other pairs as a retrieval data set; the relevant document of a query is the rest of its docstring.
    """

    train: list[Text]
    held_out: RetrievalDataset


def docstring_corpus(
    pairs: int | None = None, held_out: int = 500, libraries: Iterable[str] = DOCSTRING_LIBRARIES
) -> DocstringCorpus:
    """Build a corpus from the docstrings of installed libraries, without importing any of them.

    A docstring's first sentence becomes a query, and the rest of its prose the document, without the signature, sentences
    with the object's name, code and copies of the summary: a search by words alone must not find it. A hash of a pair decides
    where it goes, so the same versions of the libraries give the same corpus on every machine.

    Args:
        pairs: number of training pairs; None for all.
        held_out: number of pairs to hold out.
        libraries: top-level names of installed packages.

    Raises:
        DataError: a library is not installed, or there are too few pairs.
    """
    if held_out < 0 or (pairs is not None and pairs < 1):
        raise DataError(f"pairs={pairs}, held_out={held_out}: at least 1 and 0 are needed")
    found: dict[str, tuple[str, str]] = {}
    for library in sorted({libraries} if isinstance(libraries, str) else set(libraries)):
        for summary, body in _library_pairs(library):
            # Inherited and templated docstrings repeat: keep one pair for each summary and each beginning of a body.
            keys = _words_key(summary), _words_key(body)
            if not found.keys() & {*keys}:
                found |= dict.fromkeys(keys, (summary, body))
    ordered = sorted(
        set(found.values()), key=lambda pair: hashlib.sha256("\n".join(pair).encode()).digest()
    )
    wanted = held_out + (pairs or 1)
    if len(ordered) < wanted:
        raise DataError(
            f"found {len(ordered):,} docstring pairs, and {wanted:,} are needed: name more libraries or ask for fewer pairs"
        )
    kept_out, rest = ordered[:held_out], ordered[held_out:]
    train = [
        t
        for query, body in rest[:pairs]
        for t in (Text(query, Role.QUERY), Text(body, Role.DOCUMENT))
    ]
    corpus = {f"d{i}": body for i, (_, body) in enumerate(kept_out)}
    queries = {f"q{i}": query for i, (query, _) in enumerate(kept_out)}
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(held_out)}
    return DocstringCorpus(train, RetrievalDataset("docstrings", corpus, queries, qrels))


def _library_pairs(library: str) -> Iterator[tuple[str, str]]:
    # find_spec locates a top-level package without importing it; it would import the parents of a dotted name.
    spec = importlib.util.find_spec(library) if "." not in library else None
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"library {library!r} is not installed: install it or leave it out of `libraries`"
        )
    root = Path(next(iter(spec.submodule_search_locations)))
    for path in sorted(root.rglob("*.py")):
        if {"tests", "test", "testing", "_vendor"} & set(path.relative_to(root).parts):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # templates and files for other Python versions
            continue
        for node in _definitions(tree):
            if pair := _split_docstring(ast.get_docstring(node) or "", node.name):
                yield pair


def _definitions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Walk classes, methods and functions, also those inside `if` and `try` blocks; bodies of functions are left out."""
    for node in getattr(tree, "body", []):
        function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        if function or isinstance(node, ast.ClassDef):
            yield node
        if not function:
            yield from _definitions(node)


_LEFT_OUT = re.compile(
    r"\s*(>>>|\.\.\.|```|[-=~^`]{3,}\s*$)"
)  # doctests, code fences, rules below headings
_FIELD = re.compile(r"^\s*(:\w+[^:]*:|\.\. [\w-]+::.*|@\w+.*)")
_ROLE_MARKUP = re.compile(r":[\w:+-]+:`~?([^`<]*)(?:<[^>]*>)?`")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


def _split_docstring(docstring: str, name: str) -> tuple[str, str] | None:
    paragraphs = re.split(r"\n\s*\n", docstring.strip())
    while len(paragraphs) > 1 and re.match(rf"^\W*[\w.]*{re.escape(name)}\s*\(", paragraphs[0]):
        paragraphs = paragraphs[1:]  # a signature line above the summary
    summary, *more = _SENTENCE_END.split(_plain(paragraphs[0]), maxsplit=1)
    body = " ".join([*more, _plain("\n".join(paragraphs[1:]))])
    for copied in (summary, summary.rstrip(".")):
        body = body.replace(copied, " ")
    if len(name) > 2:  # whole sentences, since one without its subject teaches nothing
        named = re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])")
        body = " ".join(
            sentence for sentence in _SENTENCE_END.split(body) if not named.search(sentence)
        )
    body = re.sub(r"\s+", " ", body).strip()
    if not 4 <= len(summary.split()) <= 40 or not summary[0].isupper() or ", optional" in summary:
        return None
    letters = sum(c.isalpha() or c.isspace() for c in body)
    long_enough = len(body.split()) >= 20 and len(body) <= 20_000
    return (summary, body) if long_enough and letters > 0.75 * len(body) else None


def _plain(text: str) -> str:
    """Join lines of a docstring into prose, without doctests, section rules, field markers and markup."""
    text = " ".join(
        _FIELD.sub("", line).strip() for line in text.splitlines() if not _LEFT_OUT.match(line)
    )
    text = _ROLE_MARKUP.sub(r"\1", text)
    return re.sub(r"\s+", " ", re.sub(r"[`*|]+", "", text)).strip()


def _words_key(text: str) -> str:
    return " ".join(re.findall(r"[a-z]+", text.lower())[:12])
