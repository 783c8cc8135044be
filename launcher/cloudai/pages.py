"""The reports of a scenario: files beside each run, a page for all, one for its sweeps, an archive of a failure."""

import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher._util.templates import template_environment
from launcher.cloudai import results
from launcher.cloudai.models import ENABLED_REPORTS
from launcher.cloudai.profile import toml_text
from launcher.cloudai.records import read_cases
from launcher.cloudai.results import CaseResult, Scored
from launcher.contract import files

GPU_HOUR_USD = {"H100": 3.0, "B200": 5.5, "GB200": 11.0, "GB300": 8.0}
"""What an hour of a GPU costs: CloudAI's figures."""

_NOT_KEPT = ("checkpoints", "set-aside")
"""Directories of a run that an archive leaves out: its size would be theirs."""


@dataclass(frozen=True)
class Reports:
    """What was written."""

    results: tuple[CaseResult, ...]
    written: tuple[Path, ...]


def write_reports(root: Path) -> Reports:
    """Write all reports of a scenario's results that its files ask for. Raises ConfigError, OSError."""
    scenario = results.require_scenario(root)
    found = results.results_of(list(read_cases(root)))
    written = list[Path]()
    if _enabled(scenario, "per_test"):
        for result in found:
            if result.case.run_dir is not None or result.case.by_script:
                results.write_case_reports(result)
                written.append(result.case.directory / "report.txt")
    if _enabled(scenario, "status"):
        path = root / f"{_file_name(scenario['name'])}.html"
        files.write_text(path, status_page(scenario, found, root))
        written.append(path)
    if _enabled(scenario, "dse"):
        written += _write_sweeps(scenario, found, root)
    if _enabled(scenario, "tarball") and any(result.over and not result.good for result in found):
        written.append(_archive(root))
    return Reports(tuple(found), tuple(written))


def _enabled(scenario: Mapping[str, Any], name: str) -> bool:
    return bool(scenario["reports"].get(name, name in ENABLED_REPORTS))


def _file_name(name: str) -> str:
    return name.replace("/", "-")


def _cell(text: object, link: str | None = None) -> dict[str, str | None]:
    return {"text": str(text), "link": link}


def _table(title: str, heads: Sequence[str], rows: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"title": title, "text": "", "heads": heads, "rows": rows, "points": (), "code": "", **more}


def _page(title: str, tables: Sequence[dict[str, Any]]) -> str:
    environment = template_environment(lambda value: value, autoescape=True)
    made = time.strftime("%Y-%m-%d %H:%M:%S")
    return environment.get_template("cloudai.html.j2").render(title=title, made=made, tables=tables)


def status_page(scenario: Mapping[str, Any], found: Sequence[CaseResult], root: Path) -> str:
    """Return the page of a scenario: each run with its outcome and a link to its directory."""
    rows = [
        {
            "tone": "good" if result.good else "bad" if result.over else "",
            "cells": [
                _cell(result.case.name, results.relative(result.case.directory, root)),
                _cell(scenario["descriptions"].get(result.case.test, "")),
                _cell("PASSED" if result.good else "FAILED" if result.over else result.phase),
                _cell(result.detail or result.phase),
                _cell(_seconds(result.metric("step-time"))),
                _cell(result.nodes or ""),
            ],
        }
        for result in found
    ]
    heads = ("Case", "Description", "Status", "Details", "Step time", "Nodes")
    return _page(str(scenario["name"]), [_table("Results", heads, rows)])


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.4g} s"


