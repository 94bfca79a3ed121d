"""What a terminal would obey never reaches it, by whatever way."""

import pytest

from pydrift.core.errors import InputRefused, PydriftError, UsageError
from pydrift.core.text import printable, printable_lines

HOSTILE = "a\x1b[2J\n\u202eb\udce9"


def test_control_bidirectional_and_surrogate_characters_become_visible() -> None:
    assert printable(HOSTILE) == "a\\x1b[2J\\n\\u202eb\\udce9"
    assert printable_lines(HOSTILE) == "a\\x1b[2J\n\\u202eb\\udce9"
    assert printable("é ▲ 漢") == "é ▲ 漢"
    assert printable(printable(HOSTILE)) == printable(HOSTILE)


@pytest.mark.parametrize("limit", [4, 5, 8, 100])
def test_a_limit_holds(limit: int) -> None:
    assert len(printable(HOSTILE, limit)) <= limit
    assert printable(HOSTILE, 8) == "a\\x1b..."


@pytest.mark.parametrize("kind", [PydriftError, UsageError, InputRefused])
def test_every_error_with_a_sentence_is_escaped(kind: type[PydriftError]) -> None:
    assert str(kind(f"{HOSTILE}: damaged")) == "a\\x1b[2J\\n\\u202eb\\udce9: damaged"
