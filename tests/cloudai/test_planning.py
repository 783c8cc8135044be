"""Our own files with the fields and values of CloudAI's: planned natively for Bridge 0.6.2, and as flags before 0.6."""

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.cloudai.cases import RunChoices
from launcher.cloudai.load import load_files
from launcher.cloudai.run import Dry, dry_run
from tests.cloudai.files import DATA, planned

LOGGED = [
    *("logger.tensorboard_dir=/nemo_run/tb_logs", "logger.log_timers_to_tensorboard=true"),
    *("logger.log_throughput_to_tensorboard=true", "logger.log_memory_to_tensorboard=true"),
]
NAMED = ["--moe_a2a_overlap", "false", "-ms", "10", "--detach", "false"]
"""Of a test by name all fields count, with CloudAI's defaults."""
SAVED = ["--save_config_filepath", "/nemo_run/configs/ConfigContainer.yaml"]
SLURM = ["--additional_slurm_params", "gpus-per-node=8;gres=gpu:8"]
VARIABLES = ["-cb", "export MELLANOX_VISIBLE_DEVICES=0,3,4,5,6,9,10,11", "-cb", "export NCCL_IB_TIMEOUT=20"]
IMAGE = "nvcr.io#nvidia/nemo:26.02.00"
MODEL = ["-m", "qwen", "-mr", "qwen3_30b_a3b"]

QWEN3 = "bridge:qwen3_30b_a3b_pretrain_{}_config"
FILES = {
    "h100": ("tests/h100", "scenarios/qwen3.toml", QWEN3.format("16gpu_h100_fp8cs"), 2),
    "b200": ("tests/b200", "scenarios/qwen3.toml", QWEN3.format("8gpu_b200_fp8mx"), 1),
    "gb200": ("tests/gb200", "scenarios/qwen3.toml", QWEN3.format("8gpu_gb200_fp8mx"), 1),
    "gb300": ("tests/gb300", "scenarios/qwen3.toml", QWEN3.format("8gpu_gb300_fp8mx"), 1),
    "r0.3.0": ("tests/gb200", "scenarios/qwen3_r030.toml", QWEN3.format("8gpu_gb200_fp8mx"), 1),
    "page": ("page", "scenarios/page.toml", QWEN3.format("8gpu_gb200_fp8mx"), 1),
    "page inline": ("page", "scenarios/page_inline.toml", QWEN3.format("8gpu_gb200_fp8mx"), 1),
}


