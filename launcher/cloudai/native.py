"""cmd_args as one of Megatron Bridge's recipes with overrides and options of the launcher, for Bridge 0.6 and later.

The overrides are those that the release's scripts/performance make of the same flags (run_script.py, utils/overrides.py
and perf_plugins.py of v0.6.0).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from launcher._util.errors import ConfigError
from launcher.cloudai.cmd_args import FIELDS, MegatronBridgeCmdArgs, Note
from launcher.cloudai.flags import LOGGER, words
from launcher.cloudai.models import Test
from launcher.cloudai.recipe_names import ChosenRecipe, precision_of, recipe_of, task_of
from launcher.contract.values import text_of
from launcher.discovery.recipe_index import Index

NEMO_RUN = "/nemo_run"
"""Where Bridge's scripts have the directory of a run's files."""

SAVED_CONFIG = f"{NEMO_RUN}/configs/ConfigContainer.yaml"
"""Where CloudAI looks for the configuration, by default."""

_PROFILED_STEPS = (10, 11)
"""What is profiled where a file does not say: the defaults of setup_experiment.py."""

_BLACKWELL = ("b200", "b300", "gb200", "gb300", "vr200")

_SIMPLE = {
    "hidden_size": "model.hidden_size",
    "pipeline_model_parallel_layout": "model.pipeline_model_parallel_layout",
    "pp": "model.pipeline_model_parallel_size",
    "cp": "model.context_parallel_size",
    "ep": "model.expert_model_parallel_size",
    "et": "model.expert_tensor_parallel_size",
    "mb": "train.micro_batch_size",
    "gb": "train.global_batch_size",
    "max_steps": "train.train_iters",
    "lr": "optimizer.lr",
    "min_lr": "optimizer.min_lr",
    "warmup_iters": "scheduler.lr_warmup_iters",
    "pretrained_checkpoint": "checkpoint.pretrained_checkpoint",
    "most_recent_k": "checkpoint.most_recent_k",
}
"""Fields that are one override."""


@dataclass(frozen=True)
class NativeRun:
    """What a test asks this launcher for."""

    recipe: str
    assignments: tuple[str, ...]
    options: Mapping[str, Any]
    """Fields of a request: nsys, profiler, profile_steps, keep_going, allow_checkpoint_load, ..."""
    environment: Mapping[str, str]
    """Variables of each rank that follow from cmd_args."""
    notes: tuple[Note, ...]
    plan_only: bool = False
    retries: int | None = None
    """How often a failed run is started again; None where the file does not say."""
    packed: bool = False
    """Whether samples of fine-tuning are packed."""


@dataclass
class _Builder:
    test: Test
    index: Index
    nemo_run: str
    assignments: dict[str, str] = field(default_factory=dict)
    """By key: the whole text."""
    options: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    retries: int | None = None
    allow_vboost: bool = False
    packed: str | None = None
    """The field because of which samples are packed; None where they are not."""
    own: frozenset[str] = frozenset()
    """Keys that extra_cmd_args states."""

    @property
    def args(self) -> MegatronBridgeCmdArgs:
        return self.test.cmd_args

    def set(self, key: str, value: Any, because: str) -> None:
        """State an override. One of a field is stronger than one of extra_cmd_args, but for env_vars."""
        if key in self.own:
            if key.startswith("env_vars."):
                return
            self.note(f"extra_cmd_args.{key}", f"is replaced by cmd_args.{because}, as in Bridge's scripts")
        self.assignments[key] = f"{key}={text_of(value)}"

    def env_var(self, name: str, value: object, because: str) -> None:
        """State a variable of the recipe's."""
        self.set(f"env_vars.{name}", str(value), because)

    def note(self, name: str, text: str, level: Literal["info", "warning"] = "warning") -> None:
        self.notes.append(Note(name, text, level))

    def path(self, text: str) -> str:
        """Return a path of the run's files: /nemo_run is the case's directory."""
        return self.nemo_run + text[len(NEMO_RUN) :] if text == NEMO_RUN or text.startswith(f"{NEMO_RUN}/") else text


