"""A plug-in that adds a field to a section of Megatron Bridge and patches its hooks, installed by the recipe.

Cost: three forked checks and a cold training of one rank, about 25 s of CPU time.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.job.override_records import override_records
from tests.job.ranks import ROOT, make_run, train
from tests.support.limits import seconds
from tests.support.warm import warm_python

pytestmark = [pytest.mark.megatron, pytest.mark.timeout(600)]

PLUG_IN = """
import dataclasses
import os
from pathlib import Path

from megatron.bridge.training import profiling
from megatron.bridge.training.config import ProfilingConfig


def install():
    added = dataclasses.make_dataclass("Added", [("use_myprof", bool, False)])
    ProfilingConfig.__dataclass_fields__["use_myprof"] = added.__dataclass_fields__["use_myprof"]
    ProfilingConfig.use_myprof = False
    original = profiling.handle_profiling_step

    def handle_profiling_step(config, iteration, *rest, **more):
        if config is not None and config.use_myprof and "RANK" in os.environ:
            with Path(os.environ["LAUNCHER_RUN_DIR"], f"myprof-{os.environ['RANK']}").open("a") as file:
                file.write(f"{iteration}\\n")
        return original(config, iteration, *rest, **more)

    profiling.handle_profiling_step = handle_profiling_step
"""
RECIPE = """
import myprof

myprof.install()

from vanilla_gpt_pretrain import configure  # noqa: E402,F401
"""
PLAIN = "from vanilla_gpt_pretrain import configure  # noqa: F401\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "myprof.py").write_text(PLUG_IN)
    (tmp_path / "with_plug_in.py").write_text(RECIPE)
    (tmp_path / "without.py").write_text(PLAIN)
    (tmp_path / "vanilla_gpt_pretrain.py").write_text((ROOT / "recipes/vanilla_gpt_pretrain.py").read_text())
    return tmp_path


def checked(recipe: Path, *overrides: str) -> dict[str, Any]:
    request = {
        "recipe": {"path": str(recipe), "function": "configure"},
        "options": {"device": "cpu"},
        "overrides": override_records(overrides),
        "world_size": 1,
        "ranks_per_node": 1,
    }
    argv = [warm_python(), str(ROOT / "entrypoint.py"), "--check-config"]
    done = subprocess.run(
        argv, input=json.dumps(request), capture_output=True, text=True, timeout=seconds(280), check=False
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_the_check_knows_the_field_that_the_plug_in_adds(project: Path) -> None:
    answer = checked(project / "with_plug_in.py", "+profiling.use_myprof=true", "profiling.profile_step_start=1")
    assert answer["ok"], answer
    wrong = checked(project / "with_plug_in.py", "+profiling.use_myprof=loud")
    assert not wrong["ok"] and "profiling.use_myprof takes true or false" in wrong["error"]
    absent = checked(project / "without.py", "+profiling.use_myprof=true")
    assert not absent["ok"] and "profiling.use_myprof is unknown" in absent["error"]


def test_the_plug_in_works_in_the_job(tmp_path: Path) -> None:
    changes = ("+profiling.use_myprof=true", "profiling.profile_ranks=[0]", "train.train_iters=3")
    files = {"myprof.py": PLUG_IN, "with_plug_in.py": RECIPE}
    run = make_run(tmp_path / "run", "with_plug_in.py", changes, files=files)
    # Cold: a fork has the function that is patched already where the training loop has it from.
    train(run, ranks=1, cold=True)
    assert (run.path / "myprof-0").read_text().split() == ["0", "1", "2"]
    assert "use_myprof: true" in (run.attempt() / "config.yaml").read_text()
