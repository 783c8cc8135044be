"""TOML files for the tests: a system, tests and scenarios with single values replaced."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.cloudai.cases import PlannedCase, RunChoices, cases_of, plan_case
from launcher.cloudai.load import LoadedFiles, load_files
from launcher.cloudai.models import Test
from launcher.cloudai.sources import look

DATA = Path(__file__).parent / "data"

BRIDGE = {"url": "https://example.com/Megatron-Bridge.git", "commit": "v0.6.0"}

SYSTEM: Mapping[str, Any] = {
    "name": "s",
    "scheduler": "slurm",
    "install_path": "install",
    "output_path": "results",
    "default_partition": "main",
    "gpus_per_node": 8,
    "partitions": [{"name": "main", "groups": [{"name": "g", "nodes": ["n[1-4]"]}]}],
}
ARGS: Mapping[str, Any] = {
    "model_family_name": "qwen",
    "model_recipe_name": "qwen3_30b_a3b",
    "gpu_type": "h100",
    "num_gpus": 16,
    "compute_dtype": "fp8_cs",
}
TEST: Mapping[str, Any] = {
    "name": "t",
    "description": "d",
    "test_template_name": "MegatronBridge",
    "git_repos": [BRIDGE],
    "cmd_args": ARGS,
}


def write(path: Path, values: Mapping[str, Any]) -> Path:
    import tomlkit

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tomlkit.dumps(dict(values)))
    return path


def args_test(**changes: Any) -> Test:
    """A test with these fields of cmd_args."""
    return Test.model_validate({**TEST, "cmd_args": {**ARGS, **changes}})


def workspace(
    directory: Path,
    *entries: Mapping[str, Any],
    test: Mapping[str, Any] | None = None,
    system: Mapping[str, Any] | None = None,
    scenario: Mapping[str, Any] | None = None,
) -> LoadedFiles:
    """The files of a scenario, loaded: a test `t`, and entries that name it unless they are whole tests."""
    write(directory / "tests/t.toml", {**TEST, **(test or {})})
    named = [
        {"id": f"T{number}", **({} if "test_template_name" in entry else {"test_name": "t"}), **entry}
        for number, entry in enumerate(entries or ({},), 1)
    ]
    return load_files(
        write(directory / "system.toml", {**SYSTEM, "install_path": str(directory / "install"), **(system or {})}),
        write(directory / "scenario.toml", {"name": "s", **(scenario or {}), "Tests": named}),
        directory / "tests",
    )


def planned(
    found: LoadedFiles, root: Path, options: RunChoices | None = None, shell: Mapping[str, str] | None = None
) -> list[PlannedCase]:
    """What is asked of the launcher for each case that can run."""
    return [
        plan_case(
            case,
            found,
            root,
            options or RunChoices(mode="native"),
            shell_environment=shell or {},
            source=look(case.test.bridge, found.system.install_path),
        )
        for test in found.scenario.tests
        for case in cases_of(test)
        if not case.refused
    ]
