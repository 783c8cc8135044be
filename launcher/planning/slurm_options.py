"""sbatch's options: those of the launcher, with what a profile or a user adds and removes."""

import json
from collections.abc import Mapping

from launcher._util.errors import ConfigError
from launcher.config.texts import slurm_time

MANAGED = {
    "array": "submit each run on its own",
    "chdir": "a rank's working directory is its run directory",
    "error": "it goes where the output goes",
    "export": "--env",
    "export-file": "--env",
    "input": "a batch job reads nothing",
    "job-name": "--name",
    "nodes": "--nodes",
    "ntasks": "--nodes and --gpus-per-node",
    "ntasks-per-node": "--gpus-per-node",
    "open-mode": "logs of attempts are kept apart",
    "output": "logs lie in the run directory",
    "parsable": "--json",
    "test-only": "--dry-run",
    "wait": "--follow",
    "wrap": "a recipe",
}
"""Options that the scripts rely on, with what to use instead."""

Value = bool | int | str


def merge_options(
    *, own: Mapping[str, Value], ranks_per_node: int, profile: Mapping[str, Value], user: Mapping[str, Value]
) -> tuple[tuple[str, str | None], ...]:
    """Return the options in order, the launcher's `own` first. Raises ConfigError for one that the launcher manages."""
    for origin, values in (("the profile's directives", profile), ("--sbatch", user)):
        for key in values:
            _check_key(key, origin)
    merged: dict[str, Value] = {**own}
    for values in (profile, user):
        for key, value in values.items():
            if (key, value) == ("segment", "smallest"):  # the launcher's own, as placement.py has computed it
                merged[key] = own.get(key, False)
            else:
                merged[key] = _computed(key, value, ranks_per_node)
    return tuple((key, _text(key, value)) for key, value in merged.items() if value is not False)


def comment(token: str, profile: Value | None, user: Value | None) -> str:
    """Return the comment of the job: the token of its submission, beside what a site's own recovery reads.

    NVIDIA Mission Control reads the key `APS` of a JSON object; the token is then a key's value in the same object.
    Raises ConfigError for another comment.
    """
    merged: dict[str, object] = {}
    for origin, text in (("the profile's directives", profile), ("--sbatch", user)):
        if text is None:
            continue
        try:
            value = json.loads(text) if isinstance(text, str) else None
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise ConfigError(
                "comment is managed by the launcher, which adds the submission's token to a JSON object only",
                where=origin,
                hint="""Such as: --sbatch 'comment={"APS": {"auto_resume_mode": "requeue"}}'.""",
            )
        merged |= value
    return json.dumps({**merged, "launcher": token}) if merged else token


def _check_key(key: str, origin: str) -> None:
    if not key or key.strip("abcdefghijklmnopqrstuvwxyz-") or key.startswith("-") or len(key) == 1:
        raise ConfigError(
            f"{key!r} is not a long name of an option of sbatch", where=origin, hint="Such as: exclusive, mem=0."
        )
    if key in MANAGED:
        raise ConfigError(f"{key} is managed by the launcher", where=origin, hint=f"Instead: {MANAGED[key]}.")


def _computed(key: str, value: Value, ranks_per_node: int) -> Value:
    """Replace `true`, in the two ways to ask for GPUs, by the number of ranks on a node."""
    if value is True and key == "gpus-per-node":
        return ranks_per_node
    if value is True and key == "gres":
        return f"gpu:{ranks_per_node}"
    return value


def _text(key: str, value: Value) -> str | None:
    if value is True:
        return None
    text = str(value)
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in text):
        raise ConfigError(
            f"the value of --{key} contains a control character, which sbatch cannot read", where=repr(text)
        )
    if key in ("time", "time-min"):
        try:
            slurm_time(text)
        except ValueError as error:
            raise ConfigError(str(error), where=f"--{key}") from None
    return text
