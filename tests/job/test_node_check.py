"""The check that chooses the nodes of a job with spare ones: what a node says, and which nodes train."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.contract import next_attempt, verdict
from launcher.contract.paths import AttemptPaths
from launcher.contract.records.nodes import NodeCheck
from launcher.contract.validation import conforming
from launcher.job.doctor import node_check
from launcher.job.doctor.expected import Expected
from launcher.watch.history import describe_node_check

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "launcher/job/doctor/node_check.py"
NODES = ("n1", "n2", "n3", "n4")
ECC = {"ecc": "GPU 3: 2: uncorrected memory errors"}


@pytest.mark.parametrize(
    ("said", "chosen"),
    [
        ({node: {} for node in NODES}, ["n1", "n2"]),
        ({"n1": ECC, "n2": {}, "n3": {}, "n4": {}}, ["n2", "n3"]),
        ({"n1": {}, "n3": {}, "n4": {}}, ["n1", "n3"]),
        ({"n1": ECC, "n2": {}, "n3": ECC}, []),
        (dict.fromkeys(NODES, ECC), ["n1", "n2"]),
        ({**{node: {"memlock": "8 MiB"} for node in NODES}, "n1": {**ECC, "memlock": "8 MiB"}}, ["n2", "n3"]),
        ({"n2": ECC}, []),
    ],
    ids=["healthy", "one bad", "one silent", "too few", "all alike", "one worse than all", "one answer"],
)
def test_nodes_that_pass_are_chosen_in_slurms_order(said: dict[str, dict[str, str]], chosen: list[str]) -> None:
    record = node_check.choose(NODES, said, 2, 1.0)
    assert record["chosen"] == chosen
    assert [each["node"] for each in record["nodes"]] == list(NODES)
    assert conforming(json.loads(json.dumps(record)), NodeCheck) == record


def test_a_check_that_fails_on_every_node_is_kept_apart() -> None:
    record = node_check.choose(NODES[:2], {"n1": ECC, "n2": ECC}, 1, 1.0)
    assert (record["everywhere"], [each["failed"] for each in record["nodes"]]) == (ECC, [{}, {}])


def test_a_node_says_what_has_failed_in_one_short_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    wrong = {"device": "cpu", "scratch": str(tmp_path / "file" / ("x" * 300))}
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(PROGRAM), "look", json.dumps(wrong), "1"],
        capture_output=True,
        text=True,
        check=True,
        env={"SLURMD_NODENAME": "n7"},
    )
    line = json.loads(done.stdout)
    assert (line["node"], list(line["failed"])) == ("n7", ["scratch"])
    assert len(done.stdout) < 1000
    assert node_check.look(Expected(device="cpu"), 1)["failed"] == {}


def choose(attempt: AttemptPaths, *nodes: str, needed: int = 2) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-I", "-S", str(PROGRAM), "choose", str(attempt.path), str(needed), *nodes]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_the_second_part_prints_the_nodes_that_train(tmp_path: Path) -> None:
    attempt = AttemptPaths(tmp_path)
    lines = [{"node": "n1", "failed": ECC}, {"node": "n3", "failed": {}}, {"node": "n2", "failed": {}}]
    attempt.node_check_lines.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"node": "n4", "fai')
    done = choose(attempt, *NODES)
    assert (done.returncode, done.stdout) == (0, "n2\nn3\n")
    record = verdict.read_node_check(attempt)
    assert record is not None
    words = describe_node_check(record)
    assert words == f"2 of 4 nodes train, not n1: ecc: {ECC['ecc']}, not n4: no answer"


def test_too_few_nodes_are_a_failure_of_hardware_and_those_that_failed_are_excluded(tmp_path: Path) -> None:
    attempt = AttemptPaths(tmp_path / "attempts/000")
    attempt.path.mkdir(parents=True)
    lines = [{"node": "n1", "failed": {}}, {"node": "n2", "failed": ECC}]
    attempt.node_check_lines.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    done = choose(attempt, "n1", "n2", "n3")
    assert (done.returncode, done.stdout.strip()) == (1, "")
    result = verdict.compose(attempt, 4, 1, now=100.0)
    assert (result["outcome"], result["failure"], result["first_failing_rank"]) == ("failed", "hardware", None)
    assert str(result["reason"]).startswith("1 of 3 nodes have passed the check, and 2 are needed; n2: ecc: GPU 3")
    facts = next_attempt.facts_of(attempt, dict(result), world_size=4)
    assert (facts.kind, facts.blamed) == ("machine", (("n2", 100), ("n3", 1)))


@pytest.mark.parametrize("text", ["", "not JSON\n", '{"node": 7, "failed": {}}\n'])
def test_without_any_answer_nothing_is_said_of_a_node(tmp_path: Path, text: str) -> None:
    attempt = AttemptPaths(tmp_path)
    attempt.node_check_lines.write_text(text)
    assert choose(attempt, "n1", "n2", "n3").returncode == 2
    assert not attempt.node_check.exists()
