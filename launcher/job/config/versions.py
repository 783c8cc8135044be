"""Differences between releases of Megatron Bridge, 0.2.2 to 0.6.x, where this half of the launcher touches it.

| what | until | from | here |
| --- | --- | --- | --- |
| recipe functions take keywords | 0.3.0 (text models), 0.5.x (vision) | 0.3.1, 0.6.0: none | `old_keywords` |
| names of recipes | `llama3_8b_pretrain_config` | 0.6.0: name GPUs and precision too, the old ones stay | nothing |
| `config.env_vars` | absent | 0.6.0 | `env_vars` |
| eval_interval, eval_iters | `config.train` | 0.4.0: `config.validation` | `contract/key_aliases.py` |
| length of a sample | `dataset.sequence_length` | also `dataset.seq_length` | `contract/key_aliases.py` |
| packing of samples | `packed_sequence_specs` | `offline_packing_specs` | `contract/key_aliases.py` |
| experts where ETP is not set | split by TP too | 0.6: by EP alone | `sizes.check_split_of_experts` |
| callbacks of pretrain() | absent | 0.3.0 | `require_callbacks` |
| events: data opened, checkpoint saved | absent | 0.6 | `listen` |
| what moves the tracker | as below | the same | `before_trackers` |
| what the loop calls to save | `train.save_checkpoint` | 0.6: `checkpointing.save_checkpoint` | `before_saves` |
| one function around each save | `save_checkpoint_and_time` | the same up to 0.6.2 | `around_saves` |

Nothing here compares versions: functions are asked for their signature and sections for their fields. Keywords and what
they set are those of the recipe functions of 0.3.0 (`*CommonKwargs`, `*FinetuneKwargs`).
"""

import contextlib
import functools
import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...contract import values
from ..errors import UserError
from ..model import hub
from . import legacy_kwargs, notes

_RECIPES = "megatron.bridge.recipes"


def env_vars(config: Any) -> Mapping[str, Any]:
    """Return the environment variables that a recipe sets; empty before Bridge 0.6.0."""
    return getattr(config, "env_vars", None) or {}


def require_callbacks(pretrain: Callable[..., Any]) -> None:
    """Refuse a pretrain() without callbacks: such a run would report nothing and could not be stopped.

    Raises UserError.
    """
    if "callbacks" not in inspect.signature(pretrain).parameters:
        raise UserError("this Megatron Bridge has no callbacks; the launcher needs Megatron Bridge 0.3.0 or later")


def listen(manager: Any, name: str, listener: Callable[[Any], None]) -> None:
    """Register `listener` for an event of Bridge's CallbackManager, if this release has that event.

    In a release without the event `on_checkpoint_save`, the functions that save are wrapped instead.
    """
    from megatron.bridge.training import callbacks

    if name in callbacks.VALID_EVENTS:
        manager.register(name, listener)
    elif name == "on_checkpoint_save":
        from megatron.bridge.training import pretrain, train

        for module in (train, pretrain):
            module.save_checkpoint = _followed_by(module.save_checkpoint, listener)


def before_saves(listener: Callable[[Any], None]) -> None:
    """Call `listener` with Bridge's state before each save: the functions that save are wrapped.

    In 0.6.2 the checkpoint manager calls that of `checkpointing`, in 0.3.1 the loop calls its own reference.
    """
    from megatron.bridge.training import checkpointing, pretrain, train

    for module in (checkpointing, pretrain, train):
        if hasattr(module, "save_checkpoint"):
            module.save_checkpoint = _preceded_by(module.save_checkpoint, listener)


def before_trackers(check: Callable[[], None]) -> None:
    """Call `check` on the rank that moves the tracker before it does: at the end of a save, also an asynchronous one.

    A save asks for the tracker's name right before it moves it; an asynchronous one later runs a list of functions.
    """
    from megatron.bridge.training import checkpointing

    name = checkpointing.get_checkpoint_tracker_filename
    schedule = checkpointing.schedule_async_save

    @functools.wraps(name)
    def checked_name(*arguments: Any, **keywords: Any) -> Any:
        check()
        return name(*arguments, **keywords)

    @functools.wraps(schedule)
    def checked_schedule(state: Any, request: Any) -> Any:
        return schedule(state, request._replace(finalize_fns=[check, *request.finalize_fns]))

    checkpointing.get_checkpoint_tracker_filename = checked_name
    checkpointing.schedule_async_save = checked_schedule


def _preceded_by(save: Callable[..., Any], listener: Callable[[Any], None]) -> Callable[..., Any]:
    @functools.wraps(save)
    def save_checkpoint(state: Any, *arguments: Any, **keywords: Any) -> Any:
        listener(state)
        return save(state, *arguments, **keywords)

    return save_checkpoint


