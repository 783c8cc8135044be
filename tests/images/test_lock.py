"""One holder at a time, whatever the file system offers, whichever process is killed or stopped."""

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen

import pytest

from launcher.images.store import lock
from launcher.images.store.lease import begin, newest
from launcher.images.store.lock import LeaseHolder, LeaseLostError
from launcher.images.store.mounts import mount_of
from launcher.images.store.owner import UNKNOWN_OWNER, Owner
from tests.images.locks import QUICK, a_lock, node, script
from tests.support.limits import seconds


@pytest.mark.parametrize(
    ("line", "trusted"),
    [
        ("ext4 /dev/sda1 rw", True),
        ("tmpfs tmpfs rw,size=24684096k", True),
        ("nfs4 head:/home rw,vers=4.2,local_lock=none,addr=10.0.0.1", True),
        ("nfs head:/home rw,vers=3,mountproto=tcp,local_lock=none,addr=10.0.0.1", True),
        ("nfs head:/home rw,vers=3,nolock,mountproto=tcp,local_lock=all,addr=10.0.0.1", False),
        ("nfs head:/home rw,vers=3,local_lock=flock,addr=10.0.0.1", False),
        ("lustre 10.0.0.1@tcp:/fsx rw,checksum,flock,user_xattr,lazystatfs", True),
        ("lustre 10.0.0.1@tcp:/fsx rw,checksum,localflock,lazystatfs", False),
        ("lustre 10.0.0.1@tcp:/fsx rw,checksum,lazystatfs", False),
        ("ceph 10.0.0.1:/ rw,name=user,acl", True),
        ("gfs2 /dev/sdb rw", True),
        ("gfs2 /dev/sdb rw,localflocks", False),
        ("gpfs gpfs0 rw", False),
        ("beegfs beegfs_nodev rw,cfgFile=/etc/beegfs/beegfs-client.conf", False),
        ("fuse.sshfs user@host:/ rw", False),
        ("cifs //server/share rw", False),
    ],
)
def test_file_systems_whose_locks_reach_every_machine(line: str, trusted: bool) -> None:
    mount = mount_of(Path("/shared/images"), f"40 1 0:50 / /shared rw,relatime shared:1 - {line}\n")
    assert mount is not None
    assert mount.has_locks is trusted


def test_the_deepest_mount_counts_and_of_two_on_one_point_the_upper(tmp_path: Path) -> None:
    place = tmp_path / "a b" / "c"
    place.mkdir(parents=True)
    escaped = str(place.parent).replace(" ", "\\040")
    text = (
        "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
        f"2 1 0:50 / {escaped} rw - lustre x rw,flock\n"
        f"3 2 0:51 / {escaped} rw - nfs4 x rw,local_lock=none\n"
        f"4 1 0:52 / {tmp_path}/a rw - tmpfs x rw\n"
        "a line that says nothing\n"
    )
    for path, kind in ((place, "nfs4"), (tmp_path / "a", "tmpfs"), (tmp_path, "ext4")):
        mount = mount_of(path, text)
        assert mount is not None
        assert mount.kind == kind
    assert mount_of(tmp_path, "") is None
    assert mount_of(tmp_path) is not None


HOLD = """
import os, signal, sys, time
from pathlib import Path
from tests.images.locks import a_lock
from launcher.images.store.lock import LeaseLostError
directory, host, kernel = Path(sys.argv[1]), sys.argv[2] or None, sys.argv[3] == "kernel"
with a_lock(directory, host=host, kernel=kernel).held() as held:
    print("held", flush=True)
    sys.stdin.readline()
    try:
        held.check()
        print("still mine", flush=True)
    except LeaseLostError:
        print("lost", flush=True)
"""


@contextlib.contextmanager
def holder(directory: Path, host: str, kind: str, within: tuple[str, ...] = ()) -> Iterator[Popen[str]]:
    """A process that holds the lock; with a line on its input it checks and gives it back."""
    process = script(HOLD, directory, host, kind, stdin=-1, within=within)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: Popen[str]) -> str:
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


@pytest.mark.parametrize("kernel", [True, False])
def test_a_second_one_waits_and_learns_for_whom(tmp_path: Path, kernel: bool) -> None:
    seen: list[LeaseHolder] = []
    began = time.time()
    with holder(tmp_path, "node-a", "kernel" if kernel else "lease") as process:

        def on_wait(who: LeaseHolder) -> None:
            seen.append(who)
            if len(seen) == 3:
                assert said(process) == "still mine"

        with a_lock(tmp_path, host="node-b", kernel=kernel).held(on_wait) as held:
            assert held.waited
            held.check()
    assert len(seen) >= 3  # at first and at every interval
    assert {(who.owner.host, who.owner.pid) for who in seen} == {("node-a", process.pid)}
    assert all(began - 1 <= who.since <= time.time() for who in seen)
    assert "node-a" in str(seen[0].owner)
    with a_lock(tmp_path, kernel=kernel).held() as held:
        assert not held.waited


