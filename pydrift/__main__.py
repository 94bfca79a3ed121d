"""`python -m pydrift`, which the installed `pydrift` calls too: the command line behind one more guard.

If an installation is too broken to import the command line, it must not leave with Python's 1, which means drift.
"""

import sys
import traceback
from typing import NoReturn


def main() -> NoReturn:
    """Runs the command line and always leaves by SystemExit."""
    try:
        from pydrift.cli import main as run
    except BaseException:
        traceback.print_exc()
        sys.exit(5)
    run()


if __name__ == "__main__":
    main()
