"""The environment of a rank: the recipe's variables, the restart that they may need, and the record."""

import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ..contract.files import write_json
from ..contract.records import EnvironmentRecord
from ..contract.variables import RANK_VARIABLES, RUN_VARIABLES, is_secret

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


def split_secrets(environment: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return `environment` without the values of secret-like names, and those names."""
    hidden = sorted(name for name in environment if is_secret(name))
    return {name: environment[name] for name in sorted(environment) if name not in hidden}, hidden


def write_environment(path: Path, environment: Mapping[str, str]) -> None:
    """Record a rank's actual environment; values of secret-like names are left out, the names listed."""
    values, hidden = split_secrets(environment)
    record: EnvironmentRecord = {"version": 1, "environment": values, "left_out": hidden}
    write_json(path, record)


def _text(value: Any) -> str:
    # As Bridge itself would write it; it accepts str, int, float and bool.
    return str(value)
