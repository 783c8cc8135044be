"""The tolerance of a verdict by the kind of change, from one table."""

import json
from pathlib import Path

import pytest

from launcher.correlate.correlate import Pair, Training, judge_runs
from launcher.correlate.settings import Difference
from launcher.correlate.tolerances import TOLERANCES, expected_of
from tests.correlate.test_repeats import recorded

NOTHING = Pair(Training(""), Training(""), dropout=0.0)


@pytest.mark.parametrize(
    ("keys", "dropout", "names"),
    [
        ((), False, set()),
        (("model.bias_activation_fusion",), False, {"fusion"}),
        (("model.bias_activation_fusion",), True, set()),
        (("model.bias_dropout_fusion",), False, set()),
        (("ddp.use_distributed_optimizer", "optimizer.use_distributed_optimizer"), True, {"distributed optimizer"}),
        (("optimizer.adam_beta2",), False, set()),
        (("optimizer.adam_beta2", "model.bias_activation_fusion"), False, set()),
    ],
)
def test_only_changes_of_a_known_kind_have_a_tolerance(keys: tuple[str, ...], dropout: bool, names: set[str]) -> None:
    found = expected_of([Difference(key, 1, 2, numbers=True) for key in keys], image=False, dropout=dropout)
    assert {row.name for row in found} == names


@pytest.mark.parametrize(
    ("left", "right", "names"),
    [("bf16_mixed", "bf16_with_fp8_current_scaling_mixed", {"FP8"}), ("bf16_mixed", None, set())],
)
def test_the_tolerance_of_fp8_is_for_fp8_beside_bf16(left: str, right: str | None, names: set[str]) -> None:
    found = expected_of([Difference("mixed_precision", left, right, numbers=True)], image=False, dropout=True)
    assert {row.name for row in found} == names


def test_another_image_is_a_kind_of_its_own() -> None:
    assert {row.name for row in expected_of([], image=True, dropout=True)} == {"image"}


def test_every_row_has_a_source_and_the_table_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "tolerances.md").read_text()
    for row in TOLERANCES:
        assert row.source
        assert f"| {row.name} | {row.relative:g} |" in page


@pytest.mark.parametrize(("shift", "state"), [(3e-6, "agree within tolerance"), (3e-5, "diverged")])
def test_a_verdict_takes_the_tolerance_of_the_change(shift: float, state: str, tmp_path: Path) -> None:
    runs = []
    for name, fused in (("a", "true"), ("b", "false")):
        run = recorded(tmp_path / name, shift if name == "b" else 0.0)
        plan = run.plan
        texts = ("model.hidden_dropout=0", "model.attention_dropout=0", f"model.bias_activation_fusion={fused}")
        plan["argv"]["overrides"] = [{"text": text} for text in texts]
        (run.path / "plan.json").write_text(json.dumps(plan))
        runs.append(run)
    verdict = judge_runs(runs[0], runs[1], NOTHING).verdict
    assert verdict.state == state, verdict
    assert any("of this change (fusion)" in note for note in verdict.notes)
    assert judge_runs(runs[0], runs[1], NOTHING, expecting=False).verdict.state == "diverged"
