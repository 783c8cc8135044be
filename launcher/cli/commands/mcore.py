"""Show or choose the Megatron-Core of a checkout of Megatron Bridge.

In a shell:
  launcher mcore status                 the submodule's commit: main, dev or custom
  launcher mcore status RUN             what a run has imported
  launcher mcore use main|dev|COMMIT    check that commit out in the submodule
"""

import argparse
from pathlib import Path
from typing import Any

from launcher.cli.arguments import add_run_root
from launcher.cli.completion import complete
from launcher.cli.output import info, print_json, say, warn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher mcore`."""
    add = parser.add_argument
    add("action", choices=("status", "use"), help="show it, or choose another one")
    complete(add("name", metavar="NAME", nargs="?", help="use: main, dev or a commit; status: a run"), "runs")
    add("--bridge", metavar="DIR", help="the checkout of Megatron Bridge (default: around this directory)")
    add("--json", action="store_true", help="print one JSON object")
    add_run_root(parser)


def main(parsed: argparse.Namespace) -> int:
    """Show or switch; the status is 1 where the submodule is not at the commit that Bridge records."""
    from launcher._util.errors import ConfigError

    directory = Path(parsed.bridge or Path.cwd()).absolute()
    if parsed.action == "use":
        if parsed.name is None:
            raise ConfigError("which one? main, dev or a commit")
        from launcher.discovery.megatron_core import use_core

        use_core(parsed.name, directory)
        warn("uv.lock of Megatron Bridge holds for main only; another commit may need other packages")
    elif parsed.name is not None:
        return _of_run(parsed)
    return _status(directory, as_json=parsed.json)


def _status(directory: Path, *, as_json: bool) -> int:
    from launcher.discovery.megatron_core import SUBMODULE, core_version, read_pinned

    found = read_pinned(directory)
    expected = found.commit == found.recorded
    version = core_version(found.bridge / SUBMODULE)
    answer: dict[str, Any] = {
        "bridge": str(found.bridge),
        "commit": found.commit,
        "name": found.name,
        "version": version,
        "recorded": found.recorded,
        "pinned": dict(found.pinned),
        "as_recorded": expected,
    }
    if as_json:
        print_json(answer)
    else:
        say(f"{found.name}: {found.commit or 'not checked out'}{f' (Megatron-Core {version})' if version else ''}")
        for name, commit in found.pinned.items():
            say(f"  {name}: {commit}")
        if not expected:
            warn(
                f"Megatron Bridge records {found.recorded}: after a pull, git submodule update brings it there"
                if found.recorded
                else "Megatron Bridge records no commit of the submodule"
            )
    return 0 if expected else 1


def _of_run(parsed: argparse.Namespace) -> int:
    from launcher.api.locate import find_run
    from launcher.rundir.run_directory import read_json

    run = find_run(parsed.name, parsed.run_root)
    attempt = run.latest_attempt()
    noted = read_json(attempt.megatron) if attempt else None
    if noted is None:
        info(f"{run.path} has not noted what it imported")
        return 1
    if parsed.json:
        print_json(noted)
    else:
        commit = f", commit {noted['core_commit']}" if noted["core_commit"] else ""
        say(f"Megatron-Core {noted['core']} in {noted['core_path']}{commit}")
        say(f"Megatron Bridge {noted['bridge'] or 'not installed'}")
        if noted["training_path"]:
            say(f"Megatron-LM's training in {noted['training_path']}")
    return 0
