"""Errors that the launcher raises for its user.

LauncherError                 what is wrong, where, what to do; has the exit status
|-- RequestError         (2)  the request was wrong, nothing was started
|   |-- ConfigError           an option, a profile, a job file or a configuration file
|   |-- RecipeError           the recipe's name or file
|   |-- OverrideError         a key=value
|   |-- ImageError            an image is unknown, broken, or not one that this cluster can run
|   |-- LayoutError           nodes, ranks and parallel sizes do not fit together
|   `-- PrerequisiteError     this machine, shell or cluster lacks something: an allocation, Slurm, nsys
|-- OutsideError         (3)  the outside world failed: a program, Slurm, the disk, the network
|   |-- CommandError          a program ended with an error, or did not end
|   |   `-- MissingProgramError   it is not installed
|   |-- SlurmError            Slurm refused or did not answer
|   `-- DiskError             a file could not be written or read
`-- InternalError        (3)  a defect of the launcher
"""

import errno

from launcher.contract.errors import ExplainedError


class LauncherError(ExplainedError):
    """An error of the launcher, with the exit status that it leads to."""

    exit_status = 3


class RequestError(LauncherError):
    """The request was wrong; nothing was started."""

    exit_status = 2


class ConfigError(RequestError):
    """An option, a cluster profile, a job file or a configuration file is wrong."""


class RecipeError(RequestError):
    """The recipe cannot be found, or its name cannot be understood."""


class OverrideError(RequestError):
    """A `key=value` cannot be parsed, names nothing, or has a value of the wrong type."""


class LayoutError(RequestError):
    """Nodes, ranks and parallel sizes do not fit together."""


class ImageError(RequestError):
    """An image is unknown, broken, or not one that this cluster can run; or its name cannot be understood."""


class PrerequisiteError(RequestError):
    """The request needs something that this machine, shell or cluster lacks."""


class OutsideError(LauncherError):
    """The outside world failed."""

    exit_status = 3


class CommandError(OutsideError):
    """An external program ended with an error, or did not end in time."""


class MissingProgramError(CommandError):
    """An external program is not installed, or not on the PATH."""


class KilledProgramError(CommandError):
    """A signal ended an external program before it could report, as where its job was killed."""


class SlurmError(OutsideError):
    """Slurm refused a request or did not answer."""


class DiskError(OutsideError):
    """A file could not be written or read."""


class InternalError(LauncherError):
    """A defect of the launcher."""

    exit_status = 3


def explained(error: Exception) -> LauncherError:
    """Return the error that a user is shown for an exception that is not the launcher's."""
    if isinstance(error, OSError):
        name = str(error.filename) if error.filename is not None else None
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            return RequestError(f"this is not a path: {(error.strerror or '').lower()}", where=name)
        return DiskError((error.strerror or str(error)).lower(), where=name)
    if isinstance(error, (RecursionError, MemoryError)):
        return RequestError("something in the request is nested too deeply, or too large")
    import traceback

    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = frame.filename.rpartition("/launcher/")[2]
    return InternalError(
        f"internal error: {type(error).__name__}: {error}",
        where=f"{place}:{frame.lineno}",
        hint="This is a defect of the launcher. LAUNCHER_TRACEBACK=1 prints where it is.",
    )
