"""`pydrift ARGUMENTS` in this process: a new one imports torch, which takes seconds."""

import contextlib
import io
import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from pydrift.cli import main


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def call(*arguments: object, cwd: Path | None = None, **environment: str) -> Done:
    """Runs the command line in the folder `cwd`, with these changes of the environment."""
    stdout, stderr, code = io.StringIO(), io.StringIO(), None
    with contextlib.ExitStack() as stack:
        for changed in (
            mock.patch.object(sys, "argv", ["pydrift", *map(str, arguments)]),
            mock.patch.object(sys, "path", [*sys.path]),  # --arch appends the current folder
            mock.patch.object(signal, "signal"),  # the command's handlers would stay
            mock.patch.dict(os.environ, environment),
            contextlib.chdir(cwd or Path.cwd()),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            stack.enter_context(changed)
        try:
            main()
        except SystemExit as left:
            code = left.code
    assert isinstance(code, int)
    return Done(code, stdout.getvalue(), stderr.getvalue())
