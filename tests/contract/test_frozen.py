"""The launcher's frozen dataclasses behave as those of the standard library."""

import dataclasses
import pickle
from dataclasses import field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.contract import frozen


@frozen.dataclass(frozen=True)
class Ours:
    """A value."""

    first: int
    second: str = "x"
    third: list[int] = field(default_factory=list, compare=True)


@dataclasses.dataclass(frozen=True)
class Standard:
    """The same value."""

    first: int
    second: str = "x"
    third: list[int] = field(default_factory=list, compare=True)


@frozen.dataclass(frozen=True)
class Child(Ours):
    """The same with one more."""

    fourth: float = 0.5

    def __post_init__(self) -> None:
        if self.fourth < 0:
            raise ValueError("below zero")


@dataclasses.dataclass(frozen=True)
class StandardChild(Ours):
    """A child that the standard library defines."""

    fourth: float = 0.5


@frozen.dataclass(frozen=True)
class OfStandard(Standard):
    """A child of a class that the standard library defines."""

    fourth: float = 0.5


@pytest.mark.parametrize("kind", [Ours, Child, StandardChild, OfStandard])
def test_a_copy_with_other_values(kind: type[Ours]) -> None:
    value = kind(1, "y", [2])
    for changes in ({}, {"first": 5}, {"second": "z", "third": [7]}):
        assert frozen.replace(value, **changes) == dataclasses.replace(value, **changes)
    with pytest.raises(TypeError):
        frozen.replace(value, fifth=1)  # type: ignore[call-arg]
    vars(value)["cached"] = 3
    assert "cached" not in vars(frozen.replace(value, first=5))


def test_a_copy_is_checked_as_a_new_object_is() -> None:
    with pytest.raises(ValueError, match="below zero"):
        frozen.replace(Child(1), fourth=-1.0)


class Plain(Ours):
    """A child without fields of its own."""


values = st.tuples(st.integers(0, 2), st.sampled_from("xy"), st.lists(st.integers(0, 1), max_size=1))


@given(values, values)
def test_equality_text_and_fields_are_the_standard_ones(
    one: tuple[int, str, list[int]], other: tuple[int, str, list[int]]
) -> None:
    ours, standard = Ours(*one), Standard(*one)
    assert (ours == Ours(*other)) is (standard == Standard(*other)) is (one == other)
    assert repr(ours) == repr(standard).replace("Standard", "Ours", 1)
    assert dataclasses.asdict(ours) == dataclasses.asdict(standard)
    assert dataclasses.replace(ours, first=9) == Ours(9, *one[1:])
    assert pickle.loads(pickle.dumps(ours)) == ours  # noqa: S301
    assert ours != standard  # type: ignore[comparison-overlap]
    assert Plain(*one) != ours


def test_fields_that_do_not_count_are_left_out_as_in_the_standard_ones() -> None:
    @frozen.dataclass(frozen=True)
    class Noted:
        x: int
        note: str = field(default="", compare=False)
        secret: str = field(default="", repr=False, hash=False)

    assert Noted(1, "a") == Noted(1, "b")
    assert hash(Noted(1, "a")) == hash(Noted(1, "b")) == hash(Noted(1, secret="s"))
    assert Noted(1) != Noted(1, secret="s")
    assert repr(Noted(1, "a", "s")).endswith(".Noted(x=1, note='a')")


def test_hashes_are_those_of_equal_values() -> None:
    @frozen.dataclass(frozen=True)
    class Point:
        x: int
        y: tuple[int, ...] = ()

    assert len({Point(1), Point(1, ()), Point(2)}) == 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(Ours(1))


@pytest.mark.parametrize(
    ("values", "named"),
    [((), {}), ((1, "x", [], 4), {}), ((1,), {"first": 1}), ((1,), {"fifth": 1})],
    ids=["missing", "too many", "twice", "unknown"],
)
@pytest.mark.parametrize("kind", [Ours, Standard])
def test_wrong_arguments_are_refused(kind: type, values: tuple[object, ...], named: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        kind(*values, **named)


@pytest.mark.parametrize("kind", [Ours, Child, Plain, StandardChild, OfStandard])
def test_a_value_does_not_change(kind: type[Ours]) -> None:
    value = kind(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.first = 2  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del value.first
    assert value.first == 1
    assert kind(1).third is not value.third


def test_children_have_the_fields_of_their_parents() -> None:
    assert [each.name for each in dataclasses.fields(Child)] == ["first", "second", "third", "fourth"]
    assert Child(1, fourth=2.0) == Child(1, "x", [], 2.0)
    with pytest.raises(ValueError, match="below zero"):
        Child(1, fourth=-1.0)


def test_a_field_that_is_not_positional_is_refused() -> None:
    with pytest.raises(TypeError, match="not a positional argument"):

        @frozen.dataclass(frozen=True)
        class _Wrong:
            first: int = field(kw_only=True)
