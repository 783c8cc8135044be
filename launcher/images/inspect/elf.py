"""What is read from ELF files of an image: the architecture, and the names that plugins of NCCL give themselves.

Sources: `elf.h` (the gABI); NCCL `src/plugin/net/net_v12.cc` (a plugin exports a structure `ncclNetPlugin_vN`) and
`src/include/plugin/net/net_v11.h` (its first field is the name).
"""

import re
import struct
from collections.abc import Callable, Iterator

_MACHINES = {3: "i686", 21: "ppc64le", 22: "s390x", 40: "armv7l", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
"""`uname -m` by e_machine; of ppc64 and aarch64 the little-endian ones."""

_DYNSYM, _RELA, _NOBITS = 11, 4, 8  # section types
_SYMBOL = struct.Struct("<IBBHQQ")  # name, info, other, section, value, size
_RELOCATION = struct.Struct("<QQq")  # offset, info, addend
_NET_PLUGIN = re.compile(rb"ncclNetPlugin_v(\d+)")
_LONGEST_NAME = 64
_MOST_SECTIONS = 512

_Section = tuple[int, int, int, int, int]
"""Type, address, offset in the file, size, linked section."""


def machine(data: bytes) -> str | None:
    """Return the architecture of a program or library as `uname -m` prints it; None if `data` is no ELF file.

    A machine that is not known here is named by its number.
    """
    if len(data) < 20 or data[:4] != b"\x7fELF":
        return None
    number = int.from_bytes(data[18:20], "big" if data[5] == 2 else "little")
    return _MACHINES.get(number, f"machine-{number}")


def plugin_names(data: bytes) -> tuple[str, ...]:
    """Return the names in the `ncclNetPlugin_vN` structures that a library exports, the newest interface first.

    Empty for what is no 64-bit little-endian ELF library, or exports none.
    """
    try:
        return _plugin_names(data)
    except (struct.error, IndexError, ValueError, OverflowError):  # a damaged or hostile file tells nothing
        return ()


def _plugin_names(data: bytes) -> tuple[str, ...]:
    if data[:6] != b"\x7fELF\x02\x01":
        return ()
    sections = list(_sections(data))
    places = sorted(_exported(data, sections), reverse=True)
    pointers = _pointers(data, sections, {address for _, address in places})
    names = (_string(data, sections, pointers.get(address, 0)) for _, address in places)
    return tuple(dict.fromkeys(name for name in names if name))


def _sections(data: bytes) -> Iterator[_Section]:
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    if count > _MOST_SECTIONS:
        raise ValueError("more sections than a library has")
    for index in range(count):
        _, kind, _, address, offset, length, link = struct.unpack_from("<IIQQQQI", data, table + index * size)
        yield kind, address, offset, length, link


def _exported(data: bytes, sections: list[_Section]) -> Iterator[tuple[int, int]]:
    """Version and address of each `ncclNetPlugin_vN` that the library defines."""
    for kind, _, offset, length, link in sections:
        if kind != _DYNSYM:
            continue
        _, _, strings, strings_size, _ = sections[link]
        names = data[strings : strings + strings_size]
        if b"ncclNetPlugin_v" not in names:
            continue
        table = data[offset : offset + length - length % _SYMBOL.size]
        for name, _, _, section, value, _ in _SYMBOL.iter_unpack(table):
            match = _NET_PLUGIN.fullmatch(names[name : names.find(b"\0", name)])
            if match and section:
                yield int(match[1]), value


def _pointers(data: bytes, sections: list[_Section], addresses: set[int]) -> dict[int, int]:
    """The pointer at each address: what the loader will write there, or what stands there already."""
    found = {address: _word(data, sections, address) for address in addresses}
    for kind, _, offset, length, _ in sections:
        if kind == _RELA and addresses:
            table = data[offset : offset + length - length % _RELOCATION.size]
            found |= {place: addend for place, _, addend in _RELOCATION.iter_unpack(table) if place in addresses}
    return found


def _word(data: bytes, sections: list[_Section], address: int) -> int:
    place = _offset(sections, address)
    return int.from_bytes(data[place : place + 8], "little") if place else 0


def _string(data: bytes, sections: list[_Section], address: int) -> str:
    place = _offset(sections, address)
    text = data[place : place + _LONGEST_NAME + 1].partition(b"\0")[0] if place else b""
    return text.decode() if 0 < len(text) <= _LONGEST_NAME and text.isascii() and text.decode().isprintable() else ""


def _offset(sections: list[_Section], address: int) -> int:
    """Where the byte of an address is in the file; 0 if nowhere."""
    inside: Callable[[_Section], bool] = lambda each: each[0] != _NOBITS and 0 < each[1] <= address < each[1] + each[3]  # noqa: E731
    return next((each[2] + address - each[1] for each in sections if inside(each)), 0)
