"""Fixtures of tests with real engines and a real registry; nothing here touches the user's own images."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.images.store.store import Store
from tests.images.engine_home import BASE, EngineHome, make_home, missing_engine, slim_root
from tests.images.registry import Broken, Registry, broken_registry, running_registry


@pytest.fixture(scope="session")
def slim(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small root file system in a directory; to be read only."""
    return slim_root(debian, tmp_path_factory.mktemp("slim"))


@pytest.fixture(scope="session")
def shared_home(slim: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineHome]:
    if (reason := missing_engine()) is not None:
        pytest.skip(reason)
    home = make_home(tmp_path_factory.mktemp("engine"))
    archive = home.directory / "base.tar"
    subprocess.run(["tar", "-C", str(slim), "-c", "-f", str(archive), "."], check=True)
    home.podman("import", "--quiet", str(archive), BASE)
    yield home
    home.unmount()


@pytest.fixture
def home(shared_home: EngineHome, monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineHome]:
    """podman and buildah with a storage of the tests' own, in which a test leaves no container."""
    for name, value in shared_home.environment.items():
        monkeypatch.setenv(name, value)
    before = shared_home.containers()
    yield shared_home
    assert shared_home.containers() == before, "a test left a container"


@pytest.fixture(scope="session")
def registry(shared_home: EngineHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry on this machine with the image base:1."""
    if shutil.which("docker-registry") is None:
        pytest.skip("needs docker-registry: apt-get install docker-registry")
    with running_registry(tmp_path_factory.mktemp("registry")) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in shared_home.environment.items():
            patch.setenv(name, value)
        running.push(BASE, "base:1")
        yield running


@pytest.fixture
def broken(registry: Registry, home: EngineHome) -> Iterator[Broken]:
    """A registry in front of that one, which fails on demand."""
    with broken_registry(registry) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def enroot_program() -> str:
    path = shutil.which("enroot")
    if path is None:
        pytest.skip("needs enroot on the PATH")
    return path
