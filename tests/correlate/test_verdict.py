"""When two trainings agree, diverge, cannot be compared, or when it cannot be said."""

import json
import math
from collections.abc import Sequence

import pytest

from launcher.correlate.history import Point
from launcher.correlate.probes import Sign, first_stage
from launcher.correlate.settings import Difference, apply_overrides, differences, layout_difference
from launcher.correlate.verdict import as_object, judge, noise
from launcher.translation.table import load_table
from launcher.translation.translate import to_bridge, values_of
from tests.correlate.pairs import FIRST_BRIDGE, FIRST_PAIR, SECOND_BRIDGE, SECOND_PAIR, SEVEN

LOSSES = [10.4, 10.3, 10.1, 9.9, 9.8, 9.7, 9.6, 9.5]


def points(losses: Sequence[float], rate: float = 1e-4, norm: float = 1.0) -> list[Point]:
    return [Point(number, loss, norm, rate) for number, loss in enumerate(losses, 1)]


def test_equal_losses_agree() -> None:
    found = judge(points(LOSSES), points(LOSSES))
    assert (found.state, found.compared, found.largest) == ("agree", (1, 8), 0.0)
    assert "all printed digits from iteration 1 to 8" in found.sentence


def test_digits_that_are_not_printed_do_not_count() -> None:
    assert judge(points(LOSSES), points([loss + 1e-9 for loss in LOSSES])).state == "agree"


def test_the_first_difference_is_named_with_the_settings() -> None:
    other = [*LOSSES[:3], *(loss + 0.001 for loss in LOSSES[3:])]
    setting = Difference("optimizer.adam_beta2", 0.999, 0.95, numbers=True)
    found = judge(points(LOSSES), points(other), differences=[setting])
    assert found.state == "diverged"
    assert found.first is not None
    assert (found.first.iteration, found.first.metric) == (4, "loss")
    assert found.first.difference == pytest.approx(0.001)
    assert "optimizer.adam_beta2" in found.sentence


def test_a_gradient_norm_counts_but_not_its_last_digit() -> None:
    assert judge(points(LOSSES, norm=1.0), points(LOSSES, norm=1.0009)).state == "agree"
    found = judge(points(LOSSES, norm=1.0), points(LOSSES, norm=1.01))
    assert found.first is not None
    assert found.first.metric == "gradient norm"


def test_a_tolerance_is_relative_and_said() -> None:
    other = [loss * (1 + 1e-5) for loss in LOSSES]
    assert judge(points(LOSSES), points(other)).state == "diverged"
    found = judge(points(LOSSES), points(other), tolerance=1e-4)
    assert found.state == "agree within tolerance"
    assert "1.0e-04" in found.sentence


@pytest.mark.parametrize(
    ("losses", "rate", "why"),
    [
        (LOSSES[:5], 1e-4, "only 4 of them"),
        (LOSSES, 0.0, "only 0 of them"),
        ([10.0] * 8, 1e-4, "did not move"),
        ([10.0, 10.0001, *[10.0] * 6], 1e-4, "did not move"),
        ([math.nan] * 8, 1e-4, "not finite"),
    ],
)
def test_agree_is_refused_where_too_little_was_trained(losses: list[float], rate: float, why: str) -> None:
    found = judge(points(losses, rate), points(losses, rate))
    assert found.state == "undecided"
    assert why in found.sentence


def test_nothing_in_common_is_undecided() -> None:
    assert judge(points(LOSSES), []).state == "undecided"


def test_what_is_not_comparable_is_never_called_diverged() -> None:
    other = [loss + 1 for loss in LOSSES]
    found = judge(points(LOSSES), points(other), not_comparable="another layout")
    assert (found.state, found.sentence) == ("not comparable", "another layout")
    assert judge(points(LOSSES), points(LOSSES), not_comparable="another layout").state == "agree"


def test_noise_is_the_largest_difference_of_repeats() -> None:
    other = [*LOSSES[:-1], 9.6]
    assert noise([points(LOSSES), points(LOSSES), points(other)]) == pytest.approx(0.1 / 9.6)
    assert noise([points(LOSSES)]) == 0.0


# ---- settings


def named(words: list[str], overrides: list[str]) -> set[str]:
    found = differences(values_of(words), apply_overrides(load_table().recipe, overrides))
    return {one.key for one in found if one.numbers}


def test_the_settings_of_the_fields_two_pairs_that_differ_are_all_named() -> None:
    assert named(FIRST_PAIR, FIRST_BRIDGE) == SEVEN
    assert named(SECOND_PAIR, SECOND_BRIDGE) == SEVEN | {"optimizer.lr", "optimizer.min_lr", "tokenizer.vocab_size"}


@pytest.mark.parametrize("words", [FIRST_PAIR, SECOND_PAIR])
def test_translated_settings_do_not_differ(words: list[str]) -> None:
    assert named(words, list(to_bridge(words).words)) == set()


