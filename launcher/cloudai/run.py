"""Planning, dry-running and running a scenario: everything is submitted at once, and Slurm keeps the order."""

import contextlib
import os
import shlex
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher._util.errors import ConfigError, ImageError, LauncherError, RequestError
from launcher._util.shell import LocalShell
from launcher.api.progress import Progress
from launcher.cloudai import exec_mode, exec_results, nemo_run, single, sources
from launcher.cloudai.cases import (
    Case,
    PlannedCase,
    RunChoices,
    cases_of,
    check_env_params,
    is_sweep,
    plan_case,
    run_name,
)
from launcher.cloudai.cmd_args import Note
from launcher.cloudai.ending import end_now, end_with
from launcher.cloudai.environment import in_shell
from launcher.cloudai.exec_mode import ExecCase
from launcher.cloudai.load import LoadedFiles, ScenarioTest
from launcher.cloudai.profile import BASE
from launcher.cloudai.recipe_names import variants
from launcher.cloudai.records import SCENARIO, TEST_RUN, read_cases, run_record_text, write_case
from launcher.cloudai.sources import Checkout
from launcher.cloudai.sweeping import TestSweep, job_of
from launcher.contract import files
from launcher.discovery.recipe_index import load_index
from launcher.rundir import RunDirectory
from launcher.sweep.trials import Trial

if TYPE_CHECKING:
    from launcher.api.prepare_plan import PreparedPlan


@dataclass(frozen=True)
class Dry:
    """A case as `dry-run` has planned it."""

    planned: PlannedCase
    prepared: "PreparedPlan | None"
    """None in exec mode."""
    notes: tuple[Note, ...] = ()


@dataclass
class Submitted:
    """What a scenario has become."""

    root: Path
    runs: dict[str, RunDirectory] = field(default_factory=dict)
    """By the case's name."""
    refused: dict[str, str] = field(default_factory=dict)
    """Why a case was not submitted, by its name."""
    sweeps: dict[str, TestSweep] = field(default_factory=dict)
    """By the test's id."""
    jobs: dict[str, list[str]] = field(default_factory=dict)
    """The jobs of each test, by its id; of an array its number alone."""
    scripts: dict[str, ExecCase] = field(default_factory=dict)
    """The cases of exec mode, by name."""
    tests: list[ScenarioTest] = field(default_factory=list)
    waiting: list[ScenarioTest] = field(default_factory=list)
    """Tests that wait for points which an agent has not asked for yet, in the order of their submission."""
    endings: set[tuple[str, str]] = field(default_factory=set)
    """Tests that end with others, where that was seen to."""
    submit: Callable[[ScenarioTest], None] = field(default=lambda _: None)
    end: Callable[[ScenarioTest, str], None] = field(default=lambda _test, _by: None)
    warn: Callable[[str], None] = field(default=lambda _: None)
    one_job: bool = False
    """Whether one job runs all cases (--single-sbatch)."""

    @property
    def choosing(self) -> set[str]:
        """Return the tests whose agent may ask for further points."""
        return {test for test, sweep in self.sweeps.items() if sweep.feeds_on_results and not sweep.over}

    def is_over(self, test: str) -> bool:
        """Return whether a test is the sweep of an agent, and over: Slurm may have forgotten its jobs."""
        sweep = self.sweeps.get(test)
        return sweep is not None and sweep.feeds_on_results and sweep.over

    def runs_of(self, test: str) -> list[RunDirectory]:
        """Return the runs of a test."""
        return [run for name, run in self.runs.items() if name.startswith(f"{test}/")]

    def scripts_of(self, test: str) -> list[ExecCase]:
        """Return the cases of a test in exec mode."""
        return [case for name, case in self.scripts.items() if name.startswith(f"{test}/")]


