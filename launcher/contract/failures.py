"""The classes of failures: one table of rules over the lines that a failed attempt has left.

Each rule is a regular expression over single lines, of whatever file; the comment before each group names the program
that prints them. Of all lines that match, the one of the lowest level decides, and of those the first: an allocation
that failed comes before the peers that only noticed it. tests/contract/failure_lines holds lines of real programs.
"""

import re
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Literal, NamedTuple, Optional

from launcher.contract.patterns import later

FailureClass = Literal[
    "hardware",
    "container",
    "step not started",
    "out of memory (GPU)",
    "out of memory (host)",
    "disk full",
    "network",
    "hang",
    "diverged",
    "user error",
    "program error",
    "stopped",
    "poisoned",
]


class ClassInfo(NamedTuple):
    """What a class means, and what to do about it."""

    meaning: str
    todo: str


CLASSES: dict[FailureClass, ClassInfo] = {
    "hardware": ClassInfo(
        "A GPU, an NVLink, the memory of a node, or a whole node has failed.",
        "resume on other nodes (`--exclude NODE`), and report the node to the site",
    ),
    "container": ClassInfo(
        "The image could not be fetched or unpacked, or the container did not start; no rank has begun.",
        "read the quoted line; `launcher doctor --nodes 1` tries the image on one node",
    ),
    "step not started": ClassInfo(
        "Slurm did not create the step, or a node could not launch its tasks; no rank has begun.",
        "compare what the step asks for with the allocation; where Slurm itself was slow, resume",
    ),
    "out of memory (GPU)": ClassInfo(
        "An allocation on a GPU failed, also one of NCCL or of cuBLAS.",
        "use a smaller micro batch, more recomputation or more model parallelism; `launcher plan` estimates the memory",
    ),
    "out of memory (host)": ClassInfo(
        "The kernel or Slurm ended a process for its memory, or an allocation on the host failed.",
        "ask for the node's whole memory (`--sbatch mem=0`), or use fewer data loader workers",
    ),
    "disk full": ClassInfo(
        "A file system or a quota is full.",
        "remove files (`launcher gc`), or choose another directory for checkpoints; then resume",
    ),
    "network": ClassInfo(
        "A connection between ranks failed, and no rank shows another cause.",
        "resume; if it comes again, `launcher doctor --nodes 2` tests the network between nodes",
    ),
    "hang": ClassInfo(
        "A collective did not complete in time: a rank never came to it, or came to another one.",
        "look at the named ranks' logs and stacks; where none is named, at the ranks that report no time-out",
    ),
    "diverged": ClassInfo(
        "The loss or a gradient is not a finite number.",
        "resume from a checkpoint before the first bad loss with a lower learning rate, or leave out the data there",
    ),
    "user error": ClassInfo(
        "The recipe, an override, the data, the checkpoint or the access to the hub is wrong; each attempt would fail.",
        "correct what the message names; resuming without a change fails again",
    ),
    "program error": ClassInfo(
        "The program crashed or raised an error of its own.",
        "read the traceback in the rank's log; resume once, and look for a defect if it comes again",
    ),
    "stopped": ClassInfo(
        "The job was ended from outside: by its user, its time limit, or a job that goes before it.",
        "resume: `launcher submit --resume RUN`",
    ),
    "poisoned": ClassInfo(
        "Two attempts in a row failed at the same step: the data or the program there is wrong, not the machine.",
        "look at the data of that step, or resume from an older checkpoint with another data order",
    ),
}


class Level(IntEnum):
    """How directly a line names the cause: the lowest level that occurs decides."""

    CAUSE = 0
    """The line names the cause itself."""
    ERROR = 1
    """An error of the program or of a start, which may have had a reason that another line names."""
    START = 2
    """A container did not start, for a reason that another line names."""
    ENDED = 3
    """Slurm ended the job, and says why."""
    LINK = 4
    """A network device reports a connection: broken, or given up because the peer is gone."""
    HANG = 5
    """A rank waited in vain for its peers."""
    PEER = 6
    """A rank lost its peers."""
    CANCELLED = 7
    """The job or the step was ended, and the line does not say why: also after any other failure."""


