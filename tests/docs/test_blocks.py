"""Every code block of README and docs: commands parse, scripts exist, Python names resolve."""

import ast
import inspect
import re
from pathlib import Path

import pytest
import typer

import pydrift
from pydrift.cli import app
from tests.docs.blocks import KINDS, Block, blocks, commands
from tests.docs.prose import ROOT, pages

COMMAND_LINE = typer.main.get_command(app)
PYTHON = blocks("python")
CONSOLE = [(block, words) for block in blocks("console") for words in commands(block)]
BUILTIN_PROGRAMS = {"source", "pip", "bash", "python"}


def parse(words):
    """Has the real command line parse the words behind `pydrift`; nothing is executed."""
    command = COMMAND_LINE
    while getattr(command, "commands", None):
        assert words, f"no command behind {command.name}"
        assert words[0] in command.commands, f"no such command: {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, list(words))


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.name)
def test_kinds_of_blocks_are_known(block: Block):
    assert block.kind in KINDS
    assert block.kind, "say what the block is: console, python, text, bash or yaml"


@pytest.mark.parametrize(("block", "words"), CONSOLE, ids=[f"{b.name}: {' '.join(w[:3])}" for b, w in CONSOLE])
def test_commands_are_those_that_exist(block: Block, words: list[str]):
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    program, *arguments = words
    if program == "pydrift":
        parse(arguments)
    elif program == "make":
        targets = [word for word in arguments if "=" not in word]
        makefile = (ROOT / "Makefile").read_text()
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets), words
    else:
        assert program in BUILTIN_PROGRAMS, words
        scripts = [word for word in arguments if word.endswith((".py", ".sh"))]
        scripts += [f"{module.replace('.', '/')}.py" for module in arguments if module.startswith("bench.")]
        assert all((ROOT / script).exists() for script in scripts), f"no such script: {words}"


@pytest.mark.parametrize(
    "words",
    [words for _, words in CONSOLE if words[:2] == ["python", "-m"]],
    ids=lambda words: " ".join(words[2:5]),
)
def test_options_of_benchmarks_exist(words: list[str]):
    folders = (ROOT / words[2].replace(".", "/")).parent, ROOT / "bench" / "common"
    source = "".join(path.read_text() for folder in folders for path in folder.glob("*.py"))
    for option in (word for word in words if word.startswith("--")):
        assert f'"{option}"' in source, f"{words[2]} has no {option}"


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.name)
def test_names_of_python_blocks_resolve(block: Block):
    """Every pydrift.NAME exists, every import works, and keywords are parameters of what is called."""
    tree = ast.parse(block.code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pydrift"):
            module = __import__(node.module, fromlist=["x"])
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
        if isinstance(node, ast.Call) and (target := public(node.func)) is not None:
            parameters = inspect.signature(target).parameters
            given = {keyword.arg for keyword in node.keywords}
            assert given <= set(parameters), f"{ast.unparse(node.func)} takes no {given - set(parameters)}"


def public(node: ast.expr):
    """What pydrift.A or pydrift.A.b is; None for anything else. AssertionError where there is no such name."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    if not (isinstance(node, ast.Name) and node.id == "pydrift" and names):
        return None
    value = pydrift
    for name in names:
        assert hasattr(value, name), f"pydrift.{'.'.join(names)} does not exist"
        value = getattr(value, name)
    return value


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    assert [t for t in targets if not t.startswith("http") and not (page.parent / t).exists()] == []


def test_every_option_of_readme_and_docs_exists():
    """Options in sentences and tables, too: `--name` must be an option of some command, or of a named benchmark."""
    known = {"--help", "--version", "--extra-index-url", "--no-build-isolation", "--no-deps", "--quiet", "--write"}

    def collect(command):
        for parameter in command.params:
            known.update(parameter.opts)
        for child in getattr(command, "commands", {}).values():
            collect(child)

    collect(COMMAND_LINE)
    known.update(re.findall(r'"(--[a-z][a-z-]+)"', "".join(p.read_text() for p in (ROOT / "bench").rglob("*.py"))))
    unknown = {}
    for page in pages():
        for option in re.findall(r"`[^`\n]*?(--[a-z][a-z-]+)", page.read_text()):
            if option not in known:
                unknown.setdefault(str(page.relative_to(ROOT)), set()).add(option)
    assert unknown == {}


def test_readme_is_small_and_names_the_set_up():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.encode()) <= 12_000
    assert "$ make demo " in readme
    assert "$ make test " in readme
    picture = ROOT / re.search(r"!\[[^\]]*\]\(([^)]*)\)", readme)[1]
    assert picture.stat().st_size <= 150_000


def test_the_word_table_is_in_the_glossary():
    glossary = (ROOT / "docs" / "concepts.md").read_text().split("{glossary}")[1]
    terms = set(re.findall(r"^(\w[\w -]*)$", glossary, re.MULTILINE))
    assert terms >= {
        *("attribute audit", "base", "benign", "calibration", "candidate", "consensus", "drift audit", "drift score"),
        *("fingerprint", "gray data", "IN and OUT", "layer program", "logit margin", "membership audit"),
        *("null distribution", "occlusion", "ownership audit", "probe", "reconstruction audit", "restart", "shadow"),
        *("synthetic shapes", "transform"),
    }


def test_tables_of_attacks_and_detectors_are_complete():
    from pydrift.fingerprint.registry import DETECTORS
    from pydrift.membership import ATTACKS

    methods = ROOT / "docs" / "methods"
    for names, page in ((ATTACKS, "membership.md"), (DETECTORS, "fingerprint.md")):
        text = (methods / page).read_text()
        assert [name for name in names if f"`{name}`" not in text and name != "neuralfp"] == []


def test_kinds_of_planted_drift_are_complete():
    listed = set(re.findall(r"^\| `(\w+):", (ROOT / "docs" / "quickstart.md").read_text(), re.MULTILINE))
    assert listed == set(re.findall(r"^    (\w+):\S+ {2,}", pydrift.plant.__doc__, re.MULTILINE))


def test_citation_and_changelog_have_the_version():
    assert f"version: {pydrift.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{pydrift.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_words_are_split_as_a_shell_does():
    block = Block(Path("x.md"), 1, "console", "$ pydrift train \\\n    --arch 'a b'   # why\nout\n$ make demo\n", "")
    assert commands(block) == [["pydrift", "train", "--arch", "a b"], ["make", "demo"]]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_in_sentences_exist(page: Path):
    """`pydrift/drift/`, `tests/drift/test_verdict.py`, `bench/results/fingerprint_*.json`; not those of new files."""
    named = re.findall(r"`((?:pydrift|csrc|tests|bench|docs|examples|requirements)/[\w./*-]*)`", page.read_text())
    assert [
        path for path in named if not list(ROOT.glob(path.rstrip("/"))) and "my_" not in path and "_build" not in path
    ] == []
