"""What a command of the launcher costs, as multiples of `python -c pass`, measured alternately in one run.

    python benchmarks/startup.py [--runs 15]

CPU time (user + system) of the whole process and its children: wall-clock time on a shared machine says more about its
other users. `launcher submit` is compared with a bare `sbatch` of the same script, on a Slurm of virtual nodes.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECIPE = str(ROOT / "recipes/vanilla_gpt_pretrain.py")


def cpu_seconds(argv: list[str], environ: Mapping[str, str], directory: str) -> tuple[float, float]:
    """CPU and wall-clock seconds of one process; a failure ends the benchmark with its words."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(argv, env=dict(environ), cwd=directory, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{argv} ended with status {done.returncode}:\n{done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def measure(commands: Mapping[str, list[str]], environ: Mapping[str, str], directory: str, runs: int) -> None:
    """Run all commands in turn, `runs` times, and print medians as multiples of the first."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, argv in commands.items():
            times[name].append(cpu_seconds(argv, environ, directory))
    base_cpu, base_wall = (statistics.median(column) for column in zip(*times[next(iter(commands))], strict=True))
    print(f"{'command':34} {'CPU ms':>8} {'ratio':>7} {'wall ms':>8} {'ratio':>7}")
    for name, found in times.items():
        cpu, wall = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"{name:34} {cpu * 1e3:8.1f} {cpu / base_cpu:7.1f} {wall * 1e3:8.1f} {wall / base_wall:7.1f}")


def main() -> None:
    """Start-up of the commands, then submission if Slurm is installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    launcher = str(Path(sys.executable).with_name("launcher"))
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "LAUNCHER"))}
    with tempfile.TemporaryDirectory() as directory:
        plan = [launcher, "plan", "--cluster", "local", RECIPE]
        measure(
            {
                "python -c pass": [sys.executable, "-c", "pass"],
                "import launcher": [sys.executable, "-c", "import launcher"],
                "import launcher, use plan": [sys.executable, "-c", "import launcher; launcher.plan"],
                "launcher --help": [launcher, "--help"],
                "launcher plan": plan,
                "launcher plan, two overrides": [*plan, "train.train_iters=20", "model.num_layers=4"],
            },
            environ,
            directory,
            runs,
        )
        submission(launcher, environ, directory, runs)


def submission(launcher: str, environ: Mapping[str, str], directory: str, runs: int) -> None:
    """`launcher submit` against a bare `sbatch` of the script that it rendered."""
    sys.path.insert(0, str(ROOT))
    from tests.support.slurm.virtual_cluster import missing_programs, virtual_cluster

    if (reason := missing_programs()) is not None:
        print(f"launcher submit: not measured, {reason}")
        return
    with virtual_cluster() as cluster:
        environ = {**environ, **cluster.environment, "LAUNCHER_CLUSTERS": directory}
        profile = 'extends = "slurm"\ndevice = "cpu"\n'
        Path(directory, "virtual.toml").write_text(profile)
        submit = [launcher, "submit", "--cluster", "virtual", "--gpus-per-node", "1", "--no-check-config"]
        submit += ["--sbatch", "hold", RECIPE]
        cpu_seconds(submit, environ, directory)
        script = next(Path(directory, "runs").rglob("sbatch.sh"))
        shutil.copy(script, Path(directory, "bare.sh"))
        print()
        sbatch = ["sbatch", "--hold", str(Path(directory, "bare.sh"))]
        measure({"sbatch": sbatch, "launcher submit": submit}, environ, directory, runs)


if __name__ == "__main__":
    main()
