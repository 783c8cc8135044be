"""The grammar of an image's name, part by part; each error says which part is wrong and gives the right form.

Source: the distribution project, `reference/reference.go` and `reference/regexp.go`.
"""

import ipaddress
import re
from typing import Final, Literal, NoReturn

from launcher._util.errors import ImageError

Scheme = Literal["docker", "dockerd", "podman"]

FORM: Final = (
    "[docker://|dockerd://|podman://][USER@][REGISTRY/]PATH[:TAG][@sha256:DIGEST], as in nvcr.io/nvidia/nemo:26.08"
)
IDENTIFIER = re.compile(r"[a-f0-9]{64}")
"""The ID of an image in an engine."""

_SCHEMES: tuple[Scheme, ...] = ("docker", "dockerd", "podman")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}")
_NAME_LIMIT = 255
_TEXT_LIMIT = 1024

# enroot accepts more in a user's name; what is left out (`:` and `/`) would be a password or a path.
_USER = re.compile(r"[A-Za-z0-9_.!~*'()%;&=+$,@-]+")
# Whether what follows an `@` is meant as a digest, right or wrong; else what stands before it is a user.
_MEANT_AS_DIGEST = re.compile(r"(?:sha\d+|md5|blake\w*):[^/#]*", re.IGNORECASE)


def check_characters(text: str) -> None:
    """Refuse an empty or too long text, and control characters and spaces. Raises ImageError."""
    if not text.strip():
        refuse(text, "it is empty", f"The form is {FORM}.")
    if len(text) > _TEXT_LIMIT:
        refuse(text, f"it has {len(text)} characters, more than {_TEXT_LIMIT}", f"The form is {FORM}.")
    if wrong := next((character for character in text if not character.isprintable() or character.isspace()), None):
        refuse(text, f"it holds the character {wrong!r}", "Names of images hold neither spaces nor control characters.")


def split_scheme(text: str) -> tuple[Scheme, str]:
    """Return the scheme, `docker` where none is named, and the rest. Raises ImageError."""
    scheme, found, rest = text.partition("://")
    if not found:
        return "docker", text
    if scheme not in _SCHEMES:
        right = "An image of a registry is named without http:// or https://." if "http" in scheme.lower() else ""
        refuse(
            text, f"{scheme!r} is not a scheme for images", f"Use docker://, dockerd:// or podman://. {right}".rstrip()
        )
    return scheme, rest


def split_user_and_digest(text: str, name: str) -> tuple[str | None, str, str | None]:
    """Return user, name and digest. Raises ImageError, without the text if that may hold a password."""
    before, found, after = name.rpartition("@")
    digest = None
    if found and _MEANT_AS_DIGEST.fullmatch(after):
        if not _DIGEST.fullmatch(after):
            refuse(
                text,
                f"its digest {_cut(after)!r} is wrong",
                "A digest is sha256: and 64 lower-case hexadecimal digits.",
            )
        name, digest = before, after
    elif found and not after:
        refuse(text, "nothing follows the '@'", "After '@' comes a digest: @sha256:... with 64 hexadecimal digits.")
    user, found, name = name.rpartition("@")
    if not found:
        return None, name, digest
    if ":" in user:  # the text must not be shown
        raise ImageError(
            "the name of the image holds a user and, after a ':', what may be a password",
            hint="Only the user is named, as in USER@REGISTRY/PATH; passwords belong in enroot's .credentials file.",
        )
    if not _USER.fullmatch(user):
        refuse(text, f"the user {_cut(user)!r} before '@' is wrong", "The form is USER@REGISTRY/PATH:TAG.")
    return user, name, digest


def split_registry(text: str, name: str) -> tuple[str | None, str]:
    """Return the registry, None where none is named, and what follows it."""
    if "#" in name:
        registry, _, rest = name.partition("#")
        if "#" in rest or "/" in registry:
            refuse(
                text,
                "its '#' is in the wrong place",
                "Exactly one '#' may end the registry: nvcr.io#nvidia/nemo:26.08.",
            )
    else:
        registry, slash, rest = name.partition("/")
        if not slash or not is_registry(registry):
            return None, name
    _check_registry(text, registry)
    return registry.lower(), rest


def is_registry(component: str) -> bool:
    """Return whether the first component of a name is a registry, by Docker's rule."""
    return "." in component or ":" in component or component.lower() == "localhost"


def _check_registry(text: str, registry: str) -> None:
    hint = (
        "A registry is a host name or address, with a port or without: nvcr.io, localhost:5000, 10.0.0.1, [::1]:5000."
    )
    host, colon, port = registry, "", ""
    if registry.startswith("["):
        address, bracket, tail = registry[1:].partition("]")
        try:
            ipaddress.IPv6Address(address)
        except ValueError:
            bracket = ""
        if not bracket or set(address) & set("%.") or (tail and not tail.startswith(":")):
            refuse(text, f"its registry {_cut(registry)!r} is not an IPv6 address in brackets", hint)
        colon, port = tail[:1], tail[1:]
    else:
        host, colon, port = registry.partition(":")
        if not _HOST.fullmatch(host):
            refuse(text, f"its registry {_cut(registry)!r} is not a host name", hint)
    if colon and not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        refuse(text, f"the port {_cut(port)!r} of its registry is not a number from 1 to 65535", hint)


def split_tag(text: str, rest: str) -> tuple[str, str | None]:
    """Return path and tag. Raises ImageError."""
    path, colon, tag = rest.partition(":")
    if not colon:
        return path, None
    if not _TAG.fullmatch(tag):
        refuse(
            text,
            f"its tag {_cut(tag)!r} is wrong",
            "A tag has 1 to 128 letters, digits, '_', '.' and '-', and does not start with '.' or '-'.",
        )
    return path, tag


def check_path(text: str, registry: str, path: str) -> None:
    """Check the components of the path, and the length of the name."""
    for component in path.split("/"):
        if not _COMPONENT.fullmatch(component):
            wrong = "an empty component" if not component else f"the component {_cut(component)!r}"
            refuse(
                text,
                f"its path has {wrong}",
                "Components are lower-case letters and digits, separated inside by '.', '_', '__' or '-': nvidia/nemo.",
            )
    if len(f"{registry}/{path}") > _NAME_LIMIT:
        refuse(text, f"registry and path have more than {_NAME_LIMIT} characters", f"The form is {FORM}.")


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def refuse(text: str, problem: str, hint: str) -> NoReturn:
    """Refuse the name of an image. Raises ImageError."""
    raise ImageError(f"{_cut(text)!r} does not name an image: {problem}", hint=hint)
