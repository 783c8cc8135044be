"""What is given to ssh, an ssh that ends at once, and what does not work over it."""

import stat
from pathlib import Path

import pytest

from launcher._util.errors import PrerequisiteError
from launcher.api.locate import find_cluster, find_run_root
from launcher.config.cluster import Ssh
from launcher.config.load import ON_HOST
from launcher.remote import connection
from launcher.remote.connection import ConnectionLostError, call, show, ssh_argv


def test_a_profile_may_change_defaults_and_nothing_that_is_the_launchers() -> None:
    argv = ssh_argv(Ssh(host="far", python="/a b/python", options=("ConnectTimeout=60", "Port=2222")))
    given = [word for word, before in zip(argv[1:], argv, strict=False) if before == "-o"]
    assert given.index("ConnectTimeout=60") < given.index("ConnectTimeout=20"), "ssh takes the first"
    assert given.index("BatchMode=yes") < given.index("Port=2222")
    assert argv[-3:] == ["--", "far", "exec '/a b/python' -m launcher.remote.host"]


@pytest.mark.parametrize("size", [100, 8_000, 9_000, 1_000_000])
def test_an_ssh_that_ends_before_it_reads_is_a_lost_connection(size: int, tmp_path: Path) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\nexec <&-\nexit 255\n")
    ssh.chmod(ssh.stat().st_mode | stat.S_IXUSR)
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    for ask in (call, show):
        with pytest.raises(ConnectionLostError, match="the connection failed or ended"):
            ask(Ssh(host="far"), b"x" * size, environ=environ)
    with connection._started(Ssh(host="far"), environ, stdout=None) as process:
        process.wait()  # otherwise a short request may be written before
        connection._send(process, b"x" * size)


def test_the_slurm_and_the_paths_of_this_machine_are_not_those_of_a_cluster_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "far.toml").write_text('run_root = "/shared/runs"\n[ssh]\nhost = "login.example.org"\n')
    monkeypatch.setenv("LAUNCHER_CLUSTERS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PrerequisiteError, match="this machine reaches by ssh"):
        find_cluster("far")
    assert find_run_root(None, "far") == tmp_path / "runs"
    monkeypatch.setenv(ON_HOST, "1")
    assert find_cluster("far")[0].name == "far"
    assert find_run_root(None, "far") == Path("/shared/runs")
