"""The options that run, submit and plan share, and how they become a request."""

import argparse
from typing import Any

from launcher.cli.completion import complete
from launcher.runtimes import RUNTIMES

# Where an option's name and the request's differ.
_NAMES = {"time": "time_limit", "mount": "mounts", "srun_arg": "srun_args", "nsys_arg": "nsys_args"}

_LISTS = ("mount", "env", "srun_arg", "default_mount")


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add RECIPE, KEY=VALUE and every option of a run."""
    add = parser.add_argument
    complete(add("recipe", metavar="RECIPE", nargs="?", help="path.py[:function], bridge:NAME, or job.toml"), "recipes")
    complete(
        add(
            "assignments",
            metavar="KEY=VALUE",
            nargs="*",
            help="arguments of the recipe (its own; data=, tokenizer=, peft=, ...), and Hydra overrides",
        ),
        "keys",
    )
    where = parser.add_argument_group("where")
    add = where.add_argument
    complete(
        add("--cluster", metavar="NAME", help="cluster profile (default: slurm where Slurm is, else local)"), "clusters"
    )
    add("--nodes", "-N", metavar="N", type=int, help="nodes (default: the allocation's, else 1)")
    add(
        "--gpus-per-node",
        metavar="N",
        type=int,
        help="ranks on each node, one per GPU (default: allocation, profile, 8)",
    )
    add("--time", "-t", metavar="T", help="time limit in Slurm's notation: 30 (minutes), 2:00:00, 1-12:00:00")
    for name in ("partition", "account", "qos", "nodelist", "exclude"):
        add(f"--{name}", metavar="NAME", help=f"Slurm's --{name}")
    inside = parser.add_argument_group("in what")
    add = inside.add_argument
    add(
        "--image",
        metavar="IMAGE",
        help="image that tasks run in: a name in the store (`launcher image list`), a reference, or ./file.sqsh",
    )
    add(
        "--runtime",
        choices=tuple(RUNTIMES),
        help="how tasks enter the image (default: the profile's)",
    )
    add("--python", metavar="PATH", help="interpreter that tasks run with (default: the profile's, the launcher's own)")
    add("--mount", metavar="SRC[:DST[:ro]]", action="append", help="mount a directory into the container; repeatable")
    add("--env", metavar="NAME[=VALUE]", action="append", help="set a variable, or pass this shell's on; repeatable")
    _add_run(parser)
    _add_profiling(parser)
    slurm = parser.add_argument_group("Slurm")
    add = slurm.add_argument
    add("--sbatch", metavar="KEY[=VALUE]", action="append", default=[], help="add an option of sbatch; repeatable")
    add("--no-sbatch", metavar="KEY", action="append", default=[], help="remove one that would be given; repeatable")
    add("--srun-arg", metavar="ARG", action="append", help="add an argument of srun, as --srun-arg=--label; repeatable")


def _add_run(parser: argparse.ArgumentParser) -> None:
    run = parser.add_argument_group("the run")
    add = run.add_argument
    add("--name", metavar="NAME", help="the run's name (default: the recipe's)")
    add("--run-root", metavar="DIR", help="directory of all runs (default: the profile's, else ./runs)")
    add("--shared", action="store_true", default=None, help="let others read the run directory")
    complete(
        add("--resume", metavar="RUN", help="continue a run from its checkpoint: directory, run id, or name"),
        "runs",
    )
    add("--load", action="store_true", default=None, help="allow checkpoint.load to name a directory with a checkpoint")
    add(
        "--init",
        choices=("pretrained", "random"),
        help="start from the weights that hf_path or the recipe names, or from random ones with the same architecture",
    )
    add("--entrypoint", metavar="FILE", help="a program of the same contract in place of entrypoint.py")
    add("--default-image", help=argparse.SUPPRESS)
    add("--default-mount", action="append", help=argparse.SUPPRESS)


def _add_profiling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("profiling (docs/how-to/profiling.md)")
    add = group.add_argument
    add("--nsys", action="store_true", default=None, help="profile with Nsight Systems")
    add("--profiler", metavar="NAME", help="profile with torch, viztracer, memory, or path.py:Class")
    add("--profile-steps", metavar="A:B", help="the steps A to B-1 (default: 10:12, or profiling.profile_step_*)")
    add("--profile-ranks", metavar="LIST", help="0,8 or nodes (the first rank of each node) or all (default: 0)")
    add("--nsys-trace", metavar="LIST", help="what nsys traces, as cuda,nvtx,osrt (default: cuda,nvtx)")
    add("--nsys-arg", metavar="ARG", action="append", help="a further argument of nsys profile; repeatable")
    add("--gpu-metrics", action="store_true", default=None, help="let nsys sample the GPU's metrics")
    add("--nsys-from", metavar="DIR", help="mount this installation of Nsight Systems into the image")


def add_check(parser: argparse.ArgumentParser) -> None:
    """Add --check-config and its opposite."""
    parser.add_argument(
        "--check-config",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="build and validate the whole configuration first, in one CPU process with the job's world size",
    )


def request_options(parsed: argparse.Namespace) -> dict[str, Any]:
    """What was said on the command line, by the request's names; what was not said is left out."""
    own = ("json", "sbatch", "no_sbatch", "dry_run", "follow", "script", "purpose", "verbose")
    options: dict[str, Any] = {}
    for key, value in vars(parsed).items():
        if key in own or value is None or (key == "assignments" and not value):
            continue
        options[_NAMES.get(key, key)] = tuple(value) if isinstance(value, list) else value
    options["default_mounts"] = options.pop("default_mount", ())
    directives: dict[str, bool | str] = {}
    for text in parsed.sbatch:
        key, given, value = text.lstrip("-").partition("=")
        directives[key] = value if given else True
    directives |= {key.lstrip("-"): False for key in parsed.no_sbatch}
    if directives:
        options["sbatch"] = directives
    return options
