"""Check the login node, and with --nodes also compute nodes, in a job: is this cluster as its profile says?

  launcher doctor
  launcher doctor --nodes 2 --cluster mine
  salloc -N 2 --gpus-per-node=8, then: launcher doctor --nodes 2

Exit status: 0 nothing failed; 1 something failed; 2 the request was wrong; 3 Slurm did not answer.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import launcher
from launcher.cli.completion import complete
from launcher.cli.output import coloured, print_json, say, warn
from launcher.runtimes import RUNTIMES

if TYPE_CHECKING:
    from launcher._util.errors import LauncherError
    from launcher._util.shell import Shell
    from launcher.doctor.job import DoctorRun
    from launcher.doctor.report import DoctorReport
    from launcher.doctor.site import CommandOutput, Site
    from launcher.planning.model import Plan

# What a rank that dies must not do here: take those of the other nodes along, whose findings would be lost.
_STEP = ("--kill-on-bad-exit=0", "--wait=0")
_PROGRAM = "job/doctor/entry/doctor.py"
_TIME_LIMIT = "15"
"""Minutes, unless the user says otherwise: the checks take one, and a short job starts sooner."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `launcher doctor`: those of a run that say where and in what."""
    add = parser.add_argument
    complete(add("--cluster", metavar="NAME", help="cluster profile (default: as for run and submit)"), "clusters")
    add("--nodes", "-N", metavar="N", type=int, help="check that many compute nodes as well, in a job")
    add("--gpus-per-node", metavar="N", type=int, help="ranks on each node (default: allocation, profile, 8)")
    add("--time", "-t", metavar="T", help=f"time limit of the job (default: {_TIME_LIMIT} minutes)")
    for name in ("partition", "account", "qos", "nodelist", "exclude"):
        add(f"--{name}", metavar="NAME", help=f"Slurm's --{name}")
    complete(add("--image", metavar="IMAGE", help="image that the checks run in (default: the profile's)"), "images")
    add("--runtime", choices=tuple(RUNTIMES), help="how tasks enter it (default: the profile's)")
    add("--mount", metavar="SRC[:DST[:ro]]", action="append", help="a further directory that all nodes should see")
    add("--env", metavar="NAME[=VALUE]", action="append", help="set a variable, or pass this shell's on; repeatable")
    add("--run-root", metavar="DIR", help="where the job's directory is made (default: the profile's, else ./runs)")
    add("--sbatch", metavar="KEY[=VALUE]", action="append", default=[], help="add an option of sbatch; repeatable")
    add("--no-sbatch", metavar="KEY", action="append", default=[], help="remove one that would be given; repeatable")
    add("--srun-arg", metavar="ARG", action="append", help="add an argument of srun, as --srun-arg=--label; repeatable")
    add("--quick", action="store_true", help="leave out what needs torch: matrix product and all-reduce")
    add("--patience", metavar="S", type=float, default=60.0, help="how long nodes wait for each other (default: 60 s)")
    add("--json", action="store_true", help="print one JSON object")


def main(parsed: argparse.Namespace) -> int:
    """Look at the login node, then at the nodes, then print."""
    from launcher._util.shell import LocalShell
    from launcher.contract.checks import fail
    from launcher.doctor.login import run_checks
    from launcher.doctor.report import DoctorReport

    shell = LocalShell()
    this, verb = _site(parsed, shell)
    plan, error = _plan(parsed, this, verb)
    tested = _tested(plan, error, this, shell)
    login = run_checks.checks(this, tested, shell)
    if error is not None and not any(check.verdict == "fail" for check in login):
        if parsed.nodes is not None:
            raise error
        login = (*login, fail("plan", "none", error.message, error.hint or "`launcher plan RECIPE` says the same"))
    found = DoctorReport(this.cluster.name, this.host.hostname, login)
    if parsed.nodes is not None:
        found = _with_nodes(found, this, plan, error, shell)
    if parsed.json:
        print_json({**found.to_dict(), "exit_status": _status(found, this)})
    else:
        _print(found)
    return _status(found, this)


