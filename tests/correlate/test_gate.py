"""The gate: a slower, larger or worse run fails, and noise passes."""

import json
import random
from pathlib import Path

import pytest

from launcher._util.errors import ConfigError
from launcher.correlate.compare import Side
from launcher.correlate.gate import Baseline, GateResult, Limits, baseline_text, check, read_baseline
from launcher.correlate.history import Point


def run(*, slower: float = 0.0, loss: float = 0.0, memory: float = 0.0, seed: int = 1, noise: float = 0.01) -> Side:
    """Return a run of 40 iterations; its first two are slow, and its times have this relative noise."""
    drawn = random.Random(seed)  # noqa: S311
    points = tuple(
        Point(
            number,
            (10.0 - 0.1 * number) * (1 + loss),
            seconds=(5.0 if number < 3 else 1.0 + slower) * (1 + drawn.gauss(0, noise)),
            memory_bytes=50e9 * (1 + memory),
        )
        for number in range(1, 41)
    )
    return Side("run", points)


def failed(side: Side, baseline: Side) -> list[str]:
    return [one.name for one in check(side, Baseline(baseline.points, Limits())) if not one.passed]


def test_a_run_like_its_baseline_passes_within_noise() -> None:
    for seed in range(2, 40):
        assert failed(run(seed=seed), run()) == []


def test_a_run_that_is_five_percent_slower_fails() -> None:
    for seed in range(2, 40):
        assert failed(run(slower=0.05, seed=seed), run()) == ["step time"]


def test_a_faster_run_passes_and_noise_is_said() -> None:
    findings = check(run(slower=-0.2), Baseline(run().points, Limits()))
    assert all(one.passed for one in findings)
    assert "noise" in next(one.text for one in findings if one.name == "step time")


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"memory": 0.06}, ["memory"]),
        ({"memory": 0.04}, []),
        ({"memory": -0.5}, []),
        ({"loss": 0.02}, []),
        ({"loss": 0.04}, ["last loss"]),
        ({"loss": 0.2}, ["loss", "last loss"]),
    ],
)
def test_memory_and_loss_have_limits(change: dict[str, float], names: list[str]) -> None:
    side = run(loss=change.get("loss", 0.0), memory=change.get("memory", 0.0))
    assert failed(side, run()) == names


def of_losses(values: list[float], wanted: list[float]) -> GateResult:
    side, golden = (Side("x", tuple(Point(at, one) for at, one in enumerate(some, 1))) for some in (values, wanted))
    return check(side, Baseline(golden.points, Limits()))[0]


@pytest.mark.parametrize(("loss", "inside", "outside"), [(5.0, 5.45, 5.55), (1.0, 1.045, 1.055), (0.2, 0.203, 0.205)])
def test_the_limit_of_a_loss_depends_on_its_size(loss: float, inside: float, outside: float) -> None:
    assert of_losses([inside] * 10, [loss] * 10).passed
    assert not of_losses([outside] * 10, [loss] * 10).passed


def test_a_tenth_of_the_points_may_be_outside() -> None:
    assert of_losses([9.0, *[5.0] * 9], [5.0] * 10).passed
    assert not of_losses([9.0, 9.0, *[5.0] * 8], [5.0] * 10).passed
    assert not of_losses([5.0] * 8, [5.0] * 10).passed, "missing iterations are outside"


def test_bridges_golden_file_is_read(tmp_path: Path) -> None:
    golden = {
        str(n): {"lm loss": 10.0 - n, "elapsed time per iteration (ms)": 900.0, "GPU utilization": 400.0}
        for n in range(4)
    }
    path = tmp_path / "golden.json"
    path.write_text(json.dumps({**golden, "alloc": 40.0, "max_alloc": 60.5}))
    points = read_baseline("golden.json", tmp_path).points
    assert [point.iteration for point in points] == [1, 2, 3, 4]
    assert (points[3].loss, points[3].seconds, points[3].memory_bytes) == (7.0, 0.9, 60.5e9)
    (tmp_path / "gate.toml").write_text('golden = "golden.json"\n[limits]\nstep_time = 0.2\n')
    assert read_baseline("gate.toml", tmp_path).limits.step_time == 0.2


def test_a_saved_baseline_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(baseline_text(run()))
    assert [point.loss for point in read_baseline("base.toml", tmp_path).points] == [
        point.loss for point in run().points
    ]


@pytest.mark.parametrize(
    "text", ["wrong = 1", "[limits]\nspeed = 1", "[limits]\nmemory = 'x'", "[[iterations]]\nloss = 1", "{"]
)
def test_a_wrong_baseline_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(text)
    with pytest.raises(ConfigError):
        read_baseline("base.toml", tmp_path)
