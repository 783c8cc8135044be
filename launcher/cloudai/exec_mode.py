"""Exec mode: Bridge's own setup_experiment.py, started once for a case and followed by its job.

The script runs in the background, in a session of its own, and stays until its job is over. Its `sbatch` is a program
of this launcher (`exec_sbatch`), which submits each job once and records it in the case's journal. Everything is below
`exec` in the case's directory: a launcher that is killed at any moment goes on from there.
"""

import contextlib
import json
import os
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher._util.errors import DiskError, OutsideError, RequestError
from launcher._util.shell import LocalShell, Shell
from launcher.cloudai.flags import KEY, TOKEN
from launcher.contract import files
from launcher.rundir.journal import Journal
from launcher.rundir.locks import locked
from launcher.slurm import control
from launcher.slurm.queue import Job, ask_jobs
from launcher.slurm.submit import Submission, find_submission, search

LOG = "cloudai_megatron_bridge_launcher.log"
"""What setup_experiment.py has printed, under CloudAI's name."""

CASE = "LAUNCHER_CLOUDAI_CASE"
"""The variable through which the case's directory reaches the program in the place of sbatch."""

SESSION = "LAUNCHER_CLOUDAI_SESSION"
"""The variable that says by which start of the script a job is submitted."""

SUBMIT_WAIT_S = 900.0
"""How long a script may take until it has called sbatch."""

_LOCK_WAIT_S = 200.0
"""Longer than sbatch tries."""

_SHOWN_LINES = 8

_PROBE_S = 1.0
"""Another launcher looks for a moment whether the script runs."""

_SHIM = "In the place of sbatch for setup_experiment.py: each job of the case is submitted once."

_PLACES = {"HF_TOKEN": TOKEN, "WANDB_API_KEY": KEY}
"""What stands for a secret in the script's arguments, by the variable that has the value."""


@dataclass(frozen=True)
class ExecCase:
    """A case of exec mode on disk."""

    directory: Path

    @property
    def path(self) -> Path:
        """Return the directory of the launcher's own records."""
        return self.directory / "exec"

    @property
    def journal(self) -> Journal:
        """Return what was submitted for it."""
        return Journal(self.path / "journal.jsonl")

    @property
    def log(self) -> Path:
        """Return what the script has printed."""
        return self.directory / LOG

    def submission(self) -> Submission | None:
        """Return its newest job as far as the journal says. Raises DiskError."""
        last = self.journal.last("submitted")
        return Submission(str(last["job"]), last.get("cluster")) if last is not None and last.get("job") else None

    def token(self) -> str | None:
        """Return the token of its newest job. Raises DiskError."""
        last = self.journal.last("submitted")
        return last.get("token") if last is not None else None

    def scripts(self) -> list[str]:
        """Return the batch scripts of its jobs, as NeMo-Run has written them."""
        lines = files.read_lines(self.path / "scripts.jsonl")
        return [str(line["script"]) for line in lines if isinstance(line.get("script"), str)]

    def ended(self) -> int | None:
        """Return the status of the script of the newest start; None while it runs, or where it was killed."""
        session = self.session()
        text = _text(self.path / f"status.{session}") if session else None
        return int(text) if text is not None and text.strip().isdigit() else None

    def session(self) -> str | None:
        """Return the name of the newest start; None where there was none."""
        found = files.read_object(self.path / "session.json")
        return str(found["session"]) if found is not None else None

    def dependencies(self) -> list[str]:
        """Return Slurm's dependencies of its jobs."""
        found = files.read_object(self.path / "session.json") or {}
        return [str(each) for each in found.get("dependencies", [])]

    def arguments(self) -> list[str]:
        """Return what the script of the newest start was called with."""
        found = files.read_object(self.path / "session.json") or {}
        return [str(each) for each in found.get("arguments", [])]

    def gates(self) -> list[str]:
        """Return what its jobs run before and after the training, each as a request states it."""
        found = files.read_object(self.path / "session.json") or {}
        return [str(each) for each in found.get("gates", [])]

    def gate_records(self, job: str) -> list[Path]:
        """Return the files on these programs of a job, one for each of its starts, the newest last."""
        found = [path for path in self.path.glob(f"gates/{job}-*/gates.json") if path.parent.name.count("-") == 1]
        return sorted(found, key=lambda path: int(path.parent.name.partition("-")[2]))

    def runs(self) -> bool:
        """Return whether its script, or what that has started on this machine, still runs."""
        try:
            with locked(self.path / "running", wait_s=0, busy=BlockingIOError()):
                return False
        except BlockingIOError:
            return True

    def last_words(self) -> str:
        """Return the end of what the script has printed."""
        lines = (_text(self.log) or "").rstrip().splitlines()
        return "\n".join(lines[-_SHOWN_LINES:])

    @contextlib.contextmanager
    def submitting(self) -> Iterator[int]:
        """Hold the lock under which this case's jobs are submitted; yield its descriptor. Raises OutsideError."""
        busy = OutsideError("another program submits the job of this case", where=str(self.directory))
        with locked(self.path / "lock", wait_s=_LOCK_WAIT_S, busy=busy) as descriptor:
            yield descriptor


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None  # the script has not written it yet, or it was removed: its state is then unknown


