"""The environment of a rank: each variable with its origin, and with the values that it overrides.

Weakest first: image, the submitting shell (a short list, and what is passed on by name), the profile's network
(launcher/planning/network.py), the profile's [env], recipe, user. The recipe's values are known where it was run to
check the configuration. Of the short list the image's own values count, as with pyxis: the host's PATH is of no use in
a container.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from launcher._util.errors import ConfigError
from launcher.contract.variables import RANK_VARIABLES, is_secret
from launcher.planning.model import Variable

# Any program needs these to find its commands, its user and its language. The rest of a login shell's environment
# (PYTHONPATH, LD_LIBRARY_PATH, proxies, functions) makes runs differ between users, and is passed on only by name.
INHERITED = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "TZ", "USER")

_SHELL = "the submitting shell"
_HIDDEN = "(value not shown)"

# Set on srun's side by the scripts for step.sh, which turns them into the rank's own.
HANDED_OVER = ("LAUNCHER_ATTEMPT", "LAUNCHER_MASTER_ADDR")

# A container has its own values of these, or none: from the image, its user database, its login shell.
OF_THE_CONTAINER = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "USER")


def plan_environment(
    *,
    cluster: str,
    profile: Mapping[str, str],
    host: Mapping[str, str],
    inherit: Iterable[str],
    recipe: Mapping[str, str],
    user: Sequence[str],
    shell: Mapping[str, str],
    image: Mapping[str, str | None] | None = None,
    network: Iterable[Variable] = (),
) -> tuple[Variable, ...]:
    """Return all variables of a rank, sorted by name. `user` holds `NAME=VALUE` and `NAME`. Raises ConfigError.

    `network` holds what follows from the profile's fabric and from the dispatcher of experts.
    `image` holds the image's own variables, None in place of a secret-like one's value; without a container it is None.
    """
    variables: dict[tuple[str, str], Variable] = {}
    for name in sorted({*INHERITED, *inherit}):
        if name in shell:
            variables["task", name] = Variable(name, None, _SHELL, "inherited")
    for variable in network:
        _add(variables, variable)
    for name, value in profile.items():
        _add(variables, Variable(name, value, f"cluster profile {cluster}", "task"))
    for name, value in host.items():
        _add(variables, Variable(name, value, f"cluster profile {cluster}", "host"))
    for name, value in recipe.items():
        if name not in RANK_VARIABLES and not is_secret(name):
            _add(variables, Variable(name, value, "the recipe's env_vars", "task"))
    for entry in user:
        _add(variables, _from_option(entry, shell))
    if image is not None:
        _add_image(variables, image)
    return tuple(variables[key] for key in sorted(variables, key=lambda key: (key[1], key[0])))


def _from_option(entry: str, shell: Mapping[str, str]) -> Variable:
    """Parse `--env NAME=VALUE` or `--env NAME`."""
    name, given, value = entry.partition("=")
    if given:
        return Variable(name, value, "--env", "task")
    if name not in shell:
        raise ConfigError(
            f"--env {name} passes on the value of this shell, which has none",
            hint=f"Set it first (export {name}=...), or give a value: --env {name}=VALUE.",
        )
    return Variable(name, None, "--env, from the submitting shell", "inherited")


def _add_image(variables: dict[tuple[str, str], Variable], image: Mapping[str, str | None]) -> None:
    """Add the image's variables below everything else, except those of which a container's own value counts."""
    for name in sorted({*image, *OF_THE_CONTAINER}):
        above = variables.get(("task", name))
        value = image.get(name)
        if above is None and name in image:
            variables["image", name] = Variable(name, value, "the image", "image")
        elif above is not None and _yields(above, image):
            origin = "the image" if name in image else "the container's own"
            variables["image", name] = Variable(name, value, origin, "image", ((above.origin, _HIDDEN),))
        elif above is not None and name in image and (value is None or above.value != value):
            overridden = (*above.overridden, ("the image", _HIDDEN if value is None else value))
            variables["task", name] = dataclasses.replace(above, overridden=overridden)


def _yields(inherited: Variable, image: Mapping[str, str | None]) -> bool:
    """Whether the container's value overrides this inherited one: every task gets it, and no option names it."""
    return _is_standard(inherited) and (inherited.name in image or inherited.name in OF_THE_CONTAINER)


def _is_standard(variable: Variable) -> bool:
    return variable.scope == "inherited" and variable.origin == _SHELL and variable.name in INHERITED


def _add(variables: dict[tuple[str, str], Variable], new: Variable) -> None:
    key = ("host" if new.scope == "host" else "task", new.name)
    old = variables.get(key)
    overridden: tuple[tuple[str, str], ...] = ()
    if old is not None and (old.value is None or old.value != new.value):
        overridden = ((old.origin, _HIDDEN if old.value is None else old.value), *old.overridden)
    variables[key] = Variable(new.name, new.value, new.origin, new.scope, overridden)


def overrides_image(variables: Iterable[Variable]) -> tuple[str, ...]:
    """Return the names of variables that override the image's: those passed on by name. It keeps PATH, HOME etc."""
    names = {each.name for each in variables if each.scope == "inherited" and not _is_standard(each)}
    return tuple(sorted({*names, *HANDED_OVER}))


def passed_on(variables: Iterable[Variable]) -> tuple[str, ...]:
    """Return the names for srun's --export: inherited ones, those of srun's side, and what the scripts hand over."""
    names = {variable.name for variable in variables if variable.scope in ("inherited", "host")}
    return tuple(sorted({*names, *HANDED_OVER}))
