"""Checking the login node and, in a job, compute nodes: the job of the checks is an ordinary run."""

import contextlib
import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path

from launcher._util.errors import ConfigError, LauncherError
from launcher._util.shell import LocalShell, Shell
from launcher.api.check_config import check_config, stack_is_here
from launcher.api.discover import discover
from launcher.api.prepare_plan import prepare_plan
from launcher.api.progress import Progress
from launcher.backends.process_environment import for_job
from launcher.backends.wait import interrupts
from launcher.config.load import load_cluster, load_request
from launcher.config.request import Request
from launcher.contract.checks import fail
from launcher.discovery.container_runtime import choose_runtime
from launcher.discovery.host import detect_host
from launcher.doctor import expected, inputs, job, site
from launcher.doctor.inputs import Input
from launcher.doctor.login import run_checks
from launcher.doctor.node_reports import collect_reports
from launcher.doctor.report import DoctorReport
from launcher.doctor.site import CommandOutput, Site
from launcher.planning import backend_choice, container
from launcher.planning.model import Plan
from launcher.scripts import scripts

# A rank that dies must not take those of the other nodes along: their findings would be lost.
_STEP = ("--kill-on-bad-exit=0", "--wait=0")
_PROGRAM = "job/doctor/entry/doctor.py"

TIME_LIMIT = "15"
"""Minutes, unless the request states a limit: the checks take one, and a short job starts sooner."""


@dataclass(frozen=True)
class DoctorRequest:
    """What to check."""

    asked: Request = dataclasses.field(default_factory=Request)
    """Cluster, image and job, as for a run. Compute nodes are checked where it states `nodes`, and what a recipe reads
    where it names one."""
    torch: bool = True
    """Whether the nodes also compute a matrix product and an all-reduce."""
    rendezvous_timeout_s: float = 60.0
    """How long nodes wait for each other."""


@dataclass(frozen=True)
class Examination:
    """What was found."""

    report: DoctorReport
    slurm_error: str | None
    """Slurm's words where it did not answer."""

    @property
    def healthy(self) -> bool:
        """Return whether nothing failed and everything that was asked for was checked."""
        return not self.report.counts()["fail"] and not self.report.not_checked


def examine(request: DoctorRequest, progress: Progress) -> Examination:
    """Check the login node, then the compute nodes. Raises a LauncherError where the nodes cannot be asked for."""
    shell = LocalShell()
    this = _site(request.asked, shell)
    named, unknown = _inputs(request, this, progress) if request.asked.recipe else ((), "")
    plan, error = _plan(request, this, named)
    login = run_checks.checks(this, _tested(plan, error, this, shell), shell)
    if request.asked.recipe:
        login = (*login, inputs.login_check(named, unknown))
    nodes = request.asked.nodes is not None
    if error is not None and not any(check.verdict == "fail" for check in login):
        if nodes:
            raise error
        login = (*login, fail("plan", "none", error.message, error.hint or "`launcher plan RECIPE` says the same"))
    found = DoctorReport(this.cluster.name, this.host.hostname, login)
    if nodes:
        found = _with_nodes(found, this, plan, error, shell, progress)
    return Examination(found, this.slurm_error)


def _site(asked: Request, shell: Shell) -> Site:
    host = detect_host()
    request = load_request(asked.stated(), environ=host.environ, directory=host.directory)
    cluster = load_cluster(request.cluster or backend_choice.default_cluster(host), host.environ)
    backend_choice.refuse_elsewhere(cluster, host)
    with contextlib.suppress(ConfigError):  # the plan of the checks says so
        runtime = choose_runtime(request, cluster, host, shell, srun=cluster.scheduler == "slurm")
        cluster = cluster.model_copy(update={"runtime": runtime.name})
    return site.collect(cluster, request, host, shell)


def _is_here(this: Site) -> bool:
    """Return whether the checks run in this allocation or on this machine."""
    return this.cluster.scheduler == "local" or this.host.job is not None


