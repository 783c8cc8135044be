"""The plan's memory estimate against the measured peak, for one recipe in several shapes, on the GPUs of this machine.

    python benchmarks/memory_estimate.py [--gpus 2] [--only TEXT] [--iterations 4] [--json] [KEY=VALUE ...]

Each shape is one `launcher run --check-config`: the estimate is the one in its plan.json, the peak what each rank says
of itself after its second iteration (Bridge's "mem-max-allocated-gigabytes", torch.cuda.max_memory_allocated), or
metrics.jsonl's where that is larger. The row of a run shows the stage that was fullest when measured, and the estimate
of the same stage. `--too-large` takes shapes instead that have to run out of memory on 80 GB.

A shape that fails is a row of its own, with the reason; the others go on. Shapes that need more GPUs are left out.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GIB = 2**30
REPORTED = re.compile(
    r"\[Rank (\d+)\] \(after (\d+) iterations?\) memory \(GB\).*?mem-max-allocated-gigabytes: ([0-9.]+)"
)
_TIMEOUT_S = 420

_TP2 = ("model.tensor_model_parallel_size=2", "model.sequence_parallel=true")
_PP2 = ("model.pipeline_model_parallel_size=2", "model.pipeline_dtype=bf16")
_FULL = ("model.recompute_granularity=full", "model.recompute_method=uniform", "model.recompute_num_layers=1")
_FP8 = ("mixed_precision=bf16_with_fp8_current_scaling_mixed",)
_BLOCK = ("model.recompute_granularity=full", "model.recompute_method=block", "model.recompute_num_layers=8")


@dataclass(frozen=True)
class Shape:
    """A run: its name in the table, how many GPUs it takes, and what it changes."""

    name: str
    gpus: int
    overrides: tuple[str, ...] = ()
    batch: int = 0
    """The global batch size, where the one asked for is not a multiple of the micro-batch size."""


SHAPES = (
    Shape("1 GPU", 1),
    Shape("micro-batch 1", 1, ("train.micro_batch_size=1",)),
    Shape("full recomputation", 1, _FULL),
    Shape("block recomputation of 8 layers", 1, _BLOCK),
    Shape(
        "selective: core_attn and mlp",
        1,
        ("model.recompute_granularity=selective", "model.recompute_modules=[core_attn,mlp]"),
    ),
    Shape("unfused loss", 1, ("model.cross_entropy_loss_fusion=false", "train.micro_batch_size=1")),
    Shape(
        "gradients reduced in bf16", 1, ("ddp.grad_reduce_in_fp32=false", "mixed_precision.grad_reduce_in_fp32=false")
    ),
    Shape("DP 2", 2),
    Shape("TP 2 + SP", 2, _TP2),
    Shape("TP 2 without SP", 2, _TP2[:1]),
    Shape("TP 2 + SP, full recomputation", 2, (*_TP2, *_FULL)),
    Shape("PP 2", 2, _PP2),
    Shape("PP 2, VP 2", 2, (*_PP2, "model.virtual_pipeline_model_parallel_size=2")),
    Shape("PP 2, full recomputation", 2, (*_PP2, *_FULL)),
    Shape("CP 2", 2, ("model.context_parallel_size=2",)),
)
TOO_LARGE = (
    Shape("32 layers", 1, ("model.num_layers=32",)),
    Shape(
        "micro-batch 4 with an unfused loss", 1, ("model.cross_entropy_loss_fusion=false", "train.micro_batch_size=4")
    ),
    Shape("micro-batch 5 in FP8", 1, (*_FP8, "train.micro_batch_size=5"), 10),
    Shape("micro-batch 5", 1, ("train.micro_batch_size=5",), 10),
    Shape("micro-batch 14, full recomputation", 1, (*_FULL, "train.micro_batch_size=14"), 14),
)
"""Shapes that need a little more than an H100's 79.18 GiB: each has to run out of memory there."""


@dataclass(frozen=True)
class Row:
    """What came of a shape; bytes."""

    shape: Shape
    estimated: int = 0
    measured: int = 0
    stage: int = 0
    failed: str = ""

    @property
    def error(self) -> float:
        """Relative, positive where the estimate is too high."""
        return self.estimated / self.measured - 1


def main() -> int:
    """Run every shape that fits, and print the table; 1 where one failed, or one that is too large did not."""
    asked = _arguments()
    known = TOO_LARGE if asked.too_large else SHAPES
    shapes = [one for one in known if one.gpus <= asked.gpus and asked.only.lower() in one.name.lower()]
    if not shapes:
        sys.exit(f"no shape of at most {asked.gpus} GPUs has {asked.only!r} in its name")
    rows = []
    for number, shape in enumerate(shapes, 1):
        print(f"{number} of {len(shapes)}: {shape.name}", file=sys.stderr, flush=True)
        rows.append(_measure(shape, asked))
        print(f"    {_text(rows[-1])}", file=sys.stderr, flush=True)
    print(json.dumps([_object(row) for row in rows], indent=1) if asked.json else "\n".join(_table(rows)))
    if asked.too_large:
        return int(not all("out of memory" in row.failed for row in rows))
    return int(any(row.failed for row in rows))


