"""What the results on a terminal share: texts that are printed literally, and the colours of verdicts."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from pydrift.core.text import printable

STYLE = {"stable": "blue", "drift": "red", "related": "magenta", "inconclusive": "yellow", "unmeasured": "yellow"}


def literal(console: Console, words: str, style: str = "", limit: int = 2000) -> Text:
    """`words` as they are: neither markup nor control sequences. What the console's encoding cannot say is escaped."""
    visible = printable(words, limit)
    return Text(visible.encode(console.encoding, "backslashreplace").decode(console.encoding), style=style)


def print_line(console: Console, words: str, style: str = "") -> None:
    """Prints `words` literally; the terminal wraps them."""
    console.print(literal(console, words, style), soft_wrap=True)
