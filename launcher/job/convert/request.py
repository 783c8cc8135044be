"""What one conversion is asked for, as it travels from the command line to every rank."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

from ..errors import UserError

ACTIONS = ("import", "export")
DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "gpu")


@dataclass(frozen=True)
class Request:
    """All paths are absolute. `source` is read, `target` appears at the end, `partial` is where it is made."""

    action: str
    source: str
    target: str
    partial: str = ""
    architecture: Optional[str] = None
    """export: a directory or a hub name with the config.json to write; None: that which the checkpoint remembers."""
    tp: int = 1
    pp: int = 1
    ep: int = 1
    dtype: Optional[str] = None
    """None: as the source has it."""
    logits: bool = True
    device: str = "auto"

    @property
    def ranks(self) -> int:
        """Processes that the model is split over."""
        return self.pp * math.lcm(self.tp, self.ep * self.etp)

    @property
    def etp(self) -> int:
        """Tensor-parallel size of experts: they are split by expert where that is asked for."""
        return self.tp if self.ep == 1 else 1

    @property
    def partial_dir(self) -> Path:
        """Where the result is made."""
        return Path(self.partial)

    def to_json(self) -> str:
        """As `parse` reads it."""
        return json.dumps(asdict(self))


def parse(text: str) -> Request:
    """The request in `text`. Raises UserError for one that this program does not understand."""
    try:
        request = Request(**json.loads(text))
        sizes = (request.tp, request.pp, request.ep)
        good = request.action in ACTIONS and request.device in DEVICES and all(isinstance(n, int) for n in sizes)
    except (ValueError, TypeError) as error:
        raise UserError(f"--convert was given no request that it understands: {error}") from None
    if not good or min(sizes) < 1 or request.dtype not in (None, *DTYPES):
        raise UserError(f"--convert was given no request that it understands: {text}")
    return request
