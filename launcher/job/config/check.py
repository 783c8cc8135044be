"""The configuration, resolved and validated in one process for the job's world size, without any process group.

`python3 entrypoint.py --check-config` reads a request from standard input and answers on standard output (`main`).
Every rank calls `validate` before it trains.
"""

import contextlib
import copy
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...contract import values
from .. import sources
from ..data import data_files
from ..errors import UserError
from ..model import weights
from ..watch import stdout_channel
from . import config_summary, notes, sizes, validation_errors

_ONE_PROCESS = {"RANK": "0", "LOCAL_RANK": "0", "NODE_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
_SCALARS = (bool, int, float, str)


@dataclass(frozen=True)
class Checked:
    """A copy of the configuration as Bridge will train it, and warnings for the user."""

    config: Any
    warnings: tuple[str, ...]


def main() -> int:
    """Answer one request (the --check-config contract); return the exit status, 0 or 2."""
    with stdout_channel.on_stdout() as out:
        text = sys.stdin.read()
        try:
            given = reply(read_request(text))
        except UserError as error:
            given = _refusal(error)
        json.dump(given, out)
        out.write("\n")
    return 0 if given["ok"] else 2


def reply(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the reply to a request; `ok` is False for a wrong one, with the reason."""
    try:
        return answer(request)
    except UserError as error:
        return _refusal(error)


def _refusal(error: UserError) -> dict[str, Any]:
    return {"ok": False, "error": error.message, "where": error.where, "hint": error.hint}


def validate(config: Any, world_size: int, overrides: Sequence[values.Override] = ()) -> Checked:
    """Run Bridge's own validation, as pretrain() will, on a copy; `config` stays unchanged.

    `overrides` are those that were applied: if Bridge changes such a value again, a warning says so. Raises UserError
    with one sentence, with the numbers, for a configuration that cannot be trained.
    """
    sizes.check(config, world_size)
    from megatron.bridge.training.config import runtime_config_update

    final = copy.deepcopy(config)
    with _environment({"WORLD_SIZE": str(world_size)}), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            runtime_config_update(final)
        except Exception as error:  # assertions, ValueErrors, and what a wrong type makes Megatron raise
            raise validation_errors.explain(error) from error
    sizes.check_split_of_experts(config, final, world_size)
    data_files.check_token_ids(final)
    said = [str(one.message) for one in caught if not issubclass(one.category, (ImportWarning, ResourceWarning))]
    return Checked(final, tuple(dict.fromkeys([*_changed(config, final, overrides), *said])))


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is resolved, with this process as the job's rank 0. Raises UserError for a wrong request.

    A request with `values` is answered with all plain values of the recipe, by key, before anything is validated.
    """
    config, on_cpu = build_config(request, lambda load: load())
    if request.get("values"):
        return {"ok": True, "values": config_summary.plain_values(config)}
    resumed = request.get("resumed")
    if resumed and config.peft is None:
        config.checkpoint.load = resumed
    weights.choose(
        config, request["options"].get("init"), job=bool(resumed) and config.peft is None, check_files=not resumed
    )
    if on_cpu:
        from .. import cpu

        config = cpu.prepare(config)
    profiler = request["options"].get("profiler")
    if profiler:
        from ..profiling.prepare import check_profiler

        check_profiler(config, profiler, "cpu" if on_cpu else "gpu")
    from . import overrides

    checked = validate(config, int(request["world_size"]), overrides.read(request["overrides"]))
    said = {"notes": list(notes.take()), "warnings": list(checked.warnings)}
    return {"ok": True, "resolved": resolved(checked.config), **said}


def build_config(request: Mapping[str, Any], run_recipe: Callable[[Callable[[], Any]], Any]) -> tuple[Any, bool]:
    """Return the configuration with its overrides, and whether the job computes on CPU.

    This process becomes rank 0 of the job. `run_recipe` gets a function that runs the recipe, and returns its result.
    Raises UserError.
    """
    sources.use_core(request["options"])
    sources.require_stack()
    ranks = {"WORLD_SIZE": str(int(request["world_size"])), "LOCAL_WORLD_SIZE": str(request["ranks_per_node"])}
    os.environ.update(_ONE_PROCESS, **ranks)
    from . import overrides as _overrides
    from . import recipe

    on_cpu = _enable_cpu_where_needed(request["options"].get("device", "auto"))
    config = run_recipe(lambda: recipe.load(request["recipe"], request["arguments"], Path.cwd()))
    return _overrides.apply(config, _overrides.read(request["overrides"])), on_cpu


_DISPATCHER = ("moe_token_dispatcher_type", "moe_flex_dispatcher_backend", "moe_enable_deepep")


def resolved(config: Any) -> dict[str, Any]:
    """Return what a plan needs from a validated configuration."""
    model = sizes.transformer(config)
    names = (*sizes.PARALLEL, "expert_tensor_parallel_size")
    return {
        **{name: getattr(model, name, None) for name in names},
        "data_parallel_size": config.data_parallel_size,
        **{name: getattr(config.train, name) for name in ("global_batch_size", "micro_batch_size", "train_iters")},
        "seq_length": getattr(config.model, "seq_length", None),
        **{name: getattr(model, name, None) for name in _DISPATCHER},
        "env_vars": {name: str(value) for name, value in getattr(config, "env_vars", {}).items()},
        "config": config_summary.summarize(config, model),
    }


def _enable_cpu_where_needed(device: str) -> bool:
    """Make Bridge importable here; return whether the job itself computes on CPU.

    A login node has no GPU although the job's nodes do, so only a profile with the device "cpu" means CPU for the job.
    """
    import torch

    if device != "cpu" and torch.cuda.is_available():
        return False
    from .. import cpu

    cpu.enable()
    return device == "cpu"


def read_request(text: str) -> dict[str, Any]:
    """Return the request from standard input with defaults filled in. Raises UserError."""
    try:
        request = json.loads(text)
        missing = [key for key in ("recipe", "world_size", "ranks_per_node") if key not in request]
    except (ValueError, TypeError) as error:
        raise UserError(f"standard input is not the JSON object that --check-config reads: {error}") from None
    if missing:
        raise UserError(f"the request on standard input lacks {', '.join(missing)}")
    return {"arguments": {}, "overrides": [], "options": {}, **request}


def _changed(before: Any, after: Any, overrides: Sequence[values.Override]) -> Iterator[str]:
    """Yield a sentence for each override whose value Bridge replaced, so that it has no effect."""
    for override in overrides:
        key = override.key
        given, final = _at(before, key), _at(after, key)
        comparable = isinstance(given, _SCALARS) and isinstance(final, (*_SCALARS, type(None)))
        if comparable and given != final:
            yield f"{key}={values.show(given)} has no effect: Megatron Bridge changes it to {values.show(final)}"


def _at(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = config.get(name) if isinstance(config, dict) else getattr(config, name, None)
    return config


@contextlib.contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """Add `more` to `os.environ` inside the block, and restore all of it (Bridge's validation sets variables)."""
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
