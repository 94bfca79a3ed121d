"""Names and texts from files that others wrote, made safe to show."""

from __future__ import annotations


def printable(text: str, limit: int | None = None) -> str:
    """`text` in at most `limit` characters, with control, bidirectional and surrogate characters as visible escapes.

    A terminal must not obey them, and a page must stay valid XML and UTF-8. What is printable already does not change.
    """
    head = text if limit is None else text[: limit + 1]  # an escape is never shorter than its character
    visible = head if head.isprintable() else "".join(map(_visible, head))
    return visible if limit is None or len(visible) <= limit else visible[: limit - 3] + "..."


def printable_lines(text: str) -> str:
    """The same for a text of several lines."""
    return "\n".join(map(printable, text.split("\n")))


def _visible(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
