"""The version, in a module of its own so that `pydrift --version` imports nothing else."""

from importlib.metadata import version

__version__ = version("pydrift")
