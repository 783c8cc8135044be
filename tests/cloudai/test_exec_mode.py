"""Exec mode on a real Slurm, with a stand-in of our own for setup_experiment.py. Cost: about 60 s."""

import ast
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from launcher._util import toml
from launcher._util.shell import Result
from launcher.cloudai import exec_mode, exec_sbatch
from launcher.cloudai.exec_mode import ExecCase, without_secrets
from launcher.cloudai.exec_results import judge, read_steps
from launcher.slurm.queue import Job, State
from launcher.slurm.submit import Submission
from tests.backends.running import LAUNCHER, User
from tests.cloudai.test_gates import STAND_IN, hook
from tests.cloudai.test_running import ARGS, CANARY, KEY, TEST, files, user  # noqa: F401
from tests.faults.shims import put
from tests.support.recorder import Recorder
from tests.support.slurm.virtual_cluster import VirtualCluster

BRIDGE = {"url": "https://example.com/Megatron-Bridge.git", "commit": "v0.3.0"}
OLD = {**TEST, "git_repos": [BRIDGE], "extra_cmd_args": {"toy.iters": "4"}}


@pytest.fixture
def old(user: User) -> User:  # noqa: F811
    """The user with a clone of Bridge of before 0.6 whose script is a stand-in, and an environment of their own."""
    scripts = user.directory / "install/Megatron-Bridge__v0.3.0/scripts/performance"
    scripts.mkdir(parents=True)
    (scripts / "setup_experiment.py").write_text(Path(__file__).with_name("stand_in.py").read_text())
    python = user.directory / "install/Run__main-venv/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(Path(sys.executable).resolve())
    return user


def toy(**values: str) -> dict[str, Any]:
    """A test of before 0.6 whose stand-in gets these values."""
    return {**OLD, "name": "small", "extra_cmd_args": {f"toy.{key}": value for key, value in values.items()}}


def run(user: User, tests: list[dict[str, Any]], *definitions: dict[str, Any], status: int | None = 0) -> Any:  # noqa: F811
    """Run a scenario and return what the command says."""
    options = files(user, tests, *definitions)
    done = user.run("cloudai", "run", *options, "--json", timeout_s=240, status=status)
    return json.loads(done.stdout)


def of_user(cluster: VirtualCluster, user: User) -> list[str]:  # noqa: F811
    """The jobs of Slurm whose script lies below the user's directory."""
    lines = cluster.run("squeue", "-h", "--states=all", "-o", "%i|%o").stdout.splitlines()
    return [line.partition("|")[0] for line in lines if f"|{user.directory}/" in line]


def test_a_good_training_with_status_1_has_passed(old: User, slurm_cluster: VirtualCluster) -> None:
    """An order of tests, two iterations, a sweep; each case has one job, golden values are collected."""
    after = [{"type": "start_post_comp", "id": "twice"}]
    tests: list[dict[str, Any]] = [
        {"id": "twice", "test_name": "small", "iterations": 2},
        {"id": "behind", "test_name": "small", "dependencies": after},
        {"id": "swept", "test_name": "small", "cmd_args": {"mb": [1, 2, 4], "gb": 4}},
    ]
    answer = run(old, tests, OLD)
    cases = {one["name"]: one for one in answer["cases"]}
    assert {name: one["phase"] for name, one in cases.items()} == {
        **dict.fromkeys(("twice/0", "twice/1", "behind/0", "swept/0/1", "swept/0/2"), "finished"),
        "swept/0/3": "refused",
    }
    root = Path(answer["result_dir"])
    jobs = [one["job"] for one in cases.values() if one["job"]]
    assert sorted(jobs) == sorted(of_user(slurm_cluster, old))
    # Slurm keeps the order: each iteration waits for the one before, and the dependent test for both.
    ended = {name: (root / name / "ended").read_text() for name in ("twice/0", "twice/1", "behind/0")}
    began = {name: (root / name / "began").read_text() for name in ended}
    assert float(ended["twice/0"]) < float(began["twice/1"])
    assert max(float(ended["twice/0"]), float(ended["twice/1"])) < float(began["behind/0"])
    case = root / "twice/0"
    assert (case / "exec").is_dir()
    (status,) = case.glob("exec/status.*")
    assert status.read_text().strip() == "1"
    assert "4 of 4 iterations" in cases["twice/0"]["detail"]
    assert cases["twice/0"]["step_time_s"] == pytest.approx((1.51 + 1.52 + 1.53 + 1.54) / 4)
    assert cases["twice/0"]["tflops_per_gpu"] == pytest.approx((401 + 402 + 403 + 404) / 4)
    assert json.loads((case / "golden_values.json").read_text())["0"]["lm loss"] == 10.9
    assert "Convergence check failed" in (case / "cloudai_megatron_bridge_launcher.log").read_text()
    report = json.loads((case / "training_report.json").read_text())
    assert [step["loss"] for step in report["steps"]] == [10.9, 10.8, 10.7, 10.6]
    assert report["config"]["global_batch_size"] == 8
    assert toml.loads((case / "slurm-job.toml").read_text())["job_id"] == int(cases["twice/0"]["job"])
    assert (root / "swept/0/trajectory.csv").read_text().count("\n") == 3


