"""What the recipe reads, as this node sees it: the same files as on the login node, or others, or none."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...contract.checks import Check, fail, ok
from ...contract.input_files import from_dict, look

_SHOWN = 5


def inputs_check(inputs: Sequence[Mapping[str, Any]], container: bool, left_out: int = 0) -> Check:
    """Compare each file that the recipe names with what the login node sees there.

    An entry holds `key`, the `path` in the job, and `login`: a SeenFile as plain values. `left_out` further files are
    named and not looked at.
    """
    name = "inputs"
    wrong = []
    here_only = 0
    for each in inputs:
        login, here = from_dict(each["login"]), look(each["path"])
        if here.kind is None:
            wrong.append(f"{each['key']}: {each['path']}: {here.error}")
        elif login.kind is None:
            here_only += 1
        elif difference := login.difference(here):
            wrong.append(f"{each['key']}: {each['path']} is another one than on the login node: {difference}")
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        where = "mount it into the container (--mount)" if container else "mount its file system on the node"
        return fail(
            name,
            f"{len(wrong)} of {len(inputs)} missing or different",
            "; ".join(wrong[:_SHOWN]) + more,
            f"{where}, copy it to a shared directory, or correct the path",
            len(wrong),
        )
    alone = f", {here_only} of them not seen on the login node" if here_only else ""
    rest = f", {left_out} more not compared" if left_out else ""
    return ok(name, f"{len(inputs)} found{alone}{rest}", len(inputs))
