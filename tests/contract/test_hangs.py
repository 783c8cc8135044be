"""When ranks are silent for too long, and which rank the others wait for: tables and properties, no process."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.contract import hangs
from launcher.contract.flight_recorder import Dump, Entry, Group
from launcher.contract.hangs import PHASES, Judgement, RankView, judge, limit_of, suspect_after
from launcher.contract.records.nodes import CollectiveRecord, RankSight
from launcher.contract.records.request import HangLimits

LIMITS: HangLimits = {
    "hang_limit_s": 300,
    "start_limit_s": 1800,
    "first_step_limit_s": 1800,
    "evaluation_limit_s": 1800,
    "save_limit_s": 1800,
}


def view(rank: int, phase: hangs.Phase, silent_s: float, *, steps: int = 10, slowest_s: float = 2.0) -> RankView:
    return RankView(rank, phase, steps, silent_s, slowest_s)


# what: (the ranks of a node, how they are judged, which of them)
STAGES: dict[str, tuple[list[RankView], str, tuple[int, ...]]] = {
    "in time": ([view(0, "training step", 19), view(1, "training step", 19)], "quiet", ()),
    "a stall of a minute of short steps writes stacks": ([view(0, "training step", 60)], "suspected", (0,)),
    "twenty steps": ([view(0, "training step", 40.1)], "suspected", (0,)),
    "less than the limit": ([view(0, "training step", 299)], "suspected", (0,)),
    "the limit": ([view(0, "training step", 300), view(1, "between steps", 301)], "overdue", (0, 1)),
    "thirty slow steps": ([view(0, "training step", 1499, slowest_s=50)], "suspected", (0,)),
    "thirty slow steps and more": ([view(0, "training step", 1500, slowest_s=50)], "overdue", (0,)),
    "one stops, the others go on": ([view(0, "training step", 300), view(1, "training step", 1)], "overdue", (0,)),
    "a save that takes five times as long": ([view(0, "saving", 900), view(1, "saving", 900)], "quiet", ()),
    "the others wait for the save of one": ([view(0, "saving", 900), view(1, "training step", 900)], "quiet", ()),
    "a save that never returns": ([view(0, "saving", 1800), view(1, "training step", 1800)], "overdue", (0, 1)),
    "an evaluation": ([view(0, "evaluating", 1100)], "quiet", ()),
    "a long evaluation": ([view(0, "evaluating", 1300)], "suspected", (0,)),
    "an endless evaluation": ([view(0, "evaluating", 1801)], "overdue", (0,)),
    "the first step compiles": ([view(0, "first step", 1000, steps=0, slowest_s=0)], "quiet", ()),
    "the first step never ends": ([view(0, "first step", 1800, steps=0, slowest_s=0)], "overdue", (0,)),
    "one starts slowly, the others wait in set-up": (
        [view(0, "starting", 1100, steps=0), view(1, "setting up", 1100, steps=0)],
        "quiet",
        (),
    ),
    "one never starts": (
        [view(0, "not started", 1800, steps=0), view(1, "setting up", 1700, steps=0)],
        "overdue",
        (0,),
    ),
    "a rank that is ahead excuses no other": (
        [view(0, "ending", 310, steps=11), view(1, "training step", 310)],
        "overdue",
        (1,),
    ),
    "those that have ended do not count": ([view(0, "ended", 9999), view(1, "training step", 1)], "quiet", ()),
}


@pytest.mark.parametrize("name", STAGES)
def test_stages(name: str) -> None:
    views, stage, ranks = STAGES[name]
    assert judge(views, LIMITS)[:2] == (stage, ranks)


views = st.builds(
    RankView,
    rank=st.integers(0, 7),
    phase=st.sampled_from(PHASES),
    steps=st.integers(0, 3),
    silent_s=st.floats(0, 10_000),
    slowest_s=st.floats(0, 100),
)


@given(st.lists(views, max_size=8))
def test_nothing_is_ended_before_its_limit_and_nothing_silent_is_left_for_ever(seen: list[RankView]) -> None:
    found = judge(seen, LIMITS)
    by_rank = {each.rank: each for each in seen if each.rank in found.ranks and each.silent_s >= found.limit_s}
    if found.stage == "overdue":
        assert found.ranks
        assert found.limit_s >= LIMITS["hang_limit_s"]
        assert by_rank
    if any(each.phase != "ended" and each.silent_s >= max(1800.0, 30 * each.slowest_s, 3000.0) for each in seen):
        assert found.stage == "overdue" or any(
            each.phase in hangs.LONG and each.silent_s < limit_of(each, LIMITS) for each in seen
        )


@given(views)
def test_stacks_come_before_the_end(one: RankView) -> None:
    assert 0 < suspect_after(one, LIMITS) < limit_of(one, LIMITS)


@given(
    st.lists(st.floats(0.01, 9.0), min_size=1, max_size=300),
    st.floats(0.0, 100.0),
    st.floats(1.0, 5.0),
)
def test_a_training_with_one_slow_step_and_slow_saves_raises_no_alarm(
    steps: list[float], slow_s: float, factor: float
) -> None:
    """Steps of any length below the limit, one of up to 100 s, each followed by a save of five times as long."""
    recent: list[float] = []
    for number, seconds in enumerate([*steps, slow_s, *steps[:3]]):
        slowest = max(recent[-hangs.RECENT :], default=0.0)
        during = RankView(0, "training step" if number else "first step", number, seconds, slowest)
        assert judge([during], LIMITS).stage != "overdue"
        recent.append(seconds)
        saving = RankView(0, "saving", number + 1, seconds * factor * 3, max(recent[-hangs.RECENT :]))
        assert judge([saving], LIMITS).stage != "overdue"


# ---- which rank


def call(seq: int, op: str = "nccl:all_reduce", state: str = "pending", group: str = "default_pg") -> CollectiveRecord:
    return {"group": group, "seq": seq, "op": op, "state": state, "sizes": "[[4]]"}  # type: ignore[typeddict-item]


def sight(rank: int, **more: Any) -> RankSight:
    base: RankSight = {
        "rank": rank,
        "pid": 100 + rank,
        "phase": "training step",
        "steps": 12,
        "silent_s": 310.0,
        "state": "S",
        "stack": [],
        "collectives": [],
    }
    return {**base, **more}  # type: ignore[typeddict-item]


WAITS = {"collectives": [call(42)]}
DONE = {"collectives": [call(41, state="completed")]}
IN_LOOP = ["work /run/code/recipe/r.py:7", "main /run/code/entrypoint.py:9"]
IN_BARRIER = ["barrier /x/site-packages/torch/distributed/distributed_c10d.py:4"]

# what: (the ranks, those that no node has seen, who and why)
WHICH: dict[str, tuple[list[RankSight], list[int], tuple[int, ...], str | None]] = {
    "stopped": ([sight(0, **WAITS), sight(1, state="T")], [], (1,), "stopped"),
    "a loop": (
        [sight(0, **WAITS), sight(1, **DONE, stack=IN_LOOP), sight(2, **WAITS)],
        [],
        (1,),
        "not in the collective",
    ),
    "a loop that holds the interpreter: a stack, no recorder": (
        [sight(0, **WAITS), sight(1, stack=IN_LOOP, state="R"), sight(2, **WAITS)],
        [],
        (1,),
        "not in the collective",
    ),
    "neither stack nor recorder": ([sight(0, **WAITS), sight(1, state="R")], [], (1,), "does not answer"),
    "no recorder at all": ([sight(0, stack=IN_BARRIER), sight(1, stack=IN_LOOP)], [], (1,), "not in the collective"),
    "it is one behind, and waits": (
        [sight(0, **WAITS), sight(1, **WAITS), sight(2, collectives=[call(41)])],
        [],
        (2,),
        "behind",
    ),
    "another collective than most": (
        [sight(0, **WAITS), sight(1, collectives=[call(42, "nccl:broadcast")]), sight(2, **WAITS)],
        [],
        (1,),
        "different collectives",
    ),
    "two ranks, two collectives: both are named": (
        [sight(0, **WAITS), sight(1, collectives=[call(42, "nccl:broadcast")])],
        [],
        (0, 1),
        "different collectives",
    ),
    "a save that never returns": (
        [sight(0, phase="saving", **WAITS), sight(1, phase="saving", stack=IN_LOOP, **DONE)],
        [],
        (1,),
        "not in the collective",
    ),
    "it waits for its own save, the others at a barrier": (
        [sight(0, stack=IN_BARRIER), sight(1, phase="saving", stack=IN_LOOP)],
        [],
        (1,),
        "not in the collective",
    ),
    "it never started": ([sight(0, **WAITS), sight(1, phase="not started", pid=None)], [], (1,), "never started"),
    "its node has written nothing": ([sight(0, **WAITS), sight(1, **WAITS)], [2, 3], (2, 3), "not reported"),
    "what was seen comes before what was not": ([sight(0, **WAITS), sight(1, state="T")], [2, 3], (1,), "stopped"),
    "other nodes may well go on": ([sight(0, state="T"), sight(1)], [2, 3], (0,), "stopped"),
    "other nodes may well go on, and this one loops": ([sight(0, stack=IN_LOOP)], [2, 3], (), None),
    "a step behind": ([sight(0), sight(1, steps=11), sight(2)], [], (1,), "behind"),
    "in another phase": ([sight(0), sight(1, phase="between steps"), sight(2)], [], (1,), "behind"),
    "blocked in the kernel": ([sight(0), sight(1, state="D"), sight(2)], [], (1,), "blocked"),
    "one group waits for a rank that waits in no group": (
        [
            sight(0, collectives=[call(42), call(7, group="tp")]),
            sight(1, collectives=[call(41, state="completed"), call(8, group="pp", state="completed")]),
            sight(2, collectives=[call(41, state="completed"), call(9, group="pp")]),
        ],
        [],
        (1,),
        "not in the collective",
    ),
    "all the same": ([sight(0, **WAITS), sight(1, **WAITS)], [], (), None),
    "nothing": ([], [], (), None),
}


@pytest.mark.parametrize("name", WHICH)
def test_which_rank_the_others_wait_for(name: str) -> None:
    sights, unseen, ranks, kind = WHICH[name]
    assert hangs.culprits(sights, unseen) == (ranks, kind)
    words = hangs.sentence(hangs.Culprits(ranks, kind), sights, 310.0)  # type: ignore[arg-type]
    assert words.endswith("no progress for 310 s")
    assert all(str(rank) in words for rank in ranks)


@given(st.permutations(range(4)))
def test_the_number_of_a_rank_does_not_matter(order: list[int]) -> None:
    sights = [sight(order[0], **WAITS), sight(order[1], **WAITS), sight(order[2], **WAITS), sight(order[3], **DONE)]
    assert hangs.culprits(sights) == ((order[3],), "not in the collective")


def test_words() -> None:
    found = hangs.Culprits((1,), "not in the collective")
    sights = [sight(0, **WAITS), sight(1, stack=IN_LOOP), sight(2, **WAITS)]
    assert hangs.sentence(found, sights, 310.0) == (
        "rank 1 has not joined the collective: in training step 13, in work (code/recipe/r.py:7);"
        " ranks 0, 2 wait in all_reduce 42 of default_pg; no progress for 310 s"
    )
    two = [sight(0, **WAITS), sight(1, collectives=[call(42, "nccl:broadcast")])]
    assert hangs.sentence(hangs.culprits(two), two, 310.0) == (
        "ranks 0-1 are in different collectives: all_reduce 42 of default_pg, broadcast 42 of default_pg;"
        " no progress for 310 s"
    )
    assert hangs.rank_list([4, 0, 1, 2, 7]) == "ranks 0-2, 4, 7"
    library = ["select /usr/lib/python3.12/selectors.py:1", "get /u/lib/python3.12/site-packages/torch/utils/d.py:2"]
    assert hangs.place_of(library) == "get (torch/utils/d.py:2)"
    assert hangs.place_of([]) == ""


def test_where_a_rank_is_in_each_group() -> None:
    group, other = Group("0", "default_pg"), Group("1", "")
    entries = (
        Entry(group, 1, "nccl:all_reduce", False, True),
        Entry(group, 2, "nccl:all_reduce", False, False),
        Entry(group, 3, "nccl:broadcast", False, False),
        Entry(other, 8, "nccl:recv 1<-0", True, False),
        Entry(other, 4, "nccl:barrier", False, True),
        Entry(other, 5, "nccl:barrier", False, True),
    )
    found = {one["group"]: (one["seq"], one["state"]) for one in hangs.current_collectives(Dump(entries))}
    assert found == {"default_pg": (2, "pending"), "group 1": (5, "completed")}


def test_the_judgement_of_nothing() -> None:
    assert judge([], LIMITS) == Judgement("quiet")
