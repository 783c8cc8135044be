"""What GPUs and networks do when they are used: a matrix product on each GPU, an all-reduce in and across nodes.

torch is imported here and nowhere before. On CPUs gloo joins the ranks: that shows that they reach each other, and says
nothing about speed.
"""

import contextlib
import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional

from ...contract.checks import Check, fail, ok, skip, warn
from .expected import Expected

_SIZE = 8192
_PRODUCTS = 30
_REDUCE_BYTES = 1024**3
"""Large enough that latency does not count on any fabric."""
_REDUCES = 10
_TIMEOUT_S = 60
_ENOUGH, _POOR = 0.9, 0.75
"""Shares of what a healthy node reaches. Runs of one machine differ by 1 to 3 percent; a throttled GPU loses 10 and
more, a broken link or a fallback to TCP half and more."""


@dataclass(frozen=True)
class Measured:
    """A figure, or why there is none."""

    number: Optional[float] = None
    why: str = ""


def figure_check(name: str, unit: str, measured: Measured, expected: Optional[float], key: str) -> Check:
    """A measured figure against the profile's."""
    if measured.number is None:
        return skip(name, measured.why or "it was not measured")
    number = measured.number
    value = f"{number:.0f} {unit}"
    if expected is None:
        return skip(name, f"nobody has said what a healthy node reaches (expect.{key} in the profile)", value, number)
    share = number / expected
    if share >= _ENOUGH:
        return ok(name, value, number)
    reason = f"{share:.0%} of the {expected:g} {unit} that the profile expects"
    remedy = {
        "matmul_tflops": "see clocks, ecc and gpu memory of the node; compare its GPUs with `nvidia-smi dmon`",
        "all_reduce_node_gbs": "see nvlink; NCCL_DEBUG=INFO in a run tells which transport NCCL has chosen",
        "all_reduce_gbs": "see nics and libfabric; NCCL_DEBUG=INFO tells whether NCCL uses the fabric or TCP",
    }[key]
    judge = fail if share < _POOR else warn
    return judge(name, value, reason, f"{remedy}; leave the node out (--exclude) if it alone is slow", number)


def connectivity_check(backend: str, ranks: int, measured: Measured, wanted: int) -> Check:
    """Whether all ranks added up to the right sum."""
    name = "collective"
    if measured.number is None:
        return skip(name, measured.why or "it was not tried")
    words = f"{backend}, {ranks} ranks" + (" (on CPUs: they reach each other, no more)" if backend == "gloo" else "")
    if int(measured.number) != wanted:
        return fail(
            name,
            words,
            f"the sum over all ranks is {measured.number:g}, not {wanted}",
            "data are damaged on the way: see ecc and xid, and compare node by node (--nodelist)",
            measured.number,
        )
    return ok(name, words)


def failed_check(error: str, backend: str) -> Check:
    """A collective that did not come to an end."""
    return fail(
        "collective",
        "failed",
        f"{backend}: {error}",
        "the rank's log has the whole message; NCCL_DEBUG=INFO (--env NCCL_DEBUG=INFO) makes NCCL say more",
    )


def bus_gbs(size: int, ranks: int, seconds: float) -> float:
    """Bus bandwidth of an all-reduce, GB/s: what each link carries, whatever the number of ranks.

    2(n-1)/n of the data cross each link (nccl-tests, doc/PERFORMANCE.md).
    """
    return size * 2 * (ranks - 1) / ranks / seconds / 1e9


def stack(expected: Expected) -> "tuple[Any, str]":
    """torch, or why it is not used."""
    if not expected.torch:
        return None, "left out on request (--quick)"
    try:
        import torch
    except ImportError as error:
        return None, f"torch is not in this image or environment ({error})"
    except OSError as error:  # a library that it needs is missing
        return None, f"torch cannot be loaded: {error}"
    return torch, ""


def uses_gpu(torch: Any, expected: Expected) -> bool:
    """Whether ranks compute on a GPU, by the profile and by what torch sees."""
    return expected.device != "cpu" and bool(torch.cuda.is_available())


def matmul(torch: Any, expected: Expected, local_rank: int) -> Measured:
    """TFLOP/s of a bf16 product of 8192 x 8192 x 8192 on this rank's GPU."""
    if not uses_gpu(torch, expected):
        return Measured(why="no GPU to compute on")
    torch.cuda.set_device(local_rank % torch.cuda.device_count())
    left, right = (torch.randn(_SIZE, _SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(10):
        left @ right
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(_PRODUCTS):
        left @ right
    torch.cuda.synchronize()
    return Measured(2 * _SIZE**3 * _PRODUCTS / (time.perf_counter() - begin) / 1e12)


@dataclass(frozen=True)
class Reduced:
    """What the collectives gave: the sum of ones over all ranks, and bandwidths where GPUs did it."""

    backend: str
    total: Measured
    node: Measured
    world: Measured
    error: Optional[str] = None


def all_reduce(torch: Any, expected: Expected, ranks: int, local_ranks: int) -> Reduced:
    """Join all ranks, add ones, and measure the bandwidth in this node and across all."""
    gpu = uses_gpu(torch, expected)
    backend = "nccl" if gpu else "gloo"
    no_gpu = Measured(why="gloo on CPUs says nothing about the network")
    distributed = torch.distributed
    try:
        distributed.init_process_group(backend, timeout=datetime.timedelta(seconds=_TIMEOUT_S))
        one = torch.ones(1, device="cuda" if gpu else "cpu")
        distributed.all_reduce(one)
        total = Measured(float(one.item()))
        if not gpu:
            return Reduced(backend, total, no_gpu, no_gpu)
        node, world = _bandwidths(torch, ranks, local_ranks)
        return Reduced(backend, total, node, world)
    except Exception as error:  # whatever a back end raises: the finding is that it did
        why = Measured(why="the ranks could not be joined")
        return Reduced(backend, why, why, why, error=_first_line(error))
    finally:
        with contextlib.suppress(Exception):
            distributed.destroy_process_group()


def _bandwidths(torch: Any, ranks: int, local_ranks: int) -> "tuple[Measured, Measured]":
    distributed = torch.distributed
    data = torch.ones(_REDUCE_BYTES // 2, device="cuda", dtype=torch.bfloat16)
    me = distributed.get_rank()
    group = None
    for first in range(0, ranks, local_ranks):  # every rank has to make every group
        members = list(range(first, min(first + local_ranks, ranks)))
        made = distributed.new_group(members)
        group = made if me in members else group
    alone = Measured(why="one GPU on the node has nobody to add with")
    node = _timed(torch, lambda: distributed.all_reduce(data, group=group), local_ranks) if local_ranks > 1 else alone
    if ranks == local_ranks:
        return node, Measured(why="one node alone has no network to use")
    return node, _timed(torch, lambda: distributed.all_reduce(data), ranks)


def _timed(torch: Any, step: Callable[[], Any], ranks: int) -> Measured:
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(_REDUCES):
        step()
    torch.cuda.synchronize()
    return Measured(bus_gbs(_REDUCE_BYTES, ranks, (time.perf_counter() - begin) / _REDUCES))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def facts(torch: Any) -> "dict[str, str]":
    """What should be the same on all nodes."""
    return {"torch": str(torch.__version__)} if torch is not None else {}