def _site(parsed: argparse.Namespace, shell: "Shell") -> "tuple[Site, str]":
    """What the world says, and whether its runs are submitted or started here."""
    from launcher.cli.arguments import request_options
    from launcher.config.load import load_cluster, load_request
    from launcher.discovery.host import detect_host
    from launcher.doctor import site
    from launcher.planning import place

    host = detect_host()
    request = load_request(request_options(_as_run(parsed)), environ=host.environ, directory=host.directory)
    cluster = load_cluster(request.cluster or place.default_cluster(host), host.environ)
    verb = "run" if cluster.scheduler == "local" or host.allocation is not None else "submit"
    return site.collect(cluster, request, host, shell), verb


def _as_run(parsed: argparse.Namespace, **more: Any) -> argparse.Namespace:
    """The command line of a run that says the same."""
    from launcher.cli import arguments

    parser = argparse.ArgumentParser()
    arguments.add_common(parser)
    said = {key: value for key, value in vars(parsed).items() if key not in ("quick", "json", "patience")}
    return argparse.Namespace(**{**vars(parser.parse_args([])), **said, **more})


def _plan(parsed: argparse.Namespace, this: "Site", verb: str) -> "tuple[Plan | None, LauncherError | None]":
    """The checks as an ordinary run: container, environment, mounts and ranks are those of training."""
    from launcher._util.errors import LauncherError
    from launcher.cli.planning import planned
    from launcher.doctor import expected

    program = str(Path(launcher.__file__).resolve().parent / _PROGRAM)
    values = expected.expected_values(
        this.cluster, this.request, torch=not parsed.quick, rendezvous_timeout_s=parsed.patience
    )
    said = _as_run(
        parsed,
        recipe=program,
        assignments=[f"expected={values}"],
        entrypoint=program,
        name="doctor",
        nodes=parsed.nodes or (None if verb == "run" else 1),
        time=parsed.time or _TIME_LIMIT,
        srun_arg=[*_STEP, *(parsed.srun_arg or ())],
    )
    try:
        return planned(verb, said).plan, None
    except LauncherError as error:
        return None, error


def _tested(plan: "Plan | None", error: "LauncherError | None", this: "Site", shell: "Shell") -> "CommandOutput":
    """Whether sbatch takes such a job."""
    from launcher.backends.process_environment import for_job
    from launcher.doctor.site import CommandOutput, test_submission
    from launcher.scripts import scripts

    if plan is None:
        return CommandOutput(None, f"no run can be planned: {error.message if error else ''}")
    if this.why_unknown is not None:
        return CommandOutput(None, this.why_unknown)
    return test_submission(plan, scripts(plan)["sbatch.sh"], for_job(plan, this.host.environ), shell)


def _with_nodes(
    found: "DoctorReport", this: "Site", plan: "Plan | None", error: "LauncherError | None", shell: "Shell"
) -> "DoctorReport":
    """The examination with that of the nodes, or with why there is none."""
    from launcher._util.errors import LauncherError
    from launcher.doctor.node_reports import collect_reports

    if this.slurm_error is not None:
        return dataclasses.replace(found, not_checked=this.slurm_error)
    if plan is None:
        return dataclasses.replace(found, not_checked=error.message if error else "no plan")
    away = next((check for check in found.login if check.name == "nodes" and check.verdict == "fail"), None)
    if away is not None:
        return dataclasses.replace(found, not_checked=f"nothing was submitted: {away.reason}")
    try:
        ran = _run(plan, this, shell)
    except LauncherError as failed:
        if not any(check.verdict == "fail" for check in found.login):
            raise
        return dataclasses.replace(found, not_checked=failed.message)
    layout = plan.layout
    return dataclasses.replace(
        found,
        nodes=collect_reports(ran, layout.ranks_per_node, layout.nodes),
        not_checked=ran.why,
        run_dir=str(ran.run.path),
    )


def _run(plan: "Plan", this: "Site", shell: "Shell") -> "DoctorRun":
    from launcher.backends.wait import interrupts
    from launcher.doctor import job

    for warning in plan.warnings:
        warn(warning)
    with interrupts() as counted:
        start = job.run_as_job if plan.backend.own_job else job.run_in_foreground
        return start(plan, this.host, shell, counted, say)


def _status(found: "DoctorReport", this: "Site") -> int:
    if this.slurm_error is not None:
        return 3
    return 1 if found.counts()["fail"] or found.not_checked else 0


def _print(found: "DoctorReport") -> None:
    from launcher.doctor.report import table_lines

    print("\n".join(table_lines(found, lambda text, colour: coloured(text, colour, sys.stdout))))
    if found.run_dir:
        say(f"run directory: {found.run_dir}")