def results_directory(loaded: LoadedFiles, output: Path | None, now: float) -> Path:
    """Return a new directory for a scenario's results: NAME_TIME below the system's output path."""
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(now))
    base = (output or loaded.system.output_path).absolute()
    path = base / f"{loaded.scenario.model.name}_{stamp}"
    number = 1
    while path.exists():
        number += 1
        path = base / f"{loaded.scenario.model.name}_{stamp}_{number}"
    return path


def scenario_notes(loaded: LoadedFiles) -> list[Note]:
    """Return what is said about keys of the scenario itself."""
    reasons = {
        "job_status_check": "whether a run has passed is always judged, and the others go on",
        "sol_path": "only tests of other workloads are compared with it",
    }
    stated = loaded.scenario.model.model_fields_set
    return [Note(name, f"has no effect: {reason}", "info") for name, reason in reasons.items() if name in stated]


@contextlib.contextmanager
def failure_recorded(root: Path) -> Iterator[None]:
    """Write dse_failure.txt into a scenario's results where an error ends the work, as CloudAI does."""
    try:
        yield
    except Exception as error:
        if root.is_dir():
            text = error.message if isinstance(error, LauncherError) else "".join(traceback.format_exception(error))
            with contextlib.suppress(OSError):  # the error itself is raised in any case
                files.write_text(root / "dse_failure.txt", f"{type(error).__name__}: {text}\n")
        raise


def listed_variants(loaded: LoadedFiles) -> dict[str, list[str]]:
    """Return the variants of the recipes of tests with list_config_variants, by the test's id."""
    index = load_index(None)
    return {
        test.entry.id: variants(test.test.cmd_args, index)
        for test in loaded.scenario.tests
        if test.test.cmd_args.list_config_variants
    }


class Checkouts:
    """The repositories of a scenario, each looked up or cloned once."""

    def __init__(self, loaded: LoadedFiles, *, install: bool) -> None:
        self._path = loaded.system.install_path.absolute()
        self._install = install
        self._found: dict[tuple[str, str, str], Checkout] = {}

    def of(self, test: ScenarioTest) -> Checkout:
        """Return the clone of Megatron Bridge of a test; other repositories are looked up as well."""
        for repo in test.test.git_repos:
            key = (repo.url, repo.commit, str(repo.installed_path))
            if key not in self._found:
                make = sources.install if self._install else sources.look
                self._found[key] = make(repo, self._path)
        bridge = test.test.bridge
        return self._found[bridge.url, bridge.commit, str(bridge.installed_path)]


def planned_cases(
    loaded: LoadedFiles,
    root: Path,
    options: RunChoices,
    checkouts: Checkouts,
    tests: Sequence[ScenarioTest],
    *,
    ask_slurm: bool = False,
) -> Iterator[tuple[Case, PlannedCase | None]]:
    """Yield every case of tests with what is asked of the launcher for it; None for a point that cannot run.

    Raises ConfigError, and OutsideError where a repository cannot be cloned.
    """
    shell = LocalShell() if ask_slurm else None
    for test in tests:
        for case in cases_of(test):
            if case.refused:
                yield case, None
                continue
            source = checkouts.of(test)
            yield (
                case,
                plan_case(case, loaded, root, options, shell_environment=os.environ, source=source, shell=shell),
            )


def write_scenario(loaded: LoadedFiles, root: Path, options: RunChoices) -> None:
    """Write what the reports of a scenario need to know. Raises DiskError."""
    model = loaded.scenario.model
    root.mkdir(parents=True, exist_ok=True)
    values = {
        "version": 1,
        "name": model.name,
        "tests": [test.entry.id for test in loaded.scenario.tests],
        "descriptions": {test.entry.id: test.test.description for test in loaded.scenario.tests},
        "reports": {name: one.enable for name, one in {**(loaded.system.reports or {}), **model.reports}.items()},
        "system": loaded.system.name,
        "gpus_per_node": loaded.system.gpus_per_node,
        "scenario_file": str(loaded.scenario.file.path),
        "mode": options.mode,
    }
    files.write_json(root / SCENARIO, values)


