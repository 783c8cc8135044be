"""The window of steps on a rank: which steps, and what is left behind."""

import contextlib
import gzip
import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from launcher.contract import profiles
from launcher.contract.paths import AttemptPaths, RunPaths
from launcher.job.errors import UserError
from launcher.job.profiling.prepare import load_custom_profiler, prepare
from launcher.job.profiling.record import record_of
from launcher.job.profiling.window import Window
from launcher.job.rank import Rank
from tests.contract.written import check_written, compose_result
from tests.job.override_records import override_records
from tests.job.ranks import ROOT, make_run, train
from tests.support.limits import seconds
from tests.support.quick import few
from tests.support.warm import warm_python


class Probe:
    """A profiler that notes what is done to it, and writes that."""

    def __init__(self, breaks_in: str | None = None) -> None:
        self.calls: list[str] = []
        self._breaks_in = breaks_in

    def _note(self, what: str) -> None:
        self.calls.append(what)
        if what == self._breaks_in:
            raise ValueError("out of order")

    def prepare(self) -> None:
        self._note("prepare")

    def start(self) -> None:
        self._note("start")

    def stop(self) -> None:
        self._note("stop")

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        self._note(f"[{number}")
        yield
        self._note("]")

    def save(self, path: Path) -> None:
        self._note("save")
        path.write_text(" ".join(self.calls))


def rank_of(directory: Path, rank: int = 0) -> Rank:
    return Rank(rank, rank, 2, 2, 0, "localhost:1", directory, "000")


def settings(name: str = "Probe", **more: Any) -> Any:
    return {"name": name, "start": 2, "stop": 4, "ranks": [0], "extension": "txt", **more}


def window_of(directory: Path, probe: Probe, start: int = 2, stop: int = 4) -> Window:
    return Window(probe, record_of(rank_of(directory), settings(), (start, stop), {"SLURM_JOB_ID": "77"}))


class Loop:
    """Bridge's training loop, as far as its callbacks go: a skipped iteration calls none."""

    def __init__(self, window: Window) -> None:
        self._callbacks: dict[str, Any] = {}
        self.step = 0
        window.attach(self)

    def register(self, name: str, function: Any) -> None:
        self._callbacks[name] = function

    def _fire(self, name: str) -> None:
        self._callbacks[name](SimpleNamespace(state=SimpleNamespace(train_state=SimpleNamespace(step=self.step))))

    def run(self, begin: int, end: int, skipped: Sequence[int] = ()) -> None:
        self.step = begin
        self._fire("on_train_start")
        while self.step < end:
            if self.step not in skipped:
                self._fire("on_train_step_start")
                self._fire("on_train_step_end")
            self.step += 1


def said(directory: Path) -> dict[str, Any]:
    (path,) = directory.glob("attempts/000/profiles/*.record.json")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def judged(directory: Path, ended: str = "finished at iteration 6") -> profiles.CaptureCheck:
    return profiles.judge(directory / "attempts/000/profiles", settings(), 0, ended)


def test_exactly_the_window_is_captured(tmp_path: Path) -> None:
    probe = Probe()
    Loop(window_of(tmp_path, probe)).run(0, 6)
    assert probe.calls == ["prepare", "start", "[2", "]", "[3", "]", "stop", "save"]
    record = said(tmp_path)
    assert record["file"] == "Probe_job77_attempt000_node0_rank0.txt"
    assert (record["state"], record["began_at"], record["steps"]) == ("saved", 0, [2, 3])
    assert judged(tmp_path).sound


@examples(max_examples=few(40))
@given(start=st.integers(0, 12), length=st.integers(1, 5), begin=st.integers(0, 8), skipped=st.sets(st.integers(0, 12)))
def test_any_window_of_any_run(
    tmp_path_factory: pytest.TempPathFactory, start: int, length: int, begin: int, skipped: set[int]
) -> None:
    directory, probe, end = tmp_path_factory.mktemp("run"), Probe(), 10
    window = window_of(directory, probe, start, start + length)
    Loop(window).run(begin, end, tuple(skipped))
    window.finish(True)
    whole = [step for step in range(start, start + length) if begin <= step < end and step not in skipped]
    captured = whole if begin <= start else []
    assert window.record.steps == captured
    assert [int(call[1:]) for call in probe.calls if call.startswith("[")] == captured
    assert probe.calls.count("start") == probe.calls.count("stop") == probe.calls.count("save") == bool(captured)


