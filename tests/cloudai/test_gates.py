"""pre_test: an NCCL test as a gate in the job that trains. Cost: about 25 s, and 20 s with torch.

A stand-in prints what nccl-tests print: its form is a fact (https://github.com/NVIDIA/nccl-tests, src/common.cu).
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import ConfigError
from launcher.cloudai.gates import gates_of
from launcher.cloudai.load import load_hooks
from launcher.cloudai.models import System
from launcher.cloudai.profile import Profile
from launcher.contract.files import write_json
from launcher.contract.paths import AttemptPaths
from launcher.contract.verdict import failed_gate
from launcher.job.gate import judge
from launcher.scripts import scripts
from tests.backends.running import TOY, User
from tests.cloudai.files import DATA, SYSTEM, write
from tests.cloudai.test_running import ARGS, TEST, events, files, user  # noqa: F401
from tests.faults.shims import put
from tests.support import building
from tests.support.slurm.virtual_cluster import VirtualCluster

OUTPUT = """\
# nThread 1 nGpus 1 minBytes 33554432 maxBytes 33554432 step: 1048576(bytes) warmup iters: 5 iters: 20 agg iters: 1
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
    33554432       8388608     float     sum      -1    412.5   81.34  142.35      0    409.8   81.88  143.29      0
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 142.82
#
"""
EXECVE = (
    "slurmstepd: error: execve(): all_reduce_perf: No such file or directory\n"
    "srun: error: n1: tasks 0-1: Exited with exit code 2\n"
)
STAND_IN = f"""#!/bin/bash
echo "$SLURM_NODEID $SLURM_NTASKS $*" >>"$GATE_CALLS"
[[ $SLURM_PROCID == 0 ]] || exit 0
cat <<'END'
{OUTPUT}END
exit "${{GATE_STATUS:-0}}"
"""


def hook(user: User, environment: dict[str, str] | None = None, **args: object) -> None:  # noqa: F811
    """A hook of one NCCL test; a job gets no variable of the shell that is not named."""
    values = {"docker_image_url": "nvcr.io#nvidia/pytorch:25.06-py3", "iters": 7, **args}
    test: dict[str, Any] = {"name": "nccl", "description": "d", "test_template_name": "NcclTest", "cmd_args": values}
    test["extra_env_vars"] = {"GATE_CALLS": str(user.directory / "calls"), **(environment or {})}
    write(user.directory / "hooks/test/nccl.toml", test)
    entry = {"id": "Tests.1", "test_name": "nccl", "time_limit": "1"}
    write(user.directory / "hooks/nccl.toml", {"name": "nccl_test", "Tests": [entry]})


def run(
    user: User,  # noqa: F811
    status: int,
    *,
    hooks: str = 'pre_test = "nccl_test"',
    test: dict[str, Any] = TEST,
    **args: object,
) -> dict[str, Any]:
    """Run one test of two nodes with its hooks."""
    options = files(user, [{"id": "one", "test_name": "small", "cmd_args": {**ARGS, "num_gpus": 4, **args}}], test)
    scenario = user.directory / "scenario.toml"
    scenario.write_text(f"{hooks}\n{scenario.read_text()}")
    system = user.directory / "system.toml"
    if "mpi" not in system.read_text():
        system.write_text(f'mpi = "none"\n{system.read_text()}')
    words = ("cloudai", "run", *options, "--hook-dir=hooks", f"--entrypoint={TOY}", "--json")
    (case,) = json.loads(user.run(*words, status=status, timeout_s=180).stdout)["cases"]
    return dict(case)


def test_a_job_trains_behind_its_gate_or_not_at_all(user: User, slurm_cluster: VirtualCluster) -> None:  # noqa: F811
    """The gate runs across the nodes of the job, in the same allocation; below the threshold no rank starts."""
    put(user, {"all_reduce_perf_mpi": STAND_IN})
    calls = user.directory / "calls"
    hook(user, min_busbw=100)
    case = run(user, 0)
    assert case["phase"] == "finished"
    run_dir = Path(case["run_dir"])
    record = json.loads((run_dir / "attempts/000/gates.json").read_text())
    assert record["gates"] == [
        {
            "name": "nccl",
            "when": "before",
            "measures": True,
            "passed": True,
            "started": True,
            "reason": "average bus bandwidth 142.82 GB/s",
            "bus_gb_s": 142.82,
            "min_bus_gb_s": 100.0,
        }
    ]
    lines = calls.read_text().splitlines()
    assert sorted(line.split()[:2] for line in lines) == [["0", "4"], ["0", "4"], ["1", "4"], ["1", "4"]]
    assert "--ngpus 1 --minbytes 32M --maxbytes 32M" in lines[0]
    assert "--iters 7 " in lines[0]
    assert len(list((run_dir / "attempts/000/ranks").glob("*.seen.json"))) == 4

    hook(user, min_busbw=150)
    case = run(user, 1)
    assert case["phase"] == "failed"
    assert "gate nccl: average bus bandwidth 142.82 GB/s, and at least 150 GB/s are wanted" in case["detail"]
    run_dir = Path(case["run_dir"])
    assert not list((run_dir / "attempts/000/ranks").glob("*.seen.json"))
    result = json.loads((run_dir / "attempts/000/result.json").read_text())
    assert (result["outcome"], result["failure"], result["evidence"]["rule"]) == ("failed", "network", "gate")

    hook(user, {"GATE_STATUS": "3"})
    case = run(user, 1)
    assert "gate nccl: it ended with status 3" in case["detail"]


SUDO = """#!/bin/bash
[[ "$*" == "-n nvidia-smi boost-slider --vboost 1" ]] || exit 9
echo "$SLURM_NODEID $SLURM_NTASKS" >>{calls}
exit {status}
"""


def test_what_is_run_after_a_training_changes_no_verdict(user: User, slurm_cluster: VirtualCluster) -> None:  # noqa: F811
    """post_test; and the GPUs' clocks, which a job may change where the profile allows it."""
    calls, boosted = user.directory / "calls", user.directory / "boosted"
    put(user, {"all_reduce_perf_mpi": STAND_IN, "sudo": SUDO.format(calls=boosted, status=0)})
    hook(user, min_busbw=150)
    profile = user.directory / "clusters/virtual.toml"
    without = run(user, 0, hooks='post_test = "nccl_test"', enable_vboost=True)
    assert not boosted.exists(), "the profile does not allow it"
    assert "post-nccl: not passed: average bus bandwidth 142.82 GB/s, and at least 150 GB/s" in without["detail"]
    run_dir = Path(without["run_dir"])
    assert calls.stat().st_mtime > events(run_dir)[1]
    assert len(calls.read_text().splitlines()) == 4, "on both nodes"

    profile.write_text(f"{profile.read_text()}allow_vboost = true\n")
    hook(user, min_busbw=100)
    case = run(user, 0, hooks='pre_test = "nccl_test"\npost_test = "nccl_test"', enable_vboost=True)
    assert case["phase"] == "finished"
    assert "post-nccl: average bus bandwidth 142.82 GB/s" in case["detail"]
    run_dir = Path(case["run_dir"])
    record = json.loads((run_dir / "attempts/000/gates.json").read_text())["gates"]
    assert [(gate["name"], gate["when"], gate["passed"]) for gate in record] == [
        ("vboost", "before", True),
        ("nccl", "before", True),
        ("post-nccl", "after", True),
    ]
    assert sorted(boosted.read_text().split()) == ["0", "1", "2", "2"], "one task on each node"
    assert boosted.stat().st_mtime < events(run_dir)[0]

    put(user, {"sudo": SUDO.format(calls=boosted, status=1)})
    case = run(user, 1, hooks="", enable_vboost=True)
    assert "gate vboost: it ended with status 1" in case["detail"]
    assert not list(Path(case["run_dir"]).glob("attempts/000/ranks/*.seen.json")), "nothing is measured at other clocks"


