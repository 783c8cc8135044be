"""Dumps of the flight recorder: real ones of four gloo ranks (torch 2.13), and made ones in the form that NCCL writes.

The real ones were taken with torch._C._distributed_c10d._dump_fr_trace(True, False, False) while the ranks waited.
"""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from launcher.contract import flight_recorder
from launcher.contract.flight_recorder import (
    Dump,
    DumpError,
    Stuck,
    analyse,
    describe,
    read,
    read_directory,
)

REAL = Path(__file__).parent / "flight_recorder"


def entry(sequence: int, name: str = "nccl:all_reduce", state: str = "completed", **more: Any) -> dict[str, Any]:
    """An entry as torch's FlightRecorderDetail.hpp writes it."""
    values = {
        "record_id": sequence,
        "pg_id": 0,
        "process_group": ("0", "default_pg"),
        "collective_seq_id": sequence,
        "p2p_seq_id": 0,
        "op_id": sequence,
        "profiling_name": name,
        "time_created_ns": 1,
        "input_sizes": [[4]],
        "input_dtypes": ["Float"],
        "output_sizes": [[4]],
        "output_dtypes": ["Float"],
        "state": state,
        "retired": state == "completed",
        "timeout_ms": 600000,
        "is_p2p": False,
    }
    return {**values, **more}


def content(*entries: dict[str, Any], **groups: list[int]) -> dict[str, Any]:
    config = {name: {"name": name, "desc": f"group {name}", "ranks": str(ranks)} for name, ranks in groups.items()}
    return {"version": "2.10", "pg_config": config, "pg_status": {}, "entries": list(entries)}


def dump(*entries: dict[str, Any], **groups: list[int]) -> Dump:
    return read(pickle.dumps(content(*entries, **groups), protocol=2))


def found(dumps: dict[int, Dump], world_size: int) -> Stuck:
    stuck = analyse(dumps, world_size)
    assert stuck is not None
    return stuck


@pytest.mark.parametrize(
    ("scene", "kind", "ranks", "words"),
    [
        ("absent", "absent", (2,), "rank 2 did not come to gloo:all_reduce 3 of default_pg"),
        ("chain", "absent", (2,), "rank 2 did not come to gloo:all_reduce 3 of default_pg"),
        ("different", "different", (1,), "rank 1 entered gloo:broadcast where others entered gloo:all_reduce 3"),
    ],
)
def test_four_gloo_ranks(scene: str, kind: str, ranks: tuple[int, ...], words: str) -> None:
    dumps, wrong = read_directory(REAL / scene)
    stuck = found(dumps, 4)
    assert wrong == {}
    assert (stuck.kind, stuck.ranks) == (kind, ranks)
    assert describe(stuck).startswith(words)


def test_a_rank_without_a_dump_is_named() -> None:
    dumps, _ = read_directory(REAL / "absent")
    del dumps[2]
    stuck = found(dumps, 4)
    assert (stuck.ranks, stuck.no_dump) == ((2,), (2,))
    assert describe(stuck).endswith("(rank 2 left no dump)")


def test_ranks_that_wait_for_nothing() -> None:
    assert analyse({rank: dump(entry(1), entry(2)) for rank in range(4)}, 4) is None
    assert analyse({}, 4) is None


def test_the_end_of_a_chain_is_named() -> None:
    """Rank 0 waits for 1 in one group, 1 for 2 in another: rank 2 is the one to look at."""
    first: dict[str, Any] = {"process_group": ("a", "TP")}
    second: dict[str, Any] = {"process_group": ("b", "DP")}
    dumps = {
        0: dump(entry(5, state="started", **first), a=[0, 1]),
        1: dump(entry(4, **first), entry(9, "nccl:_all_gather_base", "scheduled", **second), a=[0, 1], b=[1, 2]),
        2: dump(entry(8, "nccl:_all_gather_base", **second), b=[1, 2]),
    }
    stuck = found(dumps, 3)
    assert (stuck.kind, stuck.ranks, stuck.waiting, stuck.group.description) == ("absent", (2,), (1,), "DP")


