"""Functions and configurations of several releases of Bridge, as small stand-ins: what the shim does with each."""

from types import SimpleNamespace
from typing import Any

import pytest

from launcher.job.config import legacy_kwargs, notes, versions
from launcher.job.errors import UserError


def config(**more: Any) -> SimpleNamespace:
    """The sections that keywords reach, as in 0.6.2."""
    sections: dict[str, Any] = {
        "model": SimpleNamespace(tensor_model_parallel_size=1, seq_length=1, pipeline_model_parallel_layout=[["a"]]),
        "dataset": SimpleNamespace(seq_length=1),
        "train": SimpleNamespace(train_iters=1),
        "validation": SimpleNamespace(eval_interval=1),
        "checkpoint": SimpleNamespace(save_interval=1),
        "mixed_precision": "bf16_mixed",
    }
    return SimpleNamespace(**{**sections, **more})


def without_keywords() -> SimpleNamespace:
    return config()


def with_one(peft_scheme: str = "lora") -> SimpleNamespace:
    return config(peft=peft_scheme)


def with_all(**user_keywords: Any) -> dict[str, Any]:
    return user_keywords


def test_old_keywords_are_set_in_what_a_function_returns() -> None:
    notes.take()
    made = versions.with_old_keywords(without_keywords)(
        tensor_model_parallel_size=2, seq_length=64, save_interval=0, eval_interval=7, precision_config="fp16_mixed"
    )
    assert (made.model.tensor_model_parallel_size, made.model.seq_length, made.dataset.seq_length) == (2, 64, 64)
    assert (made.checkpoint.save_interval, made.validation.eval_interval) == (0, 7)
    assert made.mixed_precision == "fp16_mixed"
    (note,) = notes.take()
    assert note.startswith("without_keywords() takes no tensor_model_parallel_size, seq_length, ")


def test_what_a_function_takes_itself_is_passed_on() -> None:
    made = versions.with_old_keywords(with_one)("dora", train_iters=3)
    assert (made.peft, made.train.train_iters) == ("dora", 3)
    # 0.2.2 to 0.3.0: nothing to do, whatever the keyword.
    assert versions.with_old_keywords(with_all) is with_all
    assert notes.take()


def test_a_configuration_before_0_4_is_met_under_its_own_names() -> None:
    old = config(train=SimpleNamespace(eval_interval=1), dataset=SimpleNamespace(sequence_length=1), validation=None)
    legacy_kwargs.apply(old, {"eval_interval": 9, "seq_length": 32})
    assert (old.train.eval_interval, old.dataset.sequence_length) == (9, 32)
    assert versions.env_vars(old) == {}
    assert versions.env_vars(config(env_vars={"A": 1})) == {"A": 1}


def test_a_layout_for_other_stages_is_dropped() -> None:
    made = config()
    legacy_kwargs.apply(made, {"tensor_model_parallel_size": 2})
    assert made.model.pipeline_model_parallel_layout
    made.model.virtual_pipeline_model_parallel_size = None
    legacy_kwargs.apply(made, {"virtual_pipeline_model_parallel_size": 2})
    assert made.model.pipeline_model_parallel_layout is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"train_iter": 3}, "without_keywords() has no keyword 'train_iter'; it has train_iters, "),
        ({"mtp_num_layers": 1}, "keyword mtp_num_layers=1: this recipe's configuration has no model.mtp_num_layers"),
    ],
)
def test_a_wrong_keyword_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        versions.with_old_keywords(without_keywords)(**given)
    assert caught.value.message.startswith(says)


def pretrain_of_0_2(_config: Any, _forward_step_func: Any) -> None:
    """Never called."""


def pretrain_since_0_3(_config: Any, _forward_step_func: Any, callbacks: Any = None) -> None:
    """Never called."""
    del callbacks


def test_a_bridge_without_callbacks_cannot_be_run() -> None:
    with pytest.raises(UserError, match=r"needs Megatron Bridge 0\.3\.0 or later"):
        versions.require_callbacks(pretrain_of_0_2)
    versions.require_callbacks(pretrain_since_0_3)