def dry_run(loaded: LoadedFiles, root: Path, options: RunChoices) -> Iterator[Dry | tuple[Case, str]]:
    """Plan every case and write what would be executed below `root`; a case that cannot run is yielded with why.

    Nothing is cloned, imported or submitted. Raises ConfigError.
    """
    write_scenario(loaded, root, options)
    checkouts = Checkouts(loaded, install=False)
    for case, planned in planned_cases(loaded, root, options, checkouts, loaded.scenario.tests):
        directory = root / case.name
        if planned is None:
            write_case(case, directory, None, None)
            yield case, "; ".join(case.refused)
            continue
        write_profile(planned)
        directory.mkdir(parents=True, exist_ok=True)
        if planned.mode == "exec":
            command = exec_text(planned)
            files.write_text(directory / "cloudai_generated_command.sh", f"{command}\n")
            prepared, notes = None, tuple[Note, ...]()
        else:
            prepared, notes = _prepared(planned)
            for name, text in prepared.scripts.items():
                files.write_text(directory / name, text)
            files.write_text(directory / "plan.json", prepared.plan.to_json())
            command = command_line(planned)
        files.write_text(directory / TEST_RUN, run_record_text(planned, command))
        write_case(case, directory, planned, None)
        yield Dry(planned, prepared, notes)


def write_profile(planned: PlannedCase) -> None:
    """Write the cluster profile that a case's request names. Raises DiskError."""
    path = Path(str(planned.request.cluster))
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, planned.profile.text)


def _prepared(planned: PlannedCase) -> "tuple[PreparedPlan, tuple[Note, ...]]":
    """Return the plan; where the image is not imported yet, that of the same run without it, and a note."""
    from launcher.api.prepare_plan import prepare_plan

    with in_shell(planned.environment.secrets):
        try:
            return prepare_plan(planned.request, "submit", check="never"), ()
        except ImageError as error:
            bare = planned.request.model_copy(update={"image": None, "mounts": (), "runtime": "none"})
            prepared = prepare_plan(bare, "submit", check="never")
            text = f"{error.message}; the plan is shown without it, and `launcher cloudai install` imports it"
            return prepared, (Note("cmd_args.container_image", text),)


def command_line(planned: PlannedCase) -> str:
    """Return the command of this launcher that submits the same run."""
    request = planned.request
    options = {
        "cluster": request.cluster,
        "nodes": request.nodes,
        "gpus-per-node": request.gpus_per_node,
        "time": request.time,
        "partition": request.partition,
        "image": request.image,
    }
    words = ["launcher", "submit", str(request.recipe), *request.assignments]
    words += [f"--{name}={value}" for name, value in options.items() if value is not None]
    words += [f"--mount={mount}" for mount in request.mounts]
    words += [f"--env={entry}" for entry in request.env]
    words += [f"--expand-env={name}" for name in request.expand_env]
    return shlex.join(words)


def exec_command(planned: PlannedCase) -> list[str]:
    """Return the command that runs Bridge's own setup_experiment.py; for secrets it has their names."""
    script = planned.source.path / "scripts/performance/setup_experiment.py"
    return [str(planned.python), str(script), *planned.arguments]


def exec_text(planned: PlannedCase) -> str:
    """Return the command of exec mode as it is typed in a shell."""
    return f"NEMORUN_HOME={shlex.quote(str(planned.directory))} {shlex.join(exec_command(planned))}"


