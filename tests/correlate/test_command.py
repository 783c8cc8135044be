"""The options of `launcher correlate`: what is given counts, also a zero, or is refused."""

from pathlib import Path

import pytest

from launcher._util.errors import ConfigError
from launcher.cli.commands import correlate
from launcher.cli.main import command_parser, main
from launcher.cli.parser import parse
from launcher.correlate.axes import Training, changed
from launcher.correlate.correlate import Pair
from launcher.correlate.scripts import emit

BRIDGE = "bridge:vanilla_gpt_pretrain_config"


@pytest.mark.parametrize("words", [("a.toml",), (BRIDGE, BRIDGE)])
def test_a_zero_is_given_as_well(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    side = f'recipe = "{BRIDGE}"\n'
    (tmp_path / "a.toml").write_text(f"tolerance = 0.1\ndropout = 0.3\n[left]\n{side}[right]\n{side}")
    pair = correlate._pair(parse(command_parser("correlate"), [*words, "--dropout", "0", "--tolerance", "0"]))
    assert (pair.dropout, pair.tolerance) == (0.0, 0.0)


def test_scripts_are_refused_where_the_two_differ_in_what_they_cannot_hold(tmp_path: Path) -> None:
    side = Training(BRIDGE)
    for axis, named in (("image", "image"), ("env.X", "env"), ("commit", "commit")):
        pair = Pair(changed(side, axis, "a"), changed(side, axis, "b"), match="none")
        with pytest.raises(ConfigError, match=f"differ in {named}"):
            emit(pair, tmp_path / "scripts")
    assert not (tmp_path / "scripts").exists()


def test_options_without_effect_beside_emit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["correlate", BRIDGE, "--vary", "model.a=1,2", "--emit", str(tmp_path / "scripts")]
    for option in ("--bisect", "--json"):
        assert main([*command, option]) == 2
        assert "--emit runs nothing" in capsys.readouterr().err
