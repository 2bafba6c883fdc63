"""Documents cut into passages that models read whole, and how much they read of whole documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from semantic_text_splitter import MarkdownSplitter
from tokenizers import Tokenizer

from workbench import models
from workbench._texts import Passages, RetrievalDataset, Role, Text, joined, list_or_store
from workbench._util import counted
from workbench.data import IN_MEMORY
from workbench.errors import DataError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedTokenizerBase


class Reader:
    """How a model reads documents: at most `length` tokens, with a prompt in front."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, length: int, prompt: str = "") -> None:
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer).to_str()
        self.length, self._prompt = length, prompt
        self.key = length, prompt, backend  # readers of one key cut alike
        self._unknown = getattr(tokenizer, "unk_token_id", None)
        self._tokenizer = Tokenizer.from_str(backend)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def sizes(self, texts: Sequence[str]) -> np.ndarray:
        """Return the tokens of n texts, int of shape (n,); an unknown one counts its letters."""
        sizes = np.empty(len(texts), dtype=int)
        for start in range(0, len(texts), 1024):  # encodings are large
            prompted = [self._prompt + text for text in texts[start : start + 1024]]
            for row, encoded in enumerate(self._tokenizer.encode_batch(prompted), start):
                sizes[row] = len(encoded.ids)
                if self._unknown in encoded.ids:
                    # A run of letters without spaces would be one token, which says nothing of it.
                    spans = zip(encoded.ids, encoded.offsets, strict=True)
                    sizes[row] += sum(
                        b - a - 1 for token, (a, b) in spans if token == self._unknown
                    )
        return sizes


def reader_of(model: SentenceTransformer, prompt: str | None = None) -> Reader | None:
    """Return how a loaded model reads documents; None without a limit or a fast tokenizer."""
    length = models.max_length(model)
    has_tokenizer = hasattr(
        getattr(model.tokenizer, "backend_tokenizer", model.tokenizer), "to_str"
    )
    if length is None or not has_tokenizer:
        return None
    prompt = models.role_prompt(model, Role.DOCUMENT) if prompt is None else prompt
    return Reader(model.tokenizer, length, prompt)


def cut(texts: Sequence[Text], readers: Sequence[Reader | None]) -> Passages:
    """Cut documents at headings, paragraphs, ends of sentences or words, in this order.

    No reader has to cut a passage. Each has its document's id and fields, and its title in front.
    Queries stay whole.
    """
    readers = list({reader.key: reader for reader in readers if reader}.values())
    rows: list[int] = []
    spans: list[tuple[int, int]] = []

    def pieces() -> Iterator[Text]:
        for start in range(0, len(texts), 1024):
            chunk = texts[start : start + 1024]
            strings = [text.text for text in chunk]
            fits = np.ones(len(chunk), dtype=bool)
            for reader in readers:
                fits &= reader.sizes(strings) <= reader.length
            for row, (text, is_read) in enumerate(zip(chunk, fits, strict=True), start):
                if is_read or text.role is Role.QUERY:
                    rows.append(row)
                    spans.append((0, len(text.text)))
                    yield text
                    continue
                head = _head(text, readers)
                for first, piece in _pieces(text.text[len(head) :], head, readers):
                    rows.append(row)
                    spans.append((len(head) + first, len(head) + first + len(piece)))
                    yield replace(text, text=head + piece)

    passages = list_or_store(pieces(), IN_MEMORY)
    return Passages(passages, np.array(rows, dtype=int), np.array(spans, dtype=int))


def cut_dataset(dataset: RetrievalDataset, readers: Sequence[Reader | None]) -> RetrievalDataset:
    """Return a data set whose documents are cut, itself if all are read whole."""
    if dataset.passages is not None:  # cut before
        return dataset
    passages = cut(dataset.document_texts(), readers)
    is_cut = len(passages.texts) > len(dataset.corpus)
    return replace(dataset, passages=passages) if is_cut else dataset


def in_passages(
    data: Any, readers: Sequence[Reader | None], wanted: bool = True
) -> tuple[Any, str]:
    """Return texts or a data set in passages; if not wanted, as it is, and what is not read."""
    is_dataset = isinstance(data, RetrievalDataset)
    if wanted:
        return (cut_dataset(data, readers) if is_dataset else cut(data, readers).texts), ""
    return data, unread(data.document_texts() if is_dataset else data, readers)


def unread(texts: Sequence[Text], readers: Sequence[Reader | None]) -> str:
    """Say how much is read of documents that are not cut; "" if all."""
    strings = [text.text for text in texts if text.role is Role.DOCUMENT]
    least, line = 1.0, ""
    for reader in filter(None, readers):
        sizes = reader.sizes(strings)
        share = float(np.minimum(sizes, reader.length).sum() / sizes.sum()) if strings else 1.0
        if share < least:
            longer = f"{(sizes > reader.length).sum():,} of {counted(len(strings), 'document')}"
            are = f"are longer than {reader.length} tokens"
            least, line = share, f"{longer} {are}; {share:.0%} of the text is read"
    return line


def _head(text: Text, readers: Sequence[Reader]) -> str:
    """Return the title as each passage has it in front, "" if it takes over a third of an input."""
    head = joined(text.title, "")
    is_long = any(reader.sizes([head])[0] > reader.length / 3 for reader in readers)
    return head if text.title and text.text.startswith(head) and not is_long else ""


def _pieces(text: str, head: str, readers: Sequence[Reader]) -> Iterator[tuple[int, str]]:
    """Return the pieces of a text, each with its place, that no reader has to cut."""
    heads = [reader.sizes([head])[0] for reader in readers]
    rooms = [reader.length - size for reader, size in zip(readers, heads, strict=True)]
    least = min(rooms)
    if least < 1:
        raise DataError("a model's prompt leaves no room for a document: shorten it")

    def tokens(piece: str) -> int:  # scaled to the smallest room
        counts = [reader.sizes([head + piece])[0] for reader in readers]
        return int(max(c - h - r + least for c, h, r in zip(counts, heads, rooms, strict=True)))

    return MarkdownSplitter.from_callback(tokens, least).chunk_indices(text) or [(0, text)]
