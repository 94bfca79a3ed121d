"""The code blocks of README and docs: where they are, and what is said about them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.docs.prose import ROOT, pages

# An HTML comment before a block says what is to be done with it.
#   <!-- output: NAME -->      the block is the output NAME, which outputs.py makes
#   <!-- not executed: WHY --> the names of a Python block are checked, but the block does not run
_BLOCK = re.compile(
    r"^(?:<!-- (?P<note>[^>]*) -->\n)?(?P<indent> *)(?P<fence>`{3,})(?P<kind>[^\n`]*)\n"
    r"(?P<code>.*?)^(?P=indent)(?P=fence)$",
    re.DOTALL | re.MULTILINE,
)
KINDS = {"console", "python", "text", "bash", "yaml", ""}


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    kind: str
    code: str
    note: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(kind: str | None = None) -> list[Block]:
    """All blocks of a kind, or all that are no directive of Sphinx."""
    found = []
    for page in pages():
        text = page.read_text()
        for match in _BLOCK.finditer(text):
            if match["kind"].startswith("{"):
                continue
            line = text.count("\n", 0, match.start()) + 1
            block = Block(page, line, match["kind"].strip(), match["code"], match["note"] or "")
            if kind in (None, block.kind):
                found.append(block)
    return found


def commands(block: Block) -> list[list[str]]:
    """The commands of a console block, each as its words: lines behind `$`, and those that they go on in."""
    joined = block.code.replace("\\\n", " ")
    lines = [line.strip()[2:] for line in joined.splitlines() if line.strip().startswith("$ ")]
    return [shlex.split(line, comments=True) for line in lines]
