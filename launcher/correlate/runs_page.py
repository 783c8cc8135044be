"""One HTML page of several runs beside each other: their numbers, curves over each other, and what differs."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launcher._util.errors import DiskError, LauncherError, RequestError
from launcher.api.locate import find_run
from launcher.correlate.compare import OWN_TO_A_RUN, commit_of_run, core_of_run
from launcher.correlate.settings import differences, settings_of
from launcher.report.page.content import Block, Controls, Section, Table, Text, text_of
from launcher.report.page.metrics import LIMIT
from launcher.report.page.overview import format_time
from launcher.report.page.render import plotly_js, render
from launcher.report.page.training import METRICS, Line, axes_of, lines_of, plot_of
from launcher.rundir import RunDirectory
from launcher.rundir.run_directory import read_json, write_atomically

MOST = 32
"""Limit of runs on one page."""
_DIFFERING = 200
"""Limit of settings and of variables that are listed."""


@dataclass(frozen=True)
class ComparedRun:
    """One of the runs, as far as the page shows it."""

    name: str
    lines: tuple[Line, ...]
    plan: Mapping[str, Any]
    settings: Mapping[str, Any]
    environment: Mapping[str, str]
    megatron_core: str | None

    def last(self, metric: str) -> float | None:
        """Return the last value of a metric."""
        found = [line.curves.of[metric].last for line in self.lines]
        return next((value[0] for value in reversed(found) if value), None)

    def median(self, metric: str) -> float | None:
        """Return the median of a metric in the newest attempt that has it."""
        found = [line.curves.of[metric].median for line in self.lines]
        return next((value for value in reversed(found) if value is not None), None)

    def most(self, metric: str) -> float | None:
        """Return the greatest value of a metric."""
        found = [line.curves.of[metric].highest for line in self.lines]
        return max((value[0] for value in found if value), default=None)


def write_runs_page(names: Sequence[str], output: str | None, *, run_root: str | None = None) -> Path:
    """Write the page of several runs and return its path (default: comparison.html here).

    Raises RequestError for a name that fits no run, or too many of them, DiskError.
    """
    if len(names) > MOST:
        raise RequestError(f"a page compares at most {MOST} runs, and {len(names)} are named", where="RUN")
    path = Path(output or "comparison.html").absolute()
    if path.exists() and not path.is_file():
        raise RequestError("this is not a file", where=str(path), hint="--output names the file of the page.")
    plotly = plotly_js()
    runs = list(dict.fromkeys(find_run(name, run_root) for name in names))
    compared = [read_run(run, number, max(2, LIMIT // len(runs))) for number, run in enumerate(runs)]
    title = f"{len(compared)} runs" if len(compared) > 1 else compared[0].name
    html = render(title, sections(compared), made=format_time(time.time()), plotly=plotly)
    try:
        write_atomically(path, html)
    except DiskError as error:
        raise DiskError(error.message, where=error.where, hint="--output FILE writes the page elsewhere.") from error
    return path


def read_run(run: RunDirectory, number: int, limit: int) -> ComparedRun:
    """Read one of the runs; its lines have the colour of its number. What is damaged there is left out."""
    name = f"{run.path.parent.name}/{run.path.name}"
    attempt = run.latest_attempt()
    environment = read_json(attempt.environment) if attempt else None
    plan = run.plan
    try:
        settings: Mapping[str, Any] = settings_of(plan)
    except (LauncherError, KeyError, TypeError):
        settings = {}  # a plan of a later launcher, whose settings are not known here
    lines = [replace(line, name=name, colour=number) for line in lines_of(run.attempts(), limit)]
    known = (environment or {}).get("environment")
    return ComparedRun(name, tuple(lines), plan, settings, known if isinstance(known, dict) else {}, core_of_run(run))


def sections(runs: Sequence[ComparedRun]) -> list[Section]:
    """Return the parts of the page that have something to show."""
    lines = [line for run in runs for line in run.lines]
    plots = [plot for metric in METRICS if (plot := plot_of(metric, lines, what="run")) is not None]
    controls: list[Block] = [Controls("Plots", axes=axes_of(lines))] if plots else []
    made = (
        Section("numbers", "Numbers", (_numbers(runs),)),
        Section("training", "Training", (*controls, *plots)),
        Section("settings", "Settings that differ", tuple(_settings(runs))),
        Section("environment", "Variables that differ", tuple(_variables(runs))),
    )
    return [section for section in made if section.blocks]


def _numbers(runs: Sequence[ComparedRun]) -> Table:
    columns = ("Run", "Iterations", "Last loss", "s/iteration", "Tokens/s", "TFLOP/s per GPU", "GiB", "Ranks")
    rows = tuple(
        (
            run.name,
            text_of(max((line.curves.iterations[-1] for line in run.lines), default=None)),
            text_of(run.last("loss"), ".6g"),
            text_of(run.median("seconds"), ".4g"),
            text_of(run.median("tokens_per_second"), ",.0f"),
            text_of(run.median("tflops_per_gpu"), ".1f"),
            text_of(None if (most := run.most("memory_bytes")) is None else most / (1 << 30), ".1f"),
            text_of(run.plan.get("world_size")),
            text_of(commit_of_run(run.plan)),
            text_of((run.plan.get("image") or {}).get("name")),
            text_of(run.megatron_core),
        )
        for run in runs
    )
    return Table("Numbers", (*columns, "Commit", "Image", "Megatron-Core"), rows, frozenset(columns[1:]), sortable=True)


def _settings(runs: Sequence[ComparedRun]) -> list[Block]:
    first = runs[0].settings
    keys = {one.key: one.numbers for run in runs[1:] for one in differences(first, run.settings)}
    one_sided = {key for run in runs for key in run.settings.keys() ^ first.keys()}
    keys |= {key: True for key in one_sided if key not in keys and _overridden(key, runs)}
    rows = [
        (key, *(_shown(run.settings, key) for run in runs), "numbers" if keys[key] else "")
        for key in sorted(keys, key=lambda key: (not keys[key], key))
    ]
    return _listed("Settings", ("Key", *(run.name for run in runs), "Changes"), rows)


def _overridden(key: str, runs: Sequence[ComparedRun]) -> bool:
    """Return whether a key is stated by a run; others only belong to another kind of recipe."""
    stated = [str(text).partition("=")[0].lstrip("+~") for run in runs for text in run.plan.get("overrides") or ()]
    return key in stated


def _shown(settings: Mapping[str, Any], key: str) -> str:
    if key not in settings:
        return ""
    value = settings[key]
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _variables(runs: Sequence[ComparedRun]) -> list[Block]:
    names = sorted({name for run in runs for name in run.environment})
    rows = [
        (name, *(run.environment.get(name, "") for run in runs))
        for name in names
        if not name.startswith(OWN_TO_A_RUN) and len({run.environment.get(name) for run in runs}) > 1
    ]
    return _listed("Variables", ("Name", *(run.name for run in runs)), rows)


def _listed(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[Block]:
    if not rows:
        return []
    blocks: list[Block] = [Table(title, columns, tuple(rows[:_DIFFERING]))]
    if len(rows) > _DIFFERING:
        blocks.append(Text(f"The table shows {_DIFFERING} of {len(rows)}."))
    return blocks
