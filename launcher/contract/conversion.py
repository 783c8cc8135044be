"""The request of one conversion of weights, from the command line to every rank, and the names that both halves use."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

REPORT = "parity.json"
"""Name of the report in the result's directory."""

ACTIONS = ("import", "export")
DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "gpu")


@dataclass(frozen=True)
class ConversionRequest:
    """One conversion: `source` is read, `target` appears at the end. In a job all paths are absolute."""

    action: str
    """One of ACTIONS."""
    source: str
    """A directory; for an export also the name of a run, which launcher/api replaces by the run's directory."""
    target: str
    """The directory to make: it must not exist, or be empty."""
    partial: str = ""
    """The directory in which the result is made; the program that starts the ranks chooses it."""
    architecture: Optional[str] = None
    """For an export: a directory or a hub name with config.json and the tokenizer; None for the model that the
    checkpoint names."""
    tp: int = 1
    pp: int = 1
    ep: int = 1
    merge: bool = False
    """For an export of adapters: whether to add them to the weights of their base model and write the whole."""
    whole: bool = False
    """For an export: as `merge` where the checkpoint holds adapters, and without effect where it holds a model."""
    dtype: Optional[str] = None
    """The type of the result, one of DTYPES; None for the source's."""
    logits: bool = True
    """Whether to run both models and compare what they answer."""
    device: str = "auto"
    """One of DEVICES."""

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
    """Return the request in `text`. Raises ValueError or TypeError for anything else."""
    request = ConversionRequest(**json.loads(text))
    sizes = (request.tp, request.pp, request.ep)
    known = request.action in ACTIONS and request.device in DEVICES and request.dtype in (None, *DTYPES)
    if not known or not all(isinstance(size, int) for size in sizes) or min(sizes) < 1:
        raise ValueError(text)
    return request
