"""sbatch.sh run in the allocation that this shell is in: the same file that a batch job executes."""

import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from launcher._util import shell
from launcher._util.processes import this_launcher
from launcher.backends.local import abs_status
from launcher.backends.process_environment import for_allocation
from launcher.planning.model import Plan
from launcher.rundir import RunDirectory


@dataclass
class AllocatedStep:
    """One execution of a run's sbatch.sh under salloc."""

    run: RunDirectory
    plan: Plan
    environ: Mapping[str, str]
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start sbatch.sh in a process group of its own."""
        log = self.run.path / "sbatch.log"
        environment = for_allocation(self.plan, self.environ)
        self.process = shell.start(["bash", str(self.run.path / "sbatch.sh")], env=environment, log=log)
        mine = this_launcher(self.process.pid)
        self.run.journal.write("launched", mode="srun", job=self.environ["SLURM_JOB_ID"], **mine)

    def poll(self) -> int | None:
        """sbatch.sh's exit status once it has ended: 0 finished, 1 failed or stopped, 3 could not tell."""
        status = self.process.poll() if self.process else None
        return None if status is None else abs_status(status)

    def end(self) -> None:
        """End the step: srun kills its tasks when it is told to terminate, and sbatch.sh still says what came of it."""
        if self.process is None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGTERM)
        except ProcessLookupError:
            return
