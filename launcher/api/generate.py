"""Continuing a prompt with what a run has learned, by Megatron and by transformers side by side."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from launcher._util.user_paths import user_path
from launcher.api.convert import source_directory
from launcher.api.locate import find_cluster
from launcher.api.progress import Progress
from launcher.api.task_job import perform_program
from launcher.backends.stack_program import StackProgram
from launcher.contract.text_generation import GenerationRequest


def generate(request: GenerationRequest, progress: Progress, *, python: str | None = None) -> dict[str, Any]:
    """Continue the prompts greedily on both sides; `ok` says whether they agree.

    The request's paths are relative to the current directory, and its source may be the name of a run. `python` is the
    interpreter with the training stack, None for the profile's or this one. Raises RequestError for what cannot be
    continued, CommandError where the program failed.
    """
    cluster, host = find_cluster()
    here = host.directory
    architecture = request.architecture
    if architecture and user_path(architecture, here).exists():
        architecture = str(user_path(architecture, here))
    source = source_directory(request.source, here)
    request = replace(
        request,
        source=str(source),
        architecture=architecture,
        tokenizer=str(user_path(request.tokenizer, here)) if request.tokenizer else None,
    )
    return perform_program(
        StackProgram("--generate", request.to_json(), "the generation"),
        python=python,
        job=None,
        cluster=cluster,
        name="generate",
        tasks=Path(source).parent,
        progress=progress,
    )
