"""The arrows of the architecture, asserted over imports and #includes (docs/design.md)."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pydrift"

AUDITS = {"drift", "membership", "ownership", "fingerprint"}
ENGINE = {"shadows", "inversion", "training", "models", "data", "ops", "stats", "core"}
ALLOWED = {
    "__main__": {"cli"},
    "cli": {"report"} | AUDITS | ENGINE,
    "report": {"stats", "core"} | AUDITS | {"inversion"},  # results of audits and the gray data in them
    "drift": ENGINE | {"fingerprint"},  # only what the fingerprint room exports
    "membership": ENGINE,
    "ownership": ENGINE,
    "fingerprint": ENGINE,
    "shadows": {"training", "models", "data", "ops", "stats", "core"},
    "inversion": {"models", "ops", "core"},
    "training": {"models", "data", "ops", "core"},
    "models": {"ops", "core"},
    "data": {"core"},
    "ops": {"core"},
    "stats": {"core"},
    "core": set(),
}
"""What each room may import, beside itself and `version`, whether at once, lazily or for type checking."""

RESULTS = {"drift.result", "membership.result", "ownership.result", "fingerprint.screening"}
SELDOM = {"__init__", "version"}  # of the package itself: the public names, and the number of the version


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path):
    """The module of a file, without "pydrift."; a package's is that of its folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def room(module):
    return module.split(".")[0]


@cache
def imports(path):
    """The modules of the package that a file imports, anywhere in it, without "pydrift."."""
    known = {dotted(file) for file in modules()}
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        ours = {name.removeprefix("pydrift.") for name in names if name.startswith("pydrift.")}
        modules_named = ours & known
        found |= {m for m in modules_named if not any(other.startswith(f"{m}.") for other in modules_named)}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path):
    own = room(dotted(path))
    if own in SELDOM:
        return
    rooms = {room(module) for module in imports(path)} - {own} - SELDOM
    assert rooms <= ALLOWED[own]


def test_every_room_is_known():
    assert {room(dotted(path)) for path in modules()} - SELDOM == set(ALLOWED)


def test_results_know_nothing_of_reports_and_audits():
    for path in modules():
        if dotted(path) in RESULTS:
            assert not {m for m in imports(path) if room(m) == "report" or m.endswith(".audit")}, path


def test_an_audit_sees_only_what_another_room_of_audits_exports():
    for path in modules():
        own = room(dotted(path))
        if own in AUDITS:
            inside = {m for m in imports(path) if room(m) in AUDITS - {own} and "." in m}
            assert inside == set(), path


def circle(arrows):
    """A circle in a graph of name -> names, as a list of names; empty where there is none."""
    done, trail = set(), []

    def visit(name):
        if name in trail:
            return trail[trail.index(name) :] + [name]
        if name in done:
            return []
        trail.append(name)
        for other in sorted(arrows.get(name, ())):
            if found := visit(other):
                return found
        done.add(trail.pop())
        return []

    for name in sorted(arrows):
        if found := visit(name):
            return found
    return []


def test_a_circle_would_be_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_there_is_no_circle_of_rooms_or_files():
    files = {dotted(path): imports(path) for path in modules() if dotted(path) not in SELDOM}
    rooms = {}
    for module, others in files.items():
        rooms.setdefault(room(module), set()).update({room(m) for m in others} - {room(module)} - SELDOM)
    assert circle(rooms) == []
    assert circle({module: others - {module} - SELDOM for module, others in files.items()}) == []


def test_files_are_short_enough_to_read():
    files = [*modules(), *(f for f in (ROOT / "csrc").rglob("*") if f.is_file())]
    assert {str(f.relative_to(ROOT)): n for f in files if (n := len(f.read_text().splitlines())) > 400} == {}


LONGEST_FUNCTION = 60  # lines; the signatures of ops and of what calls them are long


def test_functions_are_short_enough_to_read():
    long = {}
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = node.end_lineno - body[0].lineno + 1 if body else 0
                if lines > LONGEST_FUNCTION:
                    long[f"{dotted(path)}.{node.name}"] = lines
    assert long == {}


def includes(path):
    return re.findall(r'^\s*#include\s+[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


def native_files():
    return sorted(p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".cpp", ".cu", ".cuh"))


@pytest.mark.parametrize("path", native_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_torch_headers_stay_at_the_border(path):
    """Stable torch headers, only where ops are declared, checked and launched; pybind11 in module.cpp alone."""
    torch = [name for name in includes(path) if name.startswith(("torch/", "ATen/", "c10/"))]
    assert all(
        name.startswith(("torch/csrc/stable/", "torch/csrc/inductor/aoti_torch/", "torch/headeronly/"))
        for name in torch
    )
    op_header = path.suffix == ".h" and (path.with_name(path.stem + "_cpu.cpp")).exists()
    border = path.name in ("library.cpp", "check.h", "cuda.h") or op_header or path.stem.endswith(("_cpu", "_cuda"))
    assert border or not torch
    assert path.name == "module.cpp" or not any("pybind11" in name for name in includes(path))


NETWORK = {"network/program", "network/cpu", "network/cuda"}
NATIVE_ALLOWED = {  # beside its own folder
    "common": set(),
    "network/program": {"common"},
    "network/cpu": {"common", "network/program"},
    "network/cuda": {"common", "network/program"},
    "boundary": {"common"} | NETWORK,
    "invert": {"common"} | NETWORK,
    "statistics": {"common"} | NETWORK,
    "train": {"common"} | NETWORK,
}


def native_room(path):
    """The folder of a native file below csrc, as includes name it; "" for csrc itself."""
    return "/".join(path.parent.relative_to(ROOT / "csrc").parts)


def test_rooms_of_native_code_follow_the_arrows():
    """An op's room knows common and network; no op's room knows another one's."""
    assert {native_room(path) for path in native_files()} == {"", *NATIVE_ALLOWED}
    for path in native_files():
        own = native_room(path)
        for name in includes(path):
            if own and (ROOT / "csrc" / name).exists():
                assert native_room(ROOT / "csrc" / name) in {own, *NATIVE_ALLOWED[own]}, f"{path.name} includes {name}"
