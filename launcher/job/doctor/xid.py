"""Xids: errors of GPUs that NVIDIA's driver has written to the kernel's log."""

import re
from collections import Counter

from ...contract.checks import Check, fail, ok, skip, warn
from .probes import Reading

# Sources: severities from awslabs/awsome-distributed-ai (95b939c),
# 4.validation_and_observability/2.gpu-cluster-healthcheck; meanings from NVIDIA, "XID Errors".
_ISOLATE, _REBOOT, _RESET, _MONITOR = "isolate", "reboot", "reset", "monitor"
SEVERITY = {
    54: _ISOLATE,
    79: _REBOOT,
    48: _RESET,
    74: _RESET,
    95: _RESET,
    119: _RESET,
    120: _RESET,
    13: _MONITOR,
    31: _MONITOR,
    43: _MONITOR,
    63: _MONITOR,
    94: _MONITOR,
}
MEANING = {
    13: "an exception in a program's kernel",
    31: "a memory fault of a program",
    43: "a program's channel was stopped",
    48: "an ECC error of two bits",
    54: "auxiliary power is not connected",
    63: "a row of memory was remapped",
    74: "an error of NVLink",
    79: "the GPU has fallen off the bus",
    94: "a contained ECC error",
    95: "an uncontained ECC error",
    119: "the GPU's system processor timed out",
    120: "an error of the GPU's system processor",
}
_REMEDY = {
    _ISOLATE: "drain the node (scontrol update nodename=NODE state=drain reason=...) until it is repaired",
    _REBOOT: "drain and reboot the node; if the error returns, the GPU must be replaced",
    _RESET: "drain the node and reset the GPU (nvidia-smi --gpu-reset) or reboot; leave the node out with --exclude",
    _MONITOR: "keep the node and start the job again; if the error returns on the same GPU, report it",
}
_ORDER = (_MONITOR, _RESET, _REBOOT, _ISOLATE)

_LINE = re.compile(r"NVRM: Xid \(PCI:([0-9A-Fa-f:.]+)\): (\d+)")


def parse(text: str) -> list[tuple[str, int]]:
    """Return GPU (its PCI address) and number of every Xid in a kernel log, oldest first."""
    return [(match[1].lower(), int(match[2])) for match in _LINE.finditer(text)]


def xid_check(log: Reading, has_gpus: bool) -> Check:
    """Judge the worst Xid since the node was booted."""
    name = "xid"
    if not has_gpus:
        return skip(name, "no NVIDIA driver is seen here")
    if log.text is None:
        return skip(name, f"the kernel's log cannot be read ({log.why})")
    found = parse(log.text)
    if not found:
        return ok(name, "none since boot", 0)
    counted = Counter(number for _, number in found)
    worst = max(counted, key=lambda number: (_rank(number), counted[number]))
    severity = SEVERITY.get(worst, _MONITOR)
    value = ", ".join(f"{number} x{count}" for number, count in sorted(counted.items()))
    gpus = sorted({gpu for gpu, number in found if number == worst})
    known = f" ({MEANING[worst]})" if worst in MEANING else " (unknown number)"
    reason = f"Xid {worst}{known} on {', '.join(gpus)}"
    judge = warn if severity == _MONITOR else fail
    return judge(name, value, reason, _REMEDY[severity], worst)


def _rank(number: int) -> int:
    """Return the severity's order; unknown numbers count as the mildest."""
    return _ORDER.index(SEVERITY.get(number, _MONITOR))
