"""What a job adds to its ranks: time to the first line of a rank and after the last one, against a bare srun.

    python benchmarks/job_overhead.py [--runs 7] [--nodes 2]

On a Slurm of virtual nodes (tests/support/slurm) jobs run in turn: one is `srun PROGRAM` alone, one the launcher's own
sbatch.sh with the same program as entrypoint, on as many nodes and tasks. A line of bash before and after the script
takes the time, so that queueing does not count. The program prints the time when it starts, sleeps for a second, and
prints it again. The targets are differences of medians, on an idle machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.slurm.config import ClusterOptions  # noqa: E402
from tests.support.slurm.virtual_cluster import VirtualCluster, missing_programs, virtual_cluster  # noqa: E402

FIRST_S, LAST_S = 0.35, 0.2
RANKS_PER_NODE = 2
PROGRAM = """\
import time
print("begins", time.time(), flush=True)
import json, os
time.sleep(1)
if "LAUNCHER_RUN_DIR" in os.environ:
    node = int(os.environ["NODE_RANK"])
    name = f"{os.environ['LAUNCHER_RUN_DIR']}/attempts/{os.environ['LAUNCHER_ATTEMPT']}/ranks/node-{node:04d}.jsonl"
    with open(name, "a") as file:
        file.write("\\n" + json.dumps({"rank": int(os.environ["RANK"]), "outcome": "finished"}) + "\\n")
print("ends", time.time(), flush=True)
"""


class Overhead(NamedTuple):
    """Seconds from the start of the job's script to the first line of a rank, and from the last one to its end."""

    first_s: float
    last_s: float


def run(cluster: VirtualCluster, directory: Path, header: list[str], script: str, logs: Path) -> Overhead:
    """Run a job whose script is `script` and wait for its end."""
    job = directory / "job.sh"
    times = directory / "times"
    body = [*header, f"echo $EPOCHREALTIME >{times}", script, f"echo $EPOCHREALTIME >>{times}"]
    job.write_text("\n".join(["#!/bin/bash", *body]) + "\n")
    done = cluster.run("sbatch", "--wait", f"--output={directory}/job.log", str(job), check=False)
    if not times.exists() or len(times.read_text().split()) != 2:
        sys.exit(f"the job did not run: {done.stderr}\n{(directory / 'job.log').read_text()}")
    begin, end = (float(text) for text in times.read_text().split())
    lines = [line.split() for log in logs.glob("rank-*.log") for line in log.read_text().splitlines()]
    first = min(float(line[1]) for line in lines if line[:1] == ["begins"])
    last = max(float(line[1]) for line in lines if line[:1] == ["ends"])
    return Overhead(first - begin, end - last)


def main() -> int:
    """Print the table; exit status 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--nodes", type=int, default=2)
    options = parser.parse_args()
    if (reason := missing_programs()) is not None:
        print(f"not measured: {reason}")
        return 0
    found: dict[str, list[Overhead]] = {"bare srun": [], "launcher": []}
    with tempfile.TemporaryDirectory() as name, virtual_cluster(ClusterOptions(nodes=options.nodes)) as cluster:
        directory = Path(name)
        (directory / "program.py").write_text(PROGRAM)
        (directory / "virtual.toml").write_text('extends = "slurm"\ndevice = "cpu"\n')
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "LAUNCHER", "PYTHON"))}
        environ = {**kept, **cluster.environment, "LAUNCHER_CLUSTERS": name}
        for number in range(options.runs + 1):
            place = directory / str(number)
            place.mkdir()
            ours = submitted(environ, place, directory / "program.py", options.nodes)
            header = [
                line
                for line in (ours / "sbatch.sh").read_text().splitlines()
                if line.startswith("#SBATCH") and not line.startswith(("#SBATCH --output", "#SBATCH --hold"))
            ]
            srun = f"srun --output={place}/rank-%4t.log {sys.executable} {directory}/program.py"
            pair = {
                "bare srun": run(cluster, place, header, srun, place),
                "launcher": run(cluster, place, header, f"bash {ours}/sbatch.sh", ours / "attempts/000/logs"),
            }
            if number:  # the first pair warms caches
                for who, overhead in pair.items():
                    found[who].append(overhead)
    return report(found)


def submitted(environ: Mapping[str, str], place: Path, program: Path, nodes: int) -> Path:
    """Write a run by `launcher submit`, take its held job out of the queue, and return its directory."""
    launcher = str(Path(sys.executable).with_name("launcher"))
    argv = [launcher, "submit", "--json", "--cluster", "virtual", "--nodes", str(nodes)]
    argv += ["--gpus-per-node", str(RANKS_PER_NODE), "--no-check-config", "--sbatch", "hold"]
    argv += [f"--entrypoint={program}", str(ROOT / "recipes/vanilla_gpt_pretrain.py")]
    done = subprocess.run(argv, env=dict(environ), cwd=place, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{argv} ended with status {done.returncode}:\n{done.stderr}")
    said = json.loads(done.stdout)
    subprocess.run(["scancel", str(said["job"])], env=dict(environ), check=True)
    time.sleep(0.2)
    return Path(said["run_dir"])


def report(found: Mapping[str, list[Overhead]]) -> int:
    """Print medians and their differences; return 1 where a target is missed."""
    print(f"{'seconds, medians':24} {'first rank line':>16} {'after the last':>16}")
    medians = {}
    for who, each in found.items():
        medians[who] = Overhead(*(statistics.median(column) for column in zip(*each, strict=True)))
        print(f"{who:24} {medians[who].first_s:16.3f} {medians[who].last_s:16.3f}")
    more = Overhead(*(mine - its for mine, its in zip(medians["launcher"], medians["bare srun"], strict=True)))
    print(f"{'more':24} {more.first_s:16.3f} {more.last_s:16.3f}")
    print(f"{'target: at most':24} {FIRST_S:16.3f} {LAST_S:16.3f}")
    return int(more.first_s > FIRST_S or more.last_s > LAST_S)


if __name__ == "__main__":
    sys.exit(main())
