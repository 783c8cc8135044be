"""What a file system can still take: statvfs, and quotas as quota(1) and lfs(1) print them.

Tier: quick, about 1 s.
"""

import os
from pathlib import Path

import pytest

from launcher.contract import disk_space
from launcher.contract.disk_space import DiskSpace, Quota, look, parse_lfs_quota, parse_quota

QUOTA = """\
Disk quotas for user ada (uid 1000):
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
      /dev/sda1  900000* 800000 1000000 1790000000     120       0       0       0
nfs:/export/home    2048       0       0       0       7     100     200       0
"""
LFS = """\
 /lustre/a/very/long/path/of/a/file/system
          1048576       0 4194304       -   3000*    2000    4000  6d23h
"""


def test_quota_of_the_file_system_that_the_directory_is_on() -> None:
    assert parse_quota(QUOTA, ("/dev/sda1", "/")) == Quota(900000 * 1024, 1000000 * 1024, 120, None, 1000000 * 1024)
    assert parse_quota(QUOTA, ("nfs:/export/home",)) == Quota(2048 * 1024, None, 7, 200)
    assert parse_quota("/dev/sdb1 10 20 0 0 1 2 0 0", ("/dev/sdb1",)) == Quota(10240, 20480, 1, 2, None), "soft limits"
    assert parse_quota(QUOTA, ("/dev/sdb1",)) is None
    assert parse_lfs_quota(LFS) == Quota(2**30, 2**32, 3000, 4000, 2**32)


@pytest.mark.parametrize("text", ["", "quota: error", "/lustre", "Disk quotas for user ada (uid 1000): none\n"])
def test_an_answer_that_is_not_a_quota_leaves_it_unknown(text: str) -> None:
    assert parse_quota(text, ("/dev/sda1", "Disk")) is None
    assert parse_lfs_quota(text) is None


def test_the_smaller_of_free_space_and_quota_counts() -> None:
    free = DiskSpace("/d", 1000, 5000, 10, None)
    assert (free.available_bytes, free.available_files, free.most_bytes) == (1000, 10, 5000)
    limited = free._replace(quota=Quota(900, 1500, 95, 100))
    assert limited.most_bytes == 5000, "a soft limit may be exceeded for a while"
    limited = free._replace(quota=Quota(900, 1500, 95, 100, 1500))
    assert (limited.available_bytes, limited.available_files, limited.most_bytes) == (600, 5, 1500)
    over = free._replace(quota=Quota(900, 800, 0, None), free_files=None)
    assert (over.available_bytes, over.available_files) == (0, None)


def test_the_nearest_directory_that_exists_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = os.statvfs(tmp_path)
    found = look(tmp_path / "not" / "yet" / "there")
    assert found is not None
    assert (found.directory, found.total_bytes) == (str(tmp_path), facts.f_blocks * facts.f_frsize)
    assert 0 <= found.free_bytes <= found.total_bytes
    assert found.quota is None
    assert look(Path("/a-file-system-that-is-mounted-elsewhere/runs")) is None


@pytest.mark.parametrize(("kind", "program"), [("ext4", "quota"), ("nfs4", "quota"), ("lustre", "lfs")])
def test_the_program_of_the_file_system_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, program: str
) -> None:
    for name, answer in (("quota", f"x\n dev 1 0 5 0 2 0 9 0\n{QUOTA}"), ("lfs", "/here 1 0 5 - 2 0 9 -\n")):
        asked = f'echo "$0 $*" >>{tmp_path}/asked'
        (tmp_path / name).write_text(f"#!/bin/sh\n{asked}\ncat <<'END'\n{answer}\nEND\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(disk_space, "_mount_of", lambda _: ("/here", kind, "dev"))
    found = look(tmp_path)
    assert found is not None
    assert found.quota == Quota(1024, 5 * 1024, 2, 9, 5 * 1024)
    assert (tmp_path / "asked").read_text().startswith(f"{tmp_path / program} ")


def test_a_program_that_hangs_leaves_the_quota_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quota").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "quota").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(disk_space, "_PROGRAM_LIMIT_S", 0.1)
    monkeypatch.setattr(disk_space, "_mount_of", lambda _: ("/here", "ext4", "dev"))
    found = look(tmp_path)
    assert found is not None
    assert found.quota is None


def test_the_mount_of_a_directory_is_the_innermost(tmp_path: Path) -> None:
    assert disk_space._mount_of(Path("/proc/self")) == ("/proc", "proc", "proc")
    mount = disk_space._mount_of(tmp_path)
    assert mount is not None
    assert tmp_path.resolve().is_relative_to(mount[0])
