"""A reader of JSON of a known form, for listings of many runs."""

import functools
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import msgspec

T = TypeVar("T")


@functools.cache
def quick_reader(kind: type[T]) -> "msgspec.json.Decoder[T]":
    """Return a decoder of values of a TypedDict, which leaves out all keys that the type does not have.

    It reads and validates ten times as fast as contract/validation.py. Where it raises ValueError or RecursionError,
    that module says what is wrong, if anything is.
    """
    import msgspec

    return msgspec.json.Decoder(kind)
