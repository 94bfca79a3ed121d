"""`python -m pydrift` is `pydrift`."""

from pydrift.cli import main

if __name__ == "__main__":
    main()