def run_scenario(loaded: LoadedFiles, root: Path, options: RunChoices, progress: Progress) -> Submitted:
    """Submit every case of a scenario, each once: called again with the same `root`, it makes good what is missing.

    The order of tests and iterations is kept by Slurm's dependencies. Of an agent that chooses by results the first
    points are submitted; tests that wait for its last one are submitted by `wait`, or by the same call later. Raises
    ConfigError, SlurmError, DiskError, OutsideError.
    """
    write_scenario(loaded, root, options)
    submitted = Submitted(root)
    checkouts = Checkouts(loaded, install=True)
    by_script = {test.entry.id for test in loaded.scenario.tests if runs_script(test, checkouts.of(test), options)}
    cases = {
        test.entry.id: list(planned_cases(loaded, root, options, checkouts, [test], ask_slurm=True))
        for test in loaded.scenario.tests
        if not is_sweep(test) or test.entry.id in by_script
    }
    for test in loaded.scenario.tests:
        if test.entry.id in by_script:
            _check_script(test, cases[test.entry.id], loaded)

    def submit(test: ScenarioTest) -> None:
        before = _needed(test, submitted)
        if test.entry.id in by_script:
            _run_scripts(cases[test.entry.id], before, submitted, progress)
        elif is_sweep(test):
            check_env_params(test)
            _submit_sweep(test, TestSweep(test, loaded, root, options, checkouts.of(test), before, progress), submitted)
        else:
            _submit_test(cases[test.entry.id], before, submitted, progress)

    submitted.tests = list(loaded.scenario.tests)
    submitted.waiting = in_order(loaded.scenario.tests)
    submitted.submit, submitted.warn = submit, progress.warn
    submitted.end = lambda test, by: _end(test, by, submitted, loaded)
    submit_ready(submitted)
    for test in submitted.waiting:
        needed = ", ".join(each.id for each in _starts(test))
        progress.warn(
            f"{test.entry.id} is submitted by this command, or by `run --continue`, once all points of {needed} "
            "were chosen and have ended"
        )
    return submitted


def cases_of_one_job(
    loaded: LoadedFiles, root: Path, options: RunChoices, *, install: bool
) -> list[tuple[Case, PlannedCase | None]]:
    """Return the cases of a scenario in the order in which one job runs them. Raises ConfigError."""
    checkouts = Checkouts(loaded, install=install)
    tests = in_order(loaded.scenario.tests)
    single.check(tests, {test.entry.id for test in tests if runs_script(test, checkouts.of(test), options)})
    cases = list(planned_cases(loaded, root, options, checkouts, tests, ask_slurm=install))
    for _, planned in cases:
        if planned is not None:
            write_profile(planned)
    single.secrets_of(cases)  # before anything is written or submitted
    return cases


def refuse_other_form(root: Path, *, one_job: bool) -> None:
    """Raise ConfigError where a scenario that was begun in one job is to go on in several, or the other way round."""
    begun = [case for case in read_cases(root) if case.values.get("job")]
    if begun and any(bool(case.values.get("single")) != one_job for case in begun):
        raise ConfigError(
            f"was begun {'without' if one_job else 'with'} --single-sbatch, and its tests would be run twice",
            where=str(root),
            hint=f"Go on {'without' if one_job else 'with'} it.",
        )


def dry_run_of_one_job(loaded: LoadedFiles, root: Path, options: RunChoices) -> Path:
    """Write the script of a job that runs every case of a scenario, and return it. Raises ConfigError."""
    cases = cases_of_one_job(loaded, root, options, install=False)
    name = f"cloudai-{loaded.scenario.model.name}"
    return single.write_job(cases, root, directives=single.directives_of(cases, name, root, dry=True)).script


def run_in_one_job(loaded: LoadedFiles, root: Path, options: RunChoices, progress: Progress) -> Submitted:
    """Submit a job that runs every case of a scenario, one after the other; of several calls one submits it.

    Raises ConfigError, SlurmError, DiskError, OutsideError.
    """
    write_scenario(loaded, root, options)
    submitted = Submitted(root, one_job=True)
    cases = cases_of_one_job(loaded, root, options, install=True)
    found = single.submit_job(cases, loaded, root, progress)
    progress.info(f"job {found.job} runs all: {single.SingleJob(root).script}")
    submitted.jobs = {test.entry.id: [found.job] for test in loaded.scenario.tests}
    submitted.refused = {case.name: "; ".join(case.refused) for case, planned in cases if planned is None}
    return submitted