GLOO = f"""#!{sys.executable}
import os, sys, time
import torch, torch.distributed as dist

rank, size = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
dist.init_process_group("gloo", init_method="file://" + os.environ["GATE_CALLS"], rank=rank, world_size=size)
values = torch.ones(1 << 20)
for turn in range(6):
    if turn == 1:
        began = time.monotonic()
    dist.all_reduce(values)
seconds = (time.monotonic() - began) / 5
wrong = int((values != float(size) ** 6).sum())
if rank == 0:
    print(f"# Out of bounds values : {{wrong}} {{'FAILED' if wrong else 'OK'}}")
    print(f"# Avg bus bandwidth    : {{values.nbytes / seconds * 2 * (size - 1) / size / 1e9:.4f}}")
"""


@pytest.mark.megatron
@pytest.mark.parametrize("least", [0.000001, 100000])
def test_an_all_reduce_with_gloo_is_measured(least: float, user: User, slurm_cluster: VirtualCluster) -> None:  # noqa: F811
    """The same way with a real collective over the job's nodes."""
    put(user, {"all_reduce_perf_mpi": GLOO})
    hook(user, min_busbw=least)
    case = run(user, int(least > 1))
    (found,) = json.loads((Path(case["run_dir"]) / "attempts/000/gates.json").read_text())["gates"]
    assert found["bus_gb_s"] > 0
    assert found["passed"] == (least < 1)


