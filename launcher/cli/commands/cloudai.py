"""Run CloudAI's TOML files for Megatron Bridge as they are.

  launcher cloudai run --system-config system.toml --tests-dir tests --test-scenario scenario.toml
  launcher cloudai dry-run --system-config system.toml --tests-dir tests --test-scenario scenario.toml
  launcher cloudai verify-configs conf --tests-dir conf/test
  launcher cloudai convert --system-config system.toml --test-scenario scenario.toml DIR

`launcher help cloudai` says what each field of the files becomes.
"""

import argparse
import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from launcher.cli.completion import complete
from launcher.cli.output import coloured, info, print_json, say, warn

if TYPE_CHECKING:
    from launcher.cloudai.cases import RunChoices
    from launcher.cloudai.load import LoadedFiles
    from launcher.cloudai.results import CaseResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a parser for each action."""
    parser.add_argument("--log-file", metavar="FILE", help="write what happens into this file, too")
    parser.add_argument(
        "--log-level",
        choices=("DEBUG", "INFO", "WARNING", "ERROR"),
        default="INFO",
        type=str.upper,
        help="what to print: WARNING and ERROR leave out what is no more than information (default: INFO)",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in (
        ("run", "clone and import what is missing, submit the scenario, wait, write its reports"),
        ("dry-run", "write what would be executed; submit nothing"),
    ):
        one = actions.add_parser(name, help=text, allow_abbrev=False)
        _add_files(one)
        _add_running(one, submits=name == "run")
    for name, text in (
        ("install", "clone the repositories and import the images of a scenario"),
        ("uninstall", "remove the clones and environments that install has made"),
    ):
        one = actions.add_parser(name, help=text, allow_abbrev=False)
        _add_files(one)
        _add_profile(one)
    report = actions.add_parser("generate-report", help="write the reports of a scenario's results", allow_abbrev=False)
    _add_files(report)
    report.add_argument("--result-dir", metavar="DIR", required=True, help="the results: NAME_TIME of `run`")
    report.add_argument("--json", action="store_true", help="print one JSON object")
    verify = actions.add_parser("verify-configs", help="check TOML files", allow_abbrev=False)
    verify.add_argument("configs", metavar="PATH", help="a file, or a directory that is searched for *.toml")
    verify.add_argument("--tests-dir", metavar="DIR", help="the tests that scenarios name")
    verify.add_argument("--json", action="store_true", help="print one JSON object")
    listed = actions.add_parser("list", help="list what files can name", allow_abbrev=False)
    listed.add_argument("what", choices=("reports", "agents"))
    listed.add_argument("-v", "--verbose", action="store_true", help="say more")
    convert = actions.add_parser(
        "convert", help="write the scenario as job files and a cluster profile of this launcher", allow_abbrev=False
    )
    _add_files(convert)
    _add_profile(convert)
    convert.add_argument("directory", metavar="DIR", help="a new directory")


def _add_files(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    variable = "CLOUDAI_SYSTEM_CONFIG"
    add("--system-config", metavar="FILE", help=f"the system (default: {variable} of the environment)")
    add("--tests-dir", metavar="DIR", help="directory of the tests that the scenario names")
    add("--test-scenario", metavar="FILE", required=True, help="the scenario")
    add("--hook-dir", metavar="DIR", help="directory of hooks (default: conf/hook)")


def _add_profile(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    complete(
        add("--cluster", metavar="NAME", help="cluster profile below the system's (default: slurm, with pyxis)"),
        "clusters",
    )
    add(
        "--mode",
        choices=("native", "exec"),
        help="how to run: with Bridge's recipes, or its own setup_experiment.py (default: exec before Bridge 0.6)",
    )


def _add_running(parser: argparse.ArgumentParser, *, submits: bool) -> None:
    add = parser.add_argument
    add("--output-dir", metavar="DIR", help="where results go (default: the system's output_path)")
    add(
        "--enable-cache-without-check",
        action="store_true",
        help="take what is there as it is; clone and import nothing",
    )
    add("--single-sbatch", action="store_true", help="run all tests in one job, one after the other")
    _add_profile(parser)
    add("--entrypoint", metavar="FILE", help="a program of the same contract in place of entrypoint.py")
    add("--without-hooks", action="store_true", help="run a scenario without its pre_test and post_test")
    if submits:
        add("--no-wait", action="store_true", help="return once all is submitted; generate-report writes the reports")
        add("--continue", dest="continued", metavar="DIR", help="go on with an interrupted run: its results directory")
    add("--json", action="store_true", help="print one JSON object")


def main(parsed: argparse.Namespace) -> int:
    """Do the action and print its results."""
    actions = {
        "run": _run,
        "dry-run": _dry_run,
        "install": _install,
        "uninstall": _uninstall,
        "generate-report": _report,
        "verify-configs": _verify,
        "list": _list,
        "convert": _convert,
    }
    with _logged(parsed.log_file, parsed.log_level):
        return actions[parsed.action](parsed)


class _Log:
    """Standard error with a copy in a file; below a level, lines are left out of standard error alone."""

    def __init__(self, stream: TextIO, file: TextIO | None, level: str) -> None:
        self._stream, self._file = stream, file
        self._beginnings = {"WARNING": ("warning:", "error:"), "ERROR": ("error:",)}.get(level, ("",))
        self._shown = True

    def write(self, text: str) -> int:
        """Write a text; a line's end comes as a text of its own."""
        plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
        if self._file is not None and plain.strip():
            self._file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {plain.rstrip()}\n")
            self._file.flush()
        if plain != "\n":
            self._shown = plain.startswith(self._beginnings)
        if self._shown:
            self._stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _logged(path: str | None, level: str) -> Iterator[None]:
    """Copy what is printed for people into a file, and print what is of this level."""
    if path is None and level in ("INFO", "DEBUG"):
        yield
        return
    with contextlib.ExitStack() as opened:
        file = opened.enter_context(Path(path).expanduser().open("w", encoding="utf-8")) if path else None
        before = sys.stderr
        sys.stderr = _Log(before, file, level)
        try:
            yield
        finally:
            sys.stderr = before


