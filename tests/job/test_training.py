"""Real Megatron on CPU, in real processes: what a run writes, how it ends, and that it continues exactly."""

import json
import math
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.contract import checkpoints
from launcher.contract.paths import MANIFEST, RunPaths
from launcher.job.config import choices
from launcher.job.rank import read_rank
from tests.contract.written import check_written, compose_result
from tests.job.checkpoint_files import damaged
from tests.job.ranks import Ranks, Run, make_run, rank_environment, train
from tests.support.limits import seconds
from tests.support.warm import warm_python

pytestmark = [pytest.mark.megatron, pytest.mark.timeout(600)]

TWENTY = ("train.train_iters=20", "checkpoint.save_interval=10")

BROKEN = """
import os, signal
from vanilla_gpt_pretrain import configure as vanilla

def configure():
    cfg = vanilla()
    cfg.model.register_pre_wrap_hook(break_later)
    return cfg

def break_later(model):
    model[0].register_forward_pre_hook(third_call)
    return model

calls = 0

def third_call(*_):
    global calls
    calls += 1
    if calls == 3:
        {
            "0": lambda: None,
            "1": fail,
            "2": lambda: os._exit(7),
            "3": lambda: os.kill(os.getpid(), signal.SIGKILL),
        }[os.environ["RANK"]]()

def fail():
    raise ArithmeticError("the third call is one too many")
"""

STUCK_ABORT = """
import os, time, torch
from launcher.job import train
from vanilla_gpt_pretrain import configure as vanilla

train.ABORT_LIMIT_S = 3.0

def configure():
    cfg = vanilla()
    cfg.model.register_pre_wrap_hook(break_later)
    return cfg

def break_later(model):
    model[0].register_forward_pre_hook(third_call)
    return model

calls = 0

def third_call(*_):
    global calls
    calls += 1
    if calls == 3:
        torch.distributed.distributed_c10d._abort_process_group = lambda: time.sleep(600)
        raise ArithmeticError("the third call is one too many")
"""

