"""What a command of the launcher costs, as multiples of `python -c pass`, measured alternately in one run.

    python benchmarks/startup.py [--runs 15]
    python benchmarks/startup.py --against DIR [--runs 15] [--rank-runs 5]

CPU time (user + system) of the whole process and its children: wall-clock time on a shared machine says more about its
other users. Beside each ratio stands the target, where there is one. `launcher submit` is compared with a bare `sbatch`
of the same script, on a Slurm of virtual nodes. Runs are listed among 10,000, and looked for by Tab as a shell does.

With --against the commands, and the start of a rank, are compared with those of another checkout, whose `.venv` has it
installed: in pairs, of which the first does not count. A rank is `step.sh` of a run that the checkout itself has
written, up to the first line of the recipe's `configure()`: torch, the CPU back end and Megatron Bridge are imported.
"""

import argparse
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECIPE = str(ROOT / "recipes/vanilla_gpt_pretrain.py")
BRIDGE = "bridge:llama32_1b_pretrain_1gpu_h100_bf16_config"
FIRST_LINE = """\
from megatron.bridge.recipes.gpt.vanilla_gpt import vanilla_gpt_pretrain_config


def configure():
    import os
    os._exit(0)
"""


def cpu_seconds(argv: list[str], environ: Mapping[str, str], directory: str) -> tuple[float, float]:
    """CPU and wall-clock seconds of one process; a failure ends the benchmark with its words."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(argv, env=dict(environ), cwd=directory, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{argv} ended with status {done.returncode}:\n{done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


TARGETS = {
    "launcher plan": 14,
    "launcher submit --dry-run": 22,
    "launcher status, 1,000 runs": 20,
    "launcher logs NAME": 8,
    "completion of RUN": 8,
}
"""Multiples of `python -c pass`."""
RUNS, SHOWN = 10_000, 1000


def measure(commands: Mapping[str, list[str]], environ: Mapping[str, str], directory: str, runs: int) -> None:
    """Run all commands in turn, `runs` times, and print medians as multiples of the first, each with its target."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, argv in commands.items():
            times[name].append(cpu_seconds(argv, environ, directory))
    base_cpu, base_wall = (statistics.median(column) for column in zip(*times[next(iter(commands))], strict=True))
    print(f"{'command':34} {'CPU ms':>8} {'ratio':>7} {'target':>7} {'wall ms':>8} {'ratio':>7}")
    for name, found in times.items():
        cpu, wall = (statistics.median(column) for column in zip(*found, strict=True))
        target = f"{TARGETS[name]:7}" if name in TARGETS else " " * 7
        print(f"{name:34} {cpu * 1e3:8.1f} {cpu / base_cpu:7.1f} {target} {wall * 1e3:8.1f} {wall / base_wall:7.1f}")


