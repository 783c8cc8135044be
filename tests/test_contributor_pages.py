"""The Python of the pages for contributors (docs/how-to/contribute) is executed where a contributor would put it."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from launcher.cli.main import COMMANDS, main
from launcher.contract import fabrics
from launcher.contract.fabrics.verdict import BAD, GOOD, Expectation, NodeView, Selection
from launcher.planning import preflight
from launcher.planning.preflight import ConfigView, schedule
from launcher.runtimes.model import ContainerRequest, ContainerRuntime, Mount
from tests.planning import preflight_cases

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs/how-to/contribute"

FILES = {
    "command.md": ("launcher/api/size.py", "launcher/cli/commands/size.py", "tests/cli/test_size.py"),
    "fabric.md": ("launcher/contract/fabrics/omni_path.py",),
    "preflight-rule.md": ("launcher/planning/preflight/schedule.py", "tests/planning/preflight_cases.py"),
    "runtime.md": ("launcher/runtimes/apptainer.py",),
}
"""By page, the file of the project that each block of Python belongs to."""
WHOLE = {name: files for name, files in FILES.items() if name != "preflight-rule.md"}
"""Those whose blocks are whole modules."""


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (PAGES / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def modules() -> Iterator[None]:
    """Forget the modules that a test has made."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        parent, _, own = name.rpartition(".")
        if own in ("size", "omni_path", "apptainer"):
            del sys.modules[name]
            delattr(sys.modules[parent], own)


def execute(page: str, number: int, names: dict[str, Any], into: str = "") -> dict[str, Any]:
    """Execute a block with these names, an expression's value going `into` one; return the names."""
    text = f"{into} = {blocks(page)[number]}" if into else blocks(page)[number]
    exec(compile(text, f"{page}, block {number + 1}", "exec"), names)  # noqa: S102 - the project's own pages
    return names


def add_module(page: str, number: int) -> ModuleType:
    """Execute a block as the module that its file would be."""
    name = FILES[page][number].removesuffix(".py").replace("/", ".")
    made = ModuleType(name)
    parent, _, own = name.rpartition(".")
    made.__package__ = parent
    sys.modules[name] = made
    setattr(import_module(parent), own, made)
    execute(page, number, vars(made))
    return made


def test_every_block_has_a_file() -> None:
    assert {page.name: len(found) for page in PAGES.glob("*.md") if (found := blocks(page.name))} == {
        page: len(files) for page, files in FILES.items()
    }


@pytest.mark.parametrize(
    ("page", "number"), [(page, number) for page, files in WHOLE.items() for number in range(len(files))]
)
def test_a_block_has_the_style_of_its_file(page: str, number: int) -> None:
    command = [str(Path(sys.executable).with_name("ruff")), "--no-cache", "--stdin-filename", FILES[page][number], "-"]
    text = blocks(page)[number]
    for action in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [command[0], *action, *command[1:]], input=text, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    if FILES[page][number].startswith("launcher/contract"):
        ast.parse(text, feature_version=(3, 10))


@pytest.mark.usefixtures("modules")
def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    add_module("command.md", 0)
    add_module("command.md", 1)
    tests = execute("command.md", 2, {})
    monkeypatch.setitem(COMMANDS, "size", "show how much disk a run uses")
    monkeypatch.chdir(tmp_path)
    tests["test_the_size_of_a_run_is_printed"](capsys, tmp_path)
    assert main(["size", str(next(tmp_path.glob("gpt/*"))), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == 2
    assert main(["size", str(tmp_path / "missing")]) == 2
    assert main(["size", "--help"]) == 0
    assert "how much disk a run uses" in capsys.readouterr().out


@pytest.mark.usefixtures("modules")
def test_the_fabric(monkeypatch: pytest.MonkeyPatch) -> None:
    add_module("fabric.md", 0)
    monkeypatch.setattr(fabrics, "NAMES", (*fabrics.NAMES, "omni-path"))
    fabric = fabrics.FABRICS["omni-path"]
    assert fabric.name == "omni-path" and fabric.accepts("AWS Libfabric")
    expected, view = Expectation("require", "omni-path", nodes=2, ranks_per_node=4), NodeView()
    assert fabric.judge(Selection(providers=("opx",)), expected, view).word == GOOD
    verdict = fabric.judge(Selection(providers=("tcp",)), expected, view)
    assert verdict.word == BAD and "lacks aws-ofi-nccl" in verdict.sentence
    request = fabrics.model.NetworkRequest("require", nodes=2, ranks=8, sharp=False)
    assert dict(fabric.variables(request).variables) == {"FI_PROVIDER": "opx"}


def test_the_preflight_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = execute("preflight-rule.md", 0, dict(vars(schedule)))["logging"]
    row = execute("preflight-rule.md", 1, dict(vars(preflight_cases)), into="row")["row"]
    monkeypatch.setattr(preflight, "RULES", (*preflight.RULES, rule))
    for each in (row, *preflight_cases.TABLE):
        (found,) = preflight.findings(
            ConfigView(**{"values": each.values, "world_size": 8, "nodes": 1, "complete": False, **each.more})
        )
        assert each.says in found.text and each.hint in (found.hint or "")
        assert found.impossible == each.impossible
    assert row.says not in {each.says for each in preflight_cases.TABLE}


@pytest.mark.usefixtures("modules")
def test_the_runtime() -> None:
    runtime: ContainerRuntime = add_module("runtime.md", 0).APPTAINER
    assert runtime.is_container and not runtime.needs_srun and runtime.container
    mounts = (Mount("/data", "/mnt/data", read_only=True), Mount("/runs", "/runs"))
    made = runtime.container(ContainerRequest("/x.sqsh", "launcher-gpt", mounts, "/runs", False, ("A",), None))
    assert made.mounts == ("--bind", "/data:/mnt/data:ro", "--bind", "/runs:/runs")
    assert made.runtime == runtime.name and {"A", "RANK"} <= {*made.named}
