"""Fetching what a run will read of Hugging Face's hub, before it is queued."""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from launcher._util.errors import CommandError, OutsideError, PrerequisiteError, RequestError
from launcher._util.shell import LocalShell
from launcher.api.check_config import entrypoint_request, own_stack_is_here, task_environment
from launcher.api.discover import Discovered, discover
from launcher.api.progress import Progress
from launcher.backends import entrypoint_call
from launcher.config.request import Request
from launcher.contract.events import EventReader
from launcher.contract.hub import OFFLINE_VARIABLES
from launcher.discovery.files import require_sources
from launcher.planning.option_effects import refuse_without_effect
from launcher.planning.task import plan_task

_CACHES = ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE")

_ROUTES = ("HF_TOKEN", "HF_ENDPOINT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""How this machine reaches the hub, with all `*_proxy`; a job has its own."""


@dataclass(frozen=True)
class FetchedItem:
    """One thing that a run reads of the hub."""

    kind: str
    """What it is for the run: configuration, tokenizer, weights, data."""
    name: str
    """Its name on the hub."""
    revision: str | None
    state: Literal["here", "fetched"]
    """Whether it was in the cache already."""
    files: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Fetched:
    """What was fetched, from where, and into which cache."""

    endpoint: str
    cache: str
    items: tuple[FetchedItem, ...]


def fetch(asked: Request, progress: Progress) -> Fetched:
    """Have the run's own code fetch what it will read, in a child process.

    Raises a RequestError of the kind that fits, OutsideError where the hub or the disk failed.
    """
    refuse_without_effect(asked.stated(), "fetch")
    found = discover(asked, "plan")
    task = plan_task(found.inputs)
    require_sources(mount.source for mount in task.mounts)
    _require_stack(found)
    environ = fetch_environment(task_environment(found, task), found.inputs.host.environ, progress.warn)
    python = found.release.python or found.inputs.host.python
    with (
        tempfile.TemporaryDirectory(prefix="launcher-fetch-") as directory,
        entrypoint_call.on_this_machine(task, python, environ, "--fetch") as call,
    ):
        output = FetchOutput(progress)
        request = Path(directory) / "request.json"
        request.write_text(json.dumps(entrypoint_request(found, task, call)), encoding="utf-8")
        source = ("cat", str(request))
        done = LocalShell().stream(call.argv, output.take, source=source, env=call.env, check=False)
    answer = output.answer(done.status)
    items = tuple(FetchedItem(**item) for item in answer["items"])
    return Fetched(answer["endpoint"], answer["cache"], items)


def _require_stack(found: Discovered) -> None:
    if found.inputs.request.entrypoint is not None:
        raise RequestError("only the project's own entrypoint can fetch", where="--entrypoint", hint="Leave it out.")
    if not own_stack_is_here(found):
        raise PrerequisiteError(
            "the training stack is not installed beside the launcher, and only running the recipe shows what it reads",
            hint="Let the job fetch: one of its ranks does so for all; or run this where Megatron Bridge is installed.",
        )


def fetch_environment(job: Mapping[str, str], shell: Mapping[str, str], warn: Callable[[str], None]) -> dict[str, str]:
    """Return the run's environment with this shell's route to the hub, without what keeps a job offline."""
    for name in _CACHES:
        if shell.get(name) and job.get(name) != shell[name]:
            warn(f"{name} is set in this shell, and the run does not get it: add --env {name} here and there")
    routes = {name: value for name, value in shell.items() if name in _ROUTES or name.lower().endswith("_proxy")}
    return {name: value for name, value in {**routes, **job}.items() if name not in OFFLINE_VARIABLES}


class FetchOutput:
    """What the child writes: events on standard output, notes and other lines on standard error."""

    def __init__(self, progress: Progress) -> None:
        self._events = EventReader(progress)
        self._progress = progress
        self._last_line = ""
        self._rest = {"out": "", "err": ""}

    def take(self, stream: Literal["out", "err"], text: str) -> None:
        """Take text as it comes."""
        *lines, self._rest[stream] = (self._rest[stream] + text).split("\n")
        for line in lines:
            if stream == "out":
                self._events.take(line)
            elif line.startswith("note:"):
                self._progress.line(line)
            elif line.strip():
                self._last_line = line.strip()

    def answer(self, status: int) -> dict[str, Any]:
        """Return what was fetched. Raises what the child reports: RequestError, OutsideError, CommandError."""
        error = self._events.error
        if error is not None:
            kind = {"request": RequestError, "outside": OutsideError}.get(error["fault"], CommandError)
            raise kind(error["message"], where=error["where"], hint=error["hint"])
        if self._events.result is None:
            raise CommandError(f"fetching ended with status {status}: {self._last_line or 'it said nothing'}")
        return self._events.result
