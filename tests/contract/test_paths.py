"""The paths that templates write themselves are those of contract/paths.py."""

import re
from pathlib import Path

import pytest

from launcher.contract.paths import SCRIPTS, RunPaths, attempt_name
from launcher.rundir import RunDirectory

RUN = RunPaths(Path("/runs/name/id"))
ATTEMPT = RUN.attempt_paths("007")
TEMPLATES = sorted(Path("templates").glob("*.sh.j2"))
LITERAL = re.compile(r"\$(run_dir|attempt_dir)/([^\"'\s;:)|]+)")
RANK = 3

# What stands for a number or a name in a template, as the module writes it.
FILLED = (
    ("$LAUNCHER_ATTEMPT", ATTEMPT.name),
    ("$owner_attempt", ATTEMPT.name),
    ("$before", ATTEMPT.name),
    ("$name", ATTEMPT.name),
    ("/*/", f"/{ATTEMPT.name}/"),
    ("/$1/", f"/{ATTEMPT.name}/"),
    ("%4t", f"{RANK:04d}"),
    ("{{", "0"),
)


def known() -> set[str]:
    """Every path of a run, relative to it."""
    found: set[Path] = set()
    for owner in (RUN, ATTEMPT):
        for name in dir(type(owner)):
            value = getattr(type(owner), name)
            if isinstance(value, property) and isinstance(path := value.fget and value.fget(owner), Path):
                found.add(path)
    found |= {ATTEMPT.log(RANK), ATTEMPT.node_ends(RANK), ATTEMPT.path}
    found |= {ATTEMPT.gate_output(ATTEMPT.name), ATTEMPT.gate_errors(ATTEMPT.name)}
    return {str(path.relative_to(RUN.path)) for path in found}


def written_by(template: Path) -> set[str]:
    """The paths below the run directory that a template writes itself, with numbers filled in."""
    text = re.sub(r"\{\{.*?\}\}", "0", template.read_text())
    found = set()
    for owner, rest in LITERAL.findall(text):
        path = rest if owner == "run_dir" else f"attempts/{ATTEMPT.name}/{rest}"
        for placeholder, value in FILLED:
            path = path.replace(placeholder, value)
        found.add(path)
    # printf -v record '%s/ranks/node-%04d.jsonl' "$attempt_dir" "$NODE_RANK"
    for path, of_run in re.findall(r"printf -v \w+ '%s/(\S+)' \"\$(run_dir|attempt_dir)", text):
        filled = path.replace("attempts/%s", f"attempts/{ATTEMPT.name}").replace("%04d", f"{RANK:04d}")
        found.add(filled if of_run == "run_dir" else f"attempts/{ATTEMPT.name}/{filled}")
    return found


def test_templates_write_paths() -> None:
    """The other test would pass on templates that it cannot read."""
    names = {template.name: written_by(template) for template in TEMPLATES}
    assert {"code/entrypoint.py", "attempts/007/ranks/node-0003.jsonl", "attempts/007"} <= names["step.sh.j2"]
    assert "attempts/007/ranks/node-0003.jsonl" in names["enter.sh.j2"]
    assert {"lease", "latest", "attempts/007/logs/srun.log", "attempts/007/logs/rank-0003.log"} <= names["sbatch.sh.j2"]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_the_literal_paths_of_templates_are_the_contracts(template: Path) -> None:
    assert written_by(template) - known() == set()


def test_programs_of_the_code_exist() -> None:
    for path in (RUN.result_program, RUN.nsys_program, RUN.node_check_program, RUN.gate_program, RUN.entrypoint):
        assert path.relative_to(RUN.code).is_file(), path


def test_the_scripts_are_named_as_their_templates() -> None:
    assert {f"{name}.j2" for name in SCRIPTS} <= {template.name for template in TEMPLATES}


def test_attempts_are_named_as_bash_names_them() -> None:
    assert [attempt_name(number) for number in (0, 7, 999, 1000)] == ["000", "007", "999", "1000"]
    assert "printf -v LAUNCHER_ATTEMPT '%03d'" in Path("templates/sbatch.sh.j2").read_text()


def test_a_run_directory_has_the_paths_of_the_contract(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert isinstance(run, RunPaths)
    assert run.plan_file == tmp_path / "plan.json"
    assert run.attempt(0).log(12) == tmp_path / "attempts/000/logs/rank-0012.log"