def start(
    case: ExecCase,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    cwd: Path,
    dependencies: Sequence[str],
    on_wait: Callable[[str], None],
    gates: Sequence[str] = (),
    wait_s: float = SUBMIT_WAIT_S,
    shell: Shell | None = None,
) -> Submission:
    """Run a case's script unless its job is known; return the job once it is submitted.

    A start that was interrupted is completed: its job is looked for before the script is run again. `environment` is
    the script's, with the values of secrets; `gates` are what its jobs run before and after the training. Raises
    RequestError where the script ends without a job, OutsideError where it does not submit one in time, SlurmError
    where Slurm does not answer whether there is a job, DiskError.
    """
    shell = shell or LocalShell()
    try:
        case.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"cannot make the directory: {error.strerror}", where=str(case.path)) from error
    if (known := _known(case, shell)) is not None:
        return known
    busy = BlockingIOError()
    try:
        with locked(case.path / "running", wait_s=_PROBE_S, busy=busy) as running, case.submitting():
            # Between the look above and the lock another launcher may have come as far as a job.
            if (known := _known(case, shell, locked_already=True)) is not None:
                return known
            _run(case, command, environment, cwd=cwd, dependencies=dependencies, gates=gates, running=running)
    except BlockingIOError:
        on_wait("its script runs already")
    return _wait(case, wait_s, on_wait)


def _known(case: ExecCase, shell: Shell, *, locked_already: bool = False) -> Submission | None:
    """Return the job of an earlier start; a submission that was interrupted is looked for in Slurm."""
    if (known := case.submission()) is not None:
        return known
    last = case.journal.last("submit_intent", "submit_refused") if case.journal.path.exists() else None
    if last is None or last["event"] != "submit_intent" or (case.runs() and not locked_already):
        return None
    with contextlib.nullcontext() if locked_already else case.submitting():
        if (known := case.submission()) is not None:
            return known
        token = str(last["token"])
        found = search(token, shell, clusters=last.get("clusters"))
        if found is not None:
            case.journal.write("submitted", token=token, job=found.job, cluster=found.cluster, recovered=True)
        return found


def _run(
    case: ExecCase,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    cwd: Path,
    dependencies: Sequence[str],
    gates: Sequence[str],
    running: int,
) -> None:
    """Start the script in the background: it holds the lock `running` until it ends."""
    import subprocess

    session = secrets.token_hex(6)
    shims = case.path / "bin"
    shims.mkdir(exist_ok=True)
    write_stand_in(shims / "sbatch")
    values = {
        "session": session,
        "dependencies": list(dependencies),
        "arguments": list(command[2:]),
        "gates": list(gates),
    }
    files.write_json(case.path / "session.json", values)
    status = case.path / f"status.{session}"
    # The status is written by a shell around the script, which outlives this process.
    script = '"$@"; s=$?; echo "$s" >"$LAUNCHER_STATUS.tmp" && mv -f "$LAUNCHER_STATUS.tmp" "$LAUNCHER_STATUS"'
    env = {
        **environment,
        "PATH": f"{shims}{os.pathsep}{environment.get('PATH', os.defpath)}",
        "NEMORUN_HOME": str(case.directory),
        "LAUNCHER_STATUS": str(status),
        CASE: str(case.directory),
        SESSION: session,
    }
    try:
        with case.log.open("ab") as log:
            subprocess.Popen(
                ["bash", "-c", script, "setup_experiment", *command],
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(running,),
            )
    except OSError as error:
        raise DiskError(f"the script cannot be started: {error.strerror}", where=str(case.log)) from error


