"""Values that have, and that do not have, the form of a type."""

from typing import Any, Literal, TypedDict

import pytest

from launcher.contract.records.journal import JournalEvent
from launcher.contract.records.ranks import RankRecord
from launcher.contract.records.request import JobRequest
from launcher.contract.records.result import AttemptResult
from launcher.contract.records.timeline import MetricsLine, NetworkEvent, PlacementEvent, TimelineEvent
from launcher.contract.validation import ContractError, conforming, problems


class _Base(TypedDict):
    number: int
    share: float
    word: Literal["a", "b"]


class Inner(_Base, total=False):
    names: list[str]
    pair: tuple[int, str]


class Outer(TypedDict):
    inner: Inner | None
    either: Inner | str
    more: dict[str, list[int]]
    anything: Any


INNER: dict[str, Any] = {"number": 1, "share": 1, "word": "a"}
OUTER: dict[str, Any] = {"inner": None, "either": "x", "more": {"a": [1]}, "anything": object()}


def test_what_has_the_form() -> None:
    some: tuple[dict[str, Any], ...] = (
        {},
        {"inner": INNER},
        {"either": {**INNER, "names": ["x"], "pair": [1, "x"]}},
        {"more": {}},
    )
    for changes in some:
        assert conforming({**OUTER, **changes}, Outer)["more"] is not None


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([], "is [], not an object"),
        ({**OUTER, "inner": {**INNER, "number": True}}, "inner.number is True, not int"),
        ({**OUTER, "inner": {**INNER, "number": 1.0}}, "inner.number is 1.0, not int"),
        ({**OUTER, "inner": {**INNER, "share": "1"}}, "inner.share is '1', not float"),
        ({**OUTER, "inner": {**INNER, "word": "c"}}, "inner.word is 'c', not one of 'a', 'b'"),
        ({**OUTER, "inner": {"number": 1, "share": 1}}, "inner lacks 'word'"),
        ({**OUTER, "inner": {**INNER, "nmaes": []}}, "inner has the unknown key 'nmaes'"),
        ({**OUTER, "either": {**INNER, "names": [1]}}, "either.names[0] is 1, not str"),
        ({**OUTER, "either": {**INNER, "pair": [1]}}, "either.pair has 1 items, not 2"),
        ({**OUTER, "more": {"a": [1, "b"]}}, "more.a[1] is 'b', not int"),
        ({**OUTER, "more": {"a": None}}, "more.a is None, not a list"),
        ({**OUTER, "more": []}, "more is [], not an object"),
    ],
)
def test_each_place_that_differs_is_named(value: object, sentence: str) -> None:
    assert list(problems(value, Outer)) == [sentence]
    with pytest.raises(ContractError) as caught:
        conforming(value, Outer)
    assert str(caught.value) == sentence


def test_a_reader_may_be_older_than_the_writer() -> None:
    later = {**OUTER, "inner": {**INNER, "later": 1}, "later": 2}
    assert len(list(problems(later, Outer))) == 2
    assert list(problems(later, Outer, unknown_keys=True)) == []


@pytest.mark.parametrize(
    "kind",
    [JobRequest, RankRecord, AttemptResult, MetricsLine, TimelineEvent, JournalEvent],
    ids=lambda kind: kind.__name__,
)
def test_every_record_needs_something(kind: Any) -> None:
    assert list(problems({}, kind))


@pytest.mark.parametrize("kind", [NetworkEvent, PlacementEvent], ids=lambda kind: kind.__name__)
def test_every_event_is_an_event_of_the_timeline(kind: Any) -> None:
    assert kind.__annotations__.keys() <= TimelineEvent.__annotations__.keys()
    assert TimelineEvent.__required_keys__ <= kind.__required_keys__
