"""The classes of failures: one table of rules over what a failed attempt has left.

Each rule is a regular expression over lines of one kind of evidence; the first rule that matches decides. The texts are
those that the programs print; the comment before each group names the program.
"""

import re
from typing import Literal, NamedTuple, Optional

FailureClass = Literal[
    "out of memory (GPU)",
    "out of memory (host)",
    "hardware",
    "container",
    "step not started",
    "NCCL setup",
    "lost peer",
]

Evidence = Literal["exception", "srun"]
"""The exception of the first failing rank, as `TYPE: message`, or srun.log."""


class Rule(NamedTuple):
    """One row of the table."""

    failure: FailureClass
    evidence: Evidence
    pattern: str


RULES = (
    # NVIDIA driver and CUDA runtime: a GPU that does not work any more
    Rule("hardware", "exception", r"uncorrectable ECC error|GPU has fallen off the bus|NVRM: Xid"),
    Rule("hardware", "srun", r"GPU has fallen off the bus|NVRM: Xid"),
    # torch's allocator and the CUDA runtime; NCCL reports a failed allocation of its own as an unhandled CUDA error
    Rule("out of memory (GPU)", "exception", r"CUDA out of memory|OutOfMemoryError|Cuda failure \d* ?'out of memory'"),
    # slurmstepd, for a step whose cgroup the kernel's out-of-memory killer entered
    Rule("out of memory (host)", "srun", r"Detected \d+ oom[_-]kill event|OOM Killed|task \S+: Out Of Memory"),
    Rule("out of memory (host)", "exception", r"Cannot allocate memory|^MemoryError"),
    # pyxis and enroot, before a task starts
    Rule("container", "srun", r"pyxis: .*(couldn't|could not|failed|not found|No such file)|enroot-\w+: .*\[ERROR\]"),
    Rule("container", "srun", r"unrecognized option '--container-"),
    # srun, where the controller refuses the step or a node cannot start it
    Rule("step not started", "srun", r"Unable to create step for job|task launch failed|Unable to confirm allocation"),
    # NCCL: a wrong set-up, which no peer's end has caused
    Rule("NCCL setup", "exception", r"Duplicate GPU detected|NVLS|multicast.*(bind|fail)"),
    # gloo, NCCL, torch's stores and DeepEP: the other side does not answer
    Rule(
        "lost peer",
        "exception",
        r"gloo/transport|Connection closed by peer|Connection reset by peer|Broken pipe|NCCL error|NCCL Error 6"
        r"|NCCL communicator was aborted|Timed out waiting|Socket Timeout|monitoredBarrier|watchdog|Dist\w*StoreError"
        r"|DeepEP.*time-?out|remote process exited|ncclRemoteError|ncclSystemError",
    ),
)


def classify(exception: str = "", srun: str = "") -> Optional[tuple[FailureClass, str]]:
    """Return the class of a failure and the line that decided; None where no rule matches."""
    texts = {"exception": exception, "srun": srun}
    for rule in RULES:
        for line in texts[rule.evidence].splitlines():
            if re.search(rule.pattern, line):
                return rule.failure, line.strip()
    return None
