"""Models: what is accepted, what is refused, and in which words."""

import copy
import math
import pickle
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from launcher.config.model import (
    Before,
    Model,
    ModelError,
    above,
    at_least,
    at_most,
    empty_table,
    finite,
    matches,
    not_empty,
)


def even(number: int) -> int:
    if number % 2:
        raise ValueError("is odd")
    return number


class Inner(Model):
    """A table."""

    size: Annotated[int, above(0)] = 1


class Outer(Model):
    """Every kind."""

    name: str
    count: Annotated[int, at_least(0), at_most(9), even] | None = None
    share: Annotated[float, finite] = 0.5
    switch: bool = False
    mode: Literal["a", "b"] = "a"
    words: tuple[Annotated[str, not_empty], ...] = ()
    table: dict[Annotated[str, matches("[A-Z]+")], bool | int | str] = empty_table()
    inner: Inner = Inner()
    path: Path = Path()
    time: Annotated[str | None, Before(lambda value: str(value) if type(value) is int else value)] = None
    anything: Any = None


def problems(**values: Any) -> list[tuple[str, str]]:
    with pytest.raises(ModelError) as caught:
        Outer(**{"name": "x", **values})
    return [(".".join(each.key), each.text) for each in caught.value.problems]


@pytest.mark.parametrize(
    ("values", "held"),
    [
        ({"count": 4}, 4),
        ({"count": None}, None),
        ({"share": 1}, 1.0),
        ({"switch": True}, True),
        ({"mode": "b"}, "b"),
        ({"words": ["a", "b"]}, ("a", "b")),
        ({"table": {"A": True, "B": 2, "C": "d"}}, {"A": True, "B": 2, "C": "d"}),
        ({"inner": {"size": 3}}, Inner(size=3)),
        ({"inner": {}}, Inner()),
        ({"path": "a/b"}, Path("a/b")),
        ({"time": 30}, "30"),
        ({"anything": [1]}, [1]),
    ],
)
def test_what_is_accepted(values: dict[str, Any], held: object) -> None:
    (key,) = values
    found = getattr(Outer(name="x", **values), key)
    assert found == held
    assert type(found) is type(held)


@pytest.mark.parametrize(
    ("values", "key", "text"),
    [
        ({"name": 3}, "name", "Input should be a valid string"),
        ({"name": None}, "name", "Input should be a valid string"),
        ({"count": "4"}, "count", "Input should be a valid integer"),
        ({"count": True}, "count", "Input should be a valid integer"),
        ({"count": 4.0}, "count", "Input should be a valid integer"),
        ({"count": -2}, "count", "Input should be greater than or equal to 0"),
        ({"count": 10}, "count", "Input should be less than or equal to 9"),
        ({"count": 3}, "count", "is odd"),
        ({"share": "1"}, "share", "Input should be a valid number"),
        ({"share": math.inf}, "share", "Input should be a finite number"),
        ({"share": True}, "share", "Input should be a valid number"),
        ({"switch": "yes"}, "switch", "Input should be a valid boolean"),
        ({"switch": 1}, "switch", "Input should be a valid boolean"),
        ({"mode": "c"}, "mode", "Input should be 'a' or 'b'"),
        ({"mode": 1}, "mode", "Input should be 'a' or 'b'"),
        ({"words": "a"}, "words", "Input should be a valid list"),
        ({"words": ["a", ""]}, "words.1", "String should have at least 1 character"),
        ({"table": []}, "table", "Input should be a valid table"),
        ({"table": {"a": 1}}, "table.a", "String should match pattern '[A-Z]+'"),
        ({"table": {"A": []}}, "table.A", "Input should be a valid boolean or a valid integer or a valid string"),
        ({"inner": 3}, "inner", "Input should be a valid table"),
        ({"inner": {"size": 0}}, "inner.size", "Input should be greater than 0"),
        ({"inner": {"sise": 1}}, "inner.sise", "unknown key"),
        ({"path": 3}, "path", "Input should be a valid path"),
        ({"nmae": 3}, "nmae", "unknown key"),
    ],
)
def test_what_is_refused(values: dict[str, Any], key: str, text: str) -> None:
    assert problems(**values) == [(key, text)]


def test_every_problem_is_named() -> None:
    found = problems(count=-1, words=[1, ""], inner={"size": "x"}, other=1)
    assert [key for key, _ in found] == ["count", "words.0", "words.1", "inner.size", "other"]
    with pytest.raises(ModelError, match="name: Field required"):
        Outer.model_validate({})


def test_an_unknown_key_has_the_known_ones_of_its_table() -> None:
    with pytest.raises(ModelError) as caught:
        Outer.model_validate({"name": "x", "inner": {"sise": 1}})
    assert caught.value.problems[0].known == ("size",)


def test_a_value_is_frozen_and_copied_with_changes() -> None:
    one = Outer(name="x", count=2)
    with pytest.raises(AttributeError, match="cannot be changed"):
        one.count = 4  # type: ignore[misc]
    other = one.model_copy(update={"mode": "b"})
    assert (one.mode, other.mode, other.count) == ("a", "b", 2)
    assert one.model_fields_set == frozenset({"name", "count"})
    assert other.model_fields_set == frozenset({"name", "count", "mode"})
    assert one != other
    assert one == Outer(name="x", count=2) == copy.deepcopy(one) == pickle.loads(pickle.dumps(one))  # noqa: S301
    assert Outer(name="x").table is not Outer(name="x").table


def test_values_are_written_as_json_has_them() -> None:
    one = Outer(name="x", words=("a",), path=Path("p"), inner=Inner(size=2), table={"A": 1})
    assert one.model_dump(exclude_defaults=True) == {
        "name": "x", "words": ("a",), "path": Path("p"), "inner": {"size": 2}, "table": {"A": 1}
    }  # fmt: skip
    assert one.model_dump(mode="json", exclude={"anything", "time", "count"}) == {
        "name": "x", "share": 0.5, "switch": False, "mode": "a", "words": ["a"], "table": {"A": 1},
        "inner": {"size": 2}, "path": "p",
    }  # fmt: skip
