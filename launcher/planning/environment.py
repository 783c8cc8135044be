"""The environment of a rank: each variable with its origin, and with the values that it overrides.

Weakest first: image, the submitting shell (a short list, and what is passed on by name), the profile's network
(launcher/planning/network.py), the profile's [env], recipe, user. The recipe's values are known where it was run to
check the configuration. Of the short list the image's own values count, as with pyxis: the host's PATH is of no use in
a container.

A profile may also remove a variable, put a directory in front of a list such as LD_LIBRARY_PATH, and source a file of
the container: Google's machines need the last two. What is set counts more than what a sourced file sets.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from launcher._util.errors import ConfigError
from launcher.config.cluster import Cluster
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


def of_profile(cluster: Cluster, *, container: bool) -> tuple[Variable, ...]:
    """Return the profile's variables, the weakest operation of a name first. Only a container has files to source."""
    origin = f"cluster profile {cluster.name}"
    return (
        *(Variable(file, None, origin, "task", operation="source") for file in cluster.env_source if container),
        *(Variable(name, None, origin, "task", operation="unset") for name in cluster.env_unset),
        *(Variable(name, value, origin, "task", operation="prepend") for name, value in cluster.env_prepend.items()),
        *(Variable(name, value, origin, "task") for name, value in cluster.env.items()),
        *(Variable(name, value, origin, "host") for name, value in cluster.host_env.items()),
    )


def plan_environment(
    *,
    profile: Iterable[Variable],
    inherit: Iterable[str],
    recipe: Mapping[str, str],
    user: Sequence[str],
    expand: Sequence[str] = (),
    shell: Mapping[str, str],
    image: Mapping[str, str | None] | None = None,
    network: Iterable[Variable] = (),
) -> tuple[Variable, ...]:
    """Return all variables of a rank, sorted by name. `user` holds `NAME=VALUE` and `NAME`. Raises ConfigError.

    `expand` names those of `user` whose values refer to variables of the task.

    `network` holds what follows from the profile's fabric and from the dispatcher of experts.
    `profile` holds what `of_profile` returns.
    `image` holds the image's own variables, None in place of a secret-like one's value; without a container it is None.
    """
    variables: dict[tuple[str, str], Variable] = {}
    for name in sorted({*INHERITED, *inherit}):
        if name in shell:
            variables["task", name] = Variable(name, None, _SHELL, "inherited")
    for variable in network:
        _add(variables, variable)
    for variable in profile:
        _add(variables, variable)
    for name, value in recipe.items():
        if name not in RANK_VARIABLES and not is_secret(name):
            _add(variables, Variable(name, value, "the recipe's env_vars", "task"))
    _require_values(expand, user)
    for entry in user:
        _add(variables, _from_option(entry, expand, shell))
    if image is not None:
        _add_image(variables, image)
    return tuple(variables[key] for key in sorted(variables, key=lambda key: (key[1], key[0])))


def _from_option(entry: str, expand: Sequence[str], shell: Mapping[str, str]) -> Variable:
    """Parse `--env NAME=VALUE` or `--env NAME`."""
    name, given, value = entry.partition("=")
    if given:
        return Variable(name, value, "--env", "task", expand=name in expand)
    if name not in shell:
        value = "" if is_secret(name) else f", or give a value: --env {name}=VALUE"
        raise ConfigError(
            f"--env {name} passes on the value of this shell, which has none",
            hint=f"Set it first (export {name}=...){value}.",
        )
    return Variable(name, None, "--env, from the submitting shell", "inherited")


def _require_values(expand: Sequence[str], user: Sequence[str]) -> None:
    """Raise ConfigError for a name whose variable --env does not give a value."""
    given = {entry.partition("=")[0] for entry in user if "=" in entry}
    for name in expand:
        if name not in given:
            example = f"--env '{name}=/a:${name}'"
            raise ConfigError(f"--env gives {name} no value", where="--expand-env", hint=f"Such as: {example}.")


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
        elif above is not None and above.operation == "prepend":
            pass  # the image's list follows
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
    if old is not None and (old.value is None or (old.operation, old.value) != (new.operation, new.value)):
        overridden = ((old.origin, _weaker(old)), *old.overridden)
    variables[key] = dataclasses.replace(new, overridden=overridden)


def _weaker(old: Variable) -> str:
    if old.operation == "unset":
        return "(removed)"
    if old.value is None:
        return _HIDDEN
    return f"{old.value}:..." if old.operation == "prepend" else old.value


def overrides_image(variables: Iterable[Variable]) -> tuple[str, ...]:
    """Return the names of variables that override the image's: those passed on by name. It keeps PATH, HOME etc."""
    names = {each.name for each in variables if each.scope == "inherited" and not _is_standard(each)}
    return tuple(sorted({*names, *HANDED_OVER}))


def passed_on(variables: Iterable[Variable]) -> tuple[str, ...]:
    """Return the names for srun's --export: inherited ones, those of srun's side, and what the scripts hand over."""
    names = {variable.name for variable in variables if variable.scope in ("inherited", "host")}
    return tuple(sorted({*names, *HANDED_OVER}))
