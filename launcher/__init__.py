"""Megatron Launcher: one recipe, run locally, in a Slurm allocation or as a batch job.

The Python API (`launcher help python-api`): `plan`, `run`, `submit`, `runs`, the classes `Plan` and `Run`, the errors.
A name is imported when it is first used; `import launcher` alone imports nothing else.
"""

# Type checkers take it for True, as they do typing.TYPE_CHECKING, which would have to be imported.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher._util.errors import (
        CommandError,
        ConfigError,
        DiskError,
        ImageError,
        InternalError,
        KilledProgramError,
        LauncherError,
        LayoutError,
        MissingProgramError,
        OutsideError,
        OverrideError,
        PrerequisiteError,
        RecipeError,
        RequestError,
        SlurmError,
    )
    from launcher._util.version import __version__
    from launcher.api.prepare_plan import PreparedPlan as Plan
    from launcher.api.scripting import Run, plan, run, runs, submit

__all__ = [
    "CommandError",
    "ConfigError",
    "DiskError",
    "ImageError",
    "InternalError",
    "KilledProgramError",
    "LauncherError",
    "LayoutError",
    "MissingProgramError",
    "OutsideError",
    "OverrideError",
    "Plan",
    "PrerequisiteError",
    "RecipeError",
    "RequestError",
    "Run",
    "SlurmError",
    "__version__",
    "plan",
    "run",
    "runs",
    "submit",
]

_API = {
    "__version__": ("launcher._util.version", "__version__"),
    "Plan": ("launcher.api.prepare_plan", "PreparedPlan"),
    **{name: ("launcher.api.scripting", name) for name in ("Run", "plan", "run", "runs", "submit")},
    **{name: ("launcher._util.errors", name) for name in __all__ if name.endswith("Error")},
}


def __getattr__(name: str) -> object:
    """Import a name of the API when it is first used."""
    if name not in _API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _API[name]
    value: object = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the names of the API, imported or not."""
    return sorted({*globals(), *__all__})
