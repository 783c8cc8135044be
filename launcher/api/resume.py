"""Continuing a run: which one is meant, whether it can go on, and what it is asked for again."""

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypedDict

from launcher._util.errors import ConfigError, DiskError, RequestError
from launcher._util.ownership import require_trusted
from launcher.api.locate import find_run
from launcher.config.load import parse
from launcher.config.request import Request, assignment_key
from launcher.contract.records.request import OverrideRecord, RecipeRequest
from launcher.contract.validation import ContractError, conforming
from launcher.discovery.recipe import MLM
from launcher.planning import assignments
from launcher.planning.profiler.model import OPTIONS
from launcher.rundir import RunDirectory
from launcher.rundir.lease import end_lease
from launcher.rundir.locks import submit_lock


class _EarlierLayout(TypedDict):
    nodes: int
    ranks_per_node: int


class _EarlierArgv(TypedDict):
    recipe: RecipeRequest
    overrides: list[OverrideRecord]


class _EarlierPlan(TypedDict):
    """What a resumed run reads of the plan of its last attempt."""

    request: dict[str, Any]
    recipe: str
    layout: _EarlierLayout
    argv: _EarlierArgv


_ITERATIONS = ("train.train_iters=", "train-iters=")
_OF_ONE_SUBMISSION = ("hold", "begin", "deadline", "dependency")
"""Options of sbatch that say when one job starts. They are not repeated by --resume."""


def find_resumed(stated: dict[str, Any]) -> tuple[RunDirectory, bool]:
    """Return the run that `stated` names with `resume`, and whether a job is to be queued behind the one that it has.

    The recipe is known then, so an assignment in its place is moved to where it belongs in `stated`. Raises
    RequestError for a run that cannot go on, or a recipe beside it.
    """
    run = find_run(stated["resume"], stated.get("run_root"))
    require_trusted(run.path, shared=False, hint="Only the user who made a run continues it.")
    if stated.get("attempts") and _is_live(run):
        from launcher.watch.cancel import copied_from

        if (original := copied_from(run)) is not None:
            raise RequestError(
                f"this directory is a copy of {original}, whose job it names",
                where=str(run.path),
                hint=f"Queue jobs behind that one: launcher submit --resume {original} --attempts N",
            )
        _require_unchanged(stated)
        return run, True
    _require_resumable(run)
    if "=" in str(stated.get("recipe", "")):
        stated["assignments"] = (stated.pop("recipe"), *stated.get("assignments", ()))
    elif "recipe" in stated:
        raise RequestError(
            "--resume continues a run with its own recipe, from its own code/",
            where=stated["recipe"],
            hint="Leave the recipe out; overrides may follow.\n"
            "For another recipe start a new run with --allow-checkpoint-load.",
        )
    for name in ("ship", "entrypoint"):
        if stated.get(name):
            raise RequestError(
                f"--resume continues a run with its own code, and --{name} would change nothing",
                where=f"--{name}",
                hint="Leave it out, or start a new run with --allow-checkpoint-load.",
            )
    _require_something_left(run, stated)
    return run, False


