"""What is given to ssh, and an ssh that ends at once."""

import stat
from pathlib import Path

import pytest

from launcher.config.cluster import Ssh
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
    for ask in (call, show):
        with pytest.raises(ConnectionLostError, match="the connection failed or ended"):
            ask(Ssh(host="far"), b"x" * size, environ={"PATH": f"{tmp_path}:/usr/bin:/bin"})
