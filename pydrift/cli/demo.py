"""`pydrift demo`: the drift audit on small, real data, in both directions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pydrift.cli.app import DRIFT, app, print_result, say
from pydrift.core.files import check_writable
from pydrift.core.progress import for_terminal


@app.command(rich_help_panel=DRIFT)
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the models, the calibration and the reports.")] = Path(
        "demo"
    ),
) -> None:
    """Audit a benign and a drifted candidate on scikit-learn's digits."""
    check_writable(out / "base.safetensors")
    from pydrift.drift.demo import DRIFT as PLANTED
    from pydrift.drift.demo import run_demo
    from pydrift.report import write_report

    for outcome in run_demo(out, for_terminal()):
        what = f"{PLANTED} planted" if outcome.name == "drifted" else "retrained on another sample"
        say(f"\n{outcome.name} candidate ({what}), accuracy {outcome.accuracy:.1%} on current test data")
        print_result(outcome.report)
        say(f"report: {write_report(outcome.report, out / outcome.name)}")
