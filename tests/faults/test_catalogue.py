"""Every fault of the catalogue has a test here, and the table shows the result of each."""

import ast
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.faults.switch_off import ROOT, SWITCHES
from tests.support import fault_table
from tests.support.fault_table import FAULTS, Faults, Note

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/measurements/faults.md"


def marked(function: ast.FunctionDef) -> tuple[set[str], bool]:
    """The faults that a test's decorators name, and whether it is left to `make soak`."""
    names, soak = set[str](), False
    for decorator in function.decorator_list:
        call = decorator.func if isinstance(decorator, ast.Call) else decorator
        if ast.unparse(call) == "pytest.mark.fault" and isinstance(decorator, ast.Call):
            names |= {ast.literal_eval(argument) for argument in decorator.args}
        soak = soak or ast.unparse(call) == "pytest.mark.soak"
    return names, soak


def test_each_fault_is_shown_by_a_test_of_this_directory_that_runs_by_default() -> None:
    found: dict[str, list[str]] = {}
    for path in sorted(HERE.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                names, soak = marked(node)
                for name in names if not soak else ():
                    found.setdefault(name, []).append(f"{path.name}::{node.name}")
    assert set(found) - set(FAULTS) == set(), "a fault that the catalogue does not have"
    assert set(FAULTS) - set(found) == set(), "a fault without a test"
    assert (len(fault_table.LISTED), len(fault_table.FOUND), len(FAULTS)) == (20, 15, 35)


def test_the_page_has_a_row_for_each_fault() -> None:
    rows = re.findall(r"^\| ([^|]+?) \|", PAGE.read_text(), re.MULTILINE)
    assert set(FAULTS) <= set(rows)


def test_each_mechanism_can_be_switched_off() -> None:
    """The texts that tests.faults.switch_off replaces are there, once each."""
    assert set(SWITCHES) == set(FAULTS)
    for name, switch in SWITCHES.items():
        assert (ROOT / switch.file).read_text().count(switch.on) == 1, name
        assert switch.off != switch.on
        assert switch.second[0] in (ROOT / switch.file).read_text(), name
        assert (HERE / switch.test.partition("::")[0]).exists(), name


def report(outcome: str, *properties: tuple[str, str], when: str = "call") -> Any:
    return SimpleNamespace(outcome=outcome, when=when, user_properties=properties)


def test_the_table(request: pytest.FixtureRequest) -> None:
    node = SimpleNamespace(user_properties=list[tuple[str, str]]())
    notes = Faults(node)  # type: ignore[arg-type]
    notes.note("hang", detected_s=6.04, again_s=7.0, lost=3, verdict="hang, requeue")
    assert fault_table.names_of(request.node) == []
    rows = fault_table.table(
        [
            report("passed", ("faults", '["preemption"]')),
            report("passed", ("faults", '["hang"]'), *node.user_properties),
            report("passed", ("faults", '["node crash"]'), when="setup"),
            report("failed", ("faults", '["rank crash", "time limit"]')),
            report("skipped", ("faults", '["full disk"]'), when="setup"),
        ]
    )
    assert rows == [
        ("rank crash", "", "", "", "FAILED"),
        ("hang", "6.0 s", "7.0 s", "3", "hang, requeue"),
        ("preemption", "", "", "", fault_table.LISTED["preemption"]),
        ("time limit", "", "", "", "FAILED"),
        ("full disk", "", "", "", "not run"),
    ]
    line = fault_table.formatted(rows)[2]
    assert line.split() == ["hang", "6.0", "s", "7.0", "s", "3", "hang,", "requeue"]
    assert Note("hang").lost is None
    with pytest.raises(AssertionError, match="not in the catalogue"):
        notes.note("flood")
