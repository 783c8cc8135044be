"""A machine without the training stack plans what one with it plans, byte for byte: the wheel in a fresh environment.

The recipes that ship and 60 of Megatron Bridge's on four profiles, each also with three overrides and with two recipe
arguments. Without running recipes this takes about a minute; running all of them (soak) takes several.
"""

import importlib.metadata
import json
import os
import re
import shutil
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
from tests.support.node_shapes import SHAPES
from tests.support.slurm.config import ClusterOptions
from tests.support.slurm.virtual_cluster import VirtualCluster
from tests.support.warm import warm_python

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

NAMES = 60
KNOWN_BY_A_CHECK = {"memory", "checkpoints", "unchecked", "warnings"}
"""What of a plan a check changes where the index knows the recipe; docs/how-to/check-before-queueing.md says why."""
SUBMITTED = {
    *("vanilla_gpt_pretrain.py", "qwen3_30b_a3b_pretrain.py"),
    *("bridge:deepseek_v2_lite_pretrain_8gpu_h100_bf16_config", "bridge:llama3_8b_pretrain_8gpu_h100_bf16_config"),
}
"""The recipes whose jobs are submitted by `make test`; `make soak` submits all."""
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
            arguments = ("data=mock", *(own or ("forward_step=gpt",)))
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


def absent(name: str, count: int) -> str:
    """slurm.conf's line of nodes that are down, so that jobs of this size can be queued."""
    shape = SHAPES[name]
    sizes = f"Sockets={shape.sockets} CoresPerSocket={shape.cores} ThreadsPerCore={shape.threads} CPUs={shape.cpus}"
    where = f"NodeName={name}-[1-{count}] NodeAddr=127.0.0.1"
    return f"{where} {sizes} RealMemory={shape.memory_mb} Gres=gpu:{shape.gpus} State=DOWN"


def partitions() -> tuple[str, ...]:
    """slurm.conf's lines of a partition for each profile: a few nodes that are there, and absent ones."""
    there = {"dgx-gb200-nvl72": "n[1-4]", "aws-p5": "n[5-6]", "oci-h100": "n[7-8]", "dgx-h100": "n[9-10]"}
    lines = list[str]()
    for name, nodes in there.items():
        count = 1024 // PROFILES[name]
        lines += [absent(name, count), f"PartitionName={name} Nodes={nodes},{name}-[1-{count}] State=UP"]
    return tuple(lines)


SHAPE = ClusterOptions(
    nodes=10,
    shapes=(*(SHAPES["dgx-gb200-nvl72"],) * 4, *(SHAPES["aws-p5"],) * 2, *(SHAPES["oci-h100"],) * 4),
    extra=partitions(),
)
SBATCH = """#!/usr/bin/python3 -IS
# The real sbatch; it gets a copy of the script without --segment, which Slurm 22.05 does not have.
import os, sys, tempfile
(place,) = [number for number, word in enumerate(sys.argv) if word.endswith("/sbatch.sh")]
lines = open(sys.argv[place]).readlines()
if any(line.startswith("#SBATCH --segment=") for line in lines):
    sys.argv[place] = os.path.join(tempfile.mkdtemp(dir={stripped!r}), "sbatch.sh")
    with open(sys.argv[place], "w") as script:
        script.writelines(line for line in lines if not line.startswith("#SBATCH --segment="))
os.execv({real!r}, ["sbatch", *sys.argv[1:]])
"""


