"""Models of what a person writes: every mistake is named with its key, and no text is repeated."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import pytest
from msgspec import Meta, field

from launcher.config.model import LARGEST, Model, ModelError
from launcher.config.request import Request


def _no_space(text: str) -> None:
    if " " in text:
        raise ValueError("has a space")


def _even(number: int | None) -> None:
    if number is not None and number % 2:
        raise ValueError("is odd")


class Inner(Model, frozen=True, kw_only=True):
    limit: Annotated[float, Meta(gt=0, le=LARGEST)] | None = None
    named: Annotated[str, Meta(pattern=r"^[a-z]+\Z")]


class Outer(Model, frozen=True, kw_only=True):
    text_check: ClassVar[Callable[[str], object]] = _no_space
    checks: ClassVar[Mapping[str, Callable[[Any], object]]] = {"number": _even}
    number: Annotated[int, Meta(ge=0)] | None = None
    word: Annotated[str, Meta(min_length=1)] = "word"
    words: Annotated[tuple[str, ...], Meta(min_length=1)] = ("one",)
    kind: Literal["full", "sizes"] = "full"
    count: Annotated[int, Meta(ge=1, le=9)] | Literal["auto"] = 1
    flag: bool = False
    table: dict[str, bool | int | str] = field(default_factory=dict)
    inner: Inner = Inner(named="x")
    loose: dict[str, Any] = field(default_factory=dict)


def test_a_url_in_place_of_the_name_of_its_variable_is_not_repeated() -> None:
    with pytest.raises(ModelError) as caught:
        Request.model_validate({"notify_url": "https://chat/canary"})
    assert str(caught.value) == "notify_url: must be the name of a variable"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"number": "hf_canary"}, "number: must be a whole number of at least 0, not a text"),
        ({"number": True}, "number: must be a whole number of at least 0, not true"),
        ({"number": -1}, "number: must be a whole number of at least 0, not -1"),
        ({"number": 1}, "number: is odd"),
        ({"word": ""}, "word: is empty"),
        ({"word": 5}, "word: must be a text, not 5"),
        ({"word": "a b"}, "word: has a space"),
        ({"words": ("hf_canary a",)}, "words.0: has a space"),
        ({"words": "hf_canary"}, "words: must be a list with at least 1 item, not a text"),
        ({"words": []}, "words: must be a list with at least 1 item"),
        ({"words": {}}, "words: must be a list with at least 1 item, not a table"),
        ({"kind": "size"}, "kind: must be 'full' or 'sizes'; did you mean 'sizes'?"),
        ({"kind": 1}, "kind: must be 'full' or 'sizes', not 1"),
        ({"count": "hf_canary"}, "count: must be a whole number from 1 to 9 or 'auto'"),
        ({"count": 10}, "count: must be a whole number from 1 to 9 or 'auto', not 10"),
        ({"flag": 1}, "flag: must be true or false, not 1"),
        ({"table": {"a": 1.5, "b": "x y"}}, "table.a: must be true or false, a whole number or a text, not 1.5"),
        ({"table": {"a": 1.5, "b": "x y"}}, "table.b: has a space"),
        ({"table": []}, "table: must be a table, not a list"),
        ({"inner": {}}, "inner.named: is missing"),
        ({"inner": {"named": "A\n"}}, "inner.named: must be a text that matches [a-z]+"),
        ({"inner": {"named": "a\n"}}, "inner.named: must be a text that matches [a-z]+"),
        ({"inner": {"named": "a", "limit": float("inf")}}, "inner.limit: must be a finite number above 0, not inf"),
        ({"inner": {"named": "a", "limit": float("nan")}}, "inner.limit: must be a finite number above 0, not nan"),
        ({"inner": {"named": "a", "limits": 1}}, "inner.limits: unknown key; did you mean limit?"),
        ({"inner": None}, "inner: must be a table, not null"),
        ({"numbr": 1}, "numbr: unknown key; did you mean number?"),
        ({"checks": {}}, "checks: unknown key"),
    ],
)
def test_each_wrong_value_is_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError) as raised:
        Outer.model_validate(values)
    assert words in str(raised.value).split("; ") or words == str(raised.value)
    assert "canary" not in str(raised.value)


def test_all_mistakes_are_named_in_the_order_of_the_fields() -> None:
    with pytest.raises(ModelError) as raised:
        Outer.model_validate({"zzz": 1, "inner": {"limit": 0, "zz": 1}, "words": ["a", 1, "b c"], "number": 3})
    keys = [".".join(each.key) for each in raised.value.problems]
    assert keys == ["number", "words.1", "words.2", "inner.limit", "inner.named", "inner.zz", "zzz"]


def test_values_are_taken_as_their_types_have_them() -> None:
    found = Outer.model_validate({"words": ["a", "b"], "inner": {"named": "a", "limit": 3}, "loose": {"x": "a b"}})
    assert (found.words, found.inner, found.loose) == (("a", "b"), Inner(named="a", limit=3.0), {"x": "a b"})
    assert found.model_dump(exclude_defaults=True, exclude=("loose",)) == {
        "words": ["a", "b"],
        "inner": {"named": "a", "limit": 3.0},
    }
    assert found.model_copy(update={"number": 4}).number == 4
    with pytest.raises(AttributeError):
        found.number = 5  # type: ignore[misc]


def test_a_request_knows_what_was_stated_also_where_it_is_the_default() -> None:
    asked = Request.model_validate({"verify": "budget", "nodes": 2, "time": 30})
    assert asked.stated() == {"verify": "budget", "nodes": 2, "time": "30"}
    assert asked.model_copy(update={"shared": False}).stated().keys() == {"verify", "nodes", "time", "shared"}
    assert asked.model_dump(exclude_defaults=True) == {"nodes": 2, "time": "30"}
    assert Request(nodes=3).stated() == {"nodes": 3}
    with pytest.raises(ModelError, match="_stated: unknown key"):
        Request.model_validate({"_stated": ["nodes"]})
