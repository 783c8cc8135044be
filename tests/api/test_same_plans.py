"""A machine without the training stack plans what one with it plans, byte for byte: the wheel in a fresh environment.

The recipes that ship and 60 of Megatron Bridge's on four profiles, each also with three overrides and with two recipe
arguments. Without running recipes this takes about a minute; running all of them (soak) takes several.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from launcher.discovery.recipe import RecipeFile, read_recipe
from launcher.discovery.recipe_index import IndexedRecipe, load_index
from tests.api.plans_of_many import PROFILES
from tests.backends.running import ROOT
from tests.job.all_recipes import world_size
from tests.support.limits import seconds

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

NAMES = 60
OVERRIDES = ("train.train_iters=20", "env_vars.MINE=7", "model.expert_tensor_parallel_size=1")
SCRIPT = str(ROOT / "tests/api/plans_of_many.py")


def shipped(recipes: Path) -> list[dict[str, Any]]:
    """The recipes that ship, copied to where a user has them: name, text and GPUs."""
    gpus = {"deepseek_v3_pretrain": 1024, "llama3_70b_pretrain": 64, "qwen3_30b_a3b_pretrain": 16}
    found = []
    for source in sorted((ROOT / "recipes").glob("*.py")):
        (recipes / source.name).write_bytes(source.read_bytes())
        recipe = read_recipe(str(source), ROOT)
        if isinstance(recipe, RecipeFile) and not recipe.required:
            own = ("moe_token_dispatcher_type=alltoall",) if "moe_token_dispatcher_type" in recipe.parameters else ()
            arguments = ("data=mock", *(own or ("forward_step=gpt_step",)))
            found.append(
                {"recipe": str(recipes / source.name), "gpus": gpus.get(source.stem, 8), "arguments": arguments}
            )
    return found


def of_bridge() -> list[dict[str, Any]]:
    """Sixty recipes of Bridge that can be resolved from the files that ship, from all families."""
    table = json.loads((ROOT / "tests/job/unresolved_recipes.json").read_text())["0.6.2"]
    unresolved = {name for names in table.values() for name in names}

    def fits(one: IndexedRecipe) -> bool:
        if one.alias_of or one.elsewhere or one.name in unresolved or one.task != "pretrain" or one.family == "gpt":
            return False
        return world_size(one) % 8 == 0

    usable = [one for _name, one in sorted(load_index("0.6.2").recipes.items()) if fits(one)]
    chosen = usable[:: len(usable) // NAMES][:NAMES]
    assert len(chosen) == NAMES
    arguments = ("data=mock", "eval_iters=3")
    return [{"recipe": f"bridge:{one.name}", "gpus": world_size(one), "arguments": arguments} for one in chosen]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file with all cases; beside it the recipes."""
    home = tmp_path_factory.mktemp("same")
    (home / "recipes").mkdir()
    found = []
    for each in (*shipped(home / "recipes"), *of_bridge()):
        kinds = {"plain": (), "overrides": OVERRIDES, "arguments": each["arguments"]}
        for kind, assignments in kinds.items():
            name = f"{Path(each['recipe']).name} {kind}"
            found.append({"id": name, "recipe": each["recipe"], "gpus": each["gpus"], "assignments": assignments})
    (home / "cases.json").write_text(json.dumps(found))
    return home / "cases.json"


