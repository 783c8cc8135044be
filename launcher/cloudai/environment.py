"""The environment of a test's runs: secrets by name alone, values that refer to others marked for expansion."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from launcher._util.errors import ConfigError
from launcher.cloudai.cmd_args import Note
from launcher.cloudai.load import ScenarioTest
from launcher.cloudai.models import System
from launcher.contract.variables import RANK_VARIABLES, is_secret, references, secret_in

OF_THE_RUNTIME = ("MELLANOX_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_VISIBLE_DEVICES")
"""Variables that enroot's hooks read, outside the container, before it is made."""

SHOWN = "(not shown)"
"""What stands for a secret in records."""


@dataclass(frozen=True)
class Environment:
    """The variables of a test's runs."""

    values: Mapping[str, str]
    """By name, without secrets."""
    expand: tuple[str, ...] = ()
    """Names of those whose values refer to others."""
    host: Mapping[str, str] = field(default_factory=dict)
    """Those that are set outside the container, too."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Values that are passed on by name."""
    notes: tuple[Note, ...] = ()

    @property
    def entries(self) -> tuple[str, ...]:
        """Return the variables as a request states them: secrets by name."""
        return (*(f"{name}={value}" for name, value in sorted(self.values.items())), *sorted(self.secrets))


def environment_of(test: ScenarioTest, system: System, shell: Mapping[str, str]) -> Environment:
    """Return the environment of a test. Raises ConfigError for a variable that cannot be given."""
    merged = {name: _text(value) for name, value in system.global_env_vars.items()}
    merged |= {name: str(value) for name, value in test.test.extra_env_vars.items()}
    values, secrets, notes = dict[str, str](), dict[str, str](), list[Note]()
    for name, value in merged.items():
        place = "extra_env_vars" if name in test.test.extra_env_vars else "global_env_vars"
        _refuse_name(name, place, test)
        if is_secret(name) or secret_in(value):
            secrets[name] = value
            notes.append(Note(f"{place}.{name}", _secret_in_a_file(name)))
            continue
        values[name] = value
        if re.search(r"\$\(|`", value):
            notes.append(Note(f"{place}.{name}", "its command stays text: only $NAME and ${NAME} are replaced"))
    _add_fields(test, shell, secrets, notes)
    expand = tuple(sorted(name for name, value in values.items() if any(part[1] for part in references(value))))
    host = {name: value for name, value in values.items() if name in OF_THE_RUNTIME}
    return Environment(values, expand, host, secrets, tuple(notes))


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refuse_name(name: str, place: str, test: ScenarioTest) -> None:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ConfigError(f"{place}.{name}: is not a name of a variable", where=test.locate((place, name)))
    if name in RANK_VARIABLES or name.startswith(("SLURM_", "LAUNCHER_")):
        raise ConfigError(f"{place}.{name}: is set for each rank and cannot be given", where=test.locate((place, name)))


def _secret_in_a_file(name: str) -> str:
    return (
        f"is a secret in a file that others may read; it goes into the job's environment alone. "
        f"Better: leave it out, and set {name} in your shell"
    )


def _add_fields(test: ScenarioTest, shell: Mapping[str, str], secrets: dict[str, str], notes: list[Note]) -> None:
    """Add the token for Hugging Face and the key for Weights & Biases: the file's value wins over the shell's."""
    args = test.test.cmd_args
    for name, variable, value in (
        ("hf_token", "HF_TOKEN", args.hf_token),
        ("wandb_key", "WANDB_API_KEY", args.wandb_key or ""),
    ):
        if value.strip():
            secrets[variable] = value.strip()
            notes.append(Note(f"cmd_args.{name}", _secret_in_a_file(variable)))
        elif variable not in secrets and (own := shell.get(variable, "").strip()):
            secrets[variable] = own
    if "HF_TOKEN" not in secrets:
        text = "there is no token: what is read of Hugging Face's hub has to be public, or here already"
        notes.append(Note("cmd_args.hf_token", text, "info"))


@contextlib.contextmanager
def in_shell(secrets: Mapping[str, str]) -> Iterator[None]:
    """Have these variables in this process's environment: what is passed on by name is read there."""
    before = {name: os.environ.get(name) for name in secrets}
    os.environ.update(secrets)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
