"""Reports whose fields were changed at random, by somebody who makes the seal right again.

Each is refused with a sentence, or it is read and rendered like any other: no other exception.
"""

import copy
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pydrift import DriftReport, InputRefused, OwnershipReport
from pydrift.report import Result, render_html, render_terminal, write_report
from tests.report.drift_reports import make
from tests.report.test_ownership import ALL
from tests.seals import resealed

CASES = 120
VALUES = [
    *(None, True, 0, -1, 2**31, 2**63, -(2**63), 10**30, 1e99, -1e99, 0.5, 1e-320),
    *("", "x", "\x1b[2J", "é\udce9", "1", [], {}, [[]], [None], {"a": 1}, [[1, 2], [3]]),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a document; of long lists the first three."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, part in inner for place in places(part, (*path, key))]


def change(document: Any, rng: random.Random) -> Any:
    """A copy in which one or two values are others, missing, or taken from elsewhere."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 1, 2))):
        *outer, last = rng.choice(places(document))
        holder = document
        for key in outer:
            holder = holder[key]
        if rng.random() < 0.15:
            del holder[last]
        else:
            holder[last] = copy.deepcopy(
                rng.choice([*VALUES, *holder.values()] if isinstance(holder, dict) else VALUES)
            )
    return document


@pytest.mark.parametrize(("kind", "result"), [(DriftReport, make()), (OwnershipReport, ALL)])
def test_a_changed_report_is_refused_or_rendered(tmp_path: Path, kind: Any, result: Result) -> None:
    write_report(result, tmp_path)
    file = tmp_path / kind.json_name
    document = json.loads(file.read_text())
    seal = document.pop("seal")
    refused = 0
    for seed in range(CASES):
        file.write_text(resealed({**change(document, random.Random(seed)), "seal": seal}))
        try:
            report = kind.load(tmp_path)
        except InputRefused:
            refused += 1
            continue
        assert "\x1b" not in render_html(report)
        render_terminal(report, Console(file=io.StringIO(), width=100))
    assert CASES // 3 < refused < CASES
