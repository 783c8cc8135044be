"""Files: where keys stand, tests by name and whole ones, hooks, and the check of all files of a directory."""

from pathlib import Path

import pytest

from launcher._util.errors import ConfigError
from launcher.cloudai.load import kind_of, load_hooks, load_scenario, load_test, load_tests, verify
from launcher.cloudai.toml_lines import TomlFile
from launcher.config.load import deep_merge
from tests.cloudai.files import ARGS, BRIDGE, DATA, TEST, workspace, write

LINES = '''\
name = "a" # x = 3
"quo.ted" = 1
d.e = 2
text = """
fake = 1
[fake]
"""
list = [ 1,
  "a]b", # comment ]
  2 ]
inline = { a = [1,
 2], b = 3 }

[[Tests]]
id = "one"
 [[Tests.git_repos]]
 url = "u"
 [[Tests.git_repos]]
 url = "v"
 [Tests.cmd_args]
 x = \'\'\'
y = 1\'\'\'
[[Tests]]
id = "two"
[Tests.cmd_args]
y.z = 'x'
'''


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("name",), 1),
        (("quo.ted",), 2),
        (("d", "e"), 3),
        (("text",), 4),
        (("list",), 8),
        (("inline", "b"), 11),
        (("Tests", 0, "id"), 15),
        (("Tests", 0, "git_repos", 1, "url"), 19),
        (("Tests", 0, "cmd_args", "x"), 21),
        (("Tests", 0, "cmd_args", "y"), 20),
        (("Tests", 1, "cmd_args", "y", "z"), 26),
        (("Tests", 1, "nothing"), 23),
        (("fake",), None),
    ],
)
def test_the_line_of_a_key(key: tuple[str | int, ...], line: int | None, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(LINES)
    assert TomlFile(path).line(key) == line


def test_a_file_that_is_not_toml_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('a = 1\nb = "\n')
    with pytest.raises(ConfigError) as raised:
        TomlFile(path)
    assert raised.value.where == f"{path}:2"


@pytest.mark.parametrize("number", [2, "2", [1, 2], ["1", 2]])
def test_num_nodes_is_a_number_a_text_or_a_list(number: object, tmp_path: Path) -> None:
    entry = workspace(tmp_path, {"num_nodes": number}).scenario.tests[0].entry
    assert entry.num_nodes == (2 if not isinstance(number, list) else [1, 2])


def test_an_entry_is_merged_over_the_test_that_it_names(tmp_path: Path) -> None:
    test = {
        "cmd_args": {**ARGS, "tp": 2, "more": {"a": 1, "b": 2}},
        "extra_env_vars": {"A": "1", "B": "1"},
        "git_repos": [BRIDGE, {"url": "https://example.com/x.git", "commit": "c"}],
    }
    entry = {
        "cmd_args": {"pp": 4, "more": {"b": 3}},
        "extra_env_vars": {"B": "2"},
        "git_repos": [{**BRIDGE, "commit": "v0.6.2"}],
        "description": "changed",
    }
    found = workspace(tmp_path, entry, test=test).scenario.tests[0].test
    assert (found.cmd_args.tp, found.cmd_args.pp) == (2, 4)
    assert found.cmd_args.model_extra == {"more": {"a": 1, "b": 3}}
    assert found.extra_env_vars == {"A": "1", "B": "2"}
    assert [repo.commit for repo in found.git_repos] == ["v0.6.2"]
    assert found.description == "changed"


def test_a_mistake_is_named_where_it_stands(tmp_path: Path) -> None:
    tests = {"t": load_test(write(tmp_path / "t.toml", TEST))}
    path = tmp_path / "s.toml"
    path.write_text('name = "s"\n[[Tests]]\nid = "a"\ntest_name = "t"\n[Tests.cmd_args]\npp = "x"\nmb = "y"\n')
    with pytest.raises(ConfigError) as raised:
        load_scenario(path, tests)
    assert raised.value.where == f"{path}:6"
    assert "; line 7: cmd_args.mb: " in raised.value.message


def test_fields_count_as_stated_as_they_do_in_cloudai(tmp_path: Path) -> None:
    """By name all do; of a whole test those that it states."""
    named = workspace(tmp_path / "a").scenario.tests[0]
    whole = workspace(tmp_path / "b", {**TEST, "test_template_name": "MegatronBridge"}).scenario.tests[0]
    assert named.test.cmd_args.is_stated("max_steps")
    assert not whole.test.cmd_args.is_stated("max_steps")
    assert not named.wrote("cmd_args", "max_steps")
    assert named.wrote("cmd_args", "num_gpus")


def test_two_tests_of_a_directory_have_two_names(tmp_path: Path) -> None:
    write(tmp_path / "a.toml", TEST)
    write(tmp_path / "b.toml", TEST)
    with pytest.raises(ConfigError, match=r"the test 't' is defined here and in .*a.toml:1"):
        load_tests(tmp_path)


def test_another_template_is_loaded_and_not_run(tmp_path: Path) -> None:
    values = {"name": "n", "description": "d", "test_template_name": "NcclTest", "cmd_args": {"x": 1}, "own_field": 1}
    tests = {"n": load_test(write(tmp_path / "n.toml", values))}
    path = write(tmp_path / "s.toml", {"name": "s", "Tests": [{"id": "a", "test_name": "n"}]})
    with pytest.raises(ConfigError, match="'NcclTest' is a template of CloudAI that this launcher does not run"):
        load_scenario(path, tests)


def test_a_hook_is_found_by_its_name(tmp_path: Path) -> None:
    hooks = load_hooks(DATA / "hook")
    assert [test.name for _, test in hooks["nccl_test"].tests] == ["nccl_test_all_gather"]
    tests = {"t": load_test(write(tmp_path / "t.toml", TEST))}
    values = {"name": "s", "pre_test": "nccl_test", "Tests": [{"id": "a", "test_name": "t"}]}
    loaded = load_scenario(write(tmp_path / "s.toml", values), tests, hooks)
    assert loaded.pre_test is hooks["nccl_test"]


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("system.toml", "system"),
        ("tests/h100/qwen3.toml", "test"),
        ("scenarios/page.toml", "scenario"),
        ("hook/nccl.toml", "hook"),
        ("hook/test/all_gather.toml", "test"),
    ],
)
def test_what_a_file_describes(file: str, kind: str) -> None:
    assert kind_of(DATA / file) == kind


