"""Finding the run that a user means, and how many file calls that costs."""

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import DiskError, RequestError
from launcher.rundir.finding import find_run, iterate_runs, list_runs, scan
from launcher.rundir.registry import known_roots, remember_root
from tests.watch.run_dirs import make_run, submitted

IDS = ("small/20260101-000001-aaaa", "small/20260102-000002-bbbb", "large/20260101-000003-cccc")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, name in enumerate(IDS):
        run = make_run(tmp_path / name, *submitted(str(41 + number)))
        os.utime(run.path / "plan.json", (1000 - number, 1000 - number))
    (tmp_path / "small" / "not a run").mkdir()
    return tmp_path


def test_newest_first(root: Path) -> None:
    assert [run.path.name[-4:] for run in list_runs(root)] == ["bbbb", "cccc", "aaaa"]
    assert [run.path.name[-4:] for run in list_runs(root, 2)] == ["bbbb", "cccc"]
    assert list_runs(root / "none") == []


def test_runs_of_the_same_second_are_ordered_by_their_plans(root: Path) -> None:
    for written, end in ((5, "dddd"), (9, "eeee"), (7, "ffff")):
        run = make_run(root / f"large/20260102-000002-{end}")
        os.utime(run.plan_file, (written, written))
    assert [run.path.name[-4:] for run in list_runs(root)] == ["bbbb", "eeee", "ffff", "dddd", "cccc", "aaaa"]
    assert find_run("large", root).path.name.endswith("eeee")


def test_directories_with_other_names_come_last_by_their_plans(root: Path) -> None:
    for written, name in ((5, "copy"), (9, "a copy")):
        run = make_run(root / "small" / name)
        os.utime(run.plan_file, (written, written))
    assert [run.path.name for run in list_runs(root)][3:] == ["a copy", "copy"]


def test_several_roots_are_one_list(root: Path) -> None:
    make_run(root / "other/large/20260101-000004-dddd")
    found = [run.path.name[-4:] for run in iterate_runs([root / "other", root, root])]
    assert found == ["bbbb", "dddd", "cccc", "aaaa"]


def test_a_directory_that_is_still_being_written_is_not_a_run(root: Path) -> None:
    make_run(root / "small/.20260103-000004-dddd.partial")
    make_run(root / ".hidden/20260103-000004-dddd")
    assert len(list_runs(root)) == len(scan(root)) - 1 == 3


def test_a_link_leads_to_the_run_itself(root: Path) -> None:
    moved = root.parent / f"{root.name}-moved"
    (root / "large").rename(moved)
    (root / "large").symlink_to(moved)
    assert find_run("large", root).path == moved / "20260101-000003-cccc"


def test_a_name_that_cannot_be_read_hides_no_other(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(path: Path) -> Any:
        if Path(path).name == "large" or Path(path) == root / "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    real = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    assert [run.path.name[-4:] for run in list_runs(root)] == ["bbbb", "aaaa"]
    with pytest.raises(DiskError, match="cannot list the runs: Permission denied"):
        list_runs(root / "locked")


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("small", "bbbb"),
        ("small/", "bbbb"),
        ("large", "cccc"),
        ("20260101-000001-aaaa", "aaaa"),
        ("20260102", "bbbb"),
        ("20260101-000003", "cccc"),
        ("small/20260101-000001-aaaa", "aaaa"),
        ("small/20260101", "aaaa"),
        ("42", "bbbb"),
    ],
)
def test_by_name_id_or_job(root: Path, name: str, end: str) -> None:
    assert find_run(name, root).path.name.endswith(end)


def test_by_directory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root / "small" / "20260101-000001-aaaa"
    assert find_run(str(path), root / "elsewhere").path == path
    assert find_run(f"{path}/", root / "elsewhere").path == path
    assert find_run(f"{path.parent}/", root / "elsewhere").path.name.endswith("bbbb")
    monkeypatch.chdir(path.parent)
    assert find_run("20260101-000001-aaaa", root / "elsewhere").path == path
    assert find_run("../large", root / "elsewhere").path.name.endswith("cccc")
    monkeypatch.chdir(path)
    assert find_run(".", root / "elsewhere").path == path


def test_what_fits_several_or_none(root: Path) -> None:
    with pytest.raises(RequestError, match="fits 2 runs: large/20260101-000003-cccc, small/20260101-000001-aaaa"):
        find_run("20260101", root)
    with pytest.raises(RequestError, match="no run 'smal'") as caught:
        find_run("smal", root)
    assert "Did you mean: small?" in (caught.value.hint or "")
    with pytest.raises(RequestError, match="no run 'zzz'") as caught:
        find_run("zzz", root)
    assert "The newest there: small, large." in (caught.value.hint or "")
    with pytest.raises(RequestError, match="no run 'small/20260101-000001-aaab'") as caught:
        find_run("small/20260101-000001-aaab", root)
    assert "20260101-000001-aaaa" in (caught.value.hint or "")
    with pytest.raises(RequestError, match="no run 'x'") as caught:
        find_run("x", root / "none")
    assert "--run-root" in (caught.value.hint or "")


