"""The 18 checks of a point before it is submitted, numbered as in CloudAI.

Numbers 2 and 8 do nothing there. Here they look at the layers and the pipeline layout: those that the file states, and,
where the recipe was run, the recipe's own.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from launcher.cloudai.cmd_args import MegatronBridgeCmdArgs
from launcher.contract.parallel_sizes import UNEVEN_LAYERS

OFF = ("", "none", "null")
"""Values of cuda_graph_impl without CUDA graphs."""

TE_SCOPES = ("attn", "mlp", "moe", "moe_router", "moe_preprocess", "mamba")
"""What Transformer Engine's graphs may cover."""

RECOMPUTED = {
    "attn": {"core_attn", "mla_up_proj"},
    "mlp": {"mlp"},
    "moe": {"moe_act", "moe", "shared_experts"},
    "moe_router": {"moe", "shared_experts"},
}
"""For each scope of graphs the modules that cannot be recomputed inside it."""

DEEPSEEK_V3_PIPELINES = ((1, 1), (4, 1), (8, 1), (4, 2), (16, 1), (8, 2), (4, 4))
"""Pairs of PP and VP for which Bridge has a pipeline layout of DeepSeek-V3."""


@dataclass(frozen=True)
class Violation:
    """A check that a point does not pass."""

    number: int
    text: str

    def __str__(self) -> str:
        return f"check {self.number}: {self.text}"


@dataclass(frozen=True)
class BuiltRecipe:
    """What checks 2 and 8 look at of a recipe that was run: what a point does not state stays as it is here."""

    num_layers: int | None = None
    pp: int = 1
    vp: int | None = None
    stages: int | None = None
    """Those of its own pipeline layout; None without one."""
    is_uneven: bool = False
    """Whether it spreads layers unevenly in another way."""

    @classmethod
    def of(cls, model: Mapping[str, Any]) -> "BuiltRecipe":
        """Return it from the section `model` of a checked configuration."""
        layout = model.get("pipeline_layout")
        return cls(
            model.get("num_layers"),
            _size(model.get("pipeline_model_parallel_size")),
            model.get("virtual_pipeline_model_parallel_size"),
            sum(len(rank) for rank in layout) if layout else None,
            any(model.get(name) for name in UNEVEN_LAYERS),
        )


@dataclass(frozen=True)
class Shape:
    """What the checks look at: cmd_args with one value for each field, 1 for sizes that are not stated."""

    args: MegatronBridgeCmdArgs
    built: "BuiltRecipe | None" = None

    @property
    def tp(self) -> int:
        """Return the tensor parallel size."""
        return _size(self.args.tp)

    @property
    def pp(self) -> int:
        """Return the pipeline parallel size."""
        return _size(self.args.pp)

    @property
    def cp(self) -> int:
        """Return the context parallel size."""
        return _size(self.args.cp)

    @property
    def vp(self) -> int | None:
        """Return the virtual pipeline size; None where it is not stated."""
        return self.args.vp if isinstance(self.args.vp, int) else None

    @property
    def model_parallel(self) -> int:
        """Return TP x PP x CP."""
        return self.tp * self.pp * self.cp

    @property
    def dp(self) -> int:
        """Return the data parallel size; 0 where the GPUs do not suffice."""
        return self.args.num_gpus // self.model_parallel if self.model_parallel > 0 else 0

    @property
    def fsdp(self) -> bool:
        """Return whether Megatron FSDP is used."""
        return bool(self.args.use_megatron_fsdp)

    @property
    def offloaded(self) -> int:
        """Return how many layers have their activations offloaded."""
        return int(self.args.activation_offload_layers or 0)  # type: ignore[arg-type]

    @property
    def graph_impl(self) -> str:
        """Return the implementation of CUDA graphs in lower case."""
        return str(self.args.cuda_graph_impl or "").strip().lower()

    @property
    def scopes(self) -> list[str]:
        """Return what CUDA graphs cover."""
        return names(self.args.cuda_graph_scope)

    @property
    def graphs(self) -> bool:
        """Return whether there are CUDA graphs."""
        return self.graph_impl not in OFF and bool(self.scopes)


def _size(value: Any) -> int:
    return value or 1


