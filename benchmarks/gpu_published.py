"""Bridge's Llama 3 8B benchmark for eight H100, through the launcher and through torchrun, on this machine's GPUs.

    python3 benchmarks/gpu_published.py OUT [--part rounds|published|profile|submit|doctor ...] [--precision bf16|fp8cs]
        [--layers N] [--rounds 3] [--seconds 560] [--device cpu] [KEY=VALUE ...]

rounds      `launcher run` and torchrun in turn, with two sequences for each GPU in place of the recipe's sixteen, so
            that three rounds take minutes; the ratio of the medians (at least 0.99 is wanted), and whether both
            trained with the same ConfigContainer
published   one `launcher run` with the recipe's own batch: tokens per second and TFLOP/s of a GPU beside what NVIDIA
            published, and the peak of memory beside the plan's estimate (within 7 % is wanted)
profile     a short one with --nsys
submit      a short one as a job: it needs a Slurm that runs jobs on this machine
doctor      `launcher doctor` with a job on all GPUs, which needs a Slurm, too

It needs Megatron Bridge 0.6.2 with Transformer Engine, and the launcher's own packages. Without APEX both sides train
without gradient accumulation fusion. With fewer than eight GPUs, take fewer layers with --layers; with one, context
parallelism is left out. Times are Bridge's own, the median after the tenth iteration. OUT/published.json has all rows;
what would begin after --seconds is left out, and said. `--device cpu` tries all but the rounds with
a tiny model, since torchrun has no back end for CPUs here. The status is 1 where something wanted was missed.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.memory_estimate import GIB, peaks  # noqa: E402 - needs the path above

PARTS = ("doctor", "rounds", "published", "profile", "submit")
NAME = "llama3_8b_pretrain_8gpu_h100_{precision}_config"
SEQUENCE = 8192
MEASURED_AFTER = 10
PUBLISHED = {
    # Megatron Bridge's performance summary and its archive: DGX-H100, 8 GPUs, GBS 128, MBS 1. It has no BF16 row.
    "fp8cs": {"25.11": {"tokens": 14451, "tflops": 744}, "25.09": {"tokens": 14079, "tflops": 725}},
    "bf16": {},
}
PASSED = ("PYTHONPATH", "LD_LIBRARY_PATH", "HF_HOME", "HF_HUB_OFFLINE", "NVIDIA_VISIBLE_DEVICES")
"""Variables that a borrowed machine may need in every process."""
LINE = re.compile(r"iteration\s+(\d+)/.*elapsed time per iteration \(ms\): ([0-9.]+)")
PLAIN = """
import importlib, os, sys
from megatron.bridge.training.gpt_step import forward_step
from megatron.bridge.training.pretrain import pretrain
from megatron.bridge.training.utils.omegaconf_utils import process_config_with_overrides
if __name__ == "__main__":
    config = getattr(importlib.import_module({module!r}), {name!r})()
    config.logger.tensorboard_dir = None
    config.logger.save_config_filepath = sys.argv[1]
    pretrain(process_config_with_overrides(config, cli_overrides=sys.argv[2:]), forward_step)
