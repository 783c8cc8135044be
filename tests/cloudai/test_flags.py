"""Exec mode: the arguments of setup_experiment.py, one golden value for each field.

349 tests and fields were compared with CloudAI's own command, argument by argument (docs/how-to/cloudai.md).
"""

import os
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest

from launcher.cloudai.cmd_args import FIELDS
from launcher.cloudai.flags import (
    FLAGS,
    LOGGER,
    NOT_GIVEN,
    LaunchSettings,
    arguments,
    export,
    field_arguments,
    launch_settings,
    slurm_parameters,
    without_effect,
)
from launcher.cloudai.models import System, Test
from launcher.contract.variables import expanded
from tests.cloudai.files import ARGS, BRIDGE, SYSTEM, TEST, args_test

GOLDEN: Mapping[str, list[tuple[Any, list[str]]]] = {
    "gpu_type": [("gb200", ["-g", "gb200"])],
    "log_dir": [("/logs", ["-l", "/logs"]), ("", [])],
    "container_image": [("x.sqsh", ["-i", "x.sqsh"])],
    "num_gpus": [(8, ["-ng", "8"])],
    "enable_vboost": [(True, ["-vb", "true"]), (False, ["-vb", "false"])],
    "dryrun": [(True, ["-d"]), (False, [])],
    "enable_nsys": [(True, ["-en"]), (False, [])],
    "domain": [("vlm", ["--domain", "vlm"])],
    "hidden_size": [(64, ["--hidden_size", "64"])],
    "num_layers": [(2, ["--num_layers", "2"])],
    "pipeline_model_parallel_layout": [("Et|tL", ["--pipeline_model_parallel_layout", "Et|tL"])],
    "first_k_dense_replace": [(1, ["--first_k_dense_replace", "1"])],
    "model_family_name": [("qwen", ["-m", "qwen"])],
    "model_recipe_name": [("qwen3", ["-mr", "qwen3"])],
    "use_recipes": [(True, ["--use_recipes"]), (False, [])],
    "task": [("sft", ["--task", "sft"])],
    "compute_dtype": [("nvfp4", ["-c", "nvfp4"])],
    "fp8_recipe": [("mxfp8", [])],
    "hf_token": [("canary", ["-hf", "env:HF_TOKEN"]), ("", ["-hf", "env:HF_TOKEN"])],
    "nemo_home": [("/nemo", ["-nh", "/nemo"])],
    "wandb_key": [("canary", ["-wdk", "env:WANDB_API_KEY"]), ("", [])],
    "wandb_project_name": [("p", ["-wdp", "p"])],
    "wandb_entity_name": [("e", ["-wde", "e"])],
    "wandb_experiment_name": [("x", ["-wdj", "x"])],
    "wandb_save_dir": [("/w", ["-wds", "/w"])],
    "max_retries": [(2, ["--max_retries", "2"])],
    "use_tokendrop": [(True, ["--use_tokendrop", "true"]), (False, ["--use_tokendrop", "false"])],
    "use_megatron_fsdp": [(True, ["--use_megatron_fsdp", "true"])],
    "cuda_graph_impl": [("local", ["--cuda_graph_impl", "local"])],
    "cuda_graph_scope": [("['attn', \"mlp\"]", ["--cuda_graph_scope", "attn,mlp"]), ("", [])],
    "tp": [(2, ["-tp", "2"])],
    "pp": [(2, ["-pp", "2"])],
    "cp": [(2, ["-cp", "2"])],
    "vp": [(2, ["-vp", "2"]), (1, ["-vp", "None"]), ([1], ["-vp", "None"])],
    "ep": [(2, ["-ep", "2"])],
    "et": [(2, ["-et", "2"])],
    "mb": [(2, ["-mb", "2"])],
    "gb": [(2, ["-gb", "2"])],
    "seq_length": [(4096, ["-sl", "4096"])],
    "lr": [(3e-4, ["--lr", "0.0003"])],
    "min_lr": [(1e-5, ["--min_lr", "1e-05"])],
    "warmup_iters": [(5, ["--warmup_iters", "5"])],
    "pretrained_checkpoint": [("/c", ["--pretrained_checkpoint", "/c"])],
    "save_dir": [("/s", ["--save_dir", "/s"])],
    "load_dir": [("/l", ["--load_dir", "/l"])],
    "save_interval": [(5, ["--save_interval", "5"])],
    "most_recent_k": [(1, ["--most_recent_k", "1"])],
    "save_config_filepath": [("/c.yaml", ["--save_config_filepath", "/c.yaml"])],
    "data": [("squad", ["--data", "squad"])],
    "dataset_paths": [("/a", ["--dataset_paths", "/a"]), (["/a", "/b"], ["--dataset_paths", "/a", "/b"])],
    "dataset_root": [("/d", ["--dataset_root", "/d"])],
    "index_mapping_dir": [("/i", ["--index_mapping_dir", "/i"])],
    "dataset_name": [("n", ["--dataset_name", "n"])],
    "packed_sequence": [(True, ["--packed_sequence"]), (False, [])],
    "head_only": [(True, ["--head_only"]), (False, [])],
    "tokenizer_type": [("NullTokenizer", ["--tokenizer_type", "NullTokenizer"])],
    "tokenizer_model": [("m", ["--tokenizer_model", "m"])],
    "vocab_size": [(100, ["--vocab_size", "100"])],
    "pytorch_profiler": [(True, ["-pyp", "true"]), (False, ["-pyp", "false"])],
    "profiling_start_step": [(3, ["--profiling_start_step", "3"])],
    "profiling_stop_step": [(4, ["--profiling_stop_step", "4"])],
    "record_memory_history": [(True, ["-mh", "true"])],
    "profiling_gpu_metrics": [(True, ["--profiling_gpu_metrics"]), (False, [])],
    "profiling_ranks": [([0, 4, 8], ["--profiling_ranks", "0,4,8"]), (3, ["--profiling_ranks", "3"])],
    "nsys_trace": [("cuda,nvtx", ["--nsys_trace", "cuda,nvtx"])],
    "nsys_extra_args": [("--x=1", ["--nsys_extra_args", "--x=1"])],
    "nccl_ub": [(True, ["--nccl_ub", "true"])],
    "moe_a2a_overlap": [(True, ["--moe_a2a_overlap", "true"]), (None, ["--moe_a2a_overlap", "false"])],
    "max_steps": [(7, ["-ms", "7"])],
    "recompute_num_layers": [(2, ["-rl", "2"])],
    "activation_offload_layers": [(2, ["-ol", "2"])],
    "recompute_modules": [
        ("core_attn, mlp", ["--recompute_modules", "core_attn,mlp"]),
        (["core_attn", "mlp"], ["--recompute_modules", "core_attn,mlp"]),
    ],
    "num_distributed_optimizer_instances": [(2, [])],
    "config_variant": [("v2", ["-cv", "v2"])],
    "list_config_variants": [(True, ["--list_config_variants"]), (False, [])],
}


