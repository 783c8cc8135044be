"""Importing recipe files and converting their arguments; no Megatron is needed for either."""

import enum
import importlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.job.config import arguments, recipe
from launcher.job.errors import UserError


class Color(enum.Enum):
    """An enum as a recipe may have one."""

    RED = "r"
    BLUE = 2


def annotated(
    number: int = 1,
    rate: float = 0.5,
    flag: bool = False,
    text: str = "",
    maybe: Optional[int] = None,  # noqa: UP045 - both spellings are in use
    either: int | str = 0,
    kind: Literal["a", 2, None] = "a",
    color: Color = Color.RED,
    place: Path = Path(),
    ranks: list[int] = [],  # noqa: B006 - as recipes write it
    pairs: tuple[int, str] = (0, ""),
    grid: list[list[str]] = [],  # noqa: B006
    table: dict[str, float] = {},  # noqa: B006
    strange: Union[Color, int, None] = None,  # noqa: UP007
    noted: Annotated[int, "a note"] = 0,
    implicit: int = None,  # type: ignore[assignment]  # noqa: RUF013
) -> None:
    """Parameters of every kind that is converted."""


def bare(number=1, rate=0.5, flag=False, text="x", path=None, anything=()) -> None:  # type: ignore[no-untyped-def]
    """Parameters without annotations."""


CONVERTED: list[tuple[str, str, Any]] = [
    ("number", "-3", -3),
    ("rate", "1e-3", 0.001),
    ("rate", "2", 2.0),
    ("flag", "True", True),
    ("flag", "no", False),
    ("text", "null", "null"),
    ("text", "$(x) `y`; 'z'", "$(x) `y`; 'z'"),
    ("maybe", "none", None),
    ("maybe", "4", 4),
    ("either", "4", 4),
    ("either", "four", "four"),
    ("kind", "2", 2),
    ("kind", "null", None),
    ("color", "BLUE", Color.BLUE),
    ("color", "r", Color.RED),
    ("place", "~/x y", Path("~/x y")),
    ("ranks", "[0, 3]", [0, 3]),
    ("pairs", "[1,a]", (1, "a")),
    ("grid", "[[a,b],['c d']]", [["a", "b"], ["c d"]]),
    ("table", "{a:1,b:0.5}", {"a": 1, "b": 0.5}),
    ("strange", "RED", Color.RED),
    ("strange", "7", 7),
    ("noted", "5", 5),
    ("implicit", "null", None),
]


@pytest.mark.parametrize(("name", "text", "value"), CONVERTED)
def test_argument_is_converted_by_its_annotation(name: str, text: str, value: Any) -> None:
    converted = arguments.bind(annotated, "configure", {name: text}, "x.py")[name]
    assert converted == value
    assert type(converted) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("number", "4", 4),
        ("rate", "1", 1.0),
        ("flag", "on", True),
        ("text", "null", "null"),
        ("path", "null", None),
        ("path", "/x", "/x"),
        ("anything", "[1]", "[1]"),
    ],
)
def test_without_annotation_the_default_decides_the_type(name: str, text: str, value: Any) -> None:
    converted = arguments.bind(bare, "configure", {name: text}, "x.py")[name]
    assert converted == value
    assert type(converted) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("number", "1.5", "an integer, not '1.5'"),
        ("number", "true", "an integer, not 'true'"),
        ("flag", "2", "true or false, not '2'"),
        ("kind", "b", "one of a, 2, None, not 'b'"),
        ("color", "red", "one of RED, BLUE, not 'red'"),
        ("ranks", "0", "a list, each an integer, not '0'"),
        ("ranks", "[0,x]", "a list, each an integer, not '[0,x]'"),
        ("pairs", "[1]", "a list of 2: an integer, a string, not '[1]'"),
        ("grid", "[[a", "Hydra's grammar does not read '[[a'"),
        ("maybe", "x", "an integer or null, not 'x'"),
    ],
)
def test_argument_of_another_type_is_refused(name: str, text: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        arguments.bind(annotated, "configure", {name: text}, "x.py")
    assert says in caught.value.message
    assert caught.value.message.startswith(f"argument {name}={text}: ")


@given(st.sampled_from([name for name, _, _ in CONVERTED]), st.text())
def test_any_text_is_converted_or_refused(name: str, text: str) -> None:
    try:
        converted = arguments.bind(annotated, "configure", {name: text}, "x.py")
    except UserError as error:
        assert error.message.startswith(f"argument {name}=")
    else:
        assert set(converted) == {name}


def test_any_name_reaches_a_function_that_takes_all() -> None:
    def configure(**more: int) -> None: ...

    assert arguments.bind(configure, "configure", {"anything": "3"}, "x.py") == {"anything": 3}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A recipe's directory; modules and sys.path are as before afterwards."""
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in sys.modules.keys() - modules:
        del sys.modules[name]
    importlib.invalidate_caches()


def test_classes_of_a_recipe_can_be_pickled_and_found_by_another_process(home: Path) -> None:
    (home / "beside_of_mine.py").write_text("VALUE = 7\n")
    file = home / "recipe_of_mine.py"
    file.write_text(
        "from dataclasses import dataclass\nimport beside_of_mine\n"
        "@dataclass\nclass Point:\n    x: int = beside_of_mine.VALUE\n"
    )
    module = recipe.import_file(file)
    assert sys.modules["recipe_of_mine"] is module
    pickled = pickle.dumps(module.Point())
    # What multiprocessing's spawn hands to a new process: the pickle, and sys.path.
    code = f"import sys, pickle; sys.path[:] = {sys.path!r}; print(pickle.loads({pickled!r}).x)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "7\n"


def test_module_is_there_while_it_runs_and_gone_if_it_fails(home: Path) -> None:
    file = home / "fails_of_mine.py"
    file.write_text(
        "import sys\nassert sys.modules[__name__].__file__ == __file__\nraise ValueError('first\\nsecond')\n"
    )
    with pytest.raises(UserError) as caught:
        recipe.import_file(file)
    assert caught.value.message == "the recipe cannot be imported: ValueError: first"
    assert caught.value.where == f"{file}:3"
    assert "fails_of_mine" not in sys.modules


def test_a_signal_while_the_recipe_runs_is_not_its_fault(home: Path) -> None:
    file = home / "stopped_of_mine.py"
    file.write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        recipe.import_file(file)
    assert "stopped_of_mine" not in sys.modules


def test_a_name_with_dots_and_dashes_is_a_file_like_others(home: Path) -> None:
    file = home / "llama3.1-8b of mine.py"
    file.write_text("NAME = __name__\n")
    assert recipe.import_file(file).NAME == "llama3_1-8b of mine"


def test_an_error_in_a_file_beside_the_recipe_names_that_file(home: Path) -> None:
    (home / "wrong_of_mine.py").write_text("\n\ndef oops():\n    return [][1]\n")
    file = home / "calls_of_mine.py"
    file.write_text("import wrong_of_mine\nwrong_of_mine.oops()\n")
    with pytest.raises(UserError) as caught:
        recipe.import_file(file)
    assert caught.value.where == f"{home / 'wrong_of_mine.py'}:4"


def test_a_recipe_may_not_hide_an_installed_module(home: Path) -> None:
    file = home / "hypothesis.py"
    file.write_text("")
    with pytest.raises(UserError, match="has the name of an existing module"):
        recipe.import_file(file)
    assert str(home) not in sys.path