"""
TINY = ("model.hidden_size=64", "model.ffn_hidden_size=128", "model.num_attention_heads=4", "model.num_query_groups=4")
PROFILE = """extends = "slurm"
description = "this machine"
gpus_per_node = {gpus}
device = "{device}"
runtime = "none"
"""


@dataclass
class Bench:
    """What is the same in all parts: the machine, the recipe and what has been found."""

    out: Path
    gpus: int
    precision: str
    device: str
    overrides: tuple[str, ...]
    rounds: int
    iterations: int
    until: float
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Return the recipe's name."""
        return NAME.format(precision=self.precision)

    @property
    def index(self) -> dict[str, Any]:
        """Return what the launcher's index knows of the recipe."""
        known = json.loads((ROOT / "configs/bridge/recipes-0.6.2.json").read_text())["recipes"]
        return dict(known[self.name])

    def values(self, iterations: int, batch: int) -> list[str]:
        """Return the overrides that both sides get."""
        values = [f"train.train_iters={iterations}", f"train.global_batch_size={batch}", "logger.log_interval=1"]
        values += ["checkpoint.save=null", "checkpoint.load=null", "scheduler.lr_warmup_iters=1"]
        values += ["validation.eval_iters=0", "model.gradient_accumulation_fusion=false"]
        if self.gpus == 1 or self.device == "cpu":
            values.append("model.context_parallel_size=1")
        return [*values, *self.overrides]

    def record(self, row: dict[str, Any]) -> dict[str, Any]:
        """Print a row and keep it."""
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        whole = {"machine": machine(), "recipe": self.name, "gpus": self.gpus, "rows": self.rows}
        (self.out / "published.json").write_text(json.dumps(whole, indent=1) + "\n")
        return row


