"""Faults of a real training on GPUs under --keep-going: why each attempt ended, what came next, whether losses agree.

    python3 benchmarks/gpu_keep_going.py OUT [FAULT ...] [--at-once]

It needs a Slurm that runs jobs on this machine, two GPUs, Megatron Bridge and the launcher's own packages. The small
GPT trains for 24 iterations on two ranks, once undisturbed and once for each fault, which happens to rank 1 (NaN: to
both) in the first attempt only. Megatron ends at the first gradient that is NaN, except in `nan-unchecked`, where it
does not look at gradients. OUT gets a run directory for each and faults.json. About 90 s for each fault; with --at-once
all runs share the two GPUs and start together, for a machine that is lent for minutes.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FAULTS = ("sigkill", "cuda", "hang", "nan", "nan-unchecked")
ITERATIONS = 24
PASSED = ("PYTHONPATH", "NCCL_NVLS_ENABLE", "TORCH_SYMM_MEM_DISABLE_MULTICAST", "NVSHMEM_DISABLE_NVLS")
"""Variables that a borrowed machine may need in every process."""
PROFILE = """extends = "slurm"
description = "this machine"
gpus_per_node = 2
device = "{device}"
runtime = "none"
hang_limit_s = 15

[retry]
backoff_s = 0
"""
SHARED = """
[directives]
gpus-per-node = false
cpus-per-task = 2
"""
"""All jobs fit on the machine together."""


def recipe() -> str:
    """Return the recipe, with what disturbs it."""
    sys.path.insert(0, str(ROOT))
    from tests.support.disturbed import disturbed

    settings = "cfg.train.global_batch_size, cfg.train.micro_batch_size = 8, 4"
    return (ROOT / "recipes/vanilla_gpt_pretrain.py").read_text() + disturbed(settings, call=11, rank=1)


def launcher(directory: Path, *arguments: str) -> dict[str, Any]:
    """Return the answer of a command as JSON."""
    environ = {**os.environ, "LAUNCHER_CLUSTERS": str(directory / "clusters"), "LAUNCHER_CLUSTER": "here"}
    argv = [sys.executable, "-m", "launcher", *arguments, "--json"]
    done = subprocess.run(argv, cwd=directory, env=environ, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        sys.exit(f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return dict(json.loads(done.stdout))


@dataclass
class Trial:
    """A run that was submitted."""

    fault: str
    run: Path
    began: float
    took_s: float = 0.0
    phase: str = ""

    def is_over(self, directory: Path, limit_s: float) -> bool:
        """Look at the run; return whether nothing follows any more, or it has had its time."""
        (seen,) = launcher(directory, "status", str(self.run))["runs"]
        self.phase, self.took_s = seen["phase"], time.monotonic() - self.began
        attempts = sorted((self.run / "attempts").glob("[0-9]*"))
        over = seen["phase"] in ("finished", "failed", "stopped", "diverged", "lost", "cancelled")
        if over and attempts and (ended(attempts[-1])["next"] in (None, "end") or self.took_s > limit_s * 0.75):
            return True
        return self.took_s > limit_s

    def row(self) -> dict[str, Any]:
        """Return a row of the table."""
        attempts = sorted((self.run / "attempts").glob("[0-9]*"))
        return {
            "fault": self.fault or "none",
            "phase": self.phase,
            "took_s": round(self.took_s, 1),
            "attempts": [ended(attempt) for attempt in attempts],
            "losses": {step: loss for attempt in attempts for step, loss in losses(attempt).items()},
        }


def submit(directory: Path, fault: str) -> Trial:
    """Submit a training with a fault; an empty one stands for none."""
    options = ("--keep-going", "--nodes=1", "--no-check-config", f"--env=FAULT={fault}", f"--name={fault or 'whole'}")
    passed = [f"--env={name}" for name in PASSED if name in os.environ]
    values = (f"train.train_iters={ITERATIONS}", "checkpoint.save_interval=4")
    answer = launcher(directory, "submit", "trial.py", *values, *options, *passed)
    return Trial(fault, Path(answer["run_dir"]), time.monotonic())


def ended(attempt: Path) -> dict[str, Any]:
    """Return why an attempt ended, and what was decided then."""
    records = {name: attempt / f"{name}.json" for name in ("result", "next")}
    found = {name: json.loads(path.read_text()) if path.exists() else {} for name, path in records.items()}
    kept = {key: found["result"].get(key) for key in ("outcome", "failure", "reason", "iteration", "diverged_at")}
    return {**kept, "next": found["next"].get("action"), "kind": found["next"].get("kind")}


def losses(attempt: Path) -> dict[int, float]:
    """Return the losses of an attempt by iteration."""
    path = attempt / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {line["iteration"]: line["loss"] for line in lines}


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the newest row, and compare its losses with those of the undisturbed run, once that has ended."""
    row = rows[-1]
    whole = next((each["losses"] for each in rows if each["fault"] == "none"), None)
    for each in [row] if row["fault"] != "none" else rows:
        same = None if whole is None else each["losses"] == whole
        print(f"{each['fault']:8} {len(each['losses'])} losses, as undisturbed: {same}", flush=True)
    print(f"{row['fault']:8} {row['phase']:9} {row['took_s']:6.1f} s")
    for number, attempt in enumerate(row["attempts"]):
        print(f"         attempt {number}: {attempt['outcome']}, {attempt['failure']}, then {attempt['next']}")
        print(f"                    {attempt['reason']}", flush=True)


def main() -> None:
    """Train without and with each fault, and print a row for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("faults", nargs="*", choices=[[], *FAULTS], default=[])
    parser.add_argument("--at-once", action="store_true", help="start all runs together")
    parser.add_argument("--device", choices=["gpu", "cpu"], default="gpu", help="cpu: to try this program itself")
    parser.add_argument("--limit-s", type=float, default=200.0, help="how long a run is waited for")
    options = parser.parse_args()
    directory = options.out.absolute()
    (directory / "clusters").mkdir(parents=True)
    profile = PROFILE.format(device=options.device) + (SHARED if options.at_once else "")
    (directory / "clusters/here.toml").write_text(profile)
    (directory / "trial.py").write_text(recipe())
    rows: list[dict[str, Any]] = []
    faults = ["", *(options.faults or FAULTS)]
    for group in [faults] if options.at_once else [[fault] for fault in faults]:
        trials = [submit(directory, fault) for fault in group]
        while trials:
            time.sleep(1)
            for trial in [each for each in trials if each.is_over(directory, options.limit_s)]:
                trials.remove(trial)
                rows.append(trial.row())
                show(rows)
                (directory / "faults.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
