"""What a resume changes of its run, and which changes need permission because another training would go on.

`RULES` is a table: the first pattern that fits a key decides, and each line says why. A key that no line knows needs
permission.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from launcher._util.errors import RequestError
from launcher.contract.recipe_arguments import FIELDS
from launcher.planning.model import Change, Plan

_SHARDS = "checkpoints are resharded when they are loaded"
_NUMERICS = "the same computation, done in another way"
_OUTSIDE = "it is beside the training"
_DATA = "the data and their order"
_MODEL = "the model"

RULES: tuple[tuple[str, bool, str], ...] = (
    (r"nodes|gpus_per_node", False, "the global batch stays, and checkpoints are resharded when they are loaded"),
    (r"image|launcher|cluster|runtime|env .*", False, "the software or the place, not the request"),
    (r"code|mlm_source", True, "any line of it may change what is trained"),
    (r"bridge", True, "another release may have other defaults"),
    (r"model\.(\w+_)?(model_parallel|parallel)_size|model\.sequence_parallel", False, _SHARDS),
    (r"model\.(virtual_pipeline\w+|pipeline_model_parallel_\w+|expert_tensor_parallel_size)", False, _SHARDS),
    (r"model\.(recompute_|cuda_graph|tp_comm_|overlap_|cpu_offloading|\w*offload)\w*", False, _NUMERICS),
    (r"model\.(\w*_fusion|attention_backend|moe_token_dispatcher_type|moe_flex\w*|moe_\w*deepep\w*)", False, _NUMERICS),
    (r"model\.(seed|\w*dropout)", True, "random numbers"),
    (r"model(\..*)?", True, _MODEL),
    (r"train\.micro_batch_size", False, "the global batch stays"),
    (r"train\.(global_batch_size|rampup_batch_size|decrease_batch_size_if_needed)", True, "the batch"),
    (r"train\.(train_iters|train_samples)", False, "more or less of the same training"),
    (r"train\.(exit_|eval_|manual_gc|check_|empty_|skip_train|train_sync)\w*", False, _OUTSIDE),
    (r"train\.iterations_to_skip", True, _DATA),
    (r"(checkpoint|logger|profiling|dist|ddp|comm_overlap|rerun_state_machine|ft|straggler)(\..*)?", False, _OUTSIDE),
    (r"(nvrx_straggler|inprocess_restart|tensor_inspect|env_vars|validation)(\..*)?", False, _OUTSIDE),
    (r"(data|data_\w+|dataset|tokenizer)(\..*)?", True, _DATA),
    (r"(rng|seed)(\..*)?", True, "random numbers"),
    (r"(optimizer|optimizer_\w+|scheduler)(\..*)?", True, "how weights are updated"),
    (r"mixed_precision(\..*)?", True, "precision"),
    (r"peft(\..*)?|peft_scheme|forward_step", True, "what is trained"),
)


def find_changes(before: Mapping[str, Any], after: Plan) -> tuple[Change, ...]:
    """Return what differs between plan.json of the last attempt and the plan of the next one."""
    return tuple(_changes(before, after))


def require_permission(changes: Sequence[Change], allowed: Sequence[str], run_dir: str) -> None:
    """Raise RequestError where a change of the training's meaning is not among the allowed keys."""
    refused = [change for change in changes if change.needs_permission and change.key not in allowed]
    if not refused:
        return
    some = "; ".join(map(str, refused[:5])) + (f"; and {len(refused) - 5} more" if len(refused) > 5 else "")
    options = " ".join(f"--allow-change {change.key}" for change in refused[:5])
    raise RequestError(
        f"resuming would go on with another training: {some}",
        where=run_dir,
        hint=f"To allow it: {options}. Otherwise leave it as it was, or start a new run.",
    )


def _changes(before: Mapping[str, Any], after: Plan) -> Iterator[Change]:
    own_program = bool(after.request.get("entrypoint"))
    values: dict[str, str | None] = {**_around(before), **_stated(before.get("argv") or {})}
    now = after.to_dict()
    new: dict[str, str | None] = {**_around(now), **_stated(now["argv"])}
    for key in sorted({*values, *new}):
        old_value, new_value = values.get(key), new.get(key)
        if old_value == new_value or (key in _KNOWN_LATER and old_value is None):
            continue
        needs, why = judge(key, own_program=own_program)
        yield Change(key, old_value, new_value, needs, why)


_KNOWN_LATER = ("code", "bridge", "image", "launcher")
"""A plan of an older launcher does not record these; what was unknown has not changed."""


def judge(key: str, *, own_program: bool = False) -> tuple[bool, str]:
    """Return whether a change of this key needs permission, and why or why not."""
    for each in (key, *FIELDS.get(key, ())):
        for pattern, needs, why in RULES:
            if re.fullmatch(pattern, each):
                return needs, why
    if own_program:
        return False, "what it means to your program is not known"
    return True, "what it means to the training is not known"


def _around(plan: Mapping[str, Any]) -> dict[str, str | None]:
    """Return what surrounds the training: sizes, software, place."""
    layout, image = plan.get("layout") or {}, plan.get("image") or {}
    found = {
        "nodes": layout.get("nodes"),
        "gpus_per_node": layout.get("ranks_per_node"),
        "image": image.get("digest") or image.get("path"),
        "bridge": plan.get("bridge"),
        "code": plan.get("code_digest"),
        "cluster": plan.get("cluster"),
        "runtime": plan.get("runtime"),
        "launcher": plan.get("launcher"),
    }
    for entry in (plan.get("request") or {}).get("env") or ():
        name, given, value = str(entry).partition("=")
        found[f"env {name}"] = value if given else "(passed on)"
    return {key: None if value is None else str(value) for key, value in found.items()}


def _stated(argv: Mapping[str, Any]) -> dict[str, str]:
    """Return arguments and overrides by key. What was profiled is of one attempt."""
    if "mlm" in (argv.get("recipe") or {}):
        return _said_to_megatron(argv["recipe"])
    found: dict[str, str] = {str(key): str(value) for key, value in (argv.get("arguments") or {}).items()}
    for override in argv.get("overrides") or ():
        key = str(override.get("key"))
        if key.partition(".")[0] != "profiling":
            value = str(override.get("text")).partition("=")[2]
            # A mapping is merged into what the key has.
            found[key] = f"{found[key]} {value}" if key in found else value
    return found


def _said_to_megatron(script: Mapping[str, Any]) -> dict[str, str]:
    """Return what a command line of Megatron-LM decides, its defaults included, by Bridge's keys."""
    from launcher.translation.translate import values_of

    values = {key: value for key, value in values_of(script["words"]).items() if key.partition(".")[0] != "profiling"}
    if script.get("source"):
        values["mlm_source"] = script["source"]
    return {key: str(value) for key, value in values.items()}
