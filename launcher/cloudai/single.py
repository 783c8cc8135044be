"""--single-sbatch: all runs of a scenario in one job, one after the other, each on as many of its nodes as it needs.

The job's script is `single/sbatch.sh` of the results; it starts this module on the job's first node, which runs each
case as `launcher run` does in an allocation. A job that is requeued goes on with the first case that is not over.
"""

import hashlib
import json
import math
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher._util.errors import ConfigError, ImageError, LauncherError, OutsideError
from launcher._util.shell import LocalShell, Shell
from launcher.api.progress import Progress, Silent
from launcher.backends.process_environment import SLURM_CLIENT
from launcher.cloudai.cases import Case, PlannedCase, is_sweep
from launcher.cloudai.environment import in_shell
from launcher.cloudai.exec_sbatch import with_gates
from launcher.cloudai.gates import outcomes
from launcher.cloudai.load import LoadedFiles, ScenarioTest
from launcher.cloudai.models import slurm_time_limit
from launcher.cloudai.records import CASE, TEST_RUN, run_record_text, write_case
from launcher.config.load import parse
from launcher.config.request import Request
from launcher.contract import files
from launcher.planning.time_limit import limit_seconds
from launcher.rundir import RunDirectory
from launcher.rundir.journal import Journal
from launcher.rundir.locks import locked
from launcher.scripts.render import directive
from launcher.slurm.submit import Submission, search, submit

if TYPE_CHECKING:
    from launcher.backends.wait import Interrupts

_OF_THE_JOB = ("time", "partition", "account", "qos", "sbatch", "gates", "keep_going", "exclude", "nodelist")
"""What of a case's request belongs to a job of its own."""

_OWN = ("job-name", "output", "error", "signal", "comment", "nodes", "nodelist", "exclude", "export")
"""Options of a run's job that the one job has in another form, or not at all: its runs watch their end themselves, and
each takes those of the variables that it names."""

_LOCK_WAIT_S = 200.0
"""Longer than sbatch tries."""


@dataclass(frozen=True)
class SingleJob:
    """The one job of a scenario on disk."""

    root: Path

    @property
    def path(self) -> Path:
        """Return the directory of its script, its log and what it runs."""
        return self.root / "single"

    @property
    def script(self) -> Path:
        """Return its batch script."""
        return self.path / "sbatch.sh"

    @property
    def gates(self) -> Path:
        """Return the directory of what it has run before and after its cases, one below for each of its starts."""
        return self.path / "gates"

    @property
    def journal(self) -> Journal:
        """Return what was submitted."""
        return Journal(self.path / "journal.jsonl")

    def submission(self) -> Submission | None:
        """Return the job as far as the journal says. Raises DiskError."""
        last = self.journal.last("submitted") if self.journal.path.exists() else None
        return Submission(str(last["job"]), last.get("cluster")) if last is not None else None

    def why_not_begun(self) -> str | None:
        """Return which gate has kept its cases from being run; None where none has."""
        starts = sorted(self.gates.glob("*/gates.json"), key=lambda path: path.stat().st_mtime_ns)
        found = [gate for gate in (outcomes(starts[-1]) if starts else ()) if gate["when"] == "before"]
        return next((f"gate {gate['name']}: {gate['reason']}" for gate in found if not gate["passed"]), None)


def check(tests: Sequence[ScenarioTest], by_script: Iterable[str]) -> None:
    """Raise ConfigError for tests that cannot run one after the other in a job."""
    scripts = set(by_script)
    for test in tests:
        reason = None
        if test.entry.id in scripts:
            reason = "its setup_experiment.py submits a job of its own: --mode native runs it in this one"
        elif is_sweep(test) and test.test.agent == "bayesian_optimization":
            reason = "bayesian_optimization chooses by results: use grid_search or random_search"
        elif any(needed.type == "end_post_comp" for needed in test.entry.dependencies):
            reason = "end_post_comp ends a test that runs beside another, and in one job each has the nodes alone"
        if reason is not None:
            raise ConfigError(f"{test.entry.id}: {reason}", where="--single-sbatch", hint="Leave --single-sbatch out.")


