"""Two runs beside each other: numbers, configuration, environment, image and commit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher._util.errors import RequestError
from launcher._util.user_paths import is_file, user_path
from launcher.api.locate import find_run
from launcher.correlate.history import Point, history_at, history_of
from launcher.correlate.settings import Difference, differences, settings_of
from launcher.correlate.verdict import Agreement, judge, median
from launcher.rundir import RunDirectory
from launcher.rundir.run_directory import read_json


@dataclass(frozen=True)
class Side:
    """One of the two: a run, or the log of a training."""

    name: str
    points: tuple[Point, ...]
    run: RunDirectory | None = None
    settings: Mapping[str, Any] | None = None
    environment: Mapping[str, str] | None = None
    image: str | None = None
    commit: str | None = None
    megatron_core: str | None = None

    @property
    def timed(self) -> tuple[Point, ...]:
        """Return the iterations whose time counts: the first tenth, at least one, warms up."""
        return self.points[max(1, len(self.points) // 10) :] if len(self.points) > 1 else self.points


@dataclass(frozen=True)
class Measure:
    """One number of both sides."""

    name: str
    unit: str
    left: float | None
    right: float | None

    @property
    def change(self) -> float | None:
        """Return by how much the right one is larger, relative to the left one."""
        if self.left is None or self.right is None or not self.left:
            return None
        return (self.right - self.left) / abs(self.left)


@dataclass(frozen=True)
class Comparison:
    """Two sides, what differs, and whether they are the same training."""

    left: Side
    right: Side
    rows: tuple[Measure, ...]
    settings: tuple[Difference, ...]
    environment: tuple[tuple[str, str | None, str | None], ...]
    """Variables with different values, by name."""
    verdict: Agreement


def compare_runs(left: str, right: str, *, run_root: str | None = None) -> Comparison:
    """Compare two runs, or logs of trainings. Raises RequestError."""
    return compare_sides(read_side(left, run_root), read_side(right, run_root))


def compare_sides(left: Side, right: Side) -> Comparison:
    """Compare what was read of both."""
    found = differences(left.settings, right.settings) if left.settings and right.settings else ()
    return Comparison(
        left,
        right,
        rows_of(left, right),
        found,
        _environment(left, right),
        judge(left.points, right.points, differences=found),
    )


def read_side(name: str, run_root: str | None = None) -> Side:
    """Read a run (directory, run id or name), or a log file of either framework. Raises RequestError."""
    path = user_path(name, Path.cwd(), error=RequestError)
    if is_file(path):
        points = history_at(path)
        if not points:
            raise RequestError("holds no line of an iteration of Megatron-LM or Megatron Bridge", where=str(path))
        return Side(path.name, points)
    return side_of(find_run(name, run_root))


def side_of(run: RunDirectory) -> Side:
    """Return what a run has recorded."""
    plan = run.plan
    attempt = run.latest_attempt()
    environment = read_json(attempt.environment) if attempt else None
    image = plan.get("image") or {}
    return Side(
        f"{run.path.parent.name}/{run.path.name}",
        history_of(run),
        run,
        settings_of(plan),
        environment["environment"] if environment else None,
        image.get("digest") or image.get("name"),
        commit_of_run(plan),
        core_of_run(run),
    )


def commit_of_run(plan: Mapping[str, Any]) -> str | None:
    """Return the commit of a run's code, or of its checkout of Megatron-LM."""
    source = plan.get("source") or {}
    if commit := source.get("commit"):
        return f"{commit}{'+changes' if source.get('changed') else ''}"
    recipe = (plan.get("argv") or {}).get("recipe") or {}
    if not recipe.get("source"):
        return None
    from launcher.discovery.megatron_lm import git_commit

    return git_commit(Path(recipe["source"]))


def core_of_run(run: RunDirectory) -> str | None:
    """Return the version and the place of megatron-core that a run has imported, where it has noted that."""
    attempt = run.latest_attempt()
    noted = read_json(attempt.megatron) if attempt else None
    return f"{noted['core']} {noted['core_commit'] or ''} ({noted['core_path']})" if noted else None


