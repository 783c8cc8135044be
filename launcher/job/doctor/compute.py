"""Speed of GPUs and networks in use: a matrix product on each GPU, an all-reduce in a node and across nodes.

torch is imported here and nowhere before. On CPUs the ranks are joined by gloo, which shows that they reach each other
and says nothing about speed.
"""

import contextlib
import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional

from ...contract.checks import Check, fail, ok, skip, warn
from ..errors import first_line
from .expected import Expected

_SIZE = 8192
_PRODUCTS = 30
_REDUCE_BYTES = 1024**3
"""Large enough that latency is negligible on any fabric."""
_REDUCES = 10
_TIMEOUT_S = 60
_ENOUGH, _POOR = 0.9, 0.75
"""Shares of what a healthy node reaches. Runs on one machine differ by 1 to 3 percent; a throttled GPU loses 10 or
more, a broken link or a fall-back to TCP half or more."""


@dataclass(frozen=True)
class Measurement:
    """A figure, or the reason why there is none."""

    number: Optional[float] = None
    why: str = ""


def figure_check(name: str, unit: str, measured: Measurement, expected: Optional[float], key: str) -> Check:
    """Compare a measured figure with the profile's."""
    if measured.number is None:
        return skip(name, measured.why or "it was not measured")
    number = measured.number
    value = f"{number:.0f} {unit}"
    if expected is None:
        return skip(name, f"the profile does not say what a healthy node reaches (expect.{key})", value, number)
    share = number / expected
    if share >= _ENOUGH:
        return ok(name, value, number)
    reason = f"{share:.0%} of the {expected:g} {unit} that the profile expects"
    remedy = {
        "matmul_tflops": "see clocks, ecc and gpu memory of the node, and compare its GPUs with `nvidia-smi dmon`",
        "all_reduce_node_gbs": "see nvlink; NCCL_DEBUG=INFO in a run shows which transport NCCL uses",
        "all_reduce_gbs": "see nics and libfabric; NCCL_DEBUG=INFO shows whether NCCL uses the fabric or TCP",
    }[key]
    judge = fail if share < _POOR else warn
    return judge(name, value, reason, f"{remedy}; if only this node is slow, leave it out (--exclude)", number)


def connectivity_check(backend: str, ranks: int, measured: Measurement, wanted: int) -> Check:
    """Check that all ranks added up to the right sum."""
    name = "collective"
    if measured.number is None:
        return skip(name, measured.why or "it was not tried")
    words = f"{backend}, {ranks} ranks" + (
        " (on CPUs: shows only that they reach each other)" if backend == "gloo" else ""
    )
    if int(measured.number) != wanted:
        return fail(
            name,
            words,
            f"the sum over all ranks is {measured.number:g}, not {wanted}",
            "data are corrupted in transit: see ecc and xid, and compare node by node (--nodelist)",
            measured.number,
        )
    return ok(name, words)


def failed_check(error: str, backend: str) -> Check:
    """Report a collective that failed."""
    return fail(
        "collective",
        "failed",
        f"{backend}: {error}",
        "see the rank's log for the whole message; --env NCCL_DEBUG=INFO adds NCCL's own log",
    )


def bus_gbs(size: int, ranks: int, seconds: float) -> float:
    """Return the bus bandwidth of an all-reduce in GB/s: what each link carries, whatever the number of ranks.

    2(n-1)/n of the data cross each link. Source: nccl-tests, doc/PERFORMANCE.md.
    """
    return size * 2 * (ranks - 1) / ranks / seconds / 1e9


def stack(expected: Expected) -> "tuple[Any, str]":
    """Return torch, or the reason why it is not used."""
    if not expected.torch:
        return None, "left out on request (--quick)"
    try:
        import torch
    except ImportError as error:
        return None, f"torch is not in this image or environment ({error})"
    except OSError as error:  # a library that torch needs is missing
        return None, f"torch cannot be loaded: {error}"
    return torch, ""


def uses_gpu(torch: Any, expected: Expected) -> bool:
    """Return whether ranks compute on a GPU, by the profile and by what torch sees."""
    return expected.device != "cpu" and bool(torch.cuda.is_available())


def matmul(torch: Any, expected: Expected, local_rank: int) -> Measurement:
    """Return TFLOP/s of a bf16 product of 8192 x 8192 x 8192 on this rank's GPU."""
    if not uses_gpu(torch, expected):
        return Measurement(why="no GPU to compute on")
    torch.cuda.set_device(local_rank % torch.cuda.device_count())
    left, right = (torch.randn(_SIZE, _SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(10):
        left @ right
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(_PRODUCTS):
        left @ right
    torch.cuda.synchronize()
    return Measurement(2 * _SIZE**3 * _PRODUCTS / (time.perf_counter() - begin) / 1e12)


@dataclass(frozen=True)
class AllReduceResult:
    """Results of the collectives: the sum of ones over all ranks, and bandwidths where GPUs were used."""

    backend: str
    total: Measurement
    node: Measurement
    all_nodes: Measurement
    error: Optional[str] = None


def all_reduce(torch: Any, expected: Expected, ranks: int, local_ranks: int) -> AllReduceResult:
    """Join all ranks, add ones, and measure the bandwidth in this node and across all nodes."""
    gpu = uses_gpu(torch, expected)
    backend = "nccl" if gpu else "gloo"
    no_gpu = Measurement(why="gloo on CPUs does not measure the network")
    distributed = torch.distributed
    try:
        distributed.init_process_group(backend, timeout=datetime.timedelta(seconds=_TIMEOUT_S))
        one = torch.ones(1, device="cuda" if gpu else "cpu")
        distributed.all_reduce(one)
        total = Measurement(float(one.item()))
        if not gpu:
            return AllReduceResult(backend, total, no_gpu, no_gpu)
        node, all_nodes = _bandwidths(torch, ranks, local_ranks)
        return AllReduceResult(backend, total, node, all_nodes)
    except Exception as error:  # any exception of a back end is a finding
        why = Measurement(why="the ranks could not be joined")
        return AllReduceResult(backend, why, why, why, error=_describe(error))
    finally:
        with contextlib.suppress(Exception):  # a group that was never joined; the finding is above
            distributed.destroy_process_group()


def _bandwidths(torch: Any, ranks: int, local_ranks: int) -> "tuple[Measurement, Measurement]":
    distributed = torch.distributed
    data = torch.ones(_REDUCE_BYTES // 2, device="cuda", dtype=torch.bfloat16)
    me = distributed.get_rank()
    group = None
    for first in range(0, ranks, local_ranks):  # every rank must create every group
        members = list(range(first, min(first + local_ranks, ranks)))
        created = distributed.new_group(members)
        group = created if me in members else group
    alone = Measurement(why="the node has one rank only")
    node = _timed(torch, lambda: distributed.all_reduce(data, group=group), local_ranks) if local_ranks > 1 else alone
    if ranks == local_ranks:
        return node, Measurement(why="the job has one node only")
    return node, _timed(torch, lambda: distributed.all_reduce(data), ranks)


def _timed(torch: Any, step: Callable[[], Any], ranks: int) -> Measurement:
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(_REDUCES):
        step()
    torch.cuda.synchronize()
    return Measurement(bus_gbs(_REDUCE_BYTES, ranks, (time.perf_counter() - begin) / _REDUCES))


def _describe(error: BaseException) -> str:
    return ": ".join(filter(None, (type(error).__name__, first_line(error))))


def facts(torch: Any) -> "dict[str, str]":
    """Return what should be the same on all nodes."""
    return {"torch": str(torch.__version__)} if torch is not None else {}