def submit_ready(submitted: Submitted) -> None:
    """Submit the tests that wait for no agent, and what ends tests together with others."""
    left = list[ScenarioTest]()
    for test in submitted.waiting:
        undecided = {each.entry.id for each in left} | submitted.choosing
        if any(
            needed.id in undecided and (needed.type == "start_post_comp" or needed.id not in submitted.jobs)
            for needed in _starts(test)
        ):
            left.append(test)
        else:
            submitted.submit(test)
    submitted.waiting = left
    undecided = {each.entry.id for each in left} | submitted.choosing
    waiting = {each.entry.id for each in left}
    for test in submitted.tests:
        for needed in test.entry.dependencies:
            pair = (test.entry.id, needed.id)
            if needed.type != "end_post_comp" or pair in submitted.endings:
                continue
            if test.entry.id not in waiting and needed.id not in undecided:
                submitted.endings.add(pair)
                submitted.end(test, needed.id)


def _end(test: ScenarioTest, by: str, submitted: Submitted, loaded: LoadedFiles) -> None:
    """Have a test ended with another one: by a job that waits for it, or now where that is an agent's that is over."""
    ended: list[RunDirectory | ExecCase] = [*submitted.runs_of(test.entry.id), *submitted.scripts_of(test.entry.id)]
    if submitted.is_over(by):
        end_now(ended, submitted.warn)
    else:
        end_with(test.entry.id, ended, submitted.jobs.get(by, []), submitted.root, loaded.system)


def _submit_sweep(test: ScenarioTest, sweep: TestSweep, submitted: Submitted) -> None:
    """Submit the points of a sweep beside each other, as arrays."""
    submitted.sweeps[test.entry.id] = sweep
    if _ended_marker(test.entry.id, submitted).exists():
        _note_trials(test.entry.id, sweep, sweep.directory.trials(), submitted)
        sweep.over = True
    else:
        _note_trials(test.entry.id, sweep, sweep.submit(), submitted)


def _note_trials(test: str, sweep: TestSweep, trials: Sequence[Trial], submitted: Submitted) -> None:
    """Note the runs and jobs of a sweep's trials."""
    jobs = list[str]()
    for trial in trials:
        name = f"{test}/0/{trial.number}"
        if trial.state == "refused":
            submitted.refused[name] = str(trial.reason)
            continue
        run = sweep.run_of(trial)
        submitted.runs[name] = run
        if (job := job_of(run.journal)) is not None:
            jobs.append(job.partition("_")[0])
    submitted.jobs[test] = list(dict.fromkeys(jobs))


def runs_script(test: ScenarioTest, source: Checkout, options: RunChoices) -> bool:
    """Return whether a test is run by its own release's setup_experiment.py."""
    return sources.mode_of(test.test.bridge, source, options.mode)[0] == "exec"


_SCRIPTS = 32
"""Points of a sweep in exec mode: each has a process of its own on this machine until its job is over."""


def _check_script(test: ScenarioTest, cases: Sequence[tuple[Case, PlannedCase | None]], loaded: LoadedFiles) -> None:
    """Raise ConfigError for what exec mode cannot do, before anything is started."""
    if test.test.agent == "bayesian_optimization" and is_sweep(test):
        raise ConfigError(
            "agent: bayesian_optimization chooses by results, and in exec mode all points are started at once",
            where=test.locate(("agent",)),
            hint="Use grid_search or random_search, or --mode native.",
        )
    if len(cases) > _SCRIPTS and is_sweep(test):
        raise ConfigError(
            f"the sweep has {len(cases)} points, and in exec mode each one keeps a process on this machine: at most "
            f"{_SCRIPTS} are taken",
            where=test.where,
            hint="Split the sweep, or run it with --mode native, as job arrays.",
        )
    nemo_run.look(test, loaded.system.install_path)
    if any(planned is not None and not planned.plan_only for _, planned in cases):
        script = next(Path(exec_command(planned)[1]) for _, planned in cases if planned is not None)
        if not script.is_file():
            raise ConfigError("this clone of Megatron Bridge has no setup_experiment.py", where=str(script))


