"""Pipeline stages: which layers each holds, and how many micro-batches it has in flight.

Source: megatron-core 0.19.2, core/pipeline_parallel/schedules.py: 1F1B, and interleaved 1F1B with virtual stages
(Narayanan et al. 2021, arXiv 2104.04473).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launcher.planning.memory.dimensions import Dimensions


@dataclass(frozen=True)
class Stage:
    """A pipeline rank with the layers of each of its chunks, in order."""

    rank: int
    chunks: tuple[tuple[int, ...], ...]
    first: bool
    last: bool

    @property
    def layers(self) -> tuple[int, ...]:
        """Return all layers of the rank."""
        return tuple(index for chunk in self.chunks for index in chunk)


def stages(sizes: Dimensions, model: Mapping[str, Any]) -> tuple[Stage, ...]:
    """Return all pipeline ranks with their layers."""
    pp, vp = sizes.parallel.pp, sizes.parallel.vp
    layout = model.get("pipeline_layout")
    if layout:
        vp = len(layout[0])
        counts = [[chunk.count("decoder") for chunk in rank] for rank in layout]
    else:
        counts = [[each // vp] * vp for each in _even(sizes.layers, pp, model)]
    chunks: list[list[tuple[int, ...]]] = [[] for _ in range(pp)]
    following = 0
    for number in range(vp):
        for rank in range(pp):
            end = min(sizes.layers, following + counts[rank][number])
            chunks[rank].append(tuple(range(following, end)))
            following = end
    return tuple(Stage(rank, tuple(own), rank == 0, rank == pp - 1) for rank, own in enumerate(chunks))


def _even(layers: int, pp: int, model: Mapping[str, Any]) -> list[int]:
    """Return the number of layers of each rank, as get_num_layers_to_build of transformer_block.py counts them."""
    first, last = model.get("num_layers_in_first_pipeline_stage"), model.get("num_layers_in_last_pipeline_stage")
    if pp > 1 and (first or last):
        middle = pp - bool(first) - bool(last)
        rest = layers - (first or 0) - (last or 0)
        inner = [rest // middle] * middle if middle else []
        return [*([first] if first else []), *inner, *([last] if last else [])]
    embedding = bool(model.get("account_for_embedding_in_pipeline_split"))
    loss = bool(model.get("account_for_loss_in_pipeline_split"))
    each = (layers + embedding + loss) // pp
    counts = [each] * pp
    counts[0] -= embedding
    counts[-1] -= loss
    return counts


def chunks_in_flight(sizes: Dimensions, stage: Stage, model: Mapping[str, Any]) -> int:
    """Return how many chunks have activations in memory at the peak; without virtual stages a chunk is the stage."""
    pp, vp, behind = sizes.parallel.pp, len(stage.chunks), sizes.parallel.pp - stage.rank - 1
    if vp == 1:
        return min(behind + 1, sizes.microbatches)
    group = model.get("microbatch_group_size_per_vp_stage") or pp
    return min(2 * behind + (vp - 1) * max(group, pp) + 1, sizes.microbatches * vp)
