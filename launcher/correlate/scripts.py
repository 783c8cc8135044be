"""Both sides of a correlation as scripts that run without the launcher, and the mapping between them."""

import shlex
from pathlib import Path

from launcher._util.errors import ConfigError
from launcher.correlate.axes import Training
from launcher.correlate.correlate import Pair, matched
from launcher.rundir.run_directory import write_atomically
from launcher.translation.table import load_table
from launcher.translation.translate import to_bridge

_MLM = """\
#!/usr/bin/env bash
# Megatron-LM {core}: MEGATRON_LM names its checkout. RANKS is the number of GPUs of this machine.
set -euo pipefail
exec torchrun --nproc_per_node "${{RANKS:-1}}" "${{MEGATRON_LM:-.}}/{script}" \\
{words}
"""

_BRIDGE = """\
#!/usr/bin/env python3
# Megatron Bridge {bridge}: torchrun --nproc_per_node RANKS bridge.py
from megatron.bridge.recipes import {recipe}
from megatron.bridge.training.gpt_step import forward_step
from megatron.bridge.training.pretrain import pretrain
from megatron.bridge.training.utils.omegaconf_utils import (
    apply_overrides,
    create_omegaconf_dict_config,
    parse_hydra_overrides,
)
from omegaconf import OmegaConf

OVERRIDES = [
{overrides}
]


def main() -> None:
    config = {recipe}()
    plain, excluded = create_omegaconf_dict_config(config)
    plain = parse_hydra_overrides(plain, OVERRIDES)
    apply_overrides(config, OmegaConf.to_container(plain, resolve=True), excluded)
    # Nothing that an earlier run has left is resumed.
    config.checkpoint.save = config.checkpoint.load = None
    pretrain(config, forward_step)


if __name__ == "__main__":
    main()
"""


def emit(pair: Pair, directory: Path, *, on_cpu: bool = False) -> list[Path]:
    """Write both sides and the mapping into the directory; return the files. Raises ConfigError, DiskError."""
    left, right = pair.left, pair.right
    names = sorted({*left.options, *right.options})
    apart = [name for name in names if left.options.get(name) != right.options.get(name) and name != "mlm_source"]
    if apart or left.commit != right.commit:
        raise ConfigError(
            f"--emit writes settings alone, and the two differ in {', '.join(apart or ['commit'])}",
            hint="Leave out --emit: the launcher runs them so.",
        )
    asked, _, _ = matched(pair, on_cpu=on_cpu)
    directory.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for name, side in (("left", asked.left), ("right", asked.right)):
        path, text = _script(directory, name, side)
        write_atomically(path, text, mode=0o777)
        files.append(path)
    mapping = directory / "mapping.md"
    write_atomically(mapping, _mapping(asked))
    return [*files, mapping]


def _script(directory: Path, name: str, side: Training) -> tuple[Path, str]:
    table = load_table()
    if side.is_megatron_lm:
        script = side.recipe.removeprefix("mlm:")
        words = "".join(f"  {line} \\\n" for line in _lines(side.words)).rstrip(" \\\n")
        text = _MLM.format(core=table.core, script="pretrain_gpt.py" if script == "gpt" else script, words=words)
        return directory / f"{name}-megatron-lm.sh", text
    if not side.recipe.startswith("bridge:"):
        raise ConfigError(f"--emit writes recipes of Megatron Bridge by name, and {side.recipe} is a file of your own")
    overrides = "\n".join(f"    {word!r}," for word in side.assignments)
    text = _BRIDGE.format(bridge=table.bridge, recipe=side.recipe.removeprefix("bridge:"), overrides=overrides)
    return directory / f"{name}-bridge.py", text


def _lines(words: tuple[str, ...]) -> list[str]:
    """Return the words quoted, each option with its values on one line."""
    lines: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not lines:
            lines.append([])
        lines[-1].append(word)
    return [shlex.join(line) for line in lines]


def _mapping(pair: Pair) -> str:
    """Return the table of Megatron-LM's arguments and what they are on the other side, in Markdown."""
    lines = ["| Megatron-LM | Megatron Bridge |", "| --- | --- |"]
    for side in (pair.left, pair.right):
        if side.is_megatron_lm:
            found = to_bridge(side.words)
            for item in (*found.items, *found.defaults):
                said = " ".join(item.said) or item.why or ""
                lines.append(f"| `{item.text}` | {f'`{said}`' if item.said else said} |")
    return "\n".join(lines) + "\n"