@pytest.fixture(scope="module")
def without_stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh virtual environment with the wheel and what it depends on: no torch, no Megatron."""
    directory = tmp_path_factory.mktemp("wheel")
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(directory)!r}))"
    built = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory / "venv")], check=True)
    (site,) = (directory / "venv/lib").glob("python3*/site-packages")
    zipfile.ZipFile(directory / built.stdout.split()[-1]).extractall(site)
    for path in sorted(needed("megatron-launcher") - {"megatron-launcher"}):
        link(importlib.metadata.distribution(path), site)
    python = directory / "venv/bin/python"
    absent = "from importlib.util import find_spec; print([find_spec(name) for name in ('torch', 'megatron')])"
    assert subprocess.run([python, "-c", absent], capture_output=True, text=True).stdout == "[None, None]\n"
    return python


def needed(name: str) -> set[str]:
    """The distribution and all that it needs, without extras."""
    found, waiting = set[str](), [name]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            wanted = map(Requirement, importlib.metadata.distribution(one).requires or ())
            waiting += [each.name for each in wanted if not each.marker or each.marker.evaluate({"extra": ""})]
    return found


def link(distribution: importlib.metadata.Distribution, site: Path) -> None:
    """Put an installed distribution into another environment, as links."""
    tops = {path.parts[0] for path in distribution.files or () if path.parts[0] not in ("..", "__pycache__")}
    for top in tops:
        if not (site / top).exists():
            (site / top).symlink_to(Path(str(distribution.locate_file(top))))


def made(python: Path | str, cases: Path, name: str, *options: str) -> dict[str, Any]:
    """What an interpreter makes of the cases."""
    out = cases.with_name(f"{name}.json")
    bin_ = cases.with_name("bin")
    bin_.mkdir(exist_ok=True)
    environ = {"PATH": f"{bin_}:{os.environ['PATH']}", "HOME": str(cases.parent), "HF_HUB_OFFLINE": "1"}
    environ |= {"LANG": "C.UTF-8", "TRANSFORMERS_OFFLINE": "1", "LAUNCHER_CACHE": str(cases.with_name("cache"))}
    if "--check" in options:
        environ["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [str(python), SCRIPT, str(cases), str(out), *options],
        cwd=cases.parent,
        env=environ,
        capture_output=True,
        text=True,
        timeout=seconds(1500),
    )
    assert done.returncode == 0, done.stderr[-4000:]
    answers: dict[str, Any] = json.loads(out.read_text())
    return answers


@pytest.fixture(scope="module")
def by_the_wheel(without_stack: Path, cases: Path) -> dict[str, Any]:
    return made(without_stack, cases, "wheel")


def test_plans_dry_runs_and_scripts_do_not_depend_on_what_is_installed(
    by_the_wheel: dict[str, Any], cases: Path
) -> None:
    with_stack = made(sys.executable, cases, "stack")
    assert by_the_wheel.keys() == with_stack.keys()
    assert len(by_the_wheel) == 3 * (NAMES + len(list(cases.with_name("recipes").glob("*_pretrain.py"))))
    different = [name for name, found in by_the_wheel.items() if found != with_stack[name]]
    assert different == []
    planned = [each for found in by_the_wheel.values() for each in found.values()]
    assert len(planned) == len(by_the_wheel) * len(PROFILES)
    assert sum("plan" in each for each in planned) > len(planned) / 2


@pytest.mark.soak
@pytest.mark.megatron
def test_scripts_are_those_of_a_machine_that_runs_each_recipe_first(by_the_wheel: dict[str, Any], cases: Path) -> None:
    checked = made(sys.executable, cases, "checked", "--check")
    compared, refused, different = 0, {}, {}
    for name, found in checked.items():
        if "refused" in found:
            refused[name] = found["refused"]
            continue
        for profile, answer in found.items():
            own = by_the_wheel[name][profile]
            if "scripts" in own and "scripts" in answer:
                compared += 1
                wrong = [file for file, text in own["scripts"].items() if text != answer["scripts"][file]]
                if wrong:
                    different[f"{name} on {profile}"] = wrong
    assert different == {}
    assert len(refused) < len(checked) / 10, refused
    assert compared > len(checked) * 2


def test_a_users_mixture_of_experts_is_not_queued_by_a_guess(without_stack: Path, tmp_path: Path) -> None:
    (tmp_path / "moe.py").write_text("def configure():\n    return None\n")
    (tmp_path / "bin").mkdir()
    for name in ("srun", "sbatch"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "bin" / name).chmod(0o755)
    environ = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "HOME": str(tmp_path)}
    asked = ("moe.py", "--cluster", "dgx-gb200-nvl72", "--nodes", "36", "--runtime", "none")

    def answer(*command: str) -> "subprocess.CompletedProcess[str]":
        argv = [str(without_stack), "-m", "launcher", *command, *asked]
        return subprocess.run(argv, cwd=tmp_path, env=environ, capture_output=True, text=True)

    refused = answer("submit")
    assert refused.returncode == 2
    assert "TP, CP, EP counted as 1" in refused.stderr
    assert "--check-on node" in refused.stderr
    assert not (tmp_path / "runs").exists()
    shown = answer("plan")
    assert shown.returncode == 0
    assert "warning: NOT CHECKED" in shown.stderr
