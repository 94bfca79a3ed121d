"""Builds the native libraries with CMake and ninja and puts them into the package. Paths and switches only.

    pip install -c constraints.txt --no-build-isolation -e .     from source: also the small module pydrift._native
    make wheel                                                   one wheel for every Python: the libraries alone

Environment:
    PYDRIFT_NATIVE  auto (default): build when a C++ compiler is found; without one the install succeeds with a warning,
                    and pydrift runs on plain torch. 1: a missing compiler is an error. 0: build nothing. A build that
                    has started and fails is always an error.
    PYDRIFT_CUDA    auto (default): build the CUDA library when a CUDA *compiler* works, with or without a GPU.
                    1: a missing CUDA compiler is an error. 0: CPU only.
    CXX, CUDACXX, CUDAARCHS, CMAKE_BUILD_PARALLEL_LEVEL  as CMake reads them.
"""

import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup  # type: ignore[import-untyped]
from setuptools.command.bdist_wheel import bdist_wheel  # type: ignore[import-untyped]
from setuptools.command.build_ext import build_ext  # type: ignore[import-untyped]

ROOT = Path(__file__).parent.resolve()


def switch(name: str) -> str:
    value = os.environ.get(name) or "auto"
    if value not in ("auto", "0", "1"):
        sys.exit(f"{name} must be auto, 0 or 1, got {value!r}")
    return value


def wants_build() -> bool:
    native = switch("PYDRIFT_NATIVE")
    compilers = [shlex.split(os.environ["CXX"])[0]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    if native == "0" or any(shutil.which(compiler) for compiler in compilers):
        return native != "0"
    problem = f"no C++ compiler found (looked for {', '.join(compilers)})"
    if native == "1":
        sys.exit(f"PYDRIFT_NATIVE=1, but {problem}")
    print(f"WARNING: {problem}: pydrift will run on plain torch, more slowly", file=sys.stderr)
    return False


def package_folder(name: str) -> Path:
    """Where a package lies, without importing it (torch takes seconds)."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        sys.exit(f"the native build needs {name}: install it first, then pydrift with --no-build-isolation")
    return Path(spec.origin).parent


def tool(name: str) -> str:
    """A build tool of this environment (its scripts folder is not on PATH unless activated), else of the machine."""
    path = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if path is None:
        sys.exit(f"the native build needs {name}: pip install {name}, or set PYDRIFT_NATIVE=0")
    return path


class CMakeBuild(build_ext):
    def run(self) -> None:
        target = self.target_folder()
        built = self.build(target) if wants_build() else []
        for library in [*target.glob("libpydrift_*.so"), *target.glob("_native.*.so")]:
            if library not in built:  # of an earlier build with other switches: must not be loaded
                library.unlink()

    def is_in_place(self) -> bool:
        return bool(self.inplace or self.editable_mode)

    def target_folder(self) -> Path:
        return (ROOT if self.is_in_place() else Path(self.build_lib).resolve()) / "pydrift"

    def build(self, target: Path) -> list[Path]:
        with_cuda = {"auto": "AUTO", "0": "OFF", "1": "ON"}[switch("PYDRIFT_CUDA")]
        options = {
            "CMAKE_MAKE_PROGRAM": tool("ninja"),
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": package_folder("pybind11") / "share" / "cmake" / "pybind11",
            "PYDRIFT_TORCH_DIR": package_folder("torch"),
            "PYDRIFT_TORCH_VERSION": importlib.metadata.version("torch"),
            "PYDRIFT_VERSION": self.distribution.get_version(),
            "PYDRIFT_CUDA": with_cuda,
        }
        # Kept: an unchanged tree builds nothing. CMake deletes what another setting built, so CPU only lies apart.
        folder = ROOT / "build" / f"native-{sys.implementation.cache_tag}{'-cpu' if with_cuda == 'OFF' else ''}"
        defines = [f"-D{key}={value}" for key, value in options.items()]
        cmake = tool("cmake")
        subprocess.run([cmake, "-S", ROOT, "-B", folder, "-G", "Ninja", *defines], check=True)
        subprocess.run([cmake, "--build", folder], check=True)
        component = [] if self.is_in_place() else ["--component", "libraries"]  # a wheel has no module for one Python
        subprocess.run([cmake, "--install", folder, "--prefix", target, *component], check=True)
        manifest = folder / ("_".join(["install_manifest", *component[1:]]) + ".txt")
        return [Path(line) for line in manifest.read_text().splitlines()]

    def get_outputs(self) -> list[str]:
        return [str(library) for library in self.target_folder().glob("*.so")]

    def get_output_mapping(self) -> dict[str, str]:
        return {}  # an editable install has its libraries in the source package


class LibraryWheel(bdist_wheel):
    """A wheel whose libraries stand on torch's stable ABI: tied to the platform, to no Python version."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("pydrift._native", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": LibraryWheel},
)
