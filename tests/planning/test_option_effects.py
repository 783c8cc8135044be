"""The table of options by mode: complete, and true."""

from collections.abc import Sequence

import pytest

from launcher._util.errors import ConfigError, LayoutError
from launcher.config.request import Request
from launcher.planning.layout import choose_hosts
from launcher.planning.option_effects import EFFECTS, refuse_without_effect

ALLOCATED = ("n1", "n2", "n3", "n4")


def test_the_table_has_every_option() -> None:
    assert set(EFFECTS) == set(Request.model_fields)


@pytest.mark.parametrize("mode", ["local", "allocation", "batch", "fetch"])
@pytest.mark.parametrize("key", EFFECTS)
def test_an_option_is_refused_where_it_has_no_effect(key: str, mode: str) -> None:
    if EFFECTS[key].counts_in(mode):
        refuse_without_effect([key], mode)
        return
    with pytest.raises(ConfigError, match="it has no effect in") as caught:
        refuse_without_effect([key], mode)
    assert (caught.value.where or "").startswith("--")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("listed", "excluded", "nodes", "chosen"),
    [
        ((), ("n1",), None, ("n2", "n3", "n4")),
        ((), ("n1", "n9"), 2, ("n2", "n3")),
        (("n3",), (), None, ("n3",)),
        (("n4", "n2"), (), None, ("n2", "n4")),
        (("n3",), (), 2, ("n1", "n3")),
        (("n3",), ("n1",), 2, ("n2", "n3")),
        (("n3", "n3"), (), None, ("n3",)),
        ((), (), 3, ("n1", "n2", "n3")),
    ],
)
def test_nodes_of_an_allocation(
    listed: Sequence[str], excluded: Sequence[str], nodes: int | None, chosen: tuple[str, ...]
) -> None:
    assert choose_hosts(ALLOCATED, listed, excluded, nodes) == chosen


@pytest.mark.parametrize(
    ("listed", "excluded", "nodes", "words"),
    [
        (("n9",), (), None, "n9 is not in this allocation"),
        (("n1",), ("n1",), None, "n1 is in --nodelist, too"),
        ((), ALLOCATED, None, "0 of the allocation's 4 are not excluded"),
        ((), ("n1",), 4, "4 nodes were asked for, and 3"),
        (("n1", "n2"), (), 1, "names 2 nodes"),
    ],
)
def test_nodes_that_an_allocation_does_not_have(
    listed: Sequence[str], excluded: Sequence[str], nodes: int | None, words: str
) -> None:
    with pytest.raises(LayoutError) as caught:
        choose_hosts(ALLOCATED, listed, excluded, nodes)
    assert words in caught.value.message
