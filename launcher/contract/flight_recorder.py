"""Dumps of torch's flight recorder: reading them safely, and which rank lacks a collective.

The recorder keeps the last collectives of a rank. NCCL's watchdog dumps it at a time-out, one file for each rank; with
gloo `torch._C._distributed_c10d._dump_fr_trace()` returns the same bytes. Nothing here imports torch.
Source: torch/csrc/distributed/c10d/FlightRecorder.hpp and FlightRecorderDetail.hpp, format 2.x.
"""

import io
import json
import pickle
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from sys import intern
from typing import Any, Literal, NamedTuple, NoReturn, Optional

from launcher.contract.frozen import dataclass

from .files import open_regular
from .paths import FLIGHT_RECORDER

DUMP_BYTES = 64 << 20
"""Limit of one dump; 2,000 entries with their stacks take about 3 MB."""
KEPT_ENTRIES = 400_000
"""Entries that are kept of all dumps of a directory, about 100 MB: one dump of many has its share of them."""
_LEAST_OF_A_DUMP, _LEAST_OF_A_GROUP = 64, 4


# --- reading ----------------------------------------------------------------------------------------------------------


class DumpError(ValueError):
    """A file that is not a dump of the flight recorder, or not one that is safe to read."""


class Group(NamedTuple):
    """A process group: torch's name, what it is for, and its ranks where the dump lists them."""

    name: str
    description: str
    ranks: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Return the words for a message."""
        meant = self.description if self.description not in ("", "undefined") else ""
        return meant or f"group {self.name}"


class Entry(NamedTuple):
    """One collective or one message that a rank has begun."""

    group: Group
    sequence: int
    """Number of the collective in its group; for messages between two ranks their own count."""
    name: str
    """As torch names it: `nccl:all_reduce`, `gloo:broadcast`, `nccl:recv 1<-0`."""
    point_to_point: bool
    done: bool
    shape: str = ""
    """Sizes and types of what goes in and out."""


@dataclass(frozen=True)
class Dump:
    """What one rank has recorded, oldest first."""

    entries: tuple[Entry, ...]
    groups: tuple[Group, ...] = ()


class _PlainUnpickler(pickle.Unpickler):
    """Reads containers and scalars; refuses every name of a class or function, and persistent objects."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise DumpError(f"it names {module}.{name}; a dump has plain containers alone")

    def persistent_load(self, _pid: Any) -> NoReturn:
        raise DumpError("it names a persistent object; a dump has plain containers alone")


def read(data: bytes) -> Dump:
    """Return a dump from its bytes, a pickle or JSON. Raises DumpError; nothing in the bytes is ever called."""
    if len(data) > DUMP_BYTES:
        raise DumpError(f"it has {len(data)} bytes; the limit is {DUMP_BYTES}")
    try:
        found = json.loads(data) if data[:1] == b"{" else _PlainUnpickler(io.BytesIO(data)).load()
    except DumpError:
        raise
    except Exception as error:  # pickle raises nearly everything for wrong bytes
        raise DumpError(f"it cannot be read: {type(error).__name__}: {error}") from error
    try:
        return _dump(found)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DumpError(f"it is not a dump of version 2: {type(error).__name__}: {error}") from error


