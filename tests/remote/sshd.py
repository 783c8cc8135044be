"""A real sshd on 127.0.0.1 with keys and a configuration of its own, and a wire to it that can be cut."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.limits import seconds

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def missing() -> str | None:
    """Why there can be no sshd here; None if there can."""
    return None if SSHD and shutil.which("ssh") else "needs OpenSSH: apt-get install openssh-server"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Wire:
    """Passes bytes on to a port; of the connections that are to be cut it ends one each, as a dead network would."""

    target: int
    port: int = 0
    cuts: list[tuple[int | None, float]] = field(default_factory=list)
    """For each coming connection: after so many bytes towards the host (negative: from it), or None, and so many
    seconds later."""
    connections: int = 0
    _listener: socket.socket | None = None

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        assert self._listener is not None
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            cut = self.cuts.pop(0) if self.cuts else None
            far = socket.create_connection(("127.0.0.1", self.target))
            begun = time.monotonic()
            for one, other, sign in ((near, far, 1), (far, near, -1)):
                least = cut[0] * sign if cut is not None and cut[0] is not None else 0
                limit = (least, cut[1]) if cut is not None and least > 0 else None
                threading.Thread(target=self._pass_on, args=(one, other, limit), daemon=True).start()
            if cut is not None and cut[0] is None:
                threading.Timer(cut[1] - (time.monotonic() - begun), _end, (near, far)).start()

    def _pass_on(self, one: socket.socket, other: socket.socket, cut: tuple[int, float] | None) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while content := one.recv(4096):
                other.sendall(content)
                passed += len(content)
                if cut is not None and passed >= cut[0]:
                    time.sleep(cut[1])
                    break
        _end(one, other)

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()


def _end(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


@contextlib.contextmanager
def sshd(directory: Path, environment: Mapping[str, str]) -> Iterator[int]:
    """Run an sshd whose sessions have `environment`; yields its port. The key is `directory`/id."""
    assert SSHD is not None
    directory.mkdir(mode=0o700)
    for name in ("id", "host"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)], check=True)
    shutil.copy(directory / "id.pub", directory / "authorized_keys")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    port = free_port()
    variables = " ".join(f'"{name}={value}"' for name, value in environment.items())
    (directory / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\nPidFile none\n"
        f"AuthorizedKeysFile {directory}/authorized_keys\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"UsePAM no\nStrictModes no\nPermitRootLogin yes\nMaxStartups 100\nSetEnv {variables}\n"
    )
    (directory / "known_hosts").write_text(f"* {(directory / 'host.pub').read_text()}")
    with (directory / "sshd.log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(directory / "sshd_config")], stderr=log)
    try:
        deadline = time.monotonic() + seconds(20)
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None and time.monotonic() < deadline, (directory / "sshd.log").read_text()
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=seconds(20))


def options(directory: Path, port: int) -> list[str]:
    """Return the options of a profile's [ssh] for this sshd."""
    own = {"Port": port, "User": pwd.getpwuid(os.geteuid()).pw_name, "IdentityFile": directory / "id"}
    own |= {
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": directory / "known_hosts",
        "GlobalKnownHostsFile": "/dev/null",
    }
    return [f"{name}={value}" for name, value in own.items()]
