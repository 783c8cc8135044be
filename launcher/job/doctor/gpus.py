"""The GPUs of a node: verdicts over nvidia-smi's output."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

from ...contract.checks import Check, fail, ok, skip, warn
from .expected import Expected
from .probes import Reading, first, program

# Source of the names: `nvidia-smi --help-query-gpu` and `--help-query-remapped-rows`.
BASIC = ("index", "name", "pci.bus_id", "driver_version", "memory.total", "memory.used")
ECC = ("index", "ecc.mode.current", "ecc.errors.uncorrected.volatile.total", "ecc.errors.uncorrected.aggregate.total")
ROWS = ("gpu_bus_id", "remapped_rows.uncorrectable", "remapped_rows.pending", "remapped_rows.failure")
CLOCKS = ("index", "power.limit", "power.default_limit", "clocks.max.sm", "hw", "heat", "brake", "sw_heat")
_SLOW = ("hw_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown", "sw_thermal_slowdown")

DRAIN = "leave the node out (--exclude) and have its administrators drain it"
_BUSY_MIB = 2048
"""More than the driver itself uses on any idle GPU."""


@dataclass(frozen=True)
class Gpus:
    """The answers of nvidia-smi, each with the reason where there is none."""

    basic: Reading
    ecc: Reading
    rows: Reading
    clocks: Reading


def read() -> Gpus:
    """Ask nvidia-smi for everything."""
    basic = _query(BASIC)
    if basic.text is None:
        return Gpus(basic, basic, basic, basic)
    # Driver release 535 renamed the reasons; each release has at least one of the names.
    slow = [tuple(f"clocks_{word}_reasons.{each}" for each in _SLOW) for word in ("event", "throttle")]
    clocks = first(*(_query((*CLOCKS[:4], *names)) for names in slow))
    return Gpus(basic, _query(ECC), _query(ROWS, "remapped-rows"), clocks)


def _query(fields: Sequence[str], kind: str = "gpu") -> Reading:
    return program(["nvidia-smi", f"--query-{kind}={','.join(fields)}", "--format=csv,noheader,nounits"])


def table(answer: Reading, fields: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of an answer by field; a value that the GPU does not have is an empty text."""
    rows = []
    for line in (answer.text or "").splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == len(fields):
            # [N/A], [Not Supported], [Unknown Error] (a GPU that no longer answers)
            rows.append({key: "" if cell.startswith("[") else cell for key, cell in zip(fields, cells, strict=True)})
    return rows


def count_check(gpus: Gpus, expected: Expected, ranks: int) -> Check:
    """Check that there are as many GPUs as ranks on the node."""
    name = "gpus"
    if expected.device == "cpu":
        return skip(name, "the profile computes on CPUs")
    seen = len(table(gpus.basic, BASIC))
    if seen == 0 and expected.device == "auto":
        return skip(name, f"no GPU is seen, and the profile does not require any ({gpus.basic.why})")
    if seen == 0:
        return fail(
            name,
            f"0 of {ranks}",
            f"no GPU is seen: {gpus.basic.why or 'nvidia-smi lists none'}",
            "check that the node has NVIDIA's driver; in a container the image must set NVIDIA_VISIBLE_DEVICES and "
            "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
            0,
        )
    if seen < ranks:
        return fail(
            name,
            f"{seen} of {ranks}",
            f"{ranks} ranks were started on this node, but only {seen} GPUs are seen",
            f"a missing GPU has usually fallen off the bus (see xid): {DRAIN}",
            seen,
        )
    return ok(name, str(seen), seen)


