"""Plain English and one vocabulary: README, docs, help texts and report templates."""

import inspect
import re

import pytest
import typer

from pydrift.cli import app
from tests.docs.prose import LONG, ROOT, TOO_LONG, pages, retired, sentences


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_have_no_retired_word_and_no_long_sentence(page):
    text = page.read_text()
    assert list(retired(text)) == []
    assert [s.text for s in sentences(text) if s.words > LONG] == []


def test_sentences_are_short_on_the_mean():
    words = [s.words for page in pages() for s in sentences(page.read_text())]
    assert len(words) > 500
    assert sum(words) / len(words) < 16
    assert max(words) <= TOO_LONG


def helps(command, name="pydrift"):
    """(name, text) of every help text."""
    yield name, inspect.cleandoc(command.help or "")
    for parameter in command.params:
        yield f"{name} {parameter.opts[0]}", getattr(parameter, "help", None) or ""
    for child, inner in getattr(command, "commands", {}).items():
        yield from helps(inner, f"{name} {child}")


def test_help_has_no_retired_word():
    assert {name: found for name, text in helps(typer.main.get_command(app)) if (found := list(retired(text)))} == {}


@pytest.mark.parametrize(
    "template", sorted((ROOT / "pydrift" / "report").glob("*.j2")), ids=lambda template: template.name
)
def test_report_templates_have_no_retired_word(template):
    text = re.sub(r"{[{%#].*?[}%#]}", " ", template.read_text(), flags=re.DOTALL)  # what readers see, not the names
    text = re.sub(r"<[^>]*>", " ", text)
    assert list(retired(text)) == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("the new model", "candidate"),
        ("an effect of -3", "drift score"),
        ("honest models", "benign"),
        ("a small mark", "occlusion"),
        ("in 15 views", "transform"),
        ("the audited update", "candidate"),
        ("DriftAuditor(null=1)", "--update-mode, update_mode="),
    ],
)
def test_retired_words_are_found(text, word):
    assert [found for found in retired(text) if f"say {word}" in found]


@pytest.mark.parametrize("text", ["--update-mode", "pytest.mark.slow", "benchmark", "null distribution", "side effect"])
def test_other_words_are_not(text):
    assert list(retired(text)) == []


def test_sentences_are_measured():
    found = list(sentences("# Head\n\nOne two three. Four five `six` seven.\n\n* a b c\n* d e f\n\n| t | u |\n"))
    assert [s.words for s in found] == [3, 4, 3, 3]
