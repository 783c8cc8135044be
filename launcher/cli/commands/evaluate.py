"""Evaluate what a run has learned by tasks of lm-evaluation-harness, and note the results in the run.

  launcher evaluate RUN --tasks hellaswag,arc_easy
  launcher evaluate RUN --tasks mine --include-path tasks/    tasks of your own, without network
  launcher evaluate RUN --tasks hellaswag --in-job-on gb200   in a job, behind the run's own

The newest whole checkpoint is exported first, adapters merged, and compared bit by bit as by `launcher convert export`;
the export stays in the run. `launcher status RUN` and `launcher page RUN` show the results (launcher help
look-at-a-model).
"""

import argparse
from typing import Any

from launcher.cli.arguments import add_job, read_job
from launcher.cli.completion import complete
from launcher.cli.output import coloured, info, print_json
from launcher.cli.parser import count
from launcher.contract.conversion import DEVICES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    complete(add("run", metavar="RUN", help="the run: its directory, id or name"), "runs")
    add("--tasks", metavar="LIST", required=True, help="names of tasks or groups, with commas between them")
    add("--include-path", metavar="DIR", help="a directory with YAML files of further tasks")
    add("--iteration", metavar="N", type=count, help="of the checkpoint (default: the newest whole one)")
    add("--model", metavar="HF_DIR", help="an export of that checkpoint (default: the run's own, made when needed)")
    add("--limit", metavar="N", type=count, help="evaluate the first N samples of each task only")
    add("--num-fewshot", metavar="N", type=_none_or_more, help="examples in each prompt (default: what the task says)")
    add("--batch-size", metavar="N", type=count, default=8, help="samples at once (default: 8)")
    add("--device", choices=DEVICES, default="auto", help="default: a GPU where there is one")
    add("--python", metavar="PATH", help="interpreter with the training stack (default: the profile's, this one)")
    add_job(parser)
    add("--json", action="store_true", help="print one JSON object")


def _none_or_more(text: str) -> int:
    if not text.isdigit() or len(text) > 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 9999")
    return int(text)


def main(parsed: argparse.Namespace) -> int:
    """Evaluate and print the results."""
    from launcher._util.errors import ConfigError
    from launcher.api.evaluate import evaluate
    from launcher.cli.progress import TerminalProgress
    from launcher.contract.evaluation import EvaluationRequest

    tasks = tuple(name.strip() for name in parsed.tasks.split(","))
    if not all(tasks):
        raise ConfigError("one of the names is empty", where=f"--tasks {parsed.tasks}")
    request = EvaluationRequest(
        model=parsed.model or "",
        tasks=tasks,
        include_path=parsed.include_path,
        limit=parsed.limit,
        num_fewshot=parsed.num_fewshot,
        batch_size=parsed.batch_size,
        device=parsed.device,
    )
    with TerminalProgress() as progress:
        found = evaluate(
            parsed.run, request, progress, iteration=parsed.iteration, python=parsed.python, job=read_job(parsed)
        )
    if parsed.json:
        print_json(found)
    for line in summary(found):
        info(line)
    return 0


def summary(found: dict[str, Any]) -> list[str]:
    """Return the results for people, line by line."""
    limit = f", the first {found['limit']} samples of each task" if found["limit"] is not None else ""
    lines = [f"{coloured('evaluated', 'green')}: iteration {found['iteration']}, {found['model']}{limit}"]
    rows = [
        (task, metric, held["value"], held["stderr"])
        for task, result in found["tasks"].items()
        for metric, held in result["metrics"].items()
    ]
    task_width, metric_width = (max((len(row[part]) for row in rows), default=0) for part in (0, 1))
    for task, metric, value, stderr in rows:
        number = "not a number" if value is None else f"{value:.6g}"
        error = "" if stderr is None else f" ± {stderr:.2g}"
        lines.append(f"  {task:{task_width}}  {metric:{metric_width}}  {number}{error}")
    return [*lines, f"noted in {found['file']}"]
