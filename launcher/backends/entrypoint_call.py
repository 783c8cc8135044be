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
from launcher.planning.task import TaskPlan

_STACK = "megatron-bridge"


@dataclass(frozen=True)
class EntrypointCall:
    """A call of the entrypoint, with the paths that its answers have to be translated from."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    sources: tuple[tuple[str, str], ...] = ()
    """For each file that was copied for the call: the path of the copy, and the user's own path."""

    def path_inside(self, path: str) -> str:
        """Return the path by which the entrypoint finds the user's file `path`."""
        return next((copy for copy, source in self.sources if source == path), path)

    def own_paths(self, text: str | None) -> str | None:
        """Return `text` with the user's own paths in place of those of the copies."""
        for copy, source in self.sources:
            text = text.replace(copy, source) if text else text
        return text


def why_unavailable(image: Image) -> str | None:
    """Return why the entrypoint cannot be called in this image from here; None where it can."""
    if image.packages is not None and _STACK not in image.packages:
        return f"the image has no {_STACK} that could be found"
    return sandbox.why_unavailable(image.architecture)


@contextlib.contextmanager
def on_this_machine(plan: TaskPlan, python: str, env: Mapping[str, str], command: str) -> Iterator[EntrypointCall]:
    """Call the entrypoint on this machine with a copy of the run's code, which lacks what does not travel.

    `python` is the interpreter; `command` is such as `--check-config`.
    """
    with tempfile.TemporaryDirectory(prefix="launcher-ask-") as directory:
        copy_code(Path(directory), plan, shared=False)
        sources = tuple((str(Path(directory, target)), source) for target, source in plan.code)
        yield EntrypointCall((python, str(Path(directory, "entrypoint.py")), command), env, sources)


@contextlib.contextmanager
def in_image(plan: TaskPlan, image: Image, env: Mapping[str, str], command: str) -> Iterator[EntrypointCall]:
    """Call the entrypoint in the run's image, with a copy of the run's code and with its mounts, all read-only."""
    with tempfile.TemporaryDirectory(prefix="launcher-ask-") as directory:
        code, root = Path(directory) / "code", Path(directory) / "root"
        copy_code(code, plan, shared=False)
        root.mkdir()
        mounts = [(mount.source, mount.target) for mount in plan.mounts]
        own = tuple((name, value) for name, value in image.environment.items() if value is not None)
        entry = sandbox.SandboxRequest(str(image.path), str(root), (*mounts, (str(code), str(code))), own, tuple(env))
        argv = sandbox.argv(entry, [plan.python, str(code / "entrypoint.py"), command])
        # The programs of the sandbox are found by this; the entrypoint gets the PATH of the image, or of the run.
        found_by = {"PATH": os.environ.get("PATH", os.defpath)} if "PATH" not in env else {}
        sources = tuple((str(code / target), source) for target, source in plan.code)
        yield EntrypointCall(tuple(argv), {**found_by, **env}, sources)