@pytest.fixture(
    scope="module",
    params=["four recipes", pytest.param("all recipes", marks=[pytest.mark.soak, pytest.mark.timeout(7200)])],
)
def held(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file with the cases that are submitted."""
    home = tmp_path_factory.mktemp("held")
    for name in ("recipes", "bin", "stripped"):
        (home / name).mkdir()
    (home / "bin/sbatch").write_text(SBATCH.format(real=shutil.which("sbatch"), stripped=str(home / "stripped")))
    (home / "bin/sbatch").chmod(0o755)
    found = list[dict[str, Any]]()
    for each in (*shipped(home / "recipes"), *of_bridge()):
        one, other = (list(PROFILES)[(len(found) // 2 + add) % len(PROFILES)] for add in (0, 1))
        changed = {"assignments": (*OVERRIDES, *each["arguments"]), "profiles": [one]}
        if Path(each["recipe"]).name in SUBMITTED or request.param == "all recipes":
            profiles = list(PROFILES) if request.param == "four recipes" else [other]
            plain = {"assignments": (), "profiles": profiles}
            found.append({**each, "id": f"{Path(each['recipe']).name} plain", **plain})
            found.append({**each, "id": f"{Path(each['recipe']).name} changed", **changed})
    assert request.param == "all recipes" or len(found) == 2 * len(SUBMITTED)
    (home / "cases.json").write_text(json.dumps(found))
    return home / "cases.json"


def submitted(python: str, cluster: VirtualCluster, cases: Path, name: str, check: str) -> dict[str, dict[str, str]]:
    """Submit the cases as held jobs with an interpreter's launcher; job and run directory by case and profile."""
    home, out = cases.parent, cases.with_name(f"{name}.json")
    environ = {**cluster.environment, "PATH": f"{home}/bin:{os.environ['PATH']}"}
    done = subprocess.run(
        [python, SCRIPT, str(cases), str(out), "--submit", check],
        cwd=home,
        env={**environ, "LAUNCHER_CACHE": f"{home}/cache-{name}"},
        capture_output=True,
        text=True,
        timeout=seconds(3600),
    )
    assert done.returncode == 0, done.stderr[-4000:]
    answers = json.loads(out.read_text())
    return {f"{case} on {profile}": made for case, found in answers.items() for profile, made in found.items()}


def as_slurm_has_it(cluster: VirtualCluster, job: str) -> dict[str, str]:
    """The batch script that Slurm keeps for a job, and what it says of the job, but for numbers and times."""
    said = cluster.run("scontrol", "show", "job", "-d", job).stdout
    # Command: Slurm notes where the script that it was given lay, which is the one without --segment.
    own = r"(JobId|Priority|\w*Time|LastSchedEval|Command|AllocNode:Sid)=\S+"
    return {
        "batch script": cluster.run("scontrol", "write", "batch_script", job, "-").stdout,
        "job": re.sub(own, "", said),
    }


def records(run: Path) -> dict[str, str]:
    """All files of a run that has not begun; in the journal without times and the job's number."""
    found = {path.relative_to(run).as_posix(): path.read_text() for path in sorted(run.rglob("*")) if path.is_file()}
    found["journal.jsonl"] = re.sub(r'"(time|job)": [^,}]+', "", found["journal.jsonl"])
    plan = json.loads(found["plan.json"])
    for target, source in plan["code"]:
        assert target.rpartition("/")[2] == source.rpartition("/")[2]
    plan["code"] = sorted(target for target, _source in plan["code"])
    return {**found, "plan.json": json.dumps(plan)}


@pytest.mark.megatron
def test_submitted_jobs_and_their_records_do_not_depend_on_what_is_installed(
    shaped_cluster: VirtualCluster, without_stack: Path, held: Path
) -> None:
    """Four recipes on four profiles, and changed on one of them: held jobs of each installation, of one with its check.

    `make soak` submits all recipes: each on one of the profiles, and changed on another.

    What one installation refuses the other refuses in the same words. They are compared byte for byte, as the launcher
    wrote them and as Slurm has them. Each one's own are run id, nonce, the launcher's interpreter and its installation,
    numbers of jobs, and times. About 50 s of CPU time for four recipes.
    """
    made = {
        "wheel": submitted(str(without_stack), shaped_cluster, held, "wheel", str(without_stack)),
        "stack": submitted(sys.executable, shaped_cluster, held, "stack", warm_python()),
    }
    assert made["wheel"].keys() == made["stack"].keys()
    pythons = {"wheel": str(without_stack), "stack": warm_python()}
    different, added, refused = list[tuple[str, set[str]]](), set[str](), 0
    for name in made["wheel"]:
        if any("error" in made[kind][name] for kind in pythons):
            refused += 1
            if made["wheel"][name] != made["stack"][name]:
                different.append((name, {str(made[kind][name]) for kind in pythons}))
            continue
        seen = dict[str, dict[str, str]]()
        for kind, python in pythons.items():
            one = made[kind][name]
            run = Path(one["run"])
            texts = {**records(run), **as_slurm_has_it(shaped_cluster, one["job"])}
            words = {str(run): "RUN", run.name: "ID", str(run.parents[1]): "ROOT", python: "PYTHON"}
            for value, word in words.items():
                texts = {file: text.replace(value, word) for file, text in texts.items()}
            seen[kind] = {file: re.sub(r"launcher:ID:[0-9a-f]{12}", "TOKEN", text) for file, text in texts.items()}
        wheel, stack = seen["wheel"], seen["stack"]
        plans = [json.loads(texts.pop("plan.json")) for texts in (wheel, stack)]
        assert set(plans[1]["unchecked"]) <= set(plans[0]["unchecked"])
        assert set(plans[0]["warnings"]) <= set(plans[1]["warnings"])
        added |= {key for key in plans[0].keys() | plans[1].keys() if plans[0].get(key) != plans[1].get(key)}
        if wrong := {file for file in wheel.keys() | stack.keys() if wheel.get(file) != stack.get(file)}:
            different.append((name, wrong))
    assert different == []
    cases = json.loads(held.read_text())
    assert len(made["wheel"]) == sum(len(case["profiles"]) for case in cases)
    assert refused <= (0 if len(cases) == 2 * len(SUBMITTED) else len(made["wheel"]) / 2)
    assert added == KNOWN_BY_A_CHECK
    page = (ROOT / "docs/how-to/check-before-queueing.md").read_text().partition("## What a check adds")[2]
    assert set(re.findall(r"(?m)^\| `(\w+)` \|", page)) == KNOWN_BY_A_CHECK