@pytest.mark.parametrize(
    ("text", "errors", "status", "least", "passed", "reason"),
    [
        (OUTPUT, "", 0, None, True, "average bus bandwidth 142.82 GB/s"),
        (OUTPUT, "", 0, 142.82, True, "average bus bandwidth 142.82 GB/s"),
        (OUTPUT, "", 0, 142.83, False, "at least 142.83 GB/s are wanted"),
        (OUTPUT.replace("0 OK", "3 FAILED"), "", 0, None, False, "3 values were wrong"),
        (OUTPUT, "", 124, None, False, "it did not end in time"),
        (OUTPUT, "srun: error: n1: Out Of Memory\n", 137, None, False, "or for another reason: srun: error: n1"),
        (OUTPUT, "n1: Test NCCL failure\n", 2, None, False, "it ended with status 2: n1: Test NCCL failure"),
        ("", "ValueError: no\nsrun: error: n1: task 0: Exited\n", 1, None, False, "with status 1: ValueError: no"),
        ("", "", 1, None, False, "it ended with status 1: no output"),
        (
            "",
            "bash: line 1: perf: command not found\n",
            127,
            None,
            False,
            "program was not found (status 127): bash",
        ),
        ("", "bash: ./perf: Permission denied\n", 126, None, False, "its program cannot be executed (status 126)"),
        ("", EXECVE, 2, None, False, "its program cannot be started: all_reduce_perf: No such file or directory"),
        ("# Avg bus bandwidth\n", "", 0, None, False, "it printed no average bus bandwidth"),
        ("# Avg bus bandwidth    : -nan\n", "", 0, None, False, "it printed no average bus bandwidth"),
        ("# Avg bus bandwidth    : 5.17e-05 \n", "", 0, 1.0, False, "average bus bandwidth 5.17e-05 GB/s"),
        (f"{OUTPUT}# Avg bus bandwidth    : 1.5\n", "", 0, 100.0, False, "average bus bandwidth 1.5 GB/s"),
    ],
)
def test_what_a_gate_has_printed(
    text: str, errors: str, status: int, least: float | None, passed: bool, reason: str
) -> None:
    found = judge("nccl", text, errors, status, least)
    assert found["passed"] == passed
    assert found["started"] == ("program" not in reason)
    assert reason in found["reason"]


