"""What follows an attempt: properties of the decision over any history, and the cases by name."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.contract import next_attempt
from launcher.contract.files import JsonLines
from launcher.contract.next_attempt import NOT_COUNTED, AttemptFacts, decide
from launcher.contract.paths import AttemptPaths
from launcher.contract.records.request import RetryPolicy

NOW = 1_790_000_000.0
POLICY: RetryPolicy = {
    "without_progress": 3,
    "backoff_s": 30,
    "strikes": 2,
    "strike_hours": 24,
    "excluded_percent": 10,
    "exclude": None,
}
FINAL = ("finished", "asked", "cancelled", "superseded", "user error")
OTHERS = ("diverged", "time limit", "preempted", "requeued", "program", "machine")


def facts(kind: str = "machine", **values: Any) -> AttemptFacts:
    return AttemptFacts("000", kind, **{"ended": NOW, **values})  # type: ignore[arg-type]


attempts = st.builds(
    facts,
    st.sampled_from(OTHERS),
    what=st.sampled_from(["", "ValueError", "killed by signal 9 (SIGKILL)"]),
    iteration=st.none() | st.integers(0, 30),
    saves=st.lists(st.integers(1, 30), max_size=3).map(tuple),
    diverged_at=st.none() | st.integers(1, 30),
    ended=st.floats(NOW - 3e5, NOW),
    blamed=st.lists(st.tuples(st.sampled_from(["n1", "n2", "n3", "n4"]), st.integers(1, 3)), max_size=2).map(tuple),
)
histories = st.lists(attempts, min_size=1, max_size=8)
policies = st.builds(
    lambda idle, strikes, percent: {
        **POLICY,
        "without_progress": idle,
        "strikes": strikes,
        "excluded_percent": percent,
    },
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 100),
)


@given(histories, st.sampled_from(FINAL), policies)
def test_a_final_end_is_never_repeated(history: list[AttemptFacts], kind: str, policy: Any) -> None:
    if kind == "user error":  # of a request that has trained: below
        history = [each._replace(iteration=None, saves=()) for each in history]
    assert decide([*history, facts(kind)], policy, now=NOW, nodes=4).action == "end"


def test_a_request_that_has_trained_is_not_wrong() -> None:
    """A file system or the hub was; with nothing saved it ends as any other failure does."""
    wrong = facts("user error", what="x.bin does not exist")
    assert decide([facts(iteration=7), wrong], POLICY, now=NOW, nodes=4).action == "requeue"
    assert decide([facts("preempted", saves=(5,)), wrong, wrong], POLICY, now=NOW, nodes=4).action == "requeue"
    assert decide([facts(saves=(5,)), wrong, wrong, wrong], POLICY, now=NOW, nodes=4).action == "end"
    assert decide([facts(), wrong], POLICY, now=NOW, nodes=4).action == "end"
    assert decide([facts(saves=(5,)), wrong], POLICY, now=NOW, nodes=4, since=1).action == "end", "a resume by hand"


@given(histories)
def test_without_the_policy_every_run_ends(history: list[AttemptFacts]) -> None:
    assert decide(history, None, now=NOW, nodes=4).action == "end"


@given(histories, attempts, policies)
def test_a_run_that_saves_nothing_new_ends(history: list[AttemptFacts], last: AttemptFacts, policy: Any) -> None:
    """Whatever came before: after so many attempts without progress the answer is the end, and not earlier for that."""
    idle = last._replace(saves=(), kind="machine")
    for count in range(1, policy["without_progress"] + 1):
        decided = decide([*history, *[idle] * count], policy, now=NOW, nodes=4)
    assert decided.action == "end"
    decided = decide([idle._replace(saves=(5,)), *[idle] * (policy["without_progress"] - 1)], policy, now=NOW, nodes=4)
    assert decided.action != "end"


@given(histories, policies)
def test_preemption_costs_no_retry_and_waits_for_nothing(history: list[AttemptFacts], policy: Any) -> None:
    before = decide(history, policy, now=NOW, nodes=4)
    after = decide([*history, *[facts("preempted")] * 5], policy, now=NOW, nodes=4)
    if before.action != "end" and not any(each.kind == "diverged" for each in history):
        assert (after.action, after.exclude, after.delay_s) == (before.action, before.exclude, 0.0)


@given(histories, policies, st.integers(1, 64))
def test_nodes_are_excluded_for_their_own_failures_and_no_more_than_the_cap(
    history: list[AttemptFacts], policy: Any, nodes: int
) -> None:
    decided = decide(history, policy, now=NOW, nodes=nodes)
    assert len(decided.exclude) <= max(1, nodes * policy["excluded_percent"] // 100)
    counted = [each for each in history if NOW - each.ended <= policy["strike_hours"] * 3600]
    for node in decided.exclude:
        assert sum(count for each in counted for name, count in each.blamed if name == node) >= policy["strikes"]
    assert (decided.action == "successor") == bool(decided.exclude)
    again = decide(history, policy, now=NOW, nodes=nodes, excluded=decided.exclude)
    assert again.action == ("requeue" if decided.action == "successor" else decided.action)


@given(histories, policies)
def test_a_run_diverges_once(history: list[AttemptFacts], policy: Any) -> None:
    last = facts("diverged", saves=(40, 50), diverged_at=45)
    decided = decide([*history, last], policy, now=NOW, nodes=4)
    if any(each.kind == "diverged" for each in history):
        assert decided.action == "end"
    elif decided.action != "end":
        assert decided.ckpt_step == 40
    assert decide([last, last], POLICY, now=NOW, nodes=4, since=1).action == "requeue"


@given(st.lists(attempts.filter(lambda each: each.kind not in NOT_COUNTED), min_size=1, max_size=8), policies)
def test_any_run_ends(history: list[AttemptFacts], policy: Any) -> None:
    """Checkpoints up to iteration 30 alone: no run can go on for longer than they last, twice for one divergence."""
    repeated = [history[number % len(history)] for number in range(2 * 31 * (policy["without_progress"] + 1))]
    assert any(decide(repeated[:end], policy, now=NOW, nodes=4).action == "end" for end in range(1, len(repeated) + 1))


def test_the_same_failure_at_the_same_step_is_poison() -> None:
    failed = facts("program", what="ValueError", iteration=7, saves=(5,))
    again = failed._replace(saves=())
    assert decide([failed], POLICY, now=NOW, nodes=4).action == "requeue"
    assert decide([failed, again], POLICY, now=NOW, nodes=4).reason.startswith("poisoned")
    assert decide([failed, facts("preempted"), again], POLICY, now=NOW, nodes=4).action == "end"
    for other in (again._replace(iteration=8), again._replace(what="KeyError"), again._replace(kind="machine")):
        assert decide([failed, other], POLICY, now=NOW, nodes=4).action == "requeue"
    assert decide([failed, again], POLICY, now=NOW, nodes=4, since=1).action == "requeue"


def test_the_wait_grows_and_progress_ends_it() -> None:
    idle = facts("machine")
    patient: RetryPolicy = {**POLICY, "without_progress": 9}
    delays = [decide([idle] * count, patient, now=NOW, nodes=4).delay_s for count in range(1, 8)]
    assert delays == [30, 60, 120, 240, 480, 600, 600]
    assert decide([idle, idle, facts("machine", saves=(5,))], POLICY, now=NOW, nodes=4).delay_s == 0


def test_strikes_expire_and_the_worst_node_comes_first() -> None:
    day = 24 * 3600.0
    one, two = facts(blamed=(("n1", 1),), saves=(5,)), facts(blamed=(("n1", 1),), saves=(6,))
    assert decide([one, two], POLICY, now=NOW, nodes=4).exclude == ("n1",)
    assert decide([one._replace(ended=NOW - day - 1), two], POLICY, now=NOW, nodes=4).exclude == ()
    certain = facts(blamed=(("n2", 100),), saves=(7,))
    assert decide([one, two, certain], POLICY, now=NOW, nodes=4).exclude == ("n2",)
    assert decide([one, two, certain], POLICY, now=NOW, nodes=20).exclude == ("n2", "n1")


@pytest.mark.parametrize(
    ("result", "ended_by", "kind"),
    [
        ({"outcome": "finished"}, "cancelled", "finished"),
        ({"outcome": "failed", "first_failing_rank": {"cause": "user", "what": "E"}}, "time limit", "user error"),
        ({"outcome": "failed", "first_failing_rank": {"cause": "program", "what": "ValueError: x"}}, None, "program"),
        ({"outcome": "failed", "first_failing_rank": {"cause": None, "what": "ended with status 7"}}, None, "program"),
        ({"outcome": "failed", "first_failing_rank": {"cause": None, "what": "killed by signal 9"}}, None, "machine"),
        ({"outcome": "failed", "first_failing_rank": {"cause": None, "what": "left no record"}}, None, "machine"),
        ({"outcome": "failed", "first_failing_rank": {"cause": "communication", "what": "E: x"}}, None, "machine"),
        ({"outcome": "failed", "failure": "user error", "first_failing_rank": {"cause": "outside"}}, None, "machine"),
        (
            {"outcome": "failed", "failure": "hardware", "first_failing_rank": {"cause": "program", "what": "E: ECC"}},
            None,
            "machine",
        ),
        ({"outcome": "failed", "first_failing_rank": {"what": "killed by signal 15"}}, "cancelled", "cancelled"),
        ({"outcome": "stopped", "reason": "requested"}, None, "asked"),
        ({"outcome": "stopped", "reason": "requested"}, "time limit", "time limit"),
        ({"outcome": "stopped", "reason": "exit_duration"}, None, "time limit"),
        ({"outcome": "stopped", "reason": "exit_interval"}, None, "asked"),
        ({"outcome": "diverged"}, None, "diverged"),
        ({"outcome": "stopped", "reason": "cancelled", "stopped_by": "cancelled"}, None, "cancelled"),
        ({"outcome": "stopped", "reason": "preempted", "stopped_by": "preempted"}, None, "preempted"),
        ({"outcome": "stopped", "reason": "signal", "stopped_by": "signal"}, None, "asked"),
    ],
)
def test_kinds_of_ends(result: dict[str, Any], ended_by: str | None, kind: str) -> None:
    assert next_attempt.kind_of(result, ended_by) == kind


def test_only_checkpoints_that_are_there_count(tmp_path: Path) -> None:
    """One that was removed, or whose writer died before its first file, leads nowhere."""
    attempt = AttemptPaths(tmp_path / "000")
    attempt.path.mkdir()
    timeline = JsonLines(attempt.timeline)
    assert next_attempt.save_directory(attempt) is None
    places = {5: None, 10: str(tmp_path / "saved"), 15: str(tmp_path / "saved"), 20: "/not/visible/here", 25: "s3://b"}
    for step, directory in places.items():
        timeline.append(
            {"time": 1.0, "rank": 0, "event": "save", "seconds": 1.0, "iteration": step, "directory": directory}
        )
    (tmp_path / "saved/iter_0000010").mkdir(parents=True)
    assert next_attempt.saves_of(attempt) == (5, 10, 20, 25)
    assert next_attempt.save_directory(attempt) == "s3://b"


def test_another_token_leaves_the_rest_of_a_comment() -> None:
    assert next_attempt.with_token('{"APS": 1, "launcher": "a:1"}', "a:1", "a:2") == '{"APS": 1, "launcher": "a:2"}'
    for comment, before in ((None, "a:1"), ("x", "a:1"), ("x", None)):
        assert next_attempt.with_token(comment, before, "a:2") == "a:2"


def test_what_points_at_a_node(tmp_path: Path) -> None:
    attempt = AttemptPaths(tmp_path / "000")
    attempt.logs.mkdir(parents=True)
    attempt.nodes.write_text("n1\nn2\n")

    def blamed(**result: Any) -> tuple[tuple[str, int], ...]:
        return next_attempt.facts_of(attempt, {"outcome": "failed", **result}, world_size=8).blamed

    killed = {"rank": 5, "what": "killed by signal 9 (SIGKILL)"}
    assert blamed(first_failing_rank=killed) == (("n2", 1),)
    assert blamed(first_failing_rank=killed, failure="out of memory (host)") == ()
    assert blamed(first_failing_rank={"rank": 0, "what": "E", "cause": "program"}, failure="hardware") == (("n1", 100),)
    assert blamed(first_failing_rank=killed, failure="hardware", evidence={"node": "n1"}) == (("n1", 100),)
    assert blamed(first_failing_rank=killed, failure="hardware", evidence={"node": "n1.site"}) == (("n2", 100),)
    assert blamed(first_failing_rank={"rank": 0, "what": "E", "cause": "program"}) == ()
    assert blamed(first_failing_rank={"rank": 0, "what": "E", "cause": "communication"}, failure="lost peer") == ()
    attempt.srun_log.write_text("srun: error: Node failure on n2\nsrun: error: Node failure on n2\n")
    assert blamed(first_failing_rank={"rank": 0, "what": "left no record"}) == (("n2", 1),)
    attempt.srun_log.unlink()
    attempt.nodes.unlink()
    assert blamed(first_failing_rank=killed) == ()
