"""What sbatch.sh starts besides the ranks: steps, programs and processes, counted on its own bytes."""

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from launcher.contract.paths import RunPaths
from tests.contract.test_written_files import SCONTROL, prepared
from tests.support.limits import seconds

SRUN = "#!/bin/sh\necho finished\n"
"""Stands for both steps: the ranks, and the verdict that prints its word."""
STARTED = re.compile(r'execve\("([^"]+)".* = 0$')
FORKED = re.compile(r"(?:clone3?|v?fork)\(.* = \d+$")

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def started_by(directory: Path, run: RunPaths) -> tuple[Counter[str], int]:
    """Run sbatch.sh with stand-ins for Slurm; return the programs that it started, and the number of its forks."""
    bin_dir = directory / "bin"
    bin_dir.mkdir()
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        (bin_dir / name).write_text(text)
        (bin_dir / name).chmod(0o755)
    environment = {
        "PATH": f"{bin_dir}:/usr/bin:/bin",
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NODELIST": "n1",
        "SLURM_JOB_START_TIME": "1700000000",
        "SLURM_JOB_CPUS_PER_NODE": "2",
    }
    argv = ["strace", "-ff", "-qq", "-e", "trace=execve,clone,clone3,fork,vfork", "-o", str(directory / "trace")]
    done = subprocess.run(
        [*argv, "bash", str(run.sbatch_script)], env=environment, capture_output=True, timeout=seconds(60), check=False
    )
    assert done.returncode == 0, done.stderr
    programs: Counter[str] = Counter()
    forks = 0
    for process in directory.glob("trace.*"):  # one file for each process
        calls = process.read_text().splitlines()
        begun = [match[1] for line in calls if (match := STARTED.match(line))]
        if begun and not begun[0].endswith("/bash"):
            programs[Path(begun[0]).name] += 1
        else:  # sbatch.sh itself, and its subshells
            forks += sum(bool(FORKED.match(line)) for line in calls)
    return programs, forks


def test_a_job_of_one_attempt_starts_two_steps_and_few_programs(tmp_path: Path) -> None:
    made = prepared(tmp_path)
    programs, forks = started_by(tmp_path, RunPaths(Path(made.run_dir)))
    assert programs["srun"] == 2, "the ranks, and the verdict"
    assert programs["scontrol"] <= 3, "the names of the nodes, the address of the first one, the end of the job"
    assert sum(programs.values()) <= 14, programs
    assert forks <= 23
