"""The plan's check of overrides: Hydra's own parser judges the grammar, the committed schema keys and types."""

import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from launcher._util.errors import OverrideError, RequestError
from launcher.contract import values
from launcher.contract.key_aliases import RENAMED
from launcher.planning import overrides
from tests.support.quick import few

SCHEMA = overrides.load_schema()

_PIECES = st.one_of(
    st.sampled_from(list(".=,[](){}:'\"\\+-~@/$*%|;`&<#! \né")),
    st.sampled_from(
        ["train", "train_iters", "model", "x", "a-b", "choice", "range", "shuffle", "glob", "int", "${", "oc.env:"]
    ),
    st.sampled_from(["1", "0", "007", "1e3", "1_000", ".5", "5.", "inf", "NaN", "null", "True", "???"]),
)
_VALUES = st.sampled_from(["[a]", "{a:1}", "[[1]]", "[]", "{}", "null", "true", "1", "0.5", "a", "[null]", "{a:[1]}"])
TEXTS = st.one_of(
    st.text(),
    st.lists(_PIECES, max_size=12).map("".join),
    st.builds("train.x={}".format, st.text()),
    st.builds(
        "{}={}".format,
        st.sampled_from(["a", "a.b", "a_1.B2", "+a.b", "++a"]),
        st.lists(_PIECES, max_size=8).map("".join),
    ),
    st.builds(
        "a={}".format, st.one_of(st.integers(), st.floats(), st.from_regex(r"[A-Za-z0-9_/.\-]+", fullmatch=True))
    ),
)


def hydra(text: str) -> tuple[str, Any]:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(text)
    return parsed.key_or_group, parsed.value()


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    return repr(one) == repr(other)


@settings(max_examples=few(1500), deadline=None)
@given(TEXTS)
@example("a=1_000")
@example("a=0x10")
@example("a=-0")
@example("a=+5")
@example("a=1.")
@example("a=nan")
@example("a=/")
@example("a=x/.-y")
@example("a=9" + "0" * 5000)
@example("a=" + "[" * 3000)
@example("a=range(0,1,0)")
def test_any_text_is_read_as_hydra_reads_it_or_refused(text: str) -> None:
    try:
        (read,) = overrides.check([text], None)
    except RequestError as error:
        assert error.where is not None
        assert error.where.startswith("override 1: ")
        return
    assert read.text == text
    key, value = hydra(text)
    assert read.key == key
    assert same(read.value, value)