def test_another_layout_is_found() -> None:
    left, right = values_of(FIRST_PAIR), values_of(SECOND_PAIR)
    assert "model.tensor_model_parallel_size: 1 and 2" in str(layout_difference(left, right))
    assert layout_difference(left, left) is None


# ---- stages


def sign(stage: str, value: object, iteration: int = 1, name: str = "x") -> Sign:
    return Sign(0, stage, iteration, name, value)


ORDER = [
    sign("generator", "a", name="before the model: cpu"),
    sign("initialisation", "w"),
    sign("generator", "b", name="before the first forward: cpu"),
    sign("data", "t", name="micro-batch 0: tokens"),
    sign("forward", 1.0, name="layer 0"),
    sign("forward", 2.0, name="micro-batch 0: output"),
    sign("backward", 3.0),
    sign("optimizer", [1e-4], name="lr used"),
    sign("optimizer", "w2", 2, "after the step: x"),
]


def changed(*stages: tuple[str, str]) -> list[Sign]:
    """Return the signs with another value for each stage and name that is given."""
    return [
        Sign(one.rank, one.stage, one.iteration, one.name, "other")
        if any(one.stage == stage and one.name.startswith(name) for stage, name in stages)
        else one
        for one in ORDER
    ]


@pytest.mark.parametrize(
    ("stages", "dropout", "first"),
    [
        ([("data", "")], False, "data"),
        ([("initialisation", ""), ("forward", ""), ("backward", "")], False, "initialisation"),
        ([("generator", "before the model"), ("initialisation", ""), ("forward", "")], False, "generator"),
        ([("generator", "before the first"), ("forward", "")], True, "generator"),
        ([("generator", "before the first"), ("forward", "")], False, "forward"),
        ([("backward", ""), ("optimizer", "after")], False, "backward"),
        ([("optimizer", "lr")], False, "optimizer"),
        ([("optimizer", "after")], False, "optimizer"),
    ],
)
def test_the_first_stage_that_differs_is_named(stages: list[tuple[str, str]], dropout: bool, first: str) -> None:
    found, _ = first_stage(ORDER, changed(*stages), dropout=dropout)
    assert found is not None
    assert found.name == first


def test_equal_probes_name_no_stage_and_a_generator_without_effect_is_a_note() -> None:
    assert first_stage(ORDER, ORDER, dropout=True) == (None, ())
    found, notes = first_stage(ORDER, changed(("generator", "before the first")), dropout=False)
    assert found is None
    assert "no effect" in notes[0]


def test_on_a_gpu_the_cpus_generator_does_not_explain_another_mask() -> None:
    """Dropout draws from the GPU's generators there: with those equal, the forward pass is the first that differs."""
    gpu = sign("generator", "c", name="before the first forward: cuda")
    left = [*ORDER[:3], gpu, *ORDER[3:]]
    other = changed(("generator", "before the first"), ("forward", ""))
    found, notes = first_stage(left, [*other[:3], gpu, *other[3:]], dropout=True)
    assert found is not None
    assert found.name == "forward"
    assert "no effect" in notes[0]
    third = [*other[:3], sign("generator", "d", name="before the first forward: cuda"), *other[3:]]
    found, _ = first_stage(left, third, dropout=True)
    assert found is not None
    assert (found.name, found.cause) == ("generator", "before the first forward: cuda differs")


NOT_FINITE = [*LOSSES[:4], *[math.nan] * 4]


def test_what_is_not_finite_is_in_no_tolerance() -> None:
    for other in (NOT_FINITE, [*LOSSES[:7], math.inf]):
        found = judge(points(LOSSES), points(other), tolerance=0.5)
        assert (found.state, found.largest) == ("diverged", math.inf)
        assert json.loads(json.dumps(as_object(found), allow_nan=False))["largest_difference"] == "inf"
        assert judge(points(other), points(other)).state == "undecided"


def test_repeats_of_which_some_are_not_finite_decide_nothing() -> None:
    assert noise([points(LOSSES), points(NOT_FINITE)]) == math.inf
    assert noise([points(NOT_FINITE), points(NOT_FINITE)]) == 0.0
    found = judge(points(LOSSES), points(LOSSES), tolerance=2 * noise([points(LOSSES), points(NOT_FINITE)]))
    assert found.state == "undecided"
    assert "without bound" in found.sentence


def test_a_run_that_stops_early_is_compared_as_far_as_it_goes_and_that_is_said() -> None:
    found = judge(points(LOSSES), points(LOSSES[:6]))
    assert (found.state, found.compared) == ("agree", (1, 6))
    assert "the left side goes on to 8" in found.sentence
    assert judge(points(LOSSES[:3]), points(LOSSES)).state == "undecided"
    later = [Point(number, 9.0, 1.0, 1e-4) for number in range(10, 15)]
    assert judge(points(LOSSES[:4]), later).state == "undecided"