def share_check(environ: Mapping[str, str], expected: Expected, ranks: int) -> Check:
    """Check the GPUs that Slurm gave this task (CUDA_VISIBLE_DEVICES, set only where GPUs are GRES)."""
    name = "gpus from slurm"
    if expected.device == "cpu":
        return skip(name, "the profile computes on CPUs")
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if not environ.get("SLURM_JOB_ID"):
        return skip(name, "this is not a Slurm job")
    if visible is None:
        return skip(name, "Slurm set no CUDA_VISIBLE_DEVICES: GPUs are not GRES here, or none was requested")
    given = len([each for each in visible.split(",") if each.strip() not in ("", "NoDevFiles")])
    if given == ranks:
        return ok(name, str(given), given)
    return fail(
        name,
        f"{given} of {ranks}",
        f"Slurm gave CUDA_VISIBLE_DEVICES={visible} to a node of {ranks} ranks",
        "request as many GPUs as ranks (gpus-per-node = true in the profile's directives), without "
        "--gpus-per-task, which hides the other GPUs of the node from each rank",
        given,
    )


def kind_check(gpus: Gpus, expected: Expected) -> Check:
    """Check that all GPUs have the profile's type."""
    name = "gpu type"
    names = [row["name"] for row in table(gpus.basic, BASIC)]
    if not names:
        return skip(name, gpus.basic.why or "no GPU is seen")
    kinds = sorted(set(names))
    if len(kinds) > 1:
        return fail(name, ", ".join(kinds), "the GPUs of this node differ", DRAIN)
    if expected.gpu is None:
        return skip(name, "the profile names no type (gpu = ...)", kinds[0])
    if re.search(rf"(?<![A-Z0-9]){re.escape(expected.gpu)}(?![0-9])", kinds[0], re.IGNORECASE) is None:
        return fail(
            name,
            kinds[0],
            f"the profile says {expected.gpu}",
            "use the profile of this cluster, or choose the partition with the right nodes",
        )
    return ok(name, kinds[0])


def idle_check(gpus: Gpus) -> Check:
    """Check that no other process uses GPU memory when the job begins."""
    name = "gpu memory"
    rows = [row for row in table(gpus.basic, BASIC) if row["memory.used"].isdigit() and row["memory.total"].isdigit()]
    if not rows:
        return skip(name, gpus.basic.why or "nvidia-smi does not show it")
    total = min(int(row["memory.total"]) for row in rows)
    busy = [f"GPU {row['index']}: {row['memory.used']} MiB" for row in rows if int(row["memory.used"]) > _BUSY_MIB]
    if busy:
        return warn(
            name,
            f"{len(busy)} in use",
            f"memory is in use before the job starts ({', '.join(busy)})",
            "another job shares the node, or an earlier one left processes (`nvidia-smi` shows whose); request "
            "whole nodes (exclusive = true)",
            len(busy),
        )
    return ok(name, f"{total / 1024:.0f} GiB free", total / 1024)


def ecc_check(gpus: Gpus) -> Check:
    """Check that ECC is on and found no uncorrected error since the driver was loaded."""
    name = "ecc"
    rows = table(gpus.ecc, ECC)
    off = [row["index"] for row in rows if row[ECC[1]] == "Disabled"]
    if off:
        return warn(
            name,
            "off",
            f"ECC is off on GPU {', '.join(off)}: wrong bits go unnoticed",
            "ask the administrators to switch it on: nvidia-smi --ecc-config=1, then a reset",
        )
    reported = [row for row in rows if row[ECC[2]].isdigit()]
    if not reported:
        return skip(name, gpus.ecc.why or "the GPUs do not report it")
    bad = [f"GPU {row['index']}: {row[ECC[2]]}" for row in reported if int(row[ECC[2]]) > 0]
    if bad:
        return fail(
            name,
            ", ".join(bad),
            "uncorrected memory errors since the driver was loaded",
            f"the GPU needs a reset, and repair if the errors return: {DRAIN}",
            sum(int(row[ECC[2]]) for row in reported),
        )
    return ok(name, "0 uncorrected", 0)


