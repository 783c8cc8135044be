"""Backends, runtimes and fabrics are registered once; nothing outside their modules compares their names."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.backends.start import BACKENDS as STARTERS
from launcher.contract.fabrics import FABRICS
from launcher.planning.backend import BACKENDS
from launcher.runtimes import RUNTIMES

ROOT = Path(__file__).resolve().parents[1]

OWN = (ROOT / "launcher/runtimes", ROOT / "launcher/contract/fabrics")
# "none", "local" and "enroot" are also values of other things: adapters, schedulers, engines for imports.
NAMES = {*BACKENDS, *RUNTIMES, *FABRICS} - {"none", "local", "enroot"}


def compared(path: Path) -> Iterator[str]:
    """Yield the words that a module compares something with."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Compare):
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value
        elif isinstance(node, ast.MatchValue) and isinstance(node.value, ast.Constant):
            yield str(node.value.value)


def test_names_are_compared_in_no_other_module() -> None:
    outside = [path for path in (ROOT / "launcher").rglob("*.py") if not any(path.is_relative_to(own) for own in OWN)]
    assert len(outside) > 200
    assert [(str(path), word) for path in outside for word in compared(path) if word in NAMES] == []
    for path in (ROOT / "templates").glob("*.j2"):
        tags = " ".join(re.findall(r"{%.*?%}", path.read_text()))
        assert not {*re.findall(r"[\"']([\w-]+)[\"']", tags)} & {*BACKENDS, *RUNTIMES, *FABRICS}, path.name


def test_a_comparison_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text('if fabric in (None, "efa") or runtime != "pyxis":\n    x = "roce"\n')
    assert {*compared(path)} == {"efa", "pyxis"}


def test_each_backend_that_is_described_can_be_started() -> None:
    assert {name: backend.traits for name, backend in STARTERS.items()} == dict(BACKENDS)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_has_its_templates(name: str) -> None:
    runtime = RUNTIMES[name]
    assert runtime.name == name
    templates = (
        runtime.srun_template,
        runtime.preparation_template,
        runtime.removal_template,
        runtime.enter_template,
        runtime.inside_template,
    )
    assert [each for each in templates if each and not (ROOT / "templates" / each).is_file()] == []
    assert runtime.is_container is (bool(runtime.srun_template) or bool(runtime.enter_template))
    assert runtime.needs_srun is bool(runtime.srun_template)


@pytest.mark.parametrize("name", FABRICS)
def test_a_fabric_is_named_as_it_is_registered(name: str) -> None:
    assert FABRICS[name].name == name
    for rule in FABRICS[name].lint_rules:
        re.compile(rule.name)
        re.compile(rule.value)
        assert rule.source


def test_another_name_is_not_a_fabric() -> None:
    assert FABRICS.get("model") is None
    assert len(FABRICS) == len([*FABRICS])


@pytest.mark.parametrize("path", sorted((ROOT / "launcher/contract").rglob("*.py")), ids=lambda path: path.stem)
def test_the_contract_is_python_3_10(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 10))
