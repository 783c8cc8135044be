"""Megatron-LM's arguments as overrides of Megatron Bridge, and back, without losing one."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher._util.errors import RequestError
from launcher.contract import values as hydra
from launcher.translation import special
from launcher.translation.emit import recipe_source
from launcher.translation.table import Argument, ArgumentTable, keys_of, load_table
from launcher.translation.translate import Translation, override_text, to_bridge, to_mlm
from launcher.translation.yaml_arguments import read_yaml
from tests.support.quick import few

ROOT = Path(__file__).resolve().parents[2]
TABLE = load_table()
SCHEMA = json.loads((ROOT / "configs" / "schemas" / f"bridge-{TABLE.bridge}.json").read_text())["keys"]

LLAMA_3 = shlex.split(
    "--num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32 --group-query-attention "
    "--num-query-groups 8 --seq-length 8192 --max-position-embeddings 8192 --position-embedding-type rope "
    "--rotary-base 500000 --rotary-percent 1.0 --use-rope-scaling --rope-scaling-factor 8.0 --swiglu "
    "--disable-bias-linear --normalization RMSNorm --norm-epsilon 1e-05 --attention-dropout 0.0 --hidden-dropout 0.0 "
    "--untie-embeddings-and-output-weights --init-method-std 0.0134 --no-masked-softmax-fusion "
    "--attention-backend flash "
    "--tokenizer-type HuggingFaceTokenizer --tokenizer-model meta-llama/Meta-Llama-3-8B --bf16 "
    "--micro-batch-size 1 --global-batch-size 128 --train-iters 1000 --lr 0.0003 --min-lr 3e-05 "
    "--lr-decay-style cosine --lr-warmup-iters 100 --weight-decay 0.1 --adam-beta1 0.9 "
    "--adam-beta2 0.95 --clip-grad 1.0 --seed 42 "
    "--tensor-model-parallel-size 2 --pipeline-model-parallel-size 4 --num-virtual-stages-per-pipeline-rank 2 "
    "--context-parallel-size 2 --sequence-parallel --use-distributed-optimizer --overlap-grad-reduce "
    "--overlap-param-gather --data-path 0.7 /data/a_text_document 0.3 /data/b_text_document --split 99,1,0 "
    "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1 --save /ckpt --save-interval 500 "
    "--log-interval 1 --eval-iters 0 --log-throughput --no-save-optim --distributed-timeout-minutes 60"
)
DEEPSEEK_V3 = shlex.split(
    "--num-layers 61 --hidden-size 7168 --ffn-hidden-size 18432 --num-attention-heads 128 --kv-channels 128 "
    "--multi-latent-attention --q-lora-rank 1536 --kv-lora-rank 512 --qk-head-dim 128 --qk-pos-emb-head-dim 64 "
    "--v-head-dim 128 --rotary-scaling-factor 40 --mscale 1.0 --mscale-all-dim 1.0 --seq-length 4096 "
    "--max-position-embeddings 4096 --position-embedding-type rope --rotary-base 10000 --swiglu --disable-bias-linear "
    "--normalization RMSNorm --norm-epsilon 1e-06 --qk-layernorm --untie-embeddings-and-output-weights "
    "--num-experts 256 --moe-layer-freq [0]*3+[1]*58 --moe-ffn-hidden-size 2048 "
    "--moe-shared-expert-intermediate-size 2048 --moe-router-topk 8 --moe-router-num-groups 8 "
    "--moe-router-group-topk 4 --moe-router-score-function sigmoid --moe-router-topk-scaling-factor 2.5 "
    "--moe-router-pre-softmax --moe-router-enable-expert-bias --moe-router-bias-update-rate 0.001 "
    "--moe-router-load-balancing-type seq_aux_loss --moe-aux-loss-coeff 0.0001 --moe-router-dtype fp32 "
    "--moe-grouped-gemm --moe-token-dispatcher-type flex --moe-flex-dispatcher-backend deepep --moe-permute-fusion "
    "--mtp-num-layers 1 --mtp-loss-scaling-factor 0.1 --bf16 --fp8-format e4m3 --fp8-recipe blockwise "
    "--fp8-param-gather --main-grads-dtype fp32 --exp-avg-dtype bf16 --exp-avg-sq-dtype bf16 "
    "--use-precision-aware-optimizer --expert-model-parallel-size 64 --expert-tensor-parallel-size 1 "
    "--pipeline-model-parallel-size 8 --decoder-first-pipeline-num-layers 7 --decoder-last-pipeline-num-layers 6 "
    "--recompute-granularity selective --recompute-modules mla_up_proj mlp moe_act --micro-batch-size 1 "
    "--global-batch-size 8192 --train-samples 1000000 --lr 3.9e-06 --min-lr 3.9e-07 --lr-decay-style cosine "
    "--lr-decay-samples 584765624 --lr-warmup-samples 1536000 --weight-decay 0.1 --adam-beta2 0.95 --seed 1234 "
    "--use-distributed-optimizer --grad-reduce-in-bf16 --manual-gc --manual-gc-interval 10"
)
QWEN3_MOE = shlex.split(
    "--num-layers 48 --hidden-size 2048 --ffn-hidden-size 6144 --num-attention-heads 32 --kv-channels 128 "
    "--group-query-attention --num-query-groups 4 --qk-layernorm --seq-length 4096 --max-position-embeddings 4096 "
    "--position-embedding-type rope --rotary-base 1000000 --swiglu --disable-bias-linear --normalization RMSNorm "
    "--norm-epsilon 1e-06 --untie-embeddings-and-output-weights --num-experts 128 --moe-layer-freq 1 "
    "--moe-ffn-hidden-size 768 --moe-router-topk 8 --moe-router-load-balancing-type global_aux_loss "
    "--moe-aux-loss-coeff 0.001 --moe-grouped-gemm --moe-token-dispatcher-type alltoall --moe-router-dtype fp32 "
    "--bf16 --expert-model-parallel-size 8 --tensor-model-parallel-size 4 --sequence-parallel "
    "--micro-batch-size 1 --global-batch-size 256 --train-iters 500 --lr 0.00012 --min-lr 1.2e-05 "
    "--lr-decay-style cosine --lr-warmup-fraction 0.01 --weight-decay 0.1 --seed 7 --use-distributed-optimizer "
    "--no-bias-swiglu-fusion --cross-entropy-loss-fusion --attention-dropout 0.0 --hidden-dropout 0.0 "
    "--train-data-path /data/a --valid-data-path 0.5 /data/b 0.5 /data/c --tokenizer-type NullTokenizer "
    "--vocab-size 151936 --no-gradient-accumulation-fusion"
)


def stated(words: Sequence[str]) -> dict[str, Any]:
    """Return the values that a command line gives, by argument."""
    return {one.argument.name: one.value for one in TABLE.read(words) if one.argument}


def check_fits(translation: Translation) -> None:
    """Assert that each override is one that Bridge's schema takes."""
    for word in translation.words:
        parsed = hydra.parse(word)
        hydra.check(parsed.key, parsed.value, SCHEMA[parsed.key])


