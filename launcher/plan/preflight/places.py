"""Tokenizer, data and checkpoints: are they where the run will look?"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from launcher.plan.preflight.finding import Finding, Seen, refused

_OF_ONE_NODE = ("/tmp", "/var/tmp", "/dev/shm", "/scratch", "/local", "/raid", "/mnt/local")  # noqa: S108 (told, not used)
"""Directories that are a node's own by custom."""

_SHAPE = (
    *("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "kv_channels"),
    *("num_moe_experts", "moe_ffn_hidden_size"),
)
"""What a checkpoint and the model that loads it have in common; parallel sizes may differ."""


def checkpoint(seen: Seen) -> Iterator[Finding]:
    """The checkpoint to load: of the same model, and not beyond the end of this run."""
    saved = seen.files.loads
    if saved is None:
        return
    where = "checkpoint.load"
    for name in _SHAPE:
        here, there = seen.number(f"model.{name}"), saved.model.get(name)
        if here is not None and there is not None and here != there:
            yield refused(
                f"the checkpoint {saved.directory} has model.{name}={there}, and this run's model has {here}",
                "load a checkpoint of the same model, or change the recipe",
                where=where,
            )
    iterations = seen.number("train.train_iters")
    if iterations and saved.iteration >= iterations and seen.values.get("checkpoint.finetune") is False:
        yield Finding(
            f"{saved.directory} is of iteration {saved.iteration}, and train.train_iters={iterations}: the run would "
            "end at once",
            f"set train.train_iters to more than {saved.iteration}, or checkpoint.finetune=true to begin at 0",
        )


def shared(seen: Seen) -> Iterator[Finding]:
    """Checkpoints of several nodes on a file system that each has for itself."""
    path = seen.values.get("checkpoint.save")
    if seen.nodes < 2 or "checkpoint.save" not in seen.overridden or not isinstance(path, str):
        return
    if any(PurePosixPath(path).is_relative_to(local) for local in _OF_ONE_NODE):
        yield Finding(
            f"checkpoint.save={path} looks like a directory of each node's own, and {seen.nodes} nodes save into it",
            "a checkpoint needs all their shards in one place: use a shared file system",
        )


def files(seen: Seen) -> Iterator[Finding]:
    """Tokenizer and data that cannot be seen from here, and hub names without a copy in the cache."""
    for key, path in seen.files.missing:
        yield Finding(
            f"{key}: {path} is not there, seen from this machine",
            "if the nodes have it, all is well; else mind the path",
        )
    for key, name in seen.files.uncached:
        if seen.files.offline:
            yield Finding(
                f"{key}={name} is not in the Hugging Face cache here, and HF_HUB_OFFLINE forbids fetching it",
                "fetch it first, or unset HF_HUB_OFFLINE",
            )
        else:
            yield Finding(
                f"{key}={name} is not in the Hugging Face cache here: {seen.world} ranks will ask the hub for it",
                "fetch it once first where the nodes have no network, or share a cache by HF_HOME",
            )


def tokens(seen: Seen) -> Iterator[Finding]:
    """A tokenizer with more entries than the model's embedding has rows (Bridge's setup.py ends a job for it)."""
    rows, entries = seen.number("model.padded_vocab_size"), seen.number("tokenizer.vocab_size")
    if rows and entries and seen.values.get("tokenizer.tokenizer_type") == "NullTokenizer" and entries > rows:
        yield refused(
            f"tokenizer.vocab_size={entries} is more than the {rows} rows of the model's embedding",
            f"set tokenizer.vocab_size={rows}, or a larger model.vocab_size",
        )


RULES = (checkpoint, shared, files, tokens)
"""In the order in which they are told."""