def _run_scripts(
    cases: Sequence[tuple[Case, PlannedCase | None]], before: list[str], submitted: Submitted, progress: Progress
) -> None:
    """Start the script of each case; iterations follow each other, points of a sweep run beside each other."""
    previous: str | None = None
    for case, planned in cases:
        if planned is None:
            reason = "; ".join(case.refused)
            submitted.refused[case.name] = reason
            write_case(case, submitted.root / case.name, None, None)
            continue
        chained = [f"afterany:{previous}"] if previous is not None and case.step is None else []
        previous = _run_script(case, planned, [*before, *chained], submitted, progress) or previous


def _run_script(
    case: Case, planned: PlannedCase, dependencies: Sequence[str], submitted: Submitted, progress: Progress
) -> str | None:
    """Start the script of a case and return its job; None where only its plan was asked for, or there is no job."""
    planned.directory.mkdir(parents=True, exist_ok=True)
    for note in planned.notes:
        (progress.warn if note.level == "warning" else progress.info)(f"{case.name}: {note}")
    files.write_text(planned.directory / "cloudai_generated_command.sh", f"{exec_text(planned)}\n")
    if planned.plan_only:
        submitted.refused[case.name] = "cmd_args.dryrun is true"
        write_case(case, planned.directory, planned, None, refused="cmd_args.dryrun is true")
        return None
    script = ExecCase(planned.directory.absolute())
    submitted.scripts[case.name] = script
    files.write_text(planned.directory / TEST_RUN, run_record_text(planned, exec_text(planned)))
    # Written first: without a job it is judged by what the script has printed.
    write_case(case, planned.directory, planned, None)
    try:
        found = exec_mode.start(
            script,
            exec_command(planned),
            {**os.environ, **planned.environment.host, **planned.environment.secrets},
            cwd=planned.source.path,
            dependencies=dependencies,
            gates=planned.gates,
            on_wait=lambda words: progress.info(f"{case.name}: {words}"),
        )
    except RequestError as error:
        progress.warn(f"{case.name}: {error.message}")
        return None
    submitted.jobs.setdefault(case.scenario_test.entry.id, []).append(found.job)
    write_case(case, planned.directory, planned, {"run_dir": None, "job": found.job, "cluster": found.cluster})
    progress.info(f"{case.name}: job {found.job}, {script.log}")
    return found.job


def in_order(tests: Sequence[ScenarioTest]) -> list[ScenarioTest]:
    """Return the tests so that each comes behind those that it waits for. Raises ConfigError for a circle."""
    left, done = list(tests), list[ScenarioTest]()
    while left:
        ids = {test.entry.id for test in left}
        free = [test for test in left if not ids & {needed.id for needed in _starts(test)}]
        if not free:
            names = ", ".join(sorted(ids))
            raise ConfigError(f"dependencies: tests wait for each other in a circle: {names}", where=left[0].where)
        done += free
        left = [test for test in left if test not in free]
    return done


def _starts(test: ScenarioTest) -> list[Any]:
    return [needed for needed in test.entry.dependencies if needed.type != "end_post_comp"]


def _needed(test: ScenarioTest, submitted: Submitted) -> list[str]:
    """Return Slurm's dependencies of a test's first runs.

    `start_post_init` waits for the start of the other test's first run, `start_post_comp` for the end of all its runs,
    however they end.
    """
    found = list[str]()
    for needed in _starts(test):
        jobs = [] if submitted.is_over(needed.id) else submitted.jobs.get(needed.id, [])
        if jobs:
            found.append(f"after:{jobs[0]}" if needed.type == "start_post_init" else f"afterany:{':'.join(jobs)}")
    return found


