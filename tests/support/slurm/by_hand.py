"""A virtual cluster by hand: the command line of `python -m tests.support.slurm.virtual_cluster`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.slurm.config import ClusterOptions
from tests.support.slurm.virtual_cluster import ClusterError, VirtualCluster


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="virtual_cluster", description="A real Slurm of virtual nodes on this machine."
    )
    parser.add_argument("do", choices=["up", "env", "fail", "node", "down"])
    parser.add_argument("directory", type=Path)
    parser.add_argument("node", nargs="?", help="for fail and node")
    for name, default in (("nodes", 4), ("slots", 8), ("gpus", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args(argv)
    if given.do in ("fail", "node") and not given.node:
        parser.error(f"{given.do} needs the name of a node")
    pyxis = Path(os.environ["PYXIS"]) if os.environ.get("PYXIS") else None
    try:
        if given.do == "up":
            options = ClusterOptions(given.nodes, given.slots, given.gpus, pyxis=pyxis)
            VirtualCluster.up(given.directory, options, die_with_caller=False)
        else:
            cluster = VirtualCluster.attach(given.directory)
            actions = {"env": lambda: print(f"export SLURM_CONF={cluster.conf}"), "down": cluster.down}
            actions |= {"fail": lambda: cluster.fail(given.node), "node": lambda: cluster.start(given.node)}
            actions[given.do]()
    except ClusterError as error:
        print(f"virtual_cluster: {error}", file=sys.stderr)
        return 1
    return 0