def time_limit(cases: Sequence[Case]) -> str | None:
    """Return the sum of the cases' time limits in minutes; None where none is stated. Raises ConfigError for some."""
    limits = [case.scenario_test.entry.time_limit for case in cases]
    stated = [limit for limit in limits if limit]
    if not stated:
        return None
    if len(stated) < len(limits):
        raise ConfigError(
            "some tests state a time_limit and others none, and the limit of one job is their sum",
            where="--single-sbatch",
            hint="State it for each test, or for none.",
        )
    seconds = [limit_seconds(slurm_time_limit(limit)) for limit in stated]
    if any(each is None for each in seconds):
        return "UNLIMITED"
    return str(math.ceil(sum(each or 0 for each in seconds) / 60))


def write_job(
    cases: Sequence[tuple[Case, PlannedCase | None]], root: Path, *, directives: Mapping[str, str | None]
) -> SingleJob:
    """Write the script of the one job, and what it runs. Raises ConfigError, DiskError."""
    job = SingleJob(root.absolute())
    job.path.mkdir(parents=True, exist_ok=True)
    runs = [
        {"case": str((root / case.name).absolute()), "request": _in_allocation(planned.request)}
        for case, planned in cases
        if planned is not None and not planned.plan_only
    ]
    files.write_json(job.path / "runs.json", {"version": 1, "runs": runs})
    lines = [
        f"#SBATCH --{key}" if value is None else f"#SBATCH --{key}={directive(value)}"
        for key, value in directives.items()
    ]
    program = "from launcher.cloudai.single import main; import sys; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-P", "-c", program, str(job.root)]
    text = "\n".join(["#!/bin/bash", *lines, "set -u", shlex.join(words), ""])
    files.write_text(job.script, with_gates(text, gates_of(cases), job.gates), mode=0o700)
    return job


def gates_of(cases: Sequence[tuple[Case, PlannedCase | None]]) -> tuple[str, ...]:
    """Return the programs before and after all cases: those of each case that is run, one of each name.

    That of the largest case counts: the same NCCL test has as many tasks on a node as a case has ranks.
    """
    found, planned = dict[str, str](), _that_run(cases)
    for _, each in [_largest(planned), *planned] if planned else ():
        for gate in each.request.gates:
            found.setdefault(str(json.loads(gate)["name"]), gate)
    return tuple(found.values())


def secrets_of(cases: Sequence[tuple[Case, PlannedCase | None]]) -> dict[str, str]:
    """Return the secrets of all cases by name, which the job has. Raises ConfigError for one with two values."""
    found, owner = dict[str, str](), dict[str, str]()
    for case, planned in cases:
        for name, value in planned.environment.secrets.items() if planned is not None else ():
            if found.setdefault(name, value) != value:
                raise ConfigError(
                    f"{owner[name]} and {case.name} give {name} different values, and one job has one",
                    where="--single-sbatch",
                    hint="Leave --single-sbatch out.",
                )
            owner.setdefault(name, case.name)
    return found


def _that_run(cases: Sequence[tuple[Case, PlannedCase | None]]) -> list[tuple[Case, PlannedCase]]:
    return [(case, each) for case, each in cases if each is not None and not each.plan_only]


def _largest(planned: Sequence[tuple[Case, PlannedCase]]) -> tuple[Case, PlannedCase]:
    """Return the case whose job is the one of all: that with the most nodes, and of these with the most GPUs."""
    return max(planned, key=lambda each: (each[1].nodes, each[1].request.gpus_per_node or 0))


def left_out(cases: Sequence[tuple[Case, PlannedCase | None]]) -> Iterator[tuple[str, str]]:
    """Yield for each case what the one job does not give it: the case's name, and a sentence."""
    planned = _that_run(cases)
    if not planned:
        return
    owner, largest = _largest(planned)
    every = {node for _, each in planned for node in (each.request.nodelist or "").split(",") if node}
    for case, each in planned:
        named = each.request.nodelist
        if named and (len(every) < largest.nodes or set(named.split(",")) != every):
            yield case.name, f"names {named}, and in one job Slurm chooses {each.nodes} of the job's nodes for it"
        for option in ("partition", "account", "qos", "sbatch"):
            if (asked := getattr(each.request, option)) not in (None, {}, getattr(largest.request, option)):
                yield case.name, f"asks for {option} {asked}, and the one job has what {owner.name} asks for"
        if each.request.keep_going:
            yield case.name, "max_retries has no effect in one job: a run that has failed is not begun again"


