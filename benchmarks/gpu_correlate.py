"""Megatron-LM beside Megatron Bridge in bf16 on two GPUs: both pairs of the field's page, five repeats of each side.

    python3 benchmarks/gpu_correlate.py OUT [--repeats 5] [--seconds 225] [--part NAME ...] [--small]

Each part is one `launcher correlate` command, and all start together: a pair on one GPU, the other one on two with
tensor parallelism, both in bf16 with dropout 0.1, and two short ones with probes. OUT gets for each part the command,
its output, verdict.json, losses.png and page.html, and summary.json for all. What has not ended after --seconds is
ended; of such a part the runs that have finished are judged. The exit status is 0 where both pairs agree in all printed
digits at all ten iterations. --small makes them small and fp32, to try the benchmark itself on a CPU.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from launcher.correlate.history import history_of  # noqa: E402 - needs the path above
from launcher.correlate.verdict import noise  # noqa: E402
from launcher.rundir import RunDirectory  # noqa: E402
from tests.correlate.pairs import FIRST_PAIR, SECOND_PAIR, SMALLER  # noqa: E402

PASSED = (
    *("PYTHONPATH", "LD_LIBRARY_PATH", "NCCL_NVLS_ENABLE", "TORCH_SYMM_MEM_DISABLE_MULTICAST", "NVSHMEM_DISABLE_NVLS"),
    *("HF_HUB_OFFLINE", "TORCHINDUCTOR_COMPILE_THREADS"),
)
"""Variables that a borrowed machine may need in every process."""
TWO = (*SECOND_PAIR, "--use-distributed-optimizer")
NO_APEX = "--no-gradient-accumulation-fusion"
"""Neither side can fuse the accumulation of gradients without APEX."""


@dataclass(frozen=True)
class Part:
    """One correlation: GPUs of a run, runs at once, options and Megatron-LM's arguments."""

    name: str
    gpus: int
    at_once: int
    words: Sequence[str]
    options: Sequence[str] = ()
    assignments: Sequence[str] = ()
    repeated: bool = False
    counts: bool = True
    """Whether the two must agree."""

    def command(self, out: Path, runs: Path, repeats: int, *, small: bool) -> list[str]:
        """Return the command line."""
        argv = [sys.executable, "-m", "launcher", "correlate", "mlm:gpt", "bridge:vanilla_gpt_pretrain_config"]
        argv += ["checkpoint.save=null", *self.assignments, "--cluster", "local", "--gpus-per-node", str(self.gpus)]
        argv += ["--repeats", str(repeats if self.repeated else 1), *self.options]
        argv += ["--at-once", str(min(self.at_once, 2) if small else self.at_once), *(["--fp32"] if small else [])]
        argv += ["--run-root", str(runs), "--output", str(out), "--json"]
        argv += [word for name in PASSED if name in os.environ for word in ("--env", name)]
        return [*argv, "--", *(shrunk(self.words) if small else self.words)]


SMALL = {**SMALLER, "--vocab-size": "1000"}


def shrunk(words: Sequence[str]) -> list[str]:
    """Return a command line of a smaller model."""
    return [SMALL.get(before, word) for before, word in zip(("", *words), words, strict=False)]


PARTS = (
    Part("one-gpu", 1, 10, (*FIRST_PAIR, NO_APEX), repeated=True),
    Part("tensor-parallel", 2, 4, (*TWO, NO_APEX), repeated=True),
    Part("probes", 1, 2, (*FIRST_PAIR, NO_APEX), ("--probe",), counts=False),
    Part(
        "as-printed",
        1,
        2,
        (*FIRST_PAIR, NO_APEX),
        ("--probe", "--match", "none"),
        (
            *(
                "model.num_layers=2",
                "model.hidden_size=256",
                "model.num_attention_heads=4",
                "model.ffn_hidden_size=1024",
            ),
            *(
                "model.seq_length=512",
                "dataset.seq_length=512",
                "train.micro_batch_size=4",
                "train.global_batch_size=32",
            ),
            *("train.train_iters=10", "optimizer.lr=3e-4", "optimizer.min_lr=3e-5", "scheduler.lr_warmup_iters=1"),
            *("scheduler.lr_decay_iters=10", "validation.eval_interval=10", "validation.eval_iters=2"),
            "model.gradient_accumulation_fusion=false",
        ),
        counts=False,
    ),
)


