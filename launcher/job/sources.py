"""Sources that a rank imports: the run's own files as they were, Megatron's in place of the installed packages."""

import hashlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any, Optional

from ..contract import files
from ..contract.paths import RECIPE, RunPaths
from ..contract.records.request import JobOptions
from .errors import TransientError, UserError

_SHOWN = 5


def refuse_changed_code(run: RunPaths) -> None:
    """Raise UserError where a file of code/ is not what the run was made with, TransientError where that is unknown.

    Runs of a root share these files (launcher/rundir/code_store.py): who edits one in place, with the right to do so,
    changes it for all of them. Rank 0 looks, for all ranks, before the recipe is imported.
    """
    try:
        if not run.code_sums.exists():  # a directory made by hand
            return
        recorded = _parsed(files.read_bytes(run.code_sums))
        if recorded is None:
            raise UserError(
                "the sums of the files of code/ are damaged", where=str(run.code_sums), hint="start a new run"
            )
        changed = [name for name, digest in sorted(recorded.items()) if _sum(run.code / name) != digest]
    except OSError as error:
        raise TransientError(
            f"the files of code/ cannot be compared with what the run was made with: {error.strerror}",
            where=str(error.filename or run.code),
        ) from error
    if not changed:
        return
    own = all(name.startswith(f"{RECIPE}/") for name in changed)
    resume = f", or go on with the change: launcher submit --resume {run.path} --allow-change code" if own else ""
    raise UserError(
        f"{', '.join(changed[:_SHOWN])}{' and others' if len(changed) > _SHOWN else ''} below code/ changed after the "
        "run was made, here or in another run that shares the file",
        where=str(run.code / changed[0]),
        hint=f"restore what it was, or start a new run{resume}",
    )


def _parsed(text: bytes) -> "Optional[dict[str, Any]]":
    """Return the object of a JSON text; None where it is something else."""
    try:
        value = files.parse_json(text.decode())
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _sum(path: Path) -> Optional[str]:
    """Return the SHA-256 of a file; None where there is no file. Raises OSError where one cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


STACK = ("torch", "megatron.core", "megatron.bridge")
"""What training imports, as a user would install it (docs/reference/requirements.md)."""


def missing(modules: "tuple[str, ...]" = STACK) -> "list[str]":
    """Return the modules that this interpreter cannot find, without importing them."""
    return [name for name in modules if not _is_found(name)]


def _is_found(name: str) -> bool:
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # no package around it, or one that was half removed
        return False


def require_stack(modules: "tuple[str, ...]" = STACK) -> None:
    """Raise UserError where the training stack is not installed for this interpreter."""
    if lacking := missing(modules):
        raise UserError(
            f"this Python has no {', '.join(lacking)}, which training needs",
            where=sys.executable,
            hint="run in an image that has them (--image), or with another interpreter (--python PATH); "
            "`launcher help requirements` lists what an image must hold",
        )


def use_core(options: JobOptions) -> None:
    """Import the Megatron-Core that the request names, if any, in place of the installed one. Raises UserError."""
    if "mcore" in options:
        put_first(Path(options["mcore"]))


def put_first(source: Path) -> None:
    """Import `megatron` from a checkout before the installed packages. Raises UserError."""
    if not (source / "megatron").is_dir():
        raise UserError(f"{source} has no directory megatron here", hint="is it mounted into the image?")
    sys.path.insert(0, str(source))
    os.environ["PYTHONPATH"] = os.pathsep.join(part for part in (str(source), os.environ.get("PYTHONPATH")) if part)
    if "megatron.core" in sys.modules:
        raise UserError("megatron was imported before its checkout could be put before the installed one")


def lend_helpers() -> bool:
    """Let a checkout without compiled helpers use those of the installed package; return whether there are any."""
    from megatron.core import datasets

    for parent in sys.path:
        directory = Path(parent) / "megatron" / "core" / "datasets"
        if str(directory) not in datasets.__path__ and directory.is_dir():
            datasets.__path__.append(str(directory))
    return importlib.util.find_spec("megatron.core.datasets.helpers_cpp") is not None


def use_built_helpers() -> None:
    """Let Megatron-LM compile no helpers where there are some.

    It runs `make` in megatron/core/datasets, where the installed package has no Makefile, and where a checkout may be
    shared by many jobs, or read-only.
    """
    if lend_helpers():
        from megatron.training import initialize

        initialize._compile_dependencies = lambda: None