def _in_allocation(request: Request) -> dict[str, Any]:
    """Return the values of a run's request without those of a job of its own."""
    values: dict[str, Any] = json.loads(
        json.dumps({name: value for name, value in request.stated().items() if name not in _OF_THE_JOB})
    )
    return values


def directives_of(
    cases: Sequence[tuple[Case, PlannedCase | None]], name: str, root: Path, *, dry: bool = False
) -> dict[str, str | None]:
    """Return sbatch's options of the one job: those of its largest run, for the sum of the time limits.

    With `dry` an image may be missing that `launcher cloudai install` imports.

    Raises a RequestError of the kind that fits.
    """
    from launcher.api.prepare_plan import prepare_plan

    run = _that_run(cases)
    if not run:
        raise ConfigError("no test of the scenario can be run", where="--single-sbatch")
    planned, (owner, largest) = [each for _, each in run], _largest(run)
    for case, each in run:
        if (each.request.gpus_per_node or 0) > (largest.request.gpus_per_node or 0):
            raise ConfigError(
                f"{case.name} needs {each.request.gpus_per_node} GPUs of a node, and {owner.name}, which has the most "
                f"nodes, {largest.request.gpus_per_node}",
                where="--single-sbatch",
                hint="Leave --single-sbatch out.",
            )
    limit = time_limit([each.case for each in planned])
    changes: dict[str, Any] = {"gates": (), "keep_going": False, "time": limit, "nodelist": None, "exclude": None}
    with in_shell(largest.environment.secrets):
        try:
            plan = prepare_plan(largest.request.model_copy(update=changes), "submit", check="never").plan
        except ImageError:
            if not dry:
                raise
            changes |= {"image": None, "mounts": (), "runtime": "none"}
            plan = prepare_plan(largest.request.model_copy(update=changes), "submit", check="never").plan
    found = {key: value for key, value in plan.directives if key not in _OWN}
    named = list(dict.fromkeys(node for each in planned for node in (each.request.nodelist or "").split(",") if node))
    excluded = list(dict.fromkeys(node for each in planned for node in (each.request.exclude or "").split(",") if node))
    return {
        "job-name": name,
        "output": str(root.absolute() / "single/job.log").replace("%", "%%"),
        "nodes": str(max(largest.nodes, len(named))),
        **({"nodelist": ",".join(named)} if named else {}),
        **({"exclude": ",".join(excluded)} if excluded else {}),
        **found,
        "open-mode": "append",
    }


def submit_job(
    cases: Sequence[tuple[Case, PlannedCase | None]],
    loaded: LoadedFiles,
    root: Path,
    progress: Progress,
    shell: Shell | None = None,
) -> Submission:
    """Submit the one job of a scenario, once: called again with the same `root`, it returns the job that there is.

    Raises ConfigError, SlurmError, DiskError, OutsideError where another launcher submits it.
    """
    job = SingleJob(root.absolute())
    job.path.mkdir(parents=True, exist_ok=True)
    secrets = secrets_of(cases)
    busy = OutsideError("another launcher submits the job of this scenario", where=str(job.path))
    with locked(job.path / "lock", wait_s=_LOCK_WAIT_S, busy=busy) as lock, in_shell(secrets):
        shell = shell or LocalShell(keep=(lock,))
        found = _known(job, shell)
        if found is None:
            write_job(cases, root, directives=directives_of(cases, f"cloudai-{loaded.scenario.model.name}", root))
            number = (
                len([event for event in job.journal.read() if event["event"] == "submit_intent"])
                if (job.journal.path.exists())
                else 0
            )
            digest = hashlib.sha256(str(job.root).encode()).hexdigest()[:12]
            token = f"launcher-single-{digest}-{number}"
            job.journal.write("submit_intent", token=token)
            found = submit(job.script, shell, token=token, env=_environment(), cwd=job.path)
            job.journal.write("submitted", token=token, job=found.job, cluster=found.cluster)
            for name, words in left_out(cases):
                progress.warn(f"{name}: {words}")
        _write_cases(cases, root, job, found, progress)
    return found


