"""What a run announces of itself: at its end, at a failure, and when it is continued by itself.

A message goes to a program of the user's, on its standard input, and to a URL, whose value is a variable of the job:
neither the plan nor any file of the run holds it. Nothing that fails here changes how the run ends.
"""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Optional

from launcher.contract.paths import RunPaths
from launcher.contract.records.request import NotifyOptions
from launcher.contract.records.result import NextAttempt

LIMIT_S = 10.0
"""How long an announcement may take, in all."""
_KILL_S = 1.0
"""How long it takes at most to kill a program that takes longer."""


def message(
    run: RunPaths, attempt: str, result: Mapping[str, Any], following: Optional[NextAttempt], *, not_continued: str = ""
) -> dict[str, Any]:
    """Return what is announced: plain values, and `text`, one line for people, which chat services show.

    It is announced before another attempt is queued. `not_continued` says why that was decided and did not happen.
    """
    goes_on = following is not None and following["action"] != "end" and not not_continued
    event = "continuing" if goes_on else str(result["outcome"])
    first = result.get("first_failing_rank") or {}
    why = result.get("reason") or first.get("what")
    at = f" at iteration {result['iteration']}" if result.get("iteration") is not None else ""
    name = f"{run.path.parent.name}/{run.path.name}"
    says = "another attempt is to follow" if goes_on else event
    return {
        "version": 1,
        "event": event,
        "run": name,
        "run_dir": str(run.path),
        "attempt": attempt,
        "outcome": result["outcome"],
        "reason": why,
        "iteration": result.get("iteration"),
        "train_iters": result.get("train_iters"),
        "loss": result.get("loss"),
        "job": os.environ.get("SLURM_JOB_ID"),
        "text": f"{name}: {says}{at}{f' ({why})' if why else ''}{f'; {not_continued}' if not_continued else ''}",
    }


def announce(options: NotifyOptions, content: Mapping[str, Any], *, limit_s: float = LIMIT_S) -> list[str]:
    """Send a message both ways at once, and return a line for each that failed. Raises nothing; ends in `limit_s`."""
    failed = list[str]()
    body = json.dumps(content).encode()
    ways = []
    if options["command"]:
        ways.append(threading.Thread(target=_run, args=(options["command"], body, limit_s, failed), daemon=True))
    if options["url_variable"]:
        ways.append(threading.Thread(target=_post, args=(options["url_variable"], body, limit_s, failed), daemon=True))
    for way in ways:
        way.start()
    end = time.monotonic() + limit_s
    for way in ways:
        way.join(max(0.0, end + _KILL_S - time.monotonic()))
        if way.is_alive():
            failed.append(f"an announcement took more than {limit_s:g} s")
    return failed


def _run(command: "list[str]", body: bytes, limit_s: float, failed: "list[str]") -> None:
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte
        why = error.strerror if isinstance(error, OSError) else error
        failed.append(f"the program {command[0]} of --notify cannot be started: {why}")
        return
    try:
        process.communicate(body, timeout=limit_s)
    except subprocess.TimeoutExpired:
        # It has ended meanwhile.
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        failed.append(f"the program {command[0]} of --notify took more than {limit_s:g} s and was killed")
        return
    except OSError:
        pass  # it has not read its input; its exit status counts
    if process.wait():
        failed.append(f"the program {command[0]} of --notify ended with status {process.returncode}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Makes a redirection an error: it would be followed without the message, and look like a success."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow nothing."""


def _post(variable: str, body: bytes, limit_s: float, failed: "list[str]") -> None:
    url = os.environ.get(variable, "")
    if not url.startswith(("https://", "http://")):
        failed.append(f"the variable {variable} of --notify-url holds no URL here")
        return
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 - seen above
    try:
        with urllib.request.build_opener(_NoRedirect()).open(request, timeout=limit_s):
            return
    except urllib.error.HTTPError as error:
        failed.append(f"the URL in {variable} answered {error.code}")
    except Exception as error:  # the message of an error may hold the URL, which is a secret
        failed.append(f"the URL in {variable} could not be reached: {type(error).__name__}")