def main() -> None:
    """Start-up of the commands, then submission if Slurm is installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--against", metavar="DIR", type=Path, help="another checkout, installed in its .venv")
    parser.add_argument("--rank-runs", type=int, default=5, help="pairs of ranks, with --against")
    options = parser.parse_args()
    if options.against:
        compare(options.against.resolve(), options.runs, options.rank_runs)
        return
    runs = options.runs
    launcher = str(Path(sys.executable).with_name("launcher"))
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "LAUNCHER", "PYTHON"))
    }
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
                "launcher plan bridge:NAME": [*plan[:-1], BRIDGE],
                **listings(launcher, environ, Path(directory)),
            },
            environ,
            directory,
            runs,
        )
        dry_runs(launcher, environ, Path(directory), runs)
        submission(launcher, environ, directory, runs)


def listings(launcher: str, environ: Mapping[str, str], directory: Path) -> dict[str, list[str]]:
    """Make 10,000 runs that have finished, and return the commands that look for some of them.

    The newest 1,000, whose plans are read, have whole ones.
    """
    argv = [launcher, "plan", "--json", "--cluster", "local", RECIPE]
    shown = subprocess.run(argv, env=dict(environ), cwd=directory, capture_output=True, text=True, check=True).stdout
    whole = json.loads(shown)["plan"]
    progress = {"iteration": 20, "train_iters": 20, "loss": 2.5, "seconds_per_iteration": 0.5, "diverged_at": None}
    ended = {"version": 1, "attempt": "000", "outcome": "finished", "reason": None, "stopped_by": None, **progress}
    ended |= {"checkpoint": 20, "failure": None, "evidence": None, "first_failing_rank": None, "profiles": None}
    ended |= {"step_status": 0, "started": 1.0, "ended": 20.0}
    for number in range(RUNS):
        run = directory / "runs" / f"name{number % 20}" / f"20260101-{number:06d}-0123456789ab"
        logs = run / "attempts/000/logs"
        logs.mkdir(parents=True)
        plan = {"backend": "local", "cluster": "local", "world_size": 1} if number < RUNS - SHOWN else whole
        (run / "plan.json").write_text(json.dumps({**plan, "name": run.parent.name, "run_id": run.name}, indent=1))
        event = {"time": 1.0, "event": "launched", "backend": "local", "attempt": "000", "host": "other"}
        (run / "journal.jsonl").write_text(json.dumps(event) + "\n")
        result = {**ended, "failed_ranks": list[int](), "missing_ranks": list[int]()}
        (logs.parent / "result.json").write_text(json.dumps(result, indent=1))
        (logs.parent / "metrics.jsonl").write_text(
            "".join(json.dumps({"iteration": one, "time": one, **progress}) + "\n" for one in range(1, 21))
        )
        (logs / "rank-0000.log").write_text("the end\n")
    tab = "COMP_LINE='launcher logs ' COMP_POINT=14 _ARGCOMPLETE=1 _ARGCOMPLETE_IFS=$'\\v' exec \"$0\" 8>/dev/null 9>&8"
    return {
        "launcher status, 20 runs": [launcher, "status"],
        "launcher status, 1,000 runs": [launcher, "status", "--limit", "1000"],
        "launcher logs NAME": [launcher, "logs", "name7"],
        "completion of RUN": ["bash", "-c", tab, launcher],
    }


def dry_runs(launcher: str, environ: Mapping[str, str], directory: Path, runs: int) -> None:
    """Measure `submit --dry-run` on what looks like a login node; no program of Slurm is started."""
    (directory / "bin").mkdir()
    for program in ("srun", "sbatch"):
        (directory / "bin" / program).write_text("#!/bin/sh\nexit 1\n")
        (directory / "bin" / program).chmod(0o755)
    submit = [launcher, "submit", "--dry-run", "--cluster", "slurm", "--gpus-per-node", "8", "--nodes", "2"]
    submit += [RECIPE, "train.global_batch_size=32"]
    on_login = {**environ, "PATH": f"{directory / 'bin'}:{environ['PATH']}"}
    print()
    commands = {"python -c pass": [sys.executable, "-c", "pass"], "launcher submit --dry-run": submit}
    measure(commands, on_login, str(directory), runs)


def compare(other: Path, runs: int, rank_runs: int) -> None:
    """Print the CPU time of this checkout's commands and of a rank, as multiples of the other's."""
    with tempfile.TemporaryDirectory() as directory:
        (here, there) = (starts(root, Path(directory, name)) for root, name in ((ROOT, "here"), (other, "there")))
        print(f"{'start':26} {'CPU ms':>9} {'before':>9} {'ratio':>7} {'of minima':>9} {'pairs':>6}")
        for name in here:
            count = rank_runs if name == "a rank" else runs
            pairs = [(here[name](), there[name]()) for _ in range(count + 1)][1:]
            ours, theirs = zip(*pairs, strict=True)
            ratio = statistics.median(mine / its for mine, its in pairs)
            mine, its = statistics.median(ours) * 1e3, statistics.median(theirs) * 1e3
            print(f"{name:26} {mine:9.1f} {its:9.1f} {ratio:7.3f} {min(ours) / min(theirs):9.3f} {count:6}", flush=True)


def starts(root: Path, directory: Path) -> dict[str, Callable[[], float]]:
    """Return what is compared, by name: each starts something of the checkout `root` and returns its CPU seconds."""
    launcher = str(root / ".venv/bin/launcher")
    recipe = directory / "first_line.py"
    (directory / "bin").mkdir(parents=True)
    recipe.write_text(FIRST_LINE)
    # A login node, as far as a dry run looks: the programs are not started.
    for program in ("srun", "sbatch"):
        (directory / "bin" / program).write_text("#!/bin/sh\nexit 1\n")
        (directory / "bin" / program).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "LAUNCHER", "PYTHON"))}
    environ = {**kept, "PATH": f"{directory / 'bin'}:{kept['PATH']}", "HOME": str(directory)}
    local = ["--cluster", "local", "--gpus-per-node", "1"]
    # It ends without a record, so that its status says that it failed.
    subprocess.run([launcher, "run", *local, str(recipe)], env=environ, cwd=directory, capture_output=True, check=False)
    (step,) = (directory / "runs").rglob("step.sh")
    attempts = itertools.count(100)

    def command(*argv: str) -> Callable[[], float]:
        return lambda: cpu_seconds([launcher, *argv], environ, str(directory))[0]

    def rank() -> float:
        attempt = str(next(attempts))
        for name in ("logs", "ranks"):
            (step.parent / "attempts" / attempt / name).mkdir(parents=True)
        variables = {"RANK": "0", "LOCAL_RANK": "0", "NODE_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "LAUNCHER_ATTEMPT": attempt}
        return cpu_seconds(["bash", str(step)], {**environ, **variables}, str(directory))[0]

    return {
        "launcher --help": command("--help"),
        "launcher plan": command("plan", *local, str(root / "recipes/vanilla_gpt_pretrain.py")),
        "launcher plan bridge:NAME": command("plan", *local, BRIDGE),
        "launcher submit --dry-run": command(
            *("submit", "--dry-run", "--cluster", "slurm", "--gpus-per-node", "8", "--nodes", "2"),
            *(str(root / "recipes/vanilla_gpt_pretrain.py"), "train.global_batch_size=32"),
        ),
        "launcher status": command("status"),
        "a rank": rank,
    }


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
