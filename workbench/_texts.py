"""What a text is; everyone else imports these names from `workbench.data`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from workbench.errors import DataError

MAX_CHARACTERS = 10_000_000  # more than any document; a longer text is a file read by mistake


class Role(StrEnum):
    """What a text is in a search. A teacher may embed queries and documents differently."""

    QUERY = "query"
    DOCUMENT = "document"

    @classmethod
    def _missing_(cls, value: object) -> Role:
        raise DataError(f"role {value!r:.80}: expected 'query' or 'document'")


@dataclass(frozen=True, slots=True)
class Text:
    """One text and its role: a document, unless it is said to be a query.

    Raises:
        DataError: the role is neither query nor document, or the text is not a string of valid
            Unicode with at most `MAX_CHARACTERS` characters.

    Example:
        >>> import workbench as wb
        >>> wb.Text("how does a sail work?", "query").role.value
        'query'
    """

    text: str
    role: Role = Role.DOCUMENT

    def __post_init__(self) -> None:
        object.__setattr__(self, "role", Role(self.role))
        problem = text_problem(self.text)
        if problem:
            raise DataError(f"a {self.role} {problem}")


def text_problem(text: object) -> str | None:
    """Say why `text` cannot be embedded, or return None if it can."""
    if not isinstance(text, str):
        return f"is of type {type(text).__name__}, not a string"
    if len(text) > MAX_CHARACTERS:
        return f"has {len(text):,} characters; split it, the limit is {MAX_CHARACTERS:,}"
    if "\0" in text:
        return f"is binary: it contains a NUL character ({text[:40]!r})"
    try:
        text.encode()  # lone surrogates, which json.loads makes of broken escapes, are an error
    except UnicodeEncodeError:
        return f"is not valid Unicode ({text[:40]!r})"
    return None
