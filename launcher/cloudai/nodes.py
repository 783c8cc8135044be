"""The `nodes` of a scenario's test: hosts by name, or PARTITION:GROUP:NUMBER of the system's groups."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from launcher._util.errors import ConfigError, LauncherError
from launcher._util.shell import Shell
from launcher.cloudai.models import System

MAX_AVAILABLE = "max_avail"


@dataclass(frozen=True)
class ChosenNodes:
    """Where a test is to run."""

    partition: str | None = None
    names: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def choose(
    stated: Sequence[str], exclude: Sequence[str], system: System, count: int, *, where: str, shell: Shell | None
) -> ChosenNodes:
    """Return the nodes that a test asks for; of a group those that are idle first. `count` is how many it needs.

    `shell` asks Slurm which nodes are idle; without one the first of a group are taken. Raises ConfigError.
    """
    excluded = tuple(name for text in exclude for name in expand(text))
    if not stated:
        return ChosenNodes(exclude=excluded)
    if not any(":" in text for text in stated):
        names = tuple(name for text in stated for name in expand(text) if name not in excluded)
        if len(names) > count:
            raise ConfigError(f"nodes: {len(names)} nodes are named, and the test needs {count}", where=where)
        return ChosenNodes(names=names)
    if len(stated) > 1:
        raise ConfigError("nodes: one PARTITION:GROUP:NUMBER, or names of nodes", where=where)
    return _of_group(stated[0], excluded, system, count, where, shell)


def _of_group(
    text: str, excluded: Sequence[str], system: System, count: int, where: str, shell: Shell | None
) -> ChosenNodes:
    parts = text.split(":")
    if len(parts) != 3:
        raise ConfigError(f"nodes: {text!r} is not PARTITION:GROUP:NUMBER", where=where)
    partition, group, number = parts
    members = [name for name in _members(system, partition, group, where) if name not in excluded]
    idle = _idle(members, shell)
    ordered = [*(name for name in members if name in idle), *(name for name in members if name not in idle)]
    wanted = len(idle) if number == MAX_AVAILABLE else _number(number, text, where)
    notes = list[str]()
    if wanted != count:
        notes.append(f"nodes asks for {wanted} of {partition}:{group}, and num_gpus needs {count}, which counts")
    if count > len(members):
        raise ConfigError(f"nodes: {partition}:{group} has {len(members)} nodes, and {count} are needed", where=where)
    return ChosenNodes(partition, tuple(ordered[:count]), notes=tuple(notes))


def _number(text: str, whole: str, where: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,5}", text):
        raise ConfigError(f"nodes: {whole!r} ends in neither a number nor {MAX_AVAILABLE}", where=where)
    return int(text)


def _members(system: System, partition: str, group: str, where: str) -> list[str]:
    found = next((one for one in system.partitions if one.name == partition), None)
    if found is None:
        known = ", ".join(one.name for one in system.partitions) or "none"
        raise ConfigError(f"nodes: the system has no partition {partition!r}", where=where, hint=f"It has: {known}.")
    members = next((one for one in found.groups if one.name == group), None)
    if members is None:
        known = ", ".join(one.name for one in found.groups) or "none"
        raise ConfigError(f"nodes: partition {partition} has no group {group!r}", where=where, hint=f"It has: {known}.")
    return [name for text in members.nodes for name in expand(text)]


def _idle(names: Sequence[str], shell: Shell | None) -> set[str]:
    """Return the idle ones of these nodes; none where Slurm does not say."""
    if shell is None or not names:
        return set()
    argv = ["sinfo", "--noheader", "--Node", "--states=idle", f"--nodes={','.join(names)}", "--format=%N"]
    try:
        result = shell.run(argv, check=False, timeout_s=60)
    except LauncherError:
        return set()
    return set(result.stdout.split()) if result.status == 0 else set()


def expand(text: str) -> list[str]:
    """Return the nodes of `node-[001-025,030]`, `a,b` or one name, with leading zeroes kept."""
    found = list[str]()
    for part in re.split(r",\s*(?![^\[]*\])", text.strip()):
        if match := re.fullmatch(r"([^\[\]]*)\[([0-9,\-\s]+)\]([^\[\]]*)", part):
            for piece in match[2].split(","):
                first, _, last = piece.strip().partition("-")
                numbers = range(int(first), int(last or first) + 1)
                found += [f"{match[1]}{str(number).zfill(len(first))}{match[3]}" for number in numbers]
        elif part:
            found.append(part)
    return found
