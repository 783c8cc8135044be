"""Rules about the files of a run: tokenizer, data and checkpoints."""

from collections.abc import Iterator
from pathlib import PurePosixPath

from launcher.discovery.training_files import SavedModel
from launcher.planning.preflight.findings import ConfigView, Finding, refused

_OF_ONE_NODE = ("/tmp", "/var/tmp", "/dev/shm", "/scratch", "/local", "/raid", "/mnt/local")  # noqa: S108 (named, not used)
"""Directories that are usually local to a node."""

_SHAPE = (
    *("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "kv_channels"),
    *("num_moe_experts", "moe_ffn_hidden_size"),
)
"""Sizes that must be equal in a checkpoint and the model that loads it."""

_RESHARDED = {
    "TP": "tensor_model_parallel_size",
    "PP": "pipeline_model_parallel_size",
    "EP": "expert_model_parallel_size",
}
"""Parallel sizes that split the weights; data and context parallelism do not."""


def checkpoint(view: ConfigView) -> Iterator[Finding]:
    """Check that the checkpoint to load has the sizes of this model and lies before the end of this run."""
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
            f"{saved.directory} is from iteration {saved.iteration}, and train.train_iters={iterations}: the run would "
            "end at once",
            f"set train.train_iters to more than {saved.iteration}, or checkpoint.finetune=true to start at 0",
        )


def resharded(view: ConfigView) -> Iterator[Finding]:
    """Check a checkpoint that was saved with other parallel sizes.

    The model's weights can be loaded with any sizes. The distributed optimizer's state in its default format
    (`dp_reshardable`) needs the same TP and PP (checkpointing.py of Bridge 0.6.2) and the same EP (with another EP its
    buckets differ, and megatron-core 0.19.2 ends with a KeyError). The number of ranks may differ.
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
            # A value that was set for one attempt with changed sizes stays in the settings of all later attempts.
            yield Finding(
                f"checkpoint.load_optim=false leaves out the optimizer's state of {saved.directory}",
                "the parallel sizes are those of the checkpoint, so checkpoint.load_optim=true resumes it exactly",
            )
        return
    was = " x ".join(f"{short} {there}" for short, (there, _) in changed.items())
    now = " x ".join(f"{short} {here}" for short, (_, here) in changed.items())
    if _keeps_optimizer(view, saved) and saved.values.get("checkpoint.dist_ckpt_optim_fully_reshardable") is False:
        yield refused(
            f"the checkpoint {saved.directory} was saved with {was}, and this run has {now}: the distributed "
            "optimizer's state is in a format that cannot be loaded with other sizes",
            f"use {was} again, or leave that state out with checkpoint.load_optim=false; checkpoints saved with "
            "checkpoint.dist_ckpt_optim_fully_reshardable=true can be loaded with other sizes",
            where=saved.directory,
        )
    else:
        yield Finding(
            f"the checkpoint {saved.directory} was saved with {was}, and this run has {now}: random numbers (dropout) "
            "differ from those of an uninterrupted run"
        )


def _continues(view: ConfigView, saved: SavedModel) -> bool:
    """Return whether the run continues iterations, optimizer and random numbers; with finetune it loads only weights.

    False if checkpoint.finetune is unknown because the recipe was not run.
    """
    return saved.own or view.values.get("checkpoint.finetune") is False


def _keeps_optimizer(view: ConfigView, saved: SavedModel) -> bool:
    """Return whether the checkpoint has a state of the distributed optimizer that would be loaded."""
    distributed = saved.values.get("optimizer.use_distributed_optimizer")
    wanted = view.values.get("checkpoint.load_optim")
    return distributed is True and saved.values.get("checkpoint.save_optim") is not False and wanted is not False


def permission(view: ConfigView) -> Iterator[Finding]:
    """Refuse a new run that would begin from a checkpoint without --allow-checkpoint-load: its ranks refuse it."""
    named = view.files.forbidden
    if named is not None:
        yield refused(
            f"checkpoint.load={named} holds a checkpoint, or may hold one, and a new run loads a checkpoint only when "
            "you allow it",
            "allow it with --allow-checkpoint-load, or continue the run that wrote it with --resume RUN",
            where="checkpoint.load",
        )


def shared(view: ConfigView) -> Iterator[Finding]:
    """Warn if several nodes save a checkpoint into a directory that is local to each node."""
    path = view.values.get("checkpoint.save")
    if view.nodes < 2 or "checkpoint.save" not in view.overridden or not isinstance(path, str):
        return
    if any(PurePosixPath(path).is_relative_to(local) for local in _OF_ONE_NODE):
        yield Finding(
            f"checkpoint.save={path} looks like a directory local to each node, and {view.nodes} nodes save into it",
            "a checkpoint needs all shards in one place: use a shared file system",
        )


def files(view: ConfigView) -> Iterator[Finding]:
    """Warn of tokenizer and data files that do not exist here, and of hub names that the cache does not hold."""
    for key, path in view.files.missing:
        if view.local:
            yield refused(f"{key}: {path} does not exist, and the ranks run on this machine", "correct the path")
            continue
        yield Finding(
            f"{key}: {path} does not exist on this machine",
            "ignore this if the nodes have it; otherwise correct the path",
        )
    for key, name in view.files.uncached:
        if view.files.offline:
            yield Finding(
                f"{key}={name} is not in the Hugging Face cache here, and HF_HUB_OFFLINE forbids fetching it",
                "fetch it first with `launcher fetch` and the same arguments, or unset HF_HUB_OFFLINE",
            )
        else:
            yield Finding(
                f"{key}={name} is not in the Hugging Face cache here: one of the {view.world_size} ranks will fetch it",
                "if the nodes have no network, fetch it first with `launcher fetch` and the same arguments",
            )


def tokens(view: ConfigView) -> Iterator[Finding]:
    """Refuse a tokenizer with more entries than the embedding has rows, as Bridge's setup.py does in the job."""
    rows, entries = view.number("model.padded_vocab_size"), view.number("tokenizer.vocab_size")
    if rows and entries and view.values.get("tokenizer.tokenizer_type") == "NullTokenizer" and entries > rows:
        yield refused(
            f"tokenizer.vocab_size={entries} is more than the {rows} rows of the model's embedding",
            f"set tokenizer.vocab_size={rows}, or a larger model.vocab_size",
        )


RULES = (permission, checkpoint, resharded, shared, files, tokens)
"""In the order of their findings."""