def _submit_test(
    cases: Sequence[tuple[Case, PlannedCase | None]], before: list[str], submitted: Submitted, progress: Progress
) -> None:
    """Submit a test's iterations, one behind the other."""
    previous: str | None = None
    for case, planned in cases:
        assert planned is not None  # noqa: S101 - only points of sweeps are refused by the checks
        chained = [f"afterany:{previous}"] if previous is not None else []
        job = _submit(case, planned, [*before, *chained], submitted, progress)
        previous = job or previous


def _submit(
    case: Case, planned: PlannedCase, dependencies: Sequence[str], submitted: Submitted, progress: Progress
) -> str | None:
    """Submit one run and return its job; None where only its plan was asked for."""
    from launcher.api.once import submit_once

    request = planned.request
    if dependencies:
        request = request.model_copy(update={"sbatch": {**request.sbatch, "dependency": ",".join(dependencies)}})
    write_profile(planned)
    planned.directory.mkdir(parents=True, exist_ok=True)
    for note in planned.notes:
        (progress.warn if note.level == "warning" else progress.info)(f"{case.name}: {note}")
    if planned.plan_only:
        submitted.refused[case.name] = "cmd_args.dryrun is true"
        write_case(case, planned.directory, planned, None, refused="cmd_args.dryrun is true")
        return None
    with in_shell(planned.environment.secrets):
        run = submit_once(request, f"cloudai {case.name}", progress, check="if possible")
    submitted.runs[case.name] = run.run
    submitted.jobs.setdefault(case.scenario_test.entry.id, []).append(run.job)
    files.write_text(planned.directory / TEST_RUN, run_record_text(planned, command_line(planned)))
    link = planned.directory / "run"
    if not link.is_symlink():
        link.symlink_to(os.path.relpath(run.run.path, planned.directory))
    facts = {"run_dir": str(run.run.path), "job": run.job, "cluster": run.cluster}
    write_case(case, planned.directory, planned, facts)
    progress.info(f"{case.name}: job {run.job}, {run.run.path}")
    return run.job


def wait(submitted: Submitted, *, tick: Callable[[str], None], leave: Callable[[], bool], poll_s: float = 5.0) -> bool:
    """Wait until all runs are over; False where `leave` said before that they are to be left alone.

    `tick` gets one line on how they are doing whenever that has changed.
    """
    if submitted.one_job:
        from launcher.cloudai.results import results_of

        return _poll(
            lambda: [(result.phase, result.over) for result in results_of(list(read_cases(submitted.root)))],
            tick=tick,
            leave=leave,
            poll_s=poll_s,
        )
    followed = set[str]()
    while left := sorted(submitted.choosing - followed):
        _follow(left[0], submitted, tick=tick, leave=leave)
        followed.add(left[0])
        if leave():
            return False
        submit_ready(submitted)
    runs, scripts = list(submitted.runs.values()), list(submitted.scripts.values())
    return _poll(lambda: _phases(runs, scripts), tick=tick, leave=leave, poll_s=poll_s)


def _phases(runs: Sequence[RunDirectory], scripts: Sequence[ExecCase]) -> list[tuple[str, bool]]:
    """Return of each run and of each case of exec mode how it is doing, and whether it is over."""
    from launcher.watch.status import status_of

    shell = LocalShell()
    jobs = exec_mode.ask(scripts, shell)
    verdicts = [exec_results.judge(one, jobs[one.directory], exec_results.steps_of(one)) for one in scripts]
    return [
        *((status.phase.value, status.phase.over) for status in (status_of(runs, shell)[0] if runs else ())),
        *((verdict.phase, verdict.over) for verdict in verdicts),
    ]


def _poll(
    look: Callable[[], list[tuple[str, bool]]],
    *,
    tick: Callable[[str], None],
    leave: Callable[[], bool],
    poll_s: float,
) -> bool:
    """Look until everything is over; False where `leave` said before that it is to be left alone."""
    said = ""
    while True:
        found = look()
        if (line := _counts(phase for phase, _ in found)) != said:
            tick(line)
            said = line
        if all(over for _, over in found):
            return True
        until = time.monotonic() + poll_s
        while time.monotonic() < until:
            if leave():
                return False
            time.sleep(0.2)


