"""The Python environment of setup_experiment.py: the user's own, or one with a pinned NeMo-Run."""

import shutil
import sys
from pathlib import Path

from launcher._util import toml
from launcher._util.errors import ConfigError, OutsideError
from launcher._util.shell import LocalShell, Shell
from launcher.cloudai import sources
from launcher.cloudai.load import ScenarioTest
from launcher.cloudai.sources import Checkout
from launcher.rundir.locks import locked

PINNED = {(0, 3): "0.7.0", (0, 4): "0.8.1", (0, 5): "0.9.0"}
"""NeMo-Run of each release of Bridge as its first uv.lock has it (v0.3.0, v0.4.0, v0.5.0), where the clone has none."""

BESIDE = ("wandb", "numpy==1.26.4")
"""What setup_experiment.py imports besides, in CloudAI's versions. It writes no measured values without them."""

_FITTING = ("leptonai<0.40", "wandb<0.26")
"""What fits NeMo-Run 0.7 to 0.9 where there is no lock file."""

_MARK = "launcher-environment"
"""In an environment that this launcher has made: present from the start, with the word `whole` at the end."""

_HELD = ("fiddle", "inquirerpy", "leptonai", "omegaconf", "torchx", "typer", "wandb")

_CONSTRAINTS = "constraints.txt"

_INSTALL_S = 1800.0


def directory_of(test: ScenarioTest, install_path: Path) -> Path:
    """Return the directory of a test's environment, as CloudAI names it."""
    return install_path.absolute() / f"{test.test.nemo_run_repo.directory_name}-venv"


def python_of(test: ScenarioTest, install_path: Path) -> Path:
    """Return the interpreter of a test's environment."""
    return directory_of(test, install_path) / "bin/python"


def pinned(source: Checkout, release: tuple[int, int] | None) -> str | None:
    """Return the version of NeMo-Run that a clone's own lock file pins, else that of its release; None for neither."""
    # It locks an old one for versions of Python that are not used here.
    return max(
        _locked(source).get("nemo-run", ()),
        key=_numbers,
        default=PINNED.get(release) if release is not None else None,
    )


def constraints(source: Checkout) -> list[str]:
    """Return what NeMo-Run's own requirements are held to: the versions of a clone's lock file.

    NeMo-Run states no upper limits of these, and newer ones do not fit it.
    """
    locked_versions = _locked(source)
    found = [f"{name}=={max(locked_versions[name], key=_numbers)}" for name in _HELD if name in locked_versions]
    return found or list(_FITTING)


def _locked(source: Checkout) -> dict[str, list[str]]:
    """Return the versions from package indexes in a clone's uv.lock, by name."""
    try:
        packages = toml.loads((source.path / "uv.lock").read_text()).get("package", [])
    except (OSError, ValueError):
        return {}
    found = dict[str, list[str]]()
    for each in packages:
        if "registry" in each.get("source", {}) and "version" in each:
            found.setdefault(str(each["name"]), []).append(str(each["version"]))
    return found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def install(test: ScenarioTest, source: Checkout, install_path: Path, shell: Shell | None = None) -> str:
    """Make a test's environment unless it is there; return it in words.

    A `nemo_run_repo` that the file states is cloned and installed; else NeMo-Run comes from the package index, in the
    version that Bridge's release was locked with. Raises ConfigError, OutsideError where it cannot be installed.
    """
    shell = shell or LocalShell()
    path = directory_of(test, install_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    busy = OutsideError("another launcher makes it for longer than 30 minutes", where=str(path))
    with locked(path.parent / f".{path.name}.lock", wait_s=_INSTALL_S, busy=busy):
        if not _is_usable(path):
            _make(path, _requirements(test, source, install_path, shell), constraints(source), shell)
    return f"NeMo-Run {version_in(path, shell) or 'of an unknown version'}: {path}"


def uninstall(test: ScenarioTest, install_path: Path) -> bool:
    """Remove an environment of `install`, and return whether there was one; another one is kept."""
    path = directory_of(test, install_path)
    if not (path / _MARK).is_file():
        return False
    shutil.rmtree(path)
    return True


def look(test: ScenarioTest, install_path: Path) -> None:
    """Raise ConfigError where a test has no environment yet."""
    if not _is_usable(directory_of(test, install_path)):
        raise ConfigError(
            "there is no Python environment with NeMo-Run",
            where=str(directory_of(test, install_path)),
            hint="`launcher cloudai install` makes it; one of your own at that place is used as it is.",
        )


def version_in(path: Path, shell: Shell) -> str | None:
    """Return the version of NeMo-Run in an environment."""
    code = "import importlib.metadata as m; print(m.version('nemo-run'))"
    result = shell.run([str(path / "bin/python"), "-I", "-c", code], check=False, timeout_s=60)
    return result.stdout.strip() or None if result.status == 0 else None


def _is_usable(path: Path) -> bool:
    """Return whether an environment is there: the user's own, or one of this launcher's that is whole."""
    mark = path / _MARK
    return (path / "bin/python").exists() and (not mark.exists() or mark.read_text().strip() == "whole")


def _requirements(test: ScenarioTest, source: Checkout, install_path: Path, shell: Shell) -> list[str]:
    if test.wrote("nemo_run_repo"):
        return [str(sources.install(test.test.nemo_run_repo, install_path, shell).path), *BESIDE]
    version = pinned(source, sources.release_of(test.test.bridge, source))
    if version is None:
        raise ConfigError(
            f"which NeMo-Run {test.test.bridge.commit} of Bridge was made for is not known",
            where=test.where,
            hint=f"State nemo_run_repo with a commit, or put an environment at {directory_of(test, install_path)}.",
        )
    return [f"nemo-run=={version}", *BESIDE]


def _make(path: Path, requirements: list[str], held: list[str], shell: Shell) -> None:
    if path.exists():
        if not (path / _MARK).exists():
            raise ConfigError("is not a Python environment", where=str(path), hint="Remove it, or make it one.")
        shutil.rmtree(path)
    path.mkdir()
    (path / _MARK).write_text("begun\n")
    (path / _CONSTRAINTS).write_text("".join(f"{each}\n" for each in held))
    pip = [str(path / "bin/python"), "-m", "pip", "install", "--quiet", "--constraint", str(path / _CONSTRAINTS)]
    commands = ([sys.executable, "-m", "venv", str(path)], [*pip, *requirements])
    for argv in commands:
        result = shell.run(argv, check=False, timeout_s=_INSTALL_S)
        if result.status:
            words = (result.stderr.strip() or result.stdout.strip() or "no output").splitlines()[-1]
            raise OutsideError(
                f"{' '.join(requirements)} cannot be installed: {words}",
                where=str(path),
                hint="Without a network, put a Python environment with NeMo-Run at that place.",
            )
    (path / _MARK).write_text("whole\n")
