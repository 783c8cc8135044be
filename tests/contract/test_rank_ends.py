"""What ranks leave about their ends: whole or absent, whatever else lies in the file of their node."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.contract import rank_ends
from launcher.contract.paths import AttemptPaths
from launcher.contract.rank_ends import RankLines
from launcher.contract.records.ranks import RankRecord
from tests.support.file_calls import FileCalls
from tests.support.quick import few
from tests.support.rank_ends import leave

STEP = Path("tests/golden/local.step.sh")


def record(rank: int, **more: Any) -> RankRecord:
    base: dict[str, Any] = {"version": 1, "rank": rank, "host": "n1", "pid": 1, "time": 10.0, "outcome": "finished"}
    base |= {"reason": None, "iteration": 5, "exception": None, "cause": None}
    return {**base, **more}  # type: ignore[typeddict-item]


@pytest.fixture
def attempt(tmp_path: Path) -> AttemptPaths:
    paths = AttemptPaths(tmp_path / "attempts/000")
    paths.ranks.mkdir(parents=True)
    return paths


def said(found: RankLines) -> dict[str, Any]:
    """The record of a rank; empty where there is none."""
    return dict(found.record or {})


def status(found: RankLines) -> int | None:
    return None if found.exit is None else found.exit["status"]


def exit_line(attempt: AttemptPaths, rank: int, ended: int, node: int = 0) -> None:
    """What the end of the real step.sh appends."""
    text = STEP.read_text()
    line = re.search(r"^printf -v record .*$", text, re.MULTILINE)
    last = re.search(r"^printf '\\n\{.*$", text, re.MULTILINE)
    assert line is not None
    assert last is not None
    variables = f"attempt_dir={attempt.path} RANK={rank} NODE_RANK={node} status={ended} now=1700000000.5 HOSTNAME=n1"
    subprocess.run(["bash", "-euc", f"{variables}\n{line[0]}\n{last[0]}"], check=True)


def test_a_rank_and_its_step_are_read_back(attempt: AttemptPaths) -> None:
    rank_ends.append(attempt, 3, record(25, outcome="stopped", reason="requested"))
    exit_line(attempt, 25, 0, node=3)
    exit_line(attempt, 26, 137, node=3)
    found = rank_ends.of_attempt(attempt)
    assert found == rank_ends.of_node(attempt, 3)
    assert said(found[25])["reason"] == "requested"
    assert found[25].exit == {"rank": 25, "status": 0, "time": 1700000000.5, "host": "n1"}
    assert (found[26].record, status(found[26])) == (None, 137)
    assert [path.name for path in attempt.ranks.iterdir()] == ["node-0003.jsonl"]


def test_the_last_line_of_a_kind_counts(attempt: AttemptPaths) -> None:
    rank_ends.append(attempt, 0, record(1, outcome="failed"))
    rank_ends.append(attempt, 0, record(1, outcome="stopped"))
    assert said(rank_ends.of_rank(attempt, 1))["outcome"] == "stopped"


def test_a_rank_is_found_wherever_it_ran(attempt: AttemptPaths) -> None:
    for node in range(12):
        rank_ends.append(attempt, node, record(node))
    assert said(rank_ends.of_rank(attempt, 7, node=2))["rank"] == 7
    assert rank_ends.of_rank(attempt, 12) == RankLines()
    assert sorted(rank_ends.of_attempt(attempt)) == list(range(12)), "more files than are read one after the other"


@settings(max_examples=few(60), deadline=None)
@given(cut=st.integers(0, 2000), step_is_next=st.booleans())
def test_wherever_a_line_was_cut_the_others_are_whole(
    tmp_path_factory: pytest.TempPathFactory, cut: int, step_is_next: bool
) -> None:
    attempt = AttemptPaths(tmp_path_factory.mktemp("run"))
    attempt.ranks.mkdir()
    rank_ends.append(attempt, 0, record(0))
    whole = attempt.node_ends(0).read_bytes()
    lost = f"\n{json.dumps(record(1, reason='x' * 1500))}\n".encode()
    attempt.node_ends(0).write_bytes(whole + lost[: min(cut, len(lost) - 2)])
    if step_is_next:
        exit_line(attempt, 1, 137)
    rank_ends.append(attempt, 0, record(2))
    if not step_is_next:
        exit_line(attempt, 1, 137)
    found = rank_ends.of_attempt(attempt)
    assert found[0].record == record(0)
    assert found[1].record is None
    assert status(found[1]) == 137
    assert found[2].record == record(2)


def test_zeros_that_a_power_failure_left_hide_no_other_line(attempt: AttemptPaths) -> None:
    leave(attempt, 0, b"\0" * 4096)
    rank_ends.append(attempt, 0, record(3))
    assert list(rank_ends.of_attempt(attempt)) == [3]


WRITER = """
import sys
from pathlib import Path
from launcher.contract import rank_ends
from launcher.contract.paths import AttemptPaths
attempt, node, rank, size, count = AttemptPaths(Path(sys.argv[1])), *map(int, sys.argv[2:])
for number in range(count):
    rank_ends.append(attempt, node, {"rank": rank, "outcome": "failed", "reason": "x" * size, "iteration": number})
    if number == 0:
        print("begun", flush=True)
"""


def test_ranks_that_append_at_the_same_time_do_not_mix(attempt: AttemptPaths) -> None:
    argv = [sys.executable, "-c", WRITER, str(attempt.path)]
    writers = [subprocess.Popen([*argv, "0", str(rank), "20000", "25"], stdout=subprocess.DEVNULL) for rank in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    lines = [line for line in attempt.node_ends(0).read_text().splitlines() if line]
    assert sorted((json.loads(line)["rank"], json.loads(line)["iteration"]) for line in lines) == [
        (rank, number) for rank in range(4) for number in range(25)
    ]


def test_a_rank_that_is_killed_while_it_writes_takes_no_other_line_with_it(attempt: AttemptPaths) -> None:
    argv = [sys.executable, "-c", WRITER, str(attempt.path)]
    for node in range(8):
        writer = subprocess.Popen([*argv, str(node), "7", "3000000", "100000"], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "begun\n"
        time.sleep(0.003 * node)
        writer.kill()
        writer.wait()
        writer.stdout.close()
        exit_line(attempt, 7, 137, node)
        found = rank_ends.of_node(attempt, node)[7]
        assert status(found) == 137
        assert len(str(said(found)["reason"])) == 3000000
        attempt.node_ends(node).unlink()


def test_a_full_disk_is_reported(attempt: AttemptPaths) -> None:
    attempt.node_ends(0).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        rank_ends.append(attempt, 0, record(0))


def test_a_record_costs_one_create_and_one_fsync(attempt: AttemptPaths) -> None:
    with FileCalls(attempt.path) as calls:
        rank_ends.append(attempt, 0, record(0))
    assert calls.counts == {"create": 1, "fsync": 1}
