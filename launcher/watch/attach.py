"""Running a command beside the ranks of a run that goes on: on their nodes, in their containers.

A step of the run's own job (`srun --overlap`) finds the ranks' programs on its node by their command line, their owner
and their environment, enters the namespaces of each with nsenter, and starts launcher/job/attach.py of the run's code.
A run on this machine needs no step.
"""

import contextlib
import json
import re
import socket
import subprocess
from collections.abc import Sequence
from typing import cast

from launcher._util.errors import OutsideError, PrerequisiteError, RequestError
from launcher._util.shell import Shell
from launcher.contract.frozen import dataclass
from launcher.contract.records.nodes import StackDump
from launcher.contract.validation import problems
from launcher.rundir import Attempt, RunDirectory
from launcher.slurm.ask import environment, require_configuration
from launcher.slurm.queue import in_cluster
from launcher.watch.status import Phase, RunStatus, status_of

_RUNNING = (Phase.STARTING, Phase.RUNNING, Phase.STOPPING, Phase.SUSPENDED)
_STACKS_S = 60.0
# $1 the end of the ranks' program, $2 the attempt, $3 a rank or `all`, $4 the action, then its words.
_SCRIPT = r"""
program=$1 attempt=$2 wanted=$3 action=$4
shift 4
declare -A parents=() ranks=()
for directory in /proc/[0-9]*; do
    pid=${directory#/proc/}
    [[ -O $directory ]] || continue
    mapfile -d '' -n 3 -t words <"$directory/cmdline" || continue
    [[ ${words[1]-} == *"$program" || ${words[2]-} == *"$program" ]] || continue
    rank='' of=''
    while IFS= read -r -d '' word; do
        case $word in
            RANK=*) rank=${word#*=} ;;
            LAUNCHER_ATTEMPT=*) of=${word#*=} ;;
        esac
    done <"$directory/environ"
    [[ -n $rank && $of == "$attempt" ]] || continue
    read -r _ _ _ parents[$pid] _ < <(sed 's/(.*)/x/' "$directory/stat")
    ranks[$pid]=$rank
done 2>/dev/null
beside() { # PID: the action, in the namespaces of a rank's program
    local pid=$1 into=() kind environ run_dir=''
    shift
    for kind in user mnt pid; do
        [[ $(readlink "/proc/$pid/ns/$kind") != "$(readlink "/proc/self/ns/$kind")" ]] || continue
        case $kind in
            user) into+=(--user --preserve-credentials) ;;
            mnt) into+=(--mount) ;;
            pid) into+=(--pid) ;;
        esac
    done
    while IFS= read -r -d '' environ; do
        [[ $environ != LAUNCHER_RUN_DIR=* ]] || run_dir=${environ#*=}
    done <"/proc/$pid/environ"
    words=("$(readlink "/proc/$pid/exe")" -S -E -B "$run_dir/code/launcher/job/attach.py" "$action" "$pid" "$@")
    [[ -z ${into[*]-} ]] || words=(nsenter --target "$pid" "${into[@]}" -- "${words[@]}")
    exec "${words[@]}"
}
found=0
for pid in "${!ranks[@]}"; do
    [[ -z ${ranks[${parents[$pid]}]-} ]] || continue # a process that the program has forked
    [[ $wanted == all || ${ranks[$pid]} == "$wanted" ]] || continue
    found=1
    if [[ $action == exec ]]; then beside "$pid" "$@"; fi
    (beside "$pid" "$@") </dev/null &
done
wait
if ((!found)); then
    echo "launcher: ${SLURMD_NODENAME:-${HOSTNAME:-this node}} runs no program of rank $wanted of this attempt" >&2
    exit 3
fi
"""