def rows_check(gpus: Gpus) -> Check:
    """Check that no row of memory waits for a reset to be replaced, and none could not be replaced."""
    name = "remapped rows"
    reported = [row for row in table(gpus.rows, ROWS) if row[ROWS[2]] and row[ROWS[3]]]
    if not reported:
        return skip(name, gpus.rows.why or "the GPUs do not report it")
    failed = [row[ROWS[0]] for row in reported if _is_set(row[ROWS[3]])]
    waiting = [row[ROWS[0]] for row in reported if _is_set(row[ROWS[2]])]
    if failed:
        return fail(
            name,
            f"{len(failed)} failed",
            f"a row could not be replaced on {', '.join(failed)}: no spare rows are left",
            f"the GPU must be exchanged: {DRAIN}",
            len(failed),
        )
    if waiting:
        return fail(
            name,
            f"{len(waiting)} pending",
            f"a broken row is still in use on {', '.join(waiting)}, until the GPU is reset",
            f"run nvidia-smi --gpu-reset or reboot: {DRAIN}",
            len(waiting),
        )
    replaced = sum(int(row[ROWS[1]]) for row in reported if row[ROWS[1]].isdigit())
    return ok(name, f"{replaced} replaced" if replaced else "none", replaced)


def clocks_check(gpus: Gpus) -> Check:
    """Check that neither heat nor power supply holds a clock down, and no power limit is below the default."""
    name = "clocks"
    rows = table(gpus.clocks, CLOCKS)
    if not rows:
        return skip(name, gpus.clocks.why or "the GPUs do not report it")
    held = _active(rows, "brake"), _active(rows, "heat"), _active(rows, "hw")
    words = ("its power supply", "heat", "the hardware")
    for which, word in zip(held, words, strict=True):
        if which:
            return fail(
                name,
                f"GPU {', '.join(which)} slowed",
                f"the clocks are held down by {word}",
                f"cooling or power of the node is at fault: {DRAIN}",
                len(which),
            )
    if warm := _active(rows, "sw_heat"):
        return warn(
            name,
            f"GPU {', '.join(warm)} warm",
            "the driver holds the clocks down because of heat",
            "check the node's cooling: nvidia-smi -q -d TEMPERATURE",
            len(warm),
        )
    if low := [row for row in rows if _below_default(row)]:
        return warn(
            name,
            f"GPU {', '.join(row['index'] for row in low)} limited",
            f"the power limit ({low[0]['power.limit']} W) is below the default ({low[0]['power.default_limit']} W)",
            "ask the administrators whether that is intended: nvidia-smi -q -d POWER",
            len(low),
        )
    top = rows[0]["clocks.max.sm"]
    return ok(name, f"up to {top} MHz", float(top)) if top.isdigit() else ok(name, "not held down")


def _active(rows: Sequence[Mapping[str, str]], field: str) -> list[str]:
    return [row["index"] for row in rows if row[field] == "Active"]


def _below_default(row: Mapping[str, str]) -> bool:
    limit, default = _number(row["power.limit"]), _number(row["power.default_limit"])
    return limit is not None and default is not None and limit < default - 1


def _number(text: str) -> Optional[float]:
    """Return a number of nvidia-smi; None for words such as [N/A]."""
    try:
        return float(text)
    except ValueError:
        return None


def _is_set(text: str) -> bool:
    """Return whether a field is set: `Yes`, or a count of rows, depending on the release."""
    return text == "Yes" or (text.isdigit() and int(text) > 0)


def facts(gpus: Gpus) -> dict[str, str]:
    """Return what should be the same on all nodes."""
    rows = table(gpus.basic, BASIC)
    return {"GPU": rows[0]["name"], "driver": rows[0]["driver_version"]} if rows else {}


def addresses(gpus: Gpus) -> list[str]:
    """Return PCI addresses as sysfs has them: `0000:19:00.0` for `00000000:19:00.0`."""
    return [row["pci.bus_id"].lower()[-12:] for row in table(gpus.basic, BASIC)]


CHECKS: "dict[str, Callable[[Gpus], Check]]" = {
    "gpu memory": idle_check,
    "ecc": ecc_check,
    "remapped rows": rows_check,
    "clocks": clocks_check,
}
"""The checks that need only nvidia-smi's answers."""
