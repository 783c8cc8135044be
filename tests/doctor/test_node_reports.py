"""Node reports and the table of `launcher doctor`, from the records of ranks."""

import json
from pathlib import Path
from typing import Any

import pytest

from launcher._util.shell import LocalShell
from launcher.api import doctor
from launcher.config.cluster import Cluster
from launcher.config.request import Request
from launcher.contract import input_files
from launcher.contract.checks import Check, fail, ok, skip, warn
from launcher.discovery.training_files import TrainingFiles
from launcher.doctor import expected, inputs
from launcher.doctor.job import DoctorRun, describe_end, newly_lost, why_not_starting
from launcher.doctor.node_reports import NodeReport, alike_check, collect_reports, merge_ranks
from launcher.doctor.report import DoctorReport, summary, table_lines
from launcher.job.doctor import expected as expectations
from launcher.job.doctor.inputs import inputs_check
from launcher.rundir import RunDirectory
from launcher.slurm.nodes import parse_nodes
from launcher.slurm.queue import Job, State


def plain(text: str, colour: str) -> str:
    return text


def ran(tmp_path: Path, nodes: tuple[str, ...], **more: Any) -> DoctorRun:
    run = RunDirectory(tmp_path)
    (run.begin_attempt().path / "doctor").mkdir()
    return DoctorRun(run, nodes, **more)


def leave(tmp_path: Path, rank: int, *checks: Check, **facts: str) -> None:
    record = {"rank": rank, "node": "x", "facts": facts, "checks": [check.to_dict() for check in checks]}
    (tmp_path / f"attempts/000/doctor/{rank:04d}.json").write_text(json.dumps(record))


def test_a_node_without_a_word(tmp_path: Path) -> None:
    outcome = ran(tmp_path, ("n1", "n2"))
    leave(tmp_path, 0, ok("memory", "8 GiB"))
    (tmp_path / "attempts/000/doctor/0001.json").write_text("{")
    logs = tmp_path / "attempts/000/logs"
    (logs / "srun.log").write_text("srun: error: task 1 launch failed: no image\nsrun: error: something else\n")
    found = {report.node: {check.name: check for check in report.checks} for report in collect_reports(outcome, 1, 2)}
    assert found["n1"]["memory"].verdict == "ok"
    assert found["n2"]["ranks"].verdict == "fail"
    assert "task 1 launch failed: no image" in found["n2"]["ranks"].reason
    (logs / "rank-0001.log").write_text("Traceback\nImportError: torch\n")
    assert "ImportError: torch" in collect_reports(outcome, 1, 2)[1].checks[1].reason


def test_a_node_that_slurm_took_away(tmp_path: Path) -> None:
    lost = parse_nodes("n2|gpu|drained|8|1|(null)|Prolog error\n")
    (report,) = collect_reports(DoctorRun(RunDirectory(tmp_path), (), lost, "held"), 8, 2)
    assert report.node == "n2"
    assert "Prolog error" in report.checks[0].reason


def test_of_several_ranks_the_worst_counts() -> None:
    checks = {
        0: [skip("matmul", "no figure", "700 TFLOP/s", 700.0), ok("memory", "8 GiB")],
        1: [skip("matmul", "no figure", "650 TFLOP/s", 650.0)],
    }
    assert [check.value for check in merge_ranks(checks)] == ["650 TFLOP/s", "8 GiB"]
    checks[2] = [warn("matmul", "690 TFLOP/s", "slow", "look", 690.0)]
    assert merge_ranks(checks)[0].reason == "rank 2: slow"


def test_nodes_that_are_not_alike(tmp_path: Path) -> None:
    outcome = ran(tmp_path, ("n1", "n2", "n3"))
    for rank, driver in enumerate(("570", "570", "535")):
        leave(tmp_path, rank, driver=driver)
    verdicts = {report.node: report.checks[-1] for report in collect_reports(outcome, 1, 3)}
    assert [verdicts[node].verdict for node in ("n1", "n2", "n3")] == ["ok", "ok", "warn"]
    assert verdicts["n3"].reason == "driver is 535, elsewhere 570"
    assert alike_check({}, {}, 1).verdict == "skip"


def test_the_table() -> None:
    bad = fail("xid", "79 x1", "Xid 79", "reboot")
    nodes = (NodeReport("n1", (ok("gpus", "8"), ok("xid", "none"))), NodeReport("n2", (ok("gpus", "8"), bad)))
    found = DoctorReport("big", "login", (ok("slurm", "24.11"), skip("quota", "no program")), nodes)
    shown = table_lines(found, plain)
    assert "CHECK  n1    n2" in shown
    assert "xid    none  FAIL 79 x1" in shown
    assert "FAIL n2, xid: Xid 79" in shown
    assert "     reboot" in shown
    assert not [line for line in shown if line.startswith("quota")]
    assert "not checked, or not there: quota (--skipped says why)" in shown
    assert shown[-1] == summary(found) == "2 nodes and the login node: 4 ok, 0 warnings, 1 failed, 1 not checked"
    whole = table_lines(found, plain, with_skipped=True)
    assert "quota  skip" in whole
    assert "skip login, quota: no program" in whole
    assert found.to_dict()["counts"] == {"ok": 4, "skip": 1, "warn": 0, "fail": 1}


