"""Checks a wheel as a user would meet it (`make test-wheel`); not a test that pytest collects.

    python tests/check_wheel.py dist/pydrift-*.whl [PYTHON ...]

1. The file: its tags, its size, what it holds.
2. This Python: a fresh environment with what the wheel declares to need and nothing else, and no compiler on PATH. It
   passes `pydrift demo`, with the same figures to the bit as this source tree, which also has the module `_native`.
3. Newer Pythons: the index has a file of every dependency. Where such a Python is found, the wheel is installed into
   it, compiled, and asked for its help.
4. Each PYTHON that is named: the wheel with all its dependencies from the index, torch included, then the demo.
"""

import argparse
import email
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
NEWER = ("3.13",)
MAX_BYTES, MAX_METADATA_BYTES = 15_000_000, 20_000
OLDEST_GLIBC = 34  # of manylinux_2_NN; Debian 12's compiler allows no older one
NOT_FIGURES = {"seconds", "restart_steps_per_second", "seal"}  # times in a report, and the digest over them


def require(condition: bool, problem: str) -> None:
    if not condition:
        sys.exit(f"check_wheel: {problem}")


def run(*command: str | Path, **environment: str) -> str:
    """The output of a command that must succeed, with nothing on PATH but its own folder: no compiler, no pydrift."""
    clean = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    clean |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "OPENBLAS_"))}
    clean |= {"PATH": str(Path(command[0]).parent), "PYTHONNOUSERSITE": "1"}
    done = subprocess.run(list(map(str, command)), env=clean | environment, capture_output=True, text=True, cwd="/")
    require(done.returncode == 0, f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def at_once(*actions: Callable[[], Any]) -> list[Any]:
    """What each returns. They wait for programs, and most of these use one core."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda action: action(), actions))


# ---- The file


def check_file(wheel: Path) -> list[str]:
    """Returns what the wheel needs, as its metadata says."""
    size = wheel.stat().st_size
    tags = re.fullmatch(r"pydrift-[^-]+-py3-none-manylinux_2_(\d+)_x86_64\.whl", wheel.name)
    require(tags is not None and int(tags[1]) <= OLDEST_GLIBC, f"unexpected tags: {wheel.name}")
    require(size < MAX_BYTES, f"{wheel.name} has {size:,} bytes, {MAX_BYTES:,} are the limit")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("pydrift/") and not name.endswith("/")}
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(name)
    tracked = subprocess.run(["git", "ls-files", "pydrift"], cwd=ROOT, capture_output=True, text=True, check=True)
    libraries = {f"pydrift/{path.name}" for path in (ROOT / "pydrift").glob("libpydrift_*.so")}
    expected = set(tracked.stdout.split()) | libraries
    require(held == expected, f"the wheel differs from the source tree in {sorted(held ^ expected)}")
    require(len(text) < MAX_METADATA_BYTES, f"METADATA has {len(text):,} bytes, {MAX_METADATA_BYTES:,} are the limit")
    print(f"{wheel.name}: {size:,} bytes, METADATA {len(text):,} bytes, {', '.join(sorted(libraries))}")
    return email.message_from_bytes(text).get_all("Requires-Dist", [])


# ---- Environments


def fresh_environment(folder: Path, python: str | Path) -> Path:
    """Returns the folder of its programs."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    return folder / "bin"


def needed(requirements: list[str]) -> set[str]:
    """The distributions that these requirements lead to, among those of this environment."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        if requirement.name not in found:
            found.add(requirement.name)
            waiting += map(Requirement, metadata.requires(requirement.name) or [])
    return found


def lend(names: set[str], site_packages: Path) -> None:
    """Links the distributions of this environment into another one of the same Python: torch is large."""
    for name in names:
        distribution = metadata.distribution(name)
        tops = {path.parts[0] for path in distribution.files or [] if path.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            link = site_packages / top
            if not link.exists():
                link.symlink_to(distribution.locate_file(top))


def site_packages_of(python: Path) -> Path:
    return Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())


# ---- The demo


def figures(folder: Path) -> dict[str, Any]:
    """All that the demo's reports say, but for how long it took."""
    reports = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/report.json")}
    require(len(reports) == 2, f"the demo left {sorted(reports)} in {folder}, not two reports")
    return {name: without_times(report) for name, report in reports.items()}


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in NOT_FIGURES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def demo(programs: Path, out: Path) -> dict[str, Any]:
    facts = run(programs / "pydrift", "doctor")
    require(re.search(r"^native cpu +loaded$", facts, re.MULTILINE) is not None, f"no native library:\n{facts}")
    run(programs / "pydrift", "demo", "--out", out)
    return figures(out)


def check_this_python(wheel: Path, requirements: list[str], folder: Path) -> None:
    programs = fresh_environment(folder / "this", sys.executable)
    lend(needed(requirements), site_packages_of(programs / "python"))
    run(programs / "pip", "install", "--quiet", "--no-deps", "--no-index", wheel)
    run(programs / "pip", "check")
    where = run(programs / "python", "-c", "import pydrift; print(pydrift.__file__)")
    require(str(folder) in where, f"pydrift comes from {where}, not from the wheel")
    from_wheel, from_source = at_once(
        lambda: demo(programs, folder / "from-wheel"),
        lambda: demo(Path(sys.executable).parent, folder / "from-source"),
    )
    require(from_wheel == from_source, "the demo's figures differ between the wheel and this source tree")
    print(f"Python {sys.version.split()[0]}: the demo gives the figures of this source tree, to the bit")


# ---- Other Pythons


def find_python(version: str) -> str | None:
    command = shutil.which(f"python{version}")
    if command is None:
        return None
    say = [command, "-c", "import sys; print(sys.executable)"]
    chosen = os.environ | {"PYENV_VERSION": version}  # else pyenv hides all but one
    done = subprocess.run(say, env=chosen, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def check_newer_python(wheel: Path, version: str, folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    only = ["--only-binary=:all:", "--python-version", version, "-c", ROOT / "constraints.txt"]
    target = ["--dry-run", "--ignore-installed", "--target", folder / "nothing"]
    subprocess.run([*pip, *only, *target, wheel], check=True)
    print(f"Python {version}: the index has a file of every dependency")
    python = find_python(version)
    if python is None:
        print(f"Python {version}: not found here, so the wheel is not installed into it")
        return
    programs = fresh_environment(folder / version, python)
    run(programs / "pip", "install", "--quiet", "--no-deps", wheel)
    run(programs / "pip", "install", "--quiet", "typer", "rich")
    run(
        programs / "python",
        "-W",
        "error",
        "-m",
        "compileall",
        "-q",
        "-f",
        site_packages_of(programs / "python") / "pydrift",
    )
    require("audit" in run(programs / "pydrift", "--help"), f"no help from Python {version}")
    print(f"Python {version}: installs, compiles and shows its help; torch was not installed")


def check_named_python(wheel: Path, python: str, folder: Path) -> None:
    programs = fresh_environment(folder / "named", python)
    run(programs / "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel)
    demo(programs, folder / "named-demo")
    print(f"{python}: the wheel with its dependencies from the index passes the demo")


def main() -> None:
    parser = argparse.ArgumentParser(description="Checks a wheel as a user would meet it.")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("pythons", nargs="*", help="Pythons to install the wheel into with its dependencies.")
    options = parser.parse_args()
    wheel = options.wheel.resolve()
    requirements = check_file(wheel)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        at_once(
            lambda: check_this_python(wheel, requirements, folder),
            *(partial(check_newer_python, wheel, version, folder) for version in NEWER),
        )
        for number, python in enumerate(options.pythons):
            check_named_python(wheel, python, folder / str(number))


if __name__ == "__main__":
    main()
