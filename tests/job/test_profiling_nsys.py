"""nsys: its command line, its end, what is left when something goes wrong; with a recorder, and with the real one."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.contract import profiles
from launcher.job.profiling import nsys, nsys_command, nsys_report
from launcher.job.profiling.nsys_command import NsysProgram
from tests.support.limits import seconds
from tests.support.rank_ends import record_of

PROGRAM = Path(nsys.__file__)
NAME = "nsys_job77_attempt000_node1_rank3"
RANK = {"RANK": "3", "LOCAL_RANK": "1", "NODE_RANK": "1", "LAUNCHER_ATTEMPT": "000", "SLURM_JOB_ID": "77"}
OLD = NsysProgram(
    "2022.4.2", "--wait= --nic-metrics= --gpu-metrics-device= --cuda-graph-trace= -t 'cuda','nvtx'", frozenset()
)
NEW = NsysProgram(
    "2025.5.1",
    "--wait= --nic-metrics= --gpu-metrics-devices= --enable= --cuda-graph-trace= cuda-hw cuda-sw",
    frozenset({"efa_metrics"}),
)
OF_2026 = NsysProgram(
    "2026.2.1",
    "  --nic-metrics=\n\t Possible values are 'lf', 'hf' or 'none'. 'true' is deprecated.\n"
    "  --wait=\n  --cuda-graph-trace=",
    frozenset(),
)
NEVER_HANGS = {
    "--sample=none",
    "--cpuctxsw=none",
    "--capture-range=cudaProfilerApi",
    "--capture-range-end=stop",
    "--kill=none",
    "--wait=primary",
}


def compose(known: NsysProgram, ranks: tuple[int, ...] = (13,), **options: Any) -> tuple[list[str], list[str]]:
    environ = {"LOCAL_RANK": "5", "RANK": "13"}
    return nsys_command.compose("/opt/nsys", known, Path("/run/x"), options, environ, ranks)


@pytest.mark.parametrize("known", [OLD, NEW], ids=["old", "new"])
def test_the_known_hangs_cannot_happen_and_nothing_is_overwritten(known: NsysProgram) -> None:
    words, left_out = compose(known)
    assert words[:2] == ["/opt/nsys", "profile"]
    assert set(words) >= NEVER_HANGS
    assert "--output=/run/x" in words
    assert not any("force-overwrite" in word for word in words)
    assert left_out == []


@pytest.mark.parametrize(
    ("known", "options", "word", "loss"),
    [
        (NEW, {"fabric": "efa"}, "--enable=efa_metrics", None),
        (OLD, {"fabric": "efa"}, None, "has no plugin efa_metrics"),
        (NEW, {"fabric": "infiniband"}, "--nic-metrics=true", None),
        (OF_2026, {"fabric": "infiniband"}, "--nic-metrics=lf", None),
        (NEW, {"fabric": "roce"}, "--nic-metrics=true", None),
        (NEW, {"fabric": "gib"}, "--nic-metrics=true", None),
        (NEW, {"fabric": "spectrum-x"}, "--nic-metrics=true", None),
        (NsysProgram("1", "", frozenset()), {"fabric": "infiniband"}, None, "has no --nic-metrics"),
        (NEW, {"gpu_metrics": True}, "--gpu-metrics-devices=5", None),
        (OLD, {"gpu_metrics": True}, "--gpu-metrics-device=5", None),
        (NsysProgram("1", "", frozenset()), {"gpu_metrics": True}, None, "has no GPU metrics"),
        (NEW, {}, "--trace=cuda-sw,nvtx", None),
        (OLD, {}, "--trace=cuda,nvtx", None),
        (NEW, {"trace": "cuda,osrt"}, "--trace=cuda,osrt", None),
        (NEW, {"fabric": "ethernet"}, "--sample=none", None),
    ],
)
def test_only_what_this_nsys_knows(
    known: NsysProgram, options: dict[str, Any], word: str | None, loss: str | None
) -> None:
    words, left_out = compose(known, **options)
    assert word is None or word in words
    assert any(loss in text for text in left_out) if loss else not [text for text in left_out if "network" in text]


@pytest.mark.parametrize(
    ("ranks", "counted"), [((13,), True), ((0, 13), True), ((8, 13), False), ((), False), ((13, 14), True)]
)
def test_the_counters_of_a_node_are_read_by_its_first_captured_rank(ranks: tuple[int, ...], counted: bool) -> None:
    words, left_out = compose(NEW, ranks, fabric="infiniband")
    assert ("--nic-metrics=true" in words) == counted
    assert left_out == []
    assert ("--enable=efa_metrics" in compose(NEW, ranks, fabric="efa")[0]) == counted


def test_the_users_arguments_take_the_place_of_ours() -> None:
    words, _ = compose(NEW, args=["--cuda-graph-trace=graph", "--cuda-memory-usage=true"])
    assert [word for word in words if word.startswith("--cuda-graph-trace")] == ["--cuda-graph-trace=graph"]
    assert words[-1] == "--cuda-memory-usage=true"


def test_a_plugin_is_found_beside_nsys(tmp_path: Path) -> None:
    for name in ("bin", "target-linux-x64/plugins/efa_metrics", "more/own"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "target-linux-x64/plugins/efa_metrics/nsys-plugin.yaml").write_text("")
    (tmp_path / "more/own/plugin.yaml").write_text("")
    program = tmp_path / "bin/nsys"
    program.write_text(
        "#!/bin/sh\n[ $1 = --version ] && echo 'NVIDIA Nsight Systems version 2025.5.1.121-1' || echo ' --wait='\n"
    )
    program.chmod(0o755)
    known = nsys_command.probe(str(program), {"NSYS_PLUGIN_SEARCH_DIRS": str(tmp_path / "more")})
    assert known.version == "2025.5.1.121"
    assert known.plugins == {"efa_metrics", "own"}
    assert known.has("--wait")
    assert not known.has("--wai")


def test_an_nsys_beside_the_path_is_found_the_newest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert profiles.find_nsys(root=tmp_path) is None
    for version in ("2024.6.2", "2025.10.1", "2025.9.1"):
        program = tmp_path / f"opt/nvidia/nsight-systems/{version}/bin/nsys"
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    assert profiles.find_nsys(root=tmp_path) == str(tmp_path / "opt/nvidia/nsight-systems/2025.10.1/bin/nsys")
    assert profiles.find_nsys("/no/nsys", root=tmp_path) is None


FAKE = """#!{python}
import json, os, subprocess, sqlite3, sys, time
from pathlib import Path
if sys.argv[1] == "--version":
    print("NVIDIA Nsight Systems version 2025.5.1")