def write_stand_in(path: Path) -> None:
    """Write the program in the place of sbatch. Raises OSError."""
    # What lies in the directory of the caller is not imported; Python has -P for that from 3.11 on.
    code = (
        "import os, sys; sys.path = [each for each in sys.path if each]; "
        "from launcher.cloudai.exec_sbatch import main; sys.exit(main(sys.argv[1:], os.environ))"
    )
    program = shlex.join([sys.executable, "-c", code])
    files.write_text(path, f'#!/bin/sh\n# {_SHIM}\nexec {program} "$@"\n', mode=0o700, exact_mode=True)


def _wait(case: ExecCase, wait_s: float, on_wait: Callable[[str], None]) -> Submission:
    """Wait until the script has submitted its job."""
    deadline, said = time.monotonic() + wait_s, False
    while True:
        if (known := case.submission()) is not None:
            return known
        if case.ended() is not None or not case.runs():
            if (known := case.submission()) is not None:
                return known
            break
        if time.monotonic() > deadline:
            raise OutsideError(
                f"setup_experiment.py has called no sbatch for {wait_s:g} s, and goes on",
                where=str(case.log),
                hint="The same command with --continue looks again.",
            )
        if not said:
            on_wait("waiting until setup_experiment.py has submitted its job")
            said = True
        time.sleep(0.2)
    status = case.ended()
    end = "was killed" if status is None else f"ended with status {status}"
    raise RequestError(f"setup_experiment.py {end} without a job:\n{case.last_words()}", where=str(case.log))


def ask(cases: Sequence[ExecCase], shell: Shell) -> dict[Path, Job | None]:
    """Return the newest job of each case, by its directory; None where there is none.

    Each cluster is asked once: clusters count their jobs on their own. A job that Slurm shows as another's is not
    the case's. Raises DiskError.
    """
    known = {case.directory: case.submission() for case in cases}
    asked = dict[str | None, list[str]]()
    for one in known.values():
        if one is not None:
            asked.setdefault(one.cluster, []).append(one.job)
    answers = {cluster: ask_jobs(ids, shell, cluster=cluster) for cluster, ids in asked.items()}
    found = dict[Path, Job | None]()
    for case in cases:
        one = known[case.directory]
        job = answers[one.cluster].jobs.get(one.job) if one is not None else None
        if job is not None and job.belongs_to(case.token(), case.scripts()) is False:
            job = None
        found[case.directory] = job
    return found


def cancel(case: ExecCase, shell: Shell) -> bool:
    """Cancel the job of a case, once it is certain that the job is the case's; return whether there was one to cancel.

    Raises DiskError, SlurmError.
    """
    token, known = case.token(), case.submission()
    job = ask([case], shell)[case.directory]
    if token is None or known is None or job is None or job.terminal:
        return False
    if job.belongs_to(token, case.scripts()) is not True:
        found = find_submission(token, shell, known.cluster)
        if found is None or found.job != job.id:
            return False
    case.journal.write("cancelled", job=job.id, cluster=known.cluster)
    control.cancel([job.id], shell, cluster=known.cluster)
    return True


def without_secrets(text: str) -> str:
    """Return a batch script of NeMo-Run without the lines that would set a secret to the word that stands for it.

    The job has the value itself, from the environment of sbatch. NeMo-Run's scripts print what they set.
    """
    lines = []
    for line in text.splitlines(keepends=True):
        name, _, value = line.strip().removeprefix("export ").partition("=")
        if line.startswith("export ") and _PLACES.get(name) == value.strip("'\""):
            lines.append(f"# {name}: from the environment of sbatch\n")
        else:
            lines.append(line)
    return "".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Cancel the jobs of the cases in these directories."""
    for directory in arguments:
        case = ExecCase(Path(directory))
        done = cancel(case, LocalShell())
        sys.stdout.write(json.dumps({"case": directory, "cancelled": done}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
