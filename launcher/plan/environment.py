"""The environment of a rank: what is set, by whom, and what loses.

Weakest first: image, the submitting shell (a short list, and what is passed on by name), cluster profile, recipe, user.
The image's values are known only in the job, the recipe's where it was run to check the configuration; the rest is
decided here.
"""

from collections.abc import Iterable, Mapping, Sequence

from launcher.errors import SpecError
from launcher.plan.model import Variable
from launcher.shared.names import RANK_VARIABLES, is_secret

# What any program needs to find its commands, its user and its language. Everything else that a login shell holds
# (PYTHONPATH, LD_LIBRARY_PATH, proxies, functions) makes runs differ between users, and is passed on only by name.
INHERITED = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "TZ", "USER")

# Set on srun's side by the scripts for step.sh, which turns them into the rank's own.
HANDED_OVER = ("LAUNCHER_ATTEMPT", "LAUNCHER_MASTER_ADDR")


def decide(
    *,
    cluster: str,
    profile: Mapping[str, str],
    host: Mapping[str, str],
    inherit: Iterable[str],
    recipe: Mapping[str, str],
    user: Sequence[str],
    shell: Mapping[str, str],
) -> tuple[Variable, ...]:
    """All variables of a rank, sorted by name. `user` holds `NAME=VALUE` and `NAME`. Raises SpecError."""
    variables: dict[tuple[str, str], Variable] = {}
    for name in sorted({*INHERITED, *inherit}):
        if name in shell:
            variables["task", name] = Variable(name, None, "the submitting shell", "inherited")
    for name, value in profile.items():
        _add(variables, Variable(name, value, f"cluster profile {cluster}", "task"))
    for name, value in host.items():
        variables["host", name] = Variable(name, value, f"cluster profile {cluster}", "host")
    for name, value in recipe.items():
        if name not in RANK_VARIABLES and not is_secret(name):
            _add(variables, Variable(name, value, "the recipe's env_vars", "task"))
    for entry in user:
        name, given, value = entry.partition("=")
        if given:
            _add(variables, Variable(name, value, "--env", "task"))
        elif name in shell:
            _add(variables, Variable(name, None, "--env, from the submitting shell", "inherited"))
        else:
            raise SpecError(
                f"--env {name} passes on the value of this shell, which has none",
                hint=f"Set it first (export {name}=...), or give a value: --env {name}=VALUE.",
            )
    return tuple(variables[key] for key in sorted(variables))


def _add(variables: dict[tuple[str, str], Variable], new: Variable) -> None:
    old = variables.get(("task", new.name))
    beaten: tuple[tuple[str, str], ...] = ()
    if old is not None and (old.value is None or old.value != new.value):
        beaten = ((old.origin, "(value not shown)" if old.value is None else old.value), *old.beaten)
    variables["task", new.name] = Variable(new.name, new.value, new.origin, new.place, beaten)


def beats_image(variables: Iterable[Variable]) -> tuple[str, ...]:
    """Names for pyxis' --container-env: what was asked for by name. PATH, HOME and the like are the image's own."""
    names = {variable.name for variable in variables if variable.place == "inherited"} - {*INHERITED}
    return tuple(sorted({*names, *HANDED_OVER}))


def passed_on(variables: Iterable[Variable]) -> tuple[str, ...]:
    """Names for srun's --export: inherited ones, those of srun's side, and what the scripts hand over."""
    names = {variable.name for variable in variables if variable.place in ("inherited", "host")}
    return tuple(sorted({*names, *HANDED_OVER}))