@pytest.mark.parametrize("host", ["node-a", "this one"])
@pytest.mark.parametrize("kernel", [True, False])
def test_a_killed_holder_is_followed(tmp_path: Path, host: str, kernel: bool) -> None:
    """At once where the kernel or /proc shows it, after the silence of its heartbeat where nothing else does."""
    with holder(tmp_path, host, "kernel" if kernel else "lease") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        began = time.monotonic()
        with a_lock(tmp_path, host=host if host == "this one" else "node-b", kernel=kernel).held():
            took = time.monotonic() - began
    assert (took > QUICK.stale_s * 0.8) == (host == "node-a" and not kernel)


def test_a_container_of_this_machine_is_not_taken_for_dead(tmp_path: Path) -> None:
    """Its processes have the host's name and boot, and numbers of their own, which mean nothing outside."""
    within = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    try:
        subprocess.run([*within, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no pid namespace can be made here: {error}")
    with holder(tmp_path, "", "lease", within) as process:
        with a_lock(tmp_path, kernel=False).if_abandoned() as held:
            assert held is None
        process.kill()
        process.wait()
        began = time.monotonic()
        with a_lock(tmp_path, kernel=False).held():
            assert time.monotonic() - began > QUICK.stale_s * 0.8


def test_machines_with_and_without_kernel_locks_keep_each_other_out(tmp_path: Path) -> None:
    for mine, other in ((True, "lease"), (False, "kernel")):
        with (
            holder(tmp_path, "node-a", other),
            a_lock(tmp_path, host="node-b", kernel=mine).if_abandoned() as held,
        ):
            assert held is None


def test_a_stopped_holder_loses_the_lease_and_notices(tmp_path: Path) -> None:
    with holder(tmp_path, "node-a", "lease") as process:
        process.send_signal(signal.SIGSTOP)
        with a_lock(tmp_path, host="node-b", kernel=False).held() as held:
            process.send_signal(signal.SIGCONT)
            assert said(process) == "lost"
            process.wait(seconds(10))
            held.check()  # its end took nothing from the new holder
            with a_lock(tmp_path, host="node-c", kernel=False).if_abandoned() as third:
                assert third is None


def test_a_check_makes_others_watch_anew(tmp_path: Path) -> None:
    with a_lock(tmp_path, host="node-a", kernel=False).held() as held:
        before = newest(tmp_path / "lock")
        held.check()
        after = newest(tmp_path / "lock")
        assert before is not None
        # A process that had judged the first generation abandoned comes too late.
        assert begin(tmp_path / "lock", before, node("node-b"), QUICK, kernel=False, mode=0o600) is None
        assert newest(tmp_path / "lock") == after
        held.check()


def test_one_who_slept_for_several_holders_gets_nothing(tmp_path: Path) -> None:
    """Its number is free again by then: only the second look shows it."""
    directory = tmp_path / "lock"
    with a_lock(tmp_path, kernel=False).held():
        old = newest(directory)
    for _ in range(3):
        with a_lock(tmp_path, kernel=False).held():
            pass
    now = newest(directory)
    assert old is not None
    assert now is not None
    assert not (directory / f"{old.number + 1:08d}").exists()
    assert begin(directory, old, node("node-b"), QUICK, kernel=False, mode=0o600) is None
    assert newest(directory) == now
    assert [path.name for path in directory.iterdir()] == [f"{now.number:08d}"]


def test_a_half_written_lease_is_taken_over_by_its_silence_alone(tmp_path: Path) -> None:
    directory = tmp_path / "lock"
    directory.mkdir()
    (directory / "00000007").write_text('{"state": "he')
    began = time.monotonic()
    with a_lock(tmp_path, kernel=False).held():
        assert time.monotonic() - began > QUICK.stale_s * 0.8


def test_a_lock_of_an_nfs_client_of_this_machine_counts(tmp_path: Path) -> None:
    """The NFS server takes POSIX locks for its clients, which flock does not see."""
    with a_lock(tmp_path).held():
        pass
    code = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""
    client = script(code, tmp_path / "lock" / "lock", stdin=-1)
    assert client.stdout is not None
    assert client.stdout.readline() == "held\n"
    with a_lock(tmp_path).if_abandoned() as held:
        assert held is None
    client.communicate("\n")
    with a_lock(tmp_path).if_abandoned() as held:
        assert held is not None


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_kernel_locks_the_lease_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with a_lock(tmp_path, host="node-a").held():
        found = newest(tmp_path / "lock")
        assert found is not None
        assert found.holder is not None
        assert not found.holder.by_kernel
        with a_lock(tmp_path, host="node-b").if_abandoned() as other:
            assert other is None


@pytest.mark.parametrize("kind", ["kernel", "lease"])
def test_interrupt_ends_the_waiting_at_once(tmp_path: Path, kind: str) -> None:
    with a_lock(tmp_path, host="node-a", kernel=kind == "kernel").held():
        code = HOLD.replace(".held()", ".held(lambda who: print('waiting', flush=True))")
        waiting = script(code, tmp_path, "node-b", kind, stdin=-1, stderr=-1)
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "waiting\n"
        began = time.monotonic()
        waiting.send_signal(signal.SIGINT)
        _, words = waiting.communicate(timeout=seconds(5))
        assert time.monotonic() - began < 2
        assert words.rstrip().endswith("KeyboardInterrupt")


def test_what_is_known_of_a_process() -> None:
    me = Owner.of_this_process()
    assert me.has_ended(me) is False
    assert me.has_ended(node("elsewhere")) is None
    assert UNKNOWN_OWNER.has_ended(me) is None
    ended = script("")
    ended.stdout and ended.stdout.close()
    time.sleep(0.3)  # a zombie by now
    assert Owner(me.host, me.boot_id, me.pid_namespace, ended.pid, 1, "x").has_ended(me) is True
    ended.wait()
    assert Owner(me.host, me.boot_id, me.pid_namespace, ended.pid, 1, "x").has_ended(me) is True
    assert Owner(me.host, me.boot_id, me.pid_namespace, me.pid, me.start_ticks + 1, "x").has_ended(me) is True
    assert Owner(me.host, me.boot_id, "pid:[1]", ended.pid, 1, "x").has_ended(me) is None


STORM = """
import os, random, signal, sys, time
from dataclasses import replace
from pathlib import Path
from launcher.images.store.lock import Lock, LeaseTiming
from launcher.images.store.owner import Owner
directory, seed, rounds, deaths = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
kernel, far = sys.argv[5] == "kernel", sys.argv[6] == "far"
random.seed(seed)
me = Owner.of_this_process()
if far:
    me = replace(me, host=f"node-{seed}", boot_id=str(seed))
# Silence counts only where nothing else shows a death; a busy disk can make a heartbeat late.
stale_s = 4.0 if far and not kernel else 20.0
lock = Lock(directory / "lock", me, kernel, LeaseTiming(heartbeat_s=0.2, stale_s=stale_s, poll_s=0.01))
inside = directory / "inside"
for number in range(rounds):
    with lock.held() as held:
        try:
            other = int(inside.read_text())
            # A dying process gives its locks back a moment before it is a zombie: PF_EXITING is 4 (proc(5), field 9).
            state, *fields = Path(f"/proc/{other}/stat").read_text().rpartition(")")[2].split()
            if state != "Z" and not int(fields[5]) & 4:
                with open(directory / "violations", "a") as file:
                    file.write(f"{os.getpid()} met {other}\\n")
        except (FileNotFoundError, ProcessLookupError):
            pass
        mine = directory / f"inside.{os.getpid()}"
        mine.write_text(str(os.getpid()))
        mine.rename(inside)
        time.sleep(random.random() * 0.005)
        if seed < deaths and number == seed % rounds:
            os.kill(os.getpid(), signal.SIGKILL)
        if random.random() < 0.5:
            held.check()
        with open(directory / "done", "a") as file:
            file.write("x")
        assert inside.read_text() == str(os.getpid())
        inside.unlink()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "place", "deaths"),
    [
        ("kernel", "far", 8),
        ("lease", "near", 8),
        ("lease", "far", 1),
        pytest.param("lease", "far", 12, marks=pytest.mark.soak),
    ],
)
def test_a_storm_of_twenty_with_killed_holders_never_has_two_inside(
    tmp_path: Path, kind: str, place: str, deaths: int
) -> None:
    workers = [script(STORM, tmp_path, seed, 4, deaths, kind, place) for seed in range(20)]
    codes = []
    for worker in workers:
        worker.communicate(timeout=seconds(60))
        codes.append(worker.returncode)
    assert not (tmp_path / "violations").exists(), (tmp_path / "violations").read_text()
    assert sorted(set(codes)) == [-signal.SIGKILL, 0]
    assert codes.count(-signal.SIGKILL) == deaths
    assert (tmp_path / "done").stat().st_size == 20 * 4 - sum(4 - seed % 4 for seed in range(deaths))
    names = sorted(path.name for path in (tmp_path / "lock").iterdir())
    assert len([name for name in names if name.isdigit()]) == 1


def test_threads_of_one_process_wait_for_each_other(tmp_path: Path) -> None:
    for kernel in (True, False):
        mine = a_lock(tmp_path, kernel=kernel)
        with mine.held(), mine.if_abandoned() as other:
            assert other is None


def test_the_lock_is_free_after_an_error(tmp_path: Path) -> None:
    def fail(check: Callable[[], None]) -> None:
        check()
        raise ValueError("x")

    for kernel in (True, False):
        with pytest.raises(ValueError, match="x"), a_lock(tmp_path, kernel=kernel).held() as held:
            fail(held.check)
        with a_lock(tmp_path, host="node-b", kernel=kernel).held() as held:
            assert not held.waited


def test_the_words_of_a_lost_lease(tmp_path: Path) -> None:
    with a_lock(tmp_path, kernel=False).held() as held:
        (tmp_path / "lock" / "00000002").touch()
        with pytest.raises(LeaseLostError, match="stopped for too long") as error:
            held.check()
    assert error.value.exit_status == 3
    assert "again" in str(error.value.hint)
    assert lock.LeaseLostError is LeaseLostError
