"""Setting a user up on a cluster: a profile from the live Slurm, and the user's defaults."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher._util.errors import ConfigError, DiskError, LauncherError, SlurmError
from launcher._util.shell import LocalShell, Shell
from launcher._util.user_paths import exists, user_path
from launcher.api.clusters import own_cluster_file
from launcher.config.load import config_home, load_cluster, load_request, read_toml
from launcher.contract.values import nearest


@dataclass(frozen=True)
class SiteFacts:
    """What there is to choose from on this machine."""

    name: str
    """What the profile is called unless the user says more: Slurm's name of the cluster."""
    has_slurm: bool
    partitions: tuple[str, ...]
    """Those that are up, Slurm's default first."""
    accounts: tuple[str, ...]
    """Accounts of the user; none where Slurm keeps no accounts or does not say."""
    has_profile: bool = False
    """Whether `name` is the user's own profile already, and the default of their runs."""


@dataclass(frozen=True)
class SetUp:
    """What a user chose; None leaves Slurm's or the launcher's default."""

    name: str
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    image: str | None = None
    run_root: str | None = None

    @property
    def describes_jobs(self) -> bool:
        """Return whether something is stated that a profile keeps."""
        return any(value is not None for value in (self.partition, self.account, self.qos))


@dataclass(frozen=True)
class Written:
    """The files of a user that were written."""

    profile: Path | None
    """None where none was written: it is there already, or this machine has no Slurm."""
    config: Path
    set: Mapping[str, str]
    """The keys of `config` that were set."""
    refused: str | None
    """Slurm's words where it accepts not even a plain job."""
    kept: tuple[Path, ...]
    """Copies of what was there before."""


def site_facts(shell: Shell | None = None) -> SiteFacts:
    """Return what this machine offers. Raises SlurmError where Slurm is there and does not answer."""
    from launcher.discovery.host import detect_host
    from launcher.slurm import info

    shell = shell or LocalShell()
    host = detect_host()
    if not host.has_slurm:
        return SiteFacts("local", False, (), ())
    own = _own_default()
    called = (info.cluster_name(shell) or "mine").lower()
    name = called if called.replace("-", "").replace("_", "").isalnum() else "mine"
    return SiteFacts(own or name, True, _partitions(shell), _accounts(host.user, shell), own is not None)


def _partitions(shell: Shell) -> tuple[str, ...]:
    from launcher.slurm import info

    groups = [group for group in info.node_groups(shell) if group.up]
    ordered = sorted(groups, key=lambda group: not group.default)
    return tuple(dict.fromkeys(group.partition for group in ordered))


def _own_default() -> str | None:
    """Return the cluster of the user's defaults, where the user has a profile of that name."""
    config = config_file()
    named = read_toml(config).get("cluster") if os.path.lexists(config) else None
    return named if isinstance(named, str) and exists(own_cluster_file(named)) else None


def _accounts(user: str, shell: Shell) -> tuple[str, ...]:
    """Return the user's accounts in Slurm's accounting; none where it keeps or says none."""
    argv = ["sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={user}", "format=account"]
    try:
        done = shell.run(argv, check=False, timeout_s=20)
    except LauncherError:
        return ()
    return tuple(dict.fromkeys(line for line in done.stdout.split() if line)) if done.status == 0 else ()


def conflicts(answers: SetUp, facts: SiteFacts) -> list[str]:
    """Return a sentence for each file that is there already and would change. Raises ConfigError for a broken one."""
    found = []
    profile = own_cluster_file(answers.name)
    if _writes_profile(answers, facts) and exists(profile):
        found.append(f"{profile} is there already, and would be written anew")
    config = config_file()
    before = read_toml(config) if os.path.lexists(config) else {}
    for key, value in _defaults(answers, facts).items():
        if key in before and str(before[key]) != value:
            found.append(f"{config} has {key} = {before[key]!r}, which would become {value!r}")
    return found


def _writes_profile(answers: SetUp, facts: SiteFacts) -> bool:
    """Return whether the cluster is probed: for a profile that is there only where something for it is stated."""
    known = facts.has_profile and answers.name == facts.name
    return facts.has_slurm and (answers.describes_jobs or not known)