def test_of_many_nodes_those_with_findings_are_shown() -> None:
    nodes = [NodeReport(f"n{number}", (ok("gpus", "8"), ok("memory", f"{number} GiB"))) for number in range(100)]
    nodes[7] = NodeReport("n7", (fail("gpus", "7 of 8", "one is gone", "look"),))
    shown = table_lines(DoctorReport("big", "login", (), tuple(nodes)), plain)
    assert "CHECK   n7           99 others" in shown
    assert "gpus    FAIL 7 of 8  8" in shown
    assert "memory  -            ok" in shown
    assert max(map(len, shown)) < 100


def test_jobs_that_will_not_start() -> None:
    held = Job("7", State.PENDING, reason="launch failed requeued held")
    assert "is held" in (why_not_starting(held, ()) or "")
    waiting = Job("7", State.PENDING, reason="Resources")
    assert why_not_starting(waiting, ()) is None
    before = parse_nodes("n1|gpu|idle|8|1|(null)|none\nn2|gpu|idle|8|1|(null)|none\nn3|gpu|down|8|1|(null)|old\n")
    after = parse_nodes(
        "n1|gpu|idle|8|1|(null)|none\nn2|gpu|drained|8|1|(null)|Prolog error\nn3|gpu|down|8|1|(null)|old\n"
    )
    lost = newly_lost(before, after)
    assert [node.name for node in lost] == ["n2"]
    assert "did not start on n2" in (why_not_starting(waiting, lost) or "")
    assert describe_end(Job("7", State.TIMEOUT), "slow") == "the job is TIMEOUT; slow"
    assert describe_end(None, "") == "the job is gone"


def test_what_the_nodes_are_given() -> None:
    cluster = Cluster(name="x", runtime="pyxis", mounts=("/fsx", "/a:/b:ro", "/c:/d"), fabric="efa", nics_per_node=32)
    told = json.loads(expected.expected_values(cluster, Request(), torch=True, rendezvous_timeout_s=60))
    assert told["directories"] == ["/fsx", "/b", "/d"]
    assert told["read_only"] == ["/b"]
    assert told["nics_per_node"] == 32
    bare = json.loads(
        expected.expected_values(
            cluster, Request(runtime="none", mounts=("/m:ro",)), torch=False, rendezvous_timeout_s=5
        )
    )
    assert bare["directories"] == ["/fsx", "/a", "/c", "/m"]
    assert bare["read_only"] == ["/a", "/m"]


def test_as_many_files_are_compared_as_one_argument_holds(tmp_path: Path) -> None:
    """A blend may name thousands of files; a request refuses an argument of more than 64 KiB."""
    (tmp_path / "a.bin").write_text("1")
    seen = input_files.look(str(tmp_path / "a.bin"))
    named = [inputs.Input("dataset.blend", str(tmp_path / "a.bin"), seen)] * 2000
    text = expected.expected_values(Cluster(name="x"), Request(), torch=True, rendezvous_timeout_s=60, inputs=named)
    assert Request.model_validate({"assignments": (f"expected={text}",)})
    told = expectations.parse(text)
    assert 100 < len(told.inputs) < 2000
    assert len(told.inputs) + told.inputs_left_out == 2000
    check = inputs_check(told.inputs, container=False, left_out=told.inputs_left_out)
    assert check.verdict == "ok"
    assert check.value == f"{len(told.inputs)} found, {told.inputs_left_out} more not compared"


def test_relative_paths_are_named_and_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("data.bin", "whole"):
        (tmp_path / name).write_text("1")
    files = TrainingFiles(named=(("dataset.blend", "data.bin"), ("tokenizer", str(tmp_path / "whole"))))
    named = inputs.inputs_of(files)
    check = inputs.login_check(named, "")
    assert (check.verdict, check.value) == ("warn", "1 of 2 not seen here")
    assert check.reason.startswith("dataset.blend: data.bin: is not looked at: a relative path")
    assert [each.path for each in inputs.compared(named)] == [str(tmp_path / "whole")]


def test_the_checks_announce_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--notify may be a default of all of a user's runs."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"HOME": str(tmp_path), "LAUNCHER_CLUSTER": "local", "LAUNCHER_NOTIFY": "announce"}.items():
        monkeypatch.setenv(name, value)
    request = doctor.DoctorRequest()
    plan, error = doctor._plan(request, doctor._site(request.asked, LocalShell()), ())
    assert error is None and plan is not None
    assert "notify" not in plan.argv["options"] and "keep_going" in plan.argv["options"]