def _follow(name: str, submitted: Submitted, *, tick: Callable[[str], None], leave: Callable[[], bool]) -> None:
    """Drive the agent of a test until its last point has ended, or until the test that it ends with is over."""
    sweep = submitted.sweeps[name]
    test = next(each for each in submitted.tests if each.entry.id == name)
    enders = [needed.id for needed in test.entry.dependencies if needed.type == "end_post_comp"]
    over = False

    def ended() -> bool:
        nonlocal over
        over = over or (bool(enders) and all(_has_ended(each, submitted) for each in enders))
        return over

    trials = sweep.follow(
        leave=lambda: over or leave(), tick=lambda found: tick(_counts(trial.state for trial in found)), ended=ended
    )
    _note_trials(name, sweep, trials, submitted)
    if over and not sweep.over:
        marker = _ended_marker(name, submitted)
        marker.parent.mkdir(exist_ok=True)
        files.write_text(marker, "")
        sweep.over = True
        end_now(submitted.runs_of(name), submitted.warn)


def _ended_marker(test: str, submitted: Submitted) -> Path:
    """Return the file that says that an agent asks for no further point, because its test was ended."""
    return submitted.root / "ending" / f"{run_name(test)}.ended"


def _has_ended(test: str, submitted: Submitted) -> bool:
    """Return whether all runs of a test are over."""
    if test in submitted.choosing or any(each.entry.id == test for each in submitted.waiting):
        return False
    return all(over for _, over in _phases(submitted.runs_of(test), submitted.scripts_of(test)))


def _counts(words: Iterable[str]) -> str:
    counts = Counter(words)
    return ", ".join(f"{counts[word]} {word}" for word in sorted(counts))


def install(loaded: LoadedFiles, options: RunChoices, progress: Progress) -> list[str]:
    """Clone the repositories and import the images of a scenario. Return what is there, in words.

    Raises ConfigError, OutsideError, ImageError.
    """
    found, done = Checkouts(loaded, install=True), list[str]()
    for test in loaded.scenario.tests:
        source = found.of(test)
        commit = f" at {source.commit[:12]}" if source.commit else ""
        done.append(f"{source.repo.url} {source.repo.commit}: {source.path}{commit}")
        for note in source.notes:
            progress.warn(note)
        if image := test.test.cmd_args.container_image:
            done.append(_imported(image, loaded, options, progress))
        if runs_script(test, source, options):
            done.append(nemo_run.install(test, source, loaded.system.install_path))
    return list(dict.fromkeys(done))


def _imported(image: str, loaded: LoadedFiles, options: RunChoices, progress: Progress) -> str:
    """Import an image unless its file is there; return where it is."""
    from launcher.api.image import ImageOptions, import_image
    from launcher.images.reference import looks_like_path, parse_reference
    from launcher.images.store.store import find_file

    if looks_like_path(image):
        return f"{image}: a file"
    directories = [loaded.system.install_path.absolute()]
    if (file := find_file(directories, parse_reference(image))) is not None:
        return f"{image}: {file}"
    outcome = import_image(image, ImageOptions(cluster=options.profile or BASE), progress)
    return f"{image}: {outcome.entry.path}"


def uninstall(loaded: LoadedFiles) -> tuple[list[str], list[ConfigError]]:
    """Remove the clones and environments that `install` made; return those removed, and why others are kept."""
    removed, kept, path = list[str](), dict[str, ConfigError](), loaded.system.install_path.absolute()
    for test in loaded.scenario.tests:
        for repo in test.test.git_repos:
            try:
                if sources.uninstall(repo, path):
                    removed.append(str(sources.directory_of(repo, path)))
            except ConfigError as error:
                kept[str(error.where)] = error
        if nemo_run.uninstall(test, path):
            removed.append(str(nemo_run.directory_of(test, path)))
    return removed, list(kept.values())