@settings(max_examples=few(500), deadline=None)
@given(st.sampled_from(sorted(SCHEMA.keys)), st.one_of(st.text(), _VALUES, st.lists(_PIECES, max_size=6).map("".join)))
def test_any_value_of_any_key_is_taken_or_refused(key: str, value: str) -> None:
    try:
        (read,) = overrides.check([f"{key}={value}"], SCHEMA)
    except RequestError as error:
        assert error.message
        return
    assert values.fits(read.value, SCHEMA.keys[key])


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("train.train_iters=abc", "train.train_iters takes an integer or null, not the string 'abc'", None),
        ("train.train_iters=1e3", "not the float 1000.0", "write train.train_iters=1000"),
        ("train.train_iters=1.5", "not the float 1.5", None),
        ("train.exit_signal_handler=yes", "takes true or false", "write train.exit_signal_handler=true"),
        ("train.train_iter=5", "train.train_iter is not a key of Megatron Bridge 0.6.2", "train.train_iters"),
        ("optimiser.lr=1", "optimiser.lr is not a key", "did you mean optimizer.lr"),
        ("lr=1", "lr is not a key", "did you mean optimizer.lr"),
        (
            "dataset.sequence_length=64",
            "overwrites dataset.sequence_length with dataset.seq_length",
            "set dataset.seq_length",
        ),
        ("model.mine=1", "model.mine is not a key", "+model.mine=..."),
        ("train.mine=1", "train.mine is not a key", "+train.mine=..."),
        ("+mine=1", "mine is not a key", None),
        ("+trane.mine=1", "trane.mine is not a key", None),
        ("ft={enable:true}", "ft.enable is not a key", "ft.enable_ft_package"),
        ("env_vars.A=[1]", "env_vars takes a mapping", None),
        ("profiling.profile_ranks.0=1", "is a list, whose items have no keys", None),
        ("train.train_iters.x=1", "train.train_iters has no keys below it", None),
        ("train=null", "train takes a set of keys", None),
        ("model.init_method=x", "an object that only a recipe can give", None),
        ("train.train_iters=1,2", "is a sweep", "[1,2]"),
        ("train.train_iters=range(1,3)", "is a sweep", "give one value"),
        ("train.rampup_batch_size=[range(1,3)]", "is a sweep", None),
        ("profiling.profile_ranks=shuffle([1,2])", "Hydra's grammar does not read", None),
        ("~train", "would delete a key", "KEY=null"),
        ("train", "is not of the form KEY=VALUE", None),
        ("db@x=1", "is not a dotted name", None),
        ("checkpoint.save=/x=y", "Hydra's grammar does not read", """'checkpoint.save="/x=y"'"""),
        ("checkpoint.save=???", "says that the value is missing", None),
    ],
)
def test_override_that_cannot_work_is_refused(text: str, says: str, hint: str | None) -> None:
    with pytest.raises(OverrideError) as caught:
        overrides.check(["optimizer.lr=1", text], SCHEMA)
    assert says in caught.value.message
    assert caught.value.where == f"override 2: {text}"
    assert caught.value.exit_status == 2
    if hint is not None:
        assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("train.train_iters=1_000", 1000),
        ("optimizer.lr=3", 3),
        ("checkpoint.save='a,b'", "a,b"),
        ("++train.train_iters=3", 3),
        ("+model.mine=3", 3),
        ("+profiling.use_myprof=true", True),
        ("env_vars.NCCL_DEBUG=INFO", "INFO"),
        ("env_vars={A:1,B:2}", {"A": 1, "B": 2}),
        ("dataset.blend=[[a, b],[0.5,0.5]]", [["a", "b"], [0.5, 0.5]]),
        ("train.train_iters=${oc.env:N}", "${oc.env:N}"),
        ("ft={enable_ft_package:true}", {"enable_ft_package": True}),
        ("peft={_target_:my.Peft,anything:1}", {"_target_": "my.Peft", "anything": 1}),
        ("mixed_precision=bf16_mixed", "bf16_mixed"),
        ("model.params_dtype=torch.bfloat16", "torch.bfloat16"),
        ("train.exit_signal=SIGTERM", "SIGTERM"),
        ("train.train_iters=int(5.0)", 5),
    ],
)
def test_override_that_works(text: str, value: Any) -> None:
    (read,) = overrides.check([text], SCHEMA)
    assert read.value == value
    assert read.text == text


def test_value_is_known_unless_it_is_interpolated() -> None:
    read = overrides.check(["train.train_iters=3", "train.global_batch_size=${x}"], SCHEMA)
    assert overrides.known_values(read).get("train.train_iters") == 3
    assert overrides.known_values(read).get("train.global_batch_size") is None
    assert overrides.known_values(read).get("train.micro_batch_size") is None


def test_program_that_is_not_bridge_has_keys_of_its_own() -> None:
    (read,) = overrides.check(["anything.at.all=[1,x]"], None)
    assert read == values.Override("anything.at.all", [1, "x"], "anything.at.all=[1,x]")


def test_every_type_of_the_schema_can_be_described_and_asked() -> None:
    for key, spec in SCHEMA.keys.items():
        assert values.describe(spec), key
        for value in (None, True, 1, 0.5, "x", [], [1], {}, {"a": 1}):
            assert values.fits(value, spec) in (True, False)
        json.dumps(spec)


def test_simple_overrides_are_checked_without_hydra() -> None:
    code = (
        "import sys\nfrom launcher.planning import overrides\n"
        "texts = ['train.train_iters=20', 'optimizer.lr=1e-3', 'checkpoint.save=/a/b-c.d', 'train.manual_gc=true']\n"
        "overrides.check(texts, overrides.load_schema())\n"
        "print([name for name in ('hydra', 'omegaconf', 'difflib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("release", "schema"),
    [
        (None, "0.6.2"),
        ("unknown", "0.6.2"),
        ("0.6.2+abc", "0.6.2"),
        ("0.6.5", "0.6.2"),
        ("0.3.1", "0.3.1"),
        ("0.5.0", None),
    ],
)
def test_the_schema_is_that_of_the_release_that_the_job_will_find(release: str | None, schema: str | None) -> None:
    found = overrides.schema_of(release)
    assert (found.version if found else None) == schema


@pytest.mark.parametrize(
    ("release", "text", "called"),
    [
        ("0.3.1", "validation.eval_iters=1", "train.eval_iters"),
        ("0.3.1", "dataset.offline_packing_specs.packed_sequence_size=8", "dataset.packed_sequence_specs.packed_seq"),
        ("0.6.2", "dataset.packed_sequence_specs.packed_sequence_size=8", "dataset.offline_packing_specs.packed_seq"),
    ],
)
def test_a_key_of_another_release_is_refused_with_its_name_in_this_one(release: str, text: str, called: str) -> None:
    with pytest.raises(OverrideError, match=rf"is not a key of Megatron Bridge {release}, which calls it {called}"):
        overrides.check([text], overrides.load_schema(release))