@pytest.mark.parametrize("words", [LLAMA_3, DEEPSEEK_V3, QWEN3_MOE], ids=["llama-3", "deepseek-v3", "qwen3-moe"])
def test_published_command_lines_go_to_bridge_and_back_without_loss(words: list[str]) -> None:
    there = to_bridge(words, defaults=False)
    assert there.complete, [one for one in there.items if one.outcome in ("none", "unknown")]
    check_fits(there)
    back = to_mlm(there.words, defaults=False)
    assert back.complete, [one for one in back.items if one.outcome in ("none", "unknown")]
    assert stated(back.words) == stated(words)


def test_every_argument_and_every_key_is_accounted_for() -> None:
    assert len(TABLE.arguments) > 800
    for argument in TABLE.arguments.values():
        for row in argument.rows:
            ways = [row.keys, row.values, row.special, row.always, row.none]
            assert any(ways), argument.name
            assert row.none is None or row.none in TABLE.reasons, argument.name
            assert row.special is None or row.special in special.FUNCTIONS
    taken = {key for one in TABLE.arguments.values() for row in one.rows for key in keys_of(row)}
    assert taken <= set(SCHEMA)
    assert set(SCHEMA) == taken | set(TABLE.keys)
    assert not taken & set(TABLE.keys)
    assert set(TABLE.keys.values()) <= set(TABLE.key_reasons)


def test_the_share_without_a_counterpart_does_not_grow() -> None:
    """Lower these numbers where a rule is added; do not raise them without a look at each argument."""
    without = [one for one in TABLE.arguments.values() if one.rows[-1].none and len(one.rows) == 1]
    assert len(without) <= 232
    own = [key for key, reason in TABLE.keys.items() if reason == "Bridge's own"]
    assert len(own) <= 170


