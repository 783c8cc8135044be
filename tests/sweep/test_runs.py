"""Submission of many points without a Slurm: arrays, limits, refusals, interruptions, and the command that does it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from launcher._util.errors import RequestError, SlurmError
from launcher._util.shell import Result
from launcher.api.progress import Silent
from launcher.backends.array import Array
from launcher.cli.main import main
from launcher.contract.files import parse_lines
from launcher.rundir import RunDirectory
from launcher.slurm.submit import Submission
from launcher.sweep.directory import SweepDirectory
from launcher.sweep.file import load_sweep
from launcher.sweep.measure import RunMeasure, StepWindow, measure
from launcher.sweep.points import grid
from launcher.sweep.runs import QueueLimits, SlurmRuns, shared_out
from launcher.sweep.trials import PointRun
from tests.backends.running import user_of
from tests.support.recorder import Recorder

FILE = """\
name = "many"
[run]
recipe = "small.py"
gpus_per_node = 1
entrypoint = "count.py"
check_config = false
cluster = "virtual"
[axes]
nodes = [1, 2]
[axes.overrides]
seed = {values}
"""


class Slurm:
    """A controller that counts, and may refuse or stay silent."""

    def __init__(self, **settings: object) -> None:
        self.settings = {"ClusterName": "c", "MaxArraySize": 1001, "MaxJobCount": 10_000, **settings}
        self.number = 100
        self.refuse = ""
        self.most: int | None = None
        """MaxSubmitJobs of the association, and how many jobs it has."""
        self.held = 0
        self.lose_answer = False
        self.jobs: dict[str, str] = {}
        self.shell = Recorder({"scontrol": self.scontrol, "sbatch": self.sbatch, "squeue": self.squeue})

    def scontrol(self, argv: Sequence[str]) -> Result:
        text = "".join(f"{name} = {value}\n" for name, value in self.settings.items())
        return Result(tuple(argv), 0, f"{text}MessageTimeout = 0 sec\n", "")

    def sbatch(self, argv: Sequence[str]) -> Result:
        if self.refuse:
            return Result(tuple(argv), 1, "", f"sbatch: error: {self.refuse}\n")
        tasks = next(int(word.partition("-")[2].partition("%")[0]) + 1 for word in [argv[2].partition("=")[2]])
        if self.most is not None and self.held + tasks > self.most:
            return Result(tuple(argv), 1, "", "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job ...\n")
        self.held += tasks
        self.number += 1
        self.jobs[argv[-1]] = str(self.number)
        if self.lose_answer:
            raise KeyboardInterrupt
        return Result(tuple(argv), 0, f"{self.number}\n", "")

    def squeue(self, argv: Sequence[str]) -> Result:
        lines = [f"{job}_[0-9]|{token}|many|x {token}" for token, job in self.jobs.items()]
        return Result(tuple(argv), 0, "\n".join(lines) + "\n", "")

    @property
    def submitted(self) -> list[tuple[str, ...]]:
        return [argv for argv in self.shell.asked if argv[0] == "sbatch"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    user = user_of(tmp_path)
    (tmp_path / "count.py").write_text("pass\n")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("srun", "sbatch"):
        (programs / name).write_text("#!/bin/sh\nexit 1\n")
        (programs / name).chmod(0o755)
    for name, value in user.environ.items():
        if name.startswith("LAUNCHER"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{programs}:{user.environ['PATH']}")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def runs_of(place: Path, slurm: Slurm, points: int, **options: object) -> tuple[SlurmRuns, list[PointRun]]:
    (place / "many.toml").write_text(FILE.replace("{values}", str([*range(points // 2)])))
    sweep = load_sweep(place / "many.toml")
    directory = SweepDirectory(place / "runs/many")
    record = directory.create({"name": "many"}, {})
    runs = SlurmRuns(directory, sweep.definition, record["id"], Silent(), shell=slurm.shell, **options)  # type: ignore[arg-type]
    return runs, [PointRun(point) for point in grid(sweep.definition.axes)]


def arrays(place: Path) -> list[Array]:
    return [Array.read(path) for path in sorted((place / "runs/many/sweep/arrays").glob("[0-9]*"))]


def events(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]


def test_points_of_one_shape_are_one_array(place: Path) -> None:
    slurm = Slurm()
    runs, samples = runs_of(place, slurm, 10)
    assert runs.start(samples) == {}
    assert [argv[0] for argv in slurm.shell.asked] == ["scontrol", "sbatch", "sbatch"], "limits are asked once"
    assert ["--array=0-4" in argv for argv in slurm.submitted] == [True] * 2
    assert runs.shapes == 2
    for array in arrays(place):
        job = array.submission()
        assert isinstance(job, Submission)
        for index, (run, token) in enumerate(zip(array.runs, array.tokens, strict=True)):
            intent, submitted = events(run)
            assert (intent["event"], intent["array"], intent["index"]) == ("submit_intent", array.token, index)
            assert (submitted["event"], submitted["token"]) == ("submitted", token)
            assert submitted["job"] == f"{job.job}_{index}"
            assert json.loads((run / "plan.json").read_text())["token"] == token
            assert (array.path / str(index)).resolve() == run
        script = (array.path / "array.sh").read_text()
        assert f"#SBATCH --output={array.path}/%a/sbatch.log" in script
        assert "--comment=" not in script
        assert re.search(r"^#SBATCH --nodes=[12]$", script, re.MULTILINE)
    assert runs.start(samples) == {}
    assert len(slurm.submitted) == 2, "nothing is submitted twice"
    inodes = {path.stat().st_ino for path in place.glob("runs/many/*/code/count.py")}
    inodes |= {path.stat().st_ino for path in place.glob("runs/many/*/code/entrypoint.py")}
    assert len(inodes) == 1, "one copy of the code"


def test_arrays_are_as_large_as_slurm_takes(place: Path) -> None:
    slurm = Slurm(MaxArraySize=3)
    runs, samples = runs_of(place, slurm, 14)
    runs.start(samples)
    assert sorted(len(array.runs) for array in arrays(place)) == [1, 1, 3, 3, 3, 3]


def test_no_more_runs_than_slurm_keeps(place: Path) -> None:
    slurm = Slurm(MaxJobCount=6)
    runs, samples = runs_of(place, slurm, 10)
    runs.start(samples)
    assert sum(len(array.runs) for array in arrays(place)) == 6
    again, _ = runs_of(place, slurm, 10)
    again.start(samples)
    assert sum(len(array.runs) for array in arrays(place)) == 10


def test_an_array_above_what_one_user_may_submit_is_split_and_the_rest_waits(place: Path) -> None:
    slurm = Slurm()
    slurm.most = 7
    runs, samples = runs_of(place, slurm, 20)
    assert runs.start(samples) == {}, "a point that waits is not refused"
    taken = [array for array in arrays(place) if array.submission() != "refused"]
    assert [len(array.runs) for array in taken] == [5]
    asked = len(slurm.submitted)
    # While none of them has ended, Slurm is not asked in vain.
    runs.start(samples)
    assert len(slurm.submitted) == asked
    # The limit may change; a new launcher asks for the others.
    slurm.most = 100
    again, _ = runs_of(place, slurm, 20)
    assert again.start(samples) == {}
    taken = [array for array in arrays(place) if array.submission() != "refused"]
    assert sorted(str(run) for array in taken for run in array.runs) == sorted(
        str(again.run_directory(sample).path) for sample in samples
    )
    assert again.start(samples) == {}
    assert slurm.held == 20, "each point once"


def test_a_user_who_may_submit_nothing_now_waits(place: Path) -> None:
    slurm = Slurm()
    slurm.most = 0
    runs, samples = runs_of(place, slurm, 4)
    assert runs.start(samples) == {}
    assert slurm.held == 0


@pytest.mark.parametrize(
    ("parallel", "sizes", "shares"),
    [
        (None, [5, 5], [None, None]),
        (4, [100], [4]),
        (4, [3, 3, 3], [2, 1, 1]),
        (4, [100, 1, 1], [2, 1, 1]),
        (10, [2, 3], [2, 3]),
        (2, [1, 1, 1], [1, 1, 1]),
        (6, [1, 9], [1, 5]),
    ],
)
def test_arrays_share_what_may_run(parallel: int | None, sizes: list[int], shares: list[int | None]) -> None:
    assert shared_out(parallel, sizes) == shares


def test_more_arrays_than_may_run_wait_for_each_other(place: Path) -> None:
    slurm = Slurm(MaxArraySize=2)
    runs, samples = runs_of(place, slurm, 8, max_parallel=2)
    runs.start(samples)
    waits = [[word for word in argv if word.startswith("--dependency")] for argv in slurm.submitted]
    assert waits == [[], [], ["--dependency=afterany:101"], ["--dependency=afterany:102"]]
    assert ["--array=0-1%1" in argv for argv in slurm.submitted] == [True] * 4


def test_what_slurm_refuses_is_a_refused_point_and_leaves_no_run(place: Path) -> None:
    slurm = Slurm()
    slurm.refuse = "Batch job submission failed: Requested node configuration is not available"
    runs, samples = runs_of(place, slurm, 4)
    refused = runs.start(samples)
    assert set(refused) == {sample.point.name for sample in samples}
    assert "node configuration is not available" in next(iter(refused.values()))
    assert not list(place.glob("runs/many/*/plan.json"))
    slurm.refuse = ""
    assert runs.start(samples) == {}
    assert len(list(place.glob("runs/many/*/plan.json"))) == 4


def test_a_controller_that_cannot_be_reached_has_not_refused(place: Path) -> None:
    slurm = Slurm()
    slurm.refuse = "Batch job submission failed: Unable to contact slurm controller (connect failure)"
    runs, samples = runs_of(place, slurm, 4)
    with pytest.raises(SlurmError):
        runs.start(samples)
    slurm.refuse = ""
    runs, _ = runs_of(place, slurm, 4)
    assert runs.start(samples) == {}
    runs_in_slurm = [run for array in arrays(place) if array.submission() != "refused" for run in array.runs]
    assert len(runs_in_slurm) == 4
    assert {events(run)[-1]["event"] for run in runs_in_slurm} == {"submitted"}
    assert len(slurm.submitted) == 3, "the one without a controller, and one for each shape"


def test_a_launcher_that_dies_before_the_answer_finds_its_array(place: Path) -> None:
    slurm = Slurm()
    runs, samples = runs_of(place, slurm, 4)
    slurm.lose_answer = True
    with pytest.raises(KeyboardInterrupt):
        runs.start(samples)
    slurm.lose_answer = False
    again, _ = runs_of(place, slurm, 4)
    assert again.start(samples) == {}
    assert len(slurm.submitted) == 2, "one for each shape"
    first = arrays(place)[0]
    assert first.submission() == Submission("101", "c")
    assert [event["job"] for event in (events(run)[-1] for run in first.runs)] == ["101_0", "101_1"]


def test_a_launcher_that_dies_after_the_answer_has_its_tasks_recorded(place: Path) -> None:
    slurm = Slurm()
    runs, samples = runs_of(place, slurm, 4)
    runs.start(samples)
    first = arrays(place)[0]
    journal = first.runs[1] / "journal.jsonl"
    journal.write_text(journal.read_text().splitlines(keepends=True)[0])
    again, _ = runs_of(place, slurm, 4)
    again.start([])
    assert [event["event"] for event in events(first.runs[0])] == ["submit_intent", "submitted"]
    assert [event.get("job") for event in events(first.runs[1])] == [None, "101_1"]
    assert len(slurm.submitted) == 2


def test_a_run_that_was_started_is_not_prepared_again(place: Path) -> None:
    slurm = Slurm()
    runs, samples = runs_of(place, slurm, 4)
    runs.start(samples)
    for path in sorted((place / "runs/many/sweep/arrays").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    again, _ = runs_of(place, slurm, 4)
    again.start(samples)
    assert len(slurm.submitted) == 2


def test_a_growing_run_is_read_on_from_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line is parsed once, one that is being written when it is whole; a file that was cut is read again."""
    parsed = list[str]()

    def counting(lines: Sequence[str]) -> list[dict[str, object]]:
        parsed.extend(lines)
        return list(parse_lines(lines))

    monkeypatch.setattr("launcher.sweep.measure.parse_lines", counting)
    run = RunDirectory(tmp_path)
    file = tmp_path / "attempts/000/metrics.jsonl"
    file.parent.mkdir(parents=True)
    measured = RunMeasure(run, StepWindow(2))
    assert measured() == {}
    lines = [json.dumps({"iteration": number, "seconds": float(number)}) for number in range(1, 10)]
    for number in range(1, 9):
        with file.open("a") as out:
            out.write(f"{lines[number - 1][4:]}\n{lines[number][:4]}" if number > 1 else f"{lines[0]}\n{lines[1][:4]}")
        found = measured()
        assert found == measure(run, StepWindow(2))
        assert len(parsed) == number
    file.write_text("".join(f"{line}\n" for line in lines[:4]))
    assert measured() == {"step_time_s": 3.5}
    other = tmp_path / "attempts/001/metrics.jsonl"
    other.parent.mkdir()
    other.write_text("".join(f"{line}\n" for line in lines[3:9]))
    assert measured() == measure(run, StepWindow(2)) == {"step_time_s": 6.5}
    # As CloudAI measures: the mean of the last steps, the newest of each iteration.
    assert measure(run, StepWindow(0, 4)) == {"step_time_s": 7.5}