elif sys.argv[2] == "--help":
    print("--wait= --cuda-graph-trace=")
elif sys.argv[1] == "export":
    output = next(word.partition("=")[2] for word in sys.argv if word.startswith("--output="))
    if os.environ.get("FAKE") == "unreadable":
        sys.exit("Processing failed: the file is damaged")
    made = sqlite3.connect(output)
    made.execute("CREATE TABLE StringIds (id INTEGER, value TEXT)")
    made.execute("CREATE TABLE NVTX_EVENTS (start INTEGER, end INTEGER, text TEXT, textId INTEGER)")
    made.execute("INSERT INTO StringIds VALUES (1, 'step 2')")
    made.execute("INSERT INTO NVTX_EVENTS VALUES (0, 1, NULL, 1), (1, 2, 'step 3', NULL), (1, 2, 'forward', NULL)")
    made.execute("CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER, end INTEGER)")
    if os.environ.get("FAKE") != "no kernels":
        made.execute("INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (0, 1), (1, 2)")
    made.commit()
else:
    fake = os.environ.get("FAKE")
    if fake == "refuses":
        sys.exit("unrecognised option '--cuda-graph-trace'")
    output = next(word.partition("=")[2] for word in sys.argv if word.startswith("--output="))
    command = sys.argv[next(index for index, word in enumerate(sys.argv) if word == "/bin/sh"):]
    Path(output + ".argv").write_text(json.dumps(sys.argv[1:]))
    status = subprocess.run(command).returncode
    if fake == "hangs":
        subprocess.Popen(["sleep", "1000"])
        time.sleep(1000)
    if fake == "no importer":
        Path(output + ".qdstrm").write_text("raw")
    elif fake != "nothing":
        Path(output + ".nsys-rep").write_text("" if fake == "empty" else "report")
    sys.exit(status)