def names(value: Any) -> list[str]:
    """Return the words of `attn,mlp`, `[attn, mlp]` or a list of such, in lower case and without quotes."""
    found = list[str]()
    for item in [] if value is None else value if isinstance(value, list) else [value]:
        text = str(item).strip().strip("\"'")
        if text.startswith("[") and text.endswith("]"):
            text = text[1:-1]
        found += [word for part in text.split(",") if (word := part.strip().strip("\"'").lower())]
    return found


def violations(args: MegatronBridgeCmdArgs, built: BuiltRecipe | None = None) -> list[Violation]:
    """Return the checks that a point does not pass, in their order. `args` has no lists of a sweep.

    Without `built` checks 2 and 8 look at what the file states alone.
    """
    shape = Shape(args, built)
    return [Violation(number, text) for number, check in CHECKS.items() for text in check(shape)]


def _divides_the_world(s: Shape) -> Iterator[str]:
    if s.model_parallel == 0 or s.args.num_gpus % s.model_parallel:
        yield f"num_gpus={s.args.num_gpus} cannot be divided by tp x pp x cp = {s.tp} x {s.pp} x {s.cp}"


def _layers_divide(s: Shape) -> Iterator[str]:
    layers = s.args.num_layers or (s.built.num_layers if s.built else None)
    pp, vp = _stages(s)
    by_layout = s.args.pipeline_model_parallel_layout or (s.built and (s.built.stages or s.built.is_uneven))
    if layers is not None and not by_layout and pp * vp > 1 and layers % (pp * vp):
        yield f"{layers} layers cannot be divided by pp x vp = {pp} x {vp}"


def _stages(s: Shape) -> tuple[int, int]:
    """Return PP and VP: as they are stated, else the recipe's own."""
    if s.built is None:
        return s.pp, s.vp or 1
    return s.args.pp or s.built.pp, (s.vp if s.args.is_stated("vp") else s.built.vp) or 1  # type: ignore[return-value]


def _has_data_parallel(s: Shape) -> Iterator[str]:
    if s.dp == 0:
        yield f"num_gpus={s.args.num_gpus} is less than tp x pp x cp = {s.model_parallel}"


def _batch_divides(s: Shape) -> Iterator[str]:
    if not (s.args.mb and s.args.gb):
        return
    instances = (s.args.num_distributed_optimizer_instances or 1) if s.fsdp else 1
    divisor = int(s.args.mb) * s.dp * instances  # type: ignore[arg-type]
    if divisor == 0 or int(s.args.gb) % divisor:  # type: ignore[arg-type]
        more = f" x {instances} optimizer instances" if s.fsdp else ""
        yield f"gb={s.args.gb} cannot be divided by mb x dp{more} = {divisor}"


def _fsdp_without_graphs(s: Shape) -> Iterator[str]:
    if s.fsdp and s.graphs:
        yield "use_megatron_fsdp does not work with CUDA graphs"


def _fsdp_alone(s: Shape) -> Iterator[str]:
    if s.fsdp and not (s.pp == 1 and s.cp == 1 and s.vp in (None, 1)):
        yield f"use_megatron_fsdp needs pp, cp and vp of 1, and they are {s.pp}, {s.cp} and {s.vp}"


def _experts_divide(s: Shape) -> Iterator[str]:
    if s.args.et is None or s.args.ep is None:
        return
    product = int(s.args.et) * int(s.args.ep) * s.pp  # type: ignore[arg-type]
    if product == 0 or s.args.num_gpus % product:
        yield f"num_gpus={s.args.num_gpus} cannot be divided by et x ep x pp = {s.args.et} x {s.args.ep} x {s.pp}"


def _layout_has_stages(s: Shape) -> Iterator[str]:
    text = s.args.pipeline_model_parallel_layout
    pp, vp = _stages(s)
    if text:
        chunks = layout_chunks(text)
        if len(chunks) != pp * vp:
            yield f"pipeline_model_parallel_layout has {len(chunks)} stages, and pp x vp = {pp} x {vp} is {pp * vp}"
        layers = s.args.num_layers or (s.built.num_layers if s.built else None)
        decoders = sum(chunk.count("t") for chunk in chunks)
        if layers is not None and decoders != layers:
            yield f"pipeline_model_parallel_layout has {decoders} decoder layers, and the model has {layers}"
    elif s.built is not None and s.built.stages is not None and s.built.stages != pp * vp:
        yield f"the recipe's pipeline layout has {s.built.stages} stages, and pp x vp = {pp} x {vp} is {pp * vp}"


