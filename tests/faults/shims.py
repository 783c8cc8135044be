"""Stand-ins for Slurm's commands, put before the real ones on a user's PATH."""

from pathlib import Path

from tests.backends.running import User
from tests.support.slurm.virtual_cluster import VirtualCluster

_COMMANDS = ("sbatch", "scancel", "scontrol", "sacct", "sinfo", "squeue")

_TWO_CLUSTERS = """#!/bin/bash
# A site with two clusters: a command with --clusters=other goes to the other one, any other to the home cluster.
me=$(basename "$0"); args=(); conf={home}; elsewhere=0
for word in "$@"; do
    if [[ $word == --clusters=other ]]; then elsewhere=1; else args+=("$word"); fi
done
script=${{args[-2]}}
if [[ $me == sbatch ]] && grep -q '^#SBATCH --clusters=other' "$script"; then
    # The other cluster reads the script without this line, and under the same name.
    elsewhere=1; sed -i 's/^#SBATCH --clusters/# SBATCH --clusters/' "$script"
fi
((elsewhere)) && conf={other}
echo "$me $* -> $conf" >>{log}
if [[ $me == sbatch ]] && ((elsewhere)); then
    answer=$(SLURM_CONF=$conf {real}/$me "${{args[@]}}") || exit $?
    echo "$answer;other"; exit 0
fi
SLURM_CONF=$conf exec {real}/$me "${{args[@]}}"
"""


def two_clusters(user: User, home: VirtualCluster, other: VirtualCluster) -> Path:
    """Send this user's commands with --clusters=other to `other`; return the log of all commands."""
    log = user.directory / "calls.log"
    values = {"home": home.conf, "other": other.conf, "log": log, "real": "/usr/bin"}
    put(user, dict.fromkeys(_COMMANDS, _TWO_CLUSTERS.format(**values)))
    return log


def put(user: User, programs: dict[str, str]) -> Path:
    """Put programs, name and text, before all others on the user's PATH; return their directory."""
    directory = user.directory / "shims"
    directory.mkdir(exist_ok=True)
    for name, text in programs.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    if not user.environ["PATH"].startswith(f"{directory}:"):
        user.environ["PATH"] = f"{directory}:{user.environ['PATH']}"
    return directory
