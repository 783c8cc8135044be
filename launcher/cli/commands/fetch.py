"""Fetch what a run will read of Hugging Face's hub, before it is queued: model configuration, tokenizer, weights, data.

  launcher fetch recipes/llama32_1b_sft.py hf_path=meta-llama/Llama-3.2-1B
  launcher fetch RECIPE --env HF_HOME=/shared/hf --env HF_TOKEN

The files go into the cache that the run will use, so give what you give `run` or `submit`. What is there is not asked
for again. A run fetches by itself what is missing; this is for compute nodes without network, and for not waiting.
"""

import argparse
import contextlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from launcher._util.errors import CommandError, OutsideError, PlaceError, RequestError
from launcher.cli import arguments
from launcher.cli.output import print_json, say, warn
from launcher.cli.progress import TerminalReport
from launcher.contract.hub import OFFLINE_VARIABLES
from launcher.contract.units import bytes_text

if TYPE_CHECKING:
    from launcher.cli.planning import Planned

_CACHES = ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE")

_WAYS = ("HF_TOKEN", "HF_ENDPOINT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""How this machine reaches the hub, with all `*_proxy`; a job has its own."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `launcher fetch`."""
    arguments.add_common(parser)
    parser.add_argument("--json", action="store_true", help="print what was fetched as one JSON object")


def main(parsed: argparse.Namespace) -> int:
    """Plan, fetch, tell."""
    from launcher.cli.commands.plan import planned_for

    made = planned_for(parsed, None)
    answer = _fetch(made)
    if parsed.json:
        print_json({key: value for key, value in answer.items() if key != "ok"})
    fetched = [one for one in answer["items"] if one["state"] == "fetched"]
    for one in answer["items"]:
        text = f"{bytes_text(one['bytes'])} in {one['files']} files"
        state = f"fetched {text} in {one['seconds']:.0f} s" if one in fetched else f"in the cache, {text}"
        say(f"{one['kind']:14} {one['name']}: {state}")
    if fetched:
        say(f"{bytes_text(sum(one['bytes'] for one in fetched))} from {answer['endpoint']} into {answer['cache']}")
    else:
        say(f"nothing to fetch: {answer['cache']} has all that the run will read of the hub")
    return 0


def _fetch(made: "Planned") -> dict[str, Any]:
    """Have the run's own code do it in a child. Raises RequestError, OutsideError."""
    from launcher._util.shell import LocalShell
    from launcher.backends import entrypoint_call
    from launcher.cli import checking

    if made.request.entrypoint is not None:
        raise RequestError("only the project's own entrypoint can fetch", where="--entrypoint", hint="Leave it out.")
    if not checking.own_stack_is_here(made):
        raise PlaceError(
            "the training stack is not installed beside the launcher, and only running the recipe tells what it reads",
            hint="Let the job fetch: one of its ranks does so for all; or run this where Megatron Bridge is installed.",
        )
    environ = environment(checking.environment(made.plan, made), made.host.environ)
    python = made.release.python or made.host.python
    asked = entrypoint_call.on_this_machine(made.plan, python, environ, "--fetch")
    with TerminalReport() as report, tempfile.TemporaryDirectory(prefix="launcher-fetch-") as directory:
        told = _Told(report)
        request = Path(directory) / "request.json"
        request.write_text(json.dumps(checking.request_of(made)), encoding="utf-8")
        source = ("cat", str(request))
        result = LocalShell().stream(asked.argv, told.take, source=source, env=asked.env, check=False)
    return understood(result.stdout, result.status, told.said)


def environment(job: Mapping[str, str], shell: Mapping[str, str]) -> dict[str, str]:
    """The run's environment, with this shell's way to the hub, and allowed to ask it."""
    for name in _CACHES:
        if shell.get(name) and job.get(name) != shell[name]:
            warn(f"{name} is set in this shell, and the run does not get it: add --env {name} here and there")
    ways = {name: value for name, value in shell.items() if name in _WAYS or name.lower().endswith("_proxy")}
    # What keeps the job offline is not meant for this command, which asks the hub.
    return {name: value for name, value in {**ways, **job}.items() if name not in OFFLINE_VARIABLES}


def understood(text: str, status: int, said: str) -> dict[str, Any]:
    """The child's answer. Raises what it reports: RequestError, OutsideError, CommandError."""
    answer: Any = None
    with contextlib.suppress(ValueError):
        answer = json.loads(text)
    if not isinstance(answer, dict) or "ok" not in answer:
        raise CommandError(f"fetching ended with status {status}: {said or 'it said nothing'}")
    if not answer["ok"]:
        kind = OutsideError if answer["outside"] else RequestError
        raise kind(answer["error"], where=answer["where"], hint=answer["hint"])
    return answer


class _Told:
    """What the child says on standard error: notes and progress for the report; of the rest the last line is kept."""

    def __init__(self, report: TerminalReport) -> None:
        self.said = ""
        self._report = report
        self._rest = ""

    def take(self, stream: Literal["out", "err"], text: str) -> None:
        """Text as it comes."""
        if stream == "out":
            return
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            kind, _, rest = line.partition(" ")
            if kind == "progress":
                self._progress(rest)
            elif kind == "note:":
                self._report.line(line)
            elif line.strip():
                self.said = line.strip()

    def _progress(self, text: str) -> None:
        with contextlib.suppress(ValueError, KeyError):
            told = json.loads(text)
            self._report.stage(told["name"])
            self._report.progress(told["bytes"], told["of"], "B")
