"""Megatron's files of token ids as they lie on the disk, read with numpy alone.

PREFIX.idx begins with 9 bytes of signature, 8 of version, 1 for the type of the ids, 8 each for the numbers of
sequences and of document borders; then follow the sequences' lengths (int32), their offsets in PREFIX.bin (int64) and
the document borders (int64). Source: megatron/core/datasets/indexed_dataset.py of megatron-core 0.19.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError

_SIGNATURE = b"MMIDIDX\x00\x00"
_HEAD_BYTES = 34
_TYPES = ("", "uint8", "int8", "int16", "int32", "int64", "float64", "float32", "uint16")
_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class IndexedFile:
    """One pair of files."""

    prefix: str
    dtype: str
    lengths: Any
    """Tokens of each sequence, int32."""
    borders: Any
    """Numbers of the sequences with which documents begin, and at the end the number of all, int64."""
    ids: Any
    """All token ids, mapped from the disk."""

    def document(self, number: int, most: int) -> "list[int]":
        """Return at most `most` ids of a document's beginning."""
        first, last = (int(one) for one in self.borders[number : number + 2])
        start = int(self.lengths[:first].sum(dtype="int64"))
        tokens = int(self.lengths[first:last].sum(dtype="int64"))
        return [int(one) for one in self.ids[start : start + min(tokens, most)]]

    def document_lengths(self) -> Any:
        """Return the tokens of each document, int64."""
        import numpy

        sums = numpy.concatenate(([0], numpy.cumsum(self.lengths, dtype=numpy.int64)))
        return numpy.diff(sums[self.borders])

    def pieces(self) -> Any:
        """Yield the ids, many at once."""
        for start in range(0, len(self.ids), _AT_ONCE):
            yield self.ids[start : start + _AT_ONCE]


def read(prefix: str) -> IndexedFile:
    """Return a pair of files. Raises UserError where one is missing, cut short, or does not fit the other."""
    import numpy

    index, data = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
    for path in (index, data):
        if not path.is_file():
            raise UserError("there is no such file", where=str(path))
    with index.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if len(head) < _HEAD_BYTES or not head.startswith(_SIGNATURE) or not 0 < head[17] < len(_TYPES):
        raise UserError("this is not a Megatron index", where=str(index))
    sequences, borders = (int.from_bytes(head[at : at + 8], "little") for at in (18, 26))
    size, needed = index.stat().st_size, _HEAD_BYTES + 12 * sequences + 8 * borders
    if size < needed or borders < 1:
        raise UserError(f"this index is cut short: it has {size} bytes and needs {needed}", where=str(index))
    held = numpy.memmap(index, mode="r", dtype=numpy.uint8)
    lengths: Any = held[_HEAD_BYTES : _HEAD_BYTES + 4 * sequences].view(numpy.int32)
    last = _HEAD_BYTES + 12 * sequences
    edges: Any = numpy.frombuffer(held[last : last + 8 * borders].tobytes(), dtype=numpy.int64)
    dtype = _TYPES[head[17]]
    expected, found = int(lengths.sum(dtype=numpy.int64)) * numpy.dtype(dtype).itemsize, data.stat().st_size
    if expected != found:
        raise UserError(f"this file has {found} bytes, and its index counts {expected}", where=str(data))
    if edges[0] != 0 or edges[-1] != sequences or bool((numpy.diff(edges) < 0).any()):
        raise UserError("the documents of this index do not fit its sequences", where=str(index))
    ids: Any = numpy.memmap(data, mode="r", dtype=dtype) if found else numpy.zeros(0, dtype)
    return IndexedFile(prefix, dtype, lengths, edges, ids)
