"""Is the English plain? Measures the sentences of README and docs, and finds words that the project has retired.

python tests/docs/prose.py            a line per page, long sentences, retired words; exit code 1 if any is wrong
python tests/docs/prose.py --quiet    only what is wrong
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
LONG, TOO_LONG = 25, 35  # words

# The word table of docs/design.md, and the names that were changed with it. Each pattern has what to say instead.
RETIRED = {
    r"\bproduction\b|\bsuccessors?\b|\bnew(er)? models?\b": "candidate",
    r"\b(an?|the|this|each|every|one|benign|drifted|audited) updates?\b": "candidate",
    r"\bhonest\w*": "benign",
    r"(?<!side )\beffects?\b": "drift score",
    r"\blikeness\b": "drift score",
    r"\bstrain(s|ed)?\b": "RMS residual",
    r"\binstruments?\b": "probe",
    r"(?<!pytest\.)(?<!pytest )\bmark(s|ed)?\b(?! the)": "occlusion",
    r"\bleanings?\b": "bias",
    r"\bviews?\b": "transform",
    r"\bFORMS\b": "synthetic shapes",
    r"\bmia\b": "membership",
    r"\bprivacy (audit|report|attack)s?\b|\bprivacy_\w+|\bpydrift\.privacy\b": "membership audit",
    r"dataset_inference": "ownership_audit",
    r"\byardsticks?\b|\blessons?\b": "reference scale, regressor data",
    r"--null\b|\bnull=": "--update-mode, update_mode=",
    r"--work\b|\bwork_dir\b": "--resume-dir, resume_dir",
    r"--earlier\b|\bearlier=": "--benign-version, benign_versions=",
    r"\bas_subject\b|\bSubject\b": "AuditedModel",
    r"\bteam_\w+": "block_*",
}
# Where a retired word is the word: other programs' options, and titles of papers.
ALLOWED = (r"python -m bench\..*",)


class Sentence(NamedTuple):
    words: int
    text: str


def pages() -> list[Path]:
    """README and everything in Markdown that readers see."""
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
    built = ROOT / "docs" / "_build"
    written = [page for folder in ("docs", "examples") for page in sorted((ROOT / folder).rglob("*.md"))]
    return [*top, *(page for page in written if built not in page.parents)]


def prose(text: str) -> str:
    """The sentences of a page: no code, tables, directives, formulas or footnotes."""
    text = re.sub(r"^(`{3,}|:{3,})\{(note|important|warning)\}\n(.*?)^\1$", r"\3", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^(`{3,})\{glossary\}\n(.*?)^\1$", r"\2", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^(`{3,}|:{3,}).*?^\1$", "\n\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"^\$\$.*?\$\$ *\.?$", " x. ", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\$[^$\n]+\$", "x", text)
    text = re.sub(r"^(\|.*|---|[\w-]+: .*|\[\^\w+\]:.*|\(\w+\)=|#.*)$", "\n", text, flags=re.MULTILINE)
    text = re.sub(r"\[\^\w+\]", "", text)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"`[^`]+`", "code", text)


def sentences(text: str) -> Iterator[Sentence]:
    """Of a page of Markdown. A list item, a paragraph and a line before a colon's list end a sentence, too."""
    blocks = re.split(r"\n\s*\n|\n(?=\s*(?:[*-]|\d+\.) )", prose(text))
    for block in blocks:
        joined = " ".join(re.sub(r"^\s*(?:[*-]|\d+\.) ", "", block).split()).replace("**", "")
        for sentence in re.split(r"(?<=[.!?])[)\"]?\s+(?=[A-Z(\"'0-9x]|code\b|pydrift\b)", joined):
            words = re.findall(r"[\w.,'%+-]*\w[\w.,'%+-]*", sentence)
            if len(words) > 2:
                yield Sentence(len(words), sentence)


def retired(text: str) -> Iterator[str]:
    """Each retired word of a text, with what to say instead."""
    text = re.sub("|".join(ALLOWED), "", text)
    for pattern, instead in RETIRED.items():
        is_name = any(letter.isupper() for letter in pattern)
        for found in re.finditer(pattern, text, flags=0 if is_name else re.IGNORECASE):
            line = text[text.rfind("\n", 0, found.start()) + 1 : found.end() + 30].split("\n")[0]
            yield f"{found[0]!r} (say {instead}): {line.strip()[:100]}"


def main(quiet: bool) -> int:
    wrong, lengths = 0, []
    for page in pages():
        text = page.read_text()
        found = list(sentences(text))
        lengths += [s.words for s in found]
        name = page.relative_to(ROOT)
        if not quiet and found:
            mean = sum(s.words for s in found) / len(found)
            print(f"{name}: {len(found)} sentences, mean {mean:.1f}, over {LONG}: {sum(s.words > LONG for s in found)}")
        for sentence in found:
            if sentence.words > LONG:
                wrong += 1
                print(f"{name}: {sentence.words} words: {sentence.text}")
        for word in retired(text):
            wrong += 1
            print(f"{name}: {word}")
    share = [100 * sum(n > bound for n in lengths) / len(lengths) for bound in (LONG, TOO_LONG)]
    print(
        f"{len(lengths)} sentences, mean {sum(lengths) / len(lengths):.1f} words; "
        f"{share[0]:.1f} % over {LONG}, {share[1]:.1f} % over {TOO_LONG}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main("--quiet" in sys.argv[1:]))
