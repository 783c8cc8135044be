"""What the hub's libraries raise, in one sentence with what to do."""

import contextlib
import errno
import os
import re
import socket
from collections.abc import Iterator
from typing import Any, Optional

from ..errors import UserError
from .shared_download import HubError

_ABSENT = {"RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError", "DatasetNotFoundError"}
_MISSES = ("LocalEntryNotFoundError", "OfflineModeIsEnabled")
_UNREACHED = (
    "ConnectError",
    "ConnectTimeout",
    "ReadTimeout",
    "PoolTimeout",
    "ProxyError",
    "ConnectionError",
    "Timeout",
)
_TORN = ("RemoteProtocolError", "IncompleteRead", "ProtocolError", "ChunkedEncodingError", "ReadError")
BEFORE = "fetch it before the job, where there is network, with the same HF_HOME: `launcher fetch RECIPE`"
_AGAIN = "try again later: what is complete is kept; or fetch it before the job: `launcher fetch RECIPE`"


def is_miss(error: Optional[BaseException]) -> bool:
    """Whether the cause, at some depth, is something that the cache lacks while the hub may not be asked."""
    return any(type(one).__name__ in _MISSES for one in chain(error))


def chain(error: Optional[BaseException]) -> Iterator[BaseException]:
    """The exception, what it came from, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def explained(error: BaseException, name: str) -> HubError:
    """The sentence for what went wrong while `name` was fetched."""
    causes = list(chain(error))
    kinds = {type(one).__name__ for one in causes}
    status = next((code for one in causes if (code := _status(one)) is not None), None)
    place = f"{endpoint()}, asked from {socket.gethostname()}"
    if "GatedRepoError" in kinds or status in (401, 403):
        return HubError(f"the hub lets nobody have {name} without leave ({place}): {_token()}", hint=_LEAVE)
    if status == 404 or kinds & _ABSENT:
        what = _first_line(next(one for one in causes if _status(one) == 404 or "NotFound" in type(one).__name__))
        return HubError(f"the hub has no {name}, or hides it ({place}): {what}", hint=f"mind the name; {_LEAVE}")
    if status == 429:
        return HubError(f"the hub refuses {name} for too many requests (HTTP 429, {place})", hint=f"{_AGAIN}; {_LIMIT}")
    if status is not None:
        return HubError(f"the hub failed while {name} was fetched (HTTP {status}, {place})", hint=_AGAIN)
    if kinds & set(_TORN):
        return HubError(f"{name}: the connection broke again and again ({place})", hint=_AGAIN)
    if kinds & set(_UNREACHED) or any(type(one).__name__.endswith("ConnectionError") for one in causes):
        reason = next((_first_line(one) for one in causes if type(one).__name__ in _UNREACHED), "no connection")
        return HubError(f"{name} is not in the cache, and the hub cannot be reached ({place}): {reason}", hint=BEFORE)
    disk = next((one for one in causes if isinstance(one, OSError) and one.errno in _DISK), None)
    if disk is not None:
        return HubError(
            f"{name} cannot be written into the Hugging Face cache: {disk}", hint="mind HF_HOME and its disk"
        )
    return HubError(f"{name} cannot be fetched: {type(error).__name__}: {_first_line(error)}", hint=BEFORE)


def of_recipe(error: BaseException) -> Optional[HubError]:
    """The sentence for a recipe that failed because of the hub; None where that was not the cause."""
    place = error.where if isinstance(error, UserError) else None
    causes = list(chain(error))
    asked = any(_status(one) is not None or type(one).__name__ in (*_UNREACHED, *_TORN) for one in causes)
    if asked:
        told = explained(error, _repository(causes) or "what the recipe reads")
        return HubError(told.message, where=place, hint=told.hint)
    if is_miss(error):
        message = error.message if isinstance(error, UserError) else _first_line(error)
        return HubError(f"{message} (it is not in the cache, and the hub may not be asked)", where=place, hint=BEFORE)
    return None


def is_passing(error: BaseException) -> bool:
    """Whether it may go better in a moment: limits of the rate, errors of the server, no connection."""
    causes = list(chain(error))
    if any((_status(one) or 0) in (408, 429, 500, 502, 503, 504) for one in causes):
        return True
    # A body that breaks off was asked for again by the library itself, from where it broke off.
    return all(_status(one) is None for one in causes) and any(type(one).__name__ in _UNREACHED for one in causes)


def wait_s(error: BaseException) -> float:
    """How long the hub asks to wait (Retry-After), five minutes at most; 0 where it does not say."""
    for one in chain(error):
        headers = getattr(getattr(one, "response", None), "headers", {})
        if str(headers.get("Retry-After", "")).isdigit():
            return min(float(headers["Retry-After"]), 300.0)
    return 0.0


def endpoint() -> str:
    """The hub's address, as the libraries read it."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_LEAVE = (
    "accept its conditions on the hub's page, and give a token by name (export HF_TOKEN, then `--env HF_TOKEN`) "
    "or as the file HF_HOME/token (`hf auth login`)"
)
_LIMIT = "with a token (`--env HF_TOKEN`) the hub allows more"


def _token() -> str:
    """Which token was shown, never its value."""
    from huggingface_hub import constants, get_token

    if any(os.environ.get(name) for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")):
        return "the token of HF_TOKEN has none"
    return f"the token of {constants.HF_TOKEN_PATH} has none" if get_token() else "no token was given"


def _status(error: BaseException) -> Optional[int]:
    response: Any = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    return status if isinstance(status, int) and status >= 400 else None


def _repository(causes: list[BaseException]) -> Optional[str]:
    """The name in the address of a request, where one of them knows it."""
    for one in causes:
        request: Any = None
        with contextlib.suppress(RuntimeError):  # what httpx raises where an error has no request
            request = getattr(one, "request", None)
        address = str(getattr(request, "url", ""))
        found = re.search(r"//[^/]+/(?:api/models/|api/)?([^/]+/[^/]+)/(?:resolve|revision|tree)", address)
        if found:
            return found[1]
    return None


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