def check_answers(answers: SetUp, facts: SiteFacts) -> None:
    """Raise ConfigError for a choice that cannot be."""
    if not answers.name or answers.name.startswith(".") or "/" in answers.name:
        raise ConfigError(f"{answers.name!r} is not the name of a profile", where="--name", hint="Such as: mine.")
    if answers.partition is not None and facts.has_slurm and answers.partition not in facts.partitions:
        near = nearest(answers.partition, facts.partitions)
        guess = f"Did you mean: {', '.join(near)}?" if near else f"There are: {', '.join(facts.partitions)}."
        raise ConfigError(
            f"this Slurm has no partition {answers.partition!r} that is up", where="--partition", hint=guess
        )
    if not facts.has_slurm:
        for option in ("partition", "account", "qos"):
            if getattr(answers, option) is not None:
                raise ConfigError("there is no Slurm on this machine", where=f"--{option}", hint="Leave it out.")
    if answers.run_root is not None:
        path = user_path(os.path.expandvars(answers.run_root), Path.cwd(), where="--run-root")
        if exists(path) and not path.is_dir():
            raise ConfigError(f"{path} is not a directory", where="--run-root")


def write_setup(answers: SetUp, facts: SiteFacts, *, replace: bool = False) -> Written:
    """Probe the cluster, write its profile, and make it the user's default.

    The profile keeps partition, account and QOS; one that is there stays unless one of them is stated. config.toml gets
    cluster, image and run root, and keeps everything else that is in it. With `replace` files that are there are
    changed, and a copy of each is kept. Raises ConfigError where something is in the way, SlurmError, DiskError.
    """
    check_answers(answers, facts)
    in_the_way = conflicts(answers, facts)
    if in_the_way and not replace:
        raise ConfigError("; ".join(in_the_way), hint="--force changes it and keeps a copy; or choose another --name.")
    kept, refused, profile = list[Path](), None, None
    if _writes_profile(answers, facts):
        text, refused = _probed(answers)
        profile = own_cluster_file(answers.name)
        kept += _write(profile, text)
    config = config_file()
    values = _defaults(answers, facts)
    kept += _write(config, _merged(config, values))
    # What was written must be readable: a profile that cannot be loaded would break every later command.
    load_request({}, environ=os.environ, directory=Path.cwd())
    load_cluster(values["cluster"], os.environ)
    return Written(profile, config, values, refused, tuple(kept))


def config_file() -> Path:
    """Return the file of the user's defaults."""
    return config_home(os.environ) / "config.toml"


def _defaults(answers: SetUp, facts: SiteFacts) -> dict[str, str]:
    stated = {
        "cluster": answers.name if facts.has_slurm else "local",
        "image": answers.image,
        "run_root": answers.run_root,
    }
    return {key: value for key, value in stated.items() if value is not None}


def _probed(answers: SetUp) -> tuple[str, str | None]:
    from launcher.api.clusters import probe_cluster

    found = probe_cluster(
        partition=answers.partition, account=answers.account, qos=answers.qos, name=answers.name, output=None
    )
    if not found.text:
        raise SlurmError("the probe found nothing")
    return found.text, found.refused


def _merged(config: Path, values: Mapping[str, str]) -> str:
    """Return the text of config.toml with these keys, everything else as it was."""
    import tomlkit

    try:
        document = tomlkit.parse(config.read_text(encoding="utf-8")) if os.path.lexists(config) else tomlkit.document()
    except OSError as error:
        raise DiskError(f"cannot be read: {error.strerror}", where=str(config)) from error
    if not document:
        document.add(tomlkit.comment("Written by `launcher init`: defaults of all runs (launcher help defaults)."))
    for key, value in values.items():
        document[key] = value
    return tomlkit.dumps(document)


def _write(path: Path, text: str) -> list[Path]:
    """Write a file whole, and return the copy of what was there before, if it differed."""
    from launcher.contract import files

    kept = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path) and (before := path.read_text(encoding="utf-8")) != text:
            copy = path.with_name(f"{path.name}.{time.strftime('%Y%m%d-%H%M%S')}.old")
            files.write_text(copy, before)
            kept.append(copy)
        files.write_text(path, text)
    except OSError as error:
        raise DiskError(f"cannot be written: {error.strerror}", where=str(path)) from error
    return kept
