"""The environment of a rank: the recipe's variables, the one new start that they may need, and the record of it."""

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
"""Set for the re-executed program alone: execve keeps the process id. Inherited by a child, it says nothing."""

KEPT = frozenset({*RANK_VARIABLES, *RUN_VARIABLES, MARKER})

# Read by getenv() when communicators are created, long after the recipe: assigning them in this process is enough.
READ_LATE = re.compile(r"(NCCL|TORCH_NCCL|GLOO|FI|NVSHMEM)_")
# Read only by code that runs on GPUs.
GPU_ONLY = re.compile(r"(CUDA|CUBLAS|CUDNN|PYTORCH_CUDA|PYTORCH_ALLOC|NVTE|NCCL|TORCH_NCCL|NVSHMEM|DEEP_EP|TRITON)_")


def wanted(env_vars: Mapping[str, Any], user_env: Iterable[str], environment: Mapping[str, str]) -> dict[str, str]:
    """What the recipe's `env_vars` change in `environment`.

    The recipe is stronger than the cluster profile, weaker than the user (`user_env`: names set by --env), and it never
    touches the variables that make a process a rank.
    """
    kept = set(user_env) | KEPT
    values = {name: _text(value) for name, value in env_vars.items() if name not in kept}
    return {name: value for name, value in values.items() if environment.get(name) != value}


def needs_restart(names: Iterable[str], device: str) -> bool:
    """Whether one of the changed variables is read when a library is loaded: only a new start makes it count."""
    late = [READ_LATE, GPU_ONLY] if device == "cpu" else [READ_LATE]
    return any(not any(pattern.match(name) for pattern in late) for name in names)


def apply(changes: Mapping[str, str], device: str) -> None:
    """Assign `changes`; start this program anew, at most once, where they come too late for what is loaded already."""
    restarted = os.environ.pop(MARKER, None) == str(os.getpid())
    os.environ.update(changes)
    if restarted or not needs_restart(changes, device):
        return
    restart()


def restart() -> NoReturn:
    """Replace this process by a new start of the same program, with today's environment."""
    sys.stdout.flush()
    sys.stderr.flush()
    # orig_argv (3.10) keeps the interpreter's own options (-X, -W), which sys.argv has lost.
    arguments = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, arguments, {**os.environ, MARKER: str(os.getpid())})  # noqa: S606 no shell is wanted


def split_secrets(environment: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """`environment` without the values of secret-like names, and those names."""
    hidden = sorted(name for name in environment if is_secret(name))
    return {name: environment[name] for name in sorted(environment) if name not in hidden}, hidden


def write_environment(path: Path, environment: Mapping[str, str]) -> None:
    """Record the real environment of a rank; values of secret-like names are left out and the names listed."""
    values, hidden = split_secrets(environment)
    record: EnvironmentRecord = {"version": 1, "environment": values, "left_out": hidden}
    write_json(path, record)


def _text(value: Any) -> str:
    # What Bridge itself would write; it takes str, int, float and bool.
    return str(value)
