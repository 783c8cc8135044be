"""`launcher init`: what it writes, what it asks, and that it overwrites nothing unasked."""

import json
import os
import pty
import select
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher._util import toml
from launcher._util.errors import ConfigError
from launcher.api.init import SiteFacts
from launcher.cli.commands import init as command
from launcher.cli.main import command_parser, main
from launcher.cli.parser import parse
from launcher.slurm import probe
from tests.backends.running import LAUNCHER, User, user_of
from tests.discovery.test_cluster_probe import NVL72, site
from tests.support.limits import seconds
from tests.support.recorder import Recorder
from tests.support.slurm.virtual_cluster import VirtualCluster


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with nothing of their own, on a machine without Slurm."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "LAUNCHER_CLUSTERS", "LAUNCHER_CLUSTER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    return tmp_path


def init(capsys: pytest.CaptureFixture[str], *options: str, status: int = 0) -> dict[str, Any]:
    assert main(["init", "--json", "--no-doctor", *options]) == status
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def config(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = toml.loads((home / ".config/launcher/config.toml").read_text())
    return found


def test_a_machine_without_slurm_becomes_the_local_cluster(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = init(capsys, "--run-root", str(home / "runs"))
    assert config(home) == {"cluster": "local", "run_root": str(home / "runs")}
    assert found["profile"] is None and found["next"][1].startswith("launcher run")
    assert main(["init", "--json", "--no-doctor", "--partition", "gpu"]) == 2
    assert "no Slurm on this machine" in capsys.readouterr().err


def test_what_is_there_stays_unless_it_is_forced(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = home / ".config/launcher/config.toml"
    own.parent.mkdir(parents=True)
    own.write_text('# mine\ntime = "1:00:00"\nimage = "old"\n')
    init(capsys, "--image", "new", status=2)
    assert own.read_text() == '# mine\ntime = "1:00:00"\nimage = "old"\n'
    found = init(capsys, "--image", "new", "--force")
    assert own.read_text() == '# mine\ntime = "1:00:00"\nimage = "new"\ncluster = "local"\n'
    (copy,) = found["copies"]
    assert 'image = "old"' in Path(copy).read_text()
    assert init(capsys, "--image", "new")["copies"] == []  # the same again changes nothing


def test_a_private_file_stays_private_and_a_link_a_link(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, real = home / ".config/launcher/config.toml", home / "dotfiles.toml"
    own.parent.mkdir(parents=True)
    real.write_text('notify = "send --key word"\nimage = "old"\n')
    real.chmod(0o600)
    own.symlink_to(real)
    copies = [init(capsys, "--image", image, "--force")["copies"][0] for image in ("new", "newer")]
    assert len(set(copies)) == 2
    assert [Path(each).stat().st_mode & 0o777 for each in (*copies, real)] == [0o600] * 3
    assert own.is_symlink() and toml.loads(real.read_text())["image"] == "newer"


def test_a_path_means_the_same_in_every_directory(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init(capsys, "--image", "./nemo.sqsh", "--run-root", "runs")
    assert config(home) == {"cluster": "local", "image": str(home / "nemo.sqsh"), "run_root": str(home / "runs")}
    init(capsys, "--image", "nemo.sqsh", "--run-root", "~/runs", "--force")
    assert config(home) == {"cluster": "local", "image": "nemo.sqsh", "run_root": "~/runs"}


@pytest.mark.parametrize("option", ["--image", "--run-root"])
def test_an_empty_value_is_refused_before_anything_is_written(
    home: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert main(["init", "--no-doctor", option, ""]) == 2
    assert option in capsys.readouterr().err
    assert not (home / ".config").exists()


def test_a_broken_config_is_named_and_left(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = home / ".config/launcher/config.toml"
    own.parent.mkdir(parents=True)
    own.write_text("image = [")
    assert main(["init", "--no-doctor"]) == 2
    assert str(own) in capsys.readouterr().err and own.read_text() == "image = ["


def test_the_profile_has_partition_and_account(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from launcher.api import init as api

    found = probe.probe_cluster(site(NVL72))
    monkeypatch.setattr(probe, "probe_cluster", lambda *_: found)
    facts = api.SiteFacts("rack", True, ("gb200", "cpu"), ("lab", "other"))
    monkeypatch.setattr(api, "site_facts", lambda: facts)
    written = init(capsys, "--image", "nemo:26.08")
    assert Path(written["profile"]) == home / ".config/launcher/clusters/rack.toml"
    assert toml.loads(Path(written["profile"]).read_text())["partition"] == "gb200"
    assert config(home) == {"cluster": "rack", "image": "nemo:26.08"}
    assert written["next"][0] == "launcher doctor --nodes 2"
    before = Path(written["profile"]).read_text()
    monkeypatch.setattr(api, "site_facts", lambda: replace(facts, has_profile=True))
    again = init(capsys, "--run-root", "/shared/runs")
    assert (again["profile"], config(home)["run_root"]) == (None, "/shared/runs")
    assert Path(written["profile"]).read_text() == before
    init(capsys, "--partition", "cpu", status=2)
    assert Path(written["profile"]).read_text() == before
    init(capsys, "--name", "other", status=2)  # cluster = "rack" would change
    assert main(["init", "--no-doctor", "--partition", "gb20"]) == 2
    assert "Did you mean: gb200?" in capsys.readouterr().err
    assert not (home / ".config/launcher/clusters/other.toml").exists()


@pytest.mark.parametrize("name", ["slurm", "dgx-h100", "mine.toml", "a b", "../mine", ""])
def test_a_name_that_would_break_other_profiles_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from launcher.api import init as api

    monkeypatch.setattr(api, "site_facts", lambda: api.SiteFacts("rack", True, ("gpu",), ()))
    with pytest.raises(ConfigError, match=r"is not the name of a profile|ships with the launcher"):
        api.write_setup(api.SetUp(name), api.site_facts())
    assert not (home / ".config").exists()


@pytest.mark.parametrize(("called", "name"), [("Slurm", "mine"), ("Rack_1", "rack_1"), ("(null)", "mine")])
def test_slurms_name_of_the_cluster_is_taken_unless_it_is_taken_already(
    home: Path, monkeypatch: pytest.MonkeyPatch, called: str, name: str
) -> None:
    from launcher.api import init as api

    monkeypatch.setattr("launcher.discovery.host.detect_host", lambda: SimpleNamespace(has_slurm=True, user="ada"))
    monkeypatch.setattr("launcher.slurm.info.cluster_name", lambda _: called)
    monkeypatch.setattr("launcher.slurm.info.node_groups", lambda _: [])
    assert api.site_facts(Recorder()).name == name


def test_a_later_call_with_a_value_asks_for_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()

    def ask(question: str, _default: str) -> str:
        asked.append(question)
        return ""

    monkeypatch.setattr(command, "ask", ask)
    facts = SiteFacts("rack", True, ("gpu",), (), has_profile=True)
    found = command._answers(parse(command_parser("init"), ["--image", "x"]), facts, asking=True)
    assert (asked, found.image, found.run_root) == ([], "x", None)
    command._answers(parse(command_parser("init"), []), facts, asking=True)
    assert len(asked) == 2 and all("empty: as it is" in question for question in asked)


def fresh(user: User) -> dict[str, str]:
    environ = {**user.environ, "HOME": str(user.directory)}
    for name in ("LAUNCHER_CLUSTERS", "LAUNCHER_CLUSTER", "XDG_CONFIG_HOME"):
        environ.pop(name, None)
    return environ


def test_on_a_real_slurm_the_next_commands_work(slurm_cluster: VirtualCluster, tmp_path: Path) -> None:
    user = user_of(tmp_path, slurm_cluster)
    user = User(tmp_path, fresh(user))
    done = user.run("init", "--json", "--run-root", str(tmp_path / "shared"))
    found = json.loads(done.stdout)
    profile = Path(found["profile"])
    assert profile.parent == tmp_path / ".config/launcher/clusters"
    assert found["doctor"]["counts"]["fail"] == 0
    assert [command.split()[1] for command in found["next"]] == ["image", "plan", "submit"]
    planned = user.run("plan", "small.py", "--no-check-config", "--json")
    plan = json.loads(planned.stdout)["plan"]
    assert (plan["cluster"], plan["backend"]) == (profile.stem, "batch")
    assert plan["run_dir"].startswith(str(tmp_path / "shared"))


def test_on_a_terminal_it_asks(slurm_cluster: VirtualCluster, tmp_path: Path) -> None:
    user = user_of(tmp_path, slurm_cluster)
    main_end, other = pty.openpty()
    process = subprocess.Popen(
        [str(LAUNCHER), "init", "--no-doctor"], cwd=tmp_path, env=fresh(user), stdin=other, stdout=other, stderr=other
    )
    os.close(other)
    said = ""

    def until(words: str) -> None:
        nonlocal said
        end = time.monotonic() + seconds(60)
        while words not in said:
            assert time.monotonic() < end, said
            if select.select([main_end], [], [], 1)[0]:
                said += os.read(main_end, 4096).decode()

    for question, answer in (
        ("name of the profile", "mine"),
        ("partition", ""),
        ("image of your runs", ""),
        ("directory of all runs", "/tmp/of-ada"),
    ):
        until(question)
        os.write(main_end, f"{answer}\n".encode())
    until("next:")
    assert process.wait(seconds(60)) == 0
    os.close(main_end)
    assert config(tmp_path) == {"cluster": "mine", "run_root": "/tmp/of-ada"}
    assert (tmp_path / ".config/launcher/clusters/mine.toml").is_file()