def test_a_job_of_two_clusters_is_ambiguous(root: Path) -> None:
    intent, outcome = submitted("42")
    make_run(root / "large/20260103-000001-dddd", intent, {**outcome, "cluster": "other"})
    with pytest.raises(RequestError, match="'42' fits 2 runs"):
        find_run("42", root)


def test_a_task_of_an_array_is_found_by_its_job(root: Path) -> None:
    make_run(root / "large/20260103-000001-dddd", *submitted("88_3"))
    assert find_run("88_3", root).path.name.endswith("dddd")
    with pytest.raises(RequestError, match="no run '88_4'"):
        find_run("88_4", root)


def test_of_several_runs_in_one_allocation_the_newest_is_meant(root: Path) -> None:
    for day in (1, 2):
        event = {"event": "launched", "backend": "allocation", "job": "77", "attempt": "000"}
        make_run(root / f"large/2026020{day}-000001-dddd", event)
    assert find_run("77", root).path.name == "20260202-000001-dddd"


# ---- run roots of the user


def test_runs_of_other_roots_are_found_where_the_root_has_none(root: Path, tmp_path: Path) -> None:
    others = [tmp_path / "gone", root / "other", root]
    make_run(root / "other/medium/20260104-000001-eeee", *submitted("99"))
    for name in ("medium", "20260104", "99", "20260104-000001-eeee"):
        assert find_run(name, root, others).path.name.endswith("eeee")
    make_run(root / "third/medium/20260105-000001-ffff")
    with pytest.raises(RequestError, match=r"'medium' fits 2 runs: .*/other/medium/20260104-000001-eeee, .*/third/"):
        find_run("medium", root, [*others, root / "third"])
    make_run(root / "medium/20260106-000001-gggg")
    assert find_run("medium", root, [*others, root / "third"]).path.name.endswith("gggg")


def test_the_registry_is_a_list_of_roots(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path / "state")}
    assert known_roots(environ) == known_roots({}) == []
    for name in ("a", "b", "a", "with\u00fcmlaut"):
        (tmp_path / name).mkdir(exist_ok=True)
        remember_root(tmp_path / name, environ)
    assert known_roots(environ) == [tmp_path / "with\u00fcmlaut", tmp_path / "b", tmp_path / "a"]
    (tmp_path / "state/launcher/run-roots").write_bytes(b"half a li\n\n/x\n\xff\n" + os.fsencode(tmp_path / "a"))
    assert known_roots(environ) == [tmp_path / "a", Path("/x")], "what is damaged is left out"
    remember_root(tmp_path / "new\nline", environ)
    assert known_roots({"HOME": str(tmp_path)}) == []


def test_the_registry_does_not_grow_for_ever(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    (tmp_path / "kept").mkdir()
    remember_root(tmp_path / "kept", environ)
    for number in range(250):
        remember_root(tmp_path / f"gone-{number}", environ)
    known = known_roots(environ)
    assert tmp_path / "kept" in known
    assert len(known) < 100


def test_a_registry_that_cannot_be_written_keeps_nothing_from_starting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    remember_root(tmp_path, {"XDG_STATE_HOME": str(tmp_path / "file")})
    assert known_roots({"XDG_STATE_HOME": str(tmp_path / "file")}) == []


# ---- cost


@contextlib.contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Count the calls that look at files: what a parallel file system answers from its servers."""
    calls = dict[str, int]()

    def counting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*values: Any, **named: Any) -> Any:
            calls[name] = calls.get(name, 0) + 1
            return call(*values, **named)

        return wrapped

    with monkeypatch.context() as patched:
        for name in ("stat", "lstat", "scandir", "listdir", "open", "readlink", "access"):
            patched.setattr(os, name, counting(name, getattr(os, name)))
        patched.setattr(io, "open", counting("io.open", io.open))
        yield calls


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,000 runs of ten names."""
    root = tmp_path_factory.mktemp("many")
    for number in range(1000):
        run = root / f"name{number % 10}" / f"20260101-{number:06d}-abcdef"
        run.mkdir(parents=True)
        (run / "plan.json").write_text("{}")
    return root


def test_a_listing_looks_only_at_what_it_shows(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with counted(monkeypatch) as calls:
        assert len(list_runs(many, 20)) == 20
    assert calls["scandir"] == 11
    assert sum(calls.values()) < 11 + 20 * 4 + 20, calls


def test_a_scan_looks_at_no_run(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with counted(monkeypatch) as calls:
        assert len(scan(many)) == 1000
    assert calls == {"scandir": 11}


@pytest.mark.parametrize("name", ["name3", "20260101-000500-abcdef", "20260101-000500", "name7/20260101-000507"])
def test_finding_a_run_looks_at_that_run_alone(many: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with counted(monkeypatch) as calls:
        find_run(name, many)
    assert sum(calls.values()) < 60, calls
