"""What probes of two runs have recorded, and the first stage that differs (job/probe.py writes them)."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.contract.files import read_lines
from launcher.rundir import RunDirectory


@dataclass(frozen=True)
class Sign:
    """One value that a probe has recorded."""

    rank: int
    stage: str
    iteration: int
    name: str
    value: Any


@dataclass(frozen=True)
class FirstStage:
    """The first stage that differs, and what is different there."""

    name: str
    cause: str
    iteration: int


def read_probes(run: RunDirectory) -> tuple[Sign, ...]:
    """Return what the probes of a run's last attempt have recorded, rank by rank, in the order in which it happened."""
    attempt = run.latest_attempt()
    if attempt is None:
        return ()
    found: list[Sign] = []
    for path in sorted(attempt.probe(0).parent.glob("[0-9]*.jsonl")):
        rank = int(path.stem)
        for line in read_lines(path):
            if {"stage", "iteration", "name", "value"} <= line.keys():
                found.append(Sign(rank, line["stage"], line["iteration"], line["name"], line["value"]))
    return tuple(found)


def first_stage(
    left: Sequence[Sign], right: Sequence[Sign], *, dropout: bool
) -> tuple[FirstStage | None, tuple[str, ...]]:
    """Return the first stage that differs, and notes of what differs without an effect.

    The state of a generator matters for weights, which are recorded themselves, and for dropout: without it, another
    state alone changes nothing.
    """
    notes: list[str] = []
    waiting: FirstStage | None = None
    on_gpu = any(sign.stage == "generator" and sign.name.endswith(": cuda") for sign in left)
    for one, other in _aligned(left, right):
        if other is not None and _same(one.value, other.value):
            continue
        found = FirstStage(one.stage, _sentence(one, other), one.iteration)
        if one.stage == "generator":
            if on_gpu and one.name == "before the first forward: cpu":
                # Masks come from the GPU's generators; the CPU's serves weights, which are recorded, and loaders.
                notes.append(f"{found.cause}, which has no effect here")
            elif waiting is None:
                waiting = found
            continue
        if waiting is not None and _explains(found, one, other, dropout=dropout):
            return waiting, tuple(notes)
        if waiting is not None:
            notes.append(f"{waiting.cause}, which has no effect here")
        return found, tuple(notes)
    if waiting is not None:
        if dropout:
            return waiting, tuple(notes)
        notes.append(f"{waiting.cause}, which has no effect here")
    return None, tuple(notes)


def _explains(found: FirstStage, one: Sign, other: Sign | None, *, dropout: bool) -> bool:
    """Return whether another state of a generator is the cause of what was found after it."""
    if found.name == "initialisation":
        # Other shapes draw other numbers of random values: then the state afterwards is their effect.
        return _shape(one) is None or (other is not None and _shape(one) == _shape(other))
    return dropout and found.name == "forward"


def _shape(sign: Sign) -> str | None:
    """Return the shape that the value of a parameter begins with."""
    found = re.match(r"\[[\d, ]*\]", sign.value) if isinstance(sign.value, str) else None
    return found[0] if found else None


def _aligned(left: Sequence[Sign], right: Sequence[Sign]) -> Iterator[tuple[Sign, Sign | None]]:
    """Yield the left side's values in time order over all ranks, each with the right side's of the same name."""
    others: dict[tuple[int, str, int, str], list[Sign]] = {}
    for sign in right:
        others.setdefault(_key(sign), []).append(sign)
    seen: dict[tuple[int, str, int, str], int] = {}
    ordered = sorted(enumerate(left), key=lambda pair: (pair[1].iteration, _phase(pair[1]), pair[0]))
    for _, sign in ordered:
        key = _key(sign)
        number = seen[key] = seen.get(key, -1) + 1
        same = others.get(key, [])
        yield sign, same[number] if number < len(same) else None


def _key(sign: Sign) -> tuple[int, str, int, str]:
    return sign.rank, sign.stage, sign.iteration, sign.name


def _phase(sign: Sign) -> int:
    """Return where in an iteration a value belongs, so that another rank's cause comes before its effects here."""
    if sign.stage == "optimizer" and sign.name.startswith("after the step"):
        return 0
    if sign.stage in ("generator", "initialisation"):
        return 0
    if sign.stage in ("data", "forward"):
        # Micro-batches follow each other: the data of a later one come after the forward of an earlier one.
        found = re.match(r"micro-batch (\d+)", sign.name)
        return 1 + 2 * (int(found[1]) if found else 0) + (sign.stage == "forward")
    return 10**6 if sign.stage == "backward" else 10**6 + 1


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return left == right or (left != left and right != right)
    return bool(left == right)


def _sentence(one: Sign, other: Sign | None) -> str:
    where = f" on rank {one.rank}" if one.rank else ""
    when = "" if one.stage in ("generator", "initialisation") else f" in iteration {one.iteration}"
    if one.stage == "optimizer" and one.name.startswith("after the step"):
        when = f" after iteration {one.iteration - 1}"
    if other is None:
        return f"{one.name}{when}{where} is on one side only"
    if isinstance(one.value, float) and isinstance(other.value, float):
        return f"{one.name}{when}{where}: {one.value!r} and {other.value!r}"
    if _shape(one) != _shape(other):
        return f"{one.name}{when}{where} has the shape {_shape(one)} and {_shape(other)}"
    if isinstance(one.value, str):
        return f"{one.name}{when}{where} differs"
    return f"{one.name}{when}{where}: {one.value} and {other.value}"
