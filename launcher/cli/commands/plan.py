"""Show what `run` or `submit` would do, exactly, with the origin of every value. Writes nothing, starts nothing.

In a shell:
  launcher plan vanilla_gpt_pretrain --nodes 2 train.train_iters=20
  launcher plan my_recipe.py --for submit --script
"""

import argparse
import sys
from typing import TYPE_CHECKING, Literal

from launcher.cli import arguments
from launcher.cli.output import coloured, print_json, say, warn

if TYPE_CHECKING:
    from launcher.api.prepare_plan import CheckPolicy, PreparedPlan
    from launcher.cli.progress import TerminalProgress
    from launcher.planning.model import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher plan`."""
    arguments.add_common(parser)
    arguments.add_check(parser)
    add = parser.add_argument
    add(
        "--for",
        dest="purpose",
        choices=("run", "submit"),
        help="whose plan (default: run where it can run, else submit)",
    )
    add("--script", action="store_true", help="print the scripts as well")
    add("--json", action="store_true", help="print plan and scripts as one JSON object")


def main(parsed: argparse.Namespace) -> int:
    """Plan and print."""
    from launcher.api.prepare_plan import prepare_plan
    from launcher.cli.progress import TerminalProgress
    from launcher.remote.cluster import elsewhere_of

    request = arguments.read_request(parsed)
    if parsed.purpose != "run" and (there := elsewhere_of(request)) is not None:
        from launcher.cli.output import warn
        from launcher.remote.commands import plan_there

        switches = (("--json", parsed.json), ("--script", parsed.script))
        return plan_there(there, request, [word for word, wanted in switches if wanted], warn)
    prepared = prepare_plan(request, parsed.purpose or "plan", check="if unknown", progress=TerminalProgress())
    show(prepared.plan, as_json=parsed.json, with_scripts=parsed.script)
    return 0


def add_run_arguments(parser: argparse.ArgumentParser, command: Literal["run", "submit"]) -> None:
    """Add the options that `run` and `submit` share: a run's own, and --dry-run."""
    arguments.add_common(parser)
    arguments.add_check(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help=f"show the plan and do nothing: `launcher plan --for {command}`"
    )


def prepare_or_show(
    parsed: argparse.Namespace, command: Literal["run", "submit"], check: "CheckPolicy", progress: "TerminalProgress"
) -> "PreparedPlan | None":
    """Return the plan of `run` or `submit`. With --dry-run print it, as `launcher plan` does, and return None."""
    from launcher.api.prepare_plan import prepare_plan

    check = "if unknown" if parsed.dry_run else check
    prepared = prepare_plan(arguments.read_request(parsed), command, check=check, progress=progress)
    if not parsed.dry_run:
        return prepared
    show(prepared.plan, as_json=parsed.json, with_scripts=False)
    return None


def show(plan: "Plan", *, as_json: bool, with_scripts: bool) -> None:
    """Print a plan on standard output: one object, or text for people."""
    if as_json or with_scripts:
        from launcher.scripts import scripts

        texts = scripts(plan)
    if as_json:
        print_json({"plan": plan.to_dict(), "scripts": texts})
        return
    for warning in plan.warnings:
        warn(warning)
    say("\n".join(_lines(plan)))
    if with_scripts:
        for name, text in texts.items():
            say(f"\n--- {name}\n{text}", end="")


def _lines(plan: "Plan") -> list[str]:
    from launcher.planning.user_code import describe

    layout = plan.layout
    code = describe({"source": plan.source, "shipped": plan.shipped})
    nodes = "node" if layout.nodes == 1 else "nodes"
    parallel = " ".join(f"{name.upper()}={value}" for name, value in layout.parallel) or "as the recipe says"
    lines = [
        _row("run", f"{plan.name}/{plan.run_id}"),
        _row("backend", f"{plan.backend.name} ({plan.backend.title})"),
        _row("cluster", f"{plan.cluster} (device {plan.device})"),
        _row("runtime", f"{plan.runtime} ({plan.runtime_origin})" if plan.runtime_origin else plan.runtime),
        _row("recipe", plan.recipe),
        *([_row("  code", code)] if code else []),
        *(_row("  argument", f"{name}={value}") for name, value in plan.argv["arguments"].items()),
        *(_row("  override", text) for text in plan.overrides),
        _row("ranks", f"{layout.nodes} {nodes} x {layout.ranks_per_node} = {layout.world_size}"),
        *_spare_rows(plan),
        _row("parallel", parallel),
        *(_row("  placement", text) for text in plan.placement),
        *([_row("network", plan.network)] if plan.network else []),
        *_memory_rows(plan),
        *_checkpoint_rows(plan),
        _row("image", str(plan.image or "none: the bare machine")),
        _row("python", plan.python),
        *(_row("  mount", f"{m.source} -> {m.target}{' (read-only)' if m.read_only else ''}") for m in plan.mounts),
        _row("directory", plan.run_dir),
    ]
    if plan.profiler:
        ranks = ", ".join(map(str, plan.profiler.ranks)) or "all"
        lines.append(
            _row("profiler", f"{plan.profiler.name}, steps {plan.profiler.start}:{plan.profiler.stop}, ranks {ranks}")
        )
    if plan.argv["options"]["keep_going"]:
        lines.append(_row("keep going", "after time limits, preemption, lost nodes and crashes, until it has finished"))
    lines += [_row("" if number else "changed", str(change)) for number, change in enumerate(plan.changes)]
    lines.append(_row("environment", "name = value (origin)"))
    for variable in plan.environment:
        hidden = "(passed on)" if variable.scope == "inherited" else "(value not shown)"
        overridden = "".join(f"; overrides {value!r} of {origin}" for origin, value in variable.overridden)
        lines.append(f"    {variable.assignment(hidden)} ({variable.origin}{overridden})")
    if plan.backend.slurm_step:
        if plan.backend.own_job:
            lines.append(_row("sbatch", ""))
            lines += [f"    --{key}{'' if value is None else f'={value}'}" for key, value in plan.directives]
        lines.append(_row("srun", ""))
        container = plan.container.srun_args if plan.container else ()
        lines += [f"    {argument}" for argument in (*plan.step.srun_args, *container)]
    lines.append(_row("unchecked", "known only where the recipe runs (--check-config)"))
    lines += [f"    {text}" for text in plan.unchecked]
    return lines


def _spare_rows(plan: "Plan") -> list[str]:
    if plan.spares is None:
        return []
    return [_row("spare nodes", f"up to {plan.spares.count}: a check of at most {plan.spares.limit_s} s chooses")]


def _memory_rows(plan: "Plan") -> list[str]:
    if plan.memory is None:
        return []
    from launcher.planning.memory import lines

    first, *rest = lines(plan.memory)
    return [_row("memory", f"estimate: {first}"), *(_row("", text) for text in rest)]


def _checkpoint_rows(plan: "Plan") -> list[str]:
    if plan.checkpoints is None:
        return []
    from launcher.planning.checkpoint_space import lines

    first, *rest = lines(plan.checkpoints)
    return [_row("checkpoints", f"estimate: {first}"), *(_row("", text) for text in rest)]


def _row(label: str, text: str) -> str:
    return f"{coloured(f'{label:12}', 'bold', sys.stdout)} {text}".rstrip()
