"""cmd_args as arguments of Bridge's scripts/performance/setup_experiment.py, in CloudAI's order."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from launcher.cloudai.cmd_args import FIELDS, MegatronBridgeCmdArgs
from launcher.cloudai.models import System, Test
from launcher.contract.variables import references

Form = Literal["value", "switch", "boolean", "words", "commas"]
"""How a field is written: FLAG VALUE; FLAG where it is true; FLAG true|false; FLAG A B C; FLAG A,B,C."""

FORCED = ("model_family_name", "model_recipe_name", "num_gpus", "hf_token", "save_config_filepath")
"""Fields that are given whether the file states them or not."""

NOT_GIVEN = ("fp8_recipe", "num_distributed_optimizer_instances")
"""Fields for which setup_experiment.py has no flag."""

TOKEN = "env:HF_TOKEN"  # noqa: S105 - a name
KEY = "env:WANDB_API_KEY"
"""What stands in the place of a secret, so that no file and no command line has the value: the job has the variable of
this name from the environment of sbatch. A reference such as $HF_TOKEN would not do: the batch script of NeMo-Run
prints what it sets, and hands its arguments on."""

LOGGER = {
    "logger.tensorboard_dir": "/nemo_run/tb_logs",
    "logger.log_timers_to_tensorboard": "true",
    "logger.log_throughput_to_tensorboard": "true",
    "logger.log_memory_to_tensorboard": "true",
}
"""Overrides that every run gets; the user's own win."""

FLAGS: dict[str, tuple[str, Form]] = {
    "gpu_type": ("-g", "value"),
    "log_dir": ("-l", "value"),
    "container_image": ("-i", "value"),
    "compute_dtype": ("-c", "value"),
    "task": ("--task", "value"),
    "hf_token": ("-hf", "value"),
    "nemo_home": ("-nh", "value"),
    "wandb_key": ("-wdk", "value"),
    "wandb_project_name": ("-wdp", "value"),
    "wandb_entity_name": ("-wde", "value"),
    "wandb_experiment_name": ("-wdj", "value"),
    "wandb_save_dir": ("-wds", "value"),
    "max_retries": ("--max_retries", "value"),
    "dryrun": ("-d", "switch"),
    "num_gpus": ("-ng", "value"),
    "domain": ("--domain", "value"),
    "use_recipes": ("--use_recipes", "switch"),
    "enable_vboost": ("-vb", "boolean"),
    "model_family_name": ("-m", "value"),
    "model_recipe_name": ("-mr", "value"),
    "hidden_size": ("--hidden_size", "value"),
    "num_layers": ("--num_layers", "value"),
    "pipeline_model_parallel_layout": ("--pipeline_model_parallel_layout", "value"),
    "first_k_dense_replace": ("--first_k_dense_replace", "value"),
    "enable_nsys": ("-en", "switch"),
    "use_tokendrop": ("--use_tokendrop", "boolean"),
    "use_megatron_fsdp": ("--use_megatron_fsdp", "boolean"),
    "nccl_ub": ("--nccl_ub", "boolean"),
    "cuda_graph_impl": ("--cuda_graph_impl", "value"),
    "cuda_graph_scope": ("--cuda_graph_scope", "commas"),
    "tp": ("-tp", "value"),
    "pp": ("-pp", "value"),
    "cp": ("-cp", "value"),
    "vp": ("-vp", "value"),
    "ep": ("-ep", "value"),
    "et": ("-et", "value"),
    "mb": ("-mb", "value"),
    "gb": ("-gb", "value"),
    "seq_length": ("-sl", "value"),
    "moe_a2a_overlap": ("--moe_a2a_overlap", "boolean"),
    "max_steps": ("-ms", "value"),
    "recompute_num_layers": ("-rl", "value"),
    "activation_offload_layers": ("-ol", "value"),
    "recompute_modules": ("--recompute_modules", "commas"),
    "lr": ("--lr", "value"),
    "min_lr": ("--min_lr", "value"),
    "warmup_iters": ("--warmup_iters", "value"),
    "pretrained_checkpoint": ("--pretrained_checkpoint", "value"),
    "save_dir": ("--save_dir", "value"),
    "load_dir": ("--load_dir", "value"),
    "save_interval": ("--save_interval", "value"),
    "most_recent_k": ("--most_recent_k", "value"),
    "save_config_filepath": ("--save_config_filepath", "value"),
    "data": ("--data", "value"),
    "dataset_paths": ("--dataset_paths", "words"),
    "dataset_root": ("--dataset_root", "value"),
    "index_mapping_dir": ("--index_mapping_dir", "value"),
    "dataset_name": ("--dataset_name", "value"),
    "packed_sequence": ("--packed_sequence", "switch"),
    "head_only": ("--head_only", "switch"),
    "tokenizer_type": ("--tokenizer_type", "value"),
    "tokenizer_model": ("--tokenizer_model", "value"),
    "vocab_size": ("--vocab_size", "value"),
    "pytorch_profiler": ("-pyp", "boolean"),
    "profiling_start_step": ("--profiling_start_step", "value"),
    "profiling_stop_step": ("--profiling_stop_step", "value"),
    "record_memory_history": ("-mh", "boolean"),
    "profiling_gpu_metrics": ("--profiling_gpu_metrics", "switch"),
    "profiling_ranks": ("--profiling_ranks", "value"),
    "nsys_trace": ("--nsys_trace", "value"),
    "nsys_extra_args": ("--nsys_extra_args", "value"),
    "config_variant": ("-cv", "value"),
    "list_config_variants": ("--list_config_variants", "switch"),
}
"""The flag of each field, in the order in which CloudAI writes them."""

