"""What a recipe reads, as the login node sees it: its own check, and what nodes compare with."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from launcher.contract.checks import Check, ok, skip, warn
from launcher.contract.input_files import SeenFile, look
from launcher.discovery.training_files import TrainingFiles
from launcher.runtimes.model import Mount

_SHOWN = 5
_RELATIVE = "is not looked at: a relative path begins in the run's directory, which is made with the run"
_MOST_CHARACTERS = 48 << 10
"""Of what the nodes compare with: one argument may have 64 KiB (launcher/config/texts.py)."""


@dataclass(frozen=True)
class Input:
    """A file or directory that the recipe names."""

    key: str
    path: str
    """In the job."""
    seen: SeenFile
    """By this machine."""

    def to_dict(self) -> dict[str, Any]:
        """Return the entry that the node check reads."""
        return {"key": self.key, "path": self.path, "login": self.seen.to_dict()}


def inputs_of(files: TrainingFiles, mounts: Iterable[Mount] = ()) -> tuple[Input, ...]:
    """Return what a recipe names, with what is seen here; of a mounted place that is its source.

    A relative path is not looked at: it begins in the run's directory, which is made with the run.
    """
    named = [*files.named, *([("checkpoint.load", files.loads.directory)] if files.loads else [])]
    mounted = tuple(mounts)
    return tuple(Input(key, path, _seen(path, mounted)) for key, path in named)


def _seen(path: str, mounts: Iterable[Mount]) -> SeenFile:
    return look(_outside(path, mounts)) if _is_absolute(path) else SeenFile(None, error=_RELATIVE)


def _is_absolute(path: str) -> bool:
    return path.startswith("/")


def _outside(path: str, mounts: Iterable[Mount]) -> str:
    """Return the path on the host of a path in the job."""
    inner = PurePosixPath(path)
    for mount in sorted(mounts, key=lambda each: len(each.target), reverse=True):
        if inner.is_relative_to(mount.target):
            return str(PurePosixPath(mount.source) / inner.relative_to(mount.target))
    return path


def compared(inputs: Iterable[Input]) -> tuple[Input, ...]:
    """Return the absolute paths that the nodes compare, the first that one argument holds.

    A blend may name thousands of files.
    """
    kept, length = list[Input](), 0
    for each in (one for one in inputs if _is_absolute(one.path)):
        length += len(json.dumps(each.to_dict())) + len(", ")
        if length > _MOST_CHARACTERS:
            break
        kept.append(each)
    return tuple(kept)


def login_check(inputs: Sequence[Input], unknown: str) -> Check:
    """Check that what the recipe names is seen here; `unknown` says why more may be named than is known."""
    name = "inputs"
    missing = [f"{each.key}: {each.path}: {each.seen.error}" for each in inputs if each.seen.kind is None]
    if missing:
        more = f"; and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        return warn(
            name,
            f"{len(missing)} of {len(inputs)} not seen here",
            "; ".join(missing[:_SHOWN]) + more,
            "ignore this if the nodes have it (--nodes N looks there); otherwise correct the path, or make it absolute",
            len(missing),
        )
    if unknown:
        return skip(name, unknown, f"{len(inputs)} found" if inputs else "")
    return ok(name, f"{len(inputs)} found", len(inputs)) if inputs else skip(name, "the recipe names no files")