class Rule(NamedTuple):
    """One row of the table.

    The pattern's groups `node`, `rank`, `ranks` and `collective` name what failed. `todo` replaces the class's.
    """

    name: str
    failure: FailureClass
    level: Level
    pattern: str
    todo: Optional[str] = None


_START = r"^\s*(?:(?:\[[^\]]*\]|\([^)]*pid=\d+[^)]*\)|\d+(?=: )|stderr(?=: ))(?:<\w+>)?:?\s*)*"
"""The start of a line, and the prefixes by which torchrun, srun -l, mpirun and ray name a rank."""
_NODE = r"(?P<node>[\w.-]+)"

RULES = (
    # bubblewrap, apptainer, enroot and its hooks, pyxis: before a task starts. The kernel's limit of namespaces reads
    # `No space left on device`.
    Rule("bwrap", "container", Level.CAUSE, r"\bbwrap: "),
    Rule("apptainer", "container", Level.CAUSE, r"FATAL:\s+container creation failed"),
    Rule(
        "registry access",
        "container",
        Level.CAUSE,
        r"\[ERROR\] URL .* returned error code: 40[13]",
        "give the registry's user and password in ~/.config/enroot/.credentials, and check the image's name",
    ),
    Rule(
        "registry limit",
        "container",
        Level.CAUSE,
        r"\btoomanyrequests\b|reached your (unauthenticated )?pull rate limit",
        "the registry limits pulls: log in to it, or wait; `launcher image import` fetches the image once",
    ),
    Rule("registry", "container", Level.CAUSE, r"\[ERROR\] URL |Could not process JSON input"),
    Rule("container namespace", "container", Level.CAUSE, r"enroot-\w+: |failed to create user namespace"),
    Rule("container hook", "container", Level.CAUSE, r"nvidia-container-cli: |\[ERROR\] \S*/hooks\.d/\S+ exited"),
    Rule("container mount", "container", Level.CAUSE, r"^mount: .*(permission denied|bad superblock|special device)"),
    # enter.sh and sbatch.sh, before the image is unpacked; unsquashfs, as pyxis quotes it
    Rule(
        "container space",
        "container",
        Level.CAUSE,
        r"MiB free, but .* unpacks to \d+ MiB|pyxis: .*(No space left on device|[Dd]isk quota exceeded)",
        "free some space where the node unpacks images, or choose other nodes (`--exclude NODE`)",
    ),
    # pyxis says in lines of its own that a container failed; the reason is in the lines of enroot that it quotes
    Rule(
        "container program",
        "container",
        Level.CAUSE,
        r"pyxis: .*\[ERROR\] Command not found",
        "ask the site to install the program on its nodes, on the PATH with which slurmd was started",
    ),
    Rule("enroot", "container", Level.CAUSE, r"pyxis: +(\[ERROR\] |FATAL ERROR)"),
    Rule(
        "no enroot",
        "container",
        Level.ERROR,
        r"pyxis: couldn't execute enroot command",
        "ask the site whether enroot is installed on the node, on the PATH with which slurmd was started",
    ),
    Rule("no pyxis", "container", Level.CAUSE, r"unrecognized option '--container-|option \"container-\w+\" not found"),
    Rule(
        "pyxis start",
        "container",
        Level.START,
        r"pyxis: (child \d+ failed|container start failed with|container was not started)"
        r"|plugin spank_pyxis\S* task_init",
    ),
    Rule("pyxis log", "container", Level.ERROR, r"pyxis: {4,}(?!\[INFO\]|\[WARN|Parallel unsquashfs|\d+ inodes )\S"),
    Rule(
        "pyxis",
        "container",
        Level.ERROR,
        r"pyxis: .*(couldn't|could not|failed|not found|No such file|cannot create)|spank_pyxis|Plugin initialization"
        r" failed|Plugin stack initialization failed|^\[ERROR\] (Invalid argument|Command not found|No such file)",
    ),
    # kernel, file systems, torch's writer of checkpoints
    Rule("no space", "disk full", Level.CAUSE, r"No space left on device|[Dd]isk quota exceeded|\[Errno 122\]"),
    Rule("failed write", "disk full", Level.CAUSE, r"PytorchStreamWriter failed writing|File too large"),
    # NVIDIA's driver: Xid numbers by XIDS below; the lines of an older or unnumbered report
    Rule("lost GPU", "hardware", Level.CAUSE, r"fallen off the bus|GPU is lost"),
    Rule("GPU handle", "hardware", Level.CAUSE, r"Unable to determine the device handle for GPU"),
    # CUDA's runtime and driver
    Rule("GPU memory errors", "hardware", Level.CAUSE, r"uncorrectable ECC error|ECC_UNCORRECTABLE|double[- ]bit ECC"),
    Rule("NVLink", "hardware", Level.CAUSE, r"uncorrectable NVLink error|NVLINK_UNCORRECTABLE"),
    Rule(
        "fabric manager",
        "hardware",
        Level.CAUSE,
        r"system not yet initialized|SYSTEM_NOT_READY",
        "NVIDIA's fabric manager does not run on the node: resume on other nodes, and report it to the site",
    ),
    Rule("busy GPU", "hardware", Level.CAUSE, r"CUDA-capable device\(s\) is/are busy or unavailable"),
    # the file system of a node: a mount that is gone, a disk that fails
    Rule(
        "file system",
        "hardware",
        Level.CAUSE,
        r"\[Errno (5|30|107|108|116|121)\]|Stale file handle|Transport endpoint is not connected",
        "a file system of the node fails: look at its mounts, and resume on other nodes",
    ),
    # the kernel: machine checks, memory controller
    Rule(
        "host memory errors", "hardware", Level.CAUSE, r"EDAC \w+: \d+ UE |\[Hardware Error\]: .*(Machine check|fatal)"
    ),
    # srun, salloc and slurmstepd: a node that died, or never came up
    Rule("node failure", "hardware", Level.CAUSE, rf"(srun|salloc): error: Node failure on {_NODE}"),
    Rule("node failed", "hardware", Level.CAUSE, rf"\*\*\* .*(ON {_NODE} )?.*DUE TO NODE FAILURE"),
    Rule("node boot", "hardware", Level.CAUSE, r"Something is wrong with the boot of the nodes|are still not ready"),
    # torch's allocator, CUDA, cuBLAS; NCCL reports a failed allocation of its own as an unhandled CUDA error
    Rule(
        "GPU memory",
        "out of memory (GPU)",
        Level.CAUSE,
        r"CUDA out of memory|torch\S*OutOfMemoryError|^OutOfMemoryError|CUDA error: out of memory"
        r"|Cuda failure (\d+ )?'out of memory'|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED"
        r"|CUDA_ERROR_OUT_OF_MEMORY|NCCL WARN Failed to CUDA (host )?(m|c)alloc",
    ),
    # slurmstepd and srun, for a step whose cgroup the kernel's out-of-memory killer entered; the kernel itself
    Rule(
        "task memory",
        "out of memory (host)",
        Level.CAUSE,
        rf"srun: error: {_NODE}: tasks? (?P<rank>\d+): Out Of Memory",
    ),
    Rule("tasks' memory", "out of memory (host)", Level.CAUSE, rf"srun: error: {_NODE}: tasks .*: Out Of Memory"),
    Rule(
        "OOM killer",
        "out of memory (host)",
        Level.CAUSE,
        r"oom[_-]kill event|OOM Killed|Out of memory: Killed process|Exceeded job memory limit",
    ),
    # ray, which ends tasks before the kernel would; its report counts the workers
    Rule(
        "ray memory",
        "out of memory (host)",
        Level.CAUSE,
        r"ray\.exceptions\.OutOfMemoryError|due to the node running low on memory"
        r"|\b[1-9]\d* Workers? \(tasks / actors\) killed due to memory pressure",
    ),
    # torch's data loader, numpy, Python, the C library
    Rule(
        "worker memory",
        "out of memory (host)",
        Level.CAUSE,
        r"DataLoader worker .* killed by signal: (Killed|Bus error)|bus error encountered in worker",
        "use fewer data loader workers; for a bus error, give the container more shared memory (/dev/shm)",
    ),
    Rule(
        "host memory",
        "out of memory (host)",
        Level.CAUSE,
        rf"Cannot allocate memory|std::bad_alloc|{_START}(\w+\.)*_?(Array)?MemoryError\b|DefaultCPUAllocator: can't",
    ),
    # Megatron's checks of the loss and of gradients, and its log
    Rule(
        "NaN node",
        "diverged",
        Level.CAUSE,
        rf"(rerun_state_machine:|RuntimeError: )Rank (?P<rank>\d+), node {_NODE}, device",
    ),
    Rule(
        "NaN",
        "diverged",
        Level.CAUSE,
        r"Rank (?P<rank>\d+): found (NaN|Inf) in local .*?(node: (?P<node>[\w.-]+)|$)"
        r"|Unexpected result (nan|inf)( on rank (?P<rank2>\d+))?|found (NaN|Inf) in local",
    ),
    Rule("NaN in backward", "diverged", Level.CAUSE, r"Function '\w+' returned nan values in its"),
    Rule("NaN in the log", "diverged", Level.ERROR, r"\| (grad norm|lm loss): (nan|inf)"),
    # programs that stop at such a loss, and loss scales of half precision that can go no lower
    Rule(
        "NaN loss",
        "diverged",
        Level.ERROR,
        r"[Ll]oss (returned in `\w+` )?(is|became) (nan|NaN|inf)\b"
        r"|FloatingPointError: .*\b([Nn]a[Nn]|[Ii]nf(inite)?)\b",
    ),
    Rule("loss scale", "diverged", Level.ERROR, r"[Mm]inimum loss scale reached|loss scale already at minimum"),
    # NCCL: a wrong set-up, which no peer's end has caused
    Rule(
        "GPU used twice",
        "user error",
        Level.CAUSE,
        r"Duplicate GPU detected",
        "two ranks use one GPU: the ranks per node must not exceed its GPUs, and no variable may hide GPUs from a rank",
    ),
    Rule(
        "NVLS",
        "network",
        Level.CAUSE,
        r"NVLink SHARP \(NVLS\)|transport/nvls\.cc:\d+ NCCL WARN",
        "set `--env NCCL_NVLS_ENABLE=0`, and report the node: its fabric manager or NVSwitches are not in order",
    ),
    Rule(
        "interface",
        "network",
        Level.CAUSE,
        r"neither AF_INET\(2\) nor AF_INET6|no socket interface found|Address family not supported"
        r"|wrong type \d+ != \d+",
        "NCCL_SOCKET_IFNAME names an interface that the node lacks, or interfaces differ between the nodes",
    ),
    Rule(
        "port in use",
        "network",
        Level.CAUSE,
        r"[Aa]ddress already in use|EADDRINUSE|server socket has failed to listen",
        "another process has the port; resume, which takes another one",
    ),
    # Slurm: a step that the controller refuses, or that a node cannot launch
    Rule(
        "launch",
        "step not started",
        Level.CAUSE,
        rf"Task launch for \S+ failed on node {_NODE}: ",
    ),
    Rule(
        "prolog",
        "step not started",
        Level.CAUSE,
        rf"Prolog failure on node {_NODE}|PrologSlurmctld failed",
        "the site's prolog failed: resume on other nodes (`--exclude NODE`), and report it to the site",
    ),
    Rule(
        "program not started", "step not started", Level.CAUSE, r"slurmstepd: error: execve\(\): |could not execve job"
    ),
    Rule(
        "step refused",
        "step not started",
        Level.CAUSE,
        r"Unable to create step for job|Unable to confirm allocation|Application launch failed|mutually exclusive\.$"
        r"|srun: error: (Invalid|Unable to (allocate|find)|Cannot find)|srun: fatal: |cannot find mpi plugin"
        r"|specified plugin name"
        r"|Error generating job credential",
    ),
    Rule(
        "step waits",
        "step not started",
        Level.HANG,
        r"step creation (temporarily|still) disabled",
        "another step holds the nodes: start from the allocation itself, not in a step, or add --srun-arg=--overlap",
    ),
    # CUDA: an error of the program, which the watchdog often reports first
    Rule(
        "index",
        "user error",
        Level.ERROR,
        r"device-side assert triggered|Assertion `[^`]*` failed",
        "an index is out of range on the GPU: compare the vocabulary and the sequence length with the data",
    ),
    Rule(
        "CUDA error",
        "program error",
        Level.ERROR,
        r"illegal memory access|misaligned address|unspecified launch failure|illegal instruction"
        r"|CUBLAS_STATUS_(EXECUTION|INTERNAL)|CUDNN_STATUS_EXECUTION|Cuda failure (\d+ )?'invalid argument'",
    ),
    Rule(
        "GPU or driver unknown to the image",
        "user error",
        Level.ERROR,
        r"no kernel image is available|driver version is insufficient|compiled with an unsupported toolchain",
        "the image is built for other GPUs or for a newer driver: use another image, or other nodes",
    ),
    Rule(
        "cuBLAS memory", "out of memory (GPU)", Level.ERROR, r"CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate"
    ),
    # the kernel's limits of a user: threads, open files
    Rule(
        "limits",
        "user error",
        Level.ERROR,
        r"pthread_create failed|can't start new thread|Too many open files|received 0 items of ancdata",
        "a limit of the user is reached (ulimit -u, ulimit -n): use fewer data loader workers and threads, or raise it",
    ),
    # C code, faulthandler, torchrun
    Rule(
        "crash",
        "program error",
        Level.ERROR,
        r"Fatal Python error: (?!Aborted)|Segmentation fault|SIGSEGV|SIGBUS|SIGILL|SIGFPE|exitcode\s*: -(4|7|8|11)\b"
        r"|double free or corruption|stack smashing|malloc\(\): |killed by signal: Aborted",
    ),
    # Hugging Face's hub
    Rule(
        "hub access",
        "user error",
        Level.ERROR,
        r"gated repo|GatedRepoError|RepositoryNotFoundError|Invalid user token|40[13] Client Error.*huggingface",
        "ask for access to the repository, and pass on a token: `--env HF_TOKEN`",
    ),
    Rule(
        "hub unreachable",
        "user error",
        Level.ERROR,
        r"couldn't connect to 'https://huggingface|Can't load (tokenizer|the (configuration|model))"
        r"|LocalEntryNotFound|host='huggingface\.co'.*Max retries",
        "compute nodes do not reach the hub: `launcher fetch` brings the files beforehand",
    ),
    Rule(
        "Weights & Biases",
        "user error",
        Level.ERROR,
        r"api_key not configured|wandb\.errors\.\S*CommError|ERROR Run initialization has timed out",
        "pass on the key with `--env WANDB_API_KEY`; where nodes do not reach the server, `--env WANDB_MODE=offline`",
    ),
    # torch and Megatron: a checkpoint that does not fit or cannot be read
    Rule(
        "checkpoint",
        "user error",
        Level.ERROR,
        r"Error\(s\) in loading state_dict|size mismatch for \S+: copying a param"
        r"|(Unexpected|Missing) key\(s\) in state_dict|Missing key in checkpoint|PytorchStreamReader failed"
        r"|CheckpointingException|UnpicklingError|invalid load key|Ran out of input",
        "the checkpoint is damaged or of another model: compare sizes with the recipe, or resume from an older one",
    ),
    # Python: an error whose type says that the program was asked for something wrong
    Rule(
        "missing package",
        "user error",
        Level.ERROR,
        rf"{_START}(ModuleNotFoundError|ImportError): |cannot import name '",
        "the image lacks the package, or has another release: `launcher image inspect` lists what it has",
    ),
    Rule(
        "missing file",
        "user error",
        Level.ERROR,
        rf"{_START}(FileNotFoundError|NotADirectoryError|IsADirectoryError|PermissionError): |^Dataset does not exist"
        rf"|{_START}OSError: \S+ not found|One or both of the \.idx and \.bin",
        "check the path as the node and the container see it: what is not mounted is not there",
    ),
    Rule(
        "configuration",
        "user error",
        Level.ERROR,
        r"ConfigAttributeError|ConfigKeyError|ConfigCompositionException|OverrideParseException|ValidationError\b"
        r"|error: (unrecognized arguments|argument |the following arguments)|must be divisible by|is not divisible by"
        r"|got an unexpected keyword argument",
    ),
    Rule(
        "shapes",
        "user error",
        Level.ERROR,
        r"shapes? cannot be multiplied|size of tensor \w+ \(\d+\) must match|shape '\[[^']*' is invalid"
        r"|expected size \d+"
        r"|Sizes of tensors must match",
    ),
    Rule(
        "Python error",
        "user error",
        Level.ERROR,
        rf"{_START}(\w+\.)*(AssertionError|AttributeError|IndexError|KeyError|NameError|NotImplementedError|SyntaxError"
        r"|IndentationError|TypeError|UnboundLocalError|ValueError|ZeroDivisionError|UnicodeDecodeError|JSONDecodeError"
        r"|UserError)(: |$)",
    ),
    # slurmstepd: why Slurm ended the job
    Rule("time limit", "stopped", Level.ENDED, r"\*\*\* .*CANCELLED AT \S+ DUE TO TIME LIMIT"),
    Rule("preemption", "stopped", Level.ENDED, r"\*\*\* .*CANCELLED AT \S+ DUE TO (PREEMPTION|JOB REQUEUE)"),
    # NCCL's and libfabric's network devices
    Rule(
        "network device",
        "network",
        Level.LINK,
        r"NET/IB ?: Got (completion|async event)|ibv_\w+ failed|modify QP|NET/OFI .*(error|failed|Couldn't)"
        r"|libfabric:.*<warn> (err|.*error)|unresponsive receiver|Transport retry count exceeded on|UCX +ERROR ",
    ),
    # torch, NCCL's watchdog, gloo, DeepEP: a rank that waited in vain
    Rule(
        "collective",
        "hang",
        Level.HANG,
        r"Watchdog caught collective operation timeout(: WorkNCCL\(.*OpType=(?P<collective>\w+))?",
    ),
    Rule(
        "blocking wait",
        "hang",
        Level.HANG,
        r"WorkNCCL\(.*OpType=(?P<collective>\w+).* timed out in blocking wait",
    ),
    Rule("barrier", "hang", Level.HANG, r"[Rr]anks? (?P<ranks>\d[\d, ]*) failed to pass monitoredBarrier"),
    Rule("barrier", "hang", Level.HANG, r"failed to pass monitoredBarrier|monitoredBarrier.*(timed out|timeout)"),
    Rule(
        "other collective",
        "hang",
        Level.HANG,
        r"mismatch between collectives on ranks|Mismatched collective",
        "ranks came to different collectives: code that depends on the rank, or data that differs between ranks",
    ),
    Rule(
        "watchdog",
        "hang",
        Level.HANG,
        r"watchdog got stuck|Heartbeat monitor timed out|operations have failed or timed out",
    ),
    Rule("dispatch", "hang", Level.HANG, r"DeepEP .*time-?out"),
    Rule("gloo", "hang", Level.HANG, r"Timed out waiting \d+ms for (recv|send)"),
    # the other side is gone, or never came
    Rule(
        "rendezvous",
        "network",
        Level.PEER,
        r"client socket has (timed out|failed)|Timed out after \d+ seconds waiting|wait timeout after \d+ms, keys"
        r"|connect\(\) timed out|Socket Timeout|clients? joined|Connection refused|No route to host",
    ),
    Rule(
        "peer",
        "network",
        Level.PEER,
        r"gloo/transport|Gloo connectFullMesh failed|closed by (remote )?peer|Connection reset by peer"
        r"|Broken pipe|remote process exited|NCCL error in|ncclRemoteError|ncclSystemError"
        r"|NCCL Error 6\b"
        r"|NCCL communicator was aborted|Socket recv failed|Failed to execute operation \w+ from rank",
    ),
    # torchrun, to which a signal came from outside: also from Slurm, after another failure
    Rule(
        "signal",
        "stopped",
        Level.CANCELLED,
        r"Received \S+ death signal, shutting down workers"
        r"|SignalException: Process \d+ got signal: (1|2|3|15)\b",
    ),
    # any job that was ended
    Rule("cancelled", "stopped", Level.CANCELLED, r"\*\*\* (JOB|STEP) \S+ (ON \S+ )?CANCELLED AT"),
    Rule("revoked", "stopped", Level.CANCELLED, r"Job allocation \d+ has been revoked"),
)