def _load(parsed: argparse.Namespace) -> "LoadedFiles":
    from launcher._util.errors import ConfigError
    from launcher.cloudai.load import load_files

    system = parsed.system_config or os.environ.get("CLOUDAI_SYSTEM_CONFIG")
    if not system:
        raise ConfigError("which system?", where="--system-config", hint="Name its file, or set CLOUDAI_SYSTEM_CONFIG.")
    tests = _existing(parsed.tests_dir, "--tests-dir", directory=True) if parsed.tests_dir else None
    default = Path("conf/hook")
    hooks = _existing(parsed.hook_dir, "--hook-dir", directory=True) if parsed.hook_dir else default
    return load_files(
        _existing(system, "--system-config"),
        _existing(parsed.test_scenario, "--test-scenario"),
        tests,
        hooks if hooks.is_dir() else None,
    )


def _existing(text: str, option: str, *, directory: bool = False) -> Path:
    from launcher._util.errors import ConfigError
    from launcher._util.user_paths import is_directory, is_file, user_path

    path = user_path(text, Path.cwd(), where=option)
    if not (is_directory(path) if directory else is_file(path)):
        raise ConfigError(f"there is no {'directory' if directory else 'file'} {text}", where=option)
    return path


def _options(parsed: argparse.Namespace) -> "RunChoices":
    from launcher.cloudai.cases import RunChoices

    entrypoint = getattr(parsed, "entrypoint", None)
    return RunChoices(
        mode=parsed.mode,
        profile=parsed.cluster,
        entrypoint=_existing(entrypoint, "--entrypoint") if entrypoint else None,
        check_config=False if entrypoint else None,
        hooks=not getattr(parsed, "without_hooks", False),
    )


