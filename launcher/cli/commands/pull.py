"""Copy a run from the host of a cluster profile: records, logs, metrics; with --checkpoints all its files.

In a shell:
  launcher pull RUN --cluster mine         into the run root of this machine
  launcher page RUN                        then, of the copy

A copy is whole or not there; a later call replaces it.
"""

import argparse

from launcher.cli.arguments import RUN_HELP, add_cluster, add_run_root
from launcher.cli.output import info, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher pull`."""
    add = parser.add_argument
    add("run", metavar="RUN", help=RUN_HELP)
    add("--checkpoints", action="store_true", help="copy checkpoints and the code of the run as well")
    add("--json", action="store_true", help="print one JSON object")
    add_cluster(parser)
    add_run_root(parser)


def main(parsed: argparse.Namespace) -> int:
    """Copy it and print where it is."""
    from launcher._util.errors import ConfigError
    from launcher.remote.cluster import elsewhere
    from launcher.remote.commands import pull

    there = elsewhere(parsed.cluster)
    if there is None:
        raise ConfigError(
            "the runs of this cluster are on this machine",
            where="--cluster",
            hint="Name a profile with [ssh]: launcher help elsewhere",
        )
    copy = pull(there, parsed.run, parsed.run_root, checkpoints=parsed.checkpoints)
    info(f"{copy} (from {there.ssh.host})")
    if parsed.json:
        print_json({"run_dir": str(copy), "host": there.ssh.host})
    return 0
