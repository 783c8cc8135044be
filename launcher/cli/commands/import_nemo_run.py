"""Turn an experiment of NeMo-Run into job files, one for each task, and list what could not be translated.

  launcher import-nemo-run experiment.py --output jobs
  launcher import-nemo-run experiment.py -- --size small

The file is executed up to the experiment's run; nothing is submitted. Standard output has the lines of a shell that
submit the tasks in their order. It needs the extra `nemo-run`.
"""

import argparse
import contextlib
import sys

from launcher.cli.output import info, print_json, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher import-nemo-run`."""
    add = parser.add_argument
    add("script", metavar="FILE.py", help="a program that makes and runs an experiment; its arguments stand behind --")
    add("--output", metavar="DIR", default="jobs", help="where the job files go (default: jobs); must not exist")
    add("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(rest=())


def main(parsed: argparse.Namespace) -> int:
    """Write the job files; the status is 1 where something was not translated."""
    from pathlib import Path

    from launcher._util.errors import ConfigError, PrerequisiteError

    script, output = Path(parsed.script), Path(parsed.output)
    if not script.is_file():
        raise ConfigError(f"there is no file {parsed.script!r}", hint="It makes and runs an experiment of NeMo-Run.")
    if output.exists():
        raise ConfigError("exists already", where=parsed.output, hint="Name another directory: --output DIR.")
    try:
        from launcher.nemo_run.experiment import import_experiment, submit_lines
    except ImportError as error:
        raise PrerequisiteError(str(error)) from None
    with contextlib.redirect_stdout(sys.stderr):  # NeMo-Run prints, and so may the script
        tasks = import_experiment(script, parsed.rest, output)
    lines = submit_lines(tasks)
    left_out = [f"{task.name}: {text}" for task in tasks for text in task.translated.left_out]
    if parsed.json:
        shown = [
            {
                "name": task.name,
                "file": str(task.file),
                "waits_for": task.waits_for,
                "not_translated": task.translated.left_out,
            }
            for task in tasks
        ]
        print_json({"tasks": shown, "submit": lines, "complete": not left_out})
    else:
        info(f"{len(tasks)} job files in {output}")
        for text in left_out:
            info(f"not translated: {text}")
        for line in lines:
            say(line)
    return 1 if left_out else 0
