"""Submitting for a key: of all tries with one key, interrupted ones included, there is one submission."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher._util.errors import ConfigError, LauncherError, OutsideError, RequestError
from launcher._util.shell import LocalShell, Shell
from launcher.api.discover import add_job, recipe_and_code, required_recipe
from launcher.api.locate import find_run
from launcher.api.prepare_plan import CheckPolicy, PreparedPlan, prepare_plan, redrawn
from launcher.api.progress import Progress
from launcher.api.submit import SubmittedRun, submit_plan
from launcher.backends.batch import recover
from launcher.backends.prepare import RunExistsError
from launcher.config.load import load_cluster, load_request
from launcher.config.request import Request
from launcher.contract.files import read_object
from launcher.contract.paths import PLAN
from launcher.discovery.host import detect_host, new_run_id
from launcher.discovery.recipe import RecipeFile
from launcher.planning import assignments, backend_choice
from launcher.planning.run_paths import run_root
from launcher.rundir import RunDirectory
from launcher.rundir.locks import locked
from launcher.rundir.once import Claim, KeyFile

_WAIT_S = 300.0
"""Longer than sbatch tries, which may hold the lock of a launcher that was killed."""

_NOT_OF_THE_RUN = ("run_root", "check_config")
"""What of a request does not change what the run is."""

_SHOWN = 60


@dataclass(frozen=True)
class _Wanted:
    """What is asked for, as far as another try with the key is compared with it."""

    root: Path
    request: dict[str, Any]
    files: dict[str, str]


def submit_once(asked: Request, key: str, progress: Progress, *, check: CheckPolicy) -> SubmittedRun:
    """Submit the request unless this user has done so with this key below the run root; return the one run.

    A try that was interrupted is completed: its directory, its token and its job are used again. Raises RequestError
    where the key belongs to another request, and what `prepare_plan` and `submit_plan` raise.
    """
    if not key.strip() or len(key) > 200 or not key.isprintable():
        raise ConfigError("a key has 1 to 200 printable characters", where="--once")
    wanted = _wanted(asked)
    file = KeyFile.of(wanted.root, key)
    prepared: PreparedPlan | None = None
    if not file.path.exists():
        # A wrong request leaves nothing behind.
        try:
            prepared = prepare_plan(asked, "submit", check=check, progress=progress)
        except RequestError:
            if not file.path.exists():  # else the other launcher's submission may be the reason
                raise
    file.make_directory()
    busy = OutsideError(f"another launcher works for the key {key!r}", where=str(file.path), hint="Try again later.")
    with locked(
        file.path, wait_s=_WAIT_S, busy=busy, on_wait=lambda: progress.info(f"waiting for another launcher: {key}")
    ) as lock:
        claim = file.claim()
        if claim is not None and (found := _submitted(claim, file, wanted, LocalShell())) is not None:
            return found
        prepared = prepared or prepare_plan(asked, "submit", check=check, progress=progress)
        if claim is not None:
            prepared = redrawn(prepared, claim["run_id"], claim["nonce"])
        while True:
            mine = _claim(key, prepared, wanted)
            if claim is None and file.add(mine) != mine:  # on a file system without locks
                raise busy
            try:
                return _submit(mine, file, prepared, progress, lock)
            except RunExistsError:  # another run has the id that was drawn
                file.release(mine)
                host = prepared.inputs.host
                claim, prepared = None, redrawn(prepared, new_run_id(host.now), host.nonce)


def _wanted(asked: Request) -> _Wanted:
    host = detect_host()
    stated, job = add_job(asked, host)
    request = load_request(stated, environ=host.environ, directory=host.directory, job=job)
    if request.attempts is not None and request.attempts > 1:
        raise ConfigError("--once submits one job, and --attempts asks for several", where="--attempts")
    values = {name: value for name, value in request.stated().items() if name not in _NOT_OF_THE_RUN}
    if request.resume is not None:
        run = find_run(request.resume, request.run_root)
        return _Wanted(run.path.parent.parent, _plain({**values, "resume": str(run.path)}), {})
    cluster = load_cluster(request.cluster or backend_choice.default_cluster(host), host.environ)
    recipe, _shipped, code = recipe_and_code(required_recipe(request, "submit"), request, host)
    values["cluster"] = cluster.name
    values["recipe"] = f"{recipe.path}:{recipe.function}" if isinstance(recipe, RecipeFile) else recipe.name
    values["assignments"] = assignments.make_paths_absolute(request.assignments, recipe, host.directory)
    own = {target: source for target, source in code if target.startswith("recipe/")}
    if request.entrypoint is not None:
        values["entrypoint"] = own["entrypoint.py"] = dict(code)["entrypoint.py"]
    sums = {target: hashlib.sha256(Path(source).read_bytes()).hexdigest() for target, source in own.items()}
    return _Wanted(run_root(request, cluster, host), _plain(values), sums)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as JSON has them, so that they equal those of a file."""
    plain: dict[str, Any] = json.loads(json.dumps(values, sort_keys=True))
    return plain