def main() -> int:
    """Run the parts that were asked for, and return 1 where something wanted was missed."""
    asked = _arguments()
    asked.out.mkdir(parents=True, exist_ok=True)
    cache = _hugging_face(asked.out / "hf")
    os.environ.update(HF_HOME=str(cache), HF_HUB_OFFLINE="1")
    bench = Bench(
        asked.out.absolute(),
        asked.gpus or _gpus(),
        asked.precision,
        asked.device,
        _overrides(asked),
        asked.rounds,
        asked.iterations,
        time.monotonic() + asked.seconds,
    )
    for part in asked.part or [each for each in PARTS if asked.device == "gpu" or each != "rounds"]:
        began = time.monotonic()
        for row in _PARTS[part](bench):
            bench.record({"part": part, **row, "seconds": round(time.monotonic() - began)})
    missed = [f"{row['part']}: {row['missed']}" for row in bench.rows if row.get("missed")]
    print(f"missed: {'; '.join(missed) or 'nothing'}")
    return int(bool(missed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--part", choices=PARTS, action="append", default=[])
    parser.add_argument("--precision", choices=tuple(PUBLISHED), default="bf16")
    parser.add_argument("--gpus", type=int, default=0, help="default: all of the machine")
    parser.add_argument("--layers", type=int, default=0, help="default: the recipe's 32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=30, help="of each run in a round")
    parser.add_argument("--seconds", type=float, default=560, help="begin nothing after so long")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="cpu: to try this program itself")
    parser.add_argument("overrides", nargs="*")
    return parser.parse_args()


def _overrides(asked: argparse.Namespace) -> tuple[str, ...]:
    layers = (f"model.num_layers={asked.layers}",) if asked.layers else ()
    tiny = (*TINY, "model.seq_length=128", "dataset.seq_length=128") if asked.device == "cpu" else ()
    return (*layers, *tiny, *asked.overrides)


def _hugging_face(home: Path) -> Path:
    """Make a cache that holds Llama 3 8B's architecture, which the recipe asks for, and nothing else."""
    repository = home / "hub/models--meta-llama--Meta-Llama-3-8B"
    snapshot = repository / "snapshots" / ("0" * 39 + "1")
    snapshot.mkdir(parents=True, exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs/main").write_text(snapshot.name)
    (snapshot / "config.json").write_text((ROOT / "configs/models/llama3_8b.json").read_text())
    return home.absolute()


def machine() -> list[str]:
    """Return the GPUs as nvidia-smi names them, none where there is no nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return []


def _gpus() -> int:
    return len(machine()) or sys.exit("no GPU is seen; --gpus and --device cpu try this program without")


def _passed() -> list[str]:
    return [word for name in PASSED if name in os.environ for word in ("--env", name)]


# ---- one training


def _launched(bench: Bench, values: list[str], *options: str) -> Path:
    """Train through `launcher run`; return the run's directory."""
    root = bench.out / f"runs-{time.time_ns()}"
    argv = [sys.executable, "-m", "launcher", "run", f"bridge:{bench.name}", "--cluster", "local"]
    argv += ["--run-root", str(root), "--gpus-per-node", str(bench.gpus)]
    argv += [*_passed(), *options, *values]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(argv)}\nended with status {done.returncode}:\n{done.stderr[-4000:]}")
    return next(path.parent for path in root.rglob("plan.json"))


def _plain(bench: Bench, values: list[str]) -> tuple[str, Path]:
    """Train the same with torchrun, with the recipe's variables; return the log and the file of the ConfigContainer."""
    directory = bench.out / f"plain-{time.time_ns()}"
    directory.mkdir()
    program, config = directory / "plain.py", directory / "config.yaml"
    program.write_text(PLAIN.format(module=bench.index["module"], name=bench.name))
    argv = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={bench.gpus}"]
    argv += [f"--master-port={20000 + time.time_ns() % 9000}", str(program), str(config), *values]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **bench.index["env"]}
    done = subprocess.run(argv, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    log = done.stdout + done.stderr
    (directory / "log").write_text(log)
    if done.returncode:
        sys.exit(f"{' '.join(argv)}\nended with status {done.returncode}:\n{log[-4000:]}")
    return log, config


def _log(run: Path) -> str:
    return "\n".join(path.read_text(errors="replace") for path in sorted(run.rglob("rank-*.log")))


def _step_s(log: str, after: int = MEASURED_AFTER) -> float:
    times = {int(number): float(ms) / 1e3 for number, ms in LINE.findall(log)}
    measured = [seconds for number, seconds in times.items() if number > after]
    return statistics.median(measured) if measured else sys.exit(f"no iteration times in the log:\n{log[-4000:]}")


def _tflops(run: Path) -> list[float]:
    """Return what the launcher recorded of each measured iteration (Megatron's count of operations)."""
    lines = [json.loads(line) for path in run.rglob("metrics.jsonl") for line in path.read_text().splitlines()]
    return [line["tflops_per_gpu"] for line in lines if line["iteration"] > MEASURED_AFTER]


def _config(path: Path) -> dict[str, str]:
    """Return a ConfigContainer as lines with their keys, without the paths in which two runs have to differ."""
    keys: list[tuple[int, str]] = []
    found = {}
    for line in path.read_text().splitlines():
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        name, colon, value = line.strip().partition(":")
        keys = [each for each in keys if each[0] < indent]
        if colon and not value:
            keys.append((indent, name))
        dotted = ".".join([*(key for _, key in keys), name])
        while dotted in found:
            dotted += "'"
        found[dotted] = value.strip()
    return found


def differences(left: Path, right: Path) -> dict[str, tuple[str | None, str | None]]:
    """Return the keys with two values in two configurations as Bridge wrote them."""
    one, other = _config(left), _config(right)
    keys = sorted({*one, *other})
    return {key: (one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)}


# ---- the parts


def _rounds(bench: Bench) -> Iterator[dict[str, Any]]:
    batch = 2 * bench.gpus
    values = bench.values(bench.iterations, batch)
    steps: dict[str, list[float]] = {"launched": [], "plain": []}
    for number in range(bench.rounds):
        if time.monotonic() > bench.until:
            yield {"left_out": f"round {number + 1}: the time is over"}
            break
        run = _launched(bench, values)
        plain, config = _plain(bench, values)
        steps["launched"].append(_step_s(_log(run)))
        steps["plain"].append(_step_s(plain))
        changed = differences(next(run.rglob("attempts/*/config.yaml")), config)
        yield {"round": number + 1, **{side: each[-1] for side, each in steps.items()}, "differences": changed}
    if steps["plain"]:
        medians = {side: statistics.median(each) for side, each in steps.items()}
        ratio = medians["plain"] / medians["launched"]
        wrong = f"launched over plain is {ratio:.4f}" if ratio < 0.99 and bench.device == "gpu" else None
        yield {"batch": batch, **medians, "launched_over_plain": round(ratio, 4), "missed": wrong}


def _published(bench: Bench) -> Iterator[dict[str, Any]]:
    if time.monotonic() > bench.until:
        yield {"left_out": "the time is over"}
        return
    batch = 16 * bench.gpus
    run = _launched(bench, bench.values(MEASURED_AFTER + 6, batch), "--check-config")
    log = _log(run)
    step = _step_s(log)
    row: dict[str, Any] = {"batch": batch, "step_s": step}
    if bench.device == "gpu":
        row["tokens_per_s_gpu"] = round(batch * SEQUENCE / step / bench.gpus)
        row["tflops_gpu"] = round(statistics.median(_tflops(run)), 1)
    row["published"] = PUBLISHED[bench.precision] or "none in NVIDIA's summary"
    estimate = json.loads((run / "plan.json").read_text()).get("memory")
    measured = peaks(log)
    if estimate and measured:
        expected, peak = estimate["stages"][estimate["worst_stage"]]["total"], max(measured.values())
        row |= {"estimate_gib": round(expected / GIB, 1), "peak_gib": round(peak / GIB, 1)}
        if bench.device == "gpu" and abs(expected / peak - 1) > 0.07:
            row["missed"] = f"the estimate of memory is off by {100 * (expected / peak - 1):+.1f} %"
    yield row


def _profiled(bench: Bench) -> Iterator[dict[str, Any]]:
    if time.monotonic() > bench.until:
        yield {"left_out": "the time is over"}
        return
    run = _launched(bench, bench.values(14, 2 * bench.gpus), "--nsys", "--profile-steps=11:13")
    reports = sorted(run.rglob("*.nsys-rep"))
    sizes = {path.name: path.stat().st_size for path in reports}
    yield {"reports": sizes, "step_s": _step_s(_log(run), 2), "missed": None if sizes else "no report of nsys"}


def _submitted(bench: Bench) -> Iterator[dict[str, Any]]:
    if time.monotonic() > bench.until:
        yield {"left_out": "the time is over"}
        return
    environ = _on_slurm(bench)
    root = bench.out / f"runs-{time.time_ns()}"
    argv = [sys.executable, "-m", "launcher", "submit", f"bridge:{bench.name}", "--follow", "--nodes=1"]
    argv += ["--run-root", str(root), *_passed(), *bench.values(bench.iterations, 2 * bench.gpus)]
    done = subprocess.run(argv, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    log = _log(root) if root.exists() else ""
    if done.returncode or not LINE.search(log):
        yield {"missed": f"status {done.returncode}: {done.stderr[-1500:]}"}
        return
    yield {"batch": 2 * bench.gpus, "step_s": _step_s(log)}


def _doctor(bench: Bench) -> Iterator[dict[str, Any]]:
    argv = [sys.executable, "-m", "launcher", "doctor", "--nodes=1", "--json"]
    done = subprocess.run(argv, cwd=ROOT, env=_on_slurm(bench), capture_output=True, text=True, check=False)
    (bench.out / "doctor.json").write_text(done.stdout)
    yield {"status": done.returncode, "missed": f"status {done.returncode}" if done.returncode else None}


def _on_slurm(bench: Bench) -> dict[str, str]:
    """Write a profile for this machine's Slurm; return an environment in which it is the launcher's."""
    clusters = bench.out / "clusters"
    clusters.mkdir(exist_ok=True)
    (clusters / "here.toml").write_text(PROFILE.format(gpus=bench.gpus, device=bench.device))
    return {**os.environ, "LAUNCHER_CLUSTERS": str(clusters), "LAUNCHER_CLUSTER": "here"}


_PARTS = {
    "rounds": _rounds,
    "published": _published,
    "profile": _profiled,
    "submit": _submitted,
    "doctor": _doctor,
}


if __name__ == "__main__":
    sys.exit(main())