def read_directory(directory: Path) -> tuple[dict[int, Dump], dict[int, str]]:
    """Return the dumps in a directory by rank, and why those of other ranks could not be read."""
    dumps, wrong = {}, {}
    found = [
        (re.fullmatch(rf"{FLIGHT_RECORDER}(\d+)", path.name), path) for path in directory.glob(f"{FLIGHT_RECORDER}*")
    ]
    paths = {int(number[1]): path for number, path in found if number is not None}
    most = max(_LEAST_OF_A_DUMP, KEPT_ENTRIES // max(1, len(paths)))
    for rank, path in sorted(paths.items()):
        try:
            with open_regular(path) as file:
                dumps[rank] = shortened(read(file.read(DUMP_BYTES + 1)), most)
        except (DumpError, OSError) as error:
            wrong[rank] = str(error)
    return dumps, wrong


def shortened(dump: Dump, most: int) -> Dump:
    """Return a dump of about `most` entries: of each group the first that are not done, and the last of the others."""
    if len(dump.entries) <= most:
        return dump
    by_group: dict[tuple[Group, bool], list[int]] = {}
    for index, entry in enumerate(dump.entries):
        by_group.setdefault((entry.group, entry.done), []).append(index)
    each = max(_LEAST_OF_A_GROUP, most // len(by_group))
    kept = [
        index for (_, done), mine in by_group.items() for index in (_last(dump, mine, each) if done else mine[:each])
    ]
    return replace(dump, entries=tuple(dump.entries[index] for index in sorted(kept)))


def _last(dump: Dump, mine: list[int], most: int) -> list[int]:
    """Return the last entries of a group; the parts of a coalesced collective, which have one number, stay together."""
    begin = max(0, len(mine) - most)
    while 0 < begin < len(mine) and dump.entries[mine[begin]].sequence == dump.entries[mine[begin - 1]].sequence:
        begin += 1
    return mine[begin:]


def _dump(found: Any) -> Dump:
    version = str(found["version"])
    if version.partition(".")[0] != "2":
        raise ValueError(f"version {version[:20]}")
    ranks = {str(name): _ranks(config) for name, config in dict(found.get("pg_config") or {}).items()}
    groups = {str(name): str(config.get("desc", "")) for name, config in dict(found.get("pg_config") or {}).items()}
    seen: dict[Group, Group] = {}
    entries = tuple(_entry(one, ranks, seen) for one in found.get("entries") or ())
    return Dump(entries, tuple(Group(name, groups[name], ranks[name]) for name in groups if ranks[name]))


def _ranks(config: Any) -> tuple[int, ...]:
    # `[0, 1, 2]` as text; gloo writes an empty list.
    return tuple(int(number) for number in re.findall(r"\d+", str(config.get("ranks", ""))))


def _entry(one: Any, ranks: Mapping[str, tuple[int, ...]], seen: dict[Group, Group]) -> Entry:
    """Return an entry; of equal groups (`seen`), names and shapes there is one, as thousands of entries repeat them."""
    name, description = (str(each) for each in one["process_group"])
    profiling_name, message = str(one["profiling_name"]), bool(one.get("is_p2p", False))
    sequence = one["p2p_seq_id" if message else "collective_seq_id"]
    if not isinstance(sequence, int):
        raise TypeError(f"the sequence number {str(sequence)[:20]!r}")
    # Gloo never sees its work complete; it retires what is over. With NCCL a retired one may have timed out.
    done = one["state"] == "completed" or (profiling_name.startswith("gloo:") and one.get("retired") is True)
    shape = f"{one.get('input_sizes')} {one.get('input_dtypes')}"
    group = Group(name, description, ranks.get(name, ()))
    return Entry(seen.setdefault(group, group), sequence, intern(profiling_name), message, done, intern(shape))


# --- what the dumps of all ranks say ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stuck:
    """Why a collective did not complete.

    `absent`: `ranks` have never entered it. `different`: `ranks` entered another one at the same place, or with other
    sizes; both sides, where none is known to be the wrong one. `incomplete`: every rank entered the same, and it did
    not complete: the network, a GPU, or a kernel that does not run.
    """

    kind: Literal["absent", "different", "incomplete"]
    group: Group
    name: str
    sequence: int
    ranks: tuple[int, ...]
    """The ranks to look at; none where that is not known."""
    waiting: tuple[int, ...]
    """The ranks that have entered it and wait."""
    no_dump: tuple[int, ...] = ()
    """Those of `ranks` that left no dump, so that only their absence is known."""
    entered: str = ""
    """What `ranks` entered in place of `name`; empty where neither side is known to be the wrong one."""


def analyse(dumps: Mapping[int, Dump], world_size: int) -> Optional[Stuck]:
    """Return the collective that holds the ranks up, and the rank to look at; None where no rank waits.

    Where rank A waits for B in one group and B for C in another, the collective that C lacks is returned.
    """
    found = sorted(_stuck(dumps, world_size), key=lambda each: (each.group, each.sequence))
    absent = [each for each in found if each.kind == "absent"]
    # A rank that itself waits elsewhere is held up by another one; a rank without a dump is seen waiting nowhere.
    held_up = {rank for each in found for rank in each.waiting}
    for each in absent:
        ranks = tuple(rank for rank in each.ranks if rank not in held_up)
        if ranks:
            return replace(each, ranks=ranks, no_dump=_without(dumps, ranks))
    others = sorted((each for each in found if each.kind != "absent"), key=lambda each: each.kind != "different")
    if others or not absent:
        return next(iter(others), None)
    # Each waits for another one of them: they have entered collectives of different groups.
    ranks = tuple(sorted({rank for each in absent for rank in each.ranks}))
    return replace(absent[0], kind="different", ranks=ranks, waiting=ranks, no_dump=())


def _stuck(dumps: Mapping[int, Dump], world_size: int) -> Iterable[Stuck]:
    """Yield the oldest collective of each group that some rank has entered and not completed."""
    by_group: dict[Group, dict[int, list[Entry]]] = {}
    for rank, dump in dumps.items():
        for entry in dump.entries:
            by_group.setdefault(entry.group, {}).setdefault(rank, []).append(entry)
    for group, by_rank in by_group.items():
        members = _members(group, by_rank, dumps, world_size)
        collectives = {rank: [each for each in mine if not each.point_to_point] for rank, mine in by_rank.items()}
        yield from _stuck_collective(group, members, collectives, dumps)
        yield from _stuck_message(group, members, by_rank, dumps)


def _stuck_collective(
    group: Group, members: tuple[int, ...], by_rank: Mapping[int, list[Entry]], dumps: Mapping[int, Dump]
) -> Iterable[Stuck]:
    pending = {rank: [each for each in mine if not each.done] for rank, mine in by_rank.items()}
    sequence = min((each.sequence for mine in pending.values() for each in mine), default=None)
    if sequence is None:
        return
    waiting = tuple(rank for rank, mine in sorted(pending.items()) if any(each.sequence == sequence for each in mine))
    # Several entries of one number are the parts of a coalesced collective.
    at = {rank: {each.sequence: each for each in reversed(mine)} for rank, mine in by_rank.items()}
    reached = {rank: max(mine, default=-1) for rank, mine in at.items()}
    lacking = tuple(rank for rank in members if reached.get(rank, -1) < sequence)
    counts = Counter((rank, each.sequence) for rank, mine in by_rank.items() for each in mine)
    coalesced = {number for (_, number), count in counts.items() if count > 1}
    # NCCL may pair two different collectives, and wait only in a later one.
    last = sequence - 1 if lacking else sequence
    for number in sorted({each for mine in at.values() for each in mine if each <= last}):
        kinds: dict[_Kind, list[int]] = {}
        for rank in sorted(at):
            entry = at[rank].get(number)
            if entry is not None and not (number in coalesced and _is_oldest(entry, dumps[rank])):
                kinds.setdefault(_kind_of(entry), []).append(rank)
        if len(kinds) > 1:
            yield _different(group, number, kinds, at, waiting)
            return
    name = next(at[rank][sequence].name for rank in waiting)
    if lacking:
        yield Stuck("absent", group, name, sequence, lacking, waiting, _without(dumps, lacking))
        return
    yield Stuck("incomplete", group, name, sequence, (), waiting)


def _is_oldest(entry: Entry, dump: Dump) -> bool:
    """Return whether an entry is of the oldest collective that a rank remembers: its first parts may be forgotten."""
    first = dump.entries[0]
    return (first.group, first.sequence, first.point_to_point) == (entry.group, entry.sequence, False)


_Kind = tuple[str, str]
"""A collective's name, with its sizes where every rank gives the same."""


def _kind_of(entry: Entry) -> _Kind:
    return entry.name, entry.shape if _same_sizes(entry.name) else ""


def _different(
    group: Group,
    sequence: int,
    kinds: Mapping[_Kind, list[int]],
    at: Mapping[int, Mapping[int, Entry]],
    waiting: tuple[int, ...],
) -> Stuck:
    """Return which ranks entered another collective than most; of two halves those for which it was not the next one.

    Steps repeat themselves: what has never come after the collective before, in all that a rank remembers, is unusual.
    """
    (usual, most), *others = sorted(kinds.items(), key=lambda each: (-len(each[1]), min(each[1])))
    if len(others) == 1 and len(others[0][1]) == len(most):
        usual_sides = [side for side in kinds if not all(_is_unusual(at[rank], sequence) for rank in kinds[side])]
        if len(usual_sides) != 1:
            both = tuple(sorted(rank for those in kinds.values() for rank in those))
            return Stuck("different", group, usual[0], sequence, both, waiting)
        (usual,) = usual_sides
        others = [each for each in kinds.items() if each[0] != usual]
    ranks = tuple(sorted(rank for _, those in others for rank in those))
    names = {name for (name, _), _ in others}
    entered = (
        "other collectives" if len(names) > 1 else f"{usual[0]} with other sizes" if usual[0] in names else names.pop()
    )
    return Stuck("different", group, usual[0], sequence, ranks, waiting, entered=entered)


def _is_unusual(mine: Mapping[int, Entry], sequence: int) -> bool:
    """Return whether a rank's collective `sequence` has never followed the one before it until then."""
    kinds = {number: _kind_of(entry) for number, entry in mine.items() if number <= sequence}
    if sequence - 1 not in kinds:
        return False
    last = (kinds[sequence - 1], kinds[sequence])
    return all((kinds.get(number - 1), kind) != last for number, kind in kinds.items() if number < sequence)


def _same_sizes(name: str) -> bool:
    """Return whether every rank gives such a collective the same sizes."""
    return re.search(r"all_?reduce|broadcast|_base|reduce_scatter", name, re.IGNORECASE) is not None


def _stuck_message(
    group: Group, members: tuple[int, ...], by_rank: Mapping[int, list[Entry]], dumps: Mapping[int, Dump]
) -> Iterable[Stuck]:
    """Yield the receives and sends whose other side has not come: `nccl:recv 1<-0`, ranks as in the group."""
    for rank, mine in by_rank.items():
        for entry in mine:
            pair = re.search(r"(recv|send) (\d+)(<-|->)(\d+)$", entry.name)
            if entry.done or not entry.point_to_point or pair is None or int(pair[4]) >= len(members):
                continue
            peer = members[int(pair[4])]
            other = f"{'send' if pair[1] == 'recv' else 'recv'} {pair[4]}{'->' if pair[1] == 'recv' else '<-'}{pair[2]}"
            theirs = [each for each in by_rank.get(peer, ()) if each.name.endswith(other)]
            if not any(not each.done or each.sequence >= entry.sequence for each in theirs):
                yield Stuck("absent", group, entry.name, entry.sequence, (peer,), (rank,), _without(dumps, (peer,)))
                return


def _members(
    group: Group, by_rank: Mapping[int, list[Entry]], dumps: Mapping[int, Dump], world_size: int
) -> tuple[int, ...]:
    """Return the ranks of a group: as listed, of the default group all, else those that were seen in it."""
    if group.ranks:
        return group.ranks
    if group.description == "default_pg":
        return tuple(range(world_size))
    listed = (each.ranks for dump in dumps.values() for each in dump.groups if each.name == group.name)
    return next((ranks for ranks in listed if ranks), tuple(sorted(by_rank)))


def _without(dumps: Mapping[int, Dump], ranks: Iterable[int]) -> tuple[int, ...]:
    return tuple(rank for rank in ranks if rank not in dumps)


def describe(stuck: Stuck) -> str:
    """Return the finding in a sentence: `rank 2 did not come to nccl:all_reduce 42 of default_pg (left no dump)`."""
    what = f"{stuck.name} {stuck.sequence} of {stuck.group}"
    if stuck.kind == "incomplete":
        return f"{numbers(stuck.waiting)} entered {what}, and it did not complete"
    if stuck.kind == "different":
        if stuck.entered:
            return f"{numbers(stuck.ranks)} entered {stuck.entered} where others entered {what}"
        return f"{numbers(stuck.ranks)} entered different collectives at {what}"
    absent = f"{numbers(stuck.ranks)} did not come to {what}"
    return f"{absent} ({numbers(stuck.no_dump)} left no dump)" if stuck.no_dump else absent


def numbers(ranks: Iterable[int], most: int = 8) -> str:
    """Return `rank 2`, or `ranks 0, 1, 3`, shortened."""
    each = sorted(ranks)
    shown = ", ".join(str(rank) for rank in each[:most]) + (f" and {len(each) - most} more" if len(each) > most else "")
    return f"rank{'s' if len(each) != 1 else ''} {shown}"