def start(part: Part, out: Path, runs: Path, repeats: int, *, small: bool) -> "subprocess.Popen[bytes]":
    """Start a part; its output goes into files."""
    out.mkdir(parents=True)
    argv = part.command(out, runs, repeats, small=small)
    (out / "command.txt").write_text(shlex.join(argv) + "\n")
    with (out / "stdout.json").open("wb") as stdout, (out / "stderr.txt").open("wb") as stderr:
        return subprocess.Popen(argv, cwd=ROOT, stdout=stdout, stderr=stderr)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a part that is late: twice, as a user would, and then for good."""
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                continue


def result(part: Part, out: Path, root: Path, took_s: float) -> dict[str, Any]:
    """Return what came of a part: its verdict, and the noise of both sides."""
    found: dict[str, Any] = {"part": part.name, "seconds": round(took_s, 1)}
    verdict = out / "verdict.json"
    if verdict.is_file():
        stored = json.loads(verdict.read_text())
        found |= {"complete": True, "verdict": stored["verdict"], "tolerance": stored["tolerance"]}
    runs: dict[bool, list[RunDirectory]] = {True: [], False: []}
    for path in sorted(root.glob("*/*/plan.json")):
        run = RunDirectory(path.parent)
        if len(history_of(run)) == 10:
            runs["mlm" in run.plan["argv"]["recipe"]].append(run)
    left, right = runs[True], runs[False]
    if not verdict.is_file() and left and right:
        argv = [sys.executable, "-m", "launcher", "correlate", str(left[0].path), str(right[0].path), "--json"]
        done = subprocess.run([*argv, "--output", str(out)], cwd=ROOT, capture_output=True, text=True, check=False)
        found |= {"complete": False, "verdict": json.loads(done.stdout)["verdict"] if done.stdout else done.stderr}
    for side, each in (("left", left), ("right", right)):
        points = [history_of(run) for run in each]
        found[side] = {
            "runs": len(points),
            "largest_difference": noise(points) if len(points) > 1 else None,
            "losses": sorted({tuple(point.printed_loss for point in one) for one in points}),
            "seconds_per_iteration": [one[-1].seconds for one in points],
        }
    return found


def agrees(found: dict[str, Any]) -> bool:
    """Return whether a part agrees in all printed digits at all ten iterations."""
    verdict = found.get("verdict")
    return isinstance(verdict, dict) and verdict["state"] == "agree" and verdict["compared"] == [1, 10]


def line_of(found: dict[str, Any]) -> str:
    """Return a part's verdict, noise and last losses in a few lines."""
    verdict = found.get("verdict")
    said = f"{verdict['state']}: {verdict['sentence']}" if isinstance(verdict, dict) else f"no verdict: {verdict}"
    lines = [f"{found['part']} after {found['seconds']} s: {said}"]
    if isinstance(verdict, dict) and verdict["stage"]:
        lines.append(f"  stage {verdict['stage']}: {verdict['cause']}")
    for side in ("left", "right"):
        each = found[side]
        lines.append(f"  {side}: {each['runs']} runs, noise {each['largest_difference']}, losses {each['losses'][:2]}")
    return "\n".join(lines)


def keep_logs(out: Path, root: Path) -> None:
    """Copy the end of every rank's log beside the verdict: the runs themselves hold copies of the code."""
    for path in sorted(root.glob("*/*/attempts/*/logs/rank-*.log")):
        target = out / "logs" / f"{path.parents[3].parent.name}-{path.parents[3].name}-{path.name}"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes()[-40_000:])


def main() -> int:
    """Run all parts together, print a line for each, and return 0 where those that count agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=225)
    parser.add_argument("--part", action="append", choices=[part.name for part in PARTS])
    parser.add_argument("--small", action="store_true", help="a smaller model in fp32, for a CPU")
    asked = parser.parse_args()
    out, work = asked.out.absolute(), Path(tempfile.mkdtemp(prefix="gpu-correlate-"))
    began = time.monotonic()
    parts = [part for part in PARTS if not asked.part or part.name in asked.part]
    running = {part: start(part, out / part.name, work / part.name, asked.repeats, small=asked.small) for part in parts}
    summary: list[dict[str, Any]] = []
    while running:
        time.sleep(0.5)
        late = time.monotonic() - began > asked.seconds
        for part, process in list(running.items()):
            if process.poll() is None and not late:
                continue
            end(process)
            del running[part]
            found = result(part, out / part.name, work / part.name, time.monotonic() - began)
            keep_logs(out / part.name, work / part.name)
            summary.append(found | {"agrees": agrees(found)})
            (out / "summary.json").write_text(json.dumps(summary, indent=1))
            print(line_of(summary[-1]), flush=True)
    good = {one["part"] for one in summary if one["agrees"]}
    wrong = [part.name for part in parts if part.counts and part.name not in good]
    print(f"do not agree: {', '.join(wrong) or 'none'}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