def rows_of(left: Side, right: Side) -> tuple[Measure, ...]:
    """Return the numbers of both sides."""

    def last(side: Side, name: str) -> float | None:
        values = [getattr(point, name) for point in side.points if getattr(point, name) is not None]
        return values[-1] if values else None

    def middle(side: Side, name: str) -> float | None:
        return median([getattr(point, name) for point in side.timed])

    def most(side: Side, name: str) -> float | None:
        values = [getattr(point, name) for point in side.points if getattr(point, name) is not None]
        return max(values, default=None)

    found = (
        Measure("iterations", "", float(len(left.points)), float(len(right.points))),
        Measure("last loss", "", last(left, "loss"), last(right, "loss")),
        Measure("last gradient norm", "", last(left, "grad_norm"), last(right, "grad_norm")),
        Measure("time per iteration", "s", middle(left, "seconds"), middle(right, "seconds")),
        Measure("tokens per second", "", middle(left, "tokens_per_second"), middle(right, "tokens_per_second")),
        Measure("TFLOP/s per GPU", "", middle(left, "tflops"), middle(right, "tflops")),
        Measure("most memory", "bytes", most(left, "memory_bytes"), most(right, "memory_bytes")),
    )
    return tuple(row for row in found if row.left is not None or row.right is not None)


OWN_TO_A_RUN = (
    "SLURM_",
    "LAUNCHER_",
    "MASTER_",
    "TMPDIR",
    "PWD",
    "OLDPWD",
    "HOSTNAME",
    "CUDA_VISIBLE_DEVICES",
    "TRITON_CACHE_DIR",
    "TORCH_FR_DUMP_TEMP_FILE",
    "TORCH_EXTENSIONS_DIR",
)


def _environment(left: Side, right: Side) -> tuple[tuple[str, str | None, str | None], ...]:
    if left.environment is None or right.environment is None:
        return ()
    names = sorted(left.environment.keys() | right.environment.keys())
    return tuple(
        (name, left.environment.get(name), right.environment.get(name))
        for name in names
        if left.environment.get(name) != right.environment.get(name) and not name.startswith(OWN_TO_A_RUN)
    )


def as_object(found: Comparison) -> dict[str, Any]:
    """Return the comparison as JSON has it."""
    from launcher.correlate import verdict

    def side(one: Side) -> dict[str, Any]:
        return {
            "name": one.name,
            "run_dir": str(one.run.path) if one.run else None,
            "image": one.image,
            "commit": one.commit,
            "megatron_core": one.megatron_core,
        }

    return {
        "left": side(found.left),
        "right": side(found.right),
        "metrics": [
            {"name": one.name, "unit": one.unit, "left": one.left, "right": one.right, "change": one.change}
            for one in found.rows
        ],
        "environment": [{"name": name, "left": left, "right": right} for name, left, right in found.environment],
        "verdict": verdict.as_object(found.verdict),
    }


def table_of(found: Comparison) -> list[tuple[str, ...]]:
    """Return the numbers and versions as rows of text."""
    rows: list[tuple[str, ...]] = [("", found.left.name, found.right.name, "CHANGE")]
    for one in found.rows:
        change = f"{one.change:+.2%}" if one.change is not None else ""
        rows.append((f"{one.name}{f' ({one.unit})' if one.unit else ''}", _shown(one.left), _shown(one.right), change))
    for name in ("image", "commit", "megatron_core"):
        values = (getattr(found.left, name), getattr(found.right, name))
        if any(values):
            rows.append(
                (
                    name.replace("_", "-"),
                    *(value or "-" for value in values),
                    "" if values[0] == values[1] else "differs",
                )
            )
    return rows


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.7g}"


def iterations_table(left: Sequence[Point], right: Sequence[Point]) -> list[tuple[str, ...]]:
    """Return the losses and gradient norms of both sides, an iteration in each row."""
    others = {point.iteration: point for point in right}
    rows: list[tuple[str, ...]] = [("ITERATION", "LOSS", "LOSS", "DIFFERENCE", "GRADIENT NORM", "GRADIENT NORM")]
    for one in left:
        other = others.get(one.iteration)
        if other is None or one.loss is None or other.loss is None:
            continue
        apart = f"{other.loss - one.loss:+.2e}" if one.printed_loss != other.printed_loss else "0"
        rows.append(
            (str(one.iteration), one.printed_loss, other.printed_loss, apart, one.printed_norm, other.printed_norm)
        )
    return rows