def _write_sweeps(scenario: Mapping[str, Any], found: Sequence[CaseResult], root: Path) -> list[Path]:
    """Write trajectory.csv, metadata.csv and the best configuration of each sweep, and the page of all."""
    tables, written = list[dict[str, Any]](), list[Path]()
    for test in scenario["tests"]:
        points = [result for result in found if result.case.test == test and result.case.step is not None]
        if not points:
            continue
        directory = root / test / "0"
        rated = results.scored(points)
        text, metadata = results.trajectory(rated)
        files.write_text(directory / "trajectory.csv", text)
        written.append(directory / "trajectory.csv")
        if metadata is not None:
            files.write_text(directory / "metadata.csv", metadata)
        chosen = results.best(rated)
        if chosen is not None:
            files.write_text(directory / f"{test}.toml", toml_text(chosen.result.case.definition))
            written.append(directory / f"{test}.toml")
        tables.append(_sweep_table(test, points, rated, chosen, root))
    if tables:
        path = root / f"{_file_name(scenario['name'])}-dse-report.html"
        files.write_text(path, _page(f"{scenario['name']}: sweeps", tables))
        written.append(path)
    return written


def _sweep_table(
    test: str, points: Sequence[CaseResult], rated: Sequence[Scored], chosen: Scored | None, root: Path
) -> dict[str, Any]:
    by_step = {one.result.case.step: one for one in rated}
    rows = []
    for result in points:
        score = by_step.get(result.case.step)
        rows.append(
            {
                "tone": "best" if chosen is not None and result is chosen.result else "",
                "cells": [
                    _cell(result.case.step, results.relative(result.case.directory, root)),
                    _cell(", ".join(f"{key}={value}" for key, value in result.case.action.items())),
                    _cell(result.phase),
                    _cell("" if score is None else ", ".join(f"{value:.6g}" for value in score.observation)),
                    _cell("" if score is None else f"{score.reward:.6g}"),
                    _cell(result.detail),
                ],
            }
        )
    return _table(
        test,
        ("Step", "Values", "State", "Observation", "Reward", "Details"),
        rows,
        text=_saved(points, rated),
        points=_plotted(rated, chosen),
        code="" if chosen is None else toml_text(chosen.result.case.definition),
    )


def _saved(points: Sequence[CaseResult], rated: Sequence[Scored]) -> str:
    """Return what the sweep has taken, and what was saved against running each of its points."""
    times = [one.result.seconds for one in rated if one.result.seconds is not None]
    if not times:
        return f"{len(rated)} of {len(points)} points were run."
    gpus = (points[0].case.values.get("nodes") or 0) * (points[0].case.values.get("gpus_per_node") or 0)
    spent = sum(times)
    saved = spent / len(times) * max(len(points) - len(rated), 0)
    hours = saved / 3600 * gpus
    price = GPU_HOUR_USD.get(results.gpu_of(points[0].case.definition))
    money = f", ${hours * price:,.2f}" if price is not None else ""
    return (
        f"{len(rated)} of {len(points)} points were run, {spent:.0f} s in all, {spent / len(times):.1f} s each. "
        f"Saved: {saved:.0f} s, {hours:.2f} GPU hours{money}."
    )


def _plotted(rated: Sequence[Scored], chosen: Scored | None) -> list[dict[str, Any]]:
    if len(rated) < 2:
        return []
    rewards = [one.reward for one in rated]
    low, span = min(rewards), (max(rewards) - min(rewards)) or 1.0
    return [
        {
            "x": f"{20 + 560 * number / (len(rated) - 1):.1f}",
            "y": f"{140 - 120 * (one.reward - low) / span:.1f}",
            "colour": "#14532d" if one is chosen else "#2b5ea7",
            "title": f"step {one.result.case.step}: reward {one.reward:.6g}",
        }
        for number, one in enumerate(rated)
    ]


def _archive(root: Path) -> Path:
    """Write NAME.tgz beside the results, without checkpoints."""
    path = root.with_name(f"{root.name}.tgz")
    partial = path.with_name(f".{path.name}.part")

    def kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if Path(member.name).name in _NOT_KEPT else member

    with tarfile.open(partial, "w:gz") as archive:
        archive.add(root, arcname=root.name, filter=kept)
    partial.replace(path)
    return path