def test_a_resumed_run_goes_on_counting(tmp_path: Path) -> None:
    probe = Probe()
    Loop(window_of(tmp_path, probe, 12, 13)).run(10, 15)
    assert "[12" in probe.calls


def test_a_window_before_the_attempt_is_not_a_missing_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Loop(window_of(tmp_path, Probe())).run(3, 6)
    found = judged(tmp_path)
    assert (found.sound, found.why) == (None, "the attempt began at step 3, after the window 2:4")
    assert "lie before step 3" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["prepare", "start", "[2", "]", "stop", "save"])
def test_a_profiler_that_fails_ends_no_training(tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]) -> None:
    loop = Loop(window_of(tmp_path, Probe(where)))
    loop.run(0, 6)
    assert loop.step == 6
    assert judged(tmp_path).why == "the profiler failed: ValueError: out of order"
    assert "training continues" in capsys.readouterr().err


def test_a_run_that_ends_early_says_where(tmp_path: Path) -> None:
    window = window_of(tmp_path, Probe())
    Loop(window).run(0, 2)
    window.finish(True)
    ended = "stopped at iteration 2"
    assert judged(tmp_path, ended).why == "the rank ended before step 2: stopped at iteration 2"


def test_a_run_that_is_stopped_inside_the_window_keeps_what_there_is(tmp_path: Path) -> None:
    window = window_of(tmp_path, Probe())
    Loop(window).run(0, 3)
    window.finish(True)
    found = judged(tmp_path, "stopped at iteration 3")
    assert (found.sound, found.steps) == (False, (2,))
    assert found.why == "it covers 1 of the steps 2:4, step 3 is not in it: stopped at iteration 3"


def test_a_run_that_fails_inside_the_window_saves_nothing(tmp_path: Path) -> None:
    probe = Probe()
    window = window_of(tmp_path, probe)
    Loop(window).run(0, 3)
    window.finish(False)
    assert "stop" not in probe.calls, "a GPU that hangs would never be done"
    found = judged(tmp_path, "killed by signal 9")
    assert (found.why, found.steps) == ("the rank ended inside the window 2:4: killed by signal 9", (2,))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda file: file.unlink(), "the file is gone: its rank had written it"),
        (lambda file: file.write_text(""), "the file is empty"),
        (lambda file: file.write_text("cut"), "the file has 3 bytes, and the rank had written"),
    ],
    ids=["gone", "empty", "cut"],
)
def test_an_unsound_report_is_named(tmp_path: Path, damage: Any, why: str) -> None:
    Loop(window_of(tmp_path, Probe())).run(0, 6)
    (report,) = tmp_path.glob("attempts/000/profiles/*.txt")
    damage(report)
    found = judged(tmp_path)
    assert not found.sound
    assert str(found.why).startswith(why)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    window = window_of(tmp_path, Probe())
    window.record.directory.mkdir(parents=True)
    window.record.file.write_text("of somebody else")
    Loop(window).run(0, 6)
    assert "is not overwritten" in str(judged(tmp_path).why)
    assert window.record.file.read_text() == "of somebody else"


def config(**more: Any) -> Any:
    section = {"profile_step_start": 2, "profile_step_end": 4, "profile_ranks": [0], "use_pytorch_profiler": False}
    return SimpleNamespace(
        profiling=SimpleNamespace(**{**section, **more}),
        train=SimpleNamespace(train_iters=more.get("iterations", 6)),
        ft=SimpleNamespace(enable_ft_package=more.get("fault_tolerance", False)),
    )


OWN = "class Mine:\n    def start(self): ...\n    def stop(self): ...\n    def save(self, path): path.write_text('x')\n"


