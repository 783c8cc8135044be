"""The request of one conversion, as it travels from the command line to every rank."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

from ..errors import UserError

REPORT = "parity.json"
"""Name of the report in the result's directory."""

ACTIONS = ("import", "export")
DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "gpu")


@dataclass(frozen=True)
class ConversionRequest:
    """One conversion. All paths are absolute: `source` is read, `partial` is written, `target` appears at the end."""

    action: str
    source: str
    target: str
    partial: str = ""
    architecture: Optional[str] = None
    """For an export: a directory or a hub name with the config.json; None for the model that the checkpoint names."""
    tp: int = 1
    pp: int = 1
    ep: int = 1
    dtype: Optional[str] = None
    """None means the source's dtype."""
    logits: bool = True
    device: str = "auto"

    @property
    def ranks(self) -> int:
        """Return the number of processes that the model is split over."""
        return self.pp * math.lcm(self.tp, self.ep * self.etp)

    @property
    def etp(self) -> int:
        """Return the tensor-parallel size of experts: 1 where they are split by expert."""
        return self.tp if self.ep == 1 else 1

    @property
    def partial_dir(self) -> Path:
        """Return the directory in which the result is made."""
        return Path(self.partial)

    def to_json(self) -> str:
        """Return the text that `parse` reads."""
        return json.dumps(asdict(self))


def parse(text: str) -> ConversionRequest:
    """Return the request in `text`. Raises UserError for one that this program does not understand."""
    try:
        request = ConversionRequest(**json.loads(text))
        sizes = (request.tp, request.pp, request.ep)
        good = request.action in ACTIONS and request.device in DEVICES and all(isinstance(n, int) for n in sizes)
    except (ValueError, TypeError) as error:
        raise UserError(f"--convert cannot read its request: {error}") from None
    if not good or min(sizes) < 1 or request.dtype not in (None, *DTYPES):
        raise UserError(f"--convert cannot read its request: {text}")
    return request
