"""The run directory: what a run is, what was done, what came of it. It is the only database.

rundir    the paths of a run and its attempts, reading and writing its files
journal   what the launcher did, one line each, on disk before the next thing happens
code      the snapshot of code that a run executes
"""

from launcher.rundir.journal import Journal
from launcher.rundir.run_directory import Attempt, RunDirectory

__all__ = ["Attempt", "Journal", "RunDirectory"]
