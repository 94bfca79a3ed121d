"""The native loops of every instruction set under the address and undefined-behaviour sanitizers."""

from pathlib import Path

import pytest

from tests.native_harness import NATIVE_TESTS, needs_compiler, run_sanitized, sanitized_objects

pytestmark = [pytest.mark.slow, needs_compiler]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sanitized_objects(tmp_path_factory.mktemp("objects"))


@pytest.mark.parametrize("program", sorted(NATIVE_TESTS.glob("*_sanitized.cpp")), ids=lambda program: program.stem)
def test_address_and_undefined_sanitizers(program: Path, objects: list[Path], tmp_path: Path) -> None:
    run_sanitized(tmp_path, program, objects)
