"""The Megatron-Core that a run is to import in place of the image's, and the one of a Megatron Bridge checkout."""

import ast
import re
from collections.abc import Mapping
from pathlib import Path

from launcher._util.errors import CommandError, ConfigError, RecipeError
from launcher._util.shell import LocalShell
from launcher.contract.frozen import dataclass
from launcher.discovery.megatron_lm import find_source, git_commit

SUBMODULE = "3rdparty/Megatron-LM"
"""Where a checkout of Megatron Bridge has Megatron-LM."""
BRANCHES = ("main", "dev")
"""The names whose commits a Bridge checkout pins in `.main.commit` and `.dev.commit`."""
SEEN_PAIRS: Mapping[str, str] = {"0.3": "0.16", "0.6": "0.19"}
"""The releases of Megatron-Core with which releases of Bridge were seen to train here."""


@dataclass(frozen=True)
class MegatronCore:
    """A directory with `megatron/core`."""

    path: Path
    version: str | None
    """As package_info.py says; None where it says nothing."""
    commit: str | None


@dataclass(frozen=True)
class PinnedCore:
    """What a checkout of Megatron Bridge has of Megatron-Core."""

    bridge: Path
    commit: str | None
    """That the submodule is at; None where it is not checked out."""
    recorded: str | None
    """That Bridge's commit records."""
    pinned: Mapping[str, str]
    """The commits of `main` and `dev`."""

    @property
    def name(self) -> str:
        """Return main, dev or custom."""
        return next((name for name, commit in self.pinned.items() if commit == self.commit), "custom")


def find_core(source: str, directory: Path, environ: Mapping[str, str]) -> MegatronCore:
    """Return the Megatron-Core that `--mcore` names. Raises ConfigError, CommandError of git."""
    try:
        if source in BRANCHES:
            pinned = read_pinned(directory)
            if source not in pinned.pinned:
                raise ConfigError(f"the checkout of Megatron Bridge has no .{source}.commit", where=str(pinned.bridge))
            submodule = pinned.bridge / SUBMODULE
            source = f"{submodule}@{pinned.pinned[source]}" if _has_files(submodule) else pinned.pinned[source]
        path, commit = find_source(source, directory, environ)
    except RecipeError as error:
        raise ConfigError(error.message, where="--mcore", hint=error.hint) from None
    if not (path / "megatron" / "core").is_dir():
        raise ConfigError("has no megatron/core", where=str(path))
    return MegatronCore(path, core_version(path), commit)


def core_version(path: Path) -> str | None:
    """Return the version that megatron/core/package_info.py states."""
    try:
        tree = ast.parse((path / "megatron" / "core" / "package_info.py").read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None
    values = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    numbers = [values.get(name) for name in ("MAJOR", "MINOR", "PATCH")]
    return ".".join(map(str, numbers)) if all(isinstance(one, int) for one in numbers) else None


def pair_warning(core: MegatronCore, bridge: str | None) -> str | None:
    """Return a warning where it was not seen that this Bridge works with this Megatron-Core."""
    if core.version is None or bridge is None:
        return None
    seen = SEEN_PAIRS.get(".".join(bridge.split(".")[:2]))
    if seen is None or core.version.startswith(f"{seen}."):
        return None
    return f"Megatron Bridge {bridge} was seen to work with Megatron-Core {seen}, and --mcore is {core.version}"


def find_bridge_checkout(directory: Path) -> Path:
    """Return the checkout of Megatron Bridge that a directory is in. Raises ConfigError."""
    for path in (directory, *directory.parents):
        if (path / ".main.commit").is_file() or (path / SUBMODULE).is_dir():
            return path
    raise ConfigError(
        "this is not in a checkout of Megatron Bridge: none of its directories has .main.commit",
        where=str(directory),
        hint="Go to the checkout, or name a directory or commit of Megatron-LM.",
    )


def read_pinned(directory: Path) -> PinnedCore:
    """Return what the Bridge checkout around a directory pins. Raises ConfigError."""
    bridge = find_bridge_checkout(directory)
    pinned = {}
    for name in BRANCHES:
        path = bridge / f".{name}.commit"
        if path.is_file() and (found := re.search(r"[0-9a-f]{7,40}", path.read_text(encoding="utf-8"))):
            pinned[name] = found[0]
    submodule = bridge / SUBMODULE
    commit = git_commit(submodule) if _has_files(submodule) else None
    return PinnedCore(bridge, commit and commit.removesuffix("+changes"), _recorded(bridge), pinned)


def _has_files(directory: Path) -> bool:
    return (directory / ".git").exists()


def _recorded(bridge: Path) -> str | None:
    """Return the commit that Bridge records for the submodule; None where git does not say."""
    try:
        found = LocalShell().run(["git", "-C", str(bridge), "ls-tree", "HEAD", SUBMODULE], check=False, timeout_s=60)
    except CommandError:
        return None
    match = re.search(r"commit ([0-9a-f]{40})", found.stdout)
    return match[1] if match else None


def use_core(name: str, directory: Path) -> PinnedCore:
    """Check a commit out in the submodule of a Bridge checkout: that of `main` or `dev`, or any.

    Raises ConfigError where the submodule has changes, which would be lost, and CommandError of git.
    """
    pinned = read_pinned(directory)
    submodule = pinned.bridge / SUBMODULE
    if not _has_files(submodule):
        raise ConfigError(
            f"the submodule {SUBMODULE} is not checked out",
            where=str(pinned.bridge),
            hint=f"git -C {pinned.bridge} submodule update --init {SUBMODULE}",
        )
    if name in BRANCHES and name not in pinned.pinned:
        raise ConfigError(f"there is no .{name}.commit", where=str(pinned.bridge))
    if str(git_commit(submodule)).endswith("+changes"):
        raise ConfigError(
            "has changes that are not committed", where=str(submodule), hint="Commit or stash them first."
        )
    shell = LocalShell()
    commit = pinned.pinned.get(name, name)
    known = shell.run(
        ["git", "-C", str(submodule), "cat-file", "-e", f"{commit}^{{commit}}"], check=False, timeout_s=60
    )
    if known.status:
        shell.run(["git", "-C", str(submodule), "fetch", "--quiet", "origin", commit], timeout_s=600)
    shell.run(["git", "-C", str(submodule), "checkout", "--quiet", "--detach", commit], timeout_s=600)
    return read_pinned(directory)
