"""The tiers of the tests, and what keeps the quick one quick.

`make quick` runs what carries the marker `quick`. It is written at no test: all get it that have none of the others
(`slurm`, `megatron`, `slow`, `soak`), and those a test has from its fixtures where that is possible. A quick test that
starts a Slurm or the training stack, imports torch, or takes too much CPU time fails, and the message names the marker
that it lacks.
"""

import resource
import sys
from collections.abc import Iterator

import pytest

from tests.support import quick
from tests.support.limits import SCALE, seconds

BY_FIXTURE = {
    "slurm_cluster": "slurm",
    "new_cluster": "slurm",
    "shaped_cluster": "slurm",
    "debian": "slow",
    "browser": "slow",
}
"""Markers that a test has because it uses a fixture, itself or through another one."""
OTHERS = ("slurm", "megatron", "slow", "soak")
CPU_S = 12
"""What a quick test may take of CPU time, its children's included: less than importing the training stack."""
FIRST = (
    *("job/test_network_follower", "job/test_watchdog", "images/test_stalls"),
    *("job/test_all_recipes", "backends/test_modes", "support/test_fork_server", "job/test_network_training"),
    *("training/", "job/test_bridge_031", "cli/", "faults/", "backends/", "doctor/", "job/test_fetch", "job/"),
)
"""Beginnings of the paths of modules that take long, the longest first: workers begin with them, and none is left with
one at the end. Of the quick ones the first three wait nearly all the time, while other workers use the processors.
`PYTEST_ADDOPTS=--durations=0 make test` shows how long each test takes."""


def arrange(items: list[pytest.Item]) -> None:
    """Give the tests their tiers, scale their time limits, and put those that take long first."""
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in BY_FIXTURE:
                item.add_marker(BY_FIXTURE[fixture])
        if not any(item.get_closest_marker(name) for name in OTHERS):
            item.add_marker("quick")
        if SCALE != 1:
            marker = item.get_closest_marker("timeout")
            limit = float(item.config.getini("timeout") if marker is None else marker.args[0])
            item.add_marker(pytest.mark.timeout(seconds(limit)), append=False)
    items.sort(key=_order)


def _order(item: pytest.Item) -> tuple[int, int]:
    path = item.nodeid.partition("::")[0].removeprefix("tests/")
    early = next((number for number, beginning in enumerate(FIRST) if path.startswith(beginning)), len(FIRST))
    return (bool(item.get_closest_marker("quick")), early)


def guarded(item: pytest.Item) -> Iterator[None]:
    """Around a test: fail one that is called quick and is not."""
    if item.get_closest_marker("quick") is None:
        yield
        return
    had_torch, before = "torch" in sys.modules, _cpu_s()
    quick.current = item.nodeid
    try:
        yield
    finally:
        quick.current = None
    if "torch" in sys.modules and not had_torch:
        pytest.fail(f"{item.nodeid} is quick, and imports torch: mark it `megatron`", pytrace=False)
    if (used := _cpu_s() - before) > CPU_S:
        pytest.fail(f"{item.nodeid} is quick, and takes {used:.0f} s of CPU time: mark it `slow`", pytrace=False)


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