def test_ranks_that_wait_for_each_other() -> None:
    first: dict[str, Any] = {"process_group": ("a", "TP")}
    second: dict[str, Any] = {"process_group": ("b", "DP")}
    dumps = {
        0: dump(entry(5, state="started", **first), entry(8, **second), a=[0, 1], b=[0, 1]),
        1: dump(entry(4, **first), entry(9, state="started", **second), a=[0, 1], b=[0, 1]),
    }
    stuck = found(dumps, 2)
    assert (stuck.kind, stuck.ranks) == ("different", (0, 1))
    assert "entered different collectives" in describe(stuck)


def test_two_ranks_in_different_collectives_are_both_named() -> None:
    dumps = {0: dump(entry(3, state="started")), 1: dump(entry(3, "nccl:broadcast", "started"))}
    assert (found(dumps, 2).kind, found(dumps, 2).ranks) == ("different", (0, 1))


STEP = ("nccl:all_reduce", "nccl:all_gather")


def steps(*names: str, pending: int) -> Dump:
    """Four steps of the same two collectives, then `names`; those from the number `pending` on are not complete."""
    calls = [*STEP * 4, *names]
    return dump(*(entry(at, name, "started" if at >= pending else "completed") for at, name in enumerate(calls, 1)))


@pytest.mark.parametrize(
    ("mine", "other", "words"),
    [
        # NCCL has paired both at 9: each rank went on until it waited elsewhere.
        ((*STEP, "nccl:barrier"), ("nccl:all_gather", "nccl:barrier"), "nccl:all_gather"),
        ((*STEP, "nccl:barrier"), ("nccl:broadcast", "nccl:all_gather", "nccl:barrier"), "nccl:broadcast"),
    ],
)
@pytest.mark.parametrize("pending", [9, 10])
def test_of_two_ranks_the_one_that_did_not_do_what_it_had_done_before_is_named(
    mine: tuple[str, ...], other: tuple[str, ...], words: str, pending: int
) -> None:
    stuck = found({0: steps(*mine, pending=pending), 1: steps(*other, pending=pending + 1)}, 2)
    assert (stuck.kind, stuck.sequence, stuck.ranks) == ("different", 9, (1,))
    assert describe(stuck) == f"rank 1 entered {words} where others entered nccl:all_reduce 9 of default_pg"


def test_where_both_do_something_new_both_are_named() -> None:
    stuck = found({0: steps("nccl:barrier", pending=9), 1: steps("nccl:broadcast", pending=9)}, 2)
    assert (stuck.kind, stuck.ranks) == ("different", (0, 1))
    assert describe(stuck) == "ranks 0, 1 entered different collectives at nccl:barrier 9 of default_pg"


def test_other_sizes_are_a_difference() -> None:
    dumps = {rank: dump(entry(3, state="started", input_sizes=[[8 if rank == 1 else 4]])) for rank in range(3)}
    assert (found(dumps, 3).kind, found(dumps, 3).ranks) == ("different", (1,))


def test_a_coalesced_collective_of_which_a_part_is_forgotten_does_not_differ() -> None:
    """Its parts have one number. The recorder keeps the last entries, so the oldest collective may lack its first."""
    parts = [entry(3, "nccl:_reduce_scatter_base", input_sizes=[[size]]) for size in (8, 16)]
    after = [entry(4), entry(5, state="started")]
    dumps = {0: dump(*parts[1:], *after), 1: dump(*parts, *after[:1])}
    stuck = found(dumps, 2)
    assert (stuck.kind, stuck.sequence, stuck.ranks) == ("absent", 5, (1,))
    before = entry(2)
    dumps = {0: dump(before, *parts[1:], *after), 1: dump(before, *parts, *after[:1])}
    assert (found(dumps, 2).kind, found(dumps, 2).sequence) == ("different", 3), "there nothing is forgotten"


def test_a_collective_that_all_have_entered() -> None:
    """The network or a GPU is to blame: no rank is named."""
    stuck = found({rank: dump(entry(3, state="started")) for rank in range(3)}, 3)
    assert (stuck.kind, stuck.ranks, stuck.waiting) == ("incomplete", (), (0, 1, 2))
    assert describe(stuck) == "ranks 0, 1, 2 entered nccl:all_reduce 3 of default_pg, and it did not complete"