"""
TRAINED = """
import json, os, sys
from pathlib import Path
attempt = Path(os.environ["LAUNCHER_RUN_DIR"], "attempts/000")
record = {"state": "captured", "window": [2, 4], "steps": [2, 3], "began_at": 0}
Path(attempt, "profiles/NAME.record.json").write_text(json.dumps(record))
Path(attempt, "ranks/node-0001.jsonl").write_text(json.dumps({"rank": 3, "outcome": "finished"}))
sys.exit(int(sys.argv[1]))
""".replace("NAME", NAME)


def run_of(directory: Path, **options: Any) -> Path:
    (directory / "attempts/000/ranks").mkdir(parents=True)
    asked = {"name": "nsys", "start": 2, "stop": 4, "ranks": [3], "finish_timeout_s": 60, **options}
    (directory / "argv.json").write_text(json.dumps({"options": {"profiler": asked}}))
    (directory / "trained.py").write_text(TRAINED)
    (directory / "bin").mkdir()
    (directory / "bin/nsys").write_text(FAKE.replace("{python}", sys.executable))
    (directory / "bin/nsys").chmod(0o755)
    return directory


def environment(run: Path, **more: str) -> dict[str, str]:
    return {**RANK, "LAUNCHER_RUN_DIR": str(run), "PATH": f"{run}/bin:{os.environ['PATH']}", **more}


def profile(run: Path, fake: str = "", status: int = 0) -> tuple[int, str, profiles.CaptureCheck]:
    """The exit status and words of the process around nsys, and the verdict on its report."""
    argv = [sys.executable, str(PROGRAM), sys.executable, str(run / "trained.py"), str(status)]
    done = subprocess.run(argv, env=environment(run, FAKE=fake), capture_output=True, text=True, timeout=seconds(100))
    settings = json.loads((run / "argv.json").read_text())["options"]["profiler"]
    return done.returncode, done.stderr, profiles.judge(run / "attempts/000/profiles", settings, 3, "finished")


def around(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / f"attempts/000/profiles/{NAME}.nsys.json").read_text())
    return found


def test_a_sound_report(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    status, _, found = profile(run)
    assert (status, found.sound, found.why, found.file) == (0, True, None, f"{NAME}.nsys-rep")
    said = around(run)
    assert (said["opens"], said["kernels"], said["steps"], said["ended_by_launcher"]) == (True, 2, [2, 3], False)
    argv = json.loads((run / f"attempts/000/profiles/{NAME}.argv").read_text())
    assert set(argv) >= NEVER_HANGS
    assert argv[-3:] == [sys.executable, str(run / "trained.py"), "0"], "the command is handed on word by word"
    assert not list(run.glob("attempts/000/profiles/.*")), "nothing temporary is left"


@pytest.mark.parametrize(
    ("fake", "why"),
    [
        ("nothing", "nsys wrote no report: the capture range was never opened"),
        ("empty", "the file is empty"),
        ("no importer", "its importer is missing"),
        ("unreadable", "nsys cannot read its own report: nsys export ended with status 1: Processing failed"),
        ("no kernels", "the report opens and holds not one kernel"),
    ],
)
def test_an_unsound_report_is_named_and_does_not_fail_the_run(tmp_path: Path, fake: str, why: str) -> None:
    status, _, found = profile(run_of(tmp_path), fake)
    assert (status, found.sound) == (0, False)
    assert why in str(found.why)


def test_an_nsys_that_hangs_after_the_program_is_ended_with_all_it_started(tmp_path: Path) -> None:
    run = run_of(tmp_path, finish_timeout_s=1)
    started = time.monotonic()
    status, _, found = profile(run, "hangs")
    assert time.monotonic() - started < 30
    assert status == 0, "the rank itself had finished"
    assert found.why == "nsys was ended because it was still running 1 s after the program"
    assert around(run)["ended_by_launcher"]
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if f"{run}/bin/nsys".encode() in read(path)]
    assert not left


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_program_that_fails_keeps_its_status(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    (run / "trained.py").write_text("import sys; sys.exit(7)")
    status, _, found = profile(run)
    assert status == 7
    assert found.why == "the rank left no record of its capture: finished"


@pytest.mark.parametrize(
    ("fake", "why"), [("refuses", "did not start the program"), ("missing", "'nsys' is not in the image")]
)
def test_a_program_that_was_never_started_is_a_failed_rank_with_the_reason(tmp_path: Path, fake: str, why: str) -> None:
    run = run_of(tmp_path, **({"nsys": {"program": str(tmp_path / "none/nsys")}} if fake == "missing" else {}))
    status, words, found = profile(run, fake)
    end = record_of(run / "attempts/000", 3)
    assert (status, end["outcome"], end["cause"]) == (2, "failed", "user")
    assert "nsys" in words
    assert why.replace("'nsys' ", "") in end["exception"]["message"]
    assert end["exception"]["message"] in str(found.why)


def test_a_second_report_of_the_same_rank_is_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    profile(run)
    before = around(run)
    status, words, _ = profile(run)
    assert status == 2
    assert "is not overwritten" in words
    assert around(run) == before


def test_a_report_without_a_table_of_kernels_has_none(tmp_path: Path) -> None:
    made = sqlite3.connect(tmp_path / "x.sqlite")
    made.execute("CREATE TABLE OTHER (a INTEGER)")
    made.commit()
    made.close()
    assert nsys_report.read_database(tmp_path / "x.sqlite") == {"opens": True, "kernels": 0, "steps": []}
    (tmp_path / "y.sqlite").write_text("no database at all, but long enough to be read as one" * 20)
    assert nsys_report.read_database(tmp_path / "y.sqlite")["opens"] is False


REAL = shutil.which("nsys")
SAVES = """
import json, os, signal, time
from pathlib import Path
run = Path(os.environ["LAUNCHER_RUN_DIR"])
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
(run / "ready").touch()
end = time.monotonic() + 60
while not asked and not (run / "go").exists() and time.monotonic() < end:
    time.sleep(0.05)