def _inputs(request: DoctorRequest, this: Site, progress: Progress) -> tuple[tuple[Input, ...], str]:
    """Return what the recipe reads, as this machine sees it, and why it may read more than is known.

    The recipe is run first where it is not in the index and the training stack is at hand. Raises RequestError for a
    recipe, or an assignment, that cannot be right.
    """
    found = discover(request.asked, "run" if _is_here(this) else "submit")
    knowledge, unknown = found.inputs.knowledge, ""
    asked, cluster = found.inputs.request, found.inputs.cluster
    runtime = container.chosen_runtime(asked, cluster)
    texts = (*cluster.mounts, *(asked.mounts or asked.default_mounts)) if runtime.is_container else ()
    if not knowledge.recipe_is_known:
        unknown = "the recipe was not run: it may read more than its arguments and overrides name"
        if request.torch and stack_is_here(found):
            try:
                knowledge, unknown = check_config(found, progress), ""
            except LauncherError as error:
                unknown = f"the recipe cannot be run here: {error.message}"
    return inputs.inputs_of(knowledge.files, container.read_mounts(texts, runtime)), unknown


def _plan(request: DoctorRequest, this: Site, named: tuple[Input, ...]) -> tuple[Plan | None, LauncherError | None]:
    """Plan the checks as an ordinary run: container, environment, mounts and ranks are those of training."""
    asked = request.asked
    here = _is_here(this)
    program = str(Path(__file__).resolve().parents[1] / _PROGRAM)
    expectation = expected.expected_values(
        this.cluster,
        this.request,
        torch=request.torch,
        rendezvous_timeout_s=request.rendezvous_timeout_s,
        inputs=named,
    )
    changes: dict[str, object] = {
        "recipe": program,
        "assignments": (f"expected={expectation}",),
        "entrypoint": program,
        "name": "doctor",
    }
    if this.cluster.scheduler != "local":
        changes["srun_args"] = (*_STEP, *asked.srun_args)
    if not here:
        changes["time"] = asked.time or TIME_LIMIT
        changes["nodes"] = asked.nodes or 1
    try:
        job_request = asked.model_copy(update=changes)
        plan = prepare_plan(job_request, "run" if here else "submit", check="never").plan
    except LauncherError as error:
        return None, error
    argv = copy.deepcopy(plan.argv)
    argv["options"].pop("notify", None)  # a default of the user's, which is for trainings
    return dataclasses.replace(plan, argv=argv), None


def _tested(plan: Plan | None, error: LauncherError | None, this: Site, shell: Shell) -> CommandOutput:
    """Return whether sbatch takes such a job."""
    if plan is None:
        return CommandOutput(None, f"no run can be planned: {error.message if error else ''}")
    if this.why_unknown is not None:
        return CommandOutput(None, this.why_unknown)
    return site.test_submission(plan, scripts(plan)["sbatch.sh"], for_job(plan, this.host.environ), shell)


def _with_nodes(
    found: DoctorReport,
    this: Site,
    plan: Plan | None,
    error: LauncherError | None,
    shell: Shell,
    progress: Progress,
) -> DoctorReport:
    """Return the report with that of the nodes, or with the reason why there is none."""
    if this.slurm_error is not None:
        return dataclasses.replace(found, not_checked=this.slurm_error)
    if plan is None:
        return dataclasses.replace(found, not_checked=error.message if error else "no plan")
    away = next((check for check in found.login if check.name == "nodes" and check.verdict == "fail"), None)
    if away is not None:
        return dataclasses.replace(found, not_checked=f"nothing was submitted: {away.reason}")
    for warning in plan.warnings:
        progress.warn(warning)
    try:
        with interrupts() as counted:
            start = job.run_as_job if plan.backend.own_job else job.run_in_foreground
            ran = start(plan, this.host, shell, counted, progress.info)
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
