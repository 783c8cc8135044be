"""What setup_experiment.py calls in the place of sbatch: each job of a case is submitted once, and recorded.

Called as `sbatch [OPTION ...] SCRIPT [ARGUMENT ...]`, as NeMo-Run does; prints the job's number and nothing else.
"""

import itertools
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher._util.errors import LauncherError
from launcher._util.shell import LocalShell
from launcher.cloudai.exec_mode import CASE, SESSION, ExecCase, ask, without_secrets
from launcher.contract import files
from launcher.slurm.submit import Submission, SubmissionUnknownError, search, submit


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Submit the job of a case, or print the one that it has. Return the exit status."""
    case, session = ExecCase(Path(environ[CASE])), environ[SESSION]
    os.environ["PATH"] = _without(case.path / "bin", environ.get("PATH", os.defpath))
    options, script, rest = _parsed(arguments)
    if script is None or rest:
        sys.stderr.write(f"launcher: sbatch was called without a script, or with arguments: {list(arguments)}\n")
        return 1
    try:
        with case.submitting() as lock:
            print(_submitted(case, session, options, script, lock).job)
    except LauncherError as error:
        sys.stderr.write(f"launcher: {error.message}\n")
        return 1
    return 0


def _submitted(case: ExecCase, session: str, options: Sequence[str], script: Path, lock: int) -> Submission:
    """Submit, or return the job that the case has already. Raises LauncherError."""
    shell = LocalShell(keep=(lock,))
    if case.session() != session:
        raise LauncherError("another start of this case's script has taken over; this one submits nothing")
    events = case.journal.read() if case.journal.path.exists() else []
    intents = [event for event in events if event["event"] == "submit_intent"]
    last = next((event for event in reversed(events) if event["event"] in _OUTCOMES), None)
    clusters = _clusters(options, script)
    if last is not None and last["event"] == "submit_intent":
        token = str(last["token"])
        if (found := search(token, shell, clusters=last.get("clusters"))) is not None:
            case.journal.write("submitted", token=token, job=found.job, cluster=found.cluster, recovered=True)
            return found
    elif (known := case.submission()) is not None:
        job = ask([case], shell)[case.directory]
        if job is None or not job.terminal:
            return known
    token = f"launcher-cloudai-{case.directory.parent.name}-{os.urandom(6).hex()}-{len(intents)}"
    token = re.sub(r"[^A-Za-z0-9_-]", "-", token)
    files.append_line(case.path / "scripts.jsonl", {"script": str(script)}, sync=True)
    text = without_secrets(script.read_text())
    files.write_text(script, with_gates(text, case.gates(), case.path / "gates"))
    for inner in script.with_name(script.name.removesuffix("_sbatch.sh")).glob("scripts/*.sh"):
        files.write_text(inner, repaired(inner.read_text(), case.arguments()))
    before = case.dependencies()
    if before:
        options = [*options, f"--dependency={','.join([*_stated(script), *before])}"]
    case.journal.write("submit_intent", token=token, clusters=clusters)
    try:
        found = submit(script, shell, token=token, clusters=clusters, options=options)
    except SubmissionUnknownError as error:
        case.journal.write("submit_unknown", token=token, error=error.message)
        raise
    except LauncherError as error:
        case.journal.write("submit_refused", token=token, error=error.message)
        raise
    case.journal.write("submitted", token=token, job=found.job, cluster=found.cluster, recovered=found.recovered)
    return found


_GATES = """\
# ---- Megatron Launcher: the hooks of the scenario, on the nodes of this job
launcher_gates={directory}/$SLURM_JOB_ID-${{SLURM_RESTART_COUNT:-0}}
launcher_gate() {{ # WHEN NAME LIMIT_S TASKS_PER_NODE LEAST_GB_S ARGUMENT ...: an srun; fails where it has not passed
    local when=$1 name=$2 limit_s=$3 each=$4 least=$5 status=0
    shift 5
    timeout --kill-after=10 "$limit_s" srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks=$((each * SLURM_JOB_NUM_NODES)) \\
        --ntasks-per-node="$each" --input=none --kill-on-bad-exit=1 --export=ALL "$@" \\
        >"$launcher_gates/gates/$name.txt" 2>"$launcher_gates/gates/$name.err" || status=$?
    {judge} "$launcher_gates" "$name" "$status" "$least" "$when"
}}
launcher_gates_after() {{
    local status=$?
    set +e
{after}
    exit "$status"
}}
mkdir -p "$launcher_gates/gates" || exit 3
{before}
trap launcher_gates_after EXIT
# ---- end of what Megatron Launcher has added

