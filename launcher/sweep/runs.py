"""The executor of the launcher's own runs: planned by shape, submitted as job arrays, observed with one query."""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from launcher._util.errors import RequestError, SlurmError
from launcher._util.shell import LocalShell, Shell
from launcher.api.plan_many import ManyPlans
from launcher.api.progress import Progress
from launcher.backends.array import Array, Task, lacks_tasks, shape_of, submit_array, write_array
from launcher.backends.image_uses import record_image_use
from launcher.backends.prepare import create, discard, rewrite
from launcher.config.request import Request
from launcher.contract.paths import RunPaths
from launcher.discovery.host import detect_host
from launcher.planning.model import Plan
from launcher.rundir import RunDirectory
from launcher.scripts import scripts
from launcher.slurm.info import settings
from launcher.slurm.queue import State
from launcher.slurm.submit import LIMIT_OF_QUEUE, Submission
from launcher.sweep.directory import SweepDirectory
from launcher.sweep.executor import Definition, Observation
from launcher.sweep.measure import RunMeasure, StepWindow
from launcher.sweep.points import SweepPoint
from launcher.sweep.trials import ENDED, PointRun, TrialState
from launcher.watch.cancel import cancel_run
from launcher.watch.status import Phase, RunStatus, status_of

_ACCEPTED_S = 600.0
"""How long a number of jobs is taken for the most that Slurm has, before it is asked again."""

_WRITERS = 8
"""Run directories that are written at the same time."""

_STATES: Mapping[Phase, TrialState] = {
    Phase.PREPARED: "asked",
    Phase.UNSUBMITTED: "asked",
    Phase.REFUSED: "asked",
    Phase.QUEUED: "queued",
    Phase.STARTING: "running",
    Phase.RUNNING: "running",
    Phase.STOPPING: "running",
    Phase.SUSPENDED: "running",
    Phase.FINISHED: "finished",
    Phase.CANCELLED: "cancelled",
    Phase.UNKNOWN: "unknown",
}
"""All other phases are failures: only a run that has done all its iterations counts as a success."""


@dataclass(frozen=True)
class QueueLimits:
    """What Slurm allows of one user's jobs, asked once, and the name of its cluster."""

    cluster: str | None
    tasks_per_array: int
    jobs: int
    """In Slurm's memory, ended ones included for a while."""

    @classmethod
    def ask(cls, shell: Shell) -> "QueueLimits":
        """Ask the local Slurm. Raises SlurmError."""
        found = settings(shell)
        return cls(
            found.get("ClusterName") or None,
            tasks_per_array=_number(found.get("MaxArraySize"), 1001),
            jobs=_number(found.get("MaxJobCount"), 10_000),
        )


def _index(array: Path) -> int:
    return int(array.name)


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isdigit() else default


