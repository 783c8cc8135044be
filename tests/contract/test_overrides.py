"""Overrides travel whole from the launcher to the job, and of two values of a key the last counts in both."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.contract.overrides import from_record, key_of, keys_of, last_of_each_key, replaced, to_record
from launcher.contract.records.request import JobRequest, OverrideRecord
from launcher.contract.validation import problems
from launcher.contract.values import Override, Refused, parse
from launcher.planning.assignments import split_arguments_and_overrides
from launcher.planning.overrides import check, known_values
from tests.job.bridge_process import answers_to_all
from tests.job.right_requests import EFFECTS
from tests.support.building import RECIPE, plan
from tests.support.quick import few

TEXTS = [text for texts, _ in EFFECTS.values() for text in texts]


def travelled(text: str) -> Override:
    """The override as the job has it."""
    record: OverrideRecord = json.loads(json.dumps(to_record(parse(text))))
    assert not list(problems(record, OverrideRecord))
    return from_record(record)


@pytest.mark.parametrize("text", [*TEXTS, "a.b='x y'", "+a.b=[1,{c:null}]", "++a=1e5", "a={1:2}", "a=${oc.env:HOME}"])
def test_the_job_has_what_the_launcher_parsed(text: str) -> None:
    assert travelled(text) == parse(text)


@pytest.mark.parametrize("text", ["a=inf", "a=[1.0,-inf]", "a={1:2}"])
def test_a_value_that_json_lacks_is_left_out_and_parsed_again(text: str) -> None:
    assert "value" not in to_record(parse(text))
    assert json.loads(json.dumps(to_record(parse(text)), allow_nan=False))["text"] == text
    assert travelled(text) == parse(text)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=5,
)


@settings(max_examples=few(100))
@given(value=PLAIN)
def test_every_value_arrives_or_is_left_out(value: Any) -> None:
    record = json.loads(json.dumps(to_record(Override("a.b", value, "a.b=..."))))
    if "value" in record:
        assert from_record(record) == Override("a.b", value, "a.b=...")


def test_a_record_without_a_value_may_be_refused() -> None:
    with pytest.raises(Refused, match="sweep"):
        from_record({"key": "a", "text": "a=1,2"})


def test_the_last_of_each_key() -> None:
    given = ("a=1", "b.c=2", "+a=3", "~d", "b.c=4", "b.c=4")
    assert last_of_each_key(given) == ("+a=3", "~d", "b.c=4")
    assert replaced(given) == [("a=1", "+a=3"), ("b.c=2", "b.c=4")]
    merged = ("a={x:1}", "a={y:2}", "b=lora", "b={dim:8}")
    assert last_of_each_key(merged) == merged
    assert last_of_each_key(("a={x:1}", "a=null", "a={y:2}")) == ("a=null", "a={y:2}")
    assert [key_of(text) for text in given] == ["a", "b.c", "a", "~d", "b.c", "b.c"]
    assert keys_of([parse("+a=1"), parse("b.c=2")]) == {"a", "b.c"}


def test_the_plan_takes_the_last_value_and_says_so() -> None:
    assigned = ("layers=2", "train.train_iters=1", "layers=3", "+train.train_iters=2")
    arguments, texts = split_arguments_and_overrides(assigned, RECIPE)
    assert (arguments, texts) == ({"layers": "3"}, ("+train.train_iters=2",))
    made = plan(request={"assignments": assigned}, changes=texts, arguments=arguments)
    assert not list(problems(json.loads(made.argv_json()), JobRequest))
    assert [record["key"] for record in made.argv["overrides"]] == ["train.train_iters"]
    assert [text for text in made.warnings if "has no effect" in text] == [
        "layers=2 has no effect: layers=3 comes after it",
        "train.train_iters=1 has no effect: +train.train_iters=2 comes after it",
    ]


@pytest.mark.megatron
def test_plan_and_job_agree_on_the_last_value(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The job is given both values here, as by a writer of argv.json that does not leave the first out."""
    name = "the last of two counts"
    texts, effects = EFFECTS[name]
    answer = answers_to_all(tmp_path_factory)[name]
    assert answer["ok"], answer["error"]
    planned = known_values(check(last_of_each_key(texts), None))
    assert planned == known_values(check(texts, None)) == {"train.train_iters": 2}
    assert answer["read"]["train.train_iters"] == effects["train.train_iters"] == "2"