def translate(
    test: Test,
    index: Index,
    *,
    gpus_per_node: int,
    nemo_run: Path | None = None,
    wandb: bool = False,
    retries: bool = True,
    allow_vboost: bool = False,
) -> NativeRun:
    """Return what a test asks for. `test` has no lists of a sweep left.

    `index` describes the recipes of the release that trains. `nemo_run` is the directory that replaces /nemo_run; None
    where containers have it under that name. `wandb` says whether a key for Weights & Biases is at hand, `retries`
    whether max_retries is more than CloudAI's default, `allow_vboost` whether the cluster profile lets a run change the
    GPUs' clocks. Raises ConfigError for a recipe that does not exist, and for
    values that exclude each other.
    """
    builder = _Builder(
        test,
        index,
        str(nemo_run) if nemo_run else NEMO_RUN,
        allow_vboost=allow_vboost,
        own=frozenset(test.extra_cmd_args),
    )
    _refuse_two_profilers(test)
    for key, value in LOGGER.items():
        if key not in test.extra_cmd_args:
            builder.assignments[key] = f"{key}={builder.path(value)}"
    for key, value in test.extra_cmd_args.items():
        builder.assignments[key] = f"{key}={builder.path(value)}" if value else key
    recipe = recipe_of(builder.args, index)
    _scaled_batch(builder, recipe)
    for name in FIELDS:
        handler = HANDLERS.get(name)
        value = builder.args.value(name)
        if handler is not None and value is not None and value != "" and (retries or name != "max_retries"):
            handler(builder, value)
    _packing(builder, recipe)
    _environment_of_sizes(builder, recipe)
    _wandb(builder, wandb)
    _of_the_precision(builder, recipe)
    for name, near in builder.args.unknown.items():
        _unknown_field(builder, name, near, gpus_per_node)
    for name, set_value in (("nsys", test.nsys), ("predictor", test.predictor)):
        if set_value is not None:
            more = ": cmd_args.enable_nsys turns nsys on" if name == "nsys" else ""
            builder.note(name, f"has no effect on a MegatronBridge test{more}")
    return NativeRun(
        recipe=f"bridge:{recipe.name}",
        assignments=tuple(builder.assignments.values()),
        options=builder.options,
        environment=builder.environment,
        notes=tuple(builder.notes) + recipe.notes,
        plan_only=bool(builder.args.dryrun),
        retries=builder.retries,
        packed=builder.packed is not None,
    )


def _refuse_two_profilers(test: Test) -> None:
    kineto = test.extra_cmd_args.get("profiling.use_pytorch_profiler", "").lower() == "true"
    if test.cmd_args.enable_nsys and (kineto or test.cmd_args.pytorch_profiler):
        other = "extra_cmd_args.profiling.use_pytorch_profiler" if kineto else "cmd_args.pytorch_profiler"
        raise ConfigError(
            f"cmd_args.enable_nsys and {other} are both true, and the two profilers do not work together",
            where="cmd_args",
            hint="Leave one of them out.",
        )


