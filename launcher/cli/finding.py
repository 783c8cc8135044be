"""Where commands about runs look for them."""

import argparse
import os
from pathlib import Path

from launcher.record import RunDirectory


def add_run_root(parser: argparse.ArgumentParser) -> None:
    """Add --run-root."""
    parser.add_argument(
        "--run-root", metavar="DIR", help="directory of all runs (default: $LAUNCHER_RUN_ROOT, launcher.toml, ./runs)"
    )


def run_root(option: str | None) -> Path:
    """The run root of commands that have no cluster: option, LAUNCHER_RUN_ROOT, launcher.toml, config.toml, ./runs."""
    from launcher.spec.load import load_request

    options = {"run_root": option} if option else {}
    request = load_request(options, environ=os.environ, directory=Path.cwd())
    return Path(os.path.expandvars(request.run_root or "runs")).expanduser()


def find(name: str, option: str | None) -> RunDirectory:
    """The run that a user names. Raises RequestError."""
    from launcher.watch.runs import find_run

    return find_run(name, run_root(option))
