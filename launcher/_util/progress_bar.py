"""The progress bar of commands that people watch."""

from typing import Any, TextIO


def progress_bar(stream: TextIO, *, counted: bool = False) -> Any:
    """Return a rich Progress on a terminal, whose tasks have a field `numbers`.

    Time is shown, or with `counted` how many of how many are done. It is not transient: the last numbers stay.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    numbers = TextColumn("{task.fields[numbers]}", markup=False)
    columns = (
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description}", markup=False),
        *((MofNCompleteColumn(),) if counted else ()),
        BarColumn(bar_width=30),
        numbers,
        *(() if counted else (TimeElapsedColumn(),)),
    )
    return Progress(*columns, console=Console(file=stream), refresh_per_second=4)
