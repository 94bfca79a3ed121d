"""The arrows of the architecture, asserted over imports and #includes (README, chapter Design)."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pydrift"

VALUES = {"errors", "gray", "store", "version"}  # small values and files that every layer may use
ALLOWED = {
    "__init__": {"auditor", "data", "errors", "fingerprint", "inversion", "modelfile", "ownership"}
    | {"privacy", "privacy_result", "result", "shadows", "training", "version"},
    "__main__": {"cli"},
    "arch": VALUES,
    "answers": VALUES | {"classifier", "data", "likeness", "membership", "probes"},
    "auditor": VALUES
    | {
        "answers",
        "baselines",
        "gray_tasks",
        "calibration",
        "classifier",
        "data",
        "fingerprint",
        "inversion",
        "membership",
        "modelfile",
        "noise",
        "ops",
        "parallel",
    }
    | {"progress", "result", "shadows", "significance", "subject", "training", "verdict"},
    "baselines": VALUES | {"classifier", "data", "fingerprint", "result", "training"},
    "calibration": VALUES | {"arch", "inversion", "likeness", "subject"},
    "classifier": VALUES | {"arch", "ops"},
    "cli": VALUES
    | {"arch", "auditor", "classifier", "data", "demo", "doctor", "fingerprint", "inversion", "modelfile"}
    | {"ownership", "progress", "report"}
    | {"privacy", "privacy_result", "result", "shadows", "subject", "trainer", "training", "verdict"},
    "data": VALUES | {"rotation"},
    "demo": VALUES | {"auditor", "data", "modelfile", "parallel", "progress", "result", "trainer", "training"},
    "doctor": VALUES | {"ops"},
    "errors": set(),
    "fingerprint": VALUES
    | {"arch", "classifier", "data", "membership", "modelfile", "noise", "parallel", "progress", "subject"}
    | {"report"},  # only inside save_html
    "gray": set(),
    "gray_tasks": VALUES | {"classifier", "inversion"},
    "inversion": VALUES | {"arch", "classifier", "noise", "ops", "parallel"},
    "likeness": set(),
    "membership": VALUES | {"classifier", "noise", "ops", "parallel", "probes"},
    "modelfile": VALUES | {"arch"},
    "noise": set(),
    "ownership": VALUES
    | {"classifier", "data", "modelfile", "noise", "ops", "parallel", "progress", "shadows", "subject", "training"}
    | {"report"},  # only inside save
    "ops": {"noise"},
    "parallel": set(),
    "privacy": VALUES
    | {"auditor", "classifier", "data", "membership", "modelfile", "ops", "privacy_result", "privacy_shadows"}
    | {"progress", "shadows", "subject", "training"},
    "privacy_result": VALUES | {"membership", "report"},  # report only inside save
    "privacy_shadows": VALUES | {"membership", "shadows", "subject", "training"},
    "probes": {"rotation"},
    "progress": set(),
    "report": VALUES | {"fingerprint", "membership", "ownership", "privacy_result", "result", "verdict"},
    "result": VALUES | {"report", "significance", "verdict"},  # report only inside save_html
    "rotation": set(),
    "shadows": VALUES
    | {"arch", "classifier", "data", "membership", "modelfile", "noise", "ops", "parallel", "progress", "subject"}
    | {"training"},
    "store": {"errors"},
    "subject": VALUES | {"arch", "modelfile", "training"},
    "trainer": VALUES | {"arch", "data", "modelfile", "noise", "parallel", "subject", "training"},
    "training": VALUES | {"arch", "ops", "parallel"},
    "significance": set(),
    "verdict": {"likeness", "significance"},
    "version": set(),
}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def room(path):
    """The top-level module or folder of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path):
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "pydrift" else [node.module]
            )
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("pydrift.")}
    return rooms


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path):
    own = room(path)
    assert imported_rooms(path) - {own} <= ALLOWED[own]


def test_every_room_is_known():
    assert {room(path) for path in modules()} == set(ALLOWED)


def test_files_are_short_enough_to_read():
    files = [*modules(), *(f for f in (ROOT / "csrc").rglob("*") if f.is_file())]
    assert {str(f.relative_to(ROOT)): n for f in files if (n := len(f.read_text().splitlines())) > 400} == {}


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