time.sleep(0.5)
line = json.dumps({"rank": 3, "outcome": "stopped" if asked else "finished"})
(run / "attempts/000/ranks/node-0001.jsonl").write_text(line)
"""


@pytest.mark.skipif(REAL is None, reason="nsys is not installed")
@pytest.mark.parametrize("signalled", [False, True], ids=["to its end", "stopped by SIGTERM to all processes"])
def test_the_real_nsys_with_the_real_command_line(tmp_path: Path, signalled: bool) -> None:
    run = run_of(tmp_path, nsys={"whole": True, "trace": "osrt", "program": REAL, "fabric": "efa"})
    (run / "trained.py").write_text(SAVES)
    argv = [sys.executable, str(PROGRAM), sys.executable, str(run / "trained.py")]
    log = (run / "log").open("wb")
    process = subprocess.Popen(argv, env=environment(run), stdout=log, stderr=log, start_new_session=True)
    try:
        end = time.monotonic() + seconds(60)
        while not (run / "ready").exists():
            assert time.monotonic() < end, (run / "log").read_text()
            assert process.poll() is None, (run / "log").read_text()
            time.sleep(0.05)
        if signalled:
            os.killpg(process.pid, signal.SIGTERM)
        else:
            (run / "go").touch()
        assert process.wait(seconds(100)) == 0, (run / "log").read_text()
    finally:
        log.close()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    expected = "stopped" if signalled else "finished"
    ended = record_of(run / "attempts/000", 3)["outcome"]
    assert ended == expected, "nsys went before the program had saved, and the process around it did not"
    said = around(run)
    assert (said["file"], said["opens"], said["kernels"], said["ended_by_launcher"]) == (
        f"{NAME}.nsys-rep",
        True,
        0,
        False,
    )
    assert said["bytes"] > 0
    assert (run / f"attempts/000/profiles/{NAME}.sqlite").stat().st_size > 0


@pytest.mark.skipif(REAL is None, reason="nsys is not installed")
def test_the_real_nsys_knows_every_option_that_it_is_given(tmp_path: Path) -> None:
    assert REAL is not None
    known = nsys_command.probe(REAL)
    assert known.version
    words, _ = nsys_command.compose(REAL, known, tmp_path / "x", {"gpu_metrics": True, "fabric": "infiniband"})
    for word in words[2:]:
        assert known.has(word.partition("=")[0]), word


@pytest.mark.skipif(REAL is None, reason="nsys is not installed")
def test_the_real_nsys_without_a_capture_leaves_no_report_and_we_say_why(tmp_path: Path) -> None:
    run = run_of(tmp_path, nsys={"program": REAL})
    status, _, found = profile(run)
    assert status == 0
    assert found.why == "nsys wrote no report: the capture range was never opened"