def _write_cases(
    cases: Sequence[tuple[Case, PlannedCase | None]], root: Path, job: SingleJob, found: Submission, progress: Progress
) -> None:
    """Record the cases, except those that are recorded. What the job has noted of a case before that is kept."""
    facts = {"job": found.job, "cluster": found.cluster, "single": True}
    for case, planned in cases:
        directory = root / case.name
        if planned is None:
            write_case(case, directory, None, None)
        elif planned.plan_only:
            write_case(case, directory, planned, None, refused="cmd_args.dryrun is true")
        elif "job" not in (known := files.read_object(directory / CASE) or {}):
            write_case(case, directory, planned, {"run_dir": None, **known, **facts})
            files.write_text(directory / TEST_RUN, run_record_text(planned, f"sbatch {job.script}"))
            for note in planned.notes:
                (progress.warn if note.level == "warning" else progress.info)(f"{case.name}: {note}")


def _environment() -> dict[str, str]:
    """Return the environment of the job's launcher: that of this one without what describes another job."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in SLURM_CLIENT or not name.startswith(("SLURM_", "SBATCH_", "SRUN_"))
    }


def _known(job: SingleJob, shell: Shell) -> Submission | None:
    """Return the job of an earlier call; a submission that was interrupted is looked for in Slurm."""
    if (known := job.submission()) is not None:
        return known
    last = job.journal.last("submit_intent") if job.journal.path.exists() else None
    if last is None or (found := search(str(last["token"]), shell)) is None:
        return None
    job.journal.write("submitted", token=last["token"], job=found.job, cluster=found.cluster, recovered=True)
    return found


# ---- inside the job


def main(arguments: Sequence[str]) -> int:
    """Run what a scenario's results name, one after the other; return 1 where a run has not finished.

    No case is begun once this process was asked to end: the job is about to end or to be requeued, and a case that
    cannot start then would count as failed.
    """
    from launcher.backends.wait import interrupts

    (root,) = arguments
    job = SingleJob(Path(root))
    record = files.read_object(job.path / "runs.json") or {}
    with interrupts() as counted:
        _wait_for_records(job)
        statuses = [
            not counted.count and _run(Path(each["case"]), each["request"], counted) for each in record.get("runs", [])
        ]
    return 0 if all(statuses) else 1


def _wait_for_records(job: SingleJob) -> None:
    """Wait until the launcher that has submitted this job has recorded its cases, or has ended."""
    try:
        with locked(job.path / "lock", wait_s=_LOCK_WAIT_S, busy=OutsideError("its launcher still holds the lock")):
            return
    except LauncherError as error:
        print(f"launcher: {error.message}", flush=True)


def _run(directory: Path, values: Mapping[str, Any], counted: "Interrupts") -> bool:
    """Run one case unless it is over; return whether it has finished."""
    from launcher.api.prepare_plan import prepare_plan
    from launcher.api.run import start_run, wait_for_run

    record = files.read_object(directory / CASE) or {}
    if (before := _outcome(record)) in ("finished", "failed", "diverged"):  # the job was requeued
        return before == "finished"
    print(f"launcher: {directory.parent.name}/{directory.name} begins", flush=True)
    try:
        prepared = prepare_plan(parse(Request, values, where=None), "run", check="never", progress=Silent())
        started = start_run(prepared, Silent())
        files.write_json(directory / CASE, {**record, "run_dir": str(started.run.path)})
        link = directory / "run"
        link.unlink(missing_ok=True)  # of a run that a requeue has ended
        link.symlink_to(started.run.path)
        outcome = wait_for_run(started, counted, tick=lambda: None, say=lambda words: print(words, flush=True))
    except LauncherError as error:
        print(f"launcher: {directory}: {error.message}", flush=True)
        files.write_json(directory / CASE, {**record, "failed": error.message})
        return False
    return outcome.exit_status == 0


def _outcome(record: Mapping[str, Any]) -> str | None:
    """Return what became of a case's run in an earlier start of the job; None where it has no verdict."""
    if not record.get("run_dir"):
        return None
    attempt = RunDirectory(Path(record["run_dir"])).latest_attempt()
    result = attempt.result if attempt is not None else None
    return None if result is None else str(result["outcome"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
