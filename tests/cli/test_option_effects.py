"""Each option that the table allows in a mode changes the plan, a script or argv.json there; any other is refused."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher.planning.option_effects import EFFECTS
from tests.support.cli_server import Server, server
from tests.support.limits import seconds

PROFILE = 'extends = "slurm"\ngpus_per_node = 2\n'
STUBS = {
    "scontrol": """case $* in
    *"show job"*)
        echo "JobId=7 JobName=x"; echo "   JobState=RUNNING"; echo "   NodeList=n[1-3]"
        echo "     Nodes=n[1-3] CPU_IDs=0-7 Mem=0 GRES=gpu:2(IDX:0-1)" ;;
    *hostnames*) for last; do :; done; echo "$last" | sed "s/n\\[1-3\\]/n1,n2,n3/" | tr , "\\n" ;;
    esac""",
    **dict.fromkeys(("srun", "sbatch", "squeue", "sinfo", "sacct", "bwrap", "unsquashfs", "enroot"), "exit 1"),
}
MODES: Mapping[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "local": (("--for", "run", "--cluster", "mine-local"), {}),
    "batch": (("--for", "submit", "--cluster", "mine"), {}),
    "allocation": (
        ("--for", "run", "--cluster", "mine"),
        {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "3", "SLURM_JOB_NODELIST": "n[1-3]"},
    ),
}
PYXIS_ONLY = ("image", "mounts")

TWO: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "assignments": (("train.train_iters=3",), ("train.train_iters=4",)),
    "cluster": (("--cluster", "mine"), ("--cluster", "other")),
    "nodes": (("--nodes", "1"), ("--nodes", "2")),
    "gpus_per_node": (("--gpus-per-node", "1"), ("--gpus-per-node", "2")),
    "time": (("--time", "10"), ("--time", "20")),
    "partition": (("--partition", "a"), ("--partition", "b")),
    "account": (("--account", "a"), ("--account", "b")),
    "qos": (("--qos", "a"), ("--qos", "b")),
    "nodelist": (("--nodelist", "n2"), ("--nodelist", "n3")),
    "exclude": (("--exclude", "n1"), ("--exclude", "n2")),
    "env": (("--env", "A=1"), ("--env", "A=2")),
    "expand_env": (("--env", "A=/a:$PATH"), ("--env", "A=/a:$PATH", "--expand-env", "A")),
    "python": (("--python", "python3.10"), ("--python", "python3.11")),
    "name": (("--name", "a"), ("--name", "b")),
    "run_root": (("--run-root", "a"), ("--run-root", "b")),
    "shared": ((), ("--shared",)),
    "allow_checkpoint_load": ((), ("--allow-checkpoint-load",)),
    "keep_going": ((), ("--keep-going",)),
    "spares": ((), ("--spares", "1")),
    "verify": (("--verify", "full"), ("--verify", "sizes")),
    "ship": ((), ("--ship", "data.txt")),
    "hang_limit_s": (("--hang-limit", "100"), ("--hang-limit", "200")),
    "init": (("--init", "random"), ()),
    "notify": (("--notify", "mail -s done ada"), ("--notify", "./tell")),
    "nsys": ((), ("--nsys",)),
    "profiler": ((), ("--profiler", "torch")),
    "profile_steps": (
        ("--profiler", "torch", "--profile-steps", "3:4"),
        ("--profiler", "torch", "--profile-steps", "3:5"),
    ),
    "profile_ranks": (
        ("--profiler", "torch", "--profile-ranks", "0"),
        ("--profiler", "torch", "--profile-ranks", "all"),
    ),
    "nsys_trace": (("--nsys", "--nsys-trace", "cuda"), ("--nsys", "--nsys-trace", "nvtx")),
    "nsys_args": (("--nsys", "--nsys-arg=--stats=true"), ("--nsys", "--nsys-arg=--stats=false")),
    "gpu_metrics": (("--nsys",), ("--nsys", "--gpu-metrics")),
    "probe": ((), ("--probe",)),
    "entrypoint": ((), ("--entrypoint", "program.py")),
    "sbatch": (("--sbatch", "mem=1G"), ("--sbatch", "mem=2G")),
    "srun_args": (("--srun-arg=--label",), ("--srun-arg=--verbose",)),
}
"""Two values of each option. Both have to be accepted, and the plans have to differ."""

ELSEWHERE = {
    "recipe": "another recipe is another run",
    "image": "tests/planning/test_containers.py: the plan has another image",
    "runtime": "tests/scripts/test_golden.py: another runtime renders other scripts",
    "mounts": "tests/planning/test_containers.py: the plan has the mount",
    "gates": "what `launcher cloudai` makes of pre_test: tests/cloudai/test_gates.py",
    "default_image": "tests/planning/test_containers.py",
    "default_mounts": "tests/planning/test_containers.py",
    "resume": "tests/backends: the plan is that of the run which is continued",
    "allow_changes": "allows what is refused else, and changes no plan",
    "nsys_from": "needs an image, tests/planning/test_profiler.py",
    "attempts": "so many jobs are queued with one plan, tests/faults/test_next_attempt.py",
    "mlm_source": "needs a recipe of Megatron-LM: tests of `launcher correlate`",
    "mlm_arguments": "likewise",
    "mcore": "needs a directory with Megatron-Core, tests/correlate/test_sources.py: the plan names it",
    "scale_batch": "needs a recipe of the index, tests/api/test_knowledge.py: the plan has another batch",
    "notify_url": "needs a variable of the shell, tests/backends/test_notify.py",
    "check_config": "says whether the recipe is run before the plan is made",
    "check_on": "says where it is run, tests/training/test_check_on_node.py",
}
"""Options without two values here, with the reason."""

NOT_IN = {
    ("nodes", "local"): "a local run has one",
    ("nsys", "local"): "nsys",
    ("nsys_trace", "local"): "nsys",
    ("nsys_args", "local"): "nsys",
    ("gpu_metrics", "local"): "nsys",
    ("cluster", "local"): "another cluster is another mode",
    ("keep_going", "local"): "keep-going",
    ("keep_going", "allocation"): "keep-going",
}
"""Refused in the mode for a reason of its own."""


@pytest.fixture(scope="module")
def cli() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("home")
    (made / "small.py").write_text("def configure():\n    return None\n")
    (made / "data.txt").write_text("1\n")
    (made / "program.py").write_text("print()\n")
    (made / "clusters").mkdir()
    (made / "clusters/mine.toml").write_text(PROFILE)
    (made / "clusters/other.toml").write_text(PROFILE + '[env]\nOF_OTHER = "1"\n')
    (made / "clusters/mine-local.toml").write_text('extends = "local"\ndevice = "cpu"\ngpus_per_node = 2\n')
    (made / "bin").mkdir()
    for name, text in STUBS.items():
        (made / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (made / "bin" / name).chmod(0o755)
    return made


def planned(cli: Server, home: Path, mode: str, words: tuple[str, ...]) -> tuple[int | None, str]:
    """Return the exit status and the plan with its scripts, without what is drawn for each run."""
    options, variables = MODES[mode]
    own = [] if "--cluster" in words else list(options[2:])
    environ = {
        "PATH": f"{home}/bin:/usr/bin:/bin",
        "HOME": str(home),
        "USER": "ada",
        "LAUNCHER_CLUSTERS": str(home / "clusters"),
        **variables,
    }
    arguments = ["plan", "small.py", "--no-check-config", "--json", *options[:2], *own, *words]
    answer = cli.call(arguments, home, environ, limit_s=seconds(20))
    text = re.sub(r"\d{8}-\d{6}-[0-9a-f]{12}", "RUN", answer.stdout)
    return answer.status, re.sub(r"(?<=RUN:)[0-9a-f]{12}", "NONCE", text) + (
        "" if answer.status == 0 else answer.stderr
    )


def without_request(text: str) -> dict[str, Any]:
    """Return the plan without the record of what was asked for: that differs always."""
    found: dict[str, Any] = json.loads(text)
    del found["plan"]["request"]
    return found


def test_every_option_has_two_values_or_a_reason() -> None:
    assert set(TWO) | set(ELSEWHERE) == set(EFFECTS)
    assert not set(TWO) & set(ELSEWHERE)


@pytest.mark.parametrize("mode", MODES)
def test_each_option_changes_something_where_it_is_allowed_and_is_refused_elsewhere(
    mode: str, cli: Server, home: Path
) -> None:
    once, again = planned(cli, home, mode, ()), planned(cli, home, mode, ())
    assert once == again
    assert once[0] == 0, once
    wrong = []
    for key, (first, second) in TWO.items():
        given = [words for words in (first, second) if words]
        if (key, mode) in NOT_IN:
            status, said = planned(cli, home, mode, given[-1])
            if key != "cluster" and (status != 2 or NOT_IN[key, mode] not in said):
                wrong.append(f"{key}: {status} {said[:400]}")
            continue
        if not EFFECTS[key].counts_in(mode):
            for words in given:
                status, said = planned(cli, home, mode, words)
                if status != 2 or "it has no effect in" not in said:
                    wrong.append(f"{key}: {status} {said[:400]}")
            continue
        plans = [planned(cli, home, mode, words) for words in (first, second)]
        if any(status != 0 for status, _ in plans):
            wrong.append(f"{key}: {[(status, said[-300:]) for status, said in plans]}")
        elif without_request(plans[0][1]) == without_request(plans[1][1]):
            wrong.append(f"{key}: {first} and {second} are planned alike")
    assert not wrong, "\n".join(wrong)


def test_a_job_file_for_other_modes_gives_a_warning(cli: Server, home: Path) -> None:
    (home / "job.toml").write_text('recipe = "small.py"\ntime = "10"\npartition = "a"\n')
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(home), "LAUNCHER_CLUSTERS": str(home / "clusters")}
    arguments = ["plan", "job.toml", "--no-check-config", "--cluster", "mine-local"]
    answer = cli.call(arguments, home, environ, limit_s=seconds(20))
    assert answer.status == 0
    for key in ("time", "partition"):
        assert f"{key} of the job file has no effect in a local run" in answer.stderr


@pytest.mark.parametrize("option", ["--cpus=4", "--time=10", "--partition=a", "--account=a", "--sbatch=mem=1G"])
@pytest.mark.parametrize("command", [("image", "build"), ("image", "import", "x"), ("convert", "import", "a", "b")])
def test_options_of_a_job_are_refused_without_a_job(
    command: tuple[str, ...], option: str, cli: Server, home: Path
) -> None:
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(home), "LAUNCHER_CLUSTERS": str(home / "clusters")}
    answer = cli.call([*command, option], home, environ, limit_s=seconds(20))
    assert answer.status == 2
    assert f"{option.partition('=')[0]}: it is an option of the job of --in-job-on" in answer.stderr