def test_a_gate_that_could_not_fail_is_refused() -> None:
    gate = {"name": "nccl", "command": ["all_reduce_perf"], "tasks_per_node": 8, "limit_s": 60, "min_bus_gb_s": 5}
    assert building.plan(request={"nodes": 2, "gates": (json.dumps(gate),)}).gates
    wrong: tuple[dict[str, Any], ...] = ({"tasks_per_node": 0}, {"limit_s": 0}, {"min_bus_gb_s": math.nan})
    for more in wrong:
        with pytest.raises(ConfigError, match="GB/s are finite"):
            building.plan(request={"nodes": 2, "gates": (json.dumps({**gate, **more}),)})
    with pytest.raises(ConfigError, match="two gates are called nccl"):
        building.plan(request={"nodes": 2, "gates": (json.dumps(gate),) * 2})


def test_no_gate_runs_where_too_few_nodes_are_healthy() -> None:
    gate = json.dumps({"name": "nccl", "command": ["all_reduce_perf"], "tasks_per_node": 8, "limit_s": 60})
    request = {"nodes": 2, "gates": (gate,)}
    assert "\npassed=1\n" in scripts(building.plan(request=request))["sbatch.sh"]
    assert "\npassed=$enough\n" in scripts(building.plan(request={**request, "spares": 1}))["sbatch.sh"]


def test_no_node_is_prepared_where_no_rank_will_start() -> None:
    profile = building.cluster(gpus_per_node=8, runtime="pyxis", image="nemo")
    gate = json.dumps({"name": "nccl", "command": ["all_reduce_perf"], "tasks_per_node": 8, "limit_s": 60})
    changes: tuple[dict[str, Any], ...] = ({"gates": (gate,)}, {"spares": 1})
    for more in changes:
        plan = building.plan(profile=profile, request={"nodes": 2, **more}, inside=building.image())
        before, _, after = scripts(plan)["sbatch.sh"].partition("\nif [[ ${step[0]} != false ]]")
        assert "on_nodes prepare" not in before
        assert "on_nodes prepare" in after.partition("\nfi\n")[0]


@pytest.mark.parametrize(
    ("reason", "failure"),
    [
        ("average bus bandwidth 3 GB/s, and at least 5 GB/s are wanted", "network"),
        ("it did not end in time", "network"),
        ("it ended with status 2: slurmstepd: error: execve(): no_perf: No such file or directory", "step not started"),
        ("its program was not found (status 127): bash: line 1: perf: command not found", "user error"),
        ("its program cannot be started: no_perf: No such file or directory", "user error"),
        ("it ended with status 1: slurmstepd: error: pyxis: failed to import docker image", "container"),
    ],
)
def test_a_gate_that_did_not_measure_does_not_blame_the_network(reason: str, failure: str, tmp_path: Path) -> None:
    started = "its program" not in reason
    gate = {"name": "nccl", "when": "before", "measures": True, "passed": False, "started": started, "reason": reason}
    gate |= {"bus_gb_s": None, "min_bus_gb_s": None}
    write_json(tmp_path / "gates.json", {"version": 1, "time": 1.0, "gates": [gate]})
    found = failed_gate(AttemptPaths(tmp_path))
    assert found is not None
    assert (found.failure, found.line) == (failure, f"gate nccl: {reason}")
    # What is run after the training is not its verdict.
    write_json(tmp_path / "gates.json", {"version": 1, "time": 1.0, "gates": [{**gate, "when": "after"}]})
    assert failed_gate(AttemptPaths(tmp_path)) is None


def test_a_program_that_passes_may_have_failed_to_start_another_one() -> None:
    """A script whose own srun finds no program, and that goes on without."""
    assert judge("nccl", OUTPUT, EXECVE, 0, None)["passed"]
    assert judge("prepare", "", EXECVE, 0, None, measures=False)["passed"]
    assert not judge("nccl", "", EXECVE, 2, None)["started"]


def test_a_program_that_measures_nothing_passes_by_its_status(tmp_path: Path) -> None:
    assert judge("vboost", "", "", 0, None, measures=False)["passed"]
    found = judge("vboost", OUTPUT, "sudo: a password is required\n", 1, None, measures=False)
    assert (found["passed"], found["bus_gb_s"]) == (False, None)
    write_json(tmp_path / "gates.json", {"version": 1, "time": 1.0, "gates": [found]})
    cause = failed_gate(AttemptPaths(tmp_path))
    assert cause is not None
    assert (cause.failure, cause.line) == (
        "user error",
        "gate vboost: it ended with status 1: sudo: a password is required",
    )