_FALSE_WHERE_NONE = ("enable_vboost", "moe_a2a_overlap")
"""Booleans of which a stated None is false."""


@dataclass(frozen=True)
class LaunchSettings:
    """What an execution adds to a test's own arguments."""

    account: str | None = None
    partition: str | None = None
    gpus_per_node: int | None = None
    time_limit: str | None = None
    image: str | None = None
    """The image's file or reference, where cmd_args names one."""
    mounts: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None
    slurm: tuple[str, ...] = ()
    """Further options of sbatch, `key=value` or `key`."""


def arguments(test: Test, placement: LaunchSettings) -> list[str]:
    """Return the arguments of setup_experiment.py, not quoted for a shell."""
    args, found = test.cmd_args, list[str]()
    if placement.account:
        found += ["-a", placement.account]
    if placement.partition:
        found += ["-p", placement.partition]
    for name in FLAGS:
        if name == "container_image":
            found += ["-t", placement.time_limit] if placement.time_limit else []
            if placement.image and args.is_stated(name):
                found += ["-i", placement.image]
        else:
            found += field_arguments(args, name)
        found += _behind(name, placement)
    return [*found, *(f"{key}={value}" if value else key for key, value in {**LOGGER, **test.extra_cmd_args}.items())]


def _behind(name: str, placement: LaunchSettings) -> Iterator[str]:
    """Yield what stands behind a field's flag and does not come from cmd_args."""
    if name == "num_gpus":
        if placement.gpus_per_node is not None:
            yield from ("-gn", str(placement.gpus_per_node))
        if placement.mounts:
            yield from ("-cm", ",".join(placement.mounts))
        for variable, value in sorted((placement.environment or {}).items()):
            yield from ("-cb", export(variable, value))
    elif name == "recompute_modules":
        yield from ("--detach", "false")
    elif name == "nsys_extra_args" and placement.slurm:
        yield from ("--additional_slurm_params", ";".join(placement.slurm))


_PLAIN = re.compile(r"(?:[A-Za-z0-9_@%+=:,./-]|\$\{[A-Za-z_]\w*\}|\$[A-Za-z_]\w*)*", re.ASCII)


def export(variable: str, value: str) -> str:
    """Return the command that sets a variable in the job, where references to others are replaced.

    CloudAI writes the value as it is. So it is here, unless bash would split it or run a part, or lose the quotes
    around the whole command, which Bridge hands to `bash -c '...'`.
    """
    if _PLAIN.fullmatch(value):
        return f"export {variable}={value}"
    parts = [
        _escaped(text) if name is None else f"${{{name}:-{_escaped(default)}}}" if default else f"${{{name}}}"
        for text, name, default in references(value)
    ]
    return f'export {variable}="{"".join(parts)}"'


