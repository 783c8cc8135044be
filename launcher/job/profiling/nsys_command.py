"""The command line of nsys, composed from the features of the installed nsys."""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from ...contract.fabrics import FABRICS

_PROBE_TIMEOUT_S = 60


@dataclass(frozen=True)
class NsysProgram:
    """What an nsys reports about itself; `plugins` are the names that `--enable` takes."""

    version: Optional[str]
    help: str
    plugins: frozenset[str]

    def has(self, option: str) -> bool:
        """Return whether `nsys profile` has this option, such as `--nic-metrics`."""
        return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", self.help) is not None

    def takes(self, option: str, value: str) -> bool:
        """Return whether the help of `option` names `value`; the help of an option ends where the next one begins."""
        found = re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])(.*?)(?=\s--?[a-z]|\Z)", self.help, re.DOTALL)
        return found is not None and re.search(rf"(?<![\w-]){re.escape(value)}(?![\w-])", found[1]) is not None


def probe(program: str, environ: Mapping[str, str] = os.environ) -> NsysProgram:
    """Ask nsys for its version, options and plugins; an unanswered question leaves its field empty."""
    version = re.search(r"\d{4}(?:\.\d+)+", _answer([program, "--version"]))
    return NsysProgram(
        version=version.group() if version else None,
        help=_answer([program, "profile", "--help"]),
        plugins=frozenset(_plugins(Path(program).resolve(), environ)),
    )


def _plugins(program: Path, environ: Mapping[str, str]) -> list[str]:
    """Return the plugins (directories with a manifest) beside nsys' program and below NSYS_PLUGIN_SEARCH_DIRS."""
    beside = [program.parent / "plugins", *program.parent.parent.glob("target-linux-*/plugins")]
    configured = [Path(each) for each in environ.get("NSYS_PLUGIN_SEARCH_DIRS", "").split(":") if each]
    return [manifest.parent.name for directory in (*beside, *configured) for manifest in directory.glob("*/*.yaml")]


def _answer(argv: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""  # no nsys that works: the callers say that
    return done.stdout.decode(errors="replace")


def compose(
    program: str,
    nsys: NsysProgram,
    output: Path,
    options: Mapping[str, Any],
    environ: Mapping[str, str] = os.environ,
    ranks: Sequence[int] = (),
) -> "tuple[list[str], list[str]]":
    """Return the words before the command, and what was requested but this nsys does not support.

    No CPU sampling and no context switches: both hang on some kernels. `--wait=primary`: otherwise nsys waits for every
    process that the program leaves behind. `--kill=none` and `--capture-range-end=stop`: the training goes on after the
    capture. No `--force-overwrite`: nothing is overwritten. With the option `whole` the whole program is captured,
    which needs no GPU. `ranks` are those that are captured, all where it is empty.
    """
    trace = options.get("trace") or ("cuda-sw,nvtx" if "cuda-sw" in nsys.help else "cuda,nvtx")
    words = [
        f"--trace={trace}",
        "--sample=none",
        "--cpuctxsw=none",
        *([] if options.get("whole") else ["--capture-range=cudaProfilerApi", "--capture-range-end=stop"]),
        "--kill=none",
        f"--output={output}",
    ]
    wanted = [("--wait", "--wait=primary", "it waits for all processes of the program")]
    # Otherwise each CUDA graph is one row, without its kernels.
    wanted.append(("--cuda-graph-trace", "--cuda-graph-trace=node", "kernels in CUDA graphs are not shown"))
    left_out = []
    for option, word, loss in wanted:
        if nsys.has(option):
            words.append(word)
        else:
            left_out.append(f"nsys {nsys.version} has no {option}: {loss}")
    for found, text in (_gpu_metrics(nsys, options, environ), _network(nsys, options, environ, ranks)):
        words += found
        left_out += [text] if text else []
    words = _override_options(words, [str(each) for each in options.get("args") or ()])
    return [program, "profile", *words], left_out


def _gpu_metrics(
    nsys: NsysProgram, options: Mapping[str, Any], environ: Mapping[str, str]
) -> "tuple[list[str], Optional[str]]":
    if not options.get("gpu_metrics"):
        return [], None
    # Only one process at a time can read a GPU's counters, so each rank reads its own GPU's.
    device = environ.get("LOCAL_RANK", "0")
    for option in ("--gpu-metrics-devices", "--gpu-metrics-device"):
        if nsys.has(option):
            return [f"{option}={device}"], None
    return [], f"nsys {nsys.version} has no GPU metrics"


def _network(
    nsys: NsysProgram, options: Mapping[str, Any], environ: Mapping[str, str], ranks: Sequence[int]
) -> "tuple[list[str], Optional[str]]":
    """Return the words for counters of the network cards, by a plugin or an option as the fabric has it."""
    fabric = FABRICS.get(str(options.get("fabric")))
    if not _first_of_node(environ, ranks):
        return [], None
    if fabric is not None and fabric.nsys_plugin is not None:
        if nsys.has("--enable") and fabric.nsys_plugin in nsys.plugins:
            return [f"--enable={fabric.nsys_plugin}"], None
        return [], f"nsys {nsys.version} has no plugin {fabric.nsys_plugin}: no counters of the network"
    if fabric is not None and fabric.nsys_option is not None:
        if nsys.has(fabric.nsys_option):
            # `true` is deprecated in releases of 2026, which take a frequency: low (lf) or high (hf).
            value = "lf" if nsys.takes(fabric.nsys_option, "lf") else "true"
            return [f"{fabric.nsys_option}={value}"], None
        return [], f"nsys {nsys.version} has no {fabric.nsys_option}: no counters of the network"
    return [], None


def _first_of_node(environ: Mapping[str, str], ranks: Sequence[int]) -> bool:
    """Return whether this is the first captured rank of its node: the cards' counters are those of the whole node.

    awslabs/awsome-distributed-ai enables them on the first rank of a node, too.
    """
    local = int(environ.get("LOCAL_RANK", "0"))
    rank = int(environ.get("RANK", str(local)))
    return not any(rank - local <= other < rank for other in (ranks or range(rank - local, rank)))


def _override_options(words: Sequence[str], more: Sequence[str]) -> list[str]:
    """Return `words` with the user's in place of those with the same option: nsys refuses an option twice."""
    names = {word.partition("=")[0] for word in more}
    return [*(word for word in words if word.partition("=")[0] not in names), *more]
