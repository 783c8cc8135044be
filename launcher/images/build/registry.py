"""The digest that a registry has under a name right now, read without credentials.

The protocol is the OCI distribution specification's: a manifest by tag, a token from the address that the answer 401
names. Where credentials are needed the digest stays unknown; enroot, docker and podman keep those.
"""

import hashlib
import http.client
import ipaddress
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from launcher.images.reference import DOCKER_HUB, Reference

_LISTS = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_TIMEOUT_S = 15
"""For each answer as a whole."""
_LIMIT = 16 << 20
_PIECE = 64 << 10
_NO_ANSWER = (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What an address that is not a registry's, or one that fails in the middle, comes to."""
_ENGINE_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}


def engine_architecture(architecture: str) -> str:
    """Return an architecture of `uname -m` as registries and engines write it: amd64, arm64."""
    return _ENGINE_NAMES.get(architecture, architecture)


def is_loopback(registry: str) -> bool:
    """Whether a registry (host and port) is on this machine: only then is plain HTTP spoken."""
    host = urllib.parse.urlsplit(f"//{registry}").hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def digest_of(reference: Reference, architecture: str) -> str | None:
    """Return the digest of the manifest for this architecture; None if it cannot be read or does not exist."""
    host = "registry-1.docker.io" if reference.registry == DOCKER_HUB else reference.registry
    scheme = "http" if is_loopback(reference.registry) else "https"
    url = f"{scheme}://{host}/v2/{reference.path}/manifests/{reference.digest or reference.tag}"
    try:
        body, kind, digest = _fetch(url)
        document: Any = json.loads(body)
        if kind not in _LISTS:
            return digest
        wanted = engine_architecture(architecture)
        for each in document["manifests"]:
            if (each.get("platform") or {}).get("architecture") == wanted:
                found = str(each["digest"])
                return found if re.fullmatch(r"sha256:[0-9a-f]{64}", found) else None
    except _NO_ANSWER:
        # No network, credentials that only the engine has, or another protocol: the image is then known by its name.
        pass
    return None


def _fetch(url: str, token: str | None = None) -> tuple[bytes, str, str]:
    """Return a manifest: its bytes, media type, and digest."""
    headers = {"Accept": ", ".join((*_LISTS, *_MANIFESTS))}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S) as answer:  # noqa: S310
            body = _body(answer)
            kind = answer.headers.get_content_type()
    except urllib.error.HTTPError as error:
        challenge = error.headers.get("WWW-Authenticate", "")
        if error.code != 401 or token is not None or not challenge.lower().startswith("bearer "):
            raise
        return _fetch(url, _token(challenge))
    return body, kind, f"sha256:{hashlib.sha256(body).hexdigest()}"


def _body(answer: http.client.HTTPResponse) -> bytes:
    """Return the whole body. Raises ValueError for one that is too large, cut off or too slow."""
    deadline, body = time.monotonic() + _TIMEOUT_S, bytearray()
    while piece := answer.read1(_PIECE):
        body += piece
        if len(body) > _LIMIT or time.monotonic() > deadline:
            raise ValueError("the registry's answer is too large, or too slow")
    stated = answer.headers.get("Content-Length")
    if stated is not None and len(body) != int(stated):
        raise ValueError("the registry's answer is cut off")
    return bytes(body)


def _token(challenge: str) -> str:
    """Return an anonymous token, from the address in the registry's challenge."""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = fields.pop("realm", "")
    if urllib.parse.urlsplit(realm).scheme != "https" and not is_loopback(urllib.parse.urlsplit(realm).netloc):
        raise ValueError("the registry names an unsafe address for a token")
    with urllib.request.urlopen(f"{realm}?{urllib.parse.urlencode(fields)}", timeout=_TIMEOUT_S) as answer:  # noqa: S310
        document = json.loads(_body(answer))
    return str(document.get("token") or document["access_token"])
