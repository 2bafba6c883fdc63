"""Lines of text files: encodings, files packed with gzip, and what is wrong with a file that has none."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from workbench._texts import MAX_CHARACTERS
from workbench.errors import DataError

_LINE_CHARACTERS = 8 * MAX_CHARACTERS
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
         codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip


def lines_of(path: Path, encoding: str | None = None) -> Iterator[str]:
    """Stream the lines of a text file with their ends: UTF-8, UTF-16 with a byte-order mark, or the encoding given.

    A file that ends in .gz is unpacked on the way.

    Raises:
        DataError: the file is missing, damaged, binary, or in another encoding (with the line and what it looks like).
    """
    if not path.is_file():
        raise DataError(f"{path} is missing")
    number = 0
    try:
        with _open(path) as file:
            head = file.read(4096)
            file.seek(0)
            if not encoding and not _mark(head) and b"\0" in head:
                looks, kind = _guess(head)
                raise DataError(f"{path} is binary, or {looks}: {_reread(kind)}")
            kind = encoding or _mark(head) or "utf-8"
            codecs.lookup(kind)
            with io.TextIOWrapper(file, kind, newline="") as text:
                for number, line in enumerate(
                    iter(lambda: text.readline(_LINE_CHARACTERS), ""), start=1
                ):
                    if len(line) == _LINE_CHARACTERS:
                        raise DataError(
                            f"{path}, line {number}: longer than {len(line):,} characters; is it text?"
                        )
                    yield line.removeprefix("\ufeff") if number == 1 else line
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read after line {number:,}: {error}") from None
    except UnicodeError as error:
        if encoding or not isinstance(error, UnicodeDecodeError) or not kind.startswith("utf-8"):
            raise DataError(f"{path} is not {kind} text: {error}") from None
        # The block that cannot be decoded begins in the line after those that were read.
        number += 1 + error.object.count(b"\n", 0, error.start)
        looks, kind = _guess(error.object)
        reason = f"not UTF-8 text ({error.reason}). It looks like {looks}: {_reread(kind)}"
        raise DataError(f"{path}, line {number}: {reason}") from None
    except (LookupError, TypeError, ValueError):
        raise DataError(
            f"encoding {encoding!r} is unknown; cp1252, utf-16 or shift_jis are some"
        ) from None


def is_utf8(path: Path) -> bool:
    """Say whether a whole file is text that needs no `encoding`."""
    try:
        return all(True for _ in lines_of(path))
    except DataError:
        return False


def looks_like_text(path: Path) -> bool:
    """Say whether the beginning of a file can be read, is not empty, and is not binary."""
    try:
        with _open(path) as file:
            head = file.read(4096)
    except (OSError, EOFError, zlib.error):
        return False
    return bool(head) and (b"\0" not in head or bool(_mark(head) or _guess(head)[1]))


def _mark(head: bytes) -> str | None:
    """Return the encoding that a byte-order mark names."""
    return next((name for mark, name in _BOMS.items() if head.startswith(mark)), None)


def _guess(raw: bytes) -> tuple[str, str | None]:
    """Return what bytes that are not UTF-8 look like, and the name of that encoding."""
    even, odd = raw[::2].count(0), raw[1::2].count(0)
    if max(even, odd) > len(raw) // 4 and min(even, odd) < len(raw) // 50 + 1:
        kind = "utf-16-le" if odd > even else "utf-16-be"
        return "UTF-16 without a byte-order mark", kind
    if b"\0" in raw:
        return "text in an unknown encoding", None
    return "Latin-1 or Windows-1252 (older Windows programs write it)", "cp1252"


def _reread(kind: str | None) -> str:
    name = "..." if kind is None else repr(kind)
    return f"read it with wb.read_texts(..., encoding={name}) or --encoding {kind or 'NAME'}, or save it as UTF-8"


def joined(lines: Iterable[str], most: int, otherwise: str) -> str:
    """Join the lines of a file; DataError if they have more than so many characters (a packed file hides its size)."""
    parts, size = [], 0
    for line in lines:
        size += len(line)
        if size > most:
            raise DataError(otherwise)
        parts.append(line)
    return "".join(parts)


def is_packed(path: Path) -> bool:
    """Say whether a file is packed, by its name."""
    return path.suffix.lower() == ".gz"


def _open(path: Path) -> io.BufferedIOBase:
    return gzip.open(path, "rb") if is_packed(path) else path.open("rb")
