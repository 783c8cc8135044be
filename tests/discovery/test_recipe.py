"""Reading recipes without running them."""

from pathlib import Path

import pytest

from launcher._util.errors import RecipeError
from launcher._util.resources import resource
from launcher.discovery.recipe import BridgeRecipe, RecipeFile, read_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "x.py"
    path.write_text("import torch\nfrom other import made\ndef configure(a, b=1, *, c, d=2): ...\ndef small(): ...\n")
    (tmp_path / "helper.py").write_text("")
    return path


def test_a_file_is_read_without_being_run(recipe: Path) -> None:
    found = read_recipe("x.py", recipe.parent)
    assert found == RecipeFile(recipe, "configure", ("a", "b", "c", "d"), ("a", "c"))


def test_a_shipped_recipe_has_a_name_from_everywhere(tmp_path: Path) -> None:
    found = read_recipe("vanilla_gpt_pretrain", tmp_path)
    assert isinstance(found, RecipeFile)
    assert found.path == resource("recipes/vanilla_gpt_pretrain.py")
    assert read_recipe("vanilla_gpt_pretrain:configure", tmp_path) == found
    (tmp_path / "mine.py").write_text("def configure(): ...\n")
    for text, hint in {
        "vanilla_gpt": "Did you mean: vanilla_gpt_pretrain?",
        "mine": "The file is mine.py.",
        "llama32_1b_pretrain_config": "Megatron Bridge's is bridge:llama32_1b_pretrain_config.",
    }.items():
        with pytest.raises(RecipeError, match="is not a recipe that ships") as caught:
            read_recipe(text, tmp_path)
        assert hint in str(caught.value.hint)


def test_another_function_and_an_imported_one(recipe: Path) -> None:
    assert isinstance(found := read_recipe(f"{recipe}:small", Path("/")), RecipeFile)
    assert (found.function, found.parameters) == ("small", ())
    assert isinstance(imported := read_recipe("x.py:made", recipe.parent), RecipeFile)
    assert imported.parameters == ()


def test_a_bridge_recipe_is_a_name() -> None:
    assert read_recipe("bridge:llama3_8b_pretrain_config", Path("/")) == BridgeRecipe("llama3_8b_pretrain_config")


@pytest.mark.parametrize(
    ("text", "sentence", "hint"),
    [
        ("y.py", "there is no recipe 'y.py'", "helper.py, x.py"),
        ("no/y.py", "there is no recipe", "relative to the current directory"),
        ("recipes/vanilla_gpt_pretrain.py", "there is no recipe", "ships with the launcher: vanilla_gpt_pretrain"),
        ("x.py:configur", "no function 'configur'", "configure, small"),
        ("llama", "'llama' is not a recipe", "bridge:NAME"),
        ("bridge:a-b", "not the name of a Bridge recipe", None),
        ("bridge:", "not the name of a Bridge recipe", None),
    ],
)
def test_refusals(recipe: Path, text: str, sentence: str, hint: str | None) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(text, recipe.parent)
    assert sentence in caught.value.message
    assert hint is None or hint in (caught.value.hint or "")


def test_a_syntax_error_is_named_with_its_line(recipe: Path) -> None:
    recipe.write_text("a = 1\ndef configure(:\n")
    with pytest.raises(RecipeError) as caught:
        read_recipe("x.py", recipe.parent)
    assert caught.value.where == f"{recipe}:2"