def _scaled_batch(b: _Builder, recipe: ChosenRecipe) -> None:
    """Keep the samples of each data-parallel rank, as Bridge does, unless a batch is stated."""
    key = "train.global_batch_size"
    base = recipe.values.get(key)
    if recipe.gpus is None or b.args.value("gb") is not None or key in b.own or not isinstance(base, int):
        return
    stated = {"tp": b.args.value("tp"), "pp": b.args.value("pp"), "cp": b.args.value("cp")}
    keys = {"tp": "tensor_model_parallel_size", "pp": _SIMPLE["pp"][6:], "cp": _SIMPLE["cp"][6:]}
    product_base = product = 1
    for short, name in keys.items():
        of_recipe = int(recipe.values.get(f"model.{name}") or 1)
        product_base *= of_recipe
        product *= int(stated[short] or of_recipe)
    scaled, rest = divmod(base * (b.args.num_gpus // product or 1), recipe.gpus // product_base or 1)
    if rest or not scaled:
        b.note("cmd_args.num_gpus", f"the global batch {base} cannot be scaled from {recipe.gpus} GPUs; state gb")
        return
    b.assignments[key] = f"{key}={scaled}"


Handler = Callable[[_Builder, Any], None]


def _override(name: str) -> Handler:
    def handle(b: _Builder, value: Any) -> None:
        b.set(_SIMPLE[name], value, name)

    return handle


def _no_effect(name: str, reason: str) -> Handler:
    def handle(b: _Builder, value: Any) -> None:
        if value is not False:
            b.note(f"cmd_args.{name}", f"has no effect: {reason}")

    return handle


def _info(name: str, text: str) -> Handler:
    def handle(b: _Builder, _value: Any) -> None:
        b.note(f"cmd_args.{name}", text, "info")

    return handle


def _tp(b: _Builder, value: int) -> None:
    b.set("model.tensor_model_parallel_size", value, "tp")
    b.set("model.sequence_parallel", value > 1, "tp")


def _vp(b: _Builder, value: int) -> None:
    b.set("model.virtual_pipeline_model_parallel_size", None if value == 1 else value, "vp")


def _seq_length(b: _Builder, value: int) -> None:
    b.set("model.seq_length", value, "seq_length")
    b.set("dataset.seq_length", value, "seq_length")


def _num_layers(b: _Builder, value: int) -> None:
    b.set("model.num_layers", value, "num_layers")


def _first_dense(b: _Builder, value: int) -> None:
    layers = b.args.value("num_layers")
    if layers is None:
        b.note("cmd_args.first_k_dense_replace", "has no effect: it needs num_layers, from which the pattern is made")
        return
    b.set("model.moe_layer_freq", [0] * value + [1] * (layers - value), "first_k_dense_replace")


def _vboost(b: _Builder, value: bool) -> None:
    if value and not b.allow_vboost:
        b.note("cmd_args.enable_vboost", "has no effect: the cluster profile does not state `allow_vboost = true`")


def _nsys(b: _Builder, value: bool) -> None:
    if value:
        b.options["nsys"] = True
        _profiled(b)
        if b.args.value("nsys_trace"):
            b.options["nsys_trace"] = ",".join(words(b.args.nsys_trace))
        if b.args.value("nsys_extra_args"):
            b.options["nsys_args"] = tuple(words(b.args.nsys_extra_args))
        if b.args.profiling_gpu_metrics:
            b.options["gpu_metrics"] = True


def _torch_profiler(b: _Builder, value: bool) -> None:
    if value:
        b.options["profiler"] = "torch"
        _profiled(b)
        if b.args.record_memory_history:
            b.set("profiling.record_memory_history", True, "record_memory_history")


def _profiled(b: _Builder) -> None:
    start = b.args.value("profiling_start_step")
    stop = b.args.value("profiling_stop_step")
    first = _PROFILED_STEPS[0] if start is None else start
    b.options["profile_steps"] = f"{first}:{max(first + 1, _PROFILED_STEPS[1]) if stop is None else stop}"
    ranks = b.args.value("profiling_ranks")
    if ranks is not None:
        b.options["profile_ranks"] = ",".join(map(str, ranks)) if isinstance(ranks, list) else str(ranks)


def _of_profilers(name: str, *, nsys: bool, torch: bool) -> Handler:
    def handle(b: _Builder, value: Any) -> None:
        active = (nsys and b.args.enable_nsys) or (torch and b.args.pytorch_profiler)
        if not active and value is not False:
            which = " or ".join([*(["enable_nsys"] if nsys else []), *(["pytorch_profiler"] if torch else [])])
            b.note(f"cmd_args.{name}", f"has no effect without {which}")

    return handle


def _fsdp(b: _Builder, value: bool) -> None:
    if not value:
        return
    name = "use_megatron_fsdp"
    b.set("ddp.use_megatron_fsdp", True, name)
    b.set("ddp.data_parallel_sharding_strategy", "optim_grads_params", name)
    b.set("ddp.keep_fp8_transpose_cache", False, name)
    b.set("ddp.average_in_collective", False, name)
    b.set("model.init_model_with_meta_device", True, name)
    b.set("model.gradient_accumulation_fusion", True, name)


def _nccl_ub(b: _Builder, value: bool) -> None:
    if not value:
        return
    b.set("ddp.nccl_ub", True, "nccl_ub")
    b.set("ddp.average_in_collective", False, "nccl_ub")
    if b.args.value("use_megatron_fsdp"):
        b.set("ddp.fsdp_manual_registration", True, "nccl_ub")
    b.env_var("NCCL_NVLS_ENABLE", 1, "nccl_ub")
    b.env_var("NCCL_CTA_POLICY", 1, "nccl_ub")


def _token_drop(b: _Builder, value: bool) -> None:
    b.set("model.moe_expert_capacity_factor", 1.0 if value else None, "use_tokendrop")
    b.set("model.moe_pad_expert_input_to_capacity", value, "use_tokendrop")
    b.set("model.moe_router_force_load_balancing", not value, "use_tokendrop")


def _graph_impl(b: _Builder, value: str) -> None:
    impl = value.strip().lower()
    impl = "none" if impl in ("", "null") else impl
    if words(b.args.value("cuda_graph_scope") or []) != ["full_iteration"] or impl == "none":
        b.set("model.cuda_graph_impl", impl, "cuda_graph_impl")
    b.set("rng.te_rng_tracker", impl != "none", "cuda_graph_impl")
    b.set("model.use_te_rng_tracker", impl != "none", "cuda_graph_impl")
    if impl == "none":
        b.set("model.cuda_graph_modules", [], "cuda_graph_impl")


def _graph_scope(b: _Builder, value: Any) -> None:
    if str(b.args.value("cuda_graph_impl") or "").strip().lower() in ("none", "null"):
        b.note("cmd_args.cuda_graph_scope", "has no effect: cuda_graph_impl is none")
    elif words(value) == ["full_iteration"]:
        b.set("model.cuda_graph_impl", "full_iteration", "cuda_graph_scope")
        b.set("model.cuda_graph_modules", [], "cuda_graph_scope")
        b.set("rerun_state_machine.check_for_nan_in_loss", False, "cuda_graph_scope")
    else:
        b.set("model.cuda_graph_modules", words(value), "cuda_graph_scope")


def _overlap(b: _Builder, value: bool) -> None:
    if value:
        b.set("comm_overlap.overlap_moe_expert_parallel_comm", True, "moe_a2a_overlap")
        b.set("comm_overlap.delay_wgrad_compute", True, "moe_a2a_overlap")
        b.set("model.moe_shared_expert_overlap", False, "moe_a2a_overlap")


def _recompute_layers(b: _Builder, value: int) -> None:
    b.set("model.recompute_granularity", "full", "recompute_num_layers")
    b.set("model.recompute_method", "block", "recompute_num_layers")
    b.set("model.recompute_num_layers", value, "recompute_num_layers")


def _recompute_modules(b: _Builder, value: Any) -> None:
    b.set("model.recompute_modules", words(value), "recompute_modules")
    b.set("model.recompute_granularity", "selective", "recompute_modules")


def _offload(b: _Builder, value: int) -> None:
    if value > 0:
        b.set("model.cpu_offloading", True, "activation_offload_layers")
        b.set("model.cpu_offloading_weights", False, "activation_offload_layers")
        b.set("model.cpu_offloading_num_layers", value, "activation_offload_layers")


def _save_dir(b: _Builder, value: str) -> None:
    b.set("checkpoint.save", b.path(value), "save_dir")
    if b.args.value("save_interval") is None and (steps := b.args.value("max_steps")) is not None:
        b.set("checkpoint.save_interval", steps, "save_dir")


def _save_interval(b: _Builder, value: int) -> None:
    b.set("checkpoint.save_interval", value, "save_interval")
    if b.args.value("save_dir") is None:
        b.note("cmd_args.save_interval", "checkpoints go into the run directory, not to /nemo_run/checkpoints", "info")


def _load_dir(b: _Builder, value: str) -> None:
    b.set("checkpoint.load", b.path(value), "load_dir")
    b.options["allow_checkpoint_load"] = True


def _save_config(b: _Builder, value: str) -> None:
    """Leave the default to the launcher, whose own record of the configuration is linked there with the reports."""
    if value != SAVED_CONFIG:
        b.set("logger.save_config_filepath", b.path(value), "save_config_filepath")


def _data(b: _Builder, value: str) -> None:
    if value == "mock":
        b.note("cmd_args.data", "the recipe has mock data", "info")
    elif value in ("squad", "squad_packed"):
        _squad(b, packed=value == "squad_packed" or bool(b.args.value("packed_sequence")))
    elif value == "rp2":
        paths = b.args.value("dataset_paths")
        if not paths or b.args.value("index_mapping_dir") is None:
            raise ConfigError("cmd_args.data=rp2 needs dataset_paths and index_mapping_dir", where="cmd_args")
        b.assignments["data"] = f"data={','.join(paths) if isinstance(paths, list) else paths}"
        b.set("dataset.path_to_cache", b.args.index_mapping_dir, "index_mapping_dir")
    else:
        raise ConfigError(
            f"cmd_args.data={value} is not a data set of Bridge's scripts",
            where="cmd_args",
            hint="Known: mock, rp2, squad, squad_packed.",
        )


def _squad(b: _Builder, *, packed: bool) -> None:
    root = b.args.value("dataset_root")
    if root is None:
        raise ConfigError(f"cmd_args.data={b.args.data} needs dataset_root", where="cmd_args")
    # A directory with the samples is read as it is: without a network nothing could be fetched into it.
    here = Path(root)
    if any(here.glob("*.jsonl")):
        b.assignments["data"] = f"data={root}"
    else:
        b.assignments["data"] = "data=hf:squad"
        b.set("dataset.hf_output_root", root, "dataset_root")
    # The recipes of Bridge pack by default, its scripts only where they are asked to.
    because = "packed_sequence" if packed and b.args.data == "squad" else "data"
    b.set("dataset.enable_offline_packing", packed, because)
    b.set("dataset.dataset_kwargs", {"pad_to_max_length": True} if packed else {}, because)
    if packed:
        b.packed = because
    else:
        b.set("dataset.offline_packing_specs", None, because)
    if because == "packed_sequence":
        b.note(
            "cmd_args.packed_sequence",
            "packs the samples; setup_experiment.py takes the flag and reads it nowhere: there data=squad_packed packs",
        )


def _packing(b: _Builder, recipe: ChosenRecipe) -> None:
    """State how samples are packed, as Bridge's scripts do for data=squad_packed (utils/overrides.py of v0.6.0)."""
    if b.packed is None:
        return
    key = "dataset.offline_packing_specs"
    cp = int(b.args.value("cp") or recipe.values.get("model.context_parallel_size") or 1)
    b.set(f"{key}.pad_seq_to_mult", 2 * cp if cp > 1 else 1, b.packed)
    if (length := b.args.value("seq_length")) is not None:
        b.set(f"{key}.packed_sequence_size", length, b.packed)
    graphs = str(b.args.value("cuda_graph_impl") or recipe.values.get("model.cuda_graph_impl") or "none")
    if graphs.strip().lower() not in ("none", "null"):
        b.set(f"{key}.pad_cu_seqlens", True, b.packed)


def _of_data(name: str, *kinds: str) -> Handler:
    def handle(b: _Builder, value: Any) -> None:
        if value is not False and (b.args.value("data") or "mock") not in kinds:
            which = " or ".join(kinds) or "any of Bridge's data sets"
            b.note(f"cmd_args.{name}", f"has no effect: it belongs to data={which}")

    return handle


def _tokenizer(b: _Builder, value: str) -> None:
    b.set("tokenizer.tokenizer_type", value, "tokenizer_type")
    if value == "NullTokenizer":
        if b.args.value("vocab_size") is not None:
            b.set("tokenizer.vocab_size", b.args.vocab_size, "vocab_size")
    elif b.args.value("tokenizer_model") is None:
        raise ConfigError(f"cmd_args.tokenizer_type={value} needs tokenizer_model", where="cmd_args")
    else:
        b.set("tokenizer.tokenizer_model", b.args.tokenizer_model, "tokenizer_model")


def _of_tokenizer(name: str, kinds: tuple[str, ...]) -> Handler:
    def handle(b: _Builder, _value: Any) -> None:
        if b.args.value("tokenizer_type") not in kinds:
            b.note(f"cmd_args.{name}", f"has no effect without tokenizer_type={' or '.join(kinds)}")

    return handle


def _retries(b: _Builder, value: int) -> None:
    b.retries = value
    b.options["keep_going"] = value > 0


def _nemo_home(b: _Builder, value: str) -> None:
    b.environment["NEMO_HOME"] = value


def _wandb(b: _Builder, at_hand: bool) -> None:
    keys = {
        "wandb_project_name": "logger.wandb_project",
        "wandb_entity_name": "logger.wandb_entity",
        "wandb_experiment_name": "logger.wandb_exp_name",
        "wandb_save_dir": "logger.wandb_save_dir",
    }
    stated = {name: value for name in keys if (value := b.args.value(name))}
    if not at_hand:
        for name in stated:
            b.note(f"cmd_args.{name}", "has no effect: there is no wandb_key, nor WANDB_API_KEY in this shell", "info")
        return
    if stated and not {"wandb_project_name", "wandb_experiment_name"} <= stated.keys():
        raise ConfigError("wandb_key needs wandb_project_name and wandb_experiment_name", where="cmd_args")
    for name, value in stated.items():
        b.set(keys[name], b.path(value), name)


def _environment_of_sizes(b: _Builder, recipe: ChosenRecipe) -> None:
    """Adapt variables that go with sizes which cmd_args change, as run_script.py does (flat recipes only)."""
    if b.args.use_recipes:
        return
    backend = recipe.values.get("model.moe_flex_dispatcher_backend")
    _connections(b, recipe, backend)
    ep, gpu = b.args.value("ep"), b.args.gpu_type.lower()
    if ep is not None and backend == "hybridep":
        ranks = min(ep, 8) if gpu in ("h100", "b200", "b300") else ep
        b.env_var("NUM_OF_HYBRID_EP_RANKS_PER_NVLINK_DOMAIN", ranks, "ep")
    if b.args.value("pp") is not None:
        _chunk_size(b, recipe)
    size = int(b.args.value("pp") or recipe.values.get("model.pipeline_model_parallel_size") or 1)
    if task_of(b.args.task) == "peft" and size > 1 and not b.args.value("use_megatron_fsdp"):
        b.set("dist.use_tp_pp_dp_mapping", True, "task")
    special = next((one for one in ("deepseek_v3", "kimi_k2") if b.args.model_recipe_name == one), None)
    if special and b.args.value("pipeline_model_parallel_layout") is None:
        for name in ("pp", "vp"):
            if b.args.value(name) is not None:
                b.note(
                    f"cmd_args.{name}",
                    f"Bridge's scripts choose a pipeline layout of {special} for it; here the recipe's stays unless "
                    "pipeline_model_parallel_layout is stated",
                )


def _connections(b: _Builder, recipe: ChosenRecipe, backend: Any) -> None:
    if all(b.args.value(name) is None for name in ("tp", "cp", "moe_a2a_overlap")):
        return
    tp = int(b.args.value("tp") or recipe.values.get("model.tensor_model_parallel_size") or 1)
    cp = int(b.args.value("cp") or recipe.values.get("model.context_parallel_size") or 1)
    connections = 32 if backend in ("deepep", "hybridep") else 8
    if b.args.gpu_type.lower() in _BLACKWELL:
        connections = 32
    elif (tp > 1 or cp > 1) and not b.args.value("moe_a2a_overlap"):
        connections = 1
    because = next(name for name in ("tp", "cp", "moe_a2a_overlap") if b.args.value(name) is not None)
    b.env_var("CUDA_DEVICE_MAX_CONNECTIONS", connections, because)


def _chunk_size(b: _Builder, recipe: ChosenRecipe) -> None:
    name, llama = "NCCL_P2P_NET_CHUNKSIZE", b.args.model_family_name == "llama"
    large = b.args.model_recipe_name in ("llama3_70b", "llama31_405b") and b.args.task == "pretrain"
    if b.args.pp != 1 and llama and (large or b.args.task == "sft"):
        b.env_var(name, 2_097_152, "pp")
    elif name in recipe.env:
        # Bridge takes the variable away, which an override cannot: NCCL's own default is 128 KiB.
        b.env_var(name, 131_072, "pp")


def _of_the_precision(b: _Builder, recipe: ChosenRecipe) -> None:
    key = "optimizer.use_precision_aware_optimizer"
    flat = not b.args.use_recipes and not recipe.name.startswith("kimi")
    if flat and precision_of(b.args.compute_dtype) == "bf16" and key not in b.own:
        b.assignments[key] = f"{key}=true"


def _unknown_field(b: _Builder, name: str, near: str | None, gpus_per_node: int) -> None:
    if name == "gpus_per_node":
        value = (b.args.model_extra or {})[name]
        if value != gpus_per_node:
            b.note(
                "cmd_args.gpus_per_node", f"is {value} and has no effect: the system's gpus_per_node is {gpus_per_node}"
            )
        return
    b.note(f"cmd_args.{name}", f"is not a field, and has no effect{f'; did you mean {near}?' if near else ''}")


HANDLERS: dict[str, Handler] = {
    **{name: _override(name) for name in _SIMPLE},
    "log_dir": _no_effect("log_dir", "logs lie in the run directory"),
    "enable_vboost": _vboost,
    "enable_nsys": _nsys,
    "domain": _info("domain", "the forward step is chosen by the recipe's model"),
    "num_layers": _num_layers,
    "first_k_dense_replace": _first_dense,
    "model_family_name": _info("model_family_name", "names of Bridge's recipes do not contain it"),
    "fp8_recipe": _no_effect("fp8_recipe", "CloudAI does not use it either; compute_dtype says which"),
    "nemo_home": _nemo_home,
    "max_retries": _retries,
    "use_tokendrop": _token_drop,
    "use_megatron_fsdp": _fsdp,
    "cuda_graph_impl": _graph_impl,
    "cuda_graph_scope": _graph_scope,
    "tp": _tp,
    "vp": _vp,
    "seq_length": _seq_length,
    "save_dir": _save_dir,
    "load_dir": _load_dir,
    "save_interval": _save_interval,
    "save_config_filepath": _save_config,
    "data": _data,
    "dataset_paths": _of_data("dataset_paths", "rp2"),
    "dataset_root": _of_data("dataset_root", "squad", "squad_packed"),
    "index_mapping_dir": _of_data("index_mapping_dir", "rp2"),
    "dataset_name": _no_effect("dataset_name", "Bridge's scripts read it nowhere"),
    "packed_sequence": _of_data("packed_sequence", "squad", "squad_packed"),
    "head_only": _no_effect("head_only", "it chooses among paths of a cluster of NVIDIA's; state dataset_paths"),
    "tokenizer_type": _tokenizer,
    "tokenizer_model": _of_tokenizer("tokenizer_model", ("HuggingFaceTokenizer", "SentencePieceTokenizer")),
    "vocab_size": _of_tokenizer("vocab_size", ("NullTokenizer",)),
    "pytorch_profiler": _torch_profiler,
    "profiling_start_step": _of_profilers("profiling_start_step", nsys=True, torch=True),
    "profiling_stop_step": _of_profilers("profiling_stop_step", nsys=True, torch=True),
    "record_memory_history": _of_profilers("record_memory_history", nsys=False, torch=True),
    "profiling_gpu_metrics": _of_profilers("profiling_gpu_metrics", nsys=True, torch=False),
    "profiling_ranks": _of_profilers("profiling_ranks", nsys=True, torch=True),
    "nsys_trace": _of_profilers("nsys_trace", nsys=True, torch=False),
    "nsys_extra_args": _of_profilers("nsys_extra_args", nsys=True, torch=False),
    "nccl_ub": _nccl_ub,
    "moe_a2a_overlap": _overlap,
    "recompute_num_layers": _recompute_layers,
    "activation_offload_layers": _offload,
    "recompute_modules": _recompute_modules,
    "num_distributed_optimizer_instances": _no_effect(
        "num_distributed_optimizer_instances", "only the constraint checks look at it, as in CloudAI"
    ),
}
"""What each field does, once the recipe is chosen."""