XIDS: dict[int, tuple[FailureClass, str]] = {
    13: ("program error", "graphics engine exception"),
    31: ("program error", "GPU memory page fault"),
    32: ("program error", "invalid or corrupted push buffer"),
    43: ("program error", "GPU stopped processing"),
    48: ("hardware", "double-bit ECC error"),
    54: ("hardware", "auxiliary power is not connected"),
    61: ("hardware", "internal micro-controller breakpoint"),
    62: ("hardware", "internal micro-controller halt"),
    63: ("hardware", "ECC row remapping"),
    64: ("hardware", "ECC row remapping failed"),
    68: ("program error", "video processor exception"),
    69: ("program error", "graphics engine class error"),
    74: ("hardware", "NVLink error"),
    79: ("hardware", "GPU has fallen off the bus"),
    92: ("hardware", "high rate of single-bit ECC errors"),
    94: ("hardware", "contained ECC error"),
    95: ("hardware", "uncontained ECC error"),
    109: ("hardware", "context switch timeout"),
    110: ("hardware", "security fault"),
    119: ("hardware", "GPU system processor does not answer"),
    120: ("hardware", "GPU system processor error"),
    121: ("hardware", "chip-to-chip link error"),
    140: ("hardware", "unrecovered ECC error"),
    143: ("hardware", "GPU initialization failed"),
    **dict.fromkeys(range(144, 151), ("hardware", "NVLink error")),
    154: ("hardware", "GPU needs a reset"),
}
"""NVIDIA's Xid numbers and their meaning; 45 only says that a channel was cleaned up after another error.

Source: NVIDIA, docs.nvidia.com/deploy/xid-errors, the catalogue's immediate action: RESTART_APP is the program's."""

