"""Whether a conversion kept every tensor: names, shapes, values bit by bit."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from ..errors import first_line
from ..model.hf_files import Weights

_SHOWN = 20
"""Number of tensors of a kind that a report names; it counts all of them."""

NOT_WEIGHTS = ("rotary_emb.inv_freq",)
"""Suffixes of constants that older files hold beside the weights and that every program computes itself."""


@dataclass
class Tally:
    """Result of a comparison. Values are compared in the dtype of the result."""

    tensors: int = 0
    bit_exact: int = 0
    cast: int = 0
    """Number of tensors whose dtype changed."""
    differing: int = 0
    missing: "list[str]" = field(default_factory=list)
    """Names in the source that the result lacks."""
    unexpected: "list[str]" = field(default_factory=list)
    """Names in the result that the source lacks."""
    shapes: "list[dict[str, Any]]" = field(default_factory=list)
    largest: "Optional[dict[str, Any]]" = None
    """Largest absolute difference, with the tensor's name; None where there is none."""

    @property
    def ok(self) -> bool:
        """Return whether nothing was lost."""
        return self.tensors > 0 and not (self.differing or self.missing or self.unexpected or self.shapes)

    def add(self, name: str, before: Any, after: Any) -> None:
        """Compare one tensor."""
        self.tensors += 1
        if tuple(before.shape) != tuple(after.shape):
            self.shapes.append({"name": name, "source": list(before.shape), "result": list(after.shape)})
            return
        self.cast += before.dtype != after.dtype
        before = before.to(after.dtype)
        if same_bits(before, after):
            self.bit_exact += 1
            return
        self.differing += 1
        apart = float((before.double() - after.double()).abs().nan_to_num(nan=float("inf")).max())
        if self.largest is None or apart > self.largest["value"]:
            self.largest = {"name": name, "value": apart}

    def to_dict(self) -> "dict[str, Any]":
        """Return the content for parity.json; long lists are cut, their counts are complete."""
        return {
            "ok": self.ok,
            "tensors": self.tensors,
            "bit_exact": self.bit_exact,
            "cast": self.cast,
            "differing": self.differing,
            "largest_difference": self.largest,
            **{f"{name}_count": len(getattr(self, name)) for name in ("missing", "unexpected", "shapes")},
            **{name: getattr(self, name)[:_SHOWN] for name in ("missing", "unexpected", "shapes")},
        }


def same_bits(one: Any, other: Any) -> bool:
    """Return whether two tensors of one shape and dtype are equal bit by bit: NaN equals itself, 0.0 is not -0.0."""
    import torch

    one, other = one.detach().cpu().contiguous(), other.detach().cpu().contiguous()
    return bool(torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)))


def with_files(
    stream: "Iterable[tuple[str, Any]]", files: Weights, report: "Callable[[int, int], None]", judge: bool
) -> Tally:
    """Compare a stream of (name, tensor) with the tensors of a directory.

    Every rank must draw from the stream; only the rank that `judge`s reads files.
    """
    tally, seen = Tally(), set()
    expected = {name for name in files.tensors if not name.endswith(NOT_WEIGHTS)}
    for name, tensor in stream:
        if not judge:
            continue
        if name in files.tensors:
            tally.add(name, read_tensor(files, name), tensor)
        else:
            tally.unexpected.append(name)
        seen.add(name)
        report(len(seen), len(expected))
    if judge:
        tally.missing = sorted(expected - seen)
    return tally


def read_tensor(files: Weights, name: str) -> Any:
    """Return one tensor of a directory."""
    from safetensors import safe_open

    with safe_open(str(files.directory / files.tensors[name].file), framework="pt") as file:
        return file.get_tensor(name)


def parameters(model: "list[Any]") -> "Iterator[tuple[str, Any]]":
    """Yield this rank's parameters, with names that are unique across pipeline chunks."""
    for number, chunk in enumerate(model):
        for name, parameter in chunk.named_parameters():
            yield (f"{number}.{name}" if len(model) > 1 else name), parameter.detach()


def with_parameters(before: "dict[str, Any]", model: "list[Any]") -> Tally:
    """Compare this rank's parameters with copies of their former values."""
    tally, seen = Tally(), set()
    for name, parameter in parameters(model):
        seen.add(name)
        if name in before:
            tally.add(name, before[name], parameter.cpu())
        else:
            tally.unexpected.append(name)
    tally.missing = sorted(before.keys() - seen)
    return tally


def combined(tallies: "Iterable[Tally]") -> Tally:
    """Return the tallies of several ranks as one."""
    whole = Tally()
    for one in tallies:
        for name in ("tensors", "bit_exact", "cast", "differing", "missing", "unexpected", "shapes"):
            setattr(whole, name, getattr(whole, name) + getattr(one, name))
        if one.largest and (whole.largest is None or one.largest["value"] > whole.largest["value"]):
            whole.largest = one.largest
    return whole


def names_for_transformers(directory: Path) -> "dict[str, list[str]]":
    """Return what transformers reports about the names and shapes in a model's directory.

    Nothing is allocated. Keys are missing, unexpected, mismatched; `failed` has the error where it cannot load the
    model.
    """
    from transformers import AutoModelForCausalLM

    try:
        _, found = AutoModelForCausalLM.from_pretrained(
            str(directory), device_map="meta", output_loading_info=True, ignore_mismatched_sizes=True
        )
    except Exception as error:
        words = first_line(error)
        return {"missing": [], "unexpected": [], "mismatched": [], "failed": [f"{type(error).__name__}: {words}"]}
    kinds = ("missing", "unexpected", "mismatched")
    return {**{kind: sorted(str(key) for key in found[f"{kind}_keys"]) for kind in kinds}, "failed": []}
