"""What is written beside each run of a scenario: case.json for this launcher, test-run.toml as CloudAI writes it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.cloudai.cases import NUM_NODES, Case, PlannedCase
from launcher.cloudai.cmd_args import SECRETS
from launcher.cloudai.environment import SHOWN
from launcher.cloudai.models import Test
from launcher.cloudai.profile import toml_text
from launcher.contract import files
from launcher.contract.variables import is_secret, secret_in

CASE = "case.json"
TEST_RUN = "test-run.toml"
SCENARIO = "scenario.json"
"""In the directory of a scenario's results: what is needed to write its reports."""


@dataclass(frozen=True)
class CaseRecord:
    """A case as it was recorded, and the run that it became."""

    directory: Path
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Return TEST/ITERATION, or TEST/ITERATION/STEP."""
        return str(self.values["name"])

    @property
    def test(self) -> str:
        """Return the test's id."""
        return str(self.values["test"])

    @property
    def step(self) -> int | None:
        """Return the number among the points of a sweep; None outside of sweeps."""
        step = self.values["step"]
        return None if step is None else int(step)

    @property
    def run_dir(self) -> Path | None:
        """Return the run directory; None where nothing was submitted."""
        return Path(self.values["run_dir"]) if self.values.get("run_dir") else None

    @property
    def by_script(self) -> bool:
        """Return whether Bridge's own setup_experiment.py runs it (exec mode)."""
        return self.values.get("mode") == "exec" and not self.refused and (self.directory / "exec").is_dir()

    @property
    def refused(self) -> tuple[str, ...]:
        """Return why it was not submitted."""
        return tuple(self.values["refused"])

    @property
    def action(self) -> dict[str, Any]:
        """Return the values of the sweep's axes; num_nodes as NUM_NODES."""
        return dict(self.values["action"])

    @property
    def definition(self) -> dict[str, Any]:
        """Return the test, without secrets."""
        return dict(self.values["definition"])


def write_case(
    case: Case,
    directory: Path,
    planned: PlannedCase | None,
    submitted: Mapping[str, Any] | None,
    refused: str | None = None,
) -> None:
    """Write a case's record. `submitted` has `run_dir`, `job` and `cluster`."""
    directory.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {
        "version": 1,
        "name": case.name,
        "test": case.scenario_test.entry.id,
        "iteration": case.iteration,
        "step": case.step,
        "action": dict(case.action),
        "env_params": dict(case.drawn),
        "refused": [*case.refused, *([refused] if refused else [])],
        "weight": case.scenario_test.entry.weight,
        "mode": planned.mode if planned else None,
        "nodes": planned.nodes if planned else None,
        "gpus_per_node": planned.request.gpus_per_node if planned else None,
        "commit": planned.source.commit if planned else None,
        "recipe": planned.request.recipe if planned else None,
        "notes": [str(note) for note in planned.notes] if planned else [],
        "definition": definition(case.test),
        **(submitted or {"run_dir": None, "job": None, "cluster": None}),
    }
    files.write_json(directory / CASE, values)


def read_cases(root: Path) -> Iterator[CaseRecord]:
    """Yield the recorded cases of a scenario's results, in the order of tests, iterations and steps."""
    found = list[CaseRecord]()
    for path in (*root.glob(f"*/*/{CASE}"), *root.glob(f"*/*/*/{CASE}")):
        values = files.read_object(path)
        if values is not None and values.get("version") == 1:
            found.append(CaseRecord(path.parent, values))
    order = list((files.read_object(root / SCENARIO) or {}).get("tests", []))

    def place(one: CaseRecord) -> tuple[int, int, int]:
        number = order.index(one.test) if one.test in order else len(order)
        return number, int(one.values["iteration"]), one.step or 0

    yield from sorted(found, key=place)


def definition(test: Test) -> dict[str, Any]:
    """Return a test as plain values without None, and without what looks like a secret."""
    values: dict[str, Any] = _plain(test.model_dump(mode="json"))
    for name in SECRETS:
        if values["cmd_args"].get(name):
            values["cmd_args"][name] = SHOWN
    for table in ("extra_env_vars", "extra_cmd_args"):
        for name, value in values.get(table, {}).items():
            if is_secret(name) or secret_in(str(value)):
                values[table][name] = SHOWN
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if each is not None}
    return [_plain(each) for each in value if each is not None] if isinstance(value, list) else value


def run_record_text(planned: PlannedCase, command: str) -> str:
    """Return test-run.toml: what CloudAI dumps of a test's run."""
    case, entry = planned.case, planned.case.scenario_test.entry
    return toml_text(
        {
            "name": entry.id,
            "nnodes": int(case.action.get(NUM_NODES, planned.nodes)),
            "nodes": entry.nodes,
            "output_path": str(planned.directory.absolute()),
            "iterations": entry.iterations,
            "current_iteration": case.iteration,
            "step": case.step or 0,
            "test_cmd": command,
            "full_cmd": command,
            "test_definition": definition(case.test),
        }
    )
