"""Fixtures for all tests: a real Slurm where its programs are installed."""

import contextlib
import os
import zlib
from collections.abc import Callable, Generator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.images import images
from tests.support import fault_table, quick, tiers, warm
from tests.support.limits import seconds
from tests.support.slurm.config import ClusterOptions
from tests.support.slurm.virtual_cluster import VirtualCluster, missing_programs, virtual_cluster

CLUSTER = pytest.StashKey[VirtualCluster]()
SHAPED = pytest.StashKey[VirtualCluster]()


def pytest_configure(config: pytest.Config) -> None:
    """Choose how many examples properties take, before their modules are loaded, and how long one may take."""
    quick.only = config.getoption("markexpr") == "quick"
    settings.register_profile("tests", deadline=timedelta(seconds=seconds(1)), max_examples=quick.few(100))
    settings.load_profile("tests")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tiers by fixtures: before pytest selects by marker."""
    tiers.arrange(items)
    fault_table.arrange(items)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was seen of each fault of which a test has ended."""
    stats = terminalreporter.stats
    reports = [each for outcome in ("passed", "failed", "error", "skipped") for each in stats.get(outcome, ())]
    if rows := fault_table.table(reports):
        terminalreporter.section(f"{len({row[0] for row in rows})} of {len(fault_table.FAULTS)} faults")
        for line in fault_table.formatted(rows):
            terminalreporter.write_line(line)


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> fault_table.Faults:
    """Notes about the faults that this test shows, for the table at the end."""
    return fault_table.Faults(request.node)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A quick test is held to it."""
    with contextlib.contextmanager(tiers.guarded)(item):
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Answers of checks are not kept in the home directory."""
    os.environ["LAUNCHER_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _own_run_roots(request: pytest.FixtureRequest) -> None:
    """Runs of one test are not found by another one through the list of run roots."""
    os.environ["XDG_STATE_HOME"] = (
        f"{os.environ['LAUNCHER_CACHE']}/state/{zlib.crc32(request.node.nodeid.encode()):08x}"
    )


@pytest.fixture(scope="session")
def slurm_cluster(request: pytest.FixtureRequest) -> Iterator[VirtualCluster]:
    """Four nodes x eight task slots x eight stand-in GPUs, shared by all tests: for jobs, not for breaking nodes."""
    if (reason := missing_programs()) is not None:
        pytest.skip(reason)
    with virtual_cluster() as cluster:
        request.config.stash[CLUSTER] = cluster
        yield cluster
        del request.config.stash[CLUSTER]


@pytest.fixture(autouse=True)
def _leave_no_jobs(request: pytest.FixtureRequest) -> Iterator[None]:
    """A job that a test leaves on the shared cluster must not take nodes from the next."""
    yield
    cluster = request.config.stash.get(CLUSTER, None)
    if cluster is not None and "slurm_cluster" in request.fixturenames:
        cluster.cancel_all()
    shaped = request.config.stash.get(SHAPED, None)
    if shaped is not None and "shaped_cluster" in request.fixturenames:
        shaped.cancel_all()
        shaped.wait_idle()  # these tests name the nodes that they expect: the first ones


@pytest.fixture
def new_cluster() -> Iterator[Callable[..., VirtualCluster]]:
    """Makes clusters of a test's own, for stopping controllers and failing nodes: `new_cluster(nodes=2, ...)`."""
    if (reason := missing_programs()) is not None:
        pytest.skip(reason)
    with contextlib.ExitStack() as clusters:

        def make(**options: object) -> VirtualCluster:
            return clusters.enter_context(virtual_cluster(ClusterOptions(**options)))  # type: ignore[arg-type]

        yield make


@pytest.fixture(scope="module")
def shaped_cluster(request: pytest.FixtureRequest) -> Iterator[VirtualCluster]:
    """A cluster of the shape that its module asks for: the ClusterOptions in SHAPE, shared by the module's tests."""
    if (reason := missing_programs(accounting=request.module.SHAPE.accounting)) is not None:
        pytest.skip(reason)
    with virtual_cluster(request.module.SHAPE) as cluster:
        request.config.stash[SHAPED] = cluster
        yield cluster
        del request.config.stash[SHAPED]


@pytest.fixture(scope="session")
def debian() -> Path:
    """A Debian root file system with python3 and bash, to be read and copied, not changed."""
    if (reason := images.missing_programs()) is not None:
        pytest.skip(reason)
    return images.debian_root()


@pytest.fixture(scope="session")
def image_file(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A squashfs image of that root: /etc/environment sets GREETING and NCCL_DEBUG, /etc/made-for holds `tests`."""
    directory = tmp_path_factory.mktemp("image")
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "GREETING": "hello from the image", "NCCL_DEBUG": "VERSION"}
    return images.small_image(directory / "small.sqsh", environment=environment, files={"/etc/made-for": "tests\n"})


@pytest.fixture(scope="session", autouse=True)
def _end_fork_servers() -> Iterator[None]:
    """The servers that tests have started end with the session."""
    yield
    warm.stop_all()
