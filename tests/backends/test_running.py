"""What a run looks like to its user: progress, Ctrl-C, failures, resuming. The toy program trains."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher._util.processes import members_for
from launcher.contract.process import group_of
from tests.backends.running import LAUNCHER, ROOT, TOY, User, user_of
from tests.support.limits import seconds
from tests.support.slurm.virtual_cluster import VirtualCluster

LOCAL = ("--cluster", "local", "--gpus-per-node", "2", "--entrypoint", TOY)
BATCH = ("--nodes", "2", "--entrypoint", TOY, "--json")


@pytest.fixture
def alone(tmp_path: Path) -> User:
    return user_of(tmp_path)


@pytest.fixture
def user(tmp_path: Path, slurm_cluster: VirtualCluster) -> User:
    return user_of(tmp_path, slurm_cluster)


def losses(run: Path, attempt: str = "000") -> dict[int, float]:
    lines = (run / "attempts" / attempt / "metrics.jsonl").read_text().splitlines()
    return {entry["iteration"]: entry["loss"] for entry in map(json.loads, lines)}


def until(true: Callable[[], Any], timeout_s: float = 30) -> None:
    end = time.monotonic() + seconds(timeout_s)
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


def started(user: User, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [str(LAUNCHER), *arguments],
        cwd=user.directory,
        env=user.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_run_shows_its_progress_and_its_outcome(alone: User) -> None:
    done = alone.run("run", "small.py", *LOCAL, "toy.iters=4", "--json")
    answer = json.loads(done.stdout)
    assert (answer["outcome"], answer["iteration"], answer["train_iters"]) == ("finished", 4, 4)
    assert "iteration 4/4" in done.stderr
    assert "\033[" not in done.stderr  # no colours off a terminal
    assert f"run directory: {answer['run_dir']}" in done.stderr


@pytest.mark.parametrize("where", ["local", "batch"])
def test_a_loss_of_nan_is_not_a_success(user: User, where: str) -> None:
    nan = ("toy.iters=6", "toy.nan_from=4", "--name", "nan")
    if where == "local":
        done = user.run("run", "small.py", *LOCAL, *nan, "--json", status=1)
    else:
        done = user.run("submit", "small.py", *BATCH, *nan, "--follow", status=1)
    answer = json.loads(done.stdout)
    assert (answer["outcome"], answer["diverged_at"], answer["loss"]) == ("diverged", 4, None)
    assert "diverged (the loss was not finite from iteration 4 on): iteration 6 of 6" in done.stderr
    (status,) = json.loads(user.run("status", "nan", "--json").stdout)["runs"]
    assert (status["phase"], status["loss"]) == ("diverged", None)


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("raise", "ValueError: asked to fail"),
        ("exit", "ended with status 7 without a record"),
        ("kill", "killed by signal 9 (SIGKILL)"),
    ],
)
@pytest.mark.parametrize("where", ["local", "batch"])
def test_the_first_failing_rank_is_named(
    user: User, slurm_cluster: VirtualCluster, where: str, how: str, what: str
) -> None:
    failing = ("toy.iters=400", "toy.fail_rank=1", f"toy.fail_how={how}")
    if where == "local":
        answer = json.loads(user.run("run", "small.py", *LOCAL, *failing, "--json", status=1).stdout)
    else:
        job = json.loads(user.run("submit", "small.py", *BATCH, *failing).stdout)
        assert slurm_cluster.wait(job["job"], "FAILED", "COMPLETED") == "FAILED"
        answer = json.loads((Path(job["run_dir"]) / "attempts/000/result.json").read_text())
    assert answer["outcome"] == "failed"
    assert (answer["first_failing_rank"]["rank"], answer["first_failing_rank"]["what"]) == (1, what)


def test_a_wrong_request_that_only_the_job_finds_is_one_sentence(alone: User) -> None:
    wrong = ("toy.fail_rank=1", "toy.fail_how=user")
    done = alone.run("run", "small.py", *LOCAL, *wrong, status=1)
    assert "error: toy.py:1 in step 3: asked to fail" in done.stderr
    assert done.stderr.count("asked to fail") == 1


def test_ctrl_c_saves_and_stops_and_resume_goes_on_with_the_same_losses(alone: User) -> None:
    whole = Path(json.loads(alone.run("run", "small.py", *LOCAL, "toy.iters=60", "--json").stdout)["run_dir"])
    run = started(alone, "run", "small.py", *LOCAL, "toy.iters=60", "toy.seconds=0.1", "--json")
    until(lambda: len(alone.runs()) == 2 and (alone.runs()[-1] / "attempts/000/metrics.jsonl").exists())
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=seconds(60))
    answer = json.loads(out)
    assert (run.returncode, answer["outcome"], answer["reason"]) == (1, "stopped", "requested")
    assert "Ctrl-C again" in err
    interrupted = Path(answer["run_dir"])
    alone.run("run", "--resume", interrupted.name, "toy.seconds=0.01")
    before, after = losses(interrupted), losses(interrupted, "001")
    assert 0 < len(before) < 60
    assert {**before, **after} == losses(whole)
    assert min(after) == max(before) + 1
    # Both attempts' requests are on record, the code is the first one's.
    assert "toy.seconds=0.1" in (interrupted / "attempts/000/argv.json").read_text()
    assert "toy.seconds=0.01" in (interrupted / "argv.json").read_text()


@pytest.mark.parametrize("killed", ["launcher", "launcher and rank 0"])
def test_ranks_that_outlive_their_launcher_are_seen_and_ended_and_no_second_training_begins(
    alone: User, killed: str
) -> None:
    launcher = started(alone, "run", "small.py", *LOCAL, "toy.iters=900", "toy.seconds=0.1", "+toy.save_every=9")
    until(lambda: alone.runs() and any(alone.runs()[0].glob("checkpoints/iter_*")))
    run = alone.runs()[0]
    begun = json.loads((run / "journal.jsonl").read_text().splitlines()[-1])
    assert begun["event"] == "launched"
    launcher.kill()
    launcher.communicate()
    if killed != "launcher":
        os.kill(begun["group"], signal.SIGKILL)  # the step.sh of rank 0, which has given the group its number
    until(lambda: group_of(begun["group"]) is None or killed == "launcher")
    assert len(members_for(run, begun["group"], begun["group_start_ticks"])) >= 2

    (status,) = json.loads(alone.run("status", run.name, "--json").stdout)["runs"]
    assert (status["phase"], status["over"]) == ("running", False)
    assert "its launcher has ended, but" in status["detail"]
    assert "live on; `launcher cancel` ends them" in status["detail"]
    refused = alone.run("run", "--resume", run.name, status=2).stderr
    assert "the run is running" in refused
    assert "live on" in refused
    assert "processes of it are alive" in alone.run("rm", run.name, status=None).stderr
    assert not (run / "attempts/001").exists()

    alone.run("cancel", run.name)
    assert members_for(run, begun["group"], begun["group_start_ticks"]) == []
    (status,) = json.loads(alone.run("status", run.name, "--json").stdout)["runs"]
    assert (status["phase"], status["over"]) == ("cancelled", True)
    if killed != "launcher":
        return
    done = losses(run)
    alone.run("run", "--resume", run.name, "toy.seconds=0.001", "toy.iters=300")
    assert set(losses(run, "001")) | set(done) == set(range(1, 301))


def test_ranks_that_outlive_their_launcher_may_finish(alone: User) -> None:
    launcher = started(alone, "run", "small.py", *LOCAL, "toy.iters=30", "toy.seconds=0.05")
    until(lambda: alone.runs() and (alone.runs()[0] / "attempts/000/metrics.jsonl").exists())
    launcher.kill()
    launcher.communicate()

    def status() -> dict[str, Any]:
        return dict(json.loads(alone.run("status", "small", "--json").stdout)["runs"][0])

    until(lambda: status()["over"])
    assert (status()["phase"], status()["iteration"]) == ("finished", 30)


def test_a_run_that_goes_on_or_has_saved_nothing_cannot_be_resumed(user: User, slurm_cluster: VirtualCluster) -> None:
    answer = json.loads(user.run("submit", "small.py", *BATCH, "toy.iters=600", "toy.seconds=0.1").stdout)
    until(lambda: (Path(answer["run_dir"]) / "attempts/000/metrics.jsonl").exists())
    refused = user.run("submit", "--resume", "small", status=2).stderr
    assert "the run is running" in refused
    assert "launcher cancel --checkpoint" in refused
    user.run("cancel", "small")
    slurm_cluster.wait(answer["job"], "CANCELLED")
    user.run("run", "small.py", *LOCAL, "toy.fail_rank=0", "toy.fail_step=1", "--name", "short", status=1)
    refused = user.run("run", "--resume", "short", "--cluster", "local", status=2).stderr
    assert "has saved no checkpoint" in refused


def test_a_run_is_not_resumed_with_sizes_that_its_checkpoint_cannot_be_loaded_with(alone: User) -> None:
    alone.run("run", "small.py", *LOCAL, "toy.fail_rank=0", "toy.fail_step=8", "toy.iters=9", status=1)
    newest = max(alone.runs()[-1].glob("checkpoints/iter_*"))
    # As Bridge 0.6.2 writes it after a run with TP 2.
    (newest / "run_config.yaml").write_text(
        "checkpoint:\n  dist_ckpt_optim_fully_reshardable: false\n  save_optim: true\n"
        "model:\n  tensor_model_parallel_size: 2\noptimizer:\n  use_distributed_optimizer: true\n"
    )
    other = "model.tensor_model_parallel_size=1"
    refused = alone.run("run", "--resume", "small", other, status=2).stderr
    assert "was saved with TP 2, and this run has TP 1" in refused
    assert len(list(alone.runs()[-1].glob("attempts/*"))) == 1
    alone.run("run", "--resume", "small", other, "checkpoint.load_optim=false", "toy.fail_rank=9")


def test_runs_are_looked_for_where_the_profile_puts_them(alone: User) -> None:
    profile = 'scheduler = "local"\ndevice = "cpu"\nrun_root = "$HERE/elsewhere"\n'
    (alone.directory / "clusters/mine.toml").write_text(profile)
    mine = {"LAUNCHER_CLUSTER": "mine", "HERE": str(alone.directory)}
    failing = ("toy.fail_rank=0", "toy.fail_step=8", "toy.iters=9")
    alone.run("run", "small.py", "--gpus-per-node", "1", "--entrypoint", TOY, *failing, environ=mine, status=1)
    assert [path.name for path in (alone.directory / "elsewhere").glob("[!.]*")] == ["small"]
    assert json.loads(alone.run("status", "--json", environ=mine).stdout)["runs"][0]["name"] == "small"
    alone.run("run", "--resume", "small", "toy.fail_rank=9", environ=mine)
    assert "iteration 9/9" in alone.run("logs", "small", environ=mine).stdout


@pytest.mark.slow
def test_a_second_ctrl_c_ends_the_step(alone: User) -> None:
    hanging = ("toy.iters=400", "toy.fail_rank=0", "toy.fail_step=1", "toy.fail_how=hang")
    run = started(alone, "run", "small.py", *LOCAL, *hanging)
    until(lambda: alone.runs() and list(alone.runs()[0].glob("attempts/000/ranks/*.seen.json")))
    run.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert run.poll() is None
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=seconds(60))
    assert run.returncode == 1
    leftover = [line for line in Path("/proc").glob("[0-9]*/cmdline") if str(alone.directory).encode() in _read(line)]
    assert leftover == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_following_a_job_and_leaving_it_alone(user: User, slurm_cluster: VirtualCluster) -> None:
    done = user.run("submit", "small.py", *BATCH, "--follow", "toy.iters=10")
    assert json.loads(done.stdout)["outcome"] == "finished"
    run = started(user, "submit", "small.py", *BATCH, "--follow", "toy.iters=60", "toy.seconds=0.1")
    until(lambda: len(user.runs()) == 2 and (user.runs()[-1] / "attempts/000/metrics.jsonl").exists())
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=seconds(30))
    answer = json.loads(out)
    assert (run.returncode, answer["outcome"]) == (0, "running")
    assert "goes on" in err
    assert slurm_cluster.state(answer["job"]) == "RUNNING"
    user.run("cancel", answer["run_id"], "--checkpoint")
    slurm_cluster.wait(answer["job"], "FAILED", "COMPLETED")
    status = json.loads(user.run("status", answer["run_id"], "--json").stdout)["runs"][0]
    assert (status["phase"], status["outcome"]) == ("stopped", "stopped")


def test_status_logs_and_cancel(user: User, slurm_cluster: VirtualCluster) -> None:
    answer = json.loads(user.run("submit", "small.py", *BATCH, "toy.iters=600", "toy.seconds=0.1").stdout)
    until(lambda: (Path(answer["run_dir"]) / "attempts/000/metrics.jsonl").exists())
    table = user.run("status").stdout
    assert answer["run_id"] in table
    assert "running" in table
    assert "iteration 1/600" in user.run("logs", "small").stdout
    assert user.run("logs", "small", "--rank", "9", status=2).stderr
    user.run("cancel", "small")
    slurm_cluster.wait(answer["job"], "CANCELLED")
    assert json.loads(user.run("status", "small", "--json").stdout)["runs"][0]["phase"] == "cancelled"


def test_on_a_terminal_progress_is_a_bar(alone: User) -> None:
    program = f"import pty, sys; sys.exit(pty.spawn([{str(LAUNCHER)!r}, *sys.argv[1:]]) >> 8)"
    arguments = ["run", "small.py", *LOCAL, "toy.iters=8", "toy.seconds=0.2"]
    done = alone.call([sys.executable, "-c", program, *arguments], environ={"TERM": "xterm"})
    assert "8/8" in done.stdout
    assert "\033[" in done.stdout
    assert "finished" in done.stdout


def test_help_of_every_command_and_python_m(alone: User) -> None:
    overview = alone.run("--help").stdout
    for verb in ("run", "submit", "plan", "status", "logs", "cancel", "recipes", "clusters"):
        assert f"  {verb} " in overview
        assert "usage: launcher" in alone.run(verb, "--help").stdout
    assert alone.call([sys.executable, "-m", "launcher", "--version"]).stdout.startswith("megatron-launcher")
    assert "vanilla_gpt_pretrain" in alone.run("recipes").stdout
    assert "virtual" in alone.run("clusters").stdout


def test_a_plan_writes_nothing_and_a_dry_run_is_one(user: User) -> None:
    before = sorted(user.directory.rglob("*"))
    plan = user.run("plan", "small.py", "--for", "submit", "--nodes", "2", "--script", "--entrypoint", TOY).stdout
    dry = user.run("submit", "small.py", "--nodes", "2", "--dry-run", "--entrypoint", TOY).stdout
    assert "#SBATCH --nodes=2" in plan
    assert [line for line in dry.splitlines() if "srun" in line]
    as_json = json.loads(user.run("plan", "small.py", "--json", "--entrypoint", TOY).stdout)
    assert as_json["plan"]["backend"] == "batch"
    assert set(as_json["scripts"]) == {"step.sh", "sbatch.sh"}
    assert sorted(user.directory.rglob("*")) == before


def test_srun_sh_runs_a_recipe_in_an_allocation(user: User) -> None:
    script = str(ROOT / "srun.sh")
    argv = ["salloc", "-N2", "--ntasks-per-node=2", script, "small.py", "--entrypoint", TOY, "toy.iters=3"]
    user.call(argv, environ={"GPUS_PER_NODE": "2"})
    (run,) = user.runs()
    assert len(user.seen(run)) == 4
    argv = ["salloc", "-N1", script, "small.py", "--entrypoint", TOY, "--runtime", "pyxis"]
    assert "no image" in user.call(argv, status=2, environ={"SQSH": "nowhere.sqsh"}).stderr


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("launcher su", ["submit"]),
        ("launcher run --clus", ["--cluster"]),
        ("launcher run --cluster lo", ["local"]),
        ("launcher run small.py train.train_it", ["train.train_iters="]),
        ("launcher run small.py profil", ["profiling."]),
        ("launcher run bridge:vanilla_gpt_pretrain_1", ["bridge:vanilla_gpt_pretrain_1gpu_h100_bf16_config"]),
    ],
)
def test_completion(alone: User, line: str, offered: list[str]) -> None:
    asked = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9", "_ARGCOMPLETE": "1"}
    asked["_ARGCOMPLETE_IFS"] = "\n"
    done = alone.call(["bash", "-c", f"{LAUNCHER} 8>&1 9>/dev/null 1>/dev/null"], environ=asked)
    assert [word.strip() for word in done.stdout.split("\n") if word.strip()] == offered
