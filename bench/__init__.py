"""Benchmarks of pydrift: README.md lists the scripts, what each measures and the command that runs it."""
