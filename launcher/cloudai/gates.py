"""pre_test and post_test: the NCCL tests of hooks as gates.

A job has to pass them on its own nodes before it trains, or runs them there after its training.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

from launcher._util.errors import ConfigError
from launcher.cloudai.load import HookScenario
from launcher.cloudai.models import GenericTest, System, TestEntry, slurm_time_limit
from launcher.cloudai.profile import Profile
from launcher.contract.files import read_object
from launcher.contract.records.nodes import GateOutcome, GatesRecord
from launcher.contract.validation import problems
from launcher.contract.variables import is_secret, secret_in
from launcher.planning.time_limit import limit_seconds
from launcher.runtimes import RUNTIMES

NCCL_TEST = "NcclTest"
"""The test template that hooks may have here."""

DEFAULTS: dict[str, Any] = {
    "subtest_name": "all_reduce_perf_mpi",
    "nthreads": 1,
    "ngpus": 1,
    "minbytes": "32M",
    "maxbytes": "32M",
    "stepbytes": "1M",
    "op": "sum",
    "datatype": "float",
    "root": 0,
    "iters": 20,
    "warmup_iters": 5,
    "agg_iters": 1,
    "average": 1,
    "parallel_init": 0,
    "check": 1,
    "blocking": 0,
    "cudagraph": 0,
    "stepfactor": None,
}
"""CloudAI's fields of cmd_args that are options of nccl-tests, in its order, with its defaults."""

_NOT_OPTIONS = ("docker_image_url", "subtest_name", "min_busbw", "use_deepep_matrix", "alltoallv_matrix_container_path")

_LIMIT_S = 1200
"""How long a gate may take whose entry states no time_limit."""


VBOOST = {
    "name": "vboost",
    "command": ["sudo", "-n", "nvidia-smi", "boost-slider", "--vboost", "1"],
    "tasks_per_node": 1,
    "limit_s": 60,
    "measures": False,
}
"""enable_vboost: what Bridge's scripts run once for a job, on each of its nodes. Nothing sets it back, as there."""


def all_gates(
    pre_test: HookScenario | None,
    post_test: HookScenario | None,
    system: System,
    profile: Profile,
    *,
    ranks_per_node: int,
    vboost: bool,
) -> tuple[str, ...]:
    """Return what a job runs before and after its training, as a request states gates. Raises ConfigError."""
    found: tuple[str, ...] = (json.dumps(VBOOST),) if vboost else ()
    if pre_test is not None:
        found += gates_of(pre_test, system, profile, ranks_per_node=ranks_per_node)
    if post_test is not None:
        found += gates_of(post_test, system, profile, ranks_per_node=ranks_per_node, when="after")
    return found


def gates_of(
    hook: HookScenario,
    system: System,
    profile: Profile,
    *,
    ranks_per_node: int,
    when: Literal["before", "after"] = "before",
) -> tuple[str, ...]:
    """Return the tests of a hook as a request states gates. Raises ConfigError for one that cannot be a gate."""
    found, names = list[str](), set[str]()
    for number, (entry, test) in enumerate(hook.tests):
        where = hook.file.where(("Tests", number))
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", entry.test_name or entry.id).strip("-._") or "gate"
        # The same hook may be run before and after.
        name = name if when == "before" else f"post-{name}"
        name = name if name not in names else f"{name}-{number}"
        names.add(name)
        gate = {**_gate(name, entry, test, system, profile, ranks_per_node, where), "when": when}
        found.append(json.dumps(gate, sort_keys=True))
    return tuple(found)


def outcomes(file: Path) -> list[GateOutcome]:
    """Return what a gates.json says; nothing where there is none."""
    record = read_object(file)
    if record is None or any(problems(record, GatesRecord, unknown_keys=True)):
        return []
    return cast(GatesRecord, record)["gates"]


def words_after(found: Sequence[GateOutcome]) -> str:
    """Return what the programs after a training have measured, in words; they change nothing about its verdict."""
    after = [gate for gate in found if gate["when"] == "after"]
    return "; ".join(f"{gate['name']}: {'' if gate['passed'] else 'not passed: '}{gate['reason']}" for gate in after)