def layout_chunks(text: str) -> list[str]:
    """Return the stages of a pipeline layout, a letter for each layer: `Et*2|(t|)*2L` is `Ett`, `t`, `t`, `L`.

    The grammar is that of Megatron-Core (transformer/pipeline_parallel_layer_layout.py): commas only separate.
    """
    text = text.replace(",", "").replace(" ", "")
    text = re.sub(r"\(([^()]*)\)\*(\d+)", lambda found: found[1] * int(found[2]), text)
    text = re.sub(r"([A-Za-z])\*(\d+)", lambda found: found[1] * int(found[2]), text)
    return text.split("|")


def _instances_need_fsdp(s: Shape) -> Iterator[str]:
    instances = s.args.num_distributed_optimizer_instances
    if instances is not None and instances > 1 and not s.fsdp:
        yield f"num_distributed_optimizer_instances={instances} needs use_megatron_fsdp"


def _pipeline_without_offload(s: Shape) -> Iterator[str]:
    if s.pp > 1 and s.offloaded > 0:
        yield f"activation_offload_layers={s.offloaded} does not work with pp={s.pp}"


def _overlap_without_graphs(s: Shape) -> Iterator[str]:
    if s.graph_impl not in OFF and s.args.moe_a2a_overlap:
        yield f"moe_a2a_overlap does not work with cuda_graph_impl={s.graph_impl}"


def _graphs_without_offload(s: Shape) -> Iterator[str]:
    if s.graphs and s.offloaded > 0:
        yield f"CUDA graphs do not work with activation_offload_layers={s.offloaded}"


def _known_impl(s: Shape) -> Iterator[str]:
    if s.graph_impl not in (*OFF, "transformer_engine", "local"):
        yield f"cuda_graph_impl={s.graph_impl} is none of none, local, transformer_engine"


def _scopes_fit(s: Shape) -> Iterator[str]:
    if s.graph_impl == "local" and s.scopes and s.scopes != ["full_iteration"]:
        yield "cuda_graph_impl=local allows the scope full_iteration alone"
    if s.graph_impl == "transformer_engine" and (wrong := [one for one in s.scopes if one not in TE_SCOPES]):
        yield f"cuda_graph_impl=transformer_engine does not allow the scope {', '.join(wrong)}"


def _one_moe_scope(s: Shape) -> Iterator[str]:
    if {"moe", "moe_router"} <= set(s.scopes):
        yield "cuda_graph_scope has both moe and moe_router"


def _preprocess_needs_router(s: Shape) -> Iterator[str]:
    if "moe_preprocess" in s.scopes and "moe_router" not in s.scopes:
        yield "cuda_graph_scope has moe_preprocess without moe_router"


def _recompute_outside_graphs(s: Shape) -> Iterator[str]:
    recomputed, scopes = set(names(s.args.recompute_modules)), set(s.scopes)
    for scope in (one for one in RECOMPUTED if one in scopes):
        if both := sorted(RECOMPUTED[scope] & recomputed):
            yield f"CUDA graphs of {scope} do not work with recomputing {', '.join(both)}"
    if "layernorm" in recomputed and {"attn", "mlp"} <= scopes and scopes & {"moe", "moe_router"}:
        yield "CUDA graphs of attn, mlp and moe together do not work with recomputing layernorm"


def _deepseek_pipelines(s: Shape) -> Iterator[str]:
    recipe = s.args.model_recipe_name.lower()
    pair = (s.pp, s.vp if s.vp is not None else 1)
    if ("deepseek_v3" in recipe or "deepseekv3" in recipe) and pair not in DEEPSEEK_V3_PIPELINES:
        yield f"DeepSeek-V3 has no pipeline layout for pp={pair[0]} and vp={pair[1]}"


CHECKS: dict[int, Callable[[Shape], Iterator[str]]] = {
    1: _divides_the_world,
    2: _layers_divide,
    3: _has_data_parallel,
    4: _batch_divides,
    5: _fsdp_without_graphs,
    6: _fsdp_alone,
    7: _experts_divide,
    8: _layout_has_stages,
    9: _instances_need_fsdp,
    10: _pipeline_without_offload,
    11: _overlap_without_graphs,
    12: _graphs_without_offload,
    13: _known_impl,
    14: _scopes_fit,
    15: _one_moe_scope,
    16: _preprocess_needs_router,
    17: _recompute_outside_graphs,
    18: _deepseek_pipelines,
}
"""The checks by number. Each yields what is wrong."""