def continued_request(run: RunDirectory, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the run was asked for, with what is stated now in its place; its code is the first attempt's."""
    plan = _checked_plan(run)
    # What was profiled then need not be profiled again.
    before = {key: value for key, value in plan["request"].items() if key not in OPTIONS}
    new = stated.get("assignments", ())
    # These may have come from the allocation of that time: a run does not change its size by itself.
    layout = plan["layout"]
    before = {"nodes": layout["nodes"], "gpus_per_node": layout["ranks_per_node"], **before}
    earlier = [text for text in before.get("assignments", ()) if not _is_of_one_submission(assignment_key(text))]
    if isinstance(options := before.get("sbatch"), dict):
        before["sbatch"] = {key: value for key, value in options.items() if key not in _OF_ONE_SUBMISSION}
    merged = {**before, **stated, "assignments": assignments.merge_for_resume(earlier, new)}
    if words := stated.get("mlm_arguments"):
        # Megatron-LM takes the last of an argument that is given twice.
        merged["mlm_arguments"] = (*before.get("mlm_arguments", ()), *words)
    recipe = plan["argv"]["recipe"]
    if "path" in recipe:
        merged["recipe"] = f"{run.code / recipe['path']}:{recipe['function']}"
    if merged.get("entrypoint"):
        merged["entrypoint"] = str(run.code / "entrypoint.py")
    return merged


def _is_of_one_submission(key: str) -> bool:
    """Return whether an assignment says where one submission begins, or what it profiles."""
    return key == "checkpoint.ckpt_step" or key.partition(".")[0] == "profiling"


def _checked_plan(run: RunDirectory) -> _EarlierPlan:
    """Return the plan of the run's last attempt. Raises DiskError for one of another form."""
    try:
        plan = conforming(run.plan, _EarlierPlan, unknown_keys=True)
        parse(Request, plan["request"], where="request")
    except (ContractError, ConfigError) as error:
        raise DiskError(f"the plan of the run is damaged: {error}", where=str(run.plan_file)) from None
    return plan


def _require_something_left(run: RunDirectory, stated: Mapping[str, Any]) -> None:
    """Refuse a finished run unless something is changed, and unless its number of iterations has grown if stated."""
    attempt = run.latest_attempt()
    result = attempt.result if attempt else None
    if result is None or result["outcome"] != "finished":
        return
    words = tuple(stated.get("mlm_arguments", ()))
    changes = (*stated.get("assignments", ()), *words)
    wanted = [text.partition("=")[2] for text in changes if text.lstrip("+-").startswith(_ITERATIONS)]
    wanted += [value for option, value in itertools.pairwise(words) if option == "--train-iters"]
    done = result["iteration"] or 0
    if changes and not (wanted and wanted[-1].isdigit() and int(wanted[-1]) <= done):
        return
    more = f"-- --train-iters {2 * done}" if run.plan["recipe"].startswith(MLM) else f"train.train_iters={2 * done}"
    raise RequestError(
        f"the run has finished its {done} iterations, so there is nothing to continue",
        where=str(run.path),
        hint=f"Ask for more, such as: {more}",
    )


@contextmanager
def starting_alone(run: RunDirectory | None, *, behind: bool = False) -> Iterator[tuple[int, ...]]:
    """Keep other launchers from starting an attempt of the run that is continued; nothing for a new run (None).

    Between the plan and this moment another launcher may have started one: that is looked at again. The lease of an
    owner that has ended is put aside, and what killed launchers have left is removed. With `behind` the run's job goes
    on, and keeps its lease. Yields the descriptors of the locks, for programs that are to hold them. Raises
    RequestError, DiskError.
    """
    if run is None:
        yield ()
        return
    with submit_lock(run) as lock:
        if not behind:
            _require_resumable(run)
            end_lease(run)
            run.remove_temporary_files()
        yield (lock,)


def _is_live(run: RunDirectory) -> bool:
    """Return whether the run has a job that waits or runs."""
    from launcher._util.shell import LocalShell
    from launcher.watch.status import status_of

    return not status_of([run], LocalShell())[0][0].phase.over


_OF_A_SUCCESSOR = {"resume", "attempts", "run_root", "recipe"}


def _require_unchanged(stated: Mapping[str, Any]) -> None:
    """Refuse to queue a job behind a live one with another request: that one may begin again, and would find it."""
    other = [key for key, value in stated.items() if key not in _OF_A_SUCCESSOR and value not in (None, (), {})]
    if other or stated.get("recipe"):
        raise RequestError(
            "a job behind one that waits or runs continues with what the run was asked for, and cannot change it",
            where=", ".join(f"--{key.replace('_', '-')}" for key in other) or str(stated["recipe"]),
            hint="Leave it out, or wait for the end of the run and then resume it with the change.",
        )


def live_jobs(run: RunDirectory) -> tuple[str, ...]:
    """Return the jobs behind which a successor is queued: the run's own, and the last that is queued behind it.

    Raises RequestError where the run has ended meanwhile, or has no batch job here.
    """
    from launcher._util.shell import LocalShell
    from launcher.watch.status import status_of

    status = status_of([run], LocalShell())[0][0]
    start = status.run_state.start
    if status.phase.over or start is None:
        raise RequestError("the run has ended meanwhile", where=str(run.path), hint="Call the same command again.")
    if status.job is None or start.how == "launched" or status.job_cluster is not None or status.job_proven is False:
        raise RequestError(
            f"the run has no batch job here behind which another one could be queued: {status.detail}",
            where=str(run.path),
            hint="Wait for its end, and then resume it.",
        )
    queued = [each.job for each in status.run_state.later if each.job]
    return (status.job, *queued[-1:])


def _require_resumable(run: RunDirectory) -> None:
    """Refuse a run that is not over or has saved nothing; the job judges whether a checkpoint is whole."""
    from launcher._util.shell import LocalShell
    from launcher.watch.status import status_of

    plan = _checked_plan(run)
    status = status_of([run], LocalShell())[0][0]
    if not status.phase.over:
        raise RequestError(
            f"the run is {status.phase.value}: {status.detail}",
            where=str(run.path),
            hint="Wait for its end, or end it: launcher cancel --checkpoint.",
        )
    elsewhere = any(override["key"] in ("checkpoint.save", "checkpoint.load") for override in plan["argv"]["overrides"])
    if not elsewhere and not any(run.checkpoints.glob("iter_*")):
        raise RequestError(
            "the run has saved no checkpoint, so there is nothing to continue from",
            where=str(run.checkpoints),
            hint="Start it anew, without --resume.",
        )
