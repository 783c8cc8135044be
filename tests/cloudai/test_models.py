"""The schemas: every field with a wrong value, its message, and the line that it names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import ConfigError
from launcher.cloudai.cmd_args import FIELDS, MegatronBridgeCmdArgs
from launcher.cloudai.load import load_scenario, load_system, load_test
from launcher.cloudai.models import Scenario, System, Test, TestEntry, slurm_time_limit
from tests.cloudai.files import ARGS, BRIDGE, SYSTEM, TEST, write

STRING, INTEGER, BOOLEAN, LIST = "valid string", "valid integer", "valid boolean", "valid list"

OF_SYSTEM: Mapping[str, tuple[Any, str]] = {
    "name": (1, STRING),
    "scheduler": ("kubernetes", "'kubernetes' is not supported"),
    "install_path": (1, "not a valid path"),
    "output_path": (1, "not a valid path"),
    "hf_home_path": (1, "not a valid path"),
    "global_env_vars": ("A=1", "valid dictionary"),
    "monitor_interval": ("often", INTEGER),
    "default_partition": (1, STRING),
    "partitions": ("main", LIST),
    "account": (1, STRING),
    "distribution": (1, STRING),
    "mpi": (1, STRING),
    "gpus_per_node": ("eight", INTEGER),
    "ntasks_per_node": ("eight", INTEGER),
    "cache_docker_images_locally": ("perhaps", BOOLEAN),
    "extra_srun_args": (["--x"], STRING),
    "extra_sbatch_args": ("--x", LIST),
    "extra_transient_status_errors": ([" "], "entries are not blank"),
    "status_retry_pause_seconds": (-1, "greater than or equal to 0"),
    "supports_gpu_directives_cache": ("perhaps", BOOLEAN),
    "container_mount_home": ("perhaps", BOOLEAN),
    "data_repository": ({"verify_certs": True}, "endpoint: is missing"),
    "reports": ({"statsu": {"enable": True}}, "there is no report 'statsu'; did you mean status?"),
}
OF_TEST: Mapping[str, tuple[Any, str]] = {
    "name": (1, STRING),
    "description": (1, STRING),
    "test_template_name": (
        "MegatronBrigde",
        "there is no test template 'MegatronBrigde'; did you mean MegatronBridge?",
    ),
    "cmd_args": ("-ng 8", "valid dictionary"),
    "dse_excluded_args": (["tp"], "'tp' does not begin with 'cmd_args.'"),
    "extra_env_vars": ({"A": 1}, STRING),
    "extra_cmd_args": ({"train.train_iters": 3}, STRING),
    "extra_container_mounts": ("/a:/b", LIST),
    "git_repos": ([{"url": "https://example.com/x.git", "commit": "a"}], "MegatronBridge needs its repository pinned"),
    "nsys": ({"enabled": True}, "nsys.enabled: unknown key; did you mean enable?"),
    "predictor": ({"bin_name": "x"}, "predictor.git_repo: is missing"),
    "training_report": ({"exclude_start_steps": -1}, "training_report.exclude_start_steps: Input should be greater"),
    "agent": ("grid", "there is no agent 'grid'"),
    "agent_steps": ("all", INTEGER),
    "agent_metrics": (["speed"], "there is no metric 'speed'"),
    "agent_reward_function": ("invers", "there is no reward function 'invers'; did you mean inverse?"),
    "agent_config": ({"random_sed": 1}, "random_sed: Extra inputs are not permitted"),
    "env_params": ({"tq": {}}, "env_params.tq: cmd_args has no field 'tq'"),
    "nemo_run_repo": ({"url": "x"}, "nemo_run_repo.commit: is missing"),
}
OF_ENTRY: Mapping[str, tuple[Any, str]] = {
    "id": ("", "at least 1 character"),
    "test_name": ("megatron", "there is no test 'megatron'"),
    "num_nodes": ("two", INTEGER),
    "nodes": ("n1", LIST),
    "exclude_nodes": ("n1", LIST),
    "weight": ("heavy", INTEGER),
    "iterations": (0, "0 is not at least 1"),
    "sol": ("x", "valid number"),
    "ideal_perf": ("x", "valid number"),
    "time_limit": ("half an hour", "'half an hour' is not a time limit as Slurm writes it"),
    "dependencies": ([{"type": "after", "id": "a"}], "'end_post_comp', 'start_post_init' or 'start_post_comp'"),
    "extra_srun_args": (["--x"], STRING),
    "name": (1, STRING),
    "description": (1, STRING),
    "test_template_name": ("MegatronBridge", "test_template_name is set by the test of test_name"),
    "cmd_args": ("-ng 8", "valid dictionary"),
    "dse_excluded_args": (["cmd_args."], "has an empty part"),
    "extra_env_vars": ({"A": 1}, STRING),
    "extra_container_mounts": ("/a:/b", LIST),
    "git_repos": ([{**BRIDGE, "branch": "main"}], "git_repos.0.branch: unknown key"),
    "nsys": ({"task": 1}, STRING),
    "agent": ("random", "there is no agent 'random'; did you mean random_search?"),
    "agent_steps": ("all", INTEGER),
    "agent_metrics": (["speed"], "there is no metric 'speed'"),
    "agent_reward_function": ("ai_dynamo_log_scale", "reads three metrics of AI Dynamo"),
    "agent_config": ({"start_action": "last"}, "start_action: Input should be 'random' or 'first'"),
}
OF_SCENARIO: Mapping[str, tuple[Any, str]] = {
    "name": (1, STRING),
    "sol_path": (1, STRING),
    "job_status_check": ("perhaps", BOOLEAN),
    "Tests": ([], "at least 1 item"),
    "pre_test": ("nccl", "there is no hook 'nccl'"),
    "post_test": ("nccl", "there is no hook 'nccl'"),
    "reports": ({"tarbal": {}}, "there is no report 'tarbal'; did you mean tarball?"),
}
INTEGERS = (
    *("num_gpus", "hidden_size", "num_layers", "first_k_dense_replace", "max_retries", "tp", "pp", "cp", "vp", "ep"),
    *("et", "mb", "gb", "seq_length", "warmup_iters", "save_interval", "most_recent_k", "vocab_size", "max_steps"),
    *("profiling_start_step", "profiling_stop_step", "recompute_num_layers", "activation_offload_layers"),
    "num_distributed_optimizer_instances",
)
BOOLEANS = (
    *("enable_vboost", "dryrun", "enable_nsys", "use_recipes", "use_tokendrop", "use_megatron_fsdp", "head_only"),
    *("packed_sequence", "pytorch_profiler", "record_memory_history", "profiling_gpu_metrics", "nccl_ub"),
    *("moe_a2a_overlap", "list_config_variants"),
)
STRINGS = (
    *("gpu_type", "log_dir", "container_image", "domain", "pipeline_model_parallel_layout", "task", "fp8_recipe"),
    *("compute_dtype", "hf_token", "nemo_home", "wandb_key", "wandb_project_name", "wandb_entity_name", "data"),
    *("wandb_experiment_name", "wandb_save_dir", "cuda_graph_impl", "cuda_graph_scope", "dataset_root", "save_dir"),
    *("pretrained_checkpoint", "load_dir", "save_config_filepath", "dataset_paths", "nsys_trace", "config_variant"),
    *("index_mapping_dir", "dataset_name", "tokenizer_type", "tokenizer_model", "nsys_extra_args"),
    "recompute_modules",
)
WRONG_ARGS: Mapping[str, tuple[Any, str]] = {
    **dict.fromkeys(INTEGERS, ("x", INTEGER)),
    **dict.fromkeys(BOOLEANS, ("perhaps", BOOLEAN)),
    **dict.fromkeys(STRINGS, (1, STRING)),
    "model_family_name": (" ", "cmd_args.model_family_name is required, and empty"),
    "model_recipe_name": ("", "cmd_args.model_recipe_name is required, and empty"),
    "lr": ("fast", "valid number"),
    "min_lr": ("fast", "valid number"),
    "profiling_ranks": (1.5, "valid integer"),
}


def line_of(path: Path, key: str) -> int:
    """The line of a key, or of the table or array that it is."""
    lines = path.read_text().splitlines()
    found = [number for number, text in enumerate(lines, 1) if text.lstrip("[ ").startswith((f"{key} =", f"{key}]"))]
    return found[0] if found else next(n for n, text in enumerate(lines, 1) if f"{key}." in text or f".{key}" in text)


def test_each_field_of_a_schema_is_in_a_table() -> None:
    assert set(OF_SYSTEM) == set(System.model_fields)
    assert set(OF_TEST) == set(Test.model_fields)
    assert set(OF_ENTRY) == set(TestEntry.model_fields)
    assert set(OF_SCENARIO) == {field.alias or name for name, field in Scenario.model_fields.items()}
    assert set(WRONG_ARGS) == set(FIELDS)
    assert len(FIELDS) == 75


@pytest.mark.parametrize("field", OF_SYSTEM)
def test_a_wrong_value_of_a_system(field: str, tmp_path: Path) -> None:
    value, sentence = OF_SYSTEM[field]
    path = write(tmp_path / "system.toml", {**SYSTEM, field: value})
    with pytest.raises(ConfigError) as raised:
        load_system(path)
    assert sentence in raised.value.message
    assert raised.value.message.startswith(field)
    assert str(raised.value.where).startswith(f"{path}:")


@pytest.mark.parametrize("field", OF_TEST)
def test_a_wrong_value_of_a_test(field: str, tmp_path: Path) -> None:
    value, sentence = OF_TEST[field]
    path = write(tmp_path / "test.toml", {**TEST, field: value})
    with pytest.raises(ConfigError) as raised:
        load_test(path)
    assert sentence in raised.value.message
    if field != "env_params":  # the whole test is judged: a list of cmd_args is missing
        assert raised.value.message.startswith(field)
        assert str(raised.value.where).startswith(f"{path}:")


@pytest.mark.parametrize("field", WRONG_ARGS)
def test_a_wrong_value_of_cmd_args(field: str, tmp_path: Path) -> None:
    value, sentence = WRONG_ARGS[field]
    path = write(tmp_path / "test.toml", {**TEST, "cmd_args": {**ARGS, field: value}})
    with pytest.raises(ConfigError) as raised:
        load_test(path)
    assert sentence in raised.value.message
    assert raised.value.message.startswith(f"cmd_args.{field}: ")
    assert raised.value.where == f"{path}:{line_of(path, field)}"


@pytest.mark.parametrize("field", OF_ENTRY)
def test_a_wrong_value_of_a_scenarios_test(field: str, tmp_path: Path) -> None:
    value, sentence = OF_ENTRY[field]
    tests = {"t": load_test(write(tmp_path / "t.toml", TEST))}
    path = write(tmp_path / "scenario.toml", {"name": "s", "Tests": [{"id": "a", "test_name": "t", field: value}]})
    with pytest.raises(ConfigError) as raised:
        load_scenario(path, tests)
    assert sentence in raised.value.message
    assert str(raised.value.where).startswith(f"{path}:")


@pytest.mark.parametrize("field", OF_SCENARIO)
def test_a_wrong_value_of_a_scenario(field: str, tmp_path: Path) -> None:
    value, sentence = OF_SCENARIO[field]
    tests = {"t": load_test(write(tmp_path / "t.toml", TEST))}
    right = {"name": "s", "Tests": [{"id": "a", "test_name": "t"}]}
    path = write(tmp_path / "scenario.toml", {**right, field: value})
    with pytest.raises(ConfigError) as raised:
        load_scenario(path, tests)
    assert sentence in raised.value.message
    assert str(raised.value.where).startswith(f"{path}:")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"partitions": [{"name": "main", "nodes": 4}]}, "partitions.0.nodes: unknown key"),
        ({"partitions": [{"name": "main", "groups": [{"name": "g"}]}]}, "partitions.0.groups.0.nodes: is missing"),
        ({"gpus_per_nod": 8}, "gpus_per_nod: unknown key; did you mean gpus_per_node?"),
        ({"data_repository": {"endpoint": 1}}, "data_repository.endpoint: Input should be a valid string"),
    ],
)
def test_unknown_keys_of_a_system_are_refused(values: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_system(write(tmp_path / "system.toml", {**SYSTEM, **values}))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"agent_step": 3}, "agent_step: unknown key; did you mean agent_steps?"),
        ({"git_repos": [{**BRIDGE, "init_submodule": True}]}, "git_repos.0.init_submodule: unknown key; did you mean"),
        ({"env_params": {"tp": {"weight": [1.0]}}}, "env_params.tp.weight: unknown key; did you mean weights?"),
        ({"env_params": {"tp": {"encoding": {"type": "box"}}}}, "encoding.type: Input should be 'categorical'"),
        ({"training_report": {"exclude": 1}}, "training_report.exclude: unknown key"),
    ],
)
def test_unknown_keys_of_a_test_are_refused(values: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_test(write(tmp_path / "test.toml", {**TEST, **values}))


@pytest.mark.parametrize("field", ["extra_cmd_args", "env_params", "training_report", "predictor", "nemo_run_repo"])
def test_a_scenario_cannot_change_all_of_a_test(field: str, tmp_path: Path) -> None:
    tests = {"t": load_test(write(tmp_path / "t.toml", TEST))}
    path = write(tmp_path / "s.toml", {"name": "s", "Tests": [{"id": "a", "test_name": "t", field: {}}]})
    with pytest.raises(ConfigError, match=f"Tests.0.{field}: unknown key"):
        load_scenario(path, tests)


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([{"id": "a"}, {"id": "a"}], "two tests have the id 'a'"),
        ([{"id": "a", "dependencies": [{"type": "start_post_comp", "id": "a"}]}], "test 'a' depends on itself"),
        (
            [{"id": "first"}, {"id": "b", "dependencies": [{"type": "start_post_comp", "id": "frist"}]}],
            "test 'b' depends on 'frist', which is not a test; did you mean first?",
        ),
    ],
)
def test_ids_and_dependencies(entries: list[dict[str, Any]], sentence: str, tmp_path: Path) -> None:
    tests = {"t": load_test(write(tmp_path / "t.toml", TEST))}
    path = write(tmp_path / "s.toml", {"name": "s", "Tests": [{**entry, "test_name": "t"} for entry in entries]})
    with pytest.raises(ConfigError) as raised:
        load_scenario(path, tests)
    assert sentence in raised.value.message


def test_an_entry_without_test_name_is_a_whole_test(tmp_path: Path) -> None:
    path = write(tmp_path / "s.toml", {"name": "s", "Tests": [{"id": "a", "name": "t"}]})
    with pytest.raises(ConfigError, match="lacks test_template_name, description"):
        load_scenario(path, {})


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"tp": 2}, "cmd_args.tp is one value, and only a list can be drawn from"),
        ({"tp": []}, "cmd_args.tp is an empty list"),
        ({"tp": [2]}, "cmd_args.tp has a single value"),
        ({"tp": [1, 2, 4]}, "2 weights, and cmd_args.tp has 3 values"),
    ],
)
def test_what_cannot_be_drawn_from(values: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    test = {**TEST, "cmd_args": {**ARGS, **values}, "env_params": {"tp": {"weights": [0.5, 0.5]}}}
    with pytest.raises(ConfigError, match=sentence):
        load_test(write(tmp_path / "t.toml", test))


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [([0.5, 0.6], "add up to 1"), ([1.5, -0.5], "not negative"), ([float("inf"), 0.0], "finite")],
)
def test_wrong_weights(weights: list[float], sentence: str, tmp_path: Path) -> None:
    test = {**TEST, "cmd_args": {**ARGS, "tp": [1, 2]}, "env_params": {"tp": {"weights": weights}}}
    with pytest.raises(ConfigError, match=sentence):
        load_test(write(tmp_path / "t.toml", test))


def test_weights_may_miss_one_by_a_millionth(tmp_path: Path) -> None:
    test = {**TEST, "cmd_args": {**ARGS, "tp": [1, 2]}, "env_params": {"tp": {"weights": [0.5, 0.5 + 9e-7]}}}
    assert load_test(write(tmp_path / "t.toml", test)).test.env_params["tp"].weights == [0.5, 0.5 + 9e-7]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        *((same, same) for same in ("30", "30:00", "1-12", "1-12:00", "2:00:00", "1-12:30:00")),
        ("30m", "00:30:00"),
        ("2H", "02:00:00"),
        ("1d", "24:00:00"),
        ("00:60:00", "01:00:00"),
        ("1-30:00:00", "54:00:00"),
    ],
)
def test_time_limits_are_slurms(text: str, meant: str) -> None:
    assert slurm_time_limit(text) == meant


def test_unknown_fields_of_cmd_args_are_kept_with_the_nearest_name() -> None:
    args = MegatronBridgeCmdArgs.model_validate({**ARGS, "max_step": 3, "zzz": 1})
    assert args.unknown == {"max_step": "max_steps", "zzz": None}


def test_agents_of_cloudais_plug_ins_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.cloudai.models.plugin_agents", lambda: ["bo_gp"])
    with pytest.raises(ConfigError, match=r"agent 'bo_gp' is a plug-in of the entry-point group cloudai.agents"):
        load_test(write(tmp_path / "t.toml", {**TEST, "agent": "bo_gp"}))