def test_each_field_has_a_golden_value() -> None:
    assert set(GOLDEN) == set(FIELDS)
    assert set(FLAGS) | set(NOT_GIVEN) == set(FIELDS)


@pytest.mark.parametrize(("field", "value", "words"), [(f, *pair) for f, pairs in GOLDEN.items() for pair in pairs])
def test_a_field_as_arguments(field: str, value: object, words: list[str]) -> None:
    args = args_test(**{field: value}).cmd_args
    if field in NOT_GIVEN:
        assert (field, "setup_experiment.py has no flag for it") in without_effect(args)
    else:
        assert field_arguments(args, field) == words


@pytest.mark.parametrize("field", [name for name in FIELDS if name not in NOT_GIVEN])
def test_a_field_that_is_not_stated_is_left_out_unless_it_is_forced(field: str) -> None:
    stated = {name: value for name, value in ARGS.items() if name != field or field.startswith("model_")}
    args = Test.model_validate({**TEST, "cmd_args": stated}).cmd_args
    forced = ("hf_token", "num_gpus", "save_config_filepath")
    named = field.startswith("model_") or field in stated
    assert bool(field_arguments(args, field)) == (named or field in forced)


def test_the_whole_command() -> None:
    test = Test.model_validate(
        {
            **TEST,
            "git_repos": [{**BRIDGE, "mount_as": "/opt/Megatron-Bridge"}],
            "cmd_args": {
                **ARGS,
                "container_image": "i.sqsh",
                "recompute_modules": "mlp",
                "lr": 1.0,
                "config_variant": "v1",
            },
            "extra_container_mounts": ["/a:/b "],
            "extra_cmd_args": {"logger.tensorboard_dir": "/mine", "+flag": "", "model.x": "[1, 2]"},
        }
    )
    system = System.model_validate({**SYSTEM, "account": "acc", "extra_srun_args": "--qos high"})
    placed = launch_settings(
        test,
        system,
        time_limit="00:20:00",
        image="/images/i.sqsh",
        bridge="/install/Bridge",
        environment={"B": "${A} c", "A": "1"},
        nodelist=["n1", "n2"],
        extra_srun_args="--exclusive --comment x",
    )
    assert arguments(test, placed) == [
        *("-a", "acc", "-p", "main", "-g", "h100", "-t", "00:20:00", "-i", "/images/i.sqsh", "-c", "fp8_cs"),
        *("-hf", "env:HF_TOKEN", "-ng", "16", "-gn", "8", "-cm", "/a:/b,/install/Bridge:/opt/Megatron-Bridge"),
        *("-cb", "export A=1", "-cb", 'export B="${A} c"', "-m", "qwen", "-mr", "qwen3_30b_a3b"),
        *("--recompute_modules", "mlp", "--detach", "false", "--lr", "1.0"),
        *("--save_config_filepath", "/nemo_run/configs/ConfigContainer.yaml"),
        "--additional_slurm_params",
        "gpus-per-node=8;gres=gpu:8;nodelist=n1,n2;qos=high;exclusive;comment=x",
        *("-cv", "v1", "logger.tensorboard_dir=/mine", "logger.log_timers_to_tensorboard=true"),
        *(
            "logger.log_throughput_to_tensorboard=true",
            "logger.log_memory_to_tensorboard=true",
            "+flag",
            "model.x=[1, 2]",
        ),
    ]


