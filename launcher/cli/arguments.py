"""The options that run, submit and plan share, and how they become a request."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from launcher.cli.completion import complete
from launcher.cli.parser import count, seconds, whole_number
from launcher.runtimes import AUTOMATIC, RUNTIMES

if TYPE_CHECKING:
    from launcher.api.task_job import TaskJobOptions
    from launcher.config.request import Request

# Where an option's name and the request's differ.
_NAMES = {
    "allow_change": "allow_changes",
    "mount": "mounts",
    "default_mount": "default_mounts",
    "srun_arg": "srun_args",
    "nsys_arg": "nsys_args",
    "hang_limit": "hang_limit_s",
}


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add RECIPE, KEY=VALUE and every option of a run."""
    add = parser.add_argument
    complete(
        add(
            "recipe",
            metavar="RECIPE",
            nargs="?",
            help="path.py[:function], NAME of a shipped one, bridge:NAME, mlm:gpt, job.toml",
        ),
        "recipes",
    )
    complete(
        add(
            "assignments",
            metavar="KEY=VALUE",
            nargs="*",
            help="arguments of the recipe (its own; data=, tokenizer=, peft=, ...), and Hydra overrides",
        ),
        "keys",
    )
    _add_resources(parser)
    _add_container(parser)
    _add_run(parser)
    _add_profiling(parser)
    _add_slurm(parser)