"""


def with_gates(text: str, gates: Sequence[str], directory: Path) -> str:
    """Return a batch script that runs programs before and after what it does, and ends where one before has failed.

    They are asked for as in `planning.model.Gate`, as JSON; their output is below `directory`. A script that has them
    already is returned as it is: one may be submitted several times.
    """
    mark = _GATES.partition("\n")[0]
    if not gates or mark in text:
        return text
    calls: dict[str, list[str]] = {"before": [], "after": []}
    for gate in map(json.loads, gates):
        least = "status" if not gate.get("measures", True) else gate.get("min_bus_gb_s")
        words = [gate["name"], gate["limit_s"], gate["tasks_per_node"], "-" if least is None else least]
        words += [*gate.get("srun_args", ()), *gate["command"]]
        when = gate.get("when", "before")
        calls[when].append(f"launcher_gate {when} {shlex.join(map(str, words))}")
    added = _GATES.format(
        directory=shlex.quote(str(directory)),
        judge=shlex.join([sys.executable, str(Path(files.__file__).parents[1] / "job/gate.py")]),
        before="\n".join(f"{call} || exit 1" for call in calls["before"]),
        after="\n".join(f"    {call}" for call in calls["after"]),
    )
    lines = text.splitlines(keepends=True)
    first = next((number for number, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    return "".join([*lines[:first], added, *lines[first:]])


def repaired(text: str, arguments: Sequence[str]) -> str:
    """Return the script of a task with the arguments of setup_experiment.py quoted.

    NeMo-Run writes them into `bash -c '...'` joined by spaces, and its template replaces quotes as a web page needs it:
    the semicolons of --additional_slurm_params would end the command, and the overrides behind them were lost.
    """
    joined = " ".join(arguments)
    for found in (_as_on_a_page(joined), joined):
        if found in text:
            text = text.replace(found, shlex.join(arguments).replace("'", "'\\''"))
            break
    for flag, command in itertools.pairwise(arguments):
        if flag == "-cb":
            text = text.replace(_as_on_a_page(command), command)
    return text


def _as_on_a_page(text: str) -> str:
    """Return a text as Jinja's autoescape writes it."""
    for character, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&#34;"), ("'", "&#39;")):
        text = text.replace(character, written)
    return text


_OUTCOMES = ("submit_intent", "submitted", "submit_refused")


def _parsed(arguments: Sequence[str]) -> tuple[list[str], Path | None, list[str]]:
    """Return the options, the script and its arguments; `--parsable` is always given."""
    options = list[str]()
    for position, word in enumerate(arguments):
        if not word.startswith("-") and Path(word).is_file():
            return options, Path(word), list(arguments[position + 1 :])
        if word != "--parsable":
            options.append(word)
    return options, None, []


def _stated(script: Path) -> list[str]:
    """Return the dependencies that a batch script states itself."""
    found = re.findall(r"^#SBATCH\s+--dependency[= ](\S+)", script.read_text(errors="replace"), re.MULTILINE)
    return found[-1:]


def _clusters(options: Sequence[str], script: Path) -> str | None:
    """Return the clusters that sbatch is to choose from, separated by commas; None for the local one.

    Options are stronger than variables, and these than the script.
    """
    text = script.read_text(errors="replace")
    given = re.findall(r"^#SBATCH\s+(?:--clusters?[= ]\s*|-M\s*)(\S+)", text, re.MULTILINE)
    given += [value for name in ("SLURM_CLUSTERS", "SBATCH_CLUSTERS") if (value := os.environ.get(name))]
    given += re.findall(r"^(?:--clusters?[=\n]|-M\n?)(\S+)", "\n".join(options), re.MULTILINE)
    return given[-1].strip("'\"") if given else None


def _without(directory: Path, path: str) -> str:
    """Return a PATH without a directory. This program must not call itself."""
    kept = [each for each in path.split(os.pathsep) if Path(each or ".") != directory]
    found = os.pathsep.join(kept)
    return found if shutil.which("sbatch", path=found) else f"{found}{os.pathsep}{os.defpath}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