def test_a_status_is_not_the_verdict(old: User) -> None:
    """Deaths at step 3 with status 0 everywhere, NaN, a failed job, and a script that ends without one."""
    wanted = {
        "dies": ({"die": "3", "status": "0", "ends": "0"}, "3 of 4 iterations"),
        "nan": ({"nan": "2", "ends": "0"}, "not a number at iteration 2"),
        "fails": ({"die": "3"}, "its job ended as FAILED; 3 of 4 iterations"),
        "broken": ({"broken": "yes"}, "ended without a job: AssertionError: asked to break"),
    }
    definitions = [{**toy(iters="4", **values), "name": name} for name, (values, _) in wanted.items()]
    cases = run(old, [{"id": name, "test_name": name} for name in wanted], *definitions, status=1)["cases"]
    for case in cases:
        assert case["phase"] == "failed"
        assert wanted[case["name"].partition("/")[0]][1] in case["detail"]


def test_secrets_reach_the_job_and_no_file(old: User, slurm_cluster: VirtualCluster) -> None:
    """A token and a key in the files: the job has the token, and neither a script, a log nor a command line has it."""
    test = {
        **OLD,
        "cmd_args": {**ARGS, "hf_token": CANARY, "wandb_key": KEY},
        "extra_env_vars": {"WHERE": "it's ${HOME}"},
    }
    answer = run(old, [{"id": "one", "test_name": "small"}], test)
    root = Path(answer["result_dir"])
    log = next(root.glob("one/0/experiments/**/log-*.out")).read_text()
    assert f"variable: it's {Path.home()} token of {len(CANARY)}" in log
    # What the script was called with arrives whole: a semicolon of one argument ends nothing.
    given = ast.literal_eval(next(line for line in log.splitlines() if "arguments:" in line).partition(": ")[2])
    assert given == json.loads((root / "one/0/exec/session.json").read_text())["arguments"]
    assert "gpus-per-node=2;gres=gpu:2" in given
    written = [path for path in old.directory.rglob("*") if path.is_file()]
    holders = [path for path in written if any(text.encode() in path.read_bytes() for text in (CANARY, KEY))]
    assert {path.name for path in holders} == {"0.toml"}, holders
    command = (root / "one/0/cloudai_generated_command.sh").read_text()
    assert "-hf env:HF_TOKEN" in command
    assert (
        "# HF_TOKEN: from the environment of sbatch" in next(root.glob("one/0/experiments/**/*_sbatch.sh")).read_text()
    )


