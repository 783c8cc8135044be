"""The allocation backend: a batch job's sbatch.sh, run in the allocation that this shell is in."""

import os
import signal
import subprocess
from dataclasses import dataclass

from launcher._util import shell as programs
from launcher._util.errors import DiskError
from launcher._util.processes import this_launcher
from launcher._util.shell import Shell
from launcher.backends.local import exit_status
from launcher.backends.process_environment import for_allocation
from launcher.discovery.host import HostContext
from launcher.planning.backend import ALLOCATION
from launcher.planning.model import Plan
from launcher.rundir import RunDirectory


@dataclass
class AllocatedStep:
    """One execution of a run's sbatch.sh, in a process group of its own."""

    run: RunDirectory
    process: "subprocess.Popen[bytes]"

    def poll(self) -> int | None:
        """Return sbatch.sh's exit status once it has ended: 0 finished, 1 failed or stopped, 3 without a verdict."""
        status = self.process.poll()
        return None if status is None else exit_status(status)

    def cancel(self) -> None:
        """Send SIGTERM: srun ends its tasks, and sbatch.sh still writes the verdict."""
        try:
            os.killpg(self.process.pid, signal.SIGTERM)
        except ProcessLookupError:
            return  # it has ended since the last look

    def finish(self, status: int) -> int:
        """Return `status`, which sbatch.sh has taken from the verdict; 3 for any other."""
        return status if status in (0, 1) else 3


class AllocationBackend:
    """Runs a run's sbatch.sh here."""

    traits = ALLOCATION

    def start(self, plan: Plan, run: RunDirectory, host: HostContext, shell: Shell) -> AllocatedStep:  # noqa: ARG002
        """Start sbatch.sh. Raises OutsideError."""
        environment = for_allocation(plan, host.environ)
        process = programs.start(["bash", str(run.sbatch_script)], env=environment, log=run.sbatch_log)
        mine, cluster = this_launcher(process.pid), host.environ.get("SLURM_CLUSTER_NAME")
        job, step = host.environ["SLURM_JOB_ID"], AllocatedStep(run, process)
        try:
            run.journal.write("launched", backend=plan.backend.name, token=plan.token, job=job, cluster=cluster, **mine)
        except DiskError:
            # What is not recorded must not go on: its directory is about to be removed.
            step.cancel()
            process.wait()
            raise
        return step
