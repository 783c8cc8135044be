"""`plan`, `submit --dry-run` and `run --dry-run` say the same of the same request, whatever is asked for.

Property over options, recipes and profiles; calls are forks of a warm process.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.cli_server import Server, server
from tests.support.limits import seconds
from tests.support.quick import few

PROFILES = ("dgx-gb200-nvl72", "aws-p5", "oci-h100", "dgx-h100", "slurm", "local")
RECIPES = (
    *("small.py", "recipes/vanilla_gpt_pretrain.py", "absent.py", "small.py:other"),
    *("bridge:qwen3_30b_a3b_pretrain_config", "bridge:llama3_8b_pretrain_8gpu_h100_bf16_config", "bridge:llama3_9b"),
)
OPTIONS = (
    *(("--nodes", "1"), ("--nodes", "2"), ("--nodes", "16"), ("--gpus-per-node", "1"), ("--gpus-per-node", "4")),
    *(("--time", "30"), ("--time", "nonsense"), ("--nsys",), ("--profiler", "torch"), ("--profile-steps", "3:5")),
    *(("--keep-going",), ("--attempts", "2"), ("--spares", "1"), ("--shared",), ("--name", "mine"), ("--name", "a/b")),
    *(("--sbatch", "comment=x"), ("--sbatch", "output=x"), ("--unset-sbatch", "mem"), ("--srun-arg=--label",)),
    *(("--env", "A=1"), ("--env", "ABSENT"), ("--expand-env", "A"), ("--scale-batch",), ("--no-check-config",)),
    *(("--verify", "full"), ("--init", "random"), ("--ship", "small.py"), ("--ship", ".."), ("--ship", "absent")),
    *(("--mount", "/tmp:/mnt"), ("--runtime", "none"), ("--python", "/opt/python"), ("--run-root", "elsewhere")),
    *(("--hang-limit", "60"), ("--partition", "gpu"), ("--probe",), ("--allow-checkpoint-load",), ("--resume", "x")),
)
ASSIGNMENTS = (
    *("train.train_iters=20", "train.train_itres=20", "model.tensor_model_parallel_size=2", "data=mock", "text=a b"),
    *("model.pipeline_model_parallel_size=3", "train.global_batch_size=${oc.env:HOME}", "env_vars.MINE=7", "=", "x"),
    *("checkpoint.load=/nowhere", "+profiling.mine=true", "mixed_precision=nonsense_mixed", "forward_step=nonsense"),
)


@pytest.fixture(scope="module")
def commands() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two recipes, and Slurm's programs, which do not answer."""
    directory = tmp_path_factory.mktemp("home")
    (directory / "small.py").write_text("def configure(text=None):\n    return None\n")
    (directory / "recipes").mkdir()
    shipped = Path(__file__).resolve().parents[2] / "recipes/vanilla_gpt_pretrain.py"
    (directory / "recipes/vanilla_gpt_pretrain.py").write_bytes(shipped.read_bytes())
    (directory / "bin").mkdir()
    for name in ("srun", "sbatch", "sinfo", "scontrol", "squeue"):
        (directory / "bin" / name).write_text("#!/bin/sh\nexit 1\n")
        (directory / "bin" / name).chmod(0o755)
    return directory


def said(commands: Server, home: Path, *words: str) -> tuple[int | None, str, str]:
    """What a command answers and prints, without what is each call's own: run id and nonce."""
    environ = {"PATH": f"{home}/bin:/usr/bin:/bin", "HOME": str(home), "LAUNCHER_CACHE": str(home / "cache")}
    # The nodes' interpreter: what is installed here is not what the ranks have.
    asked = words if "--python" in words else (*words, "--python", "/opt/python/bin/python3")
    answer = commands.call(asked, home, environ, limit_s=seconds(60))
    own = re.compile(r"\b\d{8}-\d{6}-[0-9a-f]{12}\b|(?<=:)[0-9a-f]{12}\b")
    return answer.status, own.sub("OWN", answer.stdout), own.sub("OWN", answer.stderr)


@settings(max_examples=few(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    recipe=st.sampled_from(RECIPES),
    profile=st.sampled_from(PROFILES),
    options=st.lists(st.sampled_from(OPTIONS), max_size=4, unique_by=lambda option: option[0]),
    assignments=st.lists(st.sampled_from(ASSIGNMENTS), max_size=3, unique=True),
)
def test_plans_and_dry_runs_are_the_same(
    commands: Server,
    home: Path,
    recipe: str,
    profile: str,
    options: list[tuple[str, ...]],
    assignments: list[str],
) -> None:
    request = (recipe, *assignments, "--cluster", profile, "--json", *(word for option in options for word in option))
    if not any(option[0] == "--no-check-config" for option in options) and recipe == "small.py":
        request = (*request, "--no-check-config")
    for purpose in ("submit", "run"):
        planned = said(commands, home, "plan", "--for", purpose, *request)
        shown = said(commands, home, purpose, "--dry-run", *request)
        assert planned == shown
        assert planned[0] in (0, 2, 3), planned
    assert not (home / "runs").exists() and not (home / "elsewhere").exists()
