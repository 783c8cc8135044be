"""Both sides without a network: an ssh that starts the host's program here, behind a shell that prints a line."""

import base64
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import ConfigError, LauncherError, OutsideError, RequestError
from launcher.api.locate import find_cluster
from launcher.config.load import ON_HOST, parse
from launcher.config.request import Request
from launcher.contract.paths import PULLED
from launcher.remote import host
from launcher.remote.cluster import RemoteCluster, elsewhere, elsewhere_of
from launcher.remote.commands import pull, submit_there
from launcher.remote.connection import request_line
from launcher.remote.package import pack

SSH = """#!/bin/sh
echo '{"welcome": "to the host"}'
for command; do :; done
%s
exec sh -c "$command"
"""
"""Its last argument is the command for the host."""


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RemoteCluster:
    for name in ("bin", "clusters", "mine", "home"):
        (tmp_path / name).mkdir()
    (tmp_path / "clusters/job.toml").write_text(
        f'scheduler = "local"\n[ssh]\nhost = "far"\npython = "{sys.executable}"\nrun_root = "{tmp_path}/runs"\n'
    )
    answer(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("LAUNCHER_CLUSTERS", str(tmp_path / "clusters"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LAUNCHER_CLUSTER", raising=False)
    monkeypatch.chdir(tmp_path / "mine")
    Path("small.py").write_text("def configure():\n    return None\n")
    cluster, here = find_cluster("job", elsewhere=True)
    assert cluster.ssh is not None
    return RemoteCluster(cluster, here, cluster.ssh)


def answer(directory: Path, script: str = "") -> None:
    """Let the host answer with a script, or by its launcher."""
    (directory / "bin/ssh").write_text(SSH % script)
    (directory / "bin/ssh").chmod(0o755)


def asked(**stated: Any) -> Request:
    return parse(Request, {"recipe": "small.py", **stated}, where=None)


def run_of(directory: Path) -> Path:
    run = directory / "runs/small/20260101-000000-0123456789ab"
    (run / "checkpoints").mkdir(parents=True)
    (run / "plan.json").write_text("{}")
    (run / "checkpoints/weights").write_text("w")
    return run


def test_a_copy_with_checkpoints_is_not_replaced_by_one_without(there: RemoteCluster, tmp_path: Path) -> None:
    run = run_of(tmp_path)
    copy = pull(there, run.name, None, checkpoints=True)
    assert copy.is_relative_to(tmp_path / "mine/runs") and (copy / "checkpoints/weights").read_text() == "w"
    with pytest.raises(RequestError, match="has checkpoints"):
        pull(there, run.name, None, checkpoints=False)
    assert (copy / "checkpoints/weights").exists()
    assert pull(there, run.name, None, checkpoints=True) == copy
    assert json.loads((copy / PULLED).read_text())["host"] == "far"
    assert [path.name for path in copy.parent.parent.iterdir()] == ["small"]


PULLS: list[tuple[str, type[LauncherError], str]] = [
    ("", RequestError, "far: .*none"),
    ("exit 1", OutsideError, "ended with status 1"),
    ("exit 127", OutsideError, "there is no interpreter"),
    ("exit 255", OutsideError, "the connection failed"),
    ('echo \'launcher-pull {"error": "no space", "hint": null}\'; exit 3', OutsideError, "far: no space"),
]


@pytest.mark.parametrize(("script", "kind", "message"), PULLS)
def test_why_nothing_was_copied(
    script: str, kind: type[LauncherError], message: str, there: RemoteCluster, tmp_path: Path
) -> None:
    answer(tmp_path, script)
    with pytest.raises(kind, match=message) as caught:
        pull(there, "none", None, checkpoints=False)
    assert type(caught.value) in (kind, *kind.__subclasses__())
    assert not list((tmp_path / "mine/runs").iterdir())


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def test_an_answer_behind_other_lines_is_found_and_without_one_the_token_is_named(
    there: RemoteCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, found = submit_there(there, asked(), "k", print)  # this machine has no Slurm
    assert (status, found["exit_status"]) == (2, 2) and "no Slurm" in found["error"]["message"]
    said: list[str] = []
    answer(tmp_path, """printf '{\\n "error": {}\\n}\\n'; exit 3""")
    assert submit_there(there, asked(), "k", said.append) == (3, {"error": {}}) and "--once k" in said[0]
    with monkeypatch.context() as changed, pytest.raises(KeyboardInterrupt):
        changed.setattr("launcher.remote.commands.call", interrupted)
        submit_there(there, asked(), "k", said.append)
    assert "interrupted" in said[1] and "--once k" in said[1]
    answer(tmp_path, "exit 137")
    with pytest.raises(OutsideError, match="whether the job was submitted is not known") as caught:
        submit_there(there, asked(), "a key", print)
    assert "--once 'a key'" in str(caught.value.hint)


def test_another_release_is_an_answer_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    line = request_line("run", arguments=["submit", "--json"]).replace(b'"launcher": "', b'"launcher": "0.')
    done = subprocess.run([sys.executable, "-m", "launcher.remote.host"], input=line, capture_output=True, check=False)
    assert done.returncode == 2 and "the same release" in json.loads(done.stdout)["error"]["hint"]
    assert b"the same release" in done.stderr


def test_the_same_files_travel_as_on_the_host_itself(there: RemoteCluster, tmp_path: Path) -> None:
    for name in (".hidden.yaml", "left.bin", ".launcherignore"):
        Path(name).write_text("*.bin\n")
    for words in (["init", "-q"], ["add", "-A", "-f"]):
        subprocess.run(["git", *words], check=True)
    packed = pack(asked(ship=("left.bin",)), there.cluster, there.host)
    assert packed.job["ship"][0] == "code"
    assert set(packed.job["ship"][1:]) == {
        f"code/{name}" for name in (".hidden.yaml", "left.bin", ".launcherignore", "small.py")
    }
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(packed.archive()))) as tar:
        assert set(packed.job["ship"][1:]) == set(tar.getnames())


def test_the_files_of_a_profile_called_job_are_apart(there: RemoteCluster, tmp_path: Path) -> None:
    packed = pack(asked(), there.cluster, there.host)
    package = {"token": "t", "digest": packed.digest(), "cluster": "job", "job": packed.job}
    package |= {"profile": packed.profile, "archive": packed.archive()}
    directory = host._unpack(package, tmp_path / "runs")
    assert 'scheduler = "local"' in (directory / "cluster/job.toml").read_text()
    assert "recipe = " in (directory / "job.toml").read_text()
    assert host._unpack(package, tmp_path / "runs") == directory
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]


def test_a_file_that_goes_while_a_run_is_copied_is_left_out(
    there: RemoteCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    run = run_of(tmp_path)
    (run / "a.tmp").write_text("")
    opened = Path.open

    def vanishing(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.suffix == ".tmp":
            path.unlink()
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", vanishing)
    monkeypatch.setenv(ON_HOST, "1")  # as the program sets it
    assert host._pull({"run": run.name, "checkpoints": False, "run_root": str(tmp_path / "runs")}) == 0
    archive = capsysbinary.readouterr().out.partition(b"\n")[2]
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert tar.getnames() == ["plan.json"]


def test_a_run_directory_of_this_machine_is_not_looked_for_on_the_host(
    there: RemoteCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path)
    monkeypatch.setenv("LAUNCHER_CLUSTER", "job")
    assert elsewhere(None, ["small"]) is not None and elsewhere("job", [str(run)]) is not None
    assert elsewhere(None, [str(run)]) is None


def test_a_job_file_names_its_cluster_and_no_directory_of_runs(there: RemoteCluster) -> None:
    Path("j.toml").write_text('recipe = "small.py"\ncluster = "job"\npartition = "p"\n')
    found = elsewhere_of(asked(recipe="j.toml"))
    assert found is not None and found.ssh.host == "far"
    assert elsewhere_of(asked(recipe="j.toml", cluster="local")) is None
    Path("j.toml").write_text('recipe = "small.py"\nrun_root = "/x"\n')
    for request in (asked(recipe="j.toml"), asked(run_root="/x")):
        with pytest.raises(ConfigError, match="where its profile says"):
            pack(request, there.cluster, there.host)


def test_a_path_of_this_machine_is_not_taken_for_one_on_the_host(there: RemoteCluster) -> None:
    Path("tokens.json").write_text("{}")
    for text in ("data=mock", "data=/there/corpus", "tokenizer=~/tokens.json", "tokenizer=org/model", "train.lr=./1"):
        assert pack(asked(assignments=(text,)), there.cluster, there.host).job["assignments"] == [text]
    for text in ("tokenizer=tokens.json", "checkpoint.load=./tokens.json"):
        with pytest.raises(ConfigError, match="is a path of this machine"):
            pack(asked(assignments=(text,)), there.cluster, there.host)


def test_presets_of_this_machine_change_nothing_of_a_run_that_is_continued(
    there: RemoteCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAUNCHER_PARTITION", "preset")
    here = find_cluster("job", elsewhere=True)[1]
    assert pack(asked(), there.cluster, here).job["partition"] == "preset"
    resumed = parse(Request, {"resume": "small", "time": "10"}, where=None)
    assert pack(resumed, there.cluster, here).job == {"resume": "small", "time": "10"}


def test_a_variable_that_each_machine_has_is_the_hosts(there: RemoteCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = there.cluster.model_copy(update={"inherit": ("PATH", "HF_HOME")})
    monkeypatch.setenv("HF_HOME", "/hf")
    here = find_cluster("job", elsewhere=True)[1]
    assert pack(asked(), cluster, here).environment == {"HF_HOME": "/hf"}
    with pytest.raises(ConfigError, match="PATH of this machine"):
        pack(asked(env=("PATH",)), cluster, here)
