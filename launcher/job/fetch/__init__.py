"""What a run reads of Hugging Face's hub is fetched once for all ranks that share a cache; then none asks the hub.

At 1000 ranks the hub answers with HTTP 429, and compute nodes often have no network. So every rank is offline from its
start (offline.py). Where something is missing in the cache, the ranks that share it take turns in its own directory
(turn.py): the first goes online, fetches it and leaves word of how that went, the others wait for that. Where nothing
is missing, nobody waits and nothing is written. Where the user's environment decides (HF_HUB_OFFLINE, whether 0 or 1),
nothing of this happens.
"""

import hashlib
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Optional

from ..config import notes
from ..rank import Rank
from . import explain, needs, offline
from .offline import begin as begin
from .shared_download import HubError as HubError
from .shared_download import Thing, Turn


def configuration(make: Callable[[], Any], request: Mapping[str, Any], rank: Rank) -> Any:
    """The configuration that `make` builds from the cache; where that lacks something, after one rank was online.

    `make` runs the recipe: what it will ask of the hub is known only when it does. Raises UserError.
    """
    if not _is_ours():
        return _explained(make)
    found = _from_cache(make)
    if found is not None:
        return found
    text = json.dumps([request["recipe"], request["arguments"], request["overrides"], _source(request, rank)])
    thing = Thing(hashlib.sha256(text.encode()).hexdigest()[:20], "what the recipe reads of the hub")
    return _turn(needs.hub_cache(), thing, rank).take(
        lambda: _from_cache(make), lambda: _online(lambda: _explained(make), thing.name)
    )


def everything(config: Any, rank: Rank, init: Optional[str] = None) -> None:
    """Have in the cache all that training will read of the hub; sets where named weights are found. Raises HubError.

    `init` is the user's --init (weights.py).
    """
    ours = _is_ours()
    for need in needs.of_config(config, init):
        if ours:
            one(need, rank)
        elif need.kind == "weights" and needs.look(need) is None:
            if offline.is_on():
                raise HubError(f"{need.title} are not in the cache, and HF_HUB_OFFLINE is set", hint=explain.BEFORE)
            needs.download(need)
        if need.section is not None:  # Bridge takes weights from a directory only
            need.section.pretrained_checkpoint = str(needs.snapshot(need.name, need.revision))
    other = needs.unknown(config)
    if ours and other is not None:
        notes.add(f"{other}: each rank asks the hub for it itself (see docs/recipes.md)")
        offline.switch(False)


def one(need: needs.Need, rank: Rank) -> None:
    """Have one thing in the cache. Raises HubError."""
    if needs.look(need) is None:
        turn = _turn(needs.directory(need), needs.thing(need), rank)
        turn.take(lambda: needs.look(need), lambda: _online(lambda: needs.download(need), need.title))


def _turn(directory: Path, thing: Thing, rank: Rank) -> Turn:
    # Below `.locks`, which huggingface_hub passes over when it lists a cache.
    home = directory / ".locks" / "megatron-launcher"
    who = f"rank {rank.rank} on {socket.gethostname()}"
    say = _say if rank.rank == 0 else _nothing
    return Turn(home, thing, f"{rank.run_dir}/attempts/{rank.attempt}", who, say)


def _online(work: Callable[[], Any], name: str) -> Any:
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    # It tells every request at INFO, with the signed addresses that the hub sends one to.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    _say(f"fetching {name} from {explain.endpoint()} into {needs.hub_cache()}, once for all ranks that share it")
    started = time.monotonic()
    with offline.lifted():
        done = work()
    _say(f"fetched {name} in {time.monotonic() - started:.0f} s")
    return done


def _from_cache(make: Callable[[], Any]) -> Any:
    """The configuration, or None where the cache lacks something. Raises what is wrong with the recipe."""
    try:
        return make()
    except Exception as error:
        if explain.is_miss(error):
            return None
        raise


def _explained(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:
        told = explain.of_recipe(error)
        if told is None:
            raise
        raise told from error


def _source(request: Mapping[str, Any], rank: Rank) -> str:
    path = rank.code_dir / request["recipe"].get("path", "")
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _is_ours() -> bool:
    return offline.MARKER in os.environ


def _say(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


def _nothing(_text: str) -> None:
    pass
