"""Starts workers on a folder of tasks: on this machine, on a Slurm cluster or on a Ray cluster.

A worker is the command `pydrift shadow train DIR`, and all that it needs to know is in the folder. So a launcher only
has to run a command. A job array, cron or a shell on another machine can do the same. The folder must have the same
path on all machines.
"""

from pydrift.shadows.engines.launch import LAUNCHERS, launch

__all__ = ["LAUNCHERS", "launch"]
