"""Errors of transfers from a registry: which are worth another attempt, which are not, and what to do about them.

The messages are those of curl (which enroot uses), of podman, buildah and docker, and of the registries themselves: the
codes of the OCI distribution specification. curl counts as transient what its `--retry` does (curl(1)), plus
connections that broke.
"""

import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from launcher._util.errors import CommandError, ImageError, LauncherError, OutsideError
from launcher.contract.events import ProgressListener
from launcher.images.build.stalls import StalledError
from launcher.images.reference import DOCKER_HUB, Reference

WAITS_S = (3.0, 10.0, 30.0)
"""Before the second, third and fourth attempt."""

_CODE = re.compile(
    r"(?:error code: ?|returned error: ?|HTTP status: ?|status code[^0-9\n]{0,40}|status: ?|StatusCode: ?)([45]\d\d)\b",
    re.IGNORECASE,
)
_TRANSIENT_CODES = {408, 425, 429, 500, 502, 503, 504}
_TRANSIENT = (
    (re.compile(r"too ?many ?requests", re.IGNORECASE), "too many requests (429)"),
    (
        re.compile(r"connection reset|\(35\)|\(56\)|broken pipe|http2: .*closed", re.IGNORECASE),
        "the connection was reset",
    ),
    (
        re.compile(r"unexpected EOF|: EOF$|\(18\)|transfer closed|\(92\)|short read|Checksum mismatch", re.I | re.M),
        "a transfer broke off",
    ),
    (
        re.compile(r"\(28\)|timed? ?out|deadline exceeded|did not end within", re.IGNORECASE),
        "the registry does not answer in time",
    ),
    (
        re.compile(r"\(7\)|connection refused|\(52\)|empty reply", re.IGNORECASE),
        "the registry does not accept connections",
    ),
)
_UNKNOWN = re.compile(
    r"manifest[ _]unknown|name[ _]unknown|not known to registry|manifest for .* not found|: not found$", re.I
)
_DENIED = re.compile(
    r"unauthori[sz]ed|authentication required|access (to the resource is )?denied|\bdenied:|no basic auth", re.I
)
_LOGIN = re.compile(r"\[INFO\] (Authenticating with user: .*|Using credentials from file: .*)\s*\Z")
"""The last words of enroot where a registry with Basic authentication refuses: its docker.sh (April 2026) discards
curl's answer."""
_HOST = re.compile(r"\(6\)|could not resolve|no such host|name resolution", re.IGNORECASE)


class UnknownImageError(ImageError):
    """A registry has no image of this name, or none that the program can see."""


def transient_reason(words: str) -> str | None:
    """Return why another attempt may help; None if it would not."""
    codes = [int(code) for code in _CODE.findall(words)]
    if any(code in _TRANSIENT_CODES for code in codes):
        last = next(code for code in reversed(codes) if code in _TRANSIENT_CODES)
        return "too many requests (429)" if last == 429 else f"the registry answers with error {last}"
    if codes or _DENIED.search(words) or _UNKNOWN.search(words):
        return None
    return next((reason for pattern, reason in _TRANSIENT if pattern.search(words)), None)


def fetch_error(words: str, reference: Reference, tool: str) -> LauncherError:
    """Return the error for an image that `tool` could not fetch; `words` are the messages of the tool."""
    place = reference.canonical
    codes = {int(code) for code in _CODE.findall(words)}
    said = f"{tool} says: {_last_lines(words)}"
    if (reason := transient_reason(words)) is not None:
        hint = "Try again later."
        if "429" in reason:
            hint = f"Registries limit downloads without login.\n{credentials_hint(reference, tool)}"
        return OutsideError(f"the image could not be fetched: {reason}. {said}", where=place, hint=hint)
    if codes & {401, 403} or _DENIED.search(words) or _LOGIN.search(words):
        message = f"the registry {reference.registry} refuses access, or has no image of this name. {said}"
        return ImageError(message, where=place, hint=credentials_hint(reference, tool))
    if codes & {404} or _UNKNOWN.search(words):
        message = f"the registry {reference.registry} has no such image. {said}"
        hint = "Check path and tag, and whether the image exists for this architecture."
        if tool == "enroot":
            # Seen with the distribution registry 2.8: a HEAD request that does not name the OCI media type.
            hint += " Some registries hide images of the OCI format from enroot: `--engine podman` finds those."
        return UnknownImageError(message, where=place, hint=hint)
    if _HOST.search(words):
        hint = "Check the registry's name, and whether this machine reaches the network (or has a proxy set)."
        return OutsideError(f"the registry {reference.registry} was not found. {said}", where=place, hint=hint)
    return CommandError(f"the image could not be fetched. {said}", where=place)


def credentials_hint(reference: Reference, tool: str) -> str:
    """Return how to give this tool credentials; no secret is read."""
    registry = reference.registry
    if tool != "enroot":
        return f"Log in: `{tool} login {registry}`."
    file = credentials_file()
    host = "registry-1.docker.io" if registry == DOCKER_HUB else registry.rpartition(":")[0] or registry
    hosts = [host, "authn.nvidia.com"] if host == "nvcr.io" else [host]
    login = "$oauthtoken" if host == "nvcr.io" else "USER"
    lines = "\n".join(f"  machine {each} login {login} password PASSWORD" for each in hosts)
    return f"enroot reads credentials from {_short(file)} (mode 0600), in lines like\n{lines}"


def credentials_file() -> Path:
    """Return where enroot reads credentials: below ENROOT_CONFIG_PATH, else XDG_CONFIG_HOME (enroot.in)."""
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(os.environ.get("ENROOT_CONFIG_PATH") or f"{config}/enroot").expanduser() / ".credentials"


T = TypeVar("T")


def with_retries(
    action: Callable[[], T],
    reference: Reference,
    tool: str,
    report: ProgressListener,
    *,
    waits_s: Sequence[float] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Run `action`, again after a transient failure, at most `len(waits_s)` times, each reported.

    A registry that has stalled is tried once more only. Raises the error that `fetch_error` makes of its CommandError.
    """
    waits = list(WAITS_S if waits_s is None else waits_s)
    for number in range(1, len(waits) + 2):
        try:
            return action()
        except CommandError as error:
            reason = transient_reason(error.message)
            if isinstance(error, StalledError):
                del waits[1:]
            if reason is None or number > len(waits):
                raise fetch_error(error.message, reference, tool) from error
            wait = waits[number - 1]
            report.line(f"{reason}: attempt {number + 1} of {len(waits) + 1} in {wait:g} s")
            sleep(wait)
    raise AssertionError("unreachable")


def _last_lines(words: str) -> str:
    """Return the last lines of a program's output, without the command."""
    said = re.sub(r"^.* ended with status \d+: ", "", words, count=1, flags=re.DOTALL)
    return "\n".join([line for line in said.strip().splitlines() if line.strip()][-3:])


def _short(path: Path) -> str:
    """Return a path below the home directory with `~`; any other as it is."""
    try:
        return f"~/{path.relative_to(Path.home())}"
    except (ValueError, RuntimeError):
        return str(path)