def test_weight_decay_is_the_schedulers_and_the_seed_is_two_keys() -> None:
    found = to_bridge(["--weight-decay", "0.1", "--seed", "5"], defaults=False).words
    assert found == (
        "scheduler.start_weight_decay=0.1",
        "scheduler.end_weight_decay=0.1",
        "rng.seed=5",
        "dataset.random_seed=5",
    )
    assert to_mlm(found, defaults=False).words == ("--weight-decay", "0.1", "--seed", "5")
    one = to_mlm(["optimizer.weight_decay=0.5"], defaults=False).items[0]
    assert (one.outcome, one.reason) == ("none", "overwritten")
    half = to_mlm(["rng.seed=5"], defaults=False).items[0]
    assert "rng.seed and dataset.random_seed differ" in str(half.why)


def test_defaults_that_change_numbers_are_said_in_both_directions() -> None:
    """What was measured to differ between the two by default (the table of the field's settings)."""
    to = set(to_bridge(["--num-layers", "2", "--bf16"]).words)
    assert to >= {
        "optimizer.adam_beta2=0.999",
        "scheduler.start_weight_decay=0.01",
        "scheduler.end_weight_decay=0.01",
        "scheduler.lr_decay_style=linear",
        "scheduler.lr_warmup_iters=0",
        "optimizer.min_lr=0.0",
        "model.bias_activation_fusion=true",
        "model.bias_dropout_fusion=true",
        "model.cross_entropy_loss_fusion=false",
        "optimizer.use_distributed_optimizer=false",
        "ddp.use_distributed_optimizer=false",
    }
    back = " ".join(to_mlm(["model.num_layers=2"]).words)
    for said in (
        *("--adam-beta2 0.95", "--weight-decay 0.033", "--lr-decay-style cosine", "--lr-warmup-iters 500"),
        *("--min-lr 3e-05", "--no-bias-gelu-fusion", "--no-bias-dropout-fusion", "--cross-entropy-loss-fusion"),
        *("--use-distributed-optimizer", "--bf16", "--mock-data", "--seq-length 1024"),
    ):
        assert said in back


def test_without_bf16_bridge_computes_in_fp32() -> None:
    assert "mixed_precision=null" in to_bridge(["--num-layers", "2"]).words
    found = to_bridge(["--num-layers", "2", "--loss-scale", "8"], defaults=False).items[1]
    assert (found.outcome, found.reason) == ("none", "no effect")


@pytest.mark.parametrize(
    ("words", "outcome", "text"),
    [
        ("--use-cpu-initialization", "none", "start from different weights"),
        ("--use-mcore-models", "default", "Bridge has no other models"),
        ("--num-layer 3", "unknown", "did you mean --num-layers?"),
        ("--max-position-embeddings 2048 --seq-length 1024", "none", "rows"),
        ("--max-position-embeddings 2048 --seq-length 1024 --position-embedding-type rope", "default", "rope"),
        ("--num-query-groups 2", "none", "--group-query-attention"),
        ("--no-bias-swiglu-fusion", "none", "--swiglu"),
        ("--inference-max-requests 4", "none", "generating text"),
    ],
)
def test_what_is_not_translated_has_a_reason(words: str, outcome: str, text: str) -> None:
    item = to_bridge(words.split(), defaults=False).items[0]
    assert (item.outcome, text in str(item.why)) == (outcome, True), item


def test_the_last_of_an_argument_given_twice_counts() -> None:
    found = to_bridge(["--lr", "1", "--lr", "2"], defaults=False)
    assert found.words == ("optimizer.lr=2.0",)
    assert found.items[0].reason == "no effect"


@pytest.mark.parametrize("words", ["--num-layers x", "--bf16=1", "--num-layers", "--lr-decay-style loud"])
def test_wrong_values_are_refused(words: str) -> None:
    with pytest.raises(RequestError):
        to_bridge(words.split())


def test_virtual_stages_of_so_many_layers() -> None:
    words = shlex.split("--num-layers 16 --pipeline-model-parallel-size 4 --num-layers-per-virtual-pipeline-stage 2")
    assert "model.virtual_pipeline_model_parallel_size=2" in to_bridge(words, defaults=False).words


def test_names_of_mixed_precision_are_spelled_out() -> None:
    found = " ".join(to_mlm(["mixed_precision=bf16_with_mxfp8_mixed"], defaults=False).words)
    assert "--bf16" in found
    assert "--fp8-format e4m3" in found
    assert "--fp8-recipe mxfp8" in found


YAML = """
ENV_VARS:
  CUDA_DEVICE_MAX_CONNECTIONS: 1
MODEL_ARGS:
  --num-layers: 61
  --swiglu: true
  --sequence-parallel: false
  --moe-layer-freq: ([0]*3+[1]*58)
  --lr: 3.9e-6
  --recompute-modules: [mlp, moe_act]
"""


