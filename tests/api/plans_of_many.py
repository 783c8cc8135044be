"""Plans of many recipes on several profiles, made in one process: with the installed launcher, whichever that is.

`python tests/api/plans_of_many.py CASES OUT` reads a JSON list of cases and writes, by case and profile, what
`launcher plan` and `launcher submit --dry-run` print, and the scripts of the job. With `--check` each recipe is run
first, as --check-config does, and what that has shown decides instead of the index. With `--submit PYTHON` each is
submitted as a held job, as `launcher submit` does it with the check that it makes where the training stack is at hand;
PYTHON is the interpreter of checks, and the answer are the jobs and run directories.

It imports the launcher and the standard library alone, so that an interpreter without the training stack can run it.
"""

import contextlib
import dataclasses
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from launcher._util.errors import LauncherError
from launcher.api import discover as discovery
from launcher.api.check_config import entrypoint_request
from launcher.api.prepare_plan import prepare_plan
from launcher.cli.commands.plan import show
from launcher.config.request import Request
from launcher.discovery.host import HostContext, new_run_id
from launcher.planning.inputs import FromCheck, PlanInputs
from launcher.planning.make import make_plan
from launcher.planning.task import plan_task
from launcher.scripts import scripts

PROFILES = {"dgx-gb200-nvl72": 4, "aws-p5": 8, "oci-h100": 8, "dgx-h100": 8}
"""GPUs of a node by profile."""


def main(arguments: list[str]) -> None:
    """Make all plans."""
    cases, out = json.loads(Path(arguments[0]).read_text()), Path(arguments[1])
    if "--submit" in arguments:
        python = arguments[arguments.index("--submit") + 1]
        out.write_text(json.dumps({case["id"]: _submitted(case, out.with_suffix(""), python) for case in cases}))
        return
    environ = {"PATH": os.environ["PATH"], "HOME": str(out.parent), "USER": "ada", "LANG": "C.UTF-8"}
    host = HostContext(
        directory=out.parent,
        environ={**environ, "LAUNCHER_CACHE": str(out.parent / "cache"), "HF_HUB_OFFLINE": "1"},
        python="/opt/python/bin/python3",
        user="ada",
        hostname="login",
        now=1_790_000_000.0,
        run_id="20260921-120000-0123456789ab",
        nonce="0123456789ab",
        has_slurm=True,
        gpus=0,
        job=None,
    )
    setattr(discovery, "detect_host", lambda: host)  # noqa: B010 - no part of the module's interface
    check = "--check" in arguments
    answers: dict[str, Any] = {}
    for case in cases:
        answers[case["id"]] = _with_check(case) if check else _without(case)
    out.write_text(json.dumps(answers))


def _request(case: dict[str, Any], profile: str) -> Request:
    per_node = min(PROFILES[profile], case["gpus"])
    return Request.model_validate(
        {
            "recipe": case["recipe"],
            "assignments": [*case["assignments"], "checkpoint.save=null"],
            "cluster": profile,
            "runtime": "none",
            # The nodes' own: what this machine's interpreter has is not what the ranks have.
            "python": "/opt/python/bin/python3",
            "name": "same",
            "nodes": case["gpus"] // per_node,
            "gpus_per_node": per_node,
        }
    )


def _without(case: dict[str, Any]) -> dict[str, Any]:
    """What the commands print and write where the recipe is known by the index."""
    found: dict[str, Any] = {}
    for profile in PROFILES:
        request = _request(case, profile)
        try:
            prepared = prepare_plan(request, "submit", check="if unknown")
            asked = prepare_plan(request, "plan", check="if unknown")
        except LauncherError as error:
            found[profile] = {"error": [type(error).__name__, error.message, error.where, error.hint]}
            continue
        found[profile] = {
            "plan": _shown(asked.plan, with_scripts=True),
            "dry run": _shown(prepared.plan, with_scripts=False),
            "scripts": {**scripts(prepared.plan), "argv.json": prepared.plan.argv_json()},
        }
    return found


def _submitted(case: dict[str, Any], run_root: Path, python: str) -> dict[str, Any]:
    """The held jobs of a case by profile, with the run directories below `run_root`."""
    from launcher.api.progress import Silent
    from launcher.api.submit import submit_new
    from launcher.discovery.host import detect_host

    host = dataclasses.replace(detect_host(), python=python, hostname="login")
    setattr(discovery, "detect_host", lambda: dataclasses.replace(host, run_id=new_run_id(time.time())))  # noqa: B010
    found: dict[str, Any] = {}
    for profile in case.get("profiles", PROFILES):
        stated = {**_request(case, profile).stated(), "run_root": str(run_root), "partition": profile, "time": "30"}
        request = Request.model_validate({**stated, "sbatch": {"hold": True}, **case.get("request", {})})
        try:
            submitted = submit_new(prepare_plan(request, "submit", check="if possible"), Silent())
        except LauncherError as error:
            found[profile] = {"error": [type(error).__name__, error.message, error.where, error.hint]}
        else:
            found[profile] = {"job": submitted.job, "run": str(submitted.run.path)}
    return found


def _shown(plan: Any, *, with_scripts: bool) -> list[str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        show(plan, as_json=False, with_scripts=with_scripts)
    return [out.getvalue(), err.getvalue()]


def _with_check(case: dict[str, Any]) -> dict[str, Any]:
    """The scripts where the recipe was run, or why it cannot be."""
    inputs: dict[str, PlanInputs] = {}
    resolved: dict[str, Any] | None = None
    found: dict[str, Any] = {}
    for profile in PROFILES:
        try:
            discovered = discovery.discover(_request(case, profile), "submit")
            inputs[profile] = discovered.inputs
            if resolved is None:
                resolved = _resolved(dict(entrypoint_request(discovered, plan_task(discovered.inputs))))
            plan = make_plan(dataclasses.replace(discovered.inputs, knowledge=FromCheck(resolved)))
        except LauncherError as error:
            found[profile] = {"error": [type(error).__name__, error.message, error.where, error.hint]}
        except _RefusedError as error:
            return {"refused": str(error)}
        else:
            found[profile] = {"scripts": {**scripts(plan), "argv.json": plan.argv_json()}}
    return found


class _RefusedError(Exception):
    """The check says no."""


def _resolved(request: dict[str, Any]) -> dict[str, Any]:
    from launcher.job.config import check

    reply = check.reply(request)
    if not reply["ok"]:
        raise _RefusedError(reply["error"])
    answer: dict[str, Any] = reply["resolved"]
    return answer


if __name__ == "__main__":
    main(sys.argv[1:])
