"""Tokenizer, data and checkpoints: are they where the run will look?"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from launcher.discovery.training_files import SavedModel
from launcher.planning.preflight.findings import ConfigView, Finding, refused

_OF_ONE_NODE = ("/tmp", "/var/tmp", "/dev/shm", "/scratch", "/local", "/raid", "/mnt/local")  # noqa: S108 (told, not used)
"""Directories that are a node's own by custom."""

_SHAPE = (
    *("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "kv_channels"),
    *("num_moe_experts", "moe_ffn_hidden_size"),
)
"""What a checkpoint and the model that loads it have in common; parallel sizes may differ."""

_RESHARDED = {
    "TP": "tensor_model_parallel_size",
    "PP": "pipeline_model_parallel_size",
    "EP": "expert_model_parallel_size",
}
"""Sizes that split the weights themselves: data and context parallelism do not."""


def checkpoint(view: ConfigView) -> Iterator[Finding]:
    """The checkpoint to load: of the same model, and not beyond the end of this run."""
    saved = view.files.loads
    if saved is None:
        return
    where = saved.directory
    for name in _SHAPE:
        here, there = view.number(f"model.{name}"), saved.values.get(f"model.{name}")
        if here is not None and there is not None and here != there:
            yield refused(
                f"the checkpoint {saved.directory} has model.{name}={there}, and this run's model has {here}",
                "load a checkpoint of the same model, or change the recipe",
                where=where,
            )
    iterations = view.number("train.train_iters")
    if iterations and saved.iteration >= iterations and _continues(view, saved):
        yield Finding(
            f"{saved.directory} is of iteration {saved.iteration}, and train.train_iters={iterations}: the run would "
            "end at once",
            f"set train.train_iters to more than {saved.iteration}, or checkpoint.finetune=true to begin at 0",
        )


def resharded(view: ConfigView) -> Iterator[Finding]:
    """A checkpoint that was saved with other parallel sizes.

    The model's weights can be loaded with any. The distributed optimizer's state, as it is saved by default
    (`dp_reshardable`), only with the same TP and PP (checkpointing.py of Bridge 0.6.2), and the same EP (its buckets
    are then others: megatron-core 0.19.2 ends with a KeyError of several pages). The number of ranks may differ.
    """
    saved = view.files.loads
    if saved is None or not _continues(view, saved):
        return
    changed = {}
    for short, name in _RESHARDED.items():
        here, there = view.size(name), saved.values.get(f"model.{name}")
        if here is not None and there is not None and here != there:
            changed[short] = (there, here)
    if not changed:
        if saved.own and view.values.get("checkpoint.load_optim") is False:
            # PlanInputs for one attempt in which the sizes changed, it would stay in the settings of all later ones.
            yield Finding(
                f"checkpoint.load_optim=false leaves out the optimizer's state of {saved.directory}",
                "with the sizes that it was saved with, checkpoint.load_optim=true goes on exactly where it was",
            )
        return
    was = " x ".join(f"{short} {there}" for short, (there, _) in changed.items())
    now = " x ".join(f"{short} {here}" for short, (_, here) in changed.items())
    if _keeps_optimizer(view, saved) and saved.values.get("checkpoint.dist_ckpt_optim_fully_reshardable") is False:
        yield refused(
            f"the checkpoint {saved.directory} was saved with {was}, and this run has {now}: the distributed "
            "optimizer's state was saved in a form that other sizes cannot load",
            f"use {was} again, or leave that state out with checkpoint.load_optim=false; what is saved with "
            "checkpoint.dist_ckpt_optim_fully_reshardable=true can be loaded with other sizes",
            where=saved.directory,
        )
    else:
        yield Finding(
            f"the checkpoint {saved.directory} was saved with {was}, and this run has {now}: random numbers (dropout) "
            "do not go on where they were"
        )


def _continues(view: ConfigView, saved: SavedModel) -> bool:
    """Whether iterations, optimizer and random numbers go on: `checkpoint.finetune` takes the weights alone.

    False where a recipe that was not run may say either.
    """
    return saved.own or view.values.get("checkpoint.finetune") is False


def _keeps_optimizer(view: ConfigView, saved: SavedModel) -> bool:
    """Whether a state of the distributed optimizer was saved and would be loaded."""
    distributed = saved.values.get("optimizer.use_distributed_optimizer")
    wanted = view.values.get("checkpoint.load_optim")
    return distributed is True and saved.values.get("checkpoint.save_optim") is not False and wanted is not False


def shared(view: ConfigView) -> Iterator[Finding]:
    """Checkpoints of several nodes on a file system that each has for itself."""
    path = view.values.get("checkpoint.save")
    if view.nodes < 2 or "checkpoint.save" not in view.overridden or not isinstance(path, str):
        return
    if any(PurePosixPath(path).is_relative_to(local) for local in _OF_ONE_NODE):
        yield Finding(
            f"checkpoint.save={path} looks like a directory of each node's own, and {view.nodes} nodes save into it",
            "a checkpoint needs all their shards in one place: use a shared file system",
        )


def files(view: ConfigView) -> Iterator[Finding]:
    """Tokenizer and data that cannot be seen from here, and hub names without a copy in the cache."""
    for key, path in view.files.missing:
        yield Finding(
            f"{key}: {path} is not there, seen from this machine",
            "if the nodes have it, all is well; else mind the path",
        )
    for key, name in view.files.uncached:
        if view.files.offline:
            yield Finding(
                f"{key}={name} is not in the Hugging Face cache here, and HF_HUB_OFFLINE forbids fetching it",
                "fetch it first: `launcher fetch` with the same arguments; or unset HF_HUB_OFFLINE",
            )
        else:
            yield Finding(
                f"{key}={name} is not in the Hugging Face cache here: one of the {view.world_size} ranks will fetch it",
                "fetch it first where the nodes have no network: `launcher fetch` with the same arguments",
            )


def tokens(view: ConfigView) -> Iterator[Finding]:
    """A tokenizer with more entries than the model's embedding has rows (Bridge's setup.py ends a job for it)."""
    rows, entries = view.number("model.padded_vocab_size"), view.number("tokenizer.vocab_size")
    if rows and entries and view.values.get("tokenizer.tokenizer_type") == "NullTokenizer" and entries > rows:
        yield refused(
            f"tokenizer.vocab_size={entries} is more than the {rows} rows of the model's embedding",
            f"set tokenizer.vocab_size={rows}, or a larger model.vocab_size",
        )


RULES = (checkpoint, resharded, shared, files, tokens)
"""In the order in which they are told."""
