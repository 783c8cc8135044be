"""`launcher generate`: both sides continue a prompt alike, and a difference counts only where a side was decided."""

import json
import subprocess
from pathlib import Path

import pytest

from launcher.job.convert.generate import ChosenToken, judge
from tests.backends.running import ROOT, user_of
from tests.support.warm import warm_python

pytestmark = pytest.mark.timeout(600)

MODEL = """
import sys
from pathlib import Path
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

base = Path(sys.argv[1])
names = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{number}" for number in range(56))]
tokenizer = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(base / "model")
torch.manual_seed(1)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=60, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, max_position_embeddings=128, tie_word_embeddings=False, rope_theta=5e5,
))
with torch.no_grad():
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(6)
model.to(torch.bfloat16).save_pretrained(base / "model")
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with its tokenizer, far from what random initialisation gives."""
    base = tmp_path_factory.mktemp("model")
    done = subprocess.run(
        [warm_python(), "-c", MODEL, str(base)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return base / "model"


@pytest.mark.megatron
def test_both_sides_continue_a_prompt_alike(tmp_path: Path, model: Path) -> None:
    user = user_of(tmp_path)
    python = ("--python", warm_python())
    done = user.run("generate", str(model), "--prompt", "w1 w2 w3", "--prompt", "w9", "--json", *python)
    found = json.loads(done.stdout)
    assert found["ok"] and [one["prompt_ids"] for one in found["prompts"]] == [[5, 6, 7], [13]]
    for one in found["prompts"]:
        mine, theirs = one["megatron"], one["transformers"]
        assert mine["ids"] == theirs["ids"] and 1 <= len(mine["ids"]) <= 64
        assert len(mine["ids"]) == 64 or mine["ids"][-1] == 2
        assert mine["margins"] == pytest.approx(theirs["margins"], abs=1e-3) and min(mine["margins"]) > 0
    # Each prompt has its own continuation, and it is not one token over and over.
    ids = [tuple(one["megatron"]["ids"]) for one in found["prompts"]]
    assert ids[0] != ids[1] and max(len(set(one)) for one in ids) > 3

    # A checkpoint that was made of it continues with the same tokens; transformers then runs its export.
    user.run("convert", "import", str(model), "made", "--no-logits", *python)
    shown = user.run("generate", "made", "--prompt", "w1 w2 w3", "--max-new-tokens", "8", *python)
    assert "equal: 8 tokens, the least margin is" in shown.stderr
    text = found["prompts"][0]["megatron"]
    lines = shown.stdout.splitlines()
    assert lines[0] == "prompt        'w1 w2 w3'"
    assert lines[1].removeprefix("Megatron").strip() == lines[2].removeprefix("transformers").strip()
    assert [line.split()[1].strip("'") for line in lines[4:12]] == text["tokens"][:8]


def test_a_difference_counts_only_where_a_side_was_decided() -> None:
    same = [ChosenToken(5, 6, 0.5, 10.0), ChosenToken(7, 8, 0.5, 10.0)]
    assert judge(same, same, share=1e-3, above=never) == {
        "same": 2, "differs_at": None, "margin": None, "tolerance": None, "ok": True
    }  # fmt: skip
    close = [same[0], ChosenToken(8, 7, 0.015, 10.0)]
    near = [same[0], ChosenToken(7, 8, 0.004, 10.0), ChosenToken(1, 2, 9.0, 10.0)]
    found = judge(close, near, share=1e-3, above=never)
    assert found["ok"] and (found["differs_at"], found["margin"]) == (1, 0.015)
    assert found["tolerance"] == pytest.approx(0.02)
    assert not judge(close, near, share=1e-4, above=never)["ok"]
    assert not judge(close, same, share=1e-3, above=never)["ok"]
    assert not judge(same, same[:1], share=1e-3, above=never)["ok"]

    # Each side's second is a third token: small margins over that say nothing about the other side's choice.
    asked = list[tuple[int, int, int]]()

    def above(side: int, number: int, token: int) -> float:
        asked.append((side, number, token))
        return (0.01, 4.0)[side]

    one, other = [same[0], ChosenToken(8, 9, 0.001, 10.0)], [same[0], ChosenToken(7, 9, 0.001, 10.0)]
    found = judge(one, other, share=1e-3, above=above)
    assert not found["ok"] and found["margin"] == 4.0 and asked == [(0, 1, 7), (1, 1, 8)]
    # Three that are nearly equal stay undecided.
    assert judge(one, other, share=1e-3, above=lambda *_: 0.01)["ok"]


def never(side: int, number: int, token: int) -> float:
    raise AssertionError(f"it is known how much choice {number} of side {side} is above {token}")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nobodys", "--prompt", "a"), "no run 'nobodys'"),
        (("./nowhere", "--prompt", "a"), "there is no directory"),
        (("clusters",), "--prompt"),
        (("clusters", "--prompt", "a", "--max-new-tokens", "0"), "0 is not a whole number of at least 1"),
        (("clusters", "--prompt", "a", "--device", "tpu"), "invalid choice"),
        (("clusters", "--prompt", "a", "--python", "/no/python"), "there is no interpreter '/no/python'"),
    ],
)
def test_wrong_requests_are_refused_at_once(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    assert says in user_of(tmp_path).run("generate", *arguments, status=2).stderr


@pytest.mark.megatron
@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        ("clusters", ("--prompt", "a"), "there is no Megatron checkpoint here"),
        ("MODEL", ("--prompt", ""), "this prompt has no tokens"),
        ("MODEL", ("--prompt", "a", "--tokenizer", "clusters"), "this directory has no tokenizer"),
        ("MODEL", ("--prompt", "a", "--device", "gpu"), "torch sees 0 here"),
    ],
)
def test_what_cannot_be_continued_is_said(
    source: str, options: tuple[str, ...], says: str, tmp_path: Path, model: Path
) -> None:
    given = str(model) if source == "MODEL" else source
    refused = user_of(tmp_path).run("generate", given, *options, "--python", warm_python(), status=2).stderr
    assert says in refused and "Traceback" not in refused