def _claim(key: str, prepared: PreparedPlan, wanted: _Wanted) -> Claim:
    return {
        "key": key,
        "run_dir": prepared.plan.run_dir,
        "run_id": prepared.inputs.host.run_id,
        "nonce": prepared.inputs.host.nonce,
        "token": prepared.plan.token,
        "request": wanted.request,
        "files": wanted.files,
    }


def _submitted(claim: Claim, file: KeyFile, wanted: _Wanted, shell: Shell) -> SubmittedRun | None:
    """Return the run of the claim; None where its submission has not come as far as Slurm."""
    path, key = Path(claim["run_dir"]), claim["key"]
    if differing := [*_differences(claim, wanted)]:
        raise RequestError(
            f"--once {key} belongs to run {path.parent.name}/{path.name}, and this is another request: "
            f"{'; '.join(differing)}",
            where=str(path),
            hint="Ask for the same again to get that run, or choose another key.",
        )
    if not (path / PLAN).exists():
        if file.was_submitted(claim):
            raise RequestError(
                f"the run of --once {key} was submitted, and its directory is gone",
                where=str(path),
                hint="Choose another key to run it again.",
            )
        return None
    run = RunDirectory.at(path)
    found = recover(run, claim["token"], shell)
    if found is None:
        return None
    file.note_submitted(claim)
    return SubmittedRun(run, found.job, found.cluster, path.parent.name, path.name, new=False)


def _submit(claim: Claim, file: KeyFile, prepared: PreparedPlan, progress: Progress, lock: int) -> SubmittedRun:
    try:
        submitted = submit_plan(prepared, progress, (lock,), again=_made_before(prepared))
    except RunExistsError:
        raise
    except LauncherError:
        # Where that is not known, the claim stays: the next try looks again.
        with contextlib.suppress(LauncherError):
            if not _may_be_submitted(claim):
                file.release(claim)
        raise
    file.note_submitted(claim)
    return submitted


def _made_before(prepared: PreparedPlan) -> RunDirectory | None:
    """Return the directory of a new run that an interrupted try of this very submission has made whole."""
    if prepared.resumed is not None:
        return None
    plan = read_object(Path(prepared.plan.run_dir) / PLAN) or {}
    return RunDirectory(Path(prepared.plan.run_dir)) if plan.get("token") == prepared.plan.token else None


def _may_be_submitted(claim: Claim) -> bool:
    journal = RunDirectory(Path(claim["run_dir"])).journal
    events = [event["event"] for event in journal.read() if event.get("token") == claim["token"]]
    return bool(events) and events[-1] != "submit_refused"


def _differences(claim: Claim, wanted: _Wanted) -> Iterator[str]:
    """Yield what differs between the request of the claim and this one."""
    before, now = claim["request"], wanted.request
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if isinstance(old, list | None) and isinstance(new, list | None):
            yield from _list_differences(name, old or [], new or [])
        else:
            yield f"{name} is {_shown(new)}, not {_shown(old)}"
    for name in sorted(claim["files"].keys() | wanted.files.keys()):
        if claim["files"].get(name) != wanted.files.get(name):
            yield f"the file {name.removeprefix('recipe/')} has changed"


def _list_differences(name: str, old: Sequence[Any], new: Sequence[Any]) -> Iterator[str]:
    added = [f"{_shown(each)} is new" for each in new if each not in old]
    missing = [f"{_shown(each)} is missing" for each in old if each not in new]
    yield f"{name}: {', '.join([*added, *missing]) or 'the order is another'}"


def _shown(value: Any) -> str:
    text = "not given" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