STATES: dict[str, tuple[FailureClass, str]] = {
    "BOOT_FAIL": ("hardware", "BOOT_FAIL: a node of the job did not boot"),
    "CANCELLED": ("stopped", "the job was cancelled"),
    "DEADLINE": ("stopped", "DEADLINE: the job could not end before its deadline"),
    "NODE_FAIL": ("hardware", "a node of the job failed"),
    "OUT_OF_MEMORY": ("out of memory (host)", "OUT_OF_MEMORY: out of memory on the host"),
    "PREEMPTED": ("stopped", "the job was preempted"),
    "TIMEOUT": ("stopped", "the job reached its time limit"),
}
"""Slurm's states of a job that say why it ended."""


class FailureCause(NamedTuple):
    """The cause of a failure: its class, the line and the rule that decided, and what the lines name."""

    failure: FailureClass
    line: str
    rule: str
    level: Level
    todo: str
    node: Optional[str] = None
    rank: Optional[int] = None
    """The rank that failed, where a line says so."""
    ranks: tuple[int, ...] = ()
    """Of a hang, the ranks that did not come."""
    collective: Optional[str] = None


_COMPILED = tuple((rule, later(rule.pattern)) for rule in RULES)
_XID = later(r"NVRM: Xid \([^)]*\): (?P<xid>\d+)|\bXid (?P<xid2>\d+)\b")
_ENDED = later(r"^srun: error: ([\w.-]+): tasks? [^:]*: ", re.MULTILINE)
_RANK_PREFIX = later(r"\s*\[rank(\d+)\]:[ \[]")
"""What torch writes before the lines of a rank's traceback, and before those of its log in C++."""
_ANSI = later(r"\x1b\[[0-9;]*m")
LINE = 4000
"""Characters of a line that are looked at; a progress bar may write a line of megabytes."""


