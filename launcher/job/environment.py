"""The environment of a rank: the recipe's variables, the restart that they may need, and the record."""

import os
import re
import sys
from collections.abc import Container, Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, NoReturn, Optional

from ..contract.files import read_object, write_json
from ..contract.records.environment import EnvironmentRecord
from ..contract.variables import RANK_VARIABLES, RUN_VARIABLES, is_harmless, is_secret, secret_in

MARKER = "LAUNCHER_REEXEC_PID"
"""Set to the process id for the restarted program, which keeps that id; a child that inherits it has another id."""

KEPT = frozenset({*RANK_VARIABLES, *RUN_VARIABLES, MARKER})

# Read by getenv() when communicators are created, long after the recipe: assigning them is enough.
READ_LATE = re.compile(r"(NCCL|TORCH_NCCL|GLOO|FI|NVSHMEM)_")
# Read only by code that runs on GPUs.
GPU_ONLY = re.compile(r"(CUDA|CUBLAS|CUDNN|PYTORCH_CUDA|PYTORCH_ALLOC|NVTE|NCCL|TORCH_NCCL|NVSHMEM|DEEP_EP|TRITON)_")


def wanted(env_vars: Mapping[str, Any], user_env: Iterable[str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return what the recipe's `env_vars` change in `environment`.

    The recipe overrides the cluster profile and yields to the user (`user_env`: names set by --env); it never changes
    the variables that make a process a rank.
    """
    kept = set(user_env) | KEPT
    values = {name: _text(value) for name, value in env_vars.items() if name not in kept}
    return {name: value for name, value in values.items() if environment.get(name) != value}


def needs_restart(names: Iterable[str], device: str) -> bool:
    """Return whether a changed variable is read when a library is loaded, so that it needs a restart."""
    late = [READ_LATE, GPU_ONLY] if device == "cpu" else [READ_LATE]
    return any(not any(pattern.match(name) for pattern in late) for name in names)


def apply(changes: Mapping[str, str], device: str) -> None:
    """Assign `changes`; restart this program, at most once, if they come too late for libraries already loaded."""
    restarted = os.environ.pop(MARKER, None) == str(os.getpid())
    os.environ.update(changes)
    if restarted or not needs_restart(changes, device):
        return
    restart()


def restart() -> NoReturn:
    """Replace this process by a new start of the same program, with the current environment."""
    sys.stdout.flush()
    sys.stderr.flush()
    # orig_argv (3.10) has the interpreter's own options (-X, -W), which sys.argv lacks.
    arguments = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, arguments, {**os.environ, MARKER: str(os.getpid())})  # noqa: S606 - a shell is not needed


def split_secrets(environment: Mapping[str, str], planned: Container[str] = ()) -> tuple[dict[str, str], list[str]]:
    """Return `environment` without values that may be secrets, and the names of those.

    Recorded are the values of `planned` names, which the plan has by value, and of names that are known to be harmless.
    """
    shown = {
        name: value
        for name, value in sorted(environment.items())
        if not is_secret(name) and secret_in(value) is None and (name in planned or is_harmless(name, value))
    }
    return shown, sorted(set(environment) - set(shown))


def write_environment(path: Path, environment: Mapping[str, str], plan_file: Optional[Path] = None) -> None:
    """Record a rank's actual environment; values that may be secrets are left out, the names listed."""
    plan = read_object(plan_file) if plan_file is not None else None
    variables = (plan or {}).get("environment")
    planned = {
        variable["name"]
        for variable in (variables if isinstance(variables, list) else ())
        if isinstance(variable, dict) and variable.get("value") is not None and isinstance(variable.get("name"), str)
    }
    values, hidden = split_secrets(environment, planned)
    record: EnvironmentRecord = {"version": 1, "environment": values, "left_out": hidden}
    write_json(path, record)


def keep_secrets_out_of_files(config: Any, environment: MutableMapping[str, str]) -> None:
    """Take secrets out of a configuration: Bridge writes it to config.yaml and into each checkpoint.

    The recipe's variables are in the environment by now. Comet reads its key from COMET_API_KEY as well.
    """
    variables = getattr(config, "env_vars", None)
    if isinstance(variables, dict):
        for name in [name for name, value in variables.items() if is_secret(name) or secret_in(str(value))]:
            del variables[name]
    logger = getattr(config, "logger", None)
    key = getattr(logger, "comet_api_key", None)
    if key:
        environment.setdefault("COMET_API_KEY", str(key))
        setattr(logger, "comet_api_key", None)  # noqa: B010 - of a class that is not known here


def _text(value: Any) -> str:
    # As Bridge itself would write it; it accepts str, int, float and bool.
    return str(value)
