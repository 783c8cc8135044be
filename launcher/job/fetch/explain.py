"""Errors of the hub's libraries as one sentence each, with what to do."""

import contextlib
import errno
import os
import re
import socket
from collections.abc import Iterator
from typing import Any, Optional

from ..errors import UserError, first_line
from .shared_download import HubError, TransientHubError

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
_BROKEN_OFF = ("RemoteProtocolError", "IncompleteRead", "ProtocolError", "ChunkedEncodingError", "ReadError")
BEFORE = "fetch it before the job on a machine with network and the same HF_HOME: `launcher fetch RECIPE`"
_AGAIN = "try again later (complete files are kept), or fetch it before the job: `launcher fetch RECIPE`"


def is_miss(error: Optional[BaseException]) -> bool:
    """Return whether a cause, at any depth, is that the cache lacks a file and the hub may not be asked."""
    return any(type(one).__name__ in _MISSES for one in exception_chain(error))


def exception_chain(error: Optional[BaseException]) -> Iterator[BaseException]:
    """Yield the exception, its cause, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def hub_error(error: BaseException, name: str) -> HubError:
    """Return the error to show for what went wrong while `name` was fetched."""
    causes = list(exception_chain(error))
    kinds = {type(one).__name__ for one in causes}
    status = next((code for one in causes if (code := _status(one)) is not None), None)
    source = f"{endpoint()}, asked from {socket.gethostname()}"
    if "GatedRepoError" in kinds or status in (401, 403):
        return HubError(f"the hub denies access to {name} ({source}): {_token()}", hint=_ACCESS)
    if status == 404 or kinds & _ABSENT:
        what = _first_line(next(one for one in causes if _status(one) == 404 or "NotFound" in type(one).__name__))
        return HubError(
            f"{name} does not exist on the hub, or is private ({source}): {what}", hint=f"check the name; {_ACCESS}"
        )
    if status == 429:
        words = f"the hub refuses {name}: too many requests (HTTP 429, {source})"
        return TransientHubError(words, hint=f"{_AGAIN}; {_LIMIT}")
    if status is not None:
        kind = TransientHubError if status >= 500 or status == 408 else HubError
        return kind(f"the hub failed while {name} was fetched (HTTP {status}, {source})", hint=_AGAIN)
    if kinds & set(_BROKEN_OFF):
        return TransientHubError(f"the connection broke repeatedly while {name} was fetched ({source})", hint=_AGAIN)
    if kinds & set(_UNREACHED) or any(type(one).__name__.endswith("ConnectionError") for one in causes):
        reason = next((_first_line(one) for one in causes if type(one).__name__ in _UNREACHED), "no connection")
        words = f"{name} is not in the cache, and the hub cannot be reached ({source}): {reason}"
        return TransientHubError(words, hint=BEFORE)
    disk = next((one for one in causes if isinstance(one, OSError) and one.errno in _DISK), None)
    if disk is not None:
        return HubError(
            f"{name} cannot be written to the Hugging Face cache: {disk}",
            hint="check HF_HOME and the space on its disk",
        )
    return HubError(f"{name} cannot be fetched: {type(error).__name__}: {_first_line(error)}", hint=BEFORE)


def recipe_error(error: BaseException) -> Optional[HubError]:
    """Return the error to show for a recipe that failed because of the hub; None where the hub was not the cause."""
    where = error.where if isinstance(error, UserError) else None
    causes = list(exception_chain(error))
    asked = any(_status(one) is not None or type(one).__name__ in (*_UNREACHED, *_BROKEN_OFF) for one in causes)
    if asked:
        found = hub_error(error, _repository(causes) or "what the recipe reads from the hub")
        return type(found)(found.message, where=where, hint=found.hint)
    if is_miss(error):
        message = error.message if isinstance(error, UserError) else _first_line(error)
        return HubError(
            f"{message} (not in the Hugging Face cache, and asking the hub is forbidden)", where=where, hint=BEFORE
        )
    return None


def is_transient(error: BaseException) -> bool:
    """Return whether a retry may succeed: rate limits, errors of the server, no connection."""
    causes = list(exception_chain(error))
    if any((_status(one) or 0) in (408, 429, 500, 502, 503, 504) for one in causes):
        return True
    # The library itself resumes a body that breaks off.
    return all(_status(one) is None for one in causes) and any(type(one).__name__ in _UNREACHED for one in causes)


def retry_after_s(error: BaseException) -> float:
    """Return how many seconds the hub asks to wait (Retry-After), at most 300; 0 where it does not say."""
    for one in exception_chain(error):
        headers = getattr(getattr(one, "response", None), "headers", {})
        if str(headers.get("Retry-After", "")).isdigit():
            return min(float(headers["Retry-After"]), 300.0)
    return 0.0


def endpoint() -> str:
    """Return the hub's address, as the libraries read it."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_ACCESS = (
    "accept its conditions on the hub's page, and pass a token by name (export HF_TOKEN, then `--env HF_TOKEN`) "
    "or in the file HF_HOME/token (`hf auth login`)"
)
_LIMIT = "the hub allows more requests with a token (`--env HF_TOKEN`)"


def _token() -> str:
    """Describe which token was sent, never its value."""
    from huggingface_hub import constants, get_token

    if any(os.environ.get(name) for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")):
        return "the token in HF_TOKEN has no access"
    return f"the token in {constants.HF_TOKEN_PATH} has no access" if get_token() else "no token was sent"


def _status(error: BaseException) -> Optional[int]:
    response: Any = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    return status if isinstance(status, int) and status >= 400 else None


def _repository(causes: list[BaseException]) -> Optional[str]:
    """Return the repository named in the URL of a failed request, if one of the causes has it."""
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
    return first_line(error) or type(error).__name__