def classify(*texts: str) -> Optional[FailureCause]:
    """Return the cause of a failure that the lines of these texts show, in their order; None where no rule matches."""
    found = list(_matches(line for text in texts for line in text.splitlines()))
    if not found:
        return None
    first = min(found, key=lambda each: each.level)
    same = [each for each in found if each.failure == first.failure]
    ended = _ENDED.findall("\n".join(texts)) if first.failure in ("container", "step not started") else []
    return first._replace(
        node=next((each.node for each in same if each.node), next(iter(ended), None)),
        rank=next((each.rank for each in same if each.rank is not None), None),
        ranks=next((each.ranks for each in same if each.ranks), ()),
        collective=next((each.collective for each in same if each.collective), None),
    )


def of_state(state: str) -> Optional[FailureCause]:
    """Return the cause that Slurm's state of a job names; None where the state says only that it has ended."""
    found = STATES.get(state)
    if found is None:
        return None
    level = Level.ENDED if found[0] == "stopped" else Level.CAUSE
    return FailureCause(found[0], found[1], f"state {state}", level, CLASSES[found[0]].todo)


def request_error(message: str) -> FailureCause:
    """Return the cause of an attempt whose rank has found its request wrong."""
    return FailureCause("user error", message, "request", Level.CAUSE, CLASSES["user error"].todo)