@pytest.mark.parametrize("text", ["checkpoint.save=None", "checkpoint.load=none", "tokenizer.tokenizer_model=NONE"])
def test_none_in_place_of_null_is_refused(text: str) -> None:
    with pytest.raises(OverrideError, match="would be the text") as caught:
        overrides.check([text], SCHEMA)
    key = text.partition("=")[0]
    assert f"write {key}=null" in (caught.value.hint or "")
    assert overrides.check([f"{key}=null"], SCHEMA)[0].value is None
    assert overrides.check([f"{key}='None'"], SCHEMA)[0].value == "None"


@pytest.mark.parametrize("spec", [{"literal": ["none", "full"]}, ["none", {"enum": {"none": 0}}], ["int", "none"]])
def test_none_stays_what_a_type_says(spec: Any) -> None:
    override = values.parse("a.b=none")
    if spec == ["int", "none"]:
        with pytest.raises(values.Refused, match="would be the text"):
            values.refuse_bare_none(override, spec)
    else:
        values.refuse_bare_none(override, spec)


@pytest.mark.parametrize("value", ["[" * 3000, "[" * 33 + "]" * 33, "{a:" * 40 + "1" + "}" * 40, f"[{'1,' * 5000}1]"])
def test_values_that_hydra_reads_slowly_are_refused_before_it_reads_them(value: str) -> None:
    with pytest.raises(OverrideError, match="at most"):
        overrides.check([f"model.x={value}"], None)
    quoted = overrides.check([f"model.x='{'[' * 40}'"], None)[0]
    assert quoted.value == "[" * 40


@pytest.mark.parametrize(
    ("text", "release", "taken"),
    [
        ("dataset.sequence_length=512", "0.6.2", "dataset.seq_length=512"),
        ("train.skip_train=true", "0.6.2", None),
        ("dist.lazy_init=true", "0.6.2", "dist.lazy_mpu_init=true"),
        ("++optimizer.muon_use_nesterov=true", "0.6.2", "++optimizer.muon_nesterov=true"),
        (
            "dataset.packed_sequence_specs.packed_sequence_size=8",
            "0.6.2",
            "dataset.offline_packing_specs.packed_sequence_size=8",
        ),
        ("dataset.pack_sequences_in_batch=true", "0.6.2", "dataset.enable_in_batch_packing=true"),
        ("dataset.val_proportion=0.1", "0.6.2", "dataset.hf_validation_proportion=0.1"),
        ("validation.eval_iters=3", "0.3.1", "train.eval_iters=3"),
        ("validation.skip_train=true", "0.3.1", "train.skip_train=true"),
        ("dist.lazy_mpu_init=true", "0.3.1", "dist.lazy_init=true"),
        ("optimizer.muon_nesterov=true", "0.3.1", "optimizer.muon_use_nesterov=true"),
        # 0.3.1 has nothing that these would be.
        ("dataset.offline_packing_specs.num_tokenizer_workers=2", "0.3.1", None),
        ("validation.full_validation=true", "0.3.1", None),
    ],
)
def test_a_key_of_another_release_with_one_meaning_is_taken_for_what_it_is(
    text: str, release: str, taken: str | None
) -> None:
    schema = overrides.load_schema(release)
    (found,), notes = overrides.translated(overrides.parse_all([text]), schema)
    assert found.text == (taken or text)
    assert len(notes) == (0 if taken is None else 1)
    if taken is not None:
        assert "".join(notes).startswith(f"{text} is taken as {taken}: Megatron Bridge {release} calls ")
        overrides.check_keys([found], schema)
        assert overrides.parse_all([taken]) == (found,)


def test_one_setting_under_both_names_is_refused() -> None:
    given = overrides.parse_all(["dataset.sequence_length=512", "dataset.seq_length=64"])
    with pytest.raises(OverrideError, match=r"which dataset\.seq_length=64 sets as well"):
        overrides.translated(given, SCHEMA)


def test_each_renamed_key_is_in_the_schemas_of_its_releases() -> None:
    old, new = (overrides.load_schema(release) for release in ("0.3.1", "0.6.2"))
    for one in RENAMED:
        assert one.newer in new.keys and one.older in old.keys and one.source