def bridge(install: Path, commit: str) -> list[str]:
    return ["-cm", f"{install}/Megatron-Bridge__{commit}:/opt/Megatron-Bridge"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_files_are_planned_natively(name: str, here: Path) -> None:
    """The plan is whole: recipe, overrides that Bridge 0.6.2 knows, scripts. The image is not here."""
    tests, scenario, recipe, nodes = FILES[name]
    loaded = load_files(DATA / "system.toml", DATA / scenario, DATA / tests)
    found = list(dry_run(loaded, here / "results", RunChoices(mode="native", release="0.6.2")))
    assert len(found) == 1
    one = found[0]
    assert isinstance(one, Dry)
    assert one.prepared is not None
    plan = one.prepared.plan
    assert (plan.recipe, plan.layout.nodes, plan.layout.ranks_per_node) == (recipe, nodes, 8)
    directory = one.planned.directory
    assert {"sbatch.sh", "step.sh", "plan.json", "test-run.toml", "case.json"} <= {p.name for p in directory.iterdir()}
    assert set(LOGGED) <= set(plan.overrides)
    assert ("train.train_iters=10" in plan.overrides) == (name != "page inline")
    notes = {note.field: note.text for note in (*one.planned.notes, *one.notes)}
    assert "is not imported" in notes["cmd_args.container_image"] or "no image" in notes["cmd_args.container_image"]
    assert any("--mode native was asked for" in note.text for note in one.planned.notes)
    script = (directory / "step.sh").read_text()
    assert ('export PYTHONPATH=/opt/Megatron-Bridge/3rdparty/Megatron-LM:"${PYTHONPATH:-}"' in script) == (
        name == "r0.3.0"
    )
    if name != "h100":
        assert notes["num_nodes"] == "is 2 and has no effect: num_gpus=8 at gpus_per_node=8 makes 1"


@pytest.mark.parametrize("name", FILES)
def test_files_of_before_0_6_give_setup_experiments_arguments(name: str, here: Path) -> None:
    tests, scenario, _, _ = FILES[name]
    loaded = load_files(DATA / "system.toml", DATA / scenario, DATA / tests)
    one = planned(loaded, here / "results", RunChoices())[0]
    assert one.mode == "exec"
    gpu, gpus, dtype = {"h100": ("h100", "16", "fp8_cs"), "b200": ("b200", "8", "fp8_mx")}.get(
        name, (name if name == "gb300" else "gb200", "8", "fp8_mx")
    )
    of_page = name.startswith("page")
    vboost = ["--domain", "llm"] if of_page else ["--domain", "llm", "-vb", "true"]
    named = name != "page inline"
    install = here / "install_dir"
    mounted = bridge(install, "r0.3.0") if name == "r0.3.0" else bridge(install, "v0.3.0") if of_page else []
    variables = list(VARIABLES)
    if name == "r0.3.0":
        variables += ["-cb", "export PYTHONPATH=/opt/Megatron-Bridge/3rdparty/Megatron-LM:${PYTHONPATH}"]
    if of_page and named:
        vboost += ["-vb", "false"]
    assert list(one.arguments) == [
        *("-p", "partition_1", "-g", gpu),
        *([] if named else ["-t", "00:30:00"]),
        *("-i", IMAGE if named else "nvcr.io#nvidia/nemo:26.02.01", "-c", dtype, "--task", "pretrain"),
        *("-hf", "env:HF_TOKEN", *(["--max_retries", "1"] if named else []), "-ng", gpus, "-gn", "8"),
        *mounted,
        *variables,
        *vboost,
        *MODEL,
        *(NAMED if named else ["--detach", "false"]),
        *SAVED,
        *SLURM,
        *LOGGED,
    ]


def test_a_profile_by_pytorch_is_planned(here: Path) -> None:
    """Nemotron 3 Nano: a commit without a name of a release runs natively, and that is said."""
    scenario = here / "s.toml"
    test = "megatron_bridge_nemotron_nano_pytorch_profiler"
    scenario.write_text(f'name = "n"\nTests = [{{ id = "n", test_name = "{test}" }}]\n')
    loaded = load_files(DATA / "system.toml", scenario, DATA / "tests/gb200")
    one = next(iter(dry_run(loaded, here / "results", RunChoices())))
    assert isinstance(one, Dry)
    assert one.prepared is not None
    assert one.prepared.plan.recipe == "bridge:nemotron_3_nano_pretrain_8gpu_gb200_fp8mx_config"
    wanted = {
        *("profiling.use_pytorch_profiler=true", "profiling.profile_step_start=45", "profiling.profile_ranks=[0]"),
        *("train.train_iters=60", "model.expert_model_parallel_size=8"),
    }
    assert wanted <= set(one.prepared.plan.overrides)
    assert any("whose release is not known: it runs natively" in note.text for note in one.planned.notes)


@pytest.mark.parametrize("task", ["sft", "lora"])
@pytest.mark.parametrize("mode", ["native", "exec"])
def test_fine_tuning_is_planned_in_both_modes(task: str, mode: Any, here: Path) -> None:
    values = {
        "model_family_name": "llama",
        "model_recipe_name": "llama3_70b",
        "task": task,
        "num_gpus": 8,
        "gpu_type": "gb200",
        "compute_dtype": "bf16",
        "pretrained_checkpoint": "/models/llama",
        "data": "squad",
        "dataset_root": "/data/squad",
        "packed_sequence": True,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    if task == "sft":
        lines = [line.replace("num_gpus = 8", "num_gpus = 32") for line in lines]
    head = 'name = "f"\n[[Tests]]\nid = "f"\nname = "f"\ndescription = "d"\ntest_template_name = "MegatronBridge"\n'
    repo = '[[Tests.git_repos]]\nurl = "https://example.com/Megatron-Bridge.git"\ncommit = "v0.5.0"\n'
    scenario = here / "s.toml"
    scenario.write_text(f"{head}{repo}[Tests.cmd_args]\n" + "\n".join(lines) + "\n")
    loaded = load_files(DATA / "system.toml", scenario)
    one = planned(loaded, here / "results", RunChoices(mode=mode))[0]
    if mode == "exec":
        words = " ".join(one.arguments)
        assert f"--task {task}" in words
        assert "--pretrained_checkpoint /models/llama" in words
        assert "--data squad --dataset_root /data/squad --packed_sequence" in words
        assert any("reads it nowhere: data=squad_packed packs" in note.text for note in one.notes)
    else:
        name = "peft" if task == "lora" else "sft"
        assert str(one.request.recipe).startswith(f"bridge:llama3_70b_{name}_")
        wanted = {"checkpoint.pretrained_checkpoint=/models/llama", "data=hf:squad"}
        wanted |= {"dataset.enable_offline_packing=true", "dataset.offline_packing_specs.pad_seq_to_mult=1"}
        assert wanted <= set(one.request.assignments)