def test_limits() -> None:
    assert QueueLimits.ask(Slurm().shell) == QueueLimits("c", 1001, 10_000)
    odd = Recorder({"scontrol": Result((), 0, "MaxArraySize = (null)\n", "")})
    assert QueueLimits.ask(odd) == QueueLimits(None, 1001, 10_000)


# ---- the command


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["sweep", *arguments])
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def test_a_dry_run_shows_every_point_and_why_some_are_impossible(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "s.toml").write_text(
        '[run]\nrecipe = "bridge:llama32_1b_pretrain_config"\ncluster = "virtual"\ngpus_per_node = 8\n'
        'check_config = false\nassignments = ["train.global_batch_size=64"]\n'
        '[axes.overrides]\n"train.micro_batch_size" = [1, 2, 3]\n"train.no_such_key" = [1]\n'
    )
    status, out, err = command(capsys, "s.toml", "--dry-run")
    assert status == 2
    assert "3 points, 3 impossible; nothing was started" in err
    (place / "s.toml").write_text((place / "s.toml").read_text().replace('"train.no_such_key" = [1]\n', ""))
    status, out, err = command(capsys, "s.toml", "--dry-run")
    assert status == 0
    assert "train.global_batch_size=64 is not a multiple of micro-batch size 3" in out
    assert [line.split()[1] for line in out.splitlines()] == ["ok", "ok", "impossible"]
    status, out, _ = command(capsys, "s.toml", "--dry-run", "--json")
    found = json.loads(out)
    assert [point["refused"] is None for point in found["points"]] == [True, True, False]
    assert found["shapes"] == 1
    assert not (place / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("none.toml",), "No such file"),
        (("status",), "no directory was given"),
        (("status", "."), "this is not the directory of a sweep"),
        (("best", "a", "b"), "only report shows several sweeps"),
        (("status", "a", "--dry-run"), "nothing is started"),
        (("status", "a", "--output", "x"), "only report writes a page"),
        (("s.toml", "runs"), "a sweep file says where its runs go"),
        (("s.toml", "--repeat", "auto"), "it has to be followed"),
        (("s.toml", "--repeat", "0"), "not a whole number of at least 1"),
    ],
)
def test_wrong_calls(place: Path, capsys: pytest.CaptureFixture[str], arguments: Sequence[str], words: str) -> None:
    (place / "s.toml").write_text(FILE.replace("{values}", "[1]"))
    try:
        status = main(["sweep", *arguments])
        text = capsys.readouterr().err
    except RequestError as error:
        status, text = error.exit_status, f"{error.where} {error.message} {error.hint}"
    assert status == 2
    assert words in text


def test_a_sweep_with_other_code_is_another_one(place: Path) -> None:
    from launcher.sweep.sweeps import _code

    (place / "many.toml").write_text(FILE.replace("{values}", "[1, 2]"))
    sweep = load_sweep(place / "many.toml")
    directory = SweepDirectory(place / "runs/many")
    directory.create({**sweep.fixed, **_code(sweep)}, {})
    (place / "small.py").write_text("def configure(text=None, other=None):\n    return 1\n")
    with pytest.raises(RequestError, match=r"code of .*small\.py was"):
        directory.create({**sweep.fixed, **_code(sweep)}, {})