def _root(parsed: argparse.Namespace, loaded: "LoadedFiles") -> Path:
    from launcher.cloudai import run

    if getattr(parsed, "continued", None):
        root = _existing(parsed.continued, "--continue", directory=True).resolve()
        run.refuse_other_form(root, one_job=parsed.single_sbatch)
        return root
    output = Path(parsed.output_dir).expanduser() if parsed.output_dir else None
    return run.results_directory(loaded, output, time.time())


def _show_variants(loaded: "LoadedFiles") -> bool:
    """Print the variants of recipes whose tests ask for them. Return whether any does."""
    from launcher.cloudai import run

    found = run.listed_variants(loaded)
    for test, names in found.items():
        say(f"{test}: {', '.join(names) or 'none'}")
    return bool(found)


def _run(parsed: argparse.Namespace) -> int:
    from launcher.backends.wait import interrupts
    from launcher.cli.progress import TerminalProgress
    from launcher.cloudai import run

    loaded = _load(parsed)
    if _show_variants(loaded):
        return 0
    root, options = _root(parsed, loaded), _options(parsed)
    for note in run.scenario_notes(loaded):
        info(str(note))
    with TerminalProgress() as progress, run.failure_recorded(root):
        if not parsed.enable_cache_without_check:
            for line in run.install(loaded, options, progress):
                info(line)
        start = run.run_in_one_job if parsed.single_sbatch else run.run_scenario
        submitted = start(loaded, root, options, progress)
    info(f"results: {root}")
    if parsed.no_wait:
        if parsed.json:
            runs = {name: str(run.path) for name, run in submitted.runs.items()}
            print_json({"result_dir": str(root), "runs": runs, "jobs": submitted.jobs, "refused": submitted.refused})
        return 0
    with interrupts() as counted, run.failure_recorded(root):
        over = run.wait(submitted, tick=info, leave=lambda: counted.count > 0)
    if not over:
        info(f"the jobs go on; launcher cloudai generate-report --result-dir {root} ... writes their reports")
        return 0
    return _write_reports(root, as_json=parsed.json)


def _dry_run(parsed: argparse.Namespace) -> int:
    from launcher.cloudai import run

    loaded = _load(parsed)
    if _show_variants(loaded):
        return 0
    root, options = _root(parsed, loaded), _options(parsed)
    answer: dict[str, object] = {"result_dir": str(root), "cases": (cases := list[dict[str, object]]())}
    for scenario_note in run.scenario_notes(loaded):
        info(str(scenario_note))
    for one in run.dry_run(loaded, root, options):
        if isinstance(one, tuple):
            case, reason = one
            info(f"{coloured(case.name, 'bold')}: {coloured('refused', 'yellow')}: {reason}")
            cases.append({"name": case.name, "refused": reason})
            continue
        planned = one.planned
        what = planned.request.recipe or "setup_experiment.py"
        gpus = planned.request.gpus_per_node
        info(f"{coloured(planned.case.name, 'bold')}: {planned.mode}, {what}, {planned.nodes} x {gpus} GPUs")
        notes = (*planned.notes, *one.notes)
        for note in notes:
            (warn if note.level == "warning" else info)(f"  {note}")
        cases.append(
            {
                "name": planned.case.name,
                "mode": planned.mode,
                "recipe": planned.request.recipe,
                "nodes": planned.nodes,
                "gpus_per_node": gpus,
                "assignments": list(planned.request.assignments),
                "arguments": list(planned.arguments),
                "directory": str(planned.directory),
                "notes": [{"field": note.field, "text": note.text, "level": note.level} for note in notes],
            }
        )
    if parsed.single_sbatch:
        answer["script"] = str(run.dry_run_of_one_job(loaded, root, options))
        info(f"one job runs all of them, one after the other: {answer['script']}")
    info(f"written: {root}")
    if parsed.json:
        print_json(answer)
    return 0


