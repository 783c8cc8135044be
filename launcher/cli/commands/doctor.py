"""Check the login node, and with --nodes also compute nodes, in a job: is this cluster as its profile says?

  launcher doctor
  launcher doctor --nodes 2 --cluster mine
  launcher doctor my_recipe.py hf_path=/models/llama --nodes 2
  salloc -N 2 --gpus-per-node=8 --exclusive, then: launcher doctor --nodes 2

Exit status: 0 nothing failed; 1 something failed; 2 the request was wrong; 3 Slurm did not answer.
"""

import argparse
import sys

from launcher.cli.arguments import read_request
from launcher.cli.completion import complete
from launcher.cli.output import coloured, info, print_json, say
from launcher.cli.parser import seconds, whole_number
from launcher.runtimes import RUNTIMES

_TIME_LIMIT = "15"
"""Of the job, in minutes; the same as in launcher/api/doctor.py, which takes longer to import."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher doctor`: those of a run that name nodes, job and container, and its own."""
    add = parser.add_argument
    complete(
        add("recipe", metavar="RECIPE", nargs="?", help="also look at what this recipe reads, from here and the nodes"),
        "recipes",
    )
    complete(add("assignments", metavar="KEY=VALUE", nargs="*", help="its arguments and overrides"), "keys")
    complete(add("--cluster", metavar="NAME", help="cluster profile (default: as for run and submit)"), "clusters")
    add("--nodes", "-N", metavar="N", type=whole_number, help="check that many compute nodes as well, in a job")
    add(
        "--gpus-per-node",
        metavar="N",
        type=whole_number,
        help="ranks on each node (default: those of the allocation, the profile, or the partition)",
    )
    add("--time", "-t", metavar="T", help=f"time limit of the job (default: {_TIME_LIMIT} minutes)")
    for name in ("partition", "account", "qos", "nodelist", "exclude"):
        add(f"--{name}", metavar="NAME", help=f"Slurm's --{name}")
    complete(add("--image", metavar="IMAGE", help="image that the checks run in (default: the profile's)"), "images")
    add(
        "--runtime",
        choices=tuple(RUNTIMES),
        help="how tasks enter it (default: the profile's, else what the cluster has)",
    )
    add("--mount", metavar="SRC[:DST[:ro]]", action="append", help="a further directory that all nodes should see")
    add("--env", metavar="NAME[=VALUE]", action="append", help="set a variable, or pass this shell's on; repeatable")
    add("--run-root", metavar="DIR", help="where the job's directory is made (default: the profile's, else ./runs)")
    add("--sbatch", metavar="KEY[=VALUE]", action="append", default=[], help="add an option of sbatch; repeatable")
    add("--unset-sbatch", metavar="KEY", action="append", default=[], help="remove one that would be given; repeatable")
    add("--srun-arg", metavar="ARG", action="append", help="add an argument of srun, as --srun-arg=--label; repeatable")
    add("--quick", action="store_true", help="leave out what needs torch: matrix product and all-reduce")
    add(
        "--rendezvous-timeout",
        metavar="S",
        type=seconds,
        default=60.0,
        help="how long nodes wait for each other (default: 60 s)",
    )
    add("--skipped", action="store_true", help="show also what could not be checked or does not exist here, with why")
    add("--json", action="store_true", help="print one JSON object")


def main(parsed: argparse.Namespace) -> int:
    """Check the login node and the nodes, then print."""
    from launcher.api.doctor import DoctorRequest, examine
    from launcher.cli.progress import TerminalProgress
    from launcher.doctor.report import table_lines

    request = DoctorRequest(
        read_request(parsed), torch=not parsed.quick, rendezvous_timeout_s=parsed.rendezvous_timeout
    )
    found = examine(request, TerminalProgress())
    status = 3 if found.slurm_error is not None else 0 if found.healthy else 1
    if parsed.json:
        print_json({**found.report.to_dict(), "exit_status": status})
        return status
    lines = table_lines(
        found.report, lambda text, colour: coloured(text, colour, sys.stdout), with_skipped=parsed.skipped
    )
    say("\n".join(lines))
    if found.report.run_dir:
        info(f"run directory: {found.report.run_dir}")
    return status