def test_hooks_run_in_the_job_of_the_script(old: User, slurm_cluster: VirtualCluster) -> None:
    """pre_test on the nodes of the job before the training, and nothing is trained where it fails; post_test behind."""
    put(old, {"all_reduce_perf_mpi": STAND_IN})
    system = old.directory / "system.toml"
    system.write_text(f'mpi = "none"\n{system.read_text()}')

    def one(status: int, hooks: str, **values: str) -> dict[str, Any]:
        test = toy(iters="3", **values)
        test["cmd_args"] = {**ARGS, "num_gpus": 4}
        options = files(old, [{"id": "one", "test_name": "small"}], test)
        scenario = old.directory / "scenario.toml"
        scenario.write_text(f"{hooks}\n{scenario.read_text()}")
        done = old.run("cloudai", "run", *options, "--hook-dir=hooks", "--json", timeout_s=120, status=status)
        answer = json.loads(done.stdout)
        return {**answer["cases"][0], "root": Path(answer["result_dir"])}

    calls = old.directory / "calls"
    both = 'pre_test = "nccl_test"\npost_test = "nccl_test"'
    hook(old, min_busbw=100)
    case = one(0, both)
    assert (case["phase"], case["detail"]) == (
        "finished",
        "3 of 3 iterations; post-nccl: average bus bandwidth 142.82 GB/s",
    )
    lines = [line.split()[:2] for line in calls.read_text().splitlines()]
    assert sorted(lines) == sorted([[node, "4"] for node in "0011"] * 2), "all tasks on both nodes, twice"
    (record,) = (case["root"] / "one/0/exec/gates").glob(f"{case['job']}-0/gates.json")
    kept = [(gate["name"], gate["when"], gate["passed"]) for gate in json.loads(record.read_text())["gates"]]
    assert kept == [("nccl", "before", True), ("post-nccl", "after", True)]
    # A training that fails has its own reason, and is measured behind, too.
    case = one(1, both, die="2")
    assert case["detail"] == (
        "its job ended as FAILED; 2 of 3 iterations; post-nccl: average bus bandwidth 142.82 GB/s"
    )
    hook(old, min_busbw=150)
    case = one(1, both)
    assert case["phase"] == "failed"
    assert case["detail"] == "gate nccl: average bus bandwidth 142.82 GB/s, and at least 150 GB/s are wanted"
    assert not (case["root"] / "one/0/began").exists(), "nothing has trained"
    hook(old, {"GATE_STATUS": "3"})
    assert "gate nccl: it ended with status 3" in one(1, both)["detail"]


def test_a_batch_script_is_given_its_hooks_once(tmp_path: Path) -> None:
    gate = {"name": "nccl", "command": ["it's", "a"], "tasks_per_node": 2, "limit_s": 60, "min_bus_gb_s": 1.5}
    text = "#!/bin/bash\n#\n#SBATCH --nodes=1\n\nset -evx\nsrun train\n"
    assert exec_sbatch.with_gates(text, [], tmp_path) == text
    found = exec_sbatch.with_gates(text, [json.dumps(gate)], tmp_path)
    head, _, rest = found.partition("# ---- Megatron Launcher")
    assert head + rest.partition("has added\n\n")[2] == text
    assert head.endswith("#SBATCH --nodes=1\n\n"), "behind the options"
    assert """launcher_gate before nccl 60 2 1.5 'it'"'"'s' a || exit 1""" in rest
    assert exec_sbatch.with_gates(found, [json.dumps(gate)], tmp_path) == found
    assert subprocess.run(["bash", "-n"], input=found, text=True).returncode == 0


def test_a_second_submission_after_a_failure_is_the_scripts(old: User, slurm_cluster: VirtualCluster) -> None:
    """setup_experiment.py tries again where max_retries says so: the newest job counts."""
    answer = run(old, [{"id": "one", "test_name": "small"}], toy(iters="4", submissions="2"))
    (case,) = answer["cases"]
    assert case["phase"] == "finished"
    jobs = of_user(slurm_cluster, old)
    assert len(jobs) == 2
    assert case["job"] == max(jobs, key=int)


