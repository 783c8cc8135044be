"""Reports from what runs recorded: texts and numbers, without Slurm."""

import json
from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import ConfigError
from launcher.cloudai import results
from launcher.cloudai.pages import _enabled, status_page
from launcher.cloudai.records import CaseRecord
from launcher.cloudai.results import CaseResult, TrainedStep


def case(directory: Path, number: int | None = 1, **definition: Any) -> CaseRecord:
    values = {
        "name": f"t/0/{number}" if number else "t/0",
        "test": "t",
        "iteration": 0,
        "step": number,
        "action": {"tp": number},
        "env_params": {"seq_length": 512 * (number or 1)},
        "refused": [],
        "nodes": 2,
        "gpus_per_node": 4,
        "run_dir": None,
        "recipe": "bridge:r",
        "definition": {"test_template_name": "MegatronBridge", "cmd_args": {"gpu_type": "h100"}, **definition},
    }
    return CaseRecord(directory, values)


def result(directory: Path, seconds: list[float], number: int | None = 1, **more: Any) -> CaseResult:
    steps = tuple(TrainedStep(i, value, 5.0 - i, 100.0 + i, 1e9) for i, value in enumerate(seconds, 1))
    definition = more.pop("definition", {})
    values = {"phase": "finished", "detail": "", "good": True, "over": True, "steps": steps, **more}
    return CaseResult(case(directory, number, **definition), **values)


def test_report_txt_is_over_the_last_ten_steps(tmp_path: Path) -> None:
    one = result(tmp_path, [9.0, 9.0, *(float(n) for n in range(1, 11))])
    lines = results.report_text(one).splitlines()
    assert lines == [
        f"Source log: {tmp_path}/cloudai_megatron_bridge_launcher.log",
        "",
        "Step Time (s)",
        *("  avg: 5.5", "  median: 5.5", "  min: 1.0", "  max: 10.0", "  std: 2.8722813232690143"),
        "",
        "TFLOP/s per GPU",
        *("  avg: 107.5", "  median: 107.5", "  min: 103.0", "  max: 112.0", "  std: 2.8722813232690143"),
    ]
    assert one.metric("default") == one.metric("step-time") == 5.5
    assert one.metric("tflops-per-gpu") == 107.5
    assert one.metric("other") is None


def test_a_run_that_did_not_finish_has_no_metric(tmp_path: Path) -> None:
    one = result(tmp_path, [1.0, 1.0, 1.0], good=False, phase="failed", detail="rank 0")
    assert one.metric("default") is None
    assert "No step times: the run is failed (rank 0)" in results.report_text(one)


def test_the_training_report_leaves_steps_out(tmp_path: Path) -> None:
    definition = {
        "cmd_args": {"gpu_type": "h100", "enable_nsys": True, "profiling_start_step": 8, "profiling_stop_step": 9},
        "training_report": {"exclude_start_steps": 3, "exclude_post_profiling_steps": 1},
    }
    one = result(tmp_path, [float(n) for n in range(1, 13)], definition=definition)
    report = results.training_report(one)
    assert report is not None
    # 1 to 3 are the start, 8 and 9 were profiled, 10 comes behind: 4 to 7, 11 and 12 are left.
    times = report["aggregation"]["step_time_sec"]
    assert times["mean"] == pytest.approx(sum((4, 5, 6, 7, 11, 12)) / 6)
    assert (times["min"], times["max"]) == (4, 12)
    assert times["t95"] == pytest.approx(11.75)
    assert times["t99"] == pytest.approx(11.95)
    assert report["aggregation"]["memory_allocated_bytes"]["mean"] == 1e9
    assert [step["iteration"] for step in report["steps"]] == list(range(1, 13))
    assert (report["config"]["world_size"], report["config"]["num_nodes"]) == (8, 2)


def test_no_steps_are_left_where_all_are_the_start(tmp_path: Path) -> None:
    report = results.training_report(result(tmp_path, [1.0, 2.0]))
    assert report is not None
    assert report["aggregation"] is None
    assert results.training_report(result(tmp_path, [])) is None


def test_the_configuration_is_read_from_bridges_own_file() -> None:
    text = (
        "checkpoint:\n  _target_: x.Checkpoint\n  save: null\nmodel:\n  _target_: x.Model\n  hidden_size: 64\n"
        "  normalization: RMSNorm\n  sequence_parallel: false\n  layernorm_epsilon: 1.0e-05\n"
        "  nested:\n    hidden_size: 9\n"
        "  names:\n  - a\n  - b\ntrain:\n  global_batch_size: 8\n"
    )
    found = results.plain_sections(text)
    assert found["model"]["hidden_size"] == 64
    assert found["model"]["normalization"] == "RMSNorm"
    assert found["model"]["sequence_parallel"] is False
    assert found["model"]["layernorm_epsilon"] == 1e-05
    assert found["checkpoint"]["save"] is None
    assert found["train"]["global_batch_size"] == 8


@pytest.mark.parametrize(
    ("settings", "rewards"),
    [
        ({}, [0.5, -1.0]),
        ({"agent_reward_function": "negative"}, [-2.0, 1.0]),
        ({"agent_reward_function": "identity", "agent_metrics": ["tflops-per-gpu"]}, [102.0, -1.0]),
        ({"agent_config": {"rewards": {"metric_failure": -4.0}}}, [0.5, -0.25]),
    ],
)
def test_rewards_and_observations(settings: dict[str, Any], rewards: list[float], tmp_path: Path) -> None:
    good = result(tmp_path, [2.0, 2.0, 2.0], definition=settings)
    bad = result(tmp_path, [2.0], 2, good=False, phase="failed", definition=settings)
    refused = result(tmp_path, [], 3, good=False, phase="refused", definition=settings)
    going = result(tmp_path, [2.0], 4, good=False, over=False, phase="running", definition=settings)
    found = results.scored([good, bad, refused, going])
    assert [one.reward for one in found] == rewards
    assert results.best(found) is found[0]
    assert results.best(found[1:]) is None


def test_the_trajectory_is_as_cloudai_writes_it(tmp_path: Path) -> None:
    points = results.scored([result(tmp_path, [2.0]), result(tmp_path, [4.0], 2)])
    text, metadata = results.trajectory(points)
    assert text == "step,action,reward,observation\n1,{'tp': 1},0.5,[2.0]\n2,{'tp': 2},0.25,[4.0]\n"
    assert metadata == "step,env_params.seq_length\n1,512\n2,1024\n"


@pytest.mark.parametrize(
    ("settings", "name", "written"),
    [({}, "tarball", True), ({"tarball": False}, "tarball", False), ({}, "nccl_comparison", False)],
)
def test_reports_are_written_unless_a_file_says_otherwise(settings: dict[str, bool], name: str, written: bool) -> None:
    assert _enabled({"reports": settings}, name) == written


def test_a_page_escapes_what_files_say(tmp_path: Path) -> None:
    scenario = {"name": "<b>", "descriptions": {"t": "<script>alert(1)</script>"}}
    page = status_page(scenario, [result(tmp_path / "t/0/1", [1.0])], tmp_path)
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert 'href="t/0/1"' in page


def test_a_directory_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no results"):
        results.require_scenario(tmp_path)
    (tmp_path / "scenario.json").write_text(json.dumps({"name": "s"}))
    assert results.require_scenario(tmp_path) == {"name": "s"}
