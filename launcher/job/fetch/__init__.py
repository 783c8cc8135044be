"""Downloads from Hugging Face's hub: once for all ranks that share a cache, and afterwards no rank asks the hub.

At 1000 ranks the hub answers with HTTP 429, and compute nodes often have no network. So every rank is offline from its
start (offline.py). Where the cache lacks something, the ranks that share it agree in the cache's own directory
(shared_download.py): one goes online, fetches it and records how that ended; the others wait for that record. Where the
cache lacks nothing, no rank waits and nothing is written. Where the user's environment sets HF_HUB_OFFLINE, to 0 or 1,
the launcher leaves the hub to the user.
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

from ...contract.hub import is_offline
from ..config import notes
from ..rank import Rank
from . import explain, needs, offline
from .offline import begin as begin
from .shared_download import HubError as HubError
from .shared_download import Resource, SharedDownload


def make_configuration(make: Callable[[], Any], request: Mapping[str, Any], rank: Rank) -> Any:
    """Return the configuration that `make` builds from the cache, after one rank has fetched what it lacks.

    `make` runs the recipe: only then is known what it asks of the hub. Raises UserError.
    """
    if not _is_ours():
        return _explained(make)
    found = _from_cache(make)
    if found is not None:
        return found
    text = json.dumps([request["recipe"], request["arguments"], request["overrides"], _source(request, rank)])
    resource = Resource(hashlib.sha256(text.encode()).hexdigest()[:20], "what the recipe reads from the hub")
    return _download(needs.hub_cache(), resource, rank).run_once(
        lambda: _from_cache(make), lambda: _online(lambda: _explained(make), resource.name)
    )


def fetch_all(config: Any, rank: Rank, init: Optional[str] = None) -> None:
    """Fetch all that training will read of the hub, and set the directory of named weights. Raises HubError.

    `init` is the user's --init (model/weights.py).
    """
    ours = _is_ours()
    for need in needs.of_config(config, init):
        if ours:
            fetch_need(need, rank)
        elif need.kind == "weights" and needs.is_cached(need) is None:
            if is_offline(os.environ):
                raise HubError(f"{need.title} are not cached, and HF_HUB_OFFLINE is set", hint=explain.BEFORE)
            needs.download(need)
        if need.section is not None:  # Bridge reads weights from a directory only
            need.section.pretrained_checkpoint = str(needs.snapshot(need.name, need.revision))
    other = needs.unsupported_field(config)
    if ours and other is not None:
        notes.add(
            f"{other}: not fetched beforehand, so each rank asks the hub for it (`launcher help hugging-face-hub`)"
        )
        offline.set_offline(False)


def fetch_need(need: needs.Need, rank: Rank) -> None:
    """Fetch one need into the cache, if the cache lacks it. Raises HubError."""
    if needs.is_cached(need) is None:
        download = _download(needs.directory(need), needs.resource(need), rank)
        download.run_once(lambda: needs.is_cached(need), lambda: _online(lambda: needs.download(need), need.title))


def _download(directory: Path, resource: Resource, rank: Rank) -> SharedDownload:
    # Below `.locks`, which huggingface_hub skips when it lists a cache.
    home = directory / ".locks" / "megatron-launcher"
    process = f"rank {rank.rank} on {socket.gethostname()}"
    report = _say if rank.rank == 0 else _nothing
    return SharedDownload(home, resource, str(rank.paths.path), process, report)


def _online(work: Callable[[], Any], name: str) -> Any:
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    # It logs every request at INFO, with the signed addresses that the hub redirects to.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    _say(f"fetching {name} from {explain.endpoint()} into {needs.hub_cache()}, once for all ranks that share it")
    started = time.monotonic()
    with offline.allow_requests():
        done = work()
    _say(f"fetched {name} in {time.monotonic() - started:.0f} s")
    return done


def _from_cache(make: Callable[[], Any]) -> Any:
    """Return the configuration, or None where the cache lacks something. Raises what is wrong with the recipe."""
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
        explained = explain.recipe_error(error)
        if explained is None:
            raise
        raise explained from error


def _source(request: Mapping[str, Any], rank: Rank) -> str:
    path = rank.run_paths.code / request["recipe"].get("path", "")
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _is_ours() -> bool:
    return offline.MARKER in os.environ


def _say(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


def _nothing(_text: str) -> None:
    pass