def test_a_work_that_timed_out_has_not_completed() -> None:
    """NCCL's watchdog retires what has timed out; for gloo retired means done, since it never reports completion."""
    assert found({0: dump(entry(3, state="started", retired=True)), 1: dump(entry(2))}, 2).ranks == (1,)
    assert analyse({0: dump(entry(3, "gloo:all_reduce", "scheduled", retired=True)), 1: dump(entry(2))}, 2) is None


def test_a_message_whose_other_side_did_not_come() -> None:
    pipe: dict[str, Any] = {"process_group": ("p", "PP"), "is_p2p": True, "collective_seq_id": 0}
    dumps = {
        4: dump(entry(0, "nccl:recv 0<-1", "started", p2p_seq_id=7, **pipe), p=[4, 6]),
        6: dump(entry(0, "nccl:send 1->0", p2p_seq_id=6, **pipe), p=[4, 6]),
    }
    stuck = found(dumps, 8)
    assert (stuck.ranks, stuck.waiting, stuck.name) == ((6,), (4,), "nccl:recv 0<-1")


def test_json_is_read_too() -> None:
    assert read(json.dumps(content(entry(1, state="started"))).encode()).entries[0].name == "nccl:all_reduce"


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch evil",)


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(Evil()),
        pickle.dumps({"version": "2.1", "entries": [Evil()]}),
        b"cos\nsystem\n(S'touch evil'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        pickle.dumps({"version": "2.1", "entries": [entry(1, p2p_seq_id="x", is_p2p=True)]}),
        pickle.dumps({"version": "1.5", "entries": []}),
        pickle.dumps({"version": "2.1", "entries": [{"process_group": 3}]}),
        pickle.dumps([1, 2]),
        pickle.dumps({"version": "2.1"})[:-3],
        b"",
        b"{",
        b"\x80\x02}" + b"q" * 1000,
        b"(" * 100_000,
        b"Pid\n.",
    ],
)
def test_what_is_not_a_dump_is_refused(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DumpError):
        read(data)
    assert list(tmp_path.iterdir()) == []


def test_a_dump_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight_recorder, "DUMP_BYTES", 100)
    with pytest.raises(DumpError, match="the limit is 100"):
        read(pickle.dumps(content(*(entry(number) for number in range(10)))))


def test_a_directory_with_something_else(tmp_path: Path) -> None:
    (tmp_path / "flight-recorder-rank-0").write_bytes(pickle.dumps(content(entry(1))))
    (tmp_path / "flight-recorder-rank-1").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "flight-recorder-rank-1.tmp").write_bytes(b"")
    dumps, wrong = read_directory(tmp_path)
    assert (list(dumps), list(wrong)) == ([0], [1])
    assert read_directory(tmp_path / "none") == ({}, {})


def test_the_dumps_of_many_ranks_share_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each dump stays what shows who is missing; 40 ranks with 2,000 collectives each."""
    monkeypatch.setattr(flight_recorder, "KEPT_ENTRIES", 4_000)
    quiet: dict[str, Any] = {"process_group": ("b", "TP")}
    for rank in range(40):
        last = 2000 if rank == 7 else 2001
        entries = [entry(number, **quiet) for number in range(1, 4)]
        entries += [entry(number, state="completed" if number < 2001 else "started") for number in range(1, last + 1)]
        (tmp_path / f"flight-recorder-rank-{rank}").write_bytes(pickle.dumps(content(*entries)))
    dumps, wrong = read_directory(tmp_path)
    assert wrong == {} and len(dumps) == 40
    assert sum(len(each.entries) for each in dumps.values()) <= 4_000
    stuck = found(dumps, 40)
    assert (stuck.kind, stuck.ranks, stuck.sequence) == ("absent", (7,), 2001)
    assert all({each.group.name for each in dump.entries} == {"0", "b"} for dump in dumps.values())
