"""The configuration, resolved and validated in one process with the job's world size: no rendezvous, no process group.

`python3 entrypoint.py --check-config` reads a request from standard input and answers on standard output (`main`); the
entrypoint asks the same of every rank before it trains (`validate`).
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
from ..data import data_files
from ..errors import UserError
from ..model import weights
from ..watch import stdout_channel
from . import config_summary, notes, sizes, validation_errors

_ONE_PROCESS = {"RANK": "0", "LOCAL_RANK": "0", "NODE_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
_SCALARS = (bool, int, float, str)


@dataclass(frozen=True)
class Checked:
    """A configuration as Bridge will train with it (a copy), and what its user should know."""

    config: Any
    warnings: tuple[str, ...]


def main() -> int:
    """Answer one request (the --check-config contract); returns the exit status, 0 or 2."""
    with stdout_channel.on_stdout() as out:
        try:
            reply = answer(read_request(sys.stdin.read()))
        except UserError as error:
            reply = {"ok": False, "error": error.message, "where": error.where, "hint": error.hint}
        json.dump(reply, out)
        out.write("\n")
    return 0 if reply["ok"] else 2


def validate(config: Any, world_size: int, overrides: Sequence[str] = ()) -> Checked:
    """Bridge's own validation, as pretrain() will do it, on a copy: `config` stays as it is.

    `overrides` are those that were applied: a value that Bridge changes again is among the warnings. Raises UserError
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
    """The reply to a good request; makes this process the job's rank 0 and raises UserError for a wrong one."""
    config, on_cpu = configured(request, lambda load: load())
    resumed = request.get("resumed")
    if resumed and config.peft is None:
        config.checkpoint.load = resumed
    weights.choose(config, request["options"].get("init"), job=bool(resumed) and config.peft is None, look=not resumed)
    if on_cpu:
        from .. import cpu

        config = cpu.prepare(config)
    profiler = request["options"].get("profiler")
    if profiler:
        from ..profiling.prepare import check_profiler

        check_profiler(config, profiler, "cpu" if on_cpu else "gpu")
    checked = validate(config, int(request["world_size"]), request["overrides"])
    told = {"notes": list(notes.take()), "warnings": list(checked.warnings)}
    return {"ok": True, "resolved": resolved(checked.config), **told}


def configured(request: Mapping[str, Any], loaded: Callable[[Callable[[], Any]], Any]) -> tuple[Any, bool]:
    """The configuration with its overrides, and whether the job computes on CPU; this process becomes its rank 0.

    `loaded` is given what runs the recipe, and returns what that returned. Raises UserError.
    """
    ranks = {"WORLD_SIZE": str(int(request["world_size"])), "LOCAL_WORLD_SIZE": str(request["ranks_per_node"])}
    os.environ.update(_ONE_PROCESS, **ranks)
    from . import overrides as _overrides
    from . import recipe

    on_cpu = _enable_cpu_where_needed(request["options"].get("device", "auto"))
    config = loaded(lambda: recipe.load(request["recipe"], request["arguments"], Path.cwd()))
    return _overrides.apply(config, request["overrides"]), on_cpu


_DISPATCHER = ("moe_token_dispatcher_type", "moe_flex_dispatcher_backend", "moe_enable_deepep")


def resolved(config: Any) -> dict[str, Any]:
    """What a plan wants to know of a validated configuration."""
    model = sizes.transformer(config)
    names = (*sizes.PARALLEL, "expert_tensor_parallel_size")
    return {
        **{name: getattr(model, name, None) for name in names},
        "data_parallel_size": config.data_parallel_size,
        **{name: getattr(config.train, name) for name in ("global_batch_size", "micro_batch_size", "train_iters")},
        "seq_length": getattr(config.model, "seq_length", None),
        **{name: getattr(model, name, None) for name in _DISPATCHER},
        "env_vars": {name: str(value) for name, value in getattr(config, "env_vars", {}).items()},
        "config": config_summary.facts(config, model),
    }


def _enable_cpu_where_needed(device: str) -> bool:
    """Make Bridge importable here; True where the job itself computes on CPU, so that its configuration must suit that.

    A login node has no GPU, and the job's nodes do: only a profile that says "cpu" means it for the job too.
    """
    import torch

    if device != "cpu" and torch.cuda.is_available():
        return False
    from .. import cpu

    cpu.enable()
    return device == "cpu"


def read_request(text: str) -> dict[str, Any]:
    """The request on standard input, what it leaves out filled in. Raises UserError."""
    try:
        request = json.loads(text)
        missing = [key for key in ("recipe", "world_size", "ranks_per_node") if key not in request]
    except (ValueError, TypeError) as error:
        raise UserError(f"--check-config reads one JSON object from standard input: {error}") from None
    if missing:
        raise UserError(f"--check-config was given a request without {', '.join(missing)}")
    return {"arguments": {}, "overrides": [], "options": {}, **request}


def _changed(before: Any, after: Any, overrides: Sequence[str]) -> Iterator[str]:
    """Sentences for overrides whose value Bridge replaced: accepted, and yet without effect."""
    for text in overrides:
        key = values.parse(text).key
        given, final = _at(before, key), _at(after, key)
        comparable = isinstance(given, _SCALARS) and isinstance(final, (*_SCALARS, type(None)))
        if comparable and given != final:
            yield f"{key}={values.show(given)} has no effect: Megatron Bridge makes it {values.show(final)}"


def _at(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = config.get(name) if isinstance(config, dict) else getattr(config, name, None)
    return config


@contextlib.contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """`os.environ` with `more`; all as before at the end (Bridge's validation sets the recipe's variables)."""
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