def test_killed_starts_are_found_again(old: User, slurm_cluster: VirtualCluster) -> None:
    """The launcher, and sometimes the script and its sbatch, are killed at random moments: each case has one job."""
    draw = random.Random(os.environ.get("TEST_SEED", "exec"))  # noqa: S311
    seeds = 6
    tests = [{"id": f"t{number}", "test_name": "small"} for number in range(seeds)]
    options = files(old, tests, toy(iters="3", wait="0.3"))
    first = json.loads(old.run("cloudai", "dry-run", *options, "--json").stdout)
    root = first["result_dir"]
    more = [str(LAUNCHER), "cloudai", "run", *options, f"--continue={root}", "--no-wait"]
    for _ in range(seeds):
        tried = subprocess.Popen(
            more,
            cwd=old.directory,
            env=old.environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(draw.uniform(0.5, 4))
        tried.kill()
        tried.wait()
        if draw.random() < 0.7:
            for session in scripts_of(old):
                os.killpg(session, signal.SIGKILL)
    done = old.run("cloudai", "run", *options, f"--continue={root}", "--json", timeout_s=300, status=None)
    cases = json.loads(done.stdout)["cases"]
    assert {one["phase"] for one in cases} == {"finished"}, done.stderr
    counted = Counter((old.directory / "results/counted").read_text().split())
    assert counted == {one["job"]: 1 for one in cases}
    assert sorted(of_user(slurm_cluster, old)) == sorted(one["job"] for one in cases)


def scripts_of(user: User) -> list[int]:  # noqa: F811
    """The sessions of the stand-ins that run for this user."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().decode(errors="replace")
            session = int((path / "stat").read_text().rpartition(")")[2].split()[3])
        except OSError:
            continue
        if f"{user.directory}/install/Megatron-Bridge__v0.3.0/scripts" in words and session == int(path.name):
            found.append(session)
    return found


def test_a_test_ends_with_another_one_in_exec_mode(old: User, slurm_cluster: VirtualCluster) -> None:
    tests: list[dict[str, Any]] = [
        {"id": "beside", "test_name": "long", "dependencies": [{"type": "end_post_comp", "id": "main"}]},
        {"id": "main", "test_name": "small", "dependencies": [{"type": "start_post_init", "id": "beside"}]},
    ]
    long = {**toy(iters="20000"), "name": "long"}
    answer = run(old, tests, OLD, long, status=1)
    assert {one["name"]: one["phase"] for one in answer["cases"]} == {"beside/0": "cancelled", "main/0": "finished"}


def test_an_old_release_without_an_environment_is_refused(old: User) -> None:
    (old.directory / "install/Run__main-venv/bin/python").unlink()
    options = files(old, [{"id": "one", "test_name": "small"}], OLD)
    done = old.run("cloudai", "run", *options, "--enable-cache-without-check", status=2)
    assert "there is no Python environment with NeMo-Run" in done.stderr


LINES = """\
Step Time : 1.50s GPU utilization: 400.0MODEL_TFLOP/s/GPU
 [2026] iteration        1/       3 | consumed samples: 8 | elapsed time per iteration (ms): 1500.0 | lm loss: 1.1E+01 |
 [2026] iteration        2/       3 | elapsed time per iteration (ms): 1400.0 | throughput per GPU (TFLOP/s/GPU): 410.5\
 | lm loss: 1.0E+01 | grad norm: 2.5 | number of nan iterations:   0 |
validation loss at iteration 2 on validation set | lm loss value: 9.0E+00
"""


def test_the_iterations_of_a_log() -> None:
    first, second = read_steps(LINES.splitlines())
    assert (first.iteration, first.total, first.seconds, first.loss, first.tflops_per_gpu) == (1, 3, 1.5, 11.0, 400.0)
    assert (second.seconds, second.grad_norm, second.tflops_per_gpu) == (1.4, 2.5, 410.5)
    # A run that begins again overwrites what it repeats.
    again = read_steps([*LINES.splitlines(), LINES.splitlines()[1].replace("1500.0", "1600.0")])
    assert [step.seconds for step in again] == [1.6, 1.4]


@pytest.mark.parametrize(
    ("state", "phase", "over"),
    [
        (State.COMPLETED, "finished", True),
        (State.FORGOTTEN, "finished", True),
        (State.NODE_FAIL, "failed", True),
        (State.OUT_OF_MEMORY, "failed", True),
        (State.PREEMPTED, "failed", True),
        (State.DEADLINE, "failed", True),
        (State.BOOT_FAIL, "failed", True),
        (State.TIMEOUT, "failed", True),
        (State.CANCELLED, "cancelled", True),
        (State.UNKNOWN, "unknown", False),
        (State.PENDING, "queued", False),
        (State.RUNNING, "running", False),
    ],
)
def test_states_of_the_job(state: State, phase: str, over: bool, tmp_path: Path) -> None:
    """A state that is an end is not waited for; a question without an answer is not an end."""
    case = ExecCase(tmp_path)
    case.path.mkdir()
    case.journal.write("submitted", token="t", job="7")
    steps = read_steps([*LINES.splitlines(), LINES.splitlines()[1].replace("1/ ", "3/ ")])
    found = judge(case, Job("7", state, terminal=state.terminal), steps)
    assert (found.phase, found.over) == (phase, over)
    assert found.good == (phase == "finished")


@pytest.mark.parametrize(("with_token", "cancelled"), [("7", True), ("9", False), (None, False)])
def test_only_the_job_with_the_token_is_cancelled(
    with_token: str | None, cancelled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, shell = ExecCase(tmp_path), Recorder({"scancel": Result(("scancel",), 0, "", "")})
    case.path.mkdir()
    case.journal.write("submitted", token="t", job="7")
    found = None if with_token is None else Submission(with_token)
    monkeypatch.setattr(exec_mode, "ask", lambda *_: {tmp_path: Job("7", State.RUNNING)})
    monkeypatch.setattr(exec_mode, "find_submission", lambda *_: found)
    assert exec_mode.cancel(case, shell) is cancelled
    assert shell.asked == ([("scancel", "7")] if cancelled else [])


def test_jobs_of_several_clusters_are_asked_for_and_ended_where_they_are(tmp_path: Path) -> None:
    """Two clusters number jobs alike: each case's own is ended, and only on its cluster."""
    cases = [ExecCase(tmp_path / name) for name in ("here", "there", "beside")]
    for case, cluster in zip(cases, (None, "other", "other"), strict=True):
        case.path.mkdir(parents=True)
        number = "8" if case.directory.name == "beside" else "7"
        case.journal.write("submitted", token=f"token-{case.directory.name}", job=number, cluster=cluster)

    def squeue(argv: Sequence[str]) -> Result:
        names = {"7": "there", "8": "beside"} if "--clusters=other" in argv else {"7": "here"}
        lines = [f"{each}|{each}|RUNNING|N/A|N/A|N/A|n1|None|/s|/d|token-{name}" for each, name in names.items()]
        return Result(tuple(argv), 0, "\n".join(lines) + "\n", "")

    shell = Recorder({"squeue": squeue, "scancel": Result(("scancel",), 0, "", "")})
    found = exec_mode.ask(cases, shell)
    assert {path.name: job and job.id for path, job in found.items()} == {"here": "7", "there": "7", "beside": "8"}
    assert len(shell.asked) == 2, "one question for each cluster"
    assert [exec_mode.cancel(case, shell) for case in cases] == [True] * 3
    ended = [argv for argv in shell.asked if argv[0] == "scancel"]
    assert ended == [("scancel", "7"), ("scancel", "--clusters=other", "7"), ("scancel", "--clusters=other", "8")]


@pytest.mark.parametrize(
    ("options", "line", "clusters"),
    [
        ([], "", None),
        ([], "#SBATCH --clusters=a,b", "a,b"),
        ([], "#SBATCH -M a", "a"),
        (["--requeue", "--clusters=c"], "#SBATCH --clusters=a", "c"),
    ],
)
def test_the_clusters_that_a_job_may_go_to(
    options: list[str], line: str, clusters: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was submitted is looked for there, should its answer be lost."""
    for name in ("SLURM_CLUSTERS", "SBATCH_CLUSTERS"):
        monkeypatch.delenv(name, raising=False)
    script = tmp_path / "s.sh"
    script.write_text(f"#!/bin/bash\n{line}\n")
    assert exec_sbatch._clusters(options, script) == clusters


def test_the_program_in_the_place_of_sbatch_runs_on_every_python(tmp_path: Path) -> None:
    """It imports nothing of the directory that it is called in, and needs no option of a newer Python."""
    exec_mode.write_stand_in(tmp_path / "sbatch")
    (tmp_path / "re.py").write_text("raise SystemExit('imported')")
    environ = {**os.environ, exec_mode.CASE: str(tmp_path), exec_mode.SESSION: "s"}
    argv = [str(tmp_path / "sbatch"), "--parsable", "a word"]
    done = subprocess.run(argv, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "called without a script, or with arguments: ['--parsable', 'a word']" in done.stderr
    assert " -P " not in (tmp_path / "sbatch").read_text(), "Python 3.10 has no such option"


def test_a_batch_script_without_what_stands_for_secrets() -> None:
    kept = "export HF_HOME=/a\nexport HF_TOKEN=x\n"
    text = f"export HF_TOKEN=env:HF_TOKEN\nexport WANDB_API_KEY=env:WANDB_API_KEY\n{kept}"
    wanted = "# HF_TOKEN: from the environment of sbatch\n# WANDB_API_KEY: from the environment of sbatch\n"
    assert without_secrets(text) == f"{wanted}{kept}"