@pytest.mark.parametrize(
    ("value", "command"),
    [
        ("/a:${B}/c,d", "export A=/a:${B}/c,d"),
        ("a b", 'export A="a b"'),
        ("it's", "export A=\"it'\\''s\""),
        ('$(rm) `x` "q" \\', 'export A="\\$(rm) \\`x\\` \\"q\\" \\\\"'),
        ("${D:-x/y} $C;d", 'export A="${D:-x/y} ${C};d"'),
        ("", "export A="),
    ],
)
def test_a_variable_as_a_command(value: str, command: str) -> None:
    """It arrives whole where Bridge puts it: into `bash -c '...'`."""
    assert export("A", value) == command
    found = subprocess.run(
        ["bash", "-c", f"B=b C=c; bash -c '{export('A', value)}; printf %s \"$A\"'"],
        env={"B": "b", "C": "c", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == expanded(value, {"B": "b", "C": "c"})
    assert not found.stderr


def test_what_every_run_logs() -> None:
    assert arguments(args_test(), LaunchSettings())[-4:] == [f"{key}={value}" for key, value in LOGGER.items()]


def test_options_of_srun_become_parameters() -> None:
    found = slurm_parameters(["--qos high --exclusive", None, "--a=b c --last"])
    assert found == ["qos=high", "exclusive", "a=b", "last"]