def profile(tmp_path: Path, runtime: str) -> Profile:
    values = {"runtime": runtime, "image_directories": [str(tmp_path)], "image_store": str(tmp_path / "store")}
    return Profile("p", values, is_container=runtime != "none")


def test_a_hook_becomes_a_gate(tmp_path: Path) -> None:
    system = System.model_validate(SYSTEM)
    (text,) = gates_of(load_hooks(DATA / "hook")["nccl_test"], system, profile(tmp_path, "pyxis"), ranks_per_node=8)
    gate = json.loads(text)
    assert gate["srun_args"] == [
        "--mpi=pmix",
        "--container-image=nvcr.io#nvidia/pytorch:25.06-py3",
        "--no-container-mount-home",
    ]
    assert (gate["tasks_per_node"], gate["limit_s"], gate["min_bus_gb_s"]) == (8, 1200, None)
    assert gate["command"][:5] == ["all_gather_perf_mpi", "--nthreads", "1", "--ngpus", "1"]
    assert gate["command"][-2:] == ["--stepfactor", "2"]
    # CloudAI's cache is read, and the gate of a bare machine has no image.
    (tmp_path / "nvcr.io_nvidia__pytorch__25.06-py3.sqsh").write_text("")
    (text,) = gates_of(load_hooks(DATA / "hook")["nccl_test"], system, profile(tmp_path, "pyxis"), ranks_per_node=8)
    assert f"--container-image={tmp_path}/nvcr.io_nvidia__pytorch__25.06-py3.sqsh" in text
    (text,) = gates_of(load_hooks(DATA / "hook")["nccl_test"], system, profile(tmp_path, "none"), ranks_per_node=8)
    assert "container" not in text


@pytest.mark.parametrize(
    ("test", "args", "runtime", "sentence"),
    [
        ({"test_template_name": "UCCTest"}, {}, "pyxis", "the template 'UCCTest'"),
        ({}, {"iters": [1, 2]}, "pyxis", "cmd_args.iters: a gate has one value"),
        ({}, {"subtest_name": "rm -rf"}, "pyxis", "is not a program of nccl-tests"),
        ({}, {"ngpus": 3}, "pyxis", "3 GPUs of a task do not divide the 8 of a node"),
        ({}, {"ngpus": "x"}, "pyxis", "cmd_args.ngpus: 'x' is not a whole number"),
        ({}, {"min_busbw": "fast"}, "pyxis", "cmd_args.min_busbw: 'fast' is not a number"),
        ({}, {}, "enroot", "needs pyxis, and the runtime is enroot"),
        ({"extra_env_vars": {"NGC_API_KEY": "x"}}, {}, "pyxis", "extra_env_vars.NGC_API_KEY: this looks like a secret"),
        ({"extra_env_vars": {"A": ["1", "2"]}}, {}, "pyxis", "extra_env_vars.A: a gate has one value"),
    ],
)
def test_what_cannot_be_a_gate(
    test: dict[str, Any], args: dict[str, Any], runtime: str, sentence: str, tmp_path: Path
) -> None:
    values = {"docker_image_url": "i.sqsh", **args}
    nccl = {"name": "n", "description": "d", "test_template_name": "NcclTest", "cmd_args": values, **test}
    write(tmp_path / "hooks/test/n.toml", nccl)
    write(tmp_path / "hooks/h.toml", {"name": "h", "Tests": [{"id": "a", "test_name": "n"}]})
    system = System.model_validate(SYSTEM)
    with pytest.raises(ConfigError, match=sentence) as caught:
        gates_of(load_hooks(tmp_path / "hooks")["h"], system, profile(tmp_path, runtime), ranks_per_node=8)
    assert str(caught.value.where).startswith(str(tmp_path / "hooks/h.toml"))
