"""Real Megatron on a real Slurm, profiled by one switch: traces of exactly the ranks and steps that were asked for."""

import gzip
import json
from pathlib import Path

import pytest

from tests.backends.running import ROOT, User, user_of
from tests.support.slurm.virtual_cluster import VirtualCluster
from tests.support.warm import warm_python

VANILLA = str(ROOT / "recipes/vanilla_gpt_pretrain.py")
SHORT = ("train.train_iters=5", "checkpoint.save=null")
MINE = """
import time

class Clock:
    extension = "json"
    def __init__(self): self.times = []
    def start(self): self.times.append(time.time())
    def stop(self): self.times.append(time.time())
    def save(self, path): path.write_text(str(self.times))
"""

pytestmark = [pytest.mark.megatron, pytest.mark.timeout(900)]


@pytest.fixture
def user(tmp_path: Path, slurm_cluster: VirtualCluster) -> User:
    return user_of(tmp_path, slurm_cluster)


def submitted(user: User, cluster: VirtualCluster, *arguments: str, nodes: int = 2, ranks: int = 1) -> tuple[str, Path]:
    """Train as a batch job to its end; the job's number and the run's directory."""
    asked = (
        VANILLA,
        *SHORT,
        *arguments,
        "-N",
        str(nodes),
        "--gpus-per-node",
        str(ranks),
        "--json",
        "--no-check-config",
        "--python",
        warm_python(),
    )
    answer = json.loads(user.run("submit", *asked).stdout)
    state = cluster.wait(answer["job"], "COMPLETED", "FAILED", timeout_s=600)
    run = Path(answer["run_dir"])
    assert state == "COMPLETED", "".join(path.read_text()[-3000:] for path in run.glob("attempts/000/logs/*"))
    return answer["job"], run


def steps_of(path: Path) -> list[str]:
    with gzip.open(path) as file:
        names = [str(event["name"]) for event in json.load(file)["traceEvents"]]
    return sorted({" ".join(name.split()[:2]) for name in names if name.startswith("step ")})


def test_viztracer_on_the_first_rank_of_each_node(user: User, slurm_cluster: VirtualCluster) -> None:
    job, run = submitted(
        user, slurm_cluster, "--profiler", "viztracer", "--profile-steps", "2:4", "--profile-ranks", "nodes"
    )
    traces = sorted((run / "attempts/000/profiles").glob("*.json.gz"))
    assert [path.name for path in traces] == [
        f"viztracer_job{job}_attempt000_node{rank}_rank{rank}.json.gz" for rank in (0, 1)
    ]
    for path in traces:
        assert steps_of(path) == ["step 2", "step 3"]
    listed = json.loads(user.run("profiles", str(run), "--json").stdout)["profiles"]
    assert [(one["rank"], one["steps"], one["sound"], one["job"]) for one in listed] == [
        (rank, [2, 3], True, job) for rank in (0, 1)
    ]
    result = json.loads((run / "attempts/000/result.json").read_text())
    assert (result["outcome"], result["profiles"]["found"], result["profiles"]["missing"]) == ("finished", 2, [])
    traces[1].write_bytes(b"")
    said = user.run("profiles", str(run), status=1).stdout
    assert "attempt 000, rank 1: the file is empty" in said


@pytest.mark.soak
@pytest.mark.parametrize(
    ("asked", "rank"),
    [
        (("--profiler", "torch", "--profile-ranks", "1"), 1),
        (("profiling.use_pytorch_profiler=true", "profiling.profile_ranks=[1]"), 1),
        (("profiling.use_viztracer=true",), 0),
    ],
    ids=["torch by option", "torch by override", "viztracer by override"],
)
def test_the_other_ways_to_ask(user: User, slurm_cluster: VirtualCluster, asked: tuple[str, ...], rank: int) -> None:
    window = ("profiling.profile_step_start=1", "profiling.profile_step_end=3")
    _, run = submitted(user, slurm_cluster, *asked, *window, nodes=1, ranks=2)
    (trace,) = (run / "attempts/000/profiles").glob("*.gz")
    assert trace.name.endswith((f"_rank{rank}.json.gz", f"_rank{rank}.pt.trace.json.gz"))
    assert steps_of(trace) == ["step 1", "step 2"]
    assert user.run("profiles", str(run), "--summary").stdout.startswith("ATTEMPT")


@pytest.mark.soak
def test_a_profiler_of_ones_own_and_a_window_that_is_never_reached(user: User, slurm_cluster: VirtualCluster) -> None:
    (user.directory / "mine.py").write_text(MINE)
    _, run = submitted(user, slurm_cluster, "--profiler", "mine.py:Clock", "--profile-steps", "1:2", nodes=1)
    (report,) = (run / "attempts/000/profiles").glob("Clock_*_rank0.json")
    assert len(json.loads(report.read_text())) == 2
    asked = ("--profiler", "torch", "--profile-steps", "3:4", "train.exit_interval=2")
    answer = json.loads(
        user.run(
            *("submit", VANILLA, *SHORT, *asked, "--gpus-per-node", "1", "--json", "--no-check-config"),
            *("--python", warm_python()),
        ).stdout
    )
    slurm_cluster.wait(answer["job"], "COMPLETED", "FAILED", timeout_s=600)
    logs = user.run("logs", answer["run_dir"])
    assert "no sound torch report of rank 0: the rank ended before step 3: stopped at iteration 2" in logs.stderr


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("--nsys",), "CUDA starts the capture of nsys, and this run is on CPU"),
        (("--profiler", "torch", "--profile-steps", "4:6"), "the run ends at train.train_iters=5"),
        (
            ("--profiler", "torch", "--profile-steps", "1:2", "--profile-ranks", "2"),
            "names rank 2, but ranks are 0 to 1",
        ),
        (("--profiler", "none.py:Clock"), "there is no file 'none.py'"),
    ],
)
def test_a_wrong_use_is_refused_and_nothing_is_submitted(user: User, asked: tuple[str, ...], words: str) -> None:
    done = user.run("submit", VANILLA, *SHORT, *asked, "--gpus-per-node", "2", "--no-check-config", status=2)
    assert words in done.stderr
    assert not user.runs()
