"""The pages that are made of the program itself: the commands from typer, the Python API from docstrings.

A page asks for them by a line `<!-- generated: commands -->` or `<!-- generated: python -->`. Nothing is copied by
hand, so help and docs cannot say two things.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

_PLACE = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
# "name     text", as pydrift's docstrings explain arguments: at least two blanks, or a sentence per name.
_ENTRY = re.compile(r"^(?P<name>\S+(?:, \S+)*) {2,}(?P<text>\S.*)$")


def commands() -> str:
    """MyST of every command: usage, help, and a table of its options."""
    import typer

    from pydrift.cli import app

    return "\n".join(_command("pydrift", typer.main.get_command(app), 1))


def _command(name: str, command: Any, depth: int) -> Iterator[str]:
    children = getattr(command, "commands", {})
    if depth > 1:
        yield f"{'#' * depth} {name}\n"
        help_text = inspect.cleandoc(command.help or "")
        yield f"{_escaped(help_text)}\n"
    if not children:
        yield f"```{{code-block}} text\n{_usage(name, command)}\n```\n"
        if command.params:
            yield "| argument or option | meaning |\n| --- | --- |"
            yield from (_row(parameter) for parameter in command.params)
            yield ""
    for child, inner in children.items():
        yield from _command(f"{name} {child}", inner, depth + 1)


def _usage(name: str, command: Any) -> str:
    parts = [name]
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            parts.append(_name(parameter) + ("..." if _is_list(parameter) else ""))
        elif parameter.required:
            parts.append(f"{parameter.opts[0]} {_metavar(parameter)}")
    return " ".join([*parts, "[OPTIONS]"])


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    return ", ".join(parameter.opts)


def _annotation(parameter: Any) -> str:
    """The type as text. Newer typers say it in a descriptor, older ones (with click) by a name."""
    descriptor = getattr(parameter, "type_descriptor", None)
    return str(parameter.type.name if descriptor is None else descriptor.annotation)


def _is_list(parameter: Any) -> bool:
    return "list[" in _annotation(parameter) or parameter.nargs == -1 or bool(getattr(parameter, "multiple", False))


def _metavar(parameter: Any) -> str:
    if parameter.metavar:
        return str(parameter.metavar)
    kind = _annotation(parameter)
    if "bool" in kind:
        return ""
    names = {"Path": "PATH", "path": "PATH", "int": "N", "float": "X", "str": "TEXT", "text": "TEXT"}
    return next((shown for name, shown in names.items() if name in kind), "VALUE")


def _row(parameter: Any) -> str:
    bar = "\\|"  # in a table, even within code
    option = parameter.param_type_name != "argument"
    shown = f"{_name(parameter)} {_metavar(parameter)}".strip() if option else _name(parameter)
    words = (getattr(parameter, "help", None) or "").strip()
    notes = [words if words.endswith((".", ")", "]")) or not words else f"{words}."]
    if parameter.required and option:
        notes.append("Required.")
    if option and _is_list(parameter) and "repeat" not in words:
        notes.append("May be repeated.")
    if option and isinstance(parameter.default, str | int | float) and not isinstance(parameter.default, bool):
        notes.append(f"Default: {parameter.default}.")
    elif option and isinstance(parameter.show_default, str):
        notes.append(f"Default: {parameter.show_default}.")
    return f"| `{shown.replace('|', bar)}` | {_escaped(' '.join(filter(None, notes)))} |"


def _escaped(text: str) -> str:
    """Text as MyST shows it: nothing in it is markup but `code`."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_|<>\[\]$])", r"\\\1", part) for part in parts)


def python() -> str:
    """MyST with one autodoc directive for every public name, sorted by kind."""
    import pydrift

    groups: dict[str, list[str]] = {"Functions": [], "Classes": [], "Exceptions": []}
    for name in pydrift.__all__:
        value = getattr(pydrift, name)
        if name.startswith("__"):
            continue
        if inspect.isclass(value):
            groups["Exceptions" if issubclass(value, Exception) else "Classes"].append(name)
        else:
            groups["Functions"].append(name)
    return "\n".join(_group(title, names) for title, names in groups.items())


