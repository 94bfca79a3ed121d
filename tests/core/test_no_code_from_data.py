"""The package's own code never turns data into code: no pickle, no eval, no loader that could run what it reads."""

import ast
import re
from pathlib import Path

import pytest

import pydrift

PACKAGE = Path(pydrift.__file__).parent
_FORBIDDEN_MODULES = re.compile(
    r"(c?pickle|_pickle|dill|cloudpickle|joblib|yaml|shelve|marshal|torch\.(hub|jit|package)|sklearn\.externals)(\.|$)"
)


def unsafe_lines(source: str, file: str) -> list[str]:
    """The places in a module where data could become code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names):
                modules = [alias.name for alias in names]
                unsafe = any(_FORBIDDEN_MODULES.match(m) for m in modules)
            case ast.ImportFrom(module=str(module), names=names):
                unsafe = any(_FORBIDDEN_MODULES.match(m) for m in (module, *(f"{module}.{n.name}" for n in names)))
            case ast.Attribute(value=ast.Name(id="pickle")):
                unsafe = True
            case ast.Attribute(value=ast.Name(id="torch"), attr="hub" | "jit" | "package"):
                unsafe = True
            case ast.Attribute(value=ast.Attribute(attr="export"), attr="load"):
                unsafe = True
            case ast.Call(func=ast.Name(id="eval" | "exec" | "compile" | "__import__")):
                unsafe = True
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=("torch" | "np" | "numpy") as owner), attr="load"), keywords=k
            ):
                wanted = ("weights_only", True) if owner == "torch" else ("allow_pickle", False)
                unsafe = wanted not in [(word.arg, getattr(word.value, "value", None)) for word in k]
            case ast.keyword(arg="weights_only" | "allow_pickle" | "trust_remote_code" as name, value=value):
                unsafe = getattr(value, "value", None) is not (name == "weights_only")
            case _:
                unsafe = False
        if unsafe:
            found.append(f"{file}:{getattr(node, 'lineno', '?')}")
    return found


def test_no_code_of_the_package_turns_data_into_code() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 10
    assert [line for f in files for line in unsafe_lines(f.read_text(), f.relative_to(PACKAGE).as_posix())] == []


@pytest.mark.parametrize(
    "line",
    [
        *(
            "torch.load(f)",
            "torch.load(f, weights_only=False)",
            "torch.load(f, weights_only=flag)",
            "load(weights_only=x)",
        ),
        *("np.load(f)", "np.load(f, allow_pickle=True)", "from_pretrained(n, trust_remote_code=True)"),
        *("import pickle", "from pickle import loads", "import yaml", "from torch import hub", "import torch.jit"),
        *(
            "torch.hub.load(x)",
            "torch.jit.load(x)",
            "torch.export.load(f)",
            "import joblib",
            "eval(text)",
            "exec(text)",
        ),
        "pickle.loads(b)",
    ],
)
def test_the_code_check_can_fail(line: str) -> None:
    assert unsafe_lines(line, "x.py")
