"""The quick tier stays quick: what does not belong there fails, and the message names the marker that it lacks."""

import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

from tests.support import quick, tiers, warm
from tests.support.slurm.virtual_cluster import VirtualCluster


class Pretended:
    """A test, as far as its tier goes."""

    nodeid = "tests/test_pretended.py::test_it"

    def __init__(self, *markers: str) -> None:
        self._markers = markers

    def get_closest_marker(self, name: str) -> str | None:
        """The marker, where the test has it."""
        return name if name in self._markers else None


def ends(*markers: str) -> Any:
    """A block in which such a test runs."""
    return contextmanager(tiers.guarded)(Pretended(*markers))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _again_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test that runs inside this one leaves no trace."""
    monkeypatch.setattr(quick, "current", quick.current)


def test_a_quick_test_starts_neither_a_slurm_nor_the_training_stack(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="is quick, and starts a Slurm: mark it `slurm`"):
        VirtualCluster.up(tmp_path / "cluster")
    with pytest.raises(AssertionError, match="is quick, and starts the training stack: mark it `megatron`"):
        warm.start()
    assert not (tmp_path / "cluster").exists()


def test_a_quick_test_that_imports_torch_fails() -> None:
    torch = ModuleType("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "torch", raising=False)
        with pytest.raises(pytest.fail.Exception, match="imports torch: mark it `megatron`"), ends("quick"):
            patch.setitem(sys.modules, "torch", torch)
        patch.delitem(sys.modules, "torch")
        with ends("megatron"):
            patch.setitem(sys.modules, "torch", torch)


def test_a_quick_test_that_takes_long_fails() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiers, "CPU_S", -1)
        with pytest.raises(pytest.fail.Exception, match="s of CPU time: mark it `slow`"), ends("quick"):
            pass
        with ends("slow"):
            pass


def test_every_test_has_a_tier(request: pytest.FixtureRequest) -> None:
    for item in request.session.items:
        others = [name for name in tiers.OTHERS if item.get_closest_marker(name)]
        assert bool(item.get_closest_marker("quick")) is not bool(others), item.nodeid


@pytest.mark.parametrize(("count", "alone"), [(1, 1), (10, 10), (24, 10), (40, 10), (100, 25), (1500, 375)])
def test_a_quick_run_takes_few_examples(count: int, alone: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "only", True)
    assert quick.few(count) == alone
    monkeypatch.setattr(quick, "only", False)
    assert quick.few(count) == count


def test_properties_take_as_many_examples_as_the_run_has(request: pytest.FixtureRequest) -> None:
    assert quick.only is (request.config.getoption("markexpr") == "quick")
    assert settings.default is not None
    assert settings.default.max_examples == quick.few(100)
