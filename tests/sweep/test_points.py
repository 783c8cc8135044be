"""Points: expansion, names that follow from values, ranges and draws."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher._util.errors import ConfigError
from launcher.sweep.points import Axis, Draw, Range, SweepPoint, grid, value_text
from launcher.sweep.strategies import grid_strategy, random_strategy
from launcher.sweep.trials import Trial

AXES = (Axis("nodes", (1, 2)), Axis("a.b", (1e-4, "x", True)))


def test_a_grid_has_every_combination_once_in_a_fixed_order() -> None:
    labels = [point.label for point in grid(AXES)]
    assert labels == [f"nodes={nodes} a.b={value}" for nodes in (1, 2) for value in ("0.0001", "x", "true")]
    assert [point.name for point in grid(AXES)] == [point.name for point in grid(AXES)]
    doubled = (Axis("nodes", (1, "1", 1)), Axis("a.b", (1, 1.0, "true", True)))
    assert [point.label for point in grid(doubled)] == ["nodes=1 a.b=1", "nodes=1 a.b=1.0", "nodes=1 a.b=true"]


@given(st.dictionaries(st.text(min_size=1), st.one_of(st.integers(), st.booleans(), st.text()), min_size=1))
def test_a_name_follows_from_the_values_whatever_their_order(values: dict[str, object]) -> None:
    point = SweepPoint.of(values)
    assert point.name == SweepPoint.of(dict(reversed(values.items()))).name
    changed = {**values, next(iter(values)): "something else entirely"}
    assert SweepPoint.of(changed).name != point.name


def test_names_stay_what_they_are() -> None:
    # Directories of runs are called so: another algorithm would run everything again.
    assert SweepPoint.of({"nodes": 2, "train.lr": 1e-4, "x": [1, "a"]}).name == "e4eee8592552"


def test_values_are_written_as_assignments_state_them() -> None:
    shown = [value_text(value) for value in (1, 1.0, 1e-7, True, None, "a b", (1, "x", (False,)))]
    assert shown == ["1", "1.0", "1e-07", "true", "null", "a b", "[1,x,[false]]"]
    for wrong in (float("nan"), float("inf"), {"a": 1}, {1}):
        with pytest.raises(ConfigError, match="key"):
            SweepPoint.of({"key": wrong})


def test_a_range_is_drawn_within_its_bounds_and_listed_by_no_grid() -> None:
    logarithmic = Range(1e-5, 1e-1, log=True)
    assert logarithmic.at(0.5) == pytest.approx(1e-3)
    assert [float(str(logarithmic.at(share))) for share in (0, 1)] == pytest.approx([1e-5, 1e-1])
    assert {Range(1, 4, integer=True).at(share / 100) for share in range(101)} == {1, 2, 3, 4}
    with pytest.raises(ConfigError, match="lr is a range"):
        grid_strategy([Axis("lr", logarithmic)])


def test_a_draw_is_that_of_cloudai() -> None:
    even, weighted = Draw("drop", (0.0, 0.1, 0.2)), Draw("drop", (0.0, 0.1, 0.2), (0.7, 0.2, 0.1))
    for trial in range(50):
        by_hand = random.Random(f"7:drop:{trial}")  # noqa: S311
        assert even.of_trial(trial, 7) == by_hand.choice([0.0, 0.1, 0.2])
        by_hand = random.Random(f"7:drop:{trial}")  # noqa: S311
        assert weighted.of_trial(trial, 7) == by_hand.choices([0.0, 0.1, 0.2], weights=[0.7, 0.2, 0.1], k=1)[0]
    counts = Counter(weighted.of_trial(trial, 0) for trial in range(1000))
    assert 630 < counts[0.0] < 770


def test_random_points_are_different_and_the_same_for_a_seed() -> None:
    axes = (Axis("lr", Range(1e-5, 1e-2, log=True)), Axis("nodes", (1, 2)))
    first, again, other = (random_strategy(axes, 20, seed).ask(100) for seed in (1, 1, 2))
    assert [point.name for point in first] == [point.name for point in again]
    assert len({point.name for point in first}) == 20
    assert {point.name for point in first}.isdisjoint(point.name for point in other)
    few = random_strategy(AXES, 100, 0).ask(1000)
    assert len(few) == len({point.name for point in few}) == 6, "no more different points exist"


def test_a_list_goes_on_where_it_was_interrupted() -> None:
    points = list(grid(AXES))
    strategy = grid_strategy(AXES)
    for number in (1, 3):
        strategy.restore(Trial(number, points[number - 1]))
    assert [point.name for point in strategy.ask(2)] == [points[1].name, points[3].name]
    assert not strategy.exhausted
    assert [point.name for point in strategy.ask(9)] == [points[4].name, points[5].name]
    assert strategy.exhausted