def _group(title: str, names: list[str]) -> str:
    kind = {"Functions": "autofunction", "Classes": "autoclass", "Exceptions": "autoexception"}[title]
    members = "\n   :members:" if kind == "autoclass" else ""
    parts = [f"### {name}\n\n```{{eval-rst}}\n.. {kind}:: pydrift.{name}{members}\n```\n" for name in names]
    return "\n".join([f"## {title}\n", *parts])


def operations() -> str:
    """MyST with one autodoc directive for every native operation."""
    from pydrift import ops

    names = [name for name in ops.__all__ if inspect.isfunction(getattr(ops, name)) and getattr(ops, name).__doc__]
    parts = [f"### {name}\n\n```{{eval-rst}}\n.. autofunction:: pydrift.ops.{name}\n```\n" for name in names]
    return "\n".join(parts)


def root_file(name: str) -> str:
    """A page of the repository's root, with its links as they are from here."""
    text = (Path(__file__).parents[2] / f"{name.upper()}.md").read_text()
    text = text.replace("](docs/", "](")
    return re.sub(r"\]\((CHANGELOG|CONTRIBUTING|SECURITY)\.md\)", lambda link: f"]({link[1].lower()}.md)", text)


def _fill(app: Any, docname: str, source: list[str]) -> None:
    makers: dict[str, Callable[[], str]] = {"commands": commands, "python": python, "operations": operations}
    makers |= {name: partial(root_file, name) for name in ("contributing", "changelog", "security")}
    source[0] = _PLACE.sub(lambda place: makers[place[1]](), source[0])


def _process_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with aligned entries; those of operations are reStructuredText already."""
    if name.startswith("pydrift.ops."):
        lines[:] = [re.sub(r"\|(?=\S)", r"\|", line) for line in lines]
    else:
        lines[:] = plain_to_rst(lines)


def _process_signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Aliases by their name alone."""
    alias = re.compile(r"TypeAliasForwardRef\('(\w+)'\)")
    return signature and alias.sub(r"\1", signature), returns and alias.sub(r"\1", returns)


def plain_to_rst(lines: list[str]) -> list[str]:
    """A docstring of pydrift as reStructuredText: aligned entries become a list of definitions."""
    found: list[str] = []
    n = 0
    while n < len(lines):
        line = lines[n]
        entry = _ENTRY.match(line)
        if line.startswith("    ") and (not found or found[-1] == ""):
            block = []
            while n < len(lines) and (lines[n].startswith("    ") or not lines[n].strip()):
                block.append(lines[n])
                n += 1
            found += ["::", "", *block, ""]
            continue
        if entry and (not found or found[-1] == "" or found[-1].startswith("   ")):
            if found and found[-1] != "":
                found.append("")
            found.append(f"``{entry['name']}``")
            found.append(f"   {_rst(entry['text'])}")
            n += 1
            while n < len(lines) and lines[n].startswith("  ") and lines[n].strip():
                found.append(f"   {_rst(lines[n].strip())}")
                n += 1
            if n < len(lines) and lines[n].strip() and not _ENTRY.match(lines[n]):
                found.append("")
            continue
        found.append(_rst(line))
        n += 1
    return [*found, ""]


def _rst(text: str) -> str:
    """Text in which only ``code`` and `code` are markup."""
    parts = re.split(r"(``[^`]+``|`[^`]+`)", text)
    return "".join(
        f"``{part.strip('`')}``" if part.startswith("`") else re.sub(r"([*|_\\])", r"\\\1", part) for part in parts
    )


def setup(app: Any) -> dict[str, Any]:
    app.connect("source-read", _fill)
    app.connect("autodoc-process-docstring", _process_docstring)
    app.connect("autodoc-process-signature", _process_signature)
    return {"parallel_read_safe": True}
