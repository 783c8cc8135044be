"""Which point is the best: Student's distribution, verdicts, and how often a claim is wrong in simulated sweeps."""

import random
from collections import Counter
from collections.abc import Mapping

import pytest

from launcher.sweep.compare import ALPHA, Ranking, compare, t_quantile, t_tail, wants_repeat
from launcher.sweep.driver import AUTO_RUNS

MAX_RUNS = 12


@pytest.mark.parametrize(
    ("value", "freedom", "tail"),
    # Upper tails of Student's distribution, as any table has them.
    [(12.706, 1, 0.025), (2.228, 10, 0.025), (1.812, 10, 0.05), (3.169, 10, 0.005), (1.960, 1e6, 0.025), (0, 3, 0.5)],
)
def test_students_distribution(value: float, freedom: float, tail: float) -> None:
    assert t_tail(value, freedom) == pytest.approx(tail, rel=2e-3)
    assert t_tail(-value, freedom) == pytest.approx(1 - tail, rel=2e-3)
    if tail < 0.5:
        assert t_quantile(tail, freedom) == pytest.approx(value, rel=1e-3)


def test_one_run_a_point_claims_nothing() -> None:
    found = compare({"a": [1.0], "b": [2.0], "c": []})
    assert found.verdict == "single"
    assert found.standings[0].name == "b"
    assert found.standings[0].spread_percent is None
    assert set(wants_repeat(found, 5)) == {"a", "b"}
    assert compare({}).verdict == "none"


def test_a_clear_difference_is_claimed_with_its_size() -> None:
    found = compare({"slow": [0.99, 1.0, 1.01], "fast": [1.09, 1.10, 1.11], "middle": [1.0, 1.02, 1.01]})
    assert found.verdict == "best"
    assert found.standings[0].name == "fast"
    assert found.standings[1].behind_percent == pytest.approx(8.5, abs=0.2)
    assert "fast is the best" in found.sentence
    assert wants_repeat(found, 12) == ()


@pytest.mark.parametrize("sign", [1, -1])
def test_negative_rewards_are_compared_as_positive_ones(sign: int) -> None:
    better, worse = (2.0, 1.0) if sign > 0 else (1.0, 2.0)
    found = compare(
        {"worse": [sign * worse * (1 + d) for d in (0, 0.01)], "better": [sign * better, sign * better * 1.01]}
    )
    assert (found.standings[0].name, found.verdict) == ("better", "best")
    mixed = compare({"worse": [-1.0, -1.1], "better": [1.0, 1.1]})
    assert mixed.standings[0].name == "better"


def test_equal_runs_and_runs_without_spread() -> None:
    assert compare({"a": [1.0, 1.0], "b": [1.0, 1.0]}).verdict == "equal"
    assert compare({"a": [1.0, 1.0], "b": [2.0, 2.0]}).verdict == "best"
    steady = [1.0 + 0.0001 * step for step in range(6)]
    found = compare({"a": steady, "b": [each * 1.00001 for each in steady]})
    assert found.verdict == "equal"
    assert "equal within 0.5 %" in found.sentence


def simulated(generator: random.Random, times: Mapping[str, float], noise: Mapping[str, float]) -> tuple[Ranking, int]:
    """A sweep with `--repeat auto`: runs are added until the comparison asks for no more. Returns it with the runs."""

    def run(name: str) -> float:
        return 1 / (times[name] * generator.gauss(1, noise[name]))

    rewards = {name: [run(name) for _ in range(AUTO_RUNS)] for name in times}
    while True:
        found = compare(rewards, looks=MAX_RUNS - AUTO_RUNS + 1)
        wanted = wants_repeat(found, MAX_RUNS)
        if not wanted:
            return found, sum(map(len, rewards.values()))
        for name in wanted:
            rewards[name].append(run(name))


def sweeps(kind: str, number: int) -> tuple[Counter[str], int, int]:
    """Simulate sweeps of six points; return their verdicts, wrong claims, and in how many p1 was called noisy."""
    verdicts, wrong, noisy = Counter[str](), 0, 0
    for seed in range(number):
        generator = random.Random(f"{kind} {seed}")  # noqa: S311
        times = {"p0": 1.0, "p1": 1.04, "p2": 1.05, "p3": 1.06, "p4": 1.08, "p5": 1.10}
        noise = dict.fromkeys(times, 0.004)
        times["p1"] = {"equal": 1.0, "close": 1.01, "noisy": 1.01, "clear": 1.04}[kind]
        noise["p1"] = 0.05 if kind == "noisy" else 0.004
        found, _ = simulated(generator, times, noise)
        verdicts[found.verdict] += 1
        first = found.standings[0].name
        wrong += found.verdict == "best" and (first != "p0" or kind == "equal")
        noisy += any(each.noisy and each.name == "p1" for each in found.standings)
    return verdicts, wrong, noisy


@pytest.mark.slow
def test_wrong_claims_are_rare_in_200_simulated_sweeps() -> None:
    results = {kind: sweeps(kind, 50) for kind in ("equal", "close", "noisy", "clear")}
    assert sum(wrong for _, wrong, _ in results.values()) <= ALPHA * 200
    assert results["equal"][0]["best"] <= 2, "two equal points are not ranked"
    assert results["close"][0]["best"] >= 45, "one that is 1 % faster is found"
    assert results["clear"][0]["best"] == 50
    assert results["noisy"][2] >= 45, "a noisy point is called so"


def test_a_clear_winner_costs_few_repeats() -> None:
    times = {f"p{number}": 1.0 + 0.1 * number for number in range(50)}
    found, runs = simulated(random.Random(1), times, dict.fromkeys(times, 0.004))  # noqa: S311
    assert found.verdict == "best"
    assert runs <= 50 * AUTO_RUNS + 10
