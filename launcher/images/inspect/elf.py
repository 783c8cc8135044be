"""Facts read from ELF files of an image: the architecture, and the names that network plugins of NCCL give themselves.

Sources: `elf.h` (the gABI); NCCL `src/plugin/net/net_v12.cc` (a plugin exports a structure `ncclNetPlugin_vN`) and
`src/include/plugin/net/net_v11.h` (its first field is the name).
"""

import re
from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile

_MACHINES = {3: "i686", 21: "ppc64le", 22: "s390x", 40: "armv7l", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
"""`uname -m` by e_machine; of ppc64 and aarch64 the little-endian ones."""

_NET_PLUGIN = re.compile(r"ncclNetPlugin_v(\d+)")
_LONGEST_NAME = 64


def machine(data: bytes) -> str | None:
    """Return the architecture of a program or library as `uname -m` prints it; None if `data` is not an ELF file.

    A machine that is not known here is named by its number. Works on a file whose sections are stripped or damaged.
    """
    if len(data) < 20 or data[:4] != b"\x7fELF":
        return None
    number = int.from_bytes(data[18:20], "big" if data[5] == 2 else "little")
    return _MACHINES.get(number, f"machine-{number}")


def plugin_names(data: bytes) -> tuple[str, ...]:
    """Return the names in the `ncclNetPlugin_vN` structures that a library exports, the newest interface first.

    Empty for a file that is not a 64-bit little-endian ELF library, that exports none or that is damaged.
    """
    if b"ncclNetPlugin_v" not in data:
        return ()
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        file = ELFFile(BytesIO(data))
        if file.elfclass != 64 or not file.little_endian:
            return ()
        exported = sorted(_exported(file), reverse=True)
        pointers = _pointers(file, data, {address for _, address in exported})
        names = [_string(file, data, pointers[address]) for _, address in exported]
    except (ELFError, ArithmeticError, AttributeError, LookupError, ValueError):
        return ()  # damaged: pyelftools does not check what the tables say of each other
    return tuple(dict.fromkeys(name for name in names if name))


def _exported(file: "ELFFile") -> Iterator[tuple[int, int]]:
    """Return version and address of each `ncclNetPlugin_vN` that the library defines."""
    from elftools.elf.sections import SymbolTableSection

    for section in file.iter_sections("SHT_DYNSYM"):
        for symbol in section.iter_symbols() if isinstance(section, SymbolTableSection) else ():
            match = _NET_PLUGIN.fullmatch(symbol.name)
            if match and symbol["st_shndx"] != "SHN_UNDEF":
                yield int(match[1]), symbol["st_value"]


def _pointers(file: "ELFFile", data: bytes, addresses: set[int]) -> dict[int, int]:
    """Return the pointer at each address: what the loader will write there, or what stands there already."""
    from elftools.elf.relocation import RelocationSection

    found = {}
    for address in addresses:
        offset = _offset(file, address)
        found[address] = int.from_bytes(data[offset : offset + 8], "little") if offset else 0
    for section in file.iter_sections("SHT_RELA") if addresses else ():
        for relocation in section.iter_relocations() if isinstance(section, RelocationSection) else ():
            if relocation["r_offset"] in addresses:
                found[relocation["r_offset"]] = relocation["r_addend"]
    return found


def _string(file: "ELFFile", data: bytes, address: int) -> str:
    offset = _offset(file, address)
    text = data[offset : offset + _LONGEST_NAME + 1].partition(b"\0")[0] if offset else b""
    return text.decode() if 0 < len(text) <= _LONGEST_NAME and text.isascii() and text.decode().isprintable() else ""


def _offset(file: "ELFFile", address: int) -> int:
    """Return where the byte of an address is in the file; 0 if nowhere."""
    return int(next(file.address_offsets(address), 0))