def _install(parsed: argparse.Namespace) -> int:
    from launcher.cli.progress import TerminalProgress
    from launcher.cloudai import run

    loaded = _load(parsed)
    with TerminalProgress() as progress:
        for line in run.install(loaded, _options(parsed), progress):
            info(line)
    return 0


def _uninstall(parsed: argparse.Namespace) -> int:
    from launcher.cloudai import run

    removed, kept = run.uninstall(_load(parsed))
    for path in removed:
        info(f"removed {path}")
    for error in kept:
        warn(f"{error.where}: {error.message}")
    return 1 if kept else 0


def _report(parsed: argparse.Namespace) -> int:
    _load(parsed)
    return _write_reports(_existing(parsed.result_dir, "--result-dir", directory=True), as_json=parsed.json)


def _write_reports(root: Path, *, as_json: bool) -> int:
    from launcher.cloudai.pages import write_reports

    reports = write_reports(root)
    for result in reports.results:
        colour = "green" if result.good else "red" if result.over else "yellow"
        word = "PASSED" if result.good else "FAILED" if result.over else result.phase
        step = result.metric("step-time")
        more = f": {step:.4g} s a step" if step is not None else f" ({result.detail or result.phase})"
        info(f"{coloured(word, colour)} {result.case.name}{more}")
    for path in reports.written:
        info(f"written: {path}")
    if as_json:
        print_json({"result_dir": str(root), "cases": [_plain(result) for result in reports.results]})
    return 0 if all(result.good or result.phase == "refused" for result in reports.results) else 1


def _plain(result: "CaseResult") -> dict[str, object]:
    return {
        "name": result.case.name,
        "phase": result.phase,
        "detail": result.detail,
        "good": result.good,
        "job": result.job,
        "run_dir": result.case.values.get("run_dir"),
        "step_time_s": result.metric("step-time"),
        "tflops_per_gpu": result.metric("tflops-per-gpu"),
    }


def _verify(parsed: argparse.Namespace) -> int:
    from launcher._util.errors import ConfigError
    from launcher.cli.output import error_object
    from launcher.cloudai.load import verify

    path = Path(parsed.configs).expanduser()
    if not path.exists():
        raise ConfigError(f"there is no {parsed.configs}", where="PATH")
    tests = _existing(parsed.tests_dir, "--tests-dir", directory=True) if parsed.tests_dir else None
    found = list(verify(path, tests))
    wrong = [one for one in found if one.error is not None]
    for one in wrong:
        assert one.error is not None  # noqa: S101 - filtered above
        info(f"{coloured('error:', 'red')} {one.error.where}: {one.error.message}")
        if one.error.hint:
            info(one.error.hint)
    info(f"{len(found)} files, {len(wrong)} with mistakes")
    if parsed.json:
        files = [
            {"path": str(one.path), "kind": one.kind, "error": error_object(one.error) if one.error else None}
            for one in found
        ]
        print_json({"files": files})
    return 1 if wrong else 0


def _list(parsed: argparse.Namespace) -> int:
    from launcher.cloudai.models import AGENTS, ENABLED_REPORTS, REPORTS, plugin_agents

    if parsed.what == "reports":
        for name in REPORTS:
            more = "written by default" if name in ENABLED_REPORTS else "of another workload: accepted, not written"
            say(f"{name}: {more}" if parsed.verbose else name)
        return 0
    for name, varies in AGENTS.items():
        more = "draws env_params" if varies else "refuses env_params"
        say(f"{name}: {more}" if parsed.verbose else name)
    for name in plugin_agents():
        say(f"{name}: not available: a plug-in of CloudAI's own (entry-point group cloudai.agents)")
    return 0


def _convert(parsed: argparse.Namespace) -> int:
    from launcher.cloudai.convert import convert

    for path in convert(_load(parsed), Path(parsed.directory).expanduser().absolute(), _options(parsed)):
        info(f"written: {path}")
    return 0