def _gate(
    name: str,
    entry: TestEntry,
    test: GenericTest,
    system: System,
    profile: Profile,
    ranks_per_node: int,
    where: str,
) -> dict[str, Any]:
    if test.test_template_name != NCCL_TEST:
        raise ConfigError(
            f"a hook's test has the template {test.test_template_name!r}, and gates are made of {NCCL_TEST}",
            where=where,
            hint="--without-hooks runs the scenario without it.",
        )
    args = {**DEFAULTS, **(test.cmd_args if isinstance(test.cmd_args, dict) else {})}
    for key, value in args.items():
        if isinstance(value, list | dict):
            raise ConfigError(f"cmd_args.{key}: a gate has one value", where=where)
    program = str(args["subtest_name"])
    if not re.fullmatch(r"[a-z_]+_perf(_mpi)?", program):
        raise ConfigError(f"cmd_args.subtest_name: {program!r} is not a program of nccl-tests", where=where)
    by_mpi = program.endswith("_mpi")
    gpus = _whole(args["ngpus"], "ngpus", where)
    if by_mpi and ranks_per_node % gpus:
        raise ConfigError(
            f"cmd_args.ngpus: {gpus} GPUs of a task do not divide the {ranks_per_node} of a node", where=where
        )
    least = args.get("min_busbw")
    if least is not None and not isinstance(least, int | float):
        raise ConfigError(f"cmd_args.min_busbw: {least!r} is not a number of GB/s", where=where)
    assignments = list[str]()
    for key, value in test.extra_env_vars.items():
        if not isinstance(value, str):
            raise ConfigError(f"extra_env_vars.{key}: a gate has one value", where=where)
        if is_secret(key) or secret_in(value):
            raise ConfigError(
                f"extra_env_vars.{key}: this looks like a secret, and the job's script has the command of a gate",
                where=where,
                hint="Leave it out; srun passes on the variables that the job has.",
            )
        assignments.append(f"{key}={value}")
    return {
        "name": name,
        "command": [*(["env", *assignments] if assignments else []), program, *_options(args), *_extra(test)],
        "tasks_per_node": ranks_per_node // gpus if by_mpi else 1,
        "limit_s": (limit_seconds(slurm_time_limit(entry.time_limit)) if entry.time_limit else None) or _LIMIT_S,
        "min_bus_gb_s": least,
        "srun_args": [*([f"--mpi={system.mpi}"] if by_mpi else []), *_image(args, profile, where)],
    }


def _whole(value: Any, name: str, where: str) -> int:
    text = str(value)
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"cmd_args.{name}: {value!r} is not a whole number of at least 1", where=where)
    return int(text)


def _options(args: dict[str, Any]) -> list[str]:
    """Return the options of nccl-tests; fields that CloudAI has no name for are passed on, as there."""
    found = list[str]()
    for key, value in args.items():
        if key not in _NOT_OPTIONS and value is not None:
            found += [f"--{key}", str(int(value) if isinstance(value, bool) else value)]
    return found


def _extra(test: GenericTest) -> list[str]:
    return [word for key, value in test.extra_cmd_args.items() for word in ((key, value) if value else (key,))]


def _image(args: dict[str, Any], profile: Profile, where: str) -> list[str]:
    """Return srun's options for the image of a gate: an own one is entered by a runtime that is srun's alone."""
    image = str(args.get("docker_image_url") or "")
    if not profile.is_container or not image:
        return []
    runtime = RUNTIMES.get(profile.values["runtime"])
    if runtime is None or not runtime.needs_srun:
        raise ConfigError(
            f"cmd_args.docker_image_url: a gate in an image of its own needs pyxis, and the runtime is "
            f"{profile.values['runtime']}",
            where=where,
            hint="--without-hooks runs the scenario without it.",
        )
    return [f"--container-image={profile.image_file(image)}", "--no-container-mount-home"]
