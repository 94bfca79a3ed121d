"""The outputs that README and docs show: those of the quick start's commands, on scikit-learn's digits.

    python tests/docs/outputs.py            compares every block behind <!-- output: NAME --> with a fresh run
    python tests/docs/outputs.py --write    makes the blocks anew

Another processor may round otherwise, so a comparison is of the words: numbers and the order of rows may differ.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.command_line import call
from tests.docs.blocks import Block, blocks, commands
from tests.docs.prose import ROOT, pages

QUICKSTART = ROOT / "docs" / "quickstart.md"
_OUTPUT = re.compile(r"(<!-- output: (\w+) -->\n```text\n)(.*?)(```)", re.DOTALL)
_NUMBER = re.compile(r"[-+]?\d[\d,.]*(e[-+]?\d+)?")


def output_name(block: Block) -> str | None:
    """NAME of a block behind <!-- output: NAME -->."""
    found = re.fullmatch(r"output: (\w+)", block.note)
    return found and found[1]


def sections() -> dict[str, list[Block]]:
    """The blocks of the quick start by heading. A section needs what the demo leaves, and nothing of the others."""
    lines = QUICKSTART.read_text().splitlines()
    headings = [(number, line[3:]) for number, line in enumerate(lines, start=1) if line.startswith("## ")]
    found: dict[str, list[Block]] = {}
    for block in blocks():
        above = [heading for number, heading in headings if number < block.line]
        if block.page == QUICKSTART and above:
            found.setdefault(above[-1], []).append(block)
    return found


def fresh(section: list[Block], folder: Path) -> dict[str, str]:
    """The outputs of a section by name: all its commands run in `folder`, where the demo lies."""
    outputs, printed = {}, ""
    for block in section:
        for program, *arguments in commands(block) if block.kind == "console" else ():
            if program == "pydrift":
                printed = run(arguments, folder)
        if (name := output_name(block)) is not None:
            outputs[name] = printed
    return outputs


def run(arguments: list[str], folder: Path) -> str:
    """What `pydrift ARGUMENTS` prints. RuntimeError where its exit code is no finding."""
    done = call(*arguments, cwd=folder, COLUMNS="120", NO_COLOR="1")
    if done.returncode not in (0, 1, 3):
        raise RuntimeError(f"pydrift {' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}")
    return "".join(line.rstrip() + "\n" for line in done.stdout.splitlines())


def words_of(output: str) -> list[str]:
    """The lines without their numbers and rules, sorted."""
    lines = (" ".join(_NUMBER.sub("0", line).split()) for line in output.splitlines())
    return sorted(line for line in lines if line.strip("─ "))


def write(outputs: dict[str, str]) -> None:
    """Puts the outputs into all pages that show them."""
    for page in pages():
        text = page.read_text()
        new = _OUTPUT.sub(lambda block: block[1] + outputs[block[2]] + block[4], text)
        if new != text:
            page.write_text(new)
            print(f"written: {page.relative_to(ROOT)}")


def differing(outputs: dict[str, str]) -> list[str]:
    """The blocks whose words are not those of the outputs."""
    shown = [(block, output_name(block)) for block in blocks()]
    return [block.name for block, name in shown if name in outputs and words_of(block.code) != words_of(outputs[name])]


def main(to_write: bool) -> int:
    with TemporaryDirectory() as folder:
        run(["demo"], Path(folder))
        outputs = fresh([block for section in sections().values() for block in section], Path(folder))
    if to_write:
        write(outputs)
        return 0
    wrong = differing(outputs)
    print("\n".join(f"{name}: not what the program prints" for name in wrong) or "all outputs are as shown")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main("--write" in sys.argv[1:]))