def _arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=1, help="use shapes of at most so many GPUs")
    parser.add_argument("--too-large", action="store_true", help="use shapes that do not fit 80 GB")
    parser.add_argument("--only", default="", help="only shapes with this text in their name")
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8, help="global batch size of one GPU; twice that of two")
    parser.add_argument("--recipe", default=str(ROOT / "recipes/llama32_1b_pretrain.py"))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("overrides", nargs="*")
    return parser.parse_args(argv)


def measure(shape: Shape, gpus: str | None = None) -> Row:
    """Measure one shape with this program's defaults, on the GPUs with these numbers."""
    return _measure(shape, _arguments([]), gpus)


def _measure(shape: Shape, asked: argparse.Namespace, gpus: str | None = None) -> Row:
    with tempfile.TemporaryDirectory() as root:
        argv = [sys.executable, "-m", "launcher", "run", asked.recipe, "--cluster", "local", "--run-root", root]
        argv += ["--gpus-per-node", str(shape.gpus), "--check-config"]
        if gpus is not None:
            argv += ["--env", f"CUDA_VISIBLE_DEVICES={gpus}"]
        for name in ("PYTHONPATH", "LD_LIBRARY_PATH", "NCCL_NVLS_ENABLE", "HF_HOME", "HF_HUB_OFFLINE"):
            if name in os.environ:
                argv += ["--env", name]
        batch = shape.batch or asked.batch * shape.gpus
        argv += [f"train.train_iters={asked.iterations}", f"train.global_batch_size={batch}"]
        # A checkpoint's buffers are not part of training; a run of few iterations has fewer of them to warm up.
        argv += ["checkpoint.save=null", "checkpoint.load=null", "scheduler.lr_warmup_iters=1", "logger.log_interval=1"]
        try:
            done = subprocess.run(
                [*argv, *shape.overrides, *asked.overrides],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
                timeout=_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            return Row(shape, failed=f"not over after {_TIMEOUT_S} s")
        return _row(shape, Path(root), done.returncode, done.stderr)


def _row(shape: Shape, root: Path, status: int, stderr: str) -> Row:
    memory = next((json.loads(path.read_text()).get("memory") for path in root.rglob("plan.json")), None)
    measured = peaks("\n".join(path.read_text(errors="replace") for path in sorted(root.rglob("rank-*.log"))))
    if status or not memory or not measured:
        words = [line for line in stderr.splitlines() if line.strip()] or ["nothing was said"]
        why = (
            "no estimate" if not status and not memory else "no peak in the logs" if not status else f"status {status}"
        )
        estimated = memory["stages"][memory["worst_stage"]]["total"] if memory else 0
        quoted = next((line for line in words if "out of memory" in line), words[-1])
        return Row(shape, estimated, failed=f"{why}: {quoted[:300]}")
    stages = memory["stages"]
    # Ranks run through TP first, then CP and DP, then PP (megatron-core's parallel_state): blocks of ranks are stages.
    per_stage = max(1, shape.gpus // len(stages))
    by_stage: dict[int, int] = {}
    for rank, peak in measured.items():
        by_stage[rank // per_stage] = max(peak, by_stage.get(rank // per_stage, 0))
    logged = [_peak_of_metrics(path) for path in root.rglob("metrics.jsonl")]
    last = len(stages) - 1
    by_stage[last] = max([by_stage.get(last, 0), *logged])
    fullest = max(by_stage, key=lambda stage: by_stage[stage])
    return Row(shape, stages[fullest]["total"], by_stage[fullest], fullest)


def peaks(log: str) -> dict[int, int]:
    """Bytes at the peak by rank, as the last report of each says them (in GB of 10^9 bytes)."""
    return {int(rank): round(float(gigabytes) * 1e9) for rank, _, gigabytes in REPORTED.findall(log)}


def _peak_of_metrics(path: Path) -> int:
    return max((json.loads(line).get("memory_bytes") or 0 for line in path.read_text().splitlines() if line), default=0)


def _text(row: Row) -> str:
    if row.failed:
        return f"failed: {row.failed}"
    return f"estimate {row.estimated / GIB:.1f} GiB, measured {row.measured / GIB:.1f} GiB, {100 * row.error:+.1f} %"


def _table(rows: list[Row]) -> list[str]:
    """Markdown, as the documentation has it."""
    lines = [
        "| shape | GPUs | stage | estimate GiB | measured GiB | ratio | error |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        start = f"| {row.shape.name} | {row.shape.gpus} |"
        if row.failed:
            lines.append(f"{start} | {row.estimated / GIB:.1f} | | | {row.failed} |")
        else:
            ratio = row.estimated / row.measured
            sizes = f"{row.estimated / GIB:.1f} | {row.measured / GIB:.1f}"
            lines.append(f"{start} {row.stage} | {sizes} | {ratio:.3f} | {100 * row.error:+.1f} % |")
    good = [abs(row.error) for row in rows if not row.failed]
    if good:
        lines += ["", f"largest error {100 * max(good):.1f} %, {len(good)} of {len(rows)} shapes"]
    return lines


def _object(row: Row) -> dict[str, Any]:
    return {
        "shape": row.shape.name,
        "gpus": row.shape.gpus,
        "overrides": list(row.shape.overrides),
        "stage": row.stage,
        "estimated_bytes": row.estimated,
        "measured_bytes": row.measured,
        "failed": row.failed,
    }


if __name__ == "__main__":
    sys.exit(main())
