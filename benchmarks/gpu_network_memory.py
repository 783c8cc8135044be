"""Two GPUs of one host: verdicts on NCCL's networks, and the memory estimate of eight shapes. At most 8 minutes.

    python benchmarks/gpu_network_memory.py [--seconds 460] [--json FILE] [--part network|memory]

Network: two processes make a communicator and add up; its log is followed as in a run. With NCCL_HOSTID each process is
a host of its own for NCCL, so that the network between hosts is used on one. A row has the verdict that is expected and
the one that came, its cause, NCCL's line, and the seconds until it was final.

Memory: shapes of memory_estimate.py and others (FP8, offloaded activations, one that must not fit 80 GB). Shapes of one
GPU run two at a time. What would begin after --seconds is left out, and said.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.memory_estimate import GIB, SHAPES, TOO_LARGE, Row, Shape, measure  # noqa: E402 - needs the path above
from launcher.contract.fabrics.verdict import Expectation  # noqa: E402
from launcher.job.network import follower  # noqa: E402

_CASE_S = 100
_RANK = """
import os, time
import torch, torch.distributed as dist
rank = int(os.environ["RANK"])
torch.cuda.set_device(rank)
dist.init_process_group("nccl", device_id=torch.device("cuda", rank))
until = time.monotonic() + float(os.environ["SECONDS_TO_RUN"])
while time.monotonic() < until:
    part = torch.ones(1 << 20, device="cuda")
    dist.all_reduce(part)
    torch.cuda.synchronize()
    time.sleep(0.2)
