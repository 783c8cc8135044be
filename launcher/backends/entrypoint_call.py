"""Questions that only the training stack can answer, asked before a run: the entrypoint with a request on its input."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.backends.prepare import copy_code
from launcher.discovery.image import Image
from launcher.images import sandbox
from launcher.planning.model import Plan

_STACK = "megatron-bridge"


@dataclass(frozen=True)
class Asked:
    """How the entrypoint is called, and what its files are called on this side."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    sources: tuple[tuple[str, str], ...] = ()
    """Of each file that was copied for it the path there, and the user's own."""

    def seen_there(self, path: str) -> str:
        """The copy of the user's file `path`, or the path itself where nothing was copied."""
        return next((copy for copy, source in self.sources if source == path), path)

    def own_paths(self, text: str | None) -> str | None:
        """`text` with the user's own paths in place of the copies'."""
        for copy, source in self.sources:
            text = text.replace(copy, source) if text else text
        return text


def hindrance(image: Image) -> str | None:
    """Why nothing can be asked in this image from here; None where it can."""
    if image.packages is not None and _STACK not in image.packages:
        return f"the image has no {_STACK} that could be found"
    return sandbox.hindrance(image.architecture)


def here(plan: Plan, python: str, env: Mapping[str, str], verb: str) -> Asked:
    """The entrypoint on this machine, with the Python `python`."""
    return Asked((python, dict(plan.code)["entrypoint.py"], verb), env)


@contextlib.contextmanager
def in_image(plan: Plan, image: Image, env: Mapping[str, str], verb: str) -> Iterator[Asked]:
    """The entrypoint in the run's image with the run's mounts, read-only, and a copy of its code."""
    with tempfile.TemporaryDirectory(prefix="launcher-ask-") as directory:
        code, root = Path(directory) / "code", Path(directory) / "root"
        copy_code(code, plan)
        root.mkdir()
        mounts = [(mount.source, mount.target) for mount in plan.mounts]
        own = tuple((name, value) for name, value in image.environment.items() if value is not None)
        entry = sandbox.Entry(str(image.path), str(root), (*mounts, (str(code), str(code))), own, tuple(env))
        argv = sandbox.argv(entry, [plan.python, str(code / "entrypoint.py"), verb])
        # What this side's programs are found by; the command itself gets the image's PATH, or the run's.
        found_by = {"PATH": os.environ.get("PATH", os.defpath)} if "PATH" not in env else {}
        sources = tuple((str(code / target), source) for target, source in plan.code)
        yield Asked(tuple(argv), {**found_by, **env}, sources)
