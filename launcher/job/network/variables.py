"""NCCL's debug variables: what is set so that its log shows the network, and the file that it writes.

NCCL reads them when it logs for the first time (src/debug.cc of NCCL 2.30, `ncclDebugInit`), so they count when they
are set before the first communicator.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Optional

LEVELS = ("INFO", "ABORT", "TRACE")
"""The values of NCCL_DEBUG with which NCCL logs what it selects."""

SUBSYSTEMS = "INIT,NET,GRAPH"


def wanted(environment: Mapping[str, str], path: Path) -> dict[str, str]:
    """Return what to add to `environment` so that NCCL logs to `path`; the user's own values stay."""
    values = {
        "NCCL_DEBUG": "INFO",
        "NCCL_DEBUG_SUBSYS": SUBSYSTEMS,
        # A percent sign begins a pattern there.
        "NCCL_DEBUG_FILE": str(path).replace("%", "%%"),
    }
    return {name: value for name, value in values.items() if not environment.get(name)}


def warnings_only(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what to add so that NCCL's warnings are in the rank's own log; without it NCCL says nothing at all."""
    return {} if environment.get("NCCL_DEBUG") else {"NCCL_DEBUG": "WARN"}


def blind(environment: Mapping[str, str]) -> Optional[str]:
    """Return why NCCL's log will not show what it selects, with these variables; None if it will."""
    level = environment.get("NCCL_DEBUG", "")
    if level.upper() not in LEVELS:
        return f"NCCL_DEBUG={level} is below INFO"
    subsystems = environment.get("NCCL_DEBUG_SUBSYS", "")
    excluded = subsystems.startswith("^")
    named = {name.strip().upper() for name in subsystems.lstrip("^").split(",") if name.strip()}
    # Without the variable INIT is among those that are shown; it has what NCCL selects.
    if named and (named & {"INIT", "ALL"} != set()) == excluded:
        return f"NCCL_DEBUG_SUBSYS={subsystems} leaves INIT out"
    return None


def expand(pattern: str, host: str, pid: int) -> str:
    """Return the file name that NCCL makes of NCCL_DEBUG_FILE: %h host without its domain, %p process, %% a percent."""
    short = host.partition(".")[0].replace("%", "-").replace("/", "-")
    known = {"%": "%", "h": short, "p": str(pid)}
    name, rest = "", pattern
    while rest:
        before, sign, after = rest.partition("%")
        name += before
        if sign:
            name += known.get(after[:1], "%" + after[:1])
        rest = after[1:]
    return name