def _add_resources(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("resources").add_argument
    complete(
        add(
            "--cluster",
            metavar="NAME",
            help="cluster profile, by name or as a file NAME.toml (default: slurm where Slurm is, else local)",
        ),
        "clusters",
    )
    add("--nodes", "-N", metavar="N", type=whole_number, help="nodes (default: the allocation's, else 1)")
    add(
        "--spares",
        metavar="K",
        type=count,
        help="let a batch job hold up to K more nodes: a check of at most two minutes chooses those that train",
    )
    add(
        "--gpus-per-node",
        metavar="N",
        type=whole_number,
        help="ranks on each node, one per GPU (default: those of the allocation, the profile, or the partition)",
    )
    add("--time", "-t", metavar="T", help="time limit in Slurm's notation: 30 (minutes), 2:00:00, 1-12:00:00")
    for name in ("partition", "account", "qos", "nodelist", "exclude"):
        add(f"--{name}", metavar="NAME", help=f"Slurm's --{name}")


def _add_container(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("container").add_argument
    add(
        "--image",
        metavar="IMAGE",
        help="image that tasks run in: a name in the store (`launcher image list`), a reference, or ./file.sqsh",
    )
    add(
        "--runtime",
        choices=(*RUNTIMES, AUTOMATIC),
        help="how tasks enter the image; auto: what the cluster has (default: the profile's, else auto)",
    )
    add("--python", metavar="PATH", help="interpreter that tasks run with (default: the profile's, the launcher's own)")
    add("--mount", metavar="SRC[:DST[:ro]]", action="append", help="mount a directory into the container; repeatable")
    add("--env", metavar="NAME[=VALUE]", action="append", help="set a variable, or pass this shell's on; repeatable")
    add(
        "--expand-env",
        metavar="NAME",
        action="append",
        help="replace $NAME in this variable's value by the job's own variables; repeatable",
    )
    add(
        "--scale-batch",
        action="store_true",
        default=None,
        help="scale the recipe's global batch to the GPUs of the run",
    )
    add(
        "--mlm-source",
        metavar="SOURCE",
        help="of a recipe mlm:SCRIPT.py: a checkout of Megatron-LM, DIR, DIR@COMMIT or COMMIT; its arguments follow --",
    )
    parser.set_defaults(rest=())
    add(
        "--mcore",
        metavar="SOURCE",
        help="import this Megatron-Core in place of the image's: DIR, DIR@COMMIT, COMMIT, or main or dev of the "
        "checkout of Megatron Bridge here",
    )
    add("--ship", metavar="PATH", action="append", help="a file or directory that travels with the recipe; repeatable")


def _add_slurm(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("Slurm").add_argument
    add("--sbatch", metavar="KEY[=VALUE]", action="append", default=[], help="add an option of sbatch; repeatable")
    add("--unset-sbatch", metavar="KEY", action="append", default=[], help="remove one that would be given; repeatable")
    add("--srun-arg", metavar="ARG", action="append", help="add an argument of srun, as --srun-arg=--label; repeatable")


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("run").add_argument
    add("--name", metavar="NAME", help="the run's name (default: the recipe's)")
    add("--run-root", metavar="DIR", help="directory of all runs (default: the profile's, else ./runs)")
    add("--shared", action="store_true", default=None, help="let others read the run directory")
    complete(
        add("--resume", metavar="RUN", help="continue a run from its checkpoint: directory, run id, or name"),
        "runs",
    )
    add(
        "--allow-change",
        metavar="KEY",
        action="append",
        help="allow --resume to change this key although another training goes on then; repeatable",
    )
    add(
        "--attempts",
        metavar="N",
        type=count,
        help="queue N jobs for a batch run, each behind the other; with --resume also behind a job that still runs",
    )
    add(
        "--allow-checkpoint-load",
        action="store_true",
        default=None,
        help="allow checkpoint.load to name a directory with a checkpoint",
    )
    _add_keep_going(add)
    add(
        "--init",
        choices=("pretrained", "random"),
        help="start from the weights that hf_path or the recipe names, or from random ones with the same architecture",
    )
    add(
        "--probe",
        action="store_true",
        default=None,
        help="record checksums of parameters, batches, layers and gradients of each rank, for `launcher correlate`",
    )
    add("--entrypoint", metavar="FILE", help="a program of the same contract in place of entrypoint.py")
    add("--default-image", help=argparse.SUPPRESS)
    add("--default-mount", action="append", help=argparse.SUPPRESS)


def _add_keep_going(add: Callable[..., argparse.Action]) -> None:
    """Add the options for the ends of attempts and for attempts that hang."""
    add(
        "--keep-going",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="continue a batch run by itself, after time limits, lost nodes and crashes too, until it has finished",
    )
    add(
        "--notify",
        metavar="COMMAND",
        help="start this program after each attempt, with a message on its standard input (launcher help notify)",
    )
    add(
        "--notify-url",
        metavar="NAME",
        help="post the message to the URL in this variable of your shell, which no file of the run holds",
    )
    add(
        "--verify",
        choices=("full", "budget", "sizes"),
        help="what of a checkpoint is verified before it is loaded: all sums, those that 120 s allow, or the sizes",
    )
    add(
        "--hang-limit",
        metavar="SECONDS",
        type=seconds,
        help="end an attempt after this time without a step (default: the profile's, 300)",
    )


def _add_profiling(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("profiling (launcher help profiling)").add_argument
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
    parser.add_argument(
        "--check-on",
        choices=("here", "node"),
        help="where that runs: in the image or with this machine's training stack, or in a short job on a compute node",
    )


def hide_without_effect(parser: argparse.ArgumentParser, mode: str) -> None:
    """Leave the options that count nothing in a mode out of the help; stated, they are refused with the reason."""
    from launcher.planning.option_effects import effect_of

    for action in parser._actions:
        key = action.dest.removeprefix("unset_")
        if not effect_of(_NAMES.get(key, key)).counts_in(mode):
            action.help = argparse.SUPPRESS


def read_request(parsed: argparse.Namespace) -> "Request":
    """Return what the command line states of a run; other options of the command are left out. Raises ConfigError."""
    from launcher.config.load import parse
    from launcher.config.request import Request

    stated: dict[str, Any] = {}
    for option, value in vars(parsed).items():
        name = _NAMES.get(option, option)
        if name in Request.model_fields and name != "sbatch" and value not in (None, []):
            stated[name] = tuple(value) if isinstance(value, list) else value
    if getattr(parsed, "rest", ()):
        stated["mlm_arguments"] = tuple(parsed.rest)
    directives = read_directives(parsed.sbatch) | {key.lstrip("-"): False for key in parsed.unset_sbatch}
    if directives:
        stated["sbatch"] = directives
    return parse(Request, stated, where=None, label=_option)


def _option(key: Sequence[str]) -> str:
    """Return the option that states a key of the request."""
    name = next((option for option, name in _NAMES.items() if name == key[0]), key[0])
    return {"recipe": "RECIPE", "assignments": "KEY=VALUE"}.get(name, f"--{name.replace('_', '-')}")


def read_directives(texts: Iterable[str]) -> dict[str, bool | int | str]:
    """Return the options of sbatch that KEY or KEY=VALUE words state; a word without a value is a flag."""
    found: dict[str, bool | int | str] = {}
    for text in texts:
        key, given, value = text.lstrip("-").partition("=")
        found[key] = value if given else True
    return found


RUN_HELP = "a name's newest run, a run id or its beginning, a Slurm job, a directory"
"""What RUN may be."""


def add_run_root(parser: argparse.ArgumentParser) -> None:
    """Add --run-root."""
    parser.add_argument("--run-root", metavar="DIR", help="directory of all runs (default: as for run and submit)")


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add --cluster of a command about runs."""
    text = "cluster profile whose run root is searched, also on another machine ([ssh])"
    complete(parser.add_argument("--cluster", metavar="NAME", help=text), "clusters")


def run_root_of(parsed: argparse.Namespace) -> str | None:
    """Return the run root that --run-root or the profile of --cluster names; None for that of `run` and `submit`.

    Raises ConfigError where both are given.
    """
    if not parsed.cluster:
        return parsed.run_root and str(parsed.run_root)
    from launcher._util.errors import ConfigError
    from launcher.api.locate import find_run_root

    if parsed.run_root:
        raise ConfigError("--cluster says where runs are as well", where="--run-root", hint="Leave one of them out.")
    return str(find_run_root(None, parsed.cluster))


def refuse_all_with_run_root(parsed: argparse.Namespace) -> None:
    """Raise ConfigError where --all and --run-root both say which directories of runs are meant."""
    from launcher._util.errors import ConfigError

    if parsed.all and parsed.run_root is not None:
        raise ConfigError("--run-root names one directory of runs", where="--all", hint="Leave one of them out.")


def add_store_cluster(parser: argparse.ArgumentParser) -> None:
    """Add --cluster for commands about images."""
    complete(
        parser.add_argument("--cluster", metavar="NAME", help="profile whose store is meant (default: as for run)"),
        "clusters",
    )


def add_job(parser: argparse.ArgumentParser) -> None:
    """Add --in-job-on and the options of its job."""
    job = parser.add_argument_group("in a job")
    add = job.add_argument
    complete(add("--in-job-on", metavar="CLUSTER", help="do it in a job on a compute node of this cluster"), "clusters")
    add("--cpus", metavar="N", type=count, help="CPUs of that job (default: 8)")
    add("--time", metavar="T", help="its time limit in Slurm's notation (default: 4 hours)")
    add("--partition", metavar="NAME", help="its partition (default: the profile's)")
    add("--account", metavar="NAME", help="its account (default: the profile's)")
    add("--sbatch", metavar="KEY[=VALUE]", action="append", default=[], help="a further option of sbatch; repeatable")


def read_job(parsed: argparse.Namespace) -> "TaskJobOptions | None":
    """Return the job that --in-job-on asks for, None without it. Raises ConfigError for options of a job without it."""
    named = {key: getattr(parsed, key) for key in ("time", "partition", "account")}
    stated = {key: value for key, value in named.items() if value is not None}
    if not parsed.in_job_on:
        without_effect = [*(["cpus"] if parsed.cpus else []), *stated, *(["sbatch"] if parsed.sbatch else [])]
        if without_effect:
            from launcher._util.errors import ConfigError

            raise ConfigError(
                "it is an option of the job of --in-job-on, which is not given",
                where=f"--{without_effect[0]}",
                hint="Add --in-job-on CLUSTER, or leave it out.",
            )
        return None
    from launcher.api.task_job import TaskJobOptions

    return TaskJobOptions(parsed.in_job_on, parsed.cpus or 8, {**stated, **read_directives(parsed.sbatch)})