AGREE = """
import sys

import torch

from launcher.job.errors import UserError
from launcher.job.model import loading

store, rank, text = sys.argv[1:]
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=2)
try:
    loading._agree(text, "cpu")
    print("agreed", flush=True)
except UserError:
    print("refused", flush=True)
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Twenty iterations on two ranks, without interruption."""
    run = make_run(tmp_path_factory.mktemp("runs") / "reference", overrides=TWENTY)
    train(run)
    return run


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same in three attempts: two are asked to stop, the first after signals that end programs by default."""
    run = make_run(tmp_path_factory.mktemp("runs") / "interrupted", overrides=TWENTY)
    with Ranks(run, 2) as ranks:
        # As in a job, where sbatch.sh learns what SIGTERM means: here that the job is being preempted.
        (run.attempt("000") / "start").write_text("nonce 1 -\n")
        ranks.wait_for(lambda: len(run.metrics()) >= 2)
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
            for process in ranks.processes:
                process.send_signal(number)
        ranks.wait_for(lambda: len(run.metrics()) >= 4)
        (run.attempt("000") / "stop").write_text("preempted\n")
        assert ranks.wait() == [0, 0], ranks.tails()
    with Ranks(run, 2, "001") as ranks:
        ranks.wait_for(lambda: bool(run.metrics("001")))
        (run.attempt("001") / "stop").write_text("enough\n")
        assert ranks.wait() == [0, 0], ranks.tails()
    train(run, attempt="002")
    return run


def test_a_run_finishes_and_each_rank_says_so(reference: Run) -> None:
    for rank in range(2):
        end = reference.end(rank)
        assert end["outcome"] == "finished"
        assert (end["rank"], end["iteration"], end["exception"], end["cause"]) == (rank, 20, None, None)


def test_the_loss_falls(reference: Run) -> None:
    losses = reference.losses()
    assert list(losses) == list(range(1, 21))
    assert losses[1] > 5
    assert losses[20] < losses[1] / 2


def test_a_line_of_metrics_is_complete_and_agrees_with_itself(reference: Run) -> None:
    for iteration, line in reference.metrics().items():
        assert line["train_iters"] == 20
        assert line["tokens"] == 16 * 64
        assert line["tokens_per_second"] == pytest.approx(line["tokens"] / line["seconds"])
        assert line["tflops_per_gpu"] > 0
        assert line["memory_bytes"] is None
        assert math.isfinite(line["grad_norm"])
        assert 0 < line["learning_rate"] <= 5e-3, iteration


def test_the_loss_is_the_one_that_bridge_logs(reference: Run) -> None:
    logged = [line for line in reference.log(1).splitlines() if "lm loss:" in line]
    values = [float(line.split("lm loss:")[1].split("|")[0]) for line in logged]
    assert values == [pytest.approx(loss, rel=1e-6) for loss in reference.losses().values()]


def test_the_timeline_has_the_phases_in_order(reference: Run) -> None:
    order = ["imports", "process_groups", "model", "train_start", "first_step", "save", "save", "end"]
    assert [event for event in reference.events() if event != "checksums"] == order
    lines = reference.lines("timeline.jsonl")
    assert [line["iteration"] for line in lines if line["event"] == "checksums"] == [10, 20]
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    assert all(line["seconds"] > 0 for line in lines)
    assert [line["iteration"] for line in lines if line["event"] == "save"] == [10, 20]
    assert {line["directory"] for line in lines if line["event"] == "save"} == {str(reference.path / "checkpoints")}


def test_everything_is_written_into_the_run_directory(reference: Run) -> None:
    assert sorted(path.name for path in reference.path.iterdir()) == [
        "argv.json",
        "attempts",
        "checkpoints",
        "code",
        "tensorboard",
    ]
    assert (reference.attempt() / "config.yaml").stat().st_size > 0
    assert (reference.attempt() / "environment.json").exists()
    assert any((reference.path / "tensorboard").iterdir())


def test_a_second_start_of_a_used_attempt_is_refused(reference: Run, tmp_path: Path) -> None:
    run = reference.copy(tmp_path / "again")
    shutil.rmtree(run.attempt() / "logs")
    before = run.metrics()
    train(run, expect=2)
    assert "was used already" in run.log(0)
    assert run.metrics() == before


def test_a_later_attempt_continues_exactly_from_the_newest_complete_checkpoint(reference: Run, tmp_path: Path) -> None:
    run = reference.copy(tmp_path / "resumed")
    # A save that was cut short: the tracker points to it, and a shard has lost its end.
    shard = run.path / "checkpoints" / "iter_0000020" / "__1_0.distcp"
    shard.write_bytes(shard.read_bytes()[:-1000])
    train(run, attempt="001")
    expected = {iteration: loss for iteration, loss in reference.losses().items() if iteration > 10}
    assert run.losses("001") == expected
    assert [
        line["iteration"] for line in run.lines("timeline.jsonl", "001") if line["event"] == "checkpoint_loaded"
    ] == [10]


def test_flipped_bytes_in_the_newest_checkpoint_are_found_and_the_older_one_is_loaded(
    reference: Run, tmp_path: Path
) -> None:
    run = reference.copy(tmp_path / "resumed")
    shard = run.path / "checkpoints" / "iter_0000020" / "__1_0.distcp"
    content = bytearray(shard.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
    shard.write_bytes(content)
    train(run, attempt="001", nodes=2)
    # Both checkpoints were verified by both nodes.
    answers = [run.attempt("001") / "sums" / f"iter_00000{step}.0001.json" for step in (20, 10)]
    assert [len(json.loads(path.read_text())["files"]) for path in answers] == [1, 1]
    assert run.losses("001") == {iteration: loss for iteration, loss in reference.losses().items() if iteration > 10}
    (verified,) = [line for line in run.lines("timeline.jsonl", "001") if line["event"] == "checkpoint_verified"]
    assert (verified["iteration"], verified["verification"]["state"]) == (10, "verified")
    (passed,) = verified["passed_over"]
    assert (passed["iteration"], passed["file"], passed["set_aside"]) == (20, "__1_0.distcp", True)
    assert "checkpoint 20 is set aside: __1_0.distcp is damaged" in run.log(0, "001")
    assert "Traceback" not in run.log(0, "001")
    # The save at the end wrote checkpoint 20 anew.
    assert not (run.path / "set-aside" / "iter_0000020.json").exists()
    sums = run.path / "checkpoints" / "iter_0000020" / "launcher-manifest.json"
    assert sums.stat().st_mtime > shard.stat().st_mtime


def test_no_damage_in_a_file_of_a_real_checkpoint_is_loaded(
    reference: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)
    run = reference.copy(tmp_path / "resumed")
    directory, numbers = run.path / "checkpoints", random.Random(7)  # noqa: S311 - places of damage
    newest = directory / "iter_0000020"
    files = [path for path in sorted(newest.iterdir()) if path.is_file()]
    assert {"__0_0.distcp", "__1_0.distcp", ".metadata", "metadata.json", "train_state.pt", MANIFEST} <= {
        path.name for path in files
    }
    rank = read_rank(rank_environment(run.path, 0, 2, "001"))
    for path in (*files, *(directory / name for name in checkpoints.TRACKERS)):
        content = path.read_bytes()
        for number in range(40):
            kind, place = ("flip", "cut", "zeros")[number % 3], numbers.randrange(len(content))
            path.write_bytes(damaged(content, kind, place, numbers.randrange(8)))
            choice = choices.resumed(rank, directory, None, "torch_dist", "full")
            # Bridge reads no tracker where it is given the iteration.
            expected = 10 if path in files else 20
            assert choice["ckpt_step"] == expected, f"{kind} of {path.name} at byte {place}"
            rank.run_paths.set_aside(20).unlink(missing_ok=True)
        path.write_bytes(content)
    assert choices.resumed(rank, directory, None, "torch_dist", "full")["ckpt_step"] == 20


def test_damage_that_only_the_load_finds_ends_the_attempt_and_the_next_takes_the_older_checkpoint(
    reference: Run, tmp_path: Path
) -> None:
    run = reference.copy(tmp_path / "resumed")
    newest = run.path / "checkpoints" / "iter_0000020"
    # Without a manifest no sum shows it, and the structure is whole: an item has lost the directory of its archive.
    (newest / "launcher-manifest.json").unlink()
    shard = newest / "__1_0.distcp"
    shard.write_bytes(shard.read_bytes()[:-60] + b"\x01" * 60)
    train(run, attempt="001", expect=None)
    end = next(end for rank in (0, 1) if "cannot be loaded" in (end := run.end(rank, "001"))["exception"]["message"])
    assert end["outcome"] == "failed"
    assert "unverified: no sums were recorded" in run.log(0, "001")
    marker = json.loads((run.path / "set-aside" / "iter_0000020.json").read_text())
    assert (marker["iteration"], marker["file"]) == (20, "iter_0000020")
    assert "could not be loaded" in marker["reason"]
    train(run, attempt="002")
    assert run.losses("002") == {iteration: loss for iteration, loss in reference.losses().items() if iteration > 10}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 10 MiB: one checkpoint of the reference fits, two do not."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", str(path)], check=False)
    if mounted.returncode:
        pytest.skip("this user cannot mount a file system")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_save_that_does_not_fit_is_said_and_the_last_good_checkpoint_stays(
    reference: Run, tmp_path: Path, small_disk: Path
) -> None:
    overrides = [*TWENTY, f"checkpoint.save={small_disk}", "checkpoint.most_recent_k=1"]
    run = make_run(tmp_path / "run", overrides=overrides)
    train(run, expect=None)
    assert [run.end(rank)["outcome"] for rank in range(2)] == ["failed", "failed"]
    assert "the save of iteration 20 needs about" in run.log(0)
    assert "left: it cannot fit; checkpoint 10 stays" in run.log(0)
    assert checkpoints.newest_complete(small_disk) == 10
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)
    train(run, attempt="001")
    assert run.losses("001") == {iteration: loss for iteration, loss in reference.losses().items() if iteration > 10}


def test_a_failure_is_recorded_before_process_groups_are_aborted_which_may_never_return(tmp_path: Path) -> None:
    """As NCCL does after NaN in a gradient: the rank ends all the same, and its error is not taken for a hang."""
    one_call_a_step = "train.global_batch_size=2"
    run = make_run(tmp_path / "run", "stuck.py", [*TWENTY, one_call_a_step], files={"stuck.py": STUCK_ABORT})
    train(run, expect=None)
    for rank in range(2):
        end = run.end(rank)
        assert (end["outcome"], end["iteration"], end["exception"]["type"]) == ("failed", 2, "ArithmeticError")
        assert "were not aborted within 3 s" in run.log(rank)
        assert run.log(rank).count(f"error: rank {rank}: ArithmeticError") == 1


def test_ranks_that_would_load_different_checkpoints_are_refused(tmp_path: Path) -> None:
    program = tmp_path / "agree.py"
    program.write_text(AGREE)
    for second, expected in (("/a 20", "agreed"), ("/a 10", "refused")):
        store = tmp_path / expected
        ranks = [
            subprocess.Popen(
                [warm_python(), str(program), str(store), str(rank), text], stdout=subprocess.PIPE, text=True
            )
            for rank, text in enumerate(("/a 20", second))
        ]
        assert [rank.communicate(timeout=seconds(60))[0] for rank in ranks] == [f"{expected}\n"] * 2


def test_sigterm_stops_all_ranks_after_saving(interrupted: Run) -> None:
    ends = [interrupted.end(rank) for rank in range(2)]
    assert {(end["outcome"], end["reason"]) for end in ends} == {("stopped", "preempted")}
    iteration = ends[0]["iteration"]
    assert 4 <= iteration < 20
    assert list(interrupted.losses()) == list(range(1, iteration + 1))
    assert "Pretrain failed" not in interrupted.log(0), "a stop that was asked for is not an error"


def test_the_stop_file_stops_all_ranks_after_saving(interrupted: Run) -> None:
    ends = [interrupted.end(rank, "001") for rank in range(2)]
    assert {(end["outcome"], end["reason"]) for end in ends} == {("stopped", "requested")}
    assert "stop_requested" in interrupted.events("001")


def test_the_three_attempts_together_equal_the_uninterrupted_run(interrupted: Run, reference: Run) -> None:
    together: dict[int, float] = {}
    for attempt in ("000", "001", "002"):
        losses = interrupted.losses(attempt)
        assert not together.keys() & losses.keys(), "no iteration is done twice"
        together |= losses
    assert together == reference.losses()


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        ("vanilla_gpt_pretrain.py", ["model.tensor_model_parallel_size=2"]),
        ("vanilla_gpt_pretrain.py", ["model.tensor_model_parallel_size=2", "model.sequence_parallel=true"]),
        ("qwen3_moe_pretrain.py", ["model.expert_model_parallel_size=2"]),
    ],
    ids=["tensor parallel", "tensor and sequence parallel", "expert parallel"],
)
def test_two_ranks_share_one_model(tmp_path: Path, recipe: str, overrides: list[str]) -> None:
    run = make_run(tmp_path / "run", recipe, [*overrides, "train.train_iters=8", "checkpoint.save_interval=0"])
    train(run)
    losses = run.losses()
    assert list(losses) == list(range(1, 9))
    assert losses[8] < losses[1] - 1


def test_pipeline_and_data_parallel_on_four_ranks(tmp_path: Path) -> None:
    overrides = ["model.pipeline_model_parallel_size=2", "train.train_iters=6", "checkpoint.save_interval=0"]
    run = make_run(tmp_path / "run", overrides=overrides)
    train(run, 4)
    losses = run.losses()
    assert list(losses) == list(range(1, 7)), "the loss is known on the last stage only, and one rank of it writes"
    assert losses[6] < losses[1] - 0.5


def test_ranks_that_raise_leave_exit_or_are_killed(tmp_path: Path) -> None:
    # One micro-batch an iteration, so that the third call is in the third one.
    overrides = ["checkpoint.save_interval=0", "train.global_batch_size=8", "train.micro_batch_size=2"]
    run = make_run(tmp_path / "run", "broken.py", overrides, files={"broken.py": BROKEN})
    statuses = train(run, 4, expect=None)
    assert statuses == [1, 1, 7, -signal.SIGKILL]
    raised = run.end(1)
    assert (raised["outcome"], raised["cause"], raised["iteration"]) == ("failed", "program", 2)
    assert raised["exception"]["type"] == "ArithmeticError"
    assert raised["exception"]["message"] == "the third call is one too many"
    assert raised["exception"]["where"] == f"recipe/broken.py:{BROKEN.splitlines().index('def fail():') + 2} in fail"
    assert run.end(0)["cause"] == "communication", run.end(0)
    (ends,) = (run.attempt() / "ranks").iterdir()
    ranks = {json.loads(line)["rank"] for line in ends.read_text().splitlines() if line}
    assert (ends.name, ranks) == ("node-0000.jsonl", {0, 1})


def test_a_wrong_request_ends_before_training_with_one_sentence(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", overrides=["model.context_parallel_size=2"])
    train(run, 1, expect=2)
    end = run.end(0)
    assert (end["outcome"], end["cause"]) == ("failed", "user")
    assert "context_parallel_size=2 does not run on CPU" in end["exception"]["message"]
    assert "Traceback" not in run.log(0)
    assert compose_result(run, world_size=1) == "failed"
    assert check_written(RunPaths(run.path))["record of a rank"] == 1
