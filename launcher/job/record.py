"""The record of a rank's own end, a line of its node's file (contract/rank_ends.py)."""

import contextlib
import importlib
import importlib.metadata
import os
import platform
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Optional

from ..contract import rank_ends
from ..contract.failures import Level, classify
from ..contract.files import write_json
from ..contract.records.environment import MegatronRecord
from ..contract.records.ranks import Cause, ExceptionRecord, RankOutcome, RankRecord
from .errors import UserError
from .rank import Rank

PACKAGES = (
    *("megatron-core", "megatron-bridge", "torch", "triton", "transformer-engine", "flash-attn", "apex", "numpy"),
    *("transformers", "datasets", "nvidia-modelopt", "nvidia-resiliency-ext", "megatron-energon", "deep-ep"),
    *(
        "nvidia-nccl-cu12",
        "nvidia-nccl-cu13",
        "nvidia-cudnn-cu12",
        "nvidia-cudnn-cu13",
        "wandb",
        "mlflow",
        "tensorboard",
    ),
)
"""Packages whose versions an attempt notes."""
COMMUNICATION_TYPES = ("DistBackendError", "DistNetworkError", "DistStoreError")


@dataclass(frozen=True)
class End:
    """How a rank ended. `outcome` is finished, stopped or failed; `iteration` the last one that was completed."""

    outcome: RankOutcome
    reason: Optional[str] = None
    iteration: Optional[int] = None
    exception: Optional[ExceptionRecord] = None
    cause: Optional[Cause] = None

    @property
    def exit_status(self) -> int:
        """0 finished or stopped, 2 the request was wrong, 1 anything else."""
        if self.outcome != "failed":
            return 0
        return 2 if self.cause == "user" else 1


def failure(error: BaseException, code_dir: Path, iteration: Optional[int] = None) -> End:
    """Return the end of a rank whose exception is `error`; `code_dir` holds the user's own files."""
    where = error.where if isinstance(error, UserError) and error.where else place(error.__traceback__, code_dir)
    message = error.message if isinstance(error, UserError) else str(error)
    if isinstance(error, UserError) and error.hint:
        message = f"{message} ({error.hint})"
    exception: ExceptionRecord = {
        "type": type(error).__name__,
        "message": message,
        "where": where,
        "traceback": "".join(traceback.format_exception(type(error), error, error.__traceback__)),
    }
    if isinstance(error, UserError):
        cause: Cause = error.cause
    else:
        cause = "communication" if is_communication(error) else "program"
    return End("failed", iteration=iteration, exception=exception, cause=cause)


def is_communication(error: BaseException) -> bool:
    """Return whether `error` says that a peer or the network is gone: mostly a consequence of another rank's end."""
    if isinstance(error, ConnectionError):
        return True
    # Neither gloo nor NCCL gives a lost peer a type of its own: gloo raises a plain RuntimeError, and torch's
    # DistBackendError also stands for memory that NCCL did not get, and for a wrong set-up.
    found = classify(f"{type(error).__name__}: {error}")
    if type(error).__name__ in COMMUNICATION_TYPES:
        return found is None or found.level >= Level.LINK
    return isinstance(error, RuntimeError) and found is not None and found.level >= Level.LINK


def place(trace: Optional[TracebackType], code_dir: Path) -> Optional[str]:
    """`file:line in function`: the innermost frame in the recipe's own files, else the innermost of all."""
    frames = traceback.extract_tb(trace)
    if not frames:
        return None
    recipe_dir = str(code_dir / "recipe") + os.sep
    own = [frame for frame in frames if frame.filename.startswith(recipe_dir)]
    frame = (own or list(frames))[-1]
    name = os.path.relpath(frame.filename, code_dir) if own else frame.filename
    return f"{name}:{frame.lineno} in {frame.name}"


def write_megatron(rank: Rank) -> None:
    """Write which Megatron-Core this process has imported."""
    core = importlib.import_module("megatron.core")
    path = Path(str(core.__file__)).resolve().parent
    try:
        bridge: Optional[str] = importlib.metadata.version("megatron-bridge")
    except importlib.metadata.PackageNotFoundError:
        bridge = None
    training = sys.modules.get("megatron.training")
    commit, version = commit_of(path), str(getattr(core, "__version__", "unknown"))
    found: MegatronRecord = {
        "version": 1,
        # An installed package asks git about the directory it lies in, which may be any repository.
        "core": version if commit else version.partition("+")[0],
        "core_path": str(path),
        "core_commit": commit,
        "bridge": bridge,
        "training_path": str(Path(str(training.__file__)).resolve().parent) if training else None,
        "packages": installed_packages(),
    }
    write_json(rank.paths.megatron, found)


def installed_packages() -> dict[str, str]:
    """Return the versions of the packages of the training stack that are installed, and of Python and CUDA."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # an image need not have all
            found[name] = str(importlib.metadata.version(name))
    torch = sys.modules.get("torch")
    cuda = getattr(getattr(torch, "version", None), "cuda", None)
    return {**found, **({"cuda": str(cuda)} if cuda else {})}


def commit_of(core: Path) -> Optional[str]:
    """Return the commit of the checkout whose `megatron/core` this is, read without git: an image may lack it.

    None for an installed package: a checkout around it, as of the project that has its environment, is another one.
    """
    git = core.parents[1] / ".git"
    try:
        if git.is_file():  # of a submodule or a worktree: `gitdir: DIR`
            git = git.parent / git.read_text(encoding="utf-8").partition(":")[2].strip()
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        return head if " " not in head else (git / head.split()[1]).read_text(encoding="utf-8").strip()
    except OSError:
        return None  # not a checkout, or its branch is in a file of git's own form


def refuse_second_start(rank: Rank) -> None:
    """Raise UserError where this rank has ended before in this attempt: records are written once."""
    if rank.rank in rank_ends.of_node(rank.paths, rank.node_rank):
        path = rank.paths.node_ends(rank.node_rank)
        raise UserError(
            f"attempt {rank.attempt} of {rank.run_dir.name} was used already: rank {rank.rank} has ended in it",
            where=str(path),
            hint="start the next attempt with `launcher run --resume`, or a new run",
        )


def write_end(rank: Rank, end: End, *, pid: Optional[int] = None) -> None:
    """Write the rank's record, whole or not at all. `pid` is the rank's, where another process writes."""
    record: RankRecord = {
        "version": 1,
        "rank": rank.rank,
        "host": socket.gethostname(),
        "pid": os.getpid() if pid is None else pid,
        "time": time.time(),
        "outcome": end.outcome,
        "reason": end.reason,
        "iteration": end.iteration,
        "exception": end.exception,
        "cause": end.cause,
    }
    rank_ends.append(rank.paths, rank.node_rank, record)
