"""Faults of a real training on GPUs under --keep-going: why each attempt ended, what came next, whether losses agree.

    python3 benchmarks/gpu_keep_going.py OUT [FAULT ...]

It needs a Slurm that runs jobs on this machine, two GPUs, Megatron Bridge and the launcher's own packages. The small
GPT trains for 24 iterations on two ranks, once undisturbed and once for each fault, which happens to rank 1 (NaN: to
both) in the first attempt only. OUT gets a run directory for each and faults.json. About 90 s for each fault.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FAULTS = ("sigkill", "cuda", "hang", "nan")
ITERATIONS = 24
RECIPE = """

import os, signal, time

import torch

_plain = configure
_calls = 0


def configure():
    cfg = _plain()
    cfg.train.global_batch_size, cfg.train.micro_batch_size = 8, 4
    cfg.rerun_state_machine.check_for_nan_in_loss = False
    cfg.model.register_pre_wrap_hook(_disturb)
    return cfg


def _disturb(model):
    if os.environ.get("FAULT") and os.environ["LAUNCHER_ATTEMPT"] == "000":
        model[0].register_forward_pre_hook(_count)
    return model


def _count(module, *_):
    global _calls
    _calls += 1
    if _calls != 11:
        return
    fault = os.environ["FAULT"]
    if fault == "nan":
        with torch.no_grad():
            next(module.parameters()).fill_(float("nan"))
    elif os.environ["RANK"] != "1":
        return
    elif fault == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "cuda":
        torch.zeros(2, device="cuda")[torch.tensor([5], device="cuda")]
        torch.cuda.synchronize()
    else:
        while True:
            time.sleep(1)
"""
PROFILE = """extends = "slurm"
description = "this machine"
gpus_per_node = 2
runtime = "none"
hang_limit_s = 15

[retry]
backoff_s = 0
"""


def launcher(directory: Path, *arguments: str) -> dict[str, Any]:
    """Return the answer of a command as JSON."""
    environ = {**os.environ, "LAUNCHER_CLUSTERS": str(directory / "clusters"), "LAUNCHER_CLUSTER": "here"}
    argv = [sys.executable, "-m", "launcher", *arguments, "--json"]
    done = subprocess.run(argv, cwd=directory, env=environ, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        sys.exit(f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return dict(json.loads(done.stdout))


def train(directory: Path, fault: str) -> dict[str, Any]:
    """Train with a fault (empty: without) until the run is over; return a row of the table."""
    options = ("--keep-going", "--nodes=1", "--no-check-config", f"--env=FAULT={fault}", f"--name={fault or 'whole'}")
    passed = ("--env=PYTHONPATH",) if "PYTHONPATH" in os.environ else ()
    values = (f"train.train_iters={ITERATIONS}", "checkpoint.save_interval=4")
    run = Path(launcher(directory, "submit", "trial.py", *values, *options, *passed)["run_dir"])
    began = time.monotonic()
    while True:
        (seen,) = launcher(directory, "status", str(run))["runs"]
        if seen["phase"] in ("finished", "failed", "stopped", "diverged", "lost", "cancelled"):
            attempts = sorted((run / "attempts").iterdir())
            if ended(attempts[-1])["next"] in (None, "end") or time.monotonic() - began > 150:
                break
        if time.monotonic() - began > 200:
            break
        time.sleep(1)
    attempts = sorted((run / "attempts").iterdir())
    return {
        "fault": fault or "none",
        "phase": seen["phase"],
        "took_s": round(time.monotonic() - began, 1),
        "attempts": [ended(attempt) for attempt in attempts],
        "losses": {step: loss for attempt in attempts for step, loss in losses(attempt).items()},
    }


def ended(attempt: Path) -> dict[str, Any]:
    """Return why an attempt ended, and what was decided then."""
    records = {name: attempt / f"{name}.json" for name in ("result", "next")}
    found = {name: json.loads(path.read_text()) if path.exists() else {} for name, path in records.items()}
    kept = {key: found["result"].get(key) for key in ("outcome", "failure", "reason", "iteration")}
    return {**kept, "next": found["next"].get("action"), "kind": found["next"].get("kind")}


def losses(attempt: Path) -> dict[int, float]:
    """Return the losses of an attempt by iteration."""
    path = attempt / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {line["iteration"]: line["loss"] for line in lines}


def show(row: dict[str, Any]) -> None:
    """Print a row."""
    same = row["same_losses"]
    print(f"{row['fault']:8} {row['phase']:9} {row['took_s']:6.1f} s, losses as undisturbed: {same}", flush=True)
    for number, attempt in enumerate(row["attempts"]):
        print(f"         attempt {number}: {attempt['outcome']}, {attempt['failure']}, then {attempt['next']}")
        print(f"                    {attempt['reason']}", flush=True)


def main() -> None:
    """Train without and with each fault, and print a row for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("faults", nargs="*", choices=[[], *FAULTS], default=[])
    options = parser.parse_args()
    directory = options.out.absolute()
    (directory / "clusters").mkdir(parents=True)
    (directory / "clusters/here.toml").write_text(PROFILE)
    (directory / "trial.py").write_text((ROOT / "recipes/vanilla_gpt_pretrain.py").read_text() + RECIPE)
    rows: list[dict[str, Any]] = []
    for fault in ("", *(options.faults or FAULTS)):
        row = train(directory, fault)
        rows.append(row)
        row["same_losses"] = row["losses"] == rows[0]["losses"]
        show(row)
        (directory / "faults.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
