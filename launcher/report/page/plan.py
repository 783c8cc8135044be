"""The section about the plan of the run: the essentials of plan.json."""

from collections.abc import Iterable, Sequence
from typing import Any

from launcher.planning.backend import BACKENDS, BackendTraits
from launcher.planning.user_code import describe
from launcher.report.page.content import Block, Facts, LogExcerpt, Subject, Table, Text, as_mapping, facts, text_of

_HIDDEN = {"inherited": "(passed on)"}


def plan_section(subject: Subject) -> Sequence[Block]:
    """Return where and how the run runs, its overrides, and each environment variable with its origin."""
    plan = subject.run.plan
    blocks: list[Block] = [Text(f"Warning of the plan: {each}", "warning") for each in _texts(plan.get("warnings"))]
    blocks.append(_facts(plan))
    changed = [*as_mapping(as_mapping(plan.get("argv")).get("arguments")).items()]
    rows = [("argument", f"{name}={value}") for name, value in changed]
    rows += [("override", text) for text in _texts(plan.get("overrides"))]
    if rows:
        blocks.append(Table("What was asked of the recipe", ("Kind", "Setting"), tuple(rows)))
    if environment := tuple(_variables(plan.get("environment"))):
        blocks.append(Table("Environment", ("Name", "Value", "Origin", "Overrides"), environment))
    backend = _backend(plan)
    if backend and backend.own_job and (directives := tuple(_directives(plan.get("directives")))):
        blocks.append(LogExcerpt("sbatch", directives))
    step = [*_texts(as_mapping(plan.get("step")).get("srun_args"))]
    step += _texts(as_mapping(plan.get("container")).get("srun_args"))
    if backend and backend.slurm_step and step:
        blocks.append(LogExcerpt("srun", tuple(step)))
    return blocks


def _facts(plan: dict[str, Any]) -> Facts:
    image, layout, profiler = (as_mapping(plan.get(name)) for name in ("image", "layout", "profiler"))
    backend = _backend(plan)
    return facts(
        ("Backend", f"{backend.name}: {backend.title}" if backend else None),
        ("Device, runtime", ", ".join(str(plan[name]) for name in ("device", "runtime") if plan.get(name))),
        ("Image", f"{image.get('name')} ({image.get('digest') or 'without a digest'})" if image else None),
        ("Nodes x ranks", f"{layout.get('nodes')} x {layout.get('ranks_per_node')}" if layout else None),
        ("Parallel", ", ".join(f"{pair[0]} {pair[1]}" for pair in _pairs(layout.get("parallel")))),
        ("Profiler", _profiler(profiler) if profiler else None),
        ("Code", describe(plan)),
        ("Python", plan.get("python")),
        ("Mounts", ", ".join(_mounts(plan.get("mounts")))),
        ("Launcher", plan.get("launcher")),
        ("Submission", text_of(plan.get("submission"))),
    )


def _backend(plan: dict[str, Any]) -> BackendTraits | None:
    return BACKENDS.get(str(plan.get("backend")))


def _profiler(profiler: dict[str, Any]) -> str:
    ranks = ", ".join(_texts(profiler.get("ranks"))) or "all"
    return f"{profiler.get('name')}, steps {profiler.get('start')}:{profiler.get('stop')}, ranks {ranks}"


def _mounts(mounts: Any) -> Iterable[str]:
    for mount in mounts if isinstance(mounts, list) else ():
        known = as_mapping(mount)
        yield f"{known.get('source')} at {known.get('target')}{' (read-only)' if known.get('read_only') else ''}"


def _variables(environment: Any) -> Iterable[tuple[str, ...]]:
    for variable in environment if isinstance(environment, list) else ():
        known = as_mapping(variable)
        hidden = _HIDDEN.get(str(known.get("scope")), "(value not shown)")
        value = hidden if known.get("value") is None else str(known["value"])
        if known.get("operation") not in (None, "set"):
            value = {"unset": "(removed)", "prepend": f"{value}:...", "source": "(sourced)"}.get(
                str(known["operation"]), value
            )
        overridden = "; ".join(f"{pair[1]} of {pair[0]}" for pair in _pairs(known.get("overridden")))
        yield str(known.get("name")), value, str(known.get("origin")), overridden


def _directives(directives: Any) -> Iterable[str]:
    for key, value in _pairs(directives):
        yield f"--{key}" if value is None else f"--{key}={value}"


def _pairs(value: Any) -> list[Any]:
    return [each for each in value if isinstance(each, list) and len(each) == 2] if isinstance(value, list) else []


def _texts(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []
