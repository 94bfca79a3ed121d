"""`python -m pydrift`, and what the installed `pydrift` calls: the command line behind one more guard.

An installation so broken that the command line cannot be imported must not leave with Python's 1, which means drift.
"""

import sys
import traceback
from typing import NoReturn


def main() -> NoReturn:
    """Runs the command line; SystemExit always."""
    try:
        from pydrift.cli import main as run
    except BaseException:
        traceback.print_exc()
        sys.exit(5)
    run()


if __name__ == "__main__":
    main()