def test_only_the_ranks_that_were_asked_for_capture(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/mine.py").write_text(OWN)
    asked = settings("Mine", own={"path": "mine.py", "class": "Mine"})
    assert prepare(config(), rank_of(tmp_path, 1), asked, "cpu") is None
    window = prepare(config(), rank_of(tmp_path, 0), asked, "cpu")
    assert window is not None
    Loop(window).run(0, 6)
    assert judged_own(tmp_path).sound


def judged_own(directory: Path) -> profiles.CaptureCheck:
    return profiles.judge(directory / "attempts/000/profiles", settings("Mine"), 0, "")


@pytest.mark.parametrize(
    ("name", "changes", "device", "words"),
    [
        ("torch", {"profile_step_end": 2}, "cpu", "nothing would be captured"),
        ("torch", {"iterations": 3}, "cpu", "the run ends after 3"),
        ("nsys", {}, "cpu", "nsys needs a GPU"),
        ("memory", {}, "cpu", "memory needs a GPU"),
        ("nsys", {"fault_tolerance": True}, "gpu", "fault tolerance"),
        ("nsys", {"use_pytorch_profiler": True}, "gpu", "cannot run together with nsys"),
    ],
)
def test_the_job_refuses_what_only_it_can_know(
    tmp_path: Path, name: str, changes: dict[str, Any], device: str, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        prepare(config(**changes), rank_of(tmp_path), settings(name), device)


def test_a_class_that_is_not_a_profiler_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "class Mine:\n    def start(self): ...\nclass Bad:\n    def __init__(self, x): ..."
    )
    with pytest.raises(UserError, match=r"has no stop, save\(\)"):
        load_custom_profiler(tmp_path / "mine.py", "Mine")
    with pytest.raises(UserError, match="cannot be made: TypeError"):
        load_custom_profiler(tmp_path / "mine.py", "Bad")


WINDOW = ("profiling.profile_step_start=2", "profiling.profile_step_end=4", "profiling.profile_ranks=[1]")


@pytest.mark.megatron
def test_the_check_before_submitting_knows_the_recipes_own_number_of_iterations() -> None:
    request = {
        "recipe": {"path": str(ROOT / "recipes/vanilla_gpt_pretrain.py"), "function": "configure"},
        "options": {"device": "cpu", "profiler": {"name": "torch", "start": 100_000, "stop": 100_001, "ranks": [0]}},
        "overrides": override_records(["profiling.profile_step_start=100000", "profiling.profile_step_end=100001"]),
        "world_size": 1,
        "ranks_per_node": 1,
    }
    argv = [warm_python(), str(ROOT / "entrypoint.py"), "--check-config"]
    done = subprocess.run(
        argv, input=json.dumps(request), capture_output=True, text=True, timeout=seconds(280), check=False
    )
    assert done.returncode == 2, done.stderr
    assert "steps 100000:100001 cannot be profiled: the run ends after" in json.loads(done.stdout)["error"]


@pytest.mark.megatron
@pytest.mark.timeout(600)
def test_the_pytorch_profiler_traces_the_rank_and_steps_that_were_asked_for(tmp_path: Path) -> None:
    """Also: all that a real rank writes is as the contract has it, an expected network and evaluation included."""
    overrides = [
        *("train.train_iters=5", "train.eval_interval=2", "train.eval_iters=1", "checkpoint.save_interval=2"),
        *("profiling.use_pytorch_profiler=true", *WINDOW),
    ]
    asked = {"name": "torch", "start": 2, "stop": 4, "ranks": [1]}
    expected = {"policy": "warn", "fabric": "efa", "nodes": 1, "ranks_per_node": 2}
    run = make_run(tmp_path / "run", overrides=overrides, settings={"profiler": asked, "network": expected})
    train(run, 2)
    directory = run.attempt() / "profiles"
    name = "torch_joblocal_attempt000_node0_rank1"
    assert sorted(path.name for path in directory.iterdir()) == [f"{name}.pt.trace.json.gz", f"{name}.record.json"]
    with gzip.open(directory / f"{name}.pt.trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    steps = [event["name"] for event in events if event["name"].startswith("step ")]
    assert steps == ["step 2", "step 3"]
    optimizer = [event for event in events if event["name"].startswith("Optimizer.step")]
    assert len(optimizer) == 2, "as many steps of the optimizer"
    assert not list(run.path.glob("torch_profile")), "Bridge's own, which is off by one, did not run as well"
    assert run.losses()[5] > 0
    found = profiles.result(AttemptPaths(run.attempt()), 2, lambda _rank: "")
    assert found is not None
    assert (found["expected"], found["found"], found["missing"]) == (1, 1, [])
    assert compose_result(run) == "finished"
    counts = check_written(RunPaths(run.path))
    assert counts.pop("timeline.jsonl") >= 8
    assert counts == {
        "argv.json": 1,
        "record of a rank": 2,
        "metrics.jsonl": 5,
        "environment.json": 1,
        "megatron.json": 1,
        "trackers.json": 1,
        "result.json": 1,
        "network/*.json": 1,
        "profiles/*.record.json": 1,
    }