def unnamed_error(message: str) -> FailureCause:
    """Return the cause of an attempt whose rank raised an error that no rule knows."""
    return FailureCause("program error", message, "exception", Level.ERROR, CLASSES["program error"].todo)


def poisoned(failure: FailureCause) -> FailureCause:
    """Return the cause of an attempt that failed at the step at which the one before had failed."""
    return failure._replace(failure="poisoned", todo=CLASSES["poisoned"].todo)


def _matches(lines: Iterable[str]) -> Iterator[FailureCause]:
    for full in lines:
        line = _ANSI.sub("", full[:LINE]).rstrip()
        xid = _XID.search(line)
        if xid is not None:
            yield from _xid(line, int(xid["xid"] or xid["xid2"]))
        for rule, pattern in _COMPILED:
            match = pattern.search(line)
            if match is not None:
                yield _finding(rule, line, match.groupdict())
                break


def _finding(rule: Rule, line: str, named: dict[str, Optional[str]]) -> FailureCause:
    rank = named.get("rank") or named.get("rank2")
    if rank is None and rule.level <= Level.ERROR and (prefix := _RANK_PREFIX.match(line)) is not None:
        rank = prefix[1]
    return FailureCause(
        rule.failure,
        line.strip(),
        rule.name,
        rule.level,
        rule.todo or CLASSES[rule.failure].todo,
        node=named.get("node"),
        rank=None if rank is None else int(rank),
        ranks=tuple(int(number) for number in re.findall(r"\d+", named.get("ranks") or "")),
        collective=named.get("collective"),
    )


def _xid(line: str, number: int) -> Iterator[FailureCause]:
    if number == 45:
        caused = re.search(r"previous Xid (\d+)", line)
        if caused is not None:
            yield from _xid(line, int(caused[1]))
        return
    # An unknown number is one of the driver's newer ones, which report the hardware.
    failure, meaning = XIDS.get(number, ("hardware", "not in the launcher's table"))
    level = Level.CAUSE if failure == "hardware" else Level.ERROR
    yield FailureCause(failure, line.strip(), f"Xid {number}: {meaning}", level, CLASSES[failure].todo)
