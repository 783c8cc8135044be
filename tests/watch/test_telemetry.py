"""What the samples of nodes say: the slowest, the hottest, the throttled, and in `launcher status` and on the page."""

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.main import main
from launcher.report.page.content import Plot, Table, Text
from launcher.report.page.nodes import nodes
from launcher.rundir import RunDirectory
from launcher.watch.telemetry import read_telemetry, sentences
from tests.report.blocks import LAUNCHED, of_kind, subject
from tests.watch.run_dirs import BEGIN, make_attempt, make_run


def spread(value: float) -> dict[str, float]:
    return {"min": value, "mean": value, "max": value}


def gpu(index: int, mhz: float | None = 1755.0, heat: float = 60.0, **more: Any) -> dict[str, Any]:
    base: dict[str, Any] = {"index": index, "uuid": f"GPU-{index}", "address": "", "name": "H100", "samples": 100}
    base |= {"busy_samples": 90, "busy_sm_mhz": spread(mhz) if mhz else None, "sm_mhz": None, "memory_mhz": None}
    base |= {"power_w": spread(600.0), "temperature_c": spread(heat), "memory_temperature_c": None}
    base |= {"memory_bytes": None, "throttled_samples": {}, "corrected_errors": 0, "uncorrected_errors": 0}
    return {**base, **more}


def leave(run: RunDirectory, node: int, *gpus: dict[str, Any], **more: Any) -> None:
    record = {"version": 1, "node": node, "host": f"n{node}", "began": BEGIN, "time": BEGIN + 1000, "interval_s": 10.0}
    record |= {"samples": 100, "cpu_s": 0.1, "why": None, "gpus": list(gpus), "adapters": []}
    history = {"time": [BEGIN, BEGIN + 3600], "sm_mhz": [1755, None], "throttle": [0, 0], "power_w": [4800.0, 4700.0]}
    path = run.attempt(0).telemetry_record(node)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**record, "history": history, **more}))


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    made = make_run(tmp_path / "small" / "0001", LAUNCHED, backend="local")
    make_attempt(made)
    return made


def test_the_slowest_the_hottest_and_the_throttled_node(run: RunDirectory) -> None:
    leave(run, 0, gpu(0), gpu(1, 1750.0))
    leave(run, 1, gpu(0), gpu(5, 1410.0, 71.0, throttled_samples={"hardware thermal": 12, "power cap": 90}))
    leave(run, 2, gpu(0, heat=83.0, throttled_samples={"power cap": 100}), gpu(1, None))
    leave(
        run,
        3,
        gpu(0, uncorrected_errors=2),
        adapters=[
            {"name": "mlx5_0", "sent_bytes_per_s": None, "received_bytes_per_s": None, "errors": {"symbol_error": 7}}
        ],
    )
    found = read_telemetry(run.attempt(0))
    assert sentences(found) == [
        "slowest: n1 GPU 5, 1410 MHz, the median of 4 nodes is 1752",
        "hottest: n2 GPU 0, 83 °C",
        "throttled: n1, hardware thermal in 12% of the samples",
        "errors: n3, 2 uncorrected in GPU memory, mlx5_0 symbol_error 7",
    ]
    assert found.to_dict()["throttled"] == [{"host": "n1", "reasons": {"hardware thermal": 0.12}}]
    text, table, *plots = nodes(subject(run))
    assert isinstance(text, Text)
    assert (text.tone, text.text[:16]) == ("warning", "Slowest: n1 GPU ")
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == ["n1", "n3", "n0", "n2"], "those that stand out first"
    assert table.rows[0][7] == "power cap in 90% of the samples, hardware thermal in 12% of the samples"
    assert [plot.title for plot in of_kind(Plot, plots)] == [
        "Lowest clock of a node's GPUs",
        "Power of a node's GPUs together",
    ]
    assert of_kind(Plot, plots)[1].data[0]["x"] == [0.0, 1.0]


def test_neither_a_power_cap_nor_an_idle_gpu_stands_out(run: RunDirectory) -> None:
    leave(run, 0, gpu(0, None, throttled_samples={"power cap": 100}))
    assert sentences(read_telemetry(run.attempt(0))) == ["hottest: n0 GPU 0, 60 °C"]
    assert of_kind(Text, nodes(subject(run)))[0].tone == "plain"


def test_why_gpus_were_not_sampled_is_said_once(run: RunDirectory) -> None:
    for node in range(3):
        leave(run, node, why="libnvidia-ml.so.1 cannot be loaded")
    (text,) = of_kind(Text, nodes(subject(run)))
    assert text.text == "GPUs of 3 nodes were not sampled: libnvidia-ml.so.1 cannot be loaded."


def test_damaged_records_are_left_out(run: RunDirectory) -> None:
    leave(run, 0, gpu(0))
    for number, text in enumerate(("{", "[]", '{"node": 1}', json.dumps({"node": "x"})), 1):
        run.attempt(0).telemetry_record(number).write_text(text)
    assert [node.host for node in read_telemetry(run.attempt(0)).nodes] == ["n0"]
    assert nodes(subject(make_run(run.path.parent / "0002", LAUNCHED))) == ()


def test_status_of_a_named_run_says_it(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    leave(run, 0, gpu(0, 1410.0))
    assert main(["status", str(run.path)]) == 0
    assert "0001: slowest: n0 GPU 0, 1410 MHz\n" in capsys.readouterr().out
    assert main(["status", str(run.path), "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)["runs"]
    assert answer["trackers"] == {}
    assert answer["nodes_sampled"]["slowest"] == {"host": "n0", "gpu": 0, "sm_mhz": 1410.0}