@dataclass(frozen=True)
class Place:
    """Where the ranks of a running attempt are."""

    run: RunDirectory
    attempt: Attempt
    job: str | None
    """None for a run on this machine without Slurm."""
    cluster: str | None
    nodes: tuple[str, ...]
    ranks_per_node: int
    world_size: int

    def node_of(self, rank: int) -> str:
        """Return the node of a rank."""
        return self.nodes[rank // self.ranks_per_node]


def find_place(run: RunDirectory, shell: Shell) -> Place:
    """Return where the ranks of a run are now.

    Raises RequestError for a run that is not running, and where its processes are on another machine; OutsideError
    where Slurm's job is not proven to be the run's.
    """
    status = status_of([run], shell)[0][0]
    attempt = _running_attempt(run, status)
    start = status.run_state.start
    record = attempt.start_record
    layout = run.plan.get("layout") or {}
    world = status.run_state.world_size
    per_node = int(layout.get("ranks_per_node") or world)
    if record is None:
        host = start.host if start else None
        if host != socket.gethostname():
            raise RequestError(
                f"the run was started on {host or 'another machine'}, and its processes are there",
                where=str(run.path),
                hint="Call the command there.",
            )
        return Place(run, attempt, None, None, (host,), per_node, world)
    if status.job_proven is False:
        raise OutsideError(f"nothing was started beside the run: {status.detail}", where=str(run.path))
    nodes = _nodes_of(attempt)
    if len(nodes) * per_node < world:
        raise OutsideError(f"the attempt does not say on which nodes its {world} ranks are", where=str(attempt.nodes))
    return Place(run, attempt, record.job, status.job_cluster, nodes, per_node, world)


def _running_attempt(run: RunDirectory, status: RunStatus) -> Attempt:
    number = status.run_state.attempt
    if status.phase not in _RUNNING or number is None:
        detail = f" ({status.detail})" if status.detail else ""
        raise RequestError(
            f"the run is not running: it is {status.phase.value}{detail}",
            where=str(run.path),
            hint="`launcher logs RUN` shows what it wrote; stacks of a run that hung are below attempts/NNN/stacks.",
        )
    return run.attempt(int(number))


def _nodes_of(attempt: Attempt) -> tuple[str, ...]:
    """Return the names of the attempt's nodes in the order of their ranks; none where they cannot be read."""
    try:
        return tuple(attempt.nodes.read_text().split())
    except OSError:
        return ()


def check_rank(place: Place, rank: int) -> None:
    """Raise RequestError for a rank that the run does not have."""
    if not 0 <= rank < place.world_size:
        raise RequestError(
            f"the run has no rank {rank}", where="--rank", hint=f"It has ranks 0 to {place.world_size - 1}."
        )


def command(place: Place, rank: int | None, action: str, words: Sequence[str], *, terminal: bool = False) -> list[str]:
    """Return the program that runs an action beside one rank, or beside all of them for None."""
    name = place.run.path.parent.name
    program = f"/{name}/{place.run.path.name}/code/entrypoint.py"
    script = ["bash", "-c", _SCRIPT, "launcher-attach", program, place.attempt.name]
    script += ["all" if rank is None else str(rank), action, *words]
    if place.job is None:
        return script
    nodes = place.nodes if rank is None else (place.node_of(rank),)
    return [
        "srun",
        *in_cluster(place.cluster),
        f"--jobid={place.job}",
        "--overlap",
        f"--nodes={len(nodes)}",
        f"--ntasks={len(nodes)}",
        "--ntasks-per-node=1",
        f"--nodelist={','.join(nodes)}",
        "--mpi=none",
        "--quiet",
        *(("--pty",) if terminal else ()),
        *(("--gres=none", "--input=none", "--kill-on-bad-exit=0", "--wait=0") if action == "stacks" else ()),
        *script,
    ]


def step_environment() -> dict[str, str]:
    """Return the environment of such a step: nothing of the allocation that this shell may be in."""
    require_configuration()
    kept = environment()
    return {
        name: value
        for name, value in kept.items()
        if name in ("SLURM_CONF", "SLURM_TIME_FORMAT") or not name.startswith(("SLURM_", "SRUN_", "SBATCH_", "PMI"))
    }


def execute(place: Place, rank: int, words: Sequence[str], *, terminal: bool) -> int:
    """Run a command beside a rank with this process's own streams; return its exit status, 128 and more for a signal.

    Ctrl-C reaches the command itself, which is waited for. Raises PrerequisiteError where srun is missing.
    """
    check_rank(place, rank)
    argv = command(place, rank, "exec", words, terminal=terminal)
    try:
        process = subprocess.Popen(argv, env=step_environment())
    except FileNotFoundError:
        raise PrerequisiteError(f"the program {argv[0]!r} was not found", hint="Call it on a login node.") from None
    while process.returncode is None:
        # The terminal has sent it to srun and the command as well. An srun that is killed would leave its step.
        with contextlib.suppress(KeyboardInterrupt):
            process.wait()
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def read_stacks(place: Place, rank: int | None, shell: Shell) -> tuple[list[StackDump], str]:
    """Return the stacks of one rank or of all, by rank, and what went wrong with those that are missing."""
    if rank is not None:
        check_rank(place, rank)
    done = shell.run(command(place, rank, "stacks", ()), env=step_environment(), check=False, timeout_s=_STACKS_S)
    found = {}
    for line in done.stdout.splitlines():
        dump = parse_dump(line)
        if dump is not None:
            found[dump["rank"]] = dump
    return [found[each] for each in sorted(found)], " ".join(done.stderr.split())


def parse_dump(line: str) -> StackDump | None:
    """Return what launcher/job/attach.py has printed; None for any other line."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return None if any(problems(value, StackDump, unknown_keys=True)) else cast(StackDump, value)


def grouped(dumps: Sequence[StackDump]) -> list[tuple[tuple[StackDump, ...], str]]:
    """Return the dumps with equal stacks together, those of the fewest ranks first: they are mostly the cause."""
    groups: dict[str, list[StackDump]] = {}
    for dump in dumps:
        groups.setdefault(_plain(dump["text"]) or f"problem: {dump['problem']}", []).append(dump)
    ordered = sorted(groups.values(), key=lambda group: (len(group), group[0]["rank"]))
    return [(tuple(group), group[0]["text"]) for group in ordered]


def _plain(text: str) -> str:
    """Return stacks without what differs between processes that do the same: numbers of processes and threads."""
    text = re.sub(r"0x[0-9a-f]+|^Process [0-9]+:.*$|Thread [0-9]+|^Python v.*$", "", text, flags=re.MULTILINE)
    return re.sub(r"\((idle|active)[^)]*\)", "", text)
