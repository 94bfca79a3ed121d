"""JSON as the standard has it."""

from pathlib import Path

import pytest

from pydrift.core.errors import InputRefused
from pydrift.core.strict_json import read_json, to_strict_json, write_json
from tests.core.processes import names_below


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "a": 2}', "an object has the same key twice"),
        ('{"a": NaN}', "NaN is not JSON"),
        ("[-Infinity]", "-Infinity is not JSON"),
        ("[1e999]", "a number is too large"),
        ("[-1e999]", "a number is too large"),
        ("[" + "9" * 5000 + "]", "a number is too large"),
        ("[1e101]", "a number is too large"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a"', "Expecting"),
        ("\xff", "Expecting"),
    ],
)
def test_read_json_refuses(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(InputRefused, match=rf"f\.json: not valid JSON: {reason}"):
        read_json(tmp_path / "f.json")


def test_json_is_canonical_and_strict(tmp_path: Path) -> None:
    assert to_strict_json({"b": 1, "a": "é"}) == '{\n  "a": "\\u00e9",\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "f", [float("nan")])
    assert names_below(tmp_path) == set()
