"""What the target `cpu` is built from in tests: bases made of Debian's packages, and wheels fetched beforehand.

A build gets its wheels from the directory beside packages.sh, so that it needs no index and no certificates of this
machine. They are compared with the hashes of the requirements when they are fetched and when they are installed.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.engine_home import EngineHome, make_home
from tests.images.images import CACHE, debian_root
from tests.support.limits import seconds

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = tuple(f"requirements/{name}.txt" for name in ("bridge-0.3.1", "cpu", "gpu", "torch"))
FILES = ("Dockerfile", ".dockerignore", *REQUIREMENTS)


@contextlib.contextmanager
def engine_in(directory: Path) -> Iterator[EngineHome]:
    """An engine with a storage of its own in `directory`, which is gone afterwards: such images are large."""
    directory.mkdir()
    home = make_home(directory)
    try:
        yield home
    finally:
        home.unmount()
        shutil.rmtree(directory)


def python_root(directory: Path) -> Path:
    """A Debian root with this Python in /usr/local, as the official image of Python 3.12 has it.

    Skips where it cannot run there.
    """
    base, local = Path(sys.base_prefix), directory / "usr/local"
    if not (base / "bin/python3.12").exists():
        pytest.skip("needs to run on Python 3.12, which it copies into the base")
    subprocess.run(["cp", "-a", "--reflink=auto", str(debian_root()), str(directory)], check=True)
    shutil.copy2(base / "bin/python3.12", local / "bin/python3.12")
    (local / "bin/python3").symlink_to("python3.12")
    ignored = shutil.ignore_patterns("site-packages", "test", "__pycache__", "idlelib", "tkinter")
    shutil.copytree(
        base / "lib/python3.12", local / "lib/python3.12", symlinks=True, ignore=ignored, dirs_exist_ok=True
    )
    (local / "lib/python3.12/site-packages").mkdir()
    for library in base.glob("lib/libpython3*.so*"):
        shutil.copy2(library, local / "lib", follow_symlinks=False)
    tried = "ldconfig && python3 -c 'import ctypes, ensurepip, sqlite3, ssl, venv'"
    done = subprocess.run(["chroot", str(directory), "bash", "-c", tried], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this Python does not run on Debian 12: {done.stderr[-300:]}")
    return directory


def import_root(home: EngineHome, root: Path, name: str, work: Path, *options: str) -> str:
    """Give the engine a root file system as an image."""
    archive = work / "root.tar"
    excluded = [f"--exclude=./{each}/*" for each in ("dev", "proc", "sys", "run")]
    subprocess.run(["tar", "-C", str(root), *excluded, "-c", "-f", str(archive), "."], check=True)
    home.podman("import", "--quiet", *options, str(archive), name)
    archive.unlink()
    return name


def wheels(python: str, requirements: tuple[str, ...], machine: str | None = None) -> Path:
    """A directory with the wheels of some requirements, and what source distributions are built with: in the cache."""
    place = CACHE / f"wheels-{python}-{machine or os.uname().machine}-{'+'.join(requirements)}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_name(f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (place / ".complete").exists():
            return place
        place.mkdir(exist_ok=True)
        where = ["--python-version", python, "--no-deps", "--dest", str(place)]
        where += [word for tag in (_platforms(machine) if machine else ()) for word in ("--platform", tag)]
        files = [word for name in requirements for word in ("--requirement", str(_file(name)))]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        for argv in ([*pip, "--require-hashes", *where, *files], [*pip, *where, "setuptools", "wheel"]):
            done = subprocess.run(argv, capture_output=True, text=True, cwd=place, timeout=seconds(1800))
            if done.returncode:
                pytest.skip(f"pip could not fetch the wheels: {done.stderr[-300:]}")
        (place / ".complete").touch()
        return place


def _platforms(machine: str) -> list[str]:
    return [f"manylinux_2_{minor}_{machine}" for minor in range(17, 37)] + [f"manylinux2014_{machine}"]


def _file(name: str) -> Path:
    return ROOT / ("containers/python/tools.txt" if name == "tools" else f"requirements/{name}.txt")


def context(directory: Path, *places: Path) -> Path:
    """A copy of the build's context with the wheels of some directories in it."""
    for path in FILES:
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, directory / path)
    shutil.copytree(ROOT / "containers", directory / "containers")
    (directory / "containers/python/wheels").mkdir()
    for file in (file for place in places for file in place.iterdir() if file.suffix in (".whl", ".gz")):
        target = directory / "containers/python/wheels" / file.name
        try:
            target.hardlink_to(file)
        except OSError:  # another file system
            shutil.copy2(file, target)
    return directory