assert part[0].item() == 2
dist.destroy_process_group()
"""


@dataclass(frozen=True)
class Case:
    """A communicator of two processes: what is set, what the profile would expect, and the verdict that is right."""

    name: str
    fabric: str
    hosts: int
    right: str
    environment: tuple[tuple[str, str], ...] = ()


CASES = (
    Case("NVLink in a node", "infiniband", 1, "good"),
    Case("no P2P in a node", "infiniband", 1, "bad", (("NCCL_P2P_DISABLE", "1"),)),
    Case("two hosts, sockets, InfiniBand expected", "infiniband", 2, "bad", (("NCCL_IB_DISABLE", "1"),)),
    Case("two hosts, sockets, EFA expected", "efa", 2, "bad", (("NCCL_NET", "Socket"),)),
    Case("two hosts, sockets, Ethernet expected", "ethernet", 2, "good", (("NCCL_IB_DISABLE", "1"),)),
    # On a host with adapters this one shows the lines on GPUDirect RDMA; without, it is bad for want of them.
    Case("two hosts, whatever NCCL finds", "infiniband", 2, "any"),
)

_FP8 = ("mixed_precision=bf16_with_fp8_current_scaling_mixed",)
_OFFLOAD = (
    "model.cpu_offloading=true",
    "model.cpu_offloading_num_layers=8",
    "model.cpu_offloading_activations=true",
    "model.cpu_offloading_weights=false",
)
EIGHT = (
    *(shape for shape in SHAPES if shape.name in ("1 GPU", "micro-batch 1", "full recomputation")),
    Shape("FP8", 1, _FP8),
    Shape("8 of 16 layers' activations offloaded", 1, _OFFLOAD),
    *(shape for shape in TOO_LARGE if shape.name == "micro-batch 5"),
    *(shape for shape in SHAPES if shape.name in ("DP 2", "TP 2 + SP")),
)


def main() -> int:
    """Run both parts, print the tables, and return 1 where a verdict was wrong or an estimate is off by 7 %."""
    asked = _arguments()
    until = time.monotonic() + asked.seconds
    found: dict[str, Any] = {"gpu": _gpu(), "network": [], "memory": []}
    if asked.part != "memory":
        for case in CASES:
            found["network"].append(_left_out(case.name) if time.monotonic() > until else _follow(case))
            print(json.dumps(found["network"][-1]), flush=True)
    if asked.part != "network":
        for row in _measured(until):
            found["memory"].append(row)
            print(json.dumps(row), flush=True)
    if asked.json:
        Path(asked.json).write_text(json.dumps(found, indent=1) + "\n")
    wrong = [row["name"] for part in ("network", "memory") for row in found[part] if row.get("wrong")]
    print(f"wrong: {', '.join(wrong) or 'none'}")
    return int(bool(wrong))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=460, help="begin nothing after so long")
    parser.add_argument("--json", default="", help="a file for all rows")
    parser.add_argument("--part", choices=("network", "memory"), default="")
    return parser.parse_args()


def _gpu() -> str:
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _left_out(name: str) -> dict[str, Any]:
    return {"name": name, "left_out": "the time is over"}


# ---- network


def _follow(case: Case) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory, _ranks(case, Path(directory)) as (log, ranks):
        began = time.monotonic()
        expected = Expectation("require", case.fabric, case.hosts, 2 // case.hosts)
        os.environ.update(case.environment)  # what a cause is looked for in
        following = follower.Following(log, expected, follower.view_of_this_process())
        for name, _ in case.environment:
            del os.environ[name]
        final = follower.follow(following, lambda: ranks[0].poll() is None, timeout_s=_CASE_S)
        took = time.monotonic() - began
        verdict, selection = following.verdict, following.selection
        return {
            "name": case.name,
            "verdict": verdict.word,
            "right": case.right,
            "what": verdict.what,
            "cause": verdict.cause or None,
            "transports": selection.transports,
            "networks": selection.networks,
            "gdr": [selection.gdr_on, selection.gdr_off],
            "nccl": selection.version,
            "final": final,
            "seconds": round(took, 1),
            "wrong": not final or took > 75 or (case.right != "any" and verdict.word != case.right),
        }


@contextlib.contextmanager
def _ranks(case: Case, directory: Path) -> "Iterator[tuple[Path, Sequence[subprocess.Popen[bytes]]]]":
    program, log = directory / "rank.py", directory / "nccl.log"
    program.write_text(_RANK)
    log.touch()
    ranks = []
    for rank in range(2):
        own = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
        own |= {"SECONDS_TO_RUN": "80", **dict(case.environment)}
        if case.hosts > 1:
            own |= {"NCCL_HOSTID": f"host{rank}", "NCCL_SOCKET_IFNAME": "lo"}
        if rank == 0:
            own |= {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_SUBSYS": "INIT,NET,GRAPH", "NCCL_DEBUG_FILE": str(log)}
        output = (directory / f"{rank}.log").open("wb")
        ranks.append(
            subprocess.Popen([sys.executable, str(program)], env={**os.environ, **own}, stdout=output, stderr=output)
        )
    try:
        yield log, ranks
    finally:
        for each in ranks:
            each.kill()
            each.wait()


# ---- memory


def _measured(until: float) -> Iterator[dict[str, Any]]:
    alone = [shape for shape in EIGHT if shape.gpus == 1]
    both = [shape for shape in EIGHT if shape.gpus == 2]
    for first in range(0, len(alone), 2):
        pair = alone[first : first + 2]
        if time.monotonic() > until:
            yield from (_left_out(shape.name) for shape in pair)
            continue
        with ThreadPoolExecutor(2) as pool:
            yield from pool.map(_row, pair, ("0", "1"))
    for shape in both:
        yield _left_out(shape.name) if time.monotonic() > until else _row(shape, "0,1")


def _row(shape: Shape, gpus: str) -> dict[str, Any]:
    began = time.monotonic()
    row: Row = measure(shape, gpus=gpus)
    found = {"name": shape.name, "gpus": shape.gpus, "seconds": round(time.monotonic() - began, 1)}
    found |= {"estimate_gib": round(row.estimated / GIB, 1), "failed": row.failed}
    if shape in TOO_LARGE:
        # Right where it fails on 80 GB, and on a larger GPU where its peak is above that.
        fits = not row.failed and row.measured / GIB < 79.18
        return {**found, "measured_gib": round(row.measured / GIB, 1), "wrong": fits}
    if row.failed:
        return {**found, "wrong": True}
    return {
        **found,
        "measured_gib": round(row.measured / GIB, 1),
        "error": round(row.error, 3),
        "wrong": abs(row.error) > 0.07,
    }


if __name__ == "__main__":
    sys.exit(main())
