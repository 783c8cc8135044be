"""Where commands about runs look for them."""

import argparse
from pathlib import Path

from launcher.rundir import RunDirectory


def add_run_root(parser: argparse.ArgumentParser) -> None:
    """Add --run-root."""
    parser.add_argument("--run-root", metavar="DIR", help="directory of all runs (default: as for run and submit)")


def run_root(option: str | None) -> Path:
    """Where `run` and `submit` put runs that were asked for from here with the same --run-root."""
    from launcher.config.load import load_cluster, load_request
    from launcher.discovery.host import detect_host
    from launcher.planning import make, place

    host = detect_host()
    options = {"run_root": option} if option else {}
    request = load_request(options, environ=host.environ, directory=host.directory)
    cluster = load_cluster(request.cluster or place.default_cluster(host), host.environ)
    return make.run_root(request, cluster, host)


def find(name: str, option: str | None) -> RunDirectory:
    """The run that a user names. Raises RequestError."""
    from launcher.rundir.finding import find_run

    return find_run(name, run_root(option))
