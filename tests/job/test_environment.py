"""Environment of a rank: who wins, when the process starts anew, and what is recorded."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from launcher.job import environment
from tests.job.ranks import ROOT


def test_the_recipe_wins_over_the_profile_and_loses_to_the_user() -> None:
    present = {"PROFILE": "1", "USER": "1", "SAME": "3"}
    changes = environment.wanted({"PROFILE": 2, "USER": 2, "SAME": 3, "NEW": True}, ["USER"], present)
    assert changes == {"PROFILE": "2", "NEW": "True"}


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "MASTER_ADDR", "LAUNCHER_RUN_DIR", environment.MARKER])
def test_variables_that_make_a_rank_cannot_be_overridden(name: str) -> None:
    assert environment.wanted({name: "9"}, [], {name: "0"}) == {}


@pytest.mark.parametrize(
    ("names", "device", "restart"),
    [
        ([], "gpu", False),
        (["NCCL_NVLS_ENABLE", "TORCH_NCCL_HIGH_PRIORITY"], "gpu", False),
        (["PYTORCH_CUDA_ALLOC_CONF"], "gpu", True),
        (["PYTORCH_CUDA_ALLOC_CONF", "CUDA_DEVICE_MAX_CONNECTIONS"], "cpu", False),
        (["LD_LIBRARY_PATH"], "cpu", True),
        (["NCCL_DEBUG", "OMP_NUM_THREADS"], "cpu", True),
    ],
)
def test_a_new_start_only_for_what_is_read_at_loading(names: list[str], device: str, restart: bool) -> None:
    assert environment.needs_restart(names, device) is restart


PROGRAM = """
import os, sys
sys.path.insert(0, {root!r})
from launcher.job import environment
print("start", os.getpid(), os.environ.get("OMP_NUM_THREADS"), os.environ.get({marker!r}), flush=True)
# A recipe that never settles: it wants another value at each start.
environment.apply({{"OMP_NUM_THREADS": str(int(os.environ["OMP_NUM_THREADS"]) + 1)}}, "cpu")
print("end", os.getpid(), os.environ["OMP_NUM_THREADS"], os.environ.get({marker!r}), sys.flags.utf8_mode)
"""


@pytest.mark.parametrize("inherited", [None, "1"])
def test_a_process_starts_anew_at_most_once(tmp_path: Path, inherited: str | None) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(root=str(ROOT), marker=environment.MARKER))
    variables = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    if inherited is not None:
        # Left by another process: it must not keep this one from its own new start.
        variables[environment.MARKER] = inherited
    command = [sys.executable, "-X", "utf8=1", str(program)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    first, second, end = (line.split() for line in done.stdout.splitlines())
    pid = first[1]
    assert first == ["start", pid, "1", str(inherited)]
    assert second == ["start", pid, "2", pid], "the same process, with the new value"
    assert end == ["end", pid, "3", "None", "1"], "assigned the second time, the marker gone, options of python kept"


def test_values_of_secret_like_names_are_left_out(tmp_path: Path) -> None:
    secret = [
        "HF_TOKEN",
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "DB_PASSWORD",
        "GITHUB_PAT",
        "SSH_PRIVATE_KEY",
        "my_token",
    ]
    plain = ["PATH", "TOKENIZERS_PARALLELISM", "NCCL_DEBUG", "SLURM_JOB_ID"]
    path = tmp_path / "environment.json"
    environment.write_environment(path, dict.fromkeys([*secret, *plain], "value"))
    content = json.loads(path.read_text())
    assert content["left_out"] == sorted(secret)
    assert sorted(content["environment"]) == sorted(plain)


def test_values_are_recorded_of_names_that_are_known_to_be_harmless_or_that_the_plan_has_by_value(
    tmp_path: Path,
) -> None:
    variables = {
        "NCCL_DEBUG": "INFO",
        "SITE_SETTING": "canary",
        "PLANNED": "1",
        "PASSED_ON": "canary",
        "UCX_URL": "https://ada:canary@host",
        "HTTPS_PROXY": "http://ada:canary@proxy",
    }
    plan = [
        {"name": "PLANNED", "value": "1"},
        {"name": "PASSED_ON", "value": None},
        {"name": "HTTPS_PROXY", "value": "x"},
    ]
    for damaged in ("{", json.dumps({"environment": 3}), json.dumps({"environment": [3, {"name": [], "value": 1}]})):
        (tmp_path / "plan.json").write_text(damaged)
        environment.write_environment(tmp_path / "environment.json", variables, tmp_path / "plan.json")
        content = json.loads((tmp_path / "environment.json").read_text())
        assert content["environment"] == {"NCCL_DEBUG": "INFO"}
    (tmp_path / "plan.json").write_text(json.dumps({"environment": plan}))
    environment.write_environment(tmp_path / "environment.json", variables, tmp_path / "plan.json")
    text = (tmp_path / "environment.json").read_text()
    assert "canary" not in text
    assert json.loads(text)["environment"] == {"NCCL_DEBUG": "INFO", "PLANNED": "1"}
    assert json.loads(text)["left_out"] == ["HTTPS_PROXY", "PASSED_ON", "SITE_SETTING", "UCX_URL"]


def test_secrets_of_a_configuration_are_in_the_environment_and_in_no_file() -> None:
    config = SimpleNamespace(
        env_vars={"NCCL_DEBUG": "INFO", "HF_TOKEN": "canary", "PROXY": "http://ada:canary@proxy"},
        logger=SimpleNamespace(comet_api_key="canary"),
    )
    variables: dict[str, str] = {}
    environment.keep_secrets_out_of_files(config, variables)
    assert config == SimpleNamespace(env_vars={"NCCL_DEBUG": "INFO"}, logger=SimpleNamespace(comet_api_key=None))
    assert variables == {"COMET_API_KEY": "canary"}
    environment.keep_secrets_out_of_files(SimpleNamespace(), variables)
