"""Starts workers on a folder of tasks: on this machine, on a Slurm cluster or on a Ray cluster.

A worker is the command `pydrift shadow train DIR`, and all that it needs to know is in the folder. So a launcher only
has to run a command, and anything else that can (a job array, cron, a shell on another machine) does as well. The
folder must have the same path on all machines.
"""

from pydrift.shadows.engines.launch import LAUNCHERS, launch

__all__ = ["LAUNCHERS", "launch"]
