"""What the command line prints, and where: results first to disk, then to stdout, which is theirs alone."""

import os
import subprocess
import sys
from importlib import import_module
from io import StringIO
from pathlib import Path

import pytest
import typer
from rich.console import Console

from pydrift import DriftReport
from pydrift.core.errors import PydriftError
from pydrift.core.progress import PlainLines
from tests.report.drift_reports import make

cli = import_module("pydrift.cli.app")


def test_every_command_leaves_stdout_to_its_result() -> None:
    commands = [typer.main.get_command(cli.app)]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
        assert isinstance(command, cli.Command) or hasattr(command, "commands")
    assert len(commands) > 15


SAYS = """
from pydrift.cli import _open_standard_streams
_open_standard_streams()
from pydrift.cli.app import complain, say, stdout_for_results
from pydrift.core.errors import PydriftError
import os, sys
code = 0
with stdout_for_results():
    print("noise")
    os.write(1, b"noise of C code\\n")
    try:
        say("result \\u25b2")
    except PydriftError as error:
        complain(str(error))
        code = error.exit_code
with open(sys.argv[1], "w") as file:
    file.write(f"{file.fileno() > 2} {code}")
"""


NOISE = "noise\nnoise of C code\n"


@pytest.mark.parametrize(
    ("shell", "out", "err", "code"),
    [
        ('PYTHONIOENCODING=ascii "$@"', "result \\u25b2\n", NOISE, 0),
        ('PYTHONIOENCODING=latin-1 "$@"', "result \\u25b2\n", NOISE, 0),
        ('"$@" >/dev/full', "", NOISE + "pydrift: the result cannot be printed: No space left on device\n", 5),
        ('"$@" 2>&-', "result ▲\n", "", 0),
        ('"$@" >&-', "", "noise\n", 0),
        ('"$@" <&- >&- 2>&-', "", "", 0),
        ('"$@" | true', "", NOISE, 0),
    ],
)
def test_printing_never_fails_on_an_encoding_or_a_closed_stream(
    tmp_path: Path, shell: str, out: str, err: str, code: int
) -> None:
    command = ["bash", "-c", shell, "bash", sys.executable, "-c", SAYS, str(tmp_path / "witness")]
    environment = {**os.environ, "PYTHONUTF8": "1"} if "IOENCODING" not in shell else dict(os.environ)
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")
    assert (done.stdout, done.stderr) == (out, err)
    assert (tmp_path / "witness").read_text() == f"True {code}"  # and no later file is taken for a standard stream


@pytest.mark.parametrize("json_wanted", [False, True])
def test_the_report_is_saved_before_the_result_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, json_wanted: bool
) -> None:
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(PydriftError, match="the result cannot be printed: No space left on device"):
            cli.finish(make(), json=json_wanted, out=tmp_path)
        monkeypatch.undo()
    assert DriftReport.load(tmp_path).verdict == make().verdict


def test_progress_that_cannot_be_printed_ends_no_work() -> None:
    with open("/dev/full", "w") as stream, PlainLines(stream) as progress:
        progress.phase("training", 2)
        progress.advance(2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def test_a_narrow_terminal_loses_no_column(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(cli, "_print", said.append)
    monkeypatch.setattr(sys, "stdout", terminal := StringIO())
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "25")
    assert Console(file=terminal).width == 25
    report = make()
    cli.print_result(report)
    for found in report.classes[:5]:
        assert found.name in said[0]
    for title in ("class", "drift score", "adjusted p", "verdict"):
        assert title in said[0]