def test_all_files_are_checked_and_each_mistake_is_named(tmp_path: Path) -> None:
    write(tmp_path / "test/t.toml", TEST)
    write(tmp_path / "test/wrong.toml", {**TEST, "name": "w", "cmd_args": {**ARGS, "tp": "x"}})
    write(tmp_path / "s.toml", {"name": "s", "Tests": [{"id": "a", "test_name": "t"}]})
    write(tmp_path / "other.toml", {"x": 1})
    found = {one.path.name: one for one in verify(tmp_path)}
    assert [name for name, one in found.items() if one.error is None] == ["s.toml", "t.toml"]
    assert "neither a system" in str(found["other.toml"].error)
    assert found["wrong.toml"].kind == "test"
    # Two tests of one name: --tests-dir says which is meant.
    write(tmp_path / "test2/t.toml", TEST)
    found = {one.path.name: one for one in verify(tmp_path)}
    assert "is defined by 2 files" in str(found["s.toml"].error)
    assert {one.path.name: one for one in verify(tmp_path / "s.toml", tmp_path / "test2")}["s.toml"].error is None


def test_tables_are_merged_and_lists_replaced() -> None:
    merged = deep_merge({"a": {"b": 1, "c": [1, 2]}, "d": 1}, {"a": {"c": [3]}, "e": {"f": 1}})
    assert merged == {"a": {"b": 1, "c": [3]}, "d": 1, "e": {"f": 1}}
