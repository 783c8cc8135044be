"""Running the trainings of a correlation: one after the other, or several at once on the GPUs of this machine."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from launcher._util.errors import ConfigError
from launcher.api.locate import find_cluster
from launcher.api.prepare_plan import prepare_plan
from launcher.api.progress import Progress
from launcher.api.run import start_run
from launcher.backends import wait
from launcher.backends.protocol import StartedRun
from launcher.config.request import Request
from launcher.discovery.host import HostContext
from launcher.rundir import RunDirectory
from launcher.watch.follower import Follower

_TICK_S = 0.1
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Wanted:
    """A training that is to be run, and its name in messages."""

    name: str
    request: Request


@dataclass(frozen=True)
class Ended:
    """A training that has ended."""

    name: str
    run: RunDirectory
    failure: str | None = None
    """Why it did not finish."""


def run_all(wanted: Sequence[Wanted], progress: Progress, *, at_once: int = 1) -> list[Ended]:
    """Run the trainings, `at_once` of them at a time; return them in the order given, also those that failed.

    With more than one at a time each has GPUs of its own where there are enough. The first Ctrl-C asks all to save and
    stop and starts no further one, the second ends them; both end in KeyboardInterrupt. Raises RequestError or
    OutsideError where one cannot be started, after those that run have ended.
    """
    places = _places(wanted, at_once)
    waiting = list(enumerate(wanted))
    ended: dict[int, Ended] = {}
    with wait.interrupts() as counted, _Runner(counted, progress, alone=at_once == 1) as runner:
        while runner.running or (waiting and not counted.count):
            while waiting and len(runner.running) < at_once and not counted.count:
                index, one = waiting.pop(0)
                runner.start(index, one, places)
            for index, found in runner.wait_for_one():
                ended[index] = found
    if counted.count:
        raise KeyboardInterrupt
    return [ended[index] for index in sorted(ended)]


def _places(wanted: Sequence[Wanted], at_once: int) -> list[Mapping[str, str]]:
    """Return the variables for each group of GPUs; one group for everything unless several run at once.

    Raises ConfigError where several cannot run at once.
    """
    if at_once == 1 or not wanted:
        return [{}]
    request = wanted[0].request
    cluster, host = find_cluster(request.cluster)
    if cluster.scheduler != "local":
        raise ConfigError(
            f"the profile {request.cluster or 'of this cluster'} runs in Slurm, and several trainings at once share "
            "the GPUs of one machine",
            where="--at-once",
            hint="Leave it out, or add --cluster local.",
        )
    devices = visible_gpus(host)
    ranks = request.gpus_per_node or cluster.gpus_per_node or len(devices)
    if not devices or ranks > len(devices):
        return [{}]
    return [{VISIBLE: ",".join(devices[first : first + ranks])} for first in range(0, len(devices) - ranks + 1, ranks)]


def visible_gpus(host: HostContext) -> list[str]:
    """Return the GPUs that a program of this shell sees, as CUDA_VISIBLE_DEVICES names them."""
    stated = host.environ.get(VISIBLE)
    if stated is None:
        return [str(number) for number in range(host.gpus)]
    return [one.strip() for one in stated.split(",") if one.strip()][: host.gpus]


@dataclass
class _Running:
    index: int
    name: str
    started: StartedRun
    place: int


@dataclass
class _Runner:
    """The trainings that run now. At the end of the block none of them runs any more."""

    counted: wait.Interrupts
    progress: Progress
    alone: bool
    """Whether one runs at a time, and is followed on the terminal."""
    running: list[_Running] = field(default_factory=list)
    _handled: int = 0

    def __enter__(self) -> "_Runner":
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.running:
            one.started.cancel()
        while self.running:
            self.wait_for_one()

    def start(self, index: int, one: Wanted, places: Sequence[Mapping[str, str]]) -> None:
        """Start a training on the GPUs that the fewest others use."""
        place = min(range(len(places)), key=lambda at: sum(each.place == at for each in self.running))
        variables = places[place]
        env = (*one.request.env, *(f"{name}={value}" for name, value in variables.items()))
        request = one.request.model_copy(update={"env": env}) if variables else one.request
        prepared = prepare_plan(request, "run", progress=self.progress)
        started = start_run(prepared, self.progress)
        self.running.append(_Running(index, one.name, started, place))
        self.progress.info(f"{one.name}: {prepared.plan.name}/{started.run.path.name}: {started.run.path}")

    def wait_for_one(self) -> list[tuple[int, Ended]]:
        """Wait until a training has ended; return those that have, each with its place in the order given."""
        statuses: dict[int, int] = {}
        with self._followed() as follower:
            while not statuses and self.running:
                if follower is not None:
                    follower.tick()
                self._heed_interrupts()
                time.sleep(_TICK_S)
                found = {at: one.started.poll() for at, one in enumerate(self.running)}
                statuses = {at: status for at, status in found.items() if status is not None}
        done = [(self.running[at], status) for at, status in statuses.items()]
        self.running = [one for at, one in enumerate(self.running) if at not in statuses]
        return [(one.index, self._finish(one, status)) for one, status in done]

    @contextlib.contextmanager
    def _followed(self) -> Iterator[Follower | None]:
        if not self.alone or not self.running:
            yield None
            return
        with Follower(self.running[0].started.run) as follower:
            yield follower

    def _heed_interrupts(self) -> None:
        if self.counted.count <= self._handled:
            return
        self._handled += 1
        asked = self._handled == 1
        self.progress.info("asking the ranks to save and stop" if asked else "ending the trainings")
        for one in self.running:
            if not (asked and wait.request_stop(one.started.run, "Ctrl-C")):
                one.started.cancel()

    def _finish(self, one: _Running, status: int) -> Ended:
        run = one.started.run
        failed = one.started.finish(status)
        if not failed:
            if not self.alone:
                self.progress.info(f"{one.name}: finished")
            return Ended(one.name, run)
        summary = wait.summary(run, run.latest_attempt())
        failure = str(summary.get("reason") or summary.get("outcome"))
        self.progress.warn(f"{one.name}: {failure}: {run.path}")
        return Ended(one.name, run, failure)
