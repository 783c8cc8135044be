"""An image for aarch64, made and entered on this machine through qemu: the target `cpu` on Debian's own root."""

import json
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from launcher._util.shell import LocalShell
from launcher.images.inspect.contents import describe
from tests.backends.containers import Contained, contained, missing
from tests.backends.running import TOY
from tests.images.cpu_image import context, engine_in, import_root, wheels
from tests.images.engine_home import missing_engine
from tests.images.images import cannot_run_aarch64, debian_root
from tests.images.images import missing_programs as missing_image_programs

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200)]


@dataclass(frozen=True)
class Built:
    """The image, the user who built it, and the seconds that it took."""

    target: str
    user: Contained
    answer: dict[str, Any]
    took_s: float

    @property
    def path(self) -> Path:
        return Path(self.answer["path"])


@pytest.fixture(scope="module", params=["cpu-tools", "cpu"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """`launcher image build --target ... --architecture aarch64`; the stage cpu-tools comes before cpu."""
    if platform.machine() != "x86_64":
        pytest.skip("needs an x86_64 machine: elsewhere nothing has to be emulated")
    if reason := missing_image_programs() or missing_engine() or missing("bwrap") or cannot_run_aarch64():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("arm64")
    needed = ("bridge-0.3.1", "torch", "tools") if request.param == "cpu" else ("tools",)
    files = context(directory / "context", wheels("3.11", needed, "aarch64"))
    (directory / "user").mkdir()
    user = contained(directory / "user", "bwrap", directory / "unused", architecture="aarch64")
    with engine_in(directory / "engine") as home:
        root = debian_root("arm64")
        base = import_root(home, root, "localhost/launcher-test-arm64:1", directory, "--arch", "arm64")
        user.user.environ.update(home.environment, XDG_DATA_HOME=str(directory / "data"))
        begin = time.monotonic()
        done = user.user.run(
            *("image", "build", "--target", request.param, "--file", str(files / "Dockerfile"), "--name", "arm:1"),
            *("--build-arg", f"CPU_BASE={base}", "--build-arg", "PIP_NO_INDEX=1", "--architecture", "aarch64"),
            *("--cluster", "alone", "--json", "--quiet"),
            timeout_s=6000,
        )
    shutil.rmtree(files)
    answer = json.loads(done.stdout)
    user = replace(user, image=Path(answer["path"]))
    found = Built(request.param, user, answer, time.monotonic() - begin)
    print(f"\n{request.param} for aarch64: {found.took_s:.0f} s, {found.path.stat().st_size / 1e6:.0f} MB")
    yield found
    found.path.unlink()


def test_its_root_is_read_and_its_software_found(built: Built) -> None:
    user = built.user.user
    user.run("image", "verify", str(built.path), "--checksum", "--cluster", "alone")
    inspected = json.loads(user.run("image", "inspect", str(built.path), "--json").stdout)["manifest"]
    described = describe(built.path, LocalShell())
    assert inspected["architecture"] == described.architecture == "aarch64"
    assert inspected["contents"]["python"] == described.contents.python == "/opt/venv/bin/python3"
    packages = inspected["contents"]["packages"]
    assert packages == described.contents.packages
    assert packages["viztracer"] == "1.1.1"
    if built.target == "cpu":
        assert (packages["torch"], packages["megatron-bridge"]) == ("2.13.0", "0.3.1")
        assert inspected["contents"]["verified"]["torch"].startswith("2.13.0")
        assert packages["nccl"]


def test_profiles_of_other_machines_refuse_it(built: Built) -> None:
    user = built.user.user
    (user.directory / "clusters/intel.toml").write_text(
        'extends = "local"\narchitecture = "x86_64"\nruntime = "bwrap"\ndevice = "cpu"\n'
    )
    for command in (("image", "verify", str(built.path)), ("plan", "small.py", "--image", str(built.path))):
        done = user.run(*command, "--cluster", "intel", status=2)
        assert "aarch64" in done.stderr
        assert "x86_64" in done.stderr


def test_the_half_that_runs_in_the_job_runs_in_it(built: Built) -> None:
    run, _ = built.user.local("toy.iters=3", program=TOY)
    result = json.loads((run / "attempts/000/result.json").read_text())
    assert (result["outcome"], result["iteration"]) == ("finished", 3)
    seen = [json.loads(path.read_text()) for path in sorted(run.glob("attempts/000/ranks/*.seen.json"))]
    assert [rank["machine"] for rank in seen] == ["aarch64", "aarch64"]