class SlurmRuns:
    """Starts and observes the runs of a sweep; see `executor.Executor`."""

    def __init__(
        self,
        directory: SweepDirectory,
        definition: Definition,
        sweep_id: str,
        progress: Progress,
        *,
        window: StepWindow = StepWindow(),  # noqa: B008 - frozen
        max_parallel: int | None = None,
        shell: Shell | None = None,
    ) -> None:
        self._directory = directory
        self._definition = definition
        self._sweep_id = sweep_id
        self._progress = progress
        self._window = window
        self._max_parallel = max_parallel
        self._shell = shell or LocalShell()
        self._host = detect_host()
        self._plans = ManyPlans()
        self._limits: QueueLimits | None = None
        self._over = dict[str, Observation]()
        self._measures = dict[Path, RunMeasure]()
        self._accepted: _Accepted | None = None
        self._live = 0
        self._completed = False
        """Whether what an earlier launcher has left was completed."""
        self._warned = set[str]()
        self._made = dict[str, RunDirectory]()
        """The first run that was made of each code."""

    # ---- planning

    @property
    def shapes(self) -> int:
        """Return how many shapes of requests were looked at."""
        return self._plans.shapes

    def refuse(self, points: Sequence[SweepPoint]) -> dict[str, str]:
        """Return, by name, why points cannot be run."""
        plans = ((point.name, self._plan(PointRun(point))) for point in points)
        return {name: planned for name, planned in plans if isinstance(planned, str)}

    def plan(self, sample: PointRun) -> Plan:
        """Decide the run of a sample. Raises RequestError."""
        request = self._definition.request_of(sample.point)
        # All points of a sweep are below one run root, also where the profiles of their clusters name several.
        values = {**request.stated(), "name": self._definition.name, "run_root": str(self._directory.root.parent)}
        return self._plans.prepare(
            Request.model_validate(values), run_id=self.run_id(sample), nonce=self._host.nonce
        ).plan

    def run_id(self, sample: PointRun) -> str:
        """Return the id of a sample's run: no run of another sweep has it."""
        return f"{sample.name}-{self._sweep_id}"

    def run_directory(self, sample: PointRun) -> RunDirectory:
        """Return the directory of a sample's run, whether it exists or not."""
        return RunDirectory(self._directory.root / self.run_id(sample))

    def _plan(self, sample: PointRun) -> Plan | str:
        """Return the plan of a sample, or why its point cannot be run."""
        for name, constraint in self._definition.constraints:
            if (reason := constraint(sample.point)) is not None:
                return f"{name}: {reason}"
        try:
            plan = self.plan(sample)
        except RequestError as error:
            return error.message
        for warning in plan.warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                self._progress.warn(warning)
        return plan

    # ---- starting

    def start(self, samples: Sequence[PointRun]) -> dict[str, str]:
        """Submit what was not submitted before; see `executor.Executor.start`."""
        arrays = self._arrays()
        for array in arrays:
            if array.submission() is None or (not self._completed and lacks_tasks(array)):
                self._submit(array)
        self._completed = True
        taken = {run.name for array in arrays if array.submission() != "refused" for run in array.runs}
        missing = [sample for sample in samples if self.run_id(sample) not in taken and not self._started(sample)]
        refused = dict[str, str]()
        groups = dict[tuple[object, ...], _Group]()
        fresh = list[Plan]()
        room = self._room() if missing else 0
        for number, sample in enumerate(missing):
            if room <= 0:
                self._progress.info(f"{len(missing) - number} runs wait: Slurm keeps at most {self._live + number} now")
                break
            planned = self._plan(sample)
            if isinstance(planned, str):
                refused[sample.point.name] = planned
                continue
            room -= 1
            fresh.append(planned)
            group = groups.setdefault(shape_of(planned), _Group(planned))
            group.tasks.append(Task(planned.run_dir, planned.token))
            group.points.append(sample.point.name)
        self._prepare(fresh)
        behind = self._last_live(arrays) if self._max_parallel else None
        return refused | self._submit_groups(list(groups.values()), len(arrays), behind)

    def _room(self) -> int:
        """Return how many further runs Slurm takes, as far as that is known."""
        most = self._ask_limits().jobs
        if self._accepted is not None and time.monotonic() < self._accepted.until:
            most = min(most, self._accepted.runs)
        return most - self._live

    def _started(self, sample: PointRun) -> bool:
        """Return whether a run's own journal says that it was started, whatever the arrays say.

        A run whose last submission Slurm did not take was not, unless it has an attempt. Raises DiskError.
        """
        run = self.run_directory(sample)
        try:
            if run.journal_file.stat().st_size == 0:
                return False
        except OSError:
            return False
        last = run.journal.last("submit_intent", "submit_unknown", "submit_refused", "submitted")
        return last is None or last["event"] != "submit_refused" or run.latest_attempt() is not None

    def _prepare(self, plans: Sequence[Plan]) -> None:
        """Write the directories of runs, several at once: most of the time goes by until files are on the disk."""
        left = list[Plan]()
        for plan in plans:
            if str(plan.code_digest) in self._made:
                left.append(plan)
            else:
                self._write_run(plan)
                self._made[str(plan.code_digest)] = RunDirectory(Path(plan.run_dir))
        with ThreadPoolExecutor(_WRITERS) as pool:
            for _ in pool.map(self._write_run, left):
                pass
        for plan in plans:
            if warning := record_image_use(plan, self._host):
                self._progress.warn(warning)

    def _write_run(self, plan: Plan) -> None:
        """Write the directory of a run. One that an interrupted launcher has made and never submitted is used again."""
        if RunPaths(Path(plan.run_dir)).plan_file.exists():
            rewrite(plan, scripts(plan))
        else:
            create(plan, scripts(plan), like=self._made.get(str(plan.code_digest)))

    def _submit_groups(self, groups: Sequence["_Group"], first: int, behind: str | None) -> dict[str, str]:
        """Submit groups of runs as arrays; return why points are refused, by name.

        Of more arrays than runs may be parallel, one waits for another. An array that is larger than what one user may
        have in the queue is halved until Slurm takes it; the runs that are left over are asked for later.
        """
        size = self._ask_limits().tasks_per_array
        parts = [part for group in groups for part in group.parts(size)]
        shares = shared_out(self._max_parallel, [len(part.tasks) for part in parts])
        pending = deque(zip(parts, shares, strict=True))
        refused, jobs, number, waiting = dict[str, str](), list[str | None](), first, 0
        while pending:
            part, share = pending.popleft()
            most = self._max_parallel
            waits = jobs[len(jobs) - most] if most and len(jobs) >= most else behind
            path = self._directory.arrays / f"{number:03d}"
            number += 1
            array = write_array(path, part.plan, part.tasks, parallel=share, after=waits)
            reason = self._submit(array)
            if reason is _FULL and len(part.tasks) > 1:
                half = part.first(len(part.tasks) // 2)
                waiting += len(part.tasks) - len(half.tasks)
                pending.appendleft((half, share))
                continue
            if reason is _FULL:
                waiting += len(part.tasks)
            elif reason is not None:
                refused |= dict.fromkeys(part.points, str(reason))
            else:
                self._live += len(part.tasks)
                known = array.submission()
                jobs.append(known.job if isinstance(known, Submission) else None)
            if waiting:  # nor would it take the others
                waiting += sum(len(other.tasks) for other, _ in pending)
                break
        if waiting:
            self._accepted = _Accepted(self._live, time.monotonic() + _ACCEPTED_S)
            self._progress.info(f"{waiting} runs wait: Slurm takes no more than {self._live} jobs of yours now")
        return refused

    def _submit(self, array: Array) -> "str | _Full | None":
        """Submit an array; return why Slurm refuses it, and then remove its runs, unless it has too many jobs now."""
        try:
            submit_array(array, self._host.environ, self._shell, here=self._ask_limits().cluster)
        except SlurmError as error:
            if not LIMIT_OF_QUEUE.search(error.message):
                raise
            return _FULL
        except RequestError as error:
            for run in array.runs:
                discard(run)
            return error.message
        return None

    def _arrays(self) -> list[Array]:
        return [Array.read(path) for path in sorted(self._directory.arrays.glob("[0-9]*"), key=_index)]

    def _last_live(self, arrays: Sequence[Array]) -> str | None:
        """Return the job of the newest array if one of its runs may still run."""
        known = arrays[-1].submission() if arrays else None
        if not isinstance(known, Submission) or all(run.name in self._over for run in arrays[-1].runs):
            return None
        return known.job

    def _ask_limits(self) -> QueueLimits:
        if self._limits is None:
            self._limits = QueueLimits.ask(self._shell)
        return self._limits

    # ---- observing

    def observe(self, samples: Sequence[PointRun]) -> dict[str, Observation]:
        """Return how samples are doing: one query to Slurm for all that have not ended."""
        names = {self.run_id(sample): sample.name for sample in samples}
        runs = [self.run_directory(sample) for sample in samples if self.run_id(sample) not in self._over]
        runs = [run for run in runs if run.plan_file.exists()]
        statuses = status_of(runs, self._shell)[0] if runs else []
        found = {run_id: self._over[run_id] for run_id in names if run_id in self._over}
        self._live = 0
        for status in statuses:
            run_id = status.run_state.path.name
            found[run_id] = self._observation(status)
            if found[run_id].state in ENDED:
                self._over[run_id] = found[run_id]
            elif found[run_id].state != "asked":  # else it waits here, not in Slurm
                self._live += 1
        return {names[run_id]: observation for run_id, observation in found.items()}

    def _observation(self, status: RunStatus) -> Observation:
        run = RunDirectory(status.run_state.path)
        state = _STATES.get(status.phase, "failed")
        job = State(status.job_state) if status.job_state else State.FORGOTTEN
        if state in ENDED and state != "finished" and not job.terminal and job is not State.FORGOTTEN:
            # An attempt has ended and its job has not: Slurm may start it again, as after a requeue.
            state = "unknown" if job is State.UNKNOWN else "running"
        if state in ("asked", "queued", "unknown"):
            return Observation(state, status.detail or status.phase.value, run_dir=str(run.path))
        measured = self._measures.setdefault(run.path, RunMeasure(run, self._window))()
        if state in ENDED:
            del self._measures[run.path]
        metric = self._definition.metrics[0]
        reason = None if state == "finished" else f"{status.phase.value}: {status.detail}".rstrip(": ")
        return Observation(
            state,
            reason,
            measured if state == "finished" else {},
            str(run.path),
            status.run_state.progress.iteration,
            measured.get(metric),
        )

    def stop(self, sample: PointRun) -> None:
        """End the run of a sample. Raises LauncherError where that is not possible."""
        cancel_run(self.run_directory(sample), self._shell)


class _Full(Enum):
    """That Slurm takes no more jobs of this user now."""

    FULL = 0


_FULL = _Full.FULL


@dataclass(frozen=True)
class _Accepted:
    """How many runs Slurm had when it took no more: MaxSubmitJobs of an association or a QOS, which may change."""

    runs: int
    until: float


@dataclass
class _Group:
    """Runs of one shape that are to be submitted."""

    plan: Plan
    tasks: list[Task] = field(default_factory=list)
    points: list[str] = field(default_factory=list)
    """The names of their points."""

    def parts(self, size: int) -> Iterator["_Group"]:
        """Yield groups of at most so many runs."""
        for start in range(0, len(self.tasks), size):
            yield _Group(self.plan, self.tasks[start : start + size], self.points[start : start + size])

    def first(self, number: int) -> "_Group":
        """Return the group of the first so many runs."""
        return _Group(self.plan, self.tasks[:number], self.points[:number])


def shared_out(parallel: int | None, sizes: Sequence[int]) -> list[int | None]:
    """Return how many tasks of each array may run at the same time, so that all together are at most `parallel`.

    Each has at least one: of more arrays than `parallel` the further ones have to wait for others.
    """
    if parallel is None:
        return [None] * len(sizes)
    total = sum(sizes)
    shares = [min(size, max(1, parallel * size // total)) for size in sizes]
    while sum(shares) > max(parallel, len(sizes)):
        shares[shares.index(max(shares))] -= 1
    for number in sorted(range(len(sizes)), key=lambda each: shares[each] - sizes[each]):
        shares[number] += min(max(0, parallel - sum(shares)), max(0, sizes[number] - shares[number]))
    return [*shares]
