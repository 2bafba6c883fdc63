"""What a text is; everyone else imports these names from `workbench.data`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from workbench.errors import DataError

# More than any real document. A longer text is almost always a file read whole by mistake, and the tokenizer would
# need minutes to use its first few hundred tokens.
MAX_CHARACTERS = 10_000_000


class Role(StrEnum):
    """What a text is in a search. A teacher may embed queries and documents differently."""

    QUERY = "query"
    DOCUMENT = "document"

    @classmethod
    def _missing_(cls, value: object) -> Role:
        if isinstance(value, str) and (plain := value.strip().lower()) in cls.__members__.values():
            return cls(plain)  # Query, DOCUMENT
        raise DataError(f"role {value!r:.80}: it must be 'query' or 'document'")


@dataclass(frozen=True, slots=True)
class Text:
    """One text and its role, a document unless it is said to be a query.

    Raises:
        DataError: the text is not a string, is longer than `MAX_CHARACTERS`, is binary, or has characters that are not
            valid Unicode; or the role is neither query nor document.

    Example:
        >>> import workbench as wb
        >>> wb.Text("how does a sail work?", "query").role.value
        'query'
    """

    text: str
    role: Role = Role.DOCUMENT

    def __post_init__(self) -> None:
        role = (
            self.role if isinstance(self.role, str) else Role._missing_(self.role)
        )  # arrays cannot be looked up
        object.__setattr__(self, "role", Role(role))
        if problem := text_problem(self.text):
            raise DataError(f"a {self.role} {problem}")


def text_problem(text: object) -> str | None:
    """Say why `text` cannot be embedded, or return None if it can."""
    if not isinstance(text, str):
        return f"is of type {type(text).__name__}, not a string"
    if len(text) > MAX_CHARACTERS:
        return f"has {len(text):,} characters; split it, the limit is {MAX_CHARACTERS:,}"
    if "\0" in text:
        return f"is binary: it contains a NUL character ({text[:40]!r})"
    # json.loads makes lone surrogates of a broken escape, and no tokenizer takes them.
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            return f"is not valid Unicode at character {error.start:,} ({text[:40]!r})"
    return None