def _escaped(text: str) -> str:
    """Return a text as it stands between double quotes inside of single ones."""
    return re.sub(r'([\\"`$])', r"\\\1", text).replace("'", "'\\''")


def field_arguments(args: MegatronBridgeCmdArgs, name: str) -> list[str]:
    """Return the arguments of one field: none where the file does not state it, but for FORCED."""
    if not args.is_stated(name) and name not in FORCED:
        return []
    flag, form = FLAGS[name]
    value = _value(args, name)
    if form == "switch":
        return [flag] if value else []
    if form == "boolean":
        return [] if value is None and name not in _FALSE_WHERE_NONE else [flag, "true" if value else "false"]
    if value is None or value in ("", []):
        return []
    if form == "words" and isinstance(value, list):
        return [flag, *map(str, value)]
    return [flag, ",".join(words(value)) if form == "commas" else _text(value)]


def _value(args: MegatronBridgeCmdArgs, name: str) -> Any:
    if name == "hf_token":
        return TOKEN
    value = getattr(args, name)
    if name == "wandb_key":
        return KEY if value else None
    if name == "vp" and value in (1, [1]):
        return "None"
    return value


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def words(value: Any) -> list[str]:
    """Return the words of `a,b`, `[a, b]`, `"a,b"` or a list, without quotes."""
    if isinstance(value, list):
        return [word for one in value if (word := str(one).strip().strip("\"'"))]
    text = str(value).strip().strip("\"'")
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    return [word for part in text.split(",") if (word := part.strip().strip("\"'"))]


def slurm_parameters(texts: Sequence[str | None]) -> list[str]:
    """Return the options in texts such as `--qos high --exclusive`, as `key=value` or `key`."""
    found = list[str]()
    for text in texts:
        tokens = shlex.split(text or "")
        for position, token in enumerate(tokens):
            if not token.startswith("--"):
                continue
            following = tokens[position + 1 : position + 2]
            if "=" in token or not following or following[0].startswith("--"):
                found.append(token[2:])
            else:
                found.append(f"{token[2:]}={following[0]}")
    return found


def launch_settings(
    test: Test,
    system: System,
    *,
    time_limit: str | None,
    image: str | None,
    bridge: str | None,
    environment: Mapping[str, str],
    nodelist: Sequence[str] = (),
    exclude: Sequence[str] = (),
    extra_srun_args: str | None = None,
    gpu_directives: bool = True,
) -> LaunchSettings:
    """Return what the system and the scenario add. `bridge` is the directory of the clone that is mounted."""
    mounts = [mount.strip() for mount in test.extra_container_mounts if mount.strip()]
    if bridge is not None and test.bridge.mount_as:
        mounts.append(f"{bridge}:{test.bridge.mount_as}")
    slurm = list[str]()
    if system.gpus_per_node and gpu_directives:
        slurm += [f"gpus-per-node={system.gpus_per_node}", f"gres=gpu:{system.gpus_per_node}"]
    if nodelist:
        slurm.append(f"nodelist={','.join(nodelist)}")
    elif exclude:
        slurm.append(f"exclude={','.join(exclude)}")
    slurm += slurm_parameters([system.extra_srun_args, extra_srun_args])
    return LaunchSettings(
        account=system.account,
        partition=system.default_partition,
        gpus_per_node=system.gpus_per_node,
        time_limit=time_limit,
        image=image,
        mounts=tuple(mounts),
        environment=environment,
        slurm=tuple(slurm),
    )


def without_effect(args: MegatronBridgeCmdArgs) -> list[tuple[str, str]]:
    """Return the stated fields that change no argument, each with the reason."""
    found = [(name, "setup_experiment.py has no flag for it") for name in NOT_GIVEN if args.value(name) is not None]
    found += [
        (name, "without its flag setup_experiment.py does the same")
        for name, (_, form) in FLAGS.items()
        if form == "switch" and args.value(name) is False
    ]
    if args.value("packed_sequence"):
        found.append(
            ("packed_sequence", "setup_experiment.py takes the flag and reads it nowhere: data=squad_packed packs")
        )
    return [(name, reason) for name, reason in found if name in FIELDS]
