"""Native mode: the recipe, and what each field becomes: overrides, options, a note."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import ConfigError
from launcher.cloudai.cmd_args import FIELDS
from launcher.cloudai.native import NativeRun, translate
from launcher.cloudai.recipe_names import recipe_name, variants
from launcher.contract.values import text_of
from launcher.discovery.recipe_index import load_index
from tests.cloudai.files import args_test

INDEX = load_index("0.6.2")
NO_EFFECT = "has no effect"

FSDP = (
    *("ddp.use_megatron_fsdp=true", "ddp.data_parallel_sharding_strategy=optim_grads_params"),
    *(
        "ddp.keep_fp8_transpose_cache=false",
        "ddp.average_in_collective=false",
        "model.init_model_with_meta_device=true",
    ),
    "model.gradient_accumulation_fusion=true",
)
PROFILED = {"enable_nsys": True}

BECOMES: Mapping[str, list[tuple[dict[str, Any], tuple[str, ...]]]] = {
    "hidden_size": [({"hidden_size": 64}, ("model.hidden_size=64",))],
    "num_layers": [({"num_layers": 4}, ("model.num_layers=4",))],
    "pipeline_model_parallel_layout": [
        ({"pipeline_model_parallel_layout": "Et|tL"}, ('model.pipeline_model_parallel_layout="Et|tL"',))
    ],
    "first_k_dense_replace": [({"num_layers": 3, "first_k_dense_replace": 1}, ("model.moe_layer_freq=[0,1,1]",))],
    "use_tokendrop": [
        (
            {"use_tokendrop": True},
            (
                *("model.moe_expert_capacity_factor=1.0", "model.moe_pad_expert_input_to_capacity=true"),
                "model.moe_router_force_load_balancing=false",
            ),
        ),
        (
            {"use_tokendrop": False},
            (
                *("model.moe_expert_capacity_factor=null", "model.moe_pad_expert_input_to_capacity=false"),
                "model.moe_router_force_load_balancing=true",
            ),
        ),
    ],
    "use_megatron_fsdp": [({"use_megatron_fsdp": True}, FSDP)],
    "nccl_ub": [
        (
            {"nccl_ub": True, "use_megatron_fsdp": True},
            (
                *("ddp.nccl_ub=true", "ddp.average_in_collective=false", "ddp.fsdp_manual_registration=true"),
                *('env_vars.NCCL_NVLS_ENABLE="1"', 'env_vars.NCCL_CTA_POLICY="1"'),
            ),
        )
    ],
    "cuda_graph_impl": [
        (
            {"cuda_graph_impl": "transformer_engine"},
            ("model.cuda_graph_impl=transformer_engine", "rng.te_rng_tracker=true", "model.use_te_rng_tracker=true"),
        ),
        ({"cuda_graph_impl": "none"}, ('model.cuda_graph_impl="none"', "model.cuda_graph_modules=[]")),
    ],
    "cuda_graph_scope": [
        ({"cuda_graph_scope": "[attn, moe_router]"}, ("model.cuda_graph_modules=[attn,moe_router]",)),
        (
            {"cuda_graph_impl": "local", "cuda_graph_scope": "full_iteration"},
            ("model.cuda_graph_impl=full_iteration", "rerun_state_machine.check_for_nan_in_loss=false"),
        ),
    ],
    "tp": [
        (
            {"tp": 2},
            (
                *("model.tensor_model_parallel_size=2", "model.sequence_parallel=true"),
                'env_vars.CUDA_DEVICE_MAX_CONNECTIONS="1"',
            ),
        ),
        ({"tp": 1}, ("model.sequence_parallel=false", 'env_vars.CUDA_DEVICE_MAX_CONNECTIONS="32"')),
    ],
    "pp": [({"pp": 2}, ("model.pipeline_model_parallel_size=2",))],
    "cp": [({"cp": 2}, ("model.context_parallel_size=2", 'env_vars.CUDA_DEVICE_MAX_CONNECTIONS="1"'))],
    "vp": [
        ({"vp": 2}, ("model.virtual_pipeline_model_parallel_size=2",)),
        ({"vp": 1}, ("model.virtual_pipeline_model_parallel_size=null",)),
    ],
    "ep": [
        (
            {"ep": 16},
            (
                "model.expert_model_parallel_size=16",
                'env_vars.NUM_OF_HYBRID_EP_RANKS_PER_NVLINK_DOMAIN="8"',
            ),
        )
    ],
    "et": [({"et": 2}, ("model.expert_tensor_parallel_size=2",))],
    "mb": [({"mb": 2}, ("train.micro_batch_size=2",))],
    "gb": [({"gb": 32}, ("train.global_batch_size=32",))],
    "seq_length": [({"seq_length": 1024}, ("model.seq_length=1024", "dataset.seq_length=1024"))],
    "lr": [({"lr": 3e-4}, ("optimizer.lr=0.0003",))],
    "min_lr": [({"min_lr": 1e-5}, ("optimizer.min_lr=1e-05",))],
    "warmup_iters": [({"warmup_iters": 3}, ("scheduler.lr_warmup_iters=3",))],
    "pretrained_checkpoint": [({"pretrained_checkpoint": "/c"}, ("checkpoint.pretrained_checkpoint=/c",))],
    "save_dir": [
        ({"save_dir": "/nemo_run/c", "max_steps": 9}, ("checkpoint.save=/case/c", "checkpoint.save_interval=9")),
        ({"save_dir": "/s", "save_interval": 5}, ("checkpoint.save=/s", "checkpoint.save_interval=5")),
    ],
    "load_dir": [({"load_dir": "/l"}, ("checkpoint.load=/l",))],
    "save_interval": [({"save_interval": 5}, ("checkpoint.save_interval=5",))],
    "most_recent_k": [({"most_recent_k": 2}, ("checkpoint.most_recent_k=2",))],
    "save_config_filepath": [
        ({"save_config_filepath": "/nemo_run/x.yaml"}, ("logger.save_config_filepath=/case/x.yaml",))
    ],
    "data": [({"data": "squad", "dataset_root": "/none"}, ("data=hf:squad", "dataset.hf_output_root=/none"))],
    "dataset_root": [({"data": "squad", "dataset_root": "/none"}, ("dataset.hf_output_root=/none",))],
    "dataset_paths": [
        (
            {"data": "rp2", "dataset_paths": ["/a", "/b"], "index_mapping_dir": "/i"},
            ("data=/a,/b", "dataset.path_to_cache=/i"),
        )
    ],
    "index_mapping_dir": [
        ({"data": "rp2", "dataset_paths": "/a", "index_mapping_dir": "/i"}, ("data=/a", "dataset.path_to_cache=/i"))
    ],
    "packed_sequence": [
        (
            {"data": "squad", "dataset_root": "/none", "packed_sequence": True, "seq_length": 2048, "cp": 2},
            (
                "dataset.enable_offline_packing=true",
                "dataset.dataset_kwargs={pad_to_max_length:true}",
                "dataset.offline_packing_specs.packed_sequence_size=2048",
                "dataset.offline_packing_specs.pad_seq_to_mult=4",
            ),
        ),
        (
            {"data": "squad_packed", "dataset_root": "/none", "cuda_graph_impl": "local"},
            (
                "dataset.enable_offline_packing=true",
                "dataset.offline_packing_specs.pad_seq_to_mult=1",
                "dataset.offline_packing_specs.pad_cu_seqlens=true",
            ),
        ),
        (
            {"data": "squad", "dataset_root": "/none"},
            (
                "dataset.enable_offline_packing=false",
                "dataset.offline_packing_specs=null",
                "dataset.dataset_kwargs={}",
            ),
        ),
    ],
    "tokenizer_type": [({"tokenizer_type": "NullTokenizer"}, ("tokenizer.tokenizer_type=NullTokenizer",))],
    "tokenizer_model": [
        (
            {"tokenizer_type": "HuggingFaceTokenizer", "tokenizer_model": "a/b"},
            ("tokenizer.tokenizer_type=HuggingFaceTokenizer", "tokenizer.tokenizer_model=a/b"),
        )
    ],
    "vocab_size": [({"tokenizer_type": "NullTokenizer", "vocab_size": 99}, ("tokenizer.vocab_size=99",))],
    "record_memory_history": [
        ({"pytorch_profiler": True, "record_memory_history": True}, ("profiling.record_memory_history=true",))
    ],
    "moe_a2a_overlap": [
        (
            {"moe_a2a_overlap": True},
            (
                *("comm_overlap.overlap_moe_expert_parallel_comm=true", "comm_overlap.delay_wgrad_compute=true"),
                "model.moe_shared_expert_overlap=false",
            ),
        )
    ],
    "max_steps": [({"max_steps": 7}, ("train.train_iters=7",))],
    "recompute_num_layers": [
        (
            {"recompute_num_layers": 2},
            (
                *("model.recompute_granularity=full", "model.recompute_method=block"),
                "model.recompute_num_layers=2",
            ),
        )
    ],
    "activation_offload_layers": [
        (
            {"activation_offload_layers": 2},
            ("model.cpu_offloading=true", "model.cpu_offloading_weights=false", "model.cpu_offloading_num_layers=2"),
        )
    ],
    "recompute_modules": [
        (
            {"recompute_modules": "core_attn,mlp"},
            ("model.recompute_modules=[core_attn,mlp]", "model.recompute_granularity=selective"),
        )
    ],
}
"""Fields that become overrides."""

OPTIONS: Mapping[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {
    "enable_nsys": [({"enable_nsys": True}, {"nsys": True, "profile_steps": "10:11"})],
    "pytorch_profiler": [({"pytorch_profiler": True}, {"profiler": "torch", "profile_steps": "10:11"})],
    "profiling_start_step": [({**PROFILED, "profiling_start_step": 20}, {"profile_steps": "20:21"})],
    "profiling_stop_step": [({**PROFILED, "profiling_stop_step": 15}, {"profile_steps": "10:15"})],
    "profiling_gpu_metrics": [({**PROFILED, "profiling_gpu_metrics": True}, {"gpu_metrics": True})],
    "profiling_ranks": [({**PROFILED, "profiling_ranks": [0, 8]}, {"profile_ranks": "0,8"})],
    "nsys_trace": [({**PROFILED, "nsys_trace": "cuda, nvtx"}, {"nsys_trace": "cuda,nvtx"})],
    "nsys_extra_args": [({**PROFILED, "nsys_extra_args": "--a=1,--b"}, {"nsys_args": ("--a=1", "--b")})],
    "load_dir": [({"load_dir": "/l"}, {"allow_checkpoint_load": True})],
    "max_retries": [({"max_retries": 2}, {"keep_going": True}), ({"max_retries": 0}, {"keep_going": False})],
}
"""Fields that become options of the launcher."""

NOTES: Mapping[str, list[tuple[dict[str, Any], str]]] = {
    "log_dir": [({"log_dir": "/l"}, NO_EFFECT)],
    "enable_vboost": [({"enable_vboost": True}, NO_EFFECT)],
    "domain": [({"domain": "vlm"}, "chosen by the recipe's model")],
    "model_family_name": [({}, "names of Bridge's recipes do not contain it")],
    "fp8_recipe": [({"fp8_recipe": "mxfp8"}, NO_EFFECT)],
    "first_k_dense_replace": [({"first_k_dense_replace": 1}, NO_EFFECT)],
    "cuda_graph_scope": [({"cuda_graph_impl": "none", "cuda_graph_scope": "attn"}, NO_EFFECT)],
    "save_interval": [({"save_interval": 5}, "go into the run directory")],
    "data": [({"data": "mock"}, "the recipe has mock data")],
    "dataset_name": [({"dataset_name": "n"}, NO_EFFECT)],
    "dataset_paths": [({"dataset_paths": "/a"}, NO_EFFECT)],
    "dataset_root": [({"dataset_root": "/a"}, NO_EFFECT)],
    "index_mapping_dir": [({"index_mapping_dir": "/a"}, NO_EFFECT)],
    "packed_sequence": [
        ({"packed_sequence": True}, NO_EFFECT),
        ({"data": "squad", "dataset_root": "/none", "packed_sequence": True}, "there data=squad_packed packs"),
    ],
    "head_only": [({"head_only": True}, NO_EFFECT)],
    "tokenizer_model": [({"tokenizer_model": "a/b"}, NO_EFFECT)],
    "vocab_size": [({"vocab_size": 9}, NO_EFFECT)],
    "profiling_start_step": [({"profiling_start_step": 3}, NO_EFFECT)],
    "profiling_stop_step": [({"profiling_stop_step": 3}, NO_EFFECT)],
    "record_memory_history": [({"record_memory_history": True}, NO_EFFECT)],
    "profiling_gpu_metrics": [({"profiling_gpu_metrics": True}, NO_EFFECT)],
    "profiling_ranks": [({"profiling_ranks": 0}, NO_EFFECT)],
    "nsys_trace": [({"nsys_trace": "cuda"}, NO_EFFECT)],
    "nsys_extra_args": [({"nsys_extra_args": "--a"}, NO_EFFECT)],
    "num_distributed_optimizer_instances": [({"num_distributed_optimizer_instances": 1}, NO_EFFECT)],
    "wandb_project_name": [({"wandb_project_name": "p"}, NO_EFFECT)],
    "wandb_entity_name": [({"wandb_entity_name": "p"}, NO_EFFECT)],
    "wandb_experiment_name": [({"wandb_experiment_name": "p"}, NO_EFFECT)],
    "wandb_save_dir": [({"wandb_save_dir": "p"}, NO_EFFECT)],
}
"""Fields of which something is said."""

RECIPES: Mapping[str, list[tuple[dict[str, Any], str]]] = {
    "gpu_type": [({"gpu_type": "gb200", "num_gpus": 8, "compute_dtype": "fp8_mx"}, "pretrain_8gpu_gb200_fp8mx")],
    "num_gpus": [({"num_gpus": 64}, "pretrain_64gpu_h100_fp8cs")],
    "model_recipe_name": [({}, "qwen3_30b_a3b_pretrain_16gpu_h100_fp8cs_config")],
    "use_recipes": [({"use_recipes": True}, "bridge:qwen3_30b_a3b_pretrain_config")],
    "task": [
        ({"use_recipes": True, "task": "lora"}, "bridge:qwen3_30b_a3b_peft_config"),
        ({"use_recipes": True, "task": "sft"}, "bridge:qwen3_30b_a3b_sft_config"),
    ],
    "compute_dtype": [({"compute_dtype": "bf16"}, "pretrain_16gpu_h100_bf16")],
    "config_variant": [
        ({"config_variant": "v2"}, "pretrain_16gpu_h100_fp8cs_config"),
        ({"config_variant": "dev", "num_gpus": 32, "compute_dtype": "bf16"}, "pretrain_32gpu_h100_bf16_dev_config"),
    ],
}
"""Fields that choose the recipe."""

ELSEWHERE = {
    "container_image": "test_cases.py::test_what_containers_get",
    "dryrun": "test_cases.py::test_a_dry_run_plans_only",
    "hf_token": "test_environment.py",
    "wandb_key": "test_environment.py",
    "list_config_variants": "test_command.py",
    "nemo_home": "test_nemo_home_is_a_variable",
}


def run_of(values: Mapping[str, Any], **more: Any) -> NativeRun:
    return translate(args_test(**values), INDEX, gpus_per_node=8, nemo_run=Path("/case"), **more)


def test_each_field_means_something() -> None:
    assert set(BECOMES) | set(OPTIONS) | set(NOTES) | set(RECIPES) | set(ELSEWHERE) == set(FIELDS)


@pytest.mark.parametrize(("values", "overrides"), [pair for pairs in BECOMES.values() for pair in pairs])
def test_a_field_as_overrides(values: dict[str, Any], overrides: tuple[str, ...]) -> None:
    found, without = run_of(values).assignments, run_of({}).assignments
    for override in overrides:
        assert override in found
        assert override not in without


@pytest.mark.parametrize(("values", "options"), [pair for pairs in OPTIONS.values() for pair in pairs])
def test_a_field_as_options(values: dict[str, Any], options: dict[str, Any]) -> None:
    found = run_of(values).options
    assert {name: found.get(name) for name in options} == options


@pytest.mark.parametrize(("field", "values", "text"), [(f, *pair) for f, pairs in NOTES.items() for pair in pairs])
def test_a_field_that_is_reported(field: str, values: dict[str, Any], text: str) -> None:
    assert [note for note in run_of(values).notes if note.field == f"cmd_args.{field}" and text in note.text]


@pytest.mark.parametrize(("values", "name"), [pair for pairs in RECIPES.values() for pair in pairs])
def test_a_field_chooses_the_recipe(values: dict[str, Any], name: str) -> None:
    assert name in run_of(values).recipe


def test_the_default_place_of_the_configuration_is_a_link() -> None:
    found = run_of({"save_config_filepath": "/nemo_run/configs/ConfigContainer.yaml"})
    assert not [text for text in found.assignments if "save_config" in text]


def test_what_is_not_stated_does_nothing() -> None:
    """Of a whole test in a scenario, defaults do not count."""
    assert run_of({}).assignments == (
        *("logger.tensorboard_dir=/case/tb_logs", "logger.log_timers_to_tensorboard=true"),
        *("logger.log_throughput_to_tensorboard=true", "logger.log_memory_to_tensorboard=true"),
    )


def test_a_recipe_for_other_gpus_is_scaled_as_bridge_does() -> None:
    """128 GPUs: pretraining fp8_cs on H100 comes from the recipe for 16, whose batch of 1024 grows by eight."""
    found = run_of({"num_gpus": 128})
    assert found.recipe == "bridge:qwen3_30b_a3b_pretrain_16gpu_h100_fp8cs_config"
    assert "train.global_batch_size=8192" in found.assignments
    assert any("Bridge has no recipe for 128 GPUs" in note.text for note in found.notes)
    # With TP 2 half as many ranks share the batch; a batch that is stated stays.
    assert "train.global_batch_size=4096" in run_of({"num_gpus": 128, "tp": 2}).assignments
    stated = run_of({"num_gpus": 128, "gb": 512}).assignments
    assert [text for text in stated if "global_batch" in text] == ["train.global_batch_size=512"]


def test_a_recipe_that_does_not_exist_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="has no recipe qwen3_30b_a3c_pretrain_16gpu_h100_fp8cs_config") as raised:
        run_of({"model_recipe_name": "qwen3_30b_a3c"})
    assert "qwen3_30b_a3b_pretrain_16gpu_h100_fp8cs_config" in str(raised.value.hint)


def test_fields_win_over_extra_cmd_args_and_env_vars_do_not() -> None:
    test = args_test(max_steps=5, tp=2)
    extra = {"train.train_iters": "9", "env_vars.CUDA_DEVICE_MAX_CONNECTIONS": "7", "model.x": "[1, 2]", "~a": ""}
    found = translate(test.model_copy(update={"extra_cmd_args": extra}), INDEX, gpus_per_node=8)
    assert "train.train_iters=5" in found.assignments
    assert "train.train_iters=9" not in found.assignments
    assert "env_vars.CUDA_DEVICE_MAX_CONNECTIONS=7" in found.assignments
    assert {"model.x=[1, 2]", "~a"} <= set(found.assignments)
    assert any(note.field == "extra_cmd_args.train.train_iters" for note in found.notes)


def test_nemo_run_stays_in_containers() -> None:
    found = translate(args_test(save_config_filepath="/nemo_run/x"), INDEX, gpus_per_node=8)
    assert "logger.save_config_filepath=/nemo_run/x" in found.assignments
    assert "logger.tensorboard_dir=/nemo_run/tb_logs" in found.assignments


@pytest.mark.parametrize(
    ("values", "extra", "sentence"),
    [
        ({"enable_nsys": True, "pytorch_profiler": True}, {}, "the two profilers do not work together"),
        ({"enable_nsys": True}, {"profiling.use_pytorch_profiler": "true"}, "extra_cmd_args.profiling.use_pytorch"),
        ({"data": "squad"}, {}, "needs dataset_root"),
        ({"data": "rp2"}, {}, "needs dataset_paths and index_mapping_dir"),
        ({"data": "c5"}, {}, "is not a data set of Bridge's scripts"),
        ({"tokenizer_type": "HuggingFaceTokenizer"}, {}, "needs tokenizer_model"),
    ],
)
def test_values_that_do_not_work_are_refused(values: dict[str, Any], extra: dict[str, str], sentence: str) -> None:
    test = args_test(**values).model_copy(update={"extra_cmd_args": extra})
    with pytest.raises(ConfigError, match=sentence):
        translate(test, INDEX, gpus_per_node=8)


def test_weights_and_biases_needs_a_key() -> None:
    values = {"wandb_project_name": "p", "wandb_experiment_name": "x", "wandb_save_dir": "/nemo_run/w"}
    found = run_of(values, wandb=True).assignments
    assert {"logger.wandb_project=p", "logger.wandb_exp_name=x", "logger.wandb_save_dir=/case/w"} <= set(found)
    assert not [text for text in run_of(values).assignments if "wandb" in text]
    with pytest.raises(ConfigError, match="wandb_key needs wandb_project_name and wandb_experiment_name"):
        run_of({"wandb_project_name": "p"}, wandb=True)


def test_samples_that_are_here_are_read_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "training.jsonl").write_text("{}\n")
    assert f"data={tmp_path}" in run_of({"data": "squad", "dataset_root": str(tmp_path)}).assignments


def test_fine_tuning_with_a_pipeline_gets_bridges_mapping() -> None:
    found = run_of({"model_recipe_name": "llama3_70b", "gpu_type": "gb200", "task": "lora", "num_gpus": 8, "pp": 2,
                    "compute_dtype": "bf16"})  # fmt: skip
    assert "dist.use_tp_pp_dp_mapping=true" in found.assignments
    assert "optimizer.use_precision_aware_optimizer=true" in found.assignments


def test_nemo_home_is_a_variable() -> None:
    assert run_of({"nemo_home": "/nemo"}).environment == {"NEMO_HOME": "/nemo"}


def test_unknown_fields_are_reported_with_the_nearest_name() -> None:
    notes = {note.field: note.text for note in run_of({"max_step": 3, "gpus_per_node": 4}).notes}
    assert "did you mean max_steps?" in notes["cmd_args.max_step"]
    assert notes["cmd_args.gpus_per_node"] == "is 4 and has no effect: the system's gpus_per_node is 8"
    assert "cmd_args.gpus_per_node" not in {note.field for note in run_of({"gpus_per_node": 8}).notes}


def test_the_variants_of_a_recipe() -> None:
    args = args_test(gpu_type="gb200", num_gpus=16, compute_dtype="fp8_mx").cmd_args
    assert variants(args, INDEX) == ["paged_stash_dev", "partial_cg_dev"]
    assert variants(args_test().cmd_args, INDEX) == ["v1"]
    assert recipe_name(args, 16) == "qwen3_30b_a3b_pretrain_16gpu_gb200_fp8mx_config"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        ("attn", "attn"),
        ("none", '"none"'),
        ("1", '"1"'),
        ("a,b", '"a,b"'),
        ("/a/b-c.yaml", "/a/b-c.yaml"),
        ([1, "x"], "[1,x]"),
        ({"a": 1}, "{a:1}"),
        (1e-5, "1e-05"),
    ],
)
def test_values_as_overrides(value: object, text: str) -> None:
    assert text_of(value) == text
