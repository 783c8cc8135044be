"""`launcher clusters`: the table, a profile with the reason of each value, and the probe's file."""

import json
from pathlib import Path

import pytest

from launcher._util import toml
from launcher._util.resources import resource
from launcher.cli.main import main
from launcher.contract.fabrics import FABRICS
from launcher.slurm import probe
from tests.discovery.test_cluster_probe import NVL72, site

SHIPPED = [path.stem for path in resource("configs/clusters").glob("*.toml")]
MINE = """\
extends = "aws-p5"
description = "ours"
# these are p5e
gpu = "H200"
partition = "train"
[env]
NCCL_SOCKET_IFNAME = "en"  # one interface of two
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.toml").write_text(MINE)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("LAUNCHER_CLUSTERS", str(tmp_path / "mine"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_list_is_a_table_that_marks_the_users_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clusters"]) == 0
    out, err = capsys.readouterr()
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert rows["mine*"].split() == ["mine*", "8", "x", "H200", "efa", "ours"]
    column = rows["NAME"].index("FABRIC")
    assert {line[column:].split()[0] for line in rows.values()} <= {"FABRIC", *FABRICS, "-"}
    assert {*rows} == {"NAME", *SHIPPED, "mine*"} and "* your own" in err
    assert main(["clusters", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["clusters"]
    assert found["mine"]["own"] and not found["slurm"]["own"] and found["mine"]["gpu"] == "H200"


WRONG = {
    "extends a list": 'extends = ["aws-p5"]',
    "extends a number": "extends = 1",
    "extends a table": "[extends]",
    "extends nothing known": 'extends = "nowhere"',
    "extends itself": 'extends = "bad"',
    "unknown key": "gpux = 1",
    "wrong type": "gpus_per_node = []",
    "unset a number": "unset = 1",
    "bad TOML": "gpu = ",
    "deep": "env = " + "[" * 100_000,
    "not UTF-8": b'gpu = "\xff"',
    "a directory": None,
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_profile_hides_no_other(capsys: pytest.CaptureFixture[str], home: Path, name: str) -> None:
    content, bad = WRONG[name], home / "mine" / "bad.toml"
    if content is None:
        bad.mkdir()
    else:
        bad.write_bytes(content.encode() if isinstance(content, str) else content)
    assert main(["clusters", "list"]) == 0
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["NAME", *sorted([*SHIPPED, "mine*"])]
    (line,) = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert "the profile bad is wrong: " in line
    assert main(["clusters", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert ({*found["clusters"]}, list(found["errors"])) == ({*SHIPPED, "mine"}, ["bad"])
    assert main(["clusters", "show", "bad"]) == 2


def test_show_gives_each_value_its_reason_its_file_and_what_it_replaced(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    assert main(["clusters", "show", "mine"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"# mine: {home / 'mine' / 'mine.toml'}\n# extends aws-p5: ")
    assert "and not tried on these sites" in out
    assert '# mine, instead of "H100" of aws-p5: these are p5e\ngpu = "H200"\n' in out
    assert '# mine\npartition = "train"\n' in out
    assert '# mine, instead of "^docker,lo,veth" of aws-efa: one interface of two\nNCCL_SOCKET_IFNAME = "en"\n' in out
    assert "instance-profiles.conf@3b2aa2a9\nnics_per_node = 32\n" in out
    # What is shown is the profile, whole.
    read = toml.loads(out)
    assert (read["gpu"], read["gpus_per_node"], read["env"]["FI_PROVIDER"]) == ("H200", 8, "efa")
    assert read["directives"] == {"gpus-per-node": True, "exclusive": True, "mem": "0"}
    # A profile of no site was tried: it states nothing about one.
    assert main(["clusters", "show", "slurm"]) == 0
    assert "not tried" not in capsys.readouterr().out


def test_show_for_programs(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert main(["clusters", "show", "mine", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["profile"]["name"] == "mine" and [each["name"] for each in found["extends"]] == [
        "aws-p5",
        "aws-efa",
        "slurm",
    ]
    gpu = found["values"]["gpu"]
    assert (gpu["value"], gpu["reason"], gpu["file"]) == ("H200", "these are p5e", str(home / "mine" / "mine.toml"))
    assert [each["value"] for each in gpu["replaced"]] == ["H100"]
    assert "https://" in found["values"]["env.OMP_NUM_THREADS"]["reason"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["show"], "which profile?"),
        (["show", "nowhere"], "there is no cluster profile 'nowhere'"),
        (["list", "mine"], "clusters list takes no name"),
        (["show", "mine", "--output", "x.toml"], "clusters show has no option --output"),
        (["probe", "--output", "mine/mine.toml"], "is there already"),
        (["probe", "--output", "mine"], "not the name of a profile's file"),
    ],
)
def test_wrong_words_end_with_2(capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str) -> None:
    assert main(["clusters", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_probe_prints_or_writes(
    capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = probe.probe_cluster(site(NVL72))
    monkeypatch.setattr(probe, "probe_cluster", lambda *_: found)
    assert main(["clusters", "probe", "--name", "ours"]) == 0
    out, err = capsys.readouterr()
    assert toml.loads(out)["gpus_per_node"] == 4
    assert f"--output {home}/.config/launcher/clusters/ours.toml" in err
    assert main(["clusters", "probe", "--name", "ours", "--output", "new/rack.toml"]) == 0
    out, err = capsys.readouterr()
    assert out == "" and "clusters show rack" in err
    assert toml.loads((home / "new" / "rack.toml").read_text())["partition"] == "gb200"
    assert main(["clusters", "probe", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["partition"] == "gb200"


def test_probe_where_there_is_no_slurm(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["clusters", "probe"]) == 3
    assert "'sinfo' was not found" in capsys.readouterr().err
