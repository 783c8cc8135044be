"""A rank that fetches as the entrypoint does, with a recipe that reads one file of the hub, and trains nothing.

Without torch and transformers, whose import takes seconds: sixteen of these fit on two cores. What it then finds
offline goes to standard output as JSON; a UserError ends it as it ends the entrypoint, with one sentence and status 2.
"""

import json
import os
import sys
from types import SimpleNamespace
from typing import Any


def main() -> int:
    from launcher.job import fetch
    from launcher.job.errors import UserError
    from launcher.job.rank import read_rank

    rank = read_rank(os.environ)
    request = {"recipe": {"bridge": "one"}, "arguments": {}, "overrides": []}
    try:
        fetch.begin()
        config = fetch.make_configuration(_make, request, rank)
        fetch.fetch_all(config, rank)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from huggingface_hub import constants, hf_hub_download

    tokenizer = hf_hub_download("org/tiny", "tokenizer.json")
    json.dump(
        {
            "offline": constants.HF_HUB_OFFLINE,
            "hidden_size": config.hidden_size,
            "tokenizer": os.path.getsize(tokenizer),  # noqa: PTH202
            "weights": config.checkpoint.pretrained_checkpoint,
            "loaded": sorted({"torch", "transformers"} & sys.modules.keys()),
        },
        sys.stdout,
    )
    return 0


def _make() -> Any:
    from huggingface_hub import hf_hub_download

    with open(hf_hub_download("org/tiny", "config.json"), encoding="utf-8") as file:  # noqa: PTH123
        hidden_size = json.load(file)["hidden_size"]
    weights = os.environ.get("WEIGHTS")
    return SimpleNamespace(
        hidden_size=hidden_size,
        tokenizer=SimpleNamespace(tokenizer_type="HuggingFaceTokenizer", tokenizer_model="org/tiny"),
        checkpoint=SimpleNamespace(pretrained_checkpoint=weights),
        dataset=None,
    )


if __name__ == "__main__":
    sys.exit(main())
