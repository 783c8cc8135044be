"""The run directory on disk, the only database: what a run is, what was done, how it ended.

run_directory   a run and its attempts: reading and writing their files
journal         what the launcher did, one line each, on disk before the next step
lease           which job or process executes a run
locks           one launcher at a time starts an attempt, or works for a key of --once
once            which run a key of --once belongs to
code_store      files of code/ that the runs of a root share
finding         runs by directory, run id or name
"""

from launcher.rundir.journal import Journal
from launcher.rundir.run_directory import Attempt, RunDirectory

__all__ = ["Attempt", "Journal", "RunDirectory"]