def around_saves(before: Callable[[], None], after: Callable[[], None]) -> bool:
    """Call `before` and `after` around each save of the training loop; return False where no function is known."""
    from megatron.bridge.training import train

    save = getattr(train, "save_checkpoint_and_time", None)
    if save is None:
        return False

    @functools.wraps(save)
    def save_checkpoint_and_time(*arguments: Any, **keywords: Any) -> Any:
        before()
        try:
            return save(*arguments, **keywords)
        finally:
            after()

    train.save_checkpoint_and_time = save_checkpoint_and_time
    return True


def before_failure_cleanup(listener: Callable[[BaseException], None]) -> None:
    """Call `listener` with the error of a failed training before Bridge cleans up after it.

    Bridge 0.6.2 aborts its process groups then, which with NCCL may never return. 0.3.1 has no such function.
    """
    from megatron.bridge.training import pretrain

    cleanup = getattr(pretrain, "_cleanup_after_pretrain_failure", None)
    if cleanup is None:
        return

    @functools.wraps(cleanup)
    def noted(*arguments: Any, **keywords: Any) -> Any:
        error = sys.exc_info()[1]
        if error is not None:
            listener(error)
        return cleanup(*arguments, **keywords)

    pretrain._cleanup_after_pretrain_failure = noted


def _followed_by(save: Callable[..., Any], listener: Callable[[Any], None]) -> Callable[..., Any]:
    @functools.wraps(save)
    def save_checkpoint(state: Any, *arguments: Any, **keywords: Any) -> Any:
        result = save(state, *arguments, **keywords)
        listener(types.SimpleNamespace(state=state))
        return result

    return save_checkpoint


@contextlib.contextmanager
def old_keywords() -> Iterator[None]:
    """Let recipe functions of Bridge take, inside the block, the keywords that they took before 0.3.1.

    What a function still takes itself is passed on; the rest is applied to the configuration that it returns. A recipe
    that imported a function inside the block keeps the wrapped one.
    """
    replaced = list(_replace(_recipe_modules()))
    try:
        yield
    finally:
        for module, name, function in replaced:
            setattr(module, name, function)


def with_old_keywords(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the recipe function with the keywords of before 0.3.1; it raises UserError for any other."""
    parameters = inspect.signature(function).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return function  # it still takes any keyword

    @functools.wraps(function)
    def call(*arguments: Any, **given: Any) -> Any:
        old = {name: value for name, value in given.items() if name not in parameters}
        if not old:
            return function(*arguments, **given)
        _refuse_unknown(function.__name__, old, list(parameters), _caller())
        own = {name: value for name, value in given.items() if name in parameters}
        with hub.override_model(old.pop("hf_path", None)):
            config = function(*arguments, **own)
        legacy_kwargs.apply(config, old)
        names = ", ".join(name for name in given if name not in own)
        notes.add(
            f"{function.__name__}() takes no {names} in this Megatron Bridge: set in the configuration that it returns"
        )
        return config

    return call


def _refuse_unknown(name: str, old: Mapping[str, Any], own: list[str], where: str) -> None:
    known = [*own, *sorted(legacy_kwargs.KNOWN)]
    for keyword in old:
        if keyword not in legacy_kwargs.KNOWN:
            near = values.nearest(keyword, known)
            others = ", ".join([*near, *(one for one in known if one not in near)])
            raise UserError(
                f"{name}() has no keyword {keyword!r}; it has {others}",
                where=where,
                hint="set a field of the configuration that it returns instead: cfg.model.NAME = VALUE",
            )


def _caller() -> str:
    """Return the position of the recipe's own line that called a function of Bridge."""
    frame = sys._getframe(2)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _recipe_modules() -> list[Any]:
    """Return the modules of recipes that are loaded; none in a release without them."""
    try:
        importlib.import_module(_RECIPES)
    except ImportError:
        return []
    return [module for name, module in list(sys.modules.items()) if name.startswith(_RECIPES)]


def _replace(modules: list[Any]) -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    """Replace each recipe by a wrapped function; yield module, name and the original."""
    made: dict[Callable[..., Any], Callable[..., Any]] = {}
    for module in modules:
        for name, value in list(vars(module).items()):
            if not name.endswith("_config") or name.startswith("_") or not _is_recipe(value):
                continue
            made.setdefault(value, with_old_keywords(value))
            setattr(module, name, made[value])
            yield module, name, value


def _is_recipe(value: Any) -> bool:
    """Return whether a function makes a whole configuration; helpers such as default_squad_config() do not."""
    if not inspect.isfunction(value) or not (value.__module__ or "").startswith(_RECIPES):
        return False
    result = value.__annotations__.get("return")
    return getattr(result, "__name__", result) == "ConfigContainer"