def test_yaml_files_of_both_forms_are_read(tmp_path: Path) -> None:
    (tmp_path / "zoo.yaml").write_text(YAML)
    found = to_bridge(read_yaml("zoo.yaml", tmp_path), defaults=False)
    assert found.complete
    assert "model.num_layers=61" in found.words
    assert "model.gated_linear_unit=true" in found.words
    assert f"model.moe_layer_freq=[{','.join(['0'] * 3 + ['1'] * 58)}]" in found.words
    assert "model.recompute_modules=[mlp,moe_act]" in found.words
    assert not [word for word in found.words if "sequence_parallel" in word]
    (tmp_path / "own.yaml").write_text(
        "language_model:\n  num_layers: 24\n  num_moe_experts: 8\nbf16: true\nlr: 0.01\n"
    )
    own = to_bridge(read_yaml("own.yaml", tmp_path), defaults=False)
    assert set(own.words) >= {"model.num_layers=24", "model.num_moe_experts=8", "optimizer.lr=0.01"}


def test_a_recipe_file_is_python_that_sets_the_same() -> None:
    words = to_bridge(LLAMA_3).words
    source = recipe_source(words, "--num-layers 32")
    compile(source, "recipe.py", "exec")
    assert "    cfg.model.activation_func = functional.silu\n" in source
    assert "    cfg.model.attention_backend = AttnBackend.flash\n" in source
    assert "    cfg.scheduler.end_weight_decay = 0.1\n" in source


# ---- properties over the table


def _values_of(argument: Argument) -> st.SearchStrategy[Any]:
    stored = next(iter(argument.options.values()))
    if argument.type == "bool":
        return st.sampled_from([one for one in argument.options.values() if isinstance(one, bool)])
    if argument.choices:
        one: st.SearchStrategy[Any] = st.sampled_from(list(argument.choices))
    elif argument.type in ("int", "pattern"):
        one = st.integers(1, 10_000)
        if argument.type == "pattern":
            one = one | st.lists(st.integers(0, 1), min_size=1, max_size=9)
    elif argument.type == "tuple":
        return st.lists(st.integers(0, 99), min_size=2, max_size=2)
    elif argument.type == "float":
        one = st.floats(0, 10, allow_subnormal=False).map(lambda value: float(f"{value:.6g}"))
    else:
        one = st.text("abc/_.- '\\\"{}[]$:,=%", min_size=1, max_size=9).filter(
            lambda text: not text.startswith("-") and text.strip() == text and "${" not in text
        )
    return st.lists(one, min_size=1, max_size=3) if stored == "list" else one


def _sayable(table: ArgumentTable) -> list[Argument]:
    """Return the arguments that have a row of their own, where the way back is the same argument."""
    found = []
    for argument in table.arguments.values():
        row = argument.rows[0]
        if len(argument.rows) == 1 and row.keys and not row.special and row.back:
            others = {one.name for key in row.keys for one in table.by_key[key]}
            if others == {argument.name} and not row.keys[0].startswith("mixed_precision"):
                found.append(argument)
    return found


SAYABLE = _sayable(TABLE)


def test_nearly_all_arguments_with_a_key_are_in_the_property() -> None:
    assert len(SAYABLE) > 500


@settings(max_examples=few(100), deadline=None)
@given(st.data())
def test_any_arguments_go_there_and_back(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(SAYABLE), min_size=1, max_size=6, unique_by=lambda one: one.name))
    wanted = {one.name: data.draw(_values_of(one), label=one.name) for one in chosen}
    words = [word for one in chosen for word in one.words(wanted[one.name]) or ()]
    there = to_bridge(words, defaults=False)
    assert there.complete
    for word in there.words:
        hydra.parse(word)
    back = to_mlm(there.words, defaults=False)
    assert back.complete, back.items
    assert {**TABLE.defaults(), **stated(back.words)} == {**TABLE.defaults(), **stated(words)}


@settings(max_examples=few(100), deadline=None)
@given(st.text(max_size=12).filter(lambda text: "${" not in text and text.isprintable()))
def test_any_text_is_read_as_it_was_written(text: str) -> None:
    assert hydra.parse(override_text("dataset.path_to_cache", text)).value == text


@settings(max_examples=few(100), deadline=None)
@given(
    st.one_of(
        st.booleans(), st.none(), st.integers(-(10**12), 10**12), st.floats(allow_nan=False, allow_infinity=False)
    )
)
def test_any_plain_value_is_read_as_it_was_written(value: Any) -> None:
    read = hydra.parse(override_text("model.x", value)).value
    assert (read, type(read)) == (value, type(value))
