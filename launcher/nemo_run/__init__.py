"""NeMo-Run both ways: its experiments run through the launcher's plan, or become job files.

executor    LauncherExecutor, and the scheduler by which NeMo-Run calls it
task        from run.Script and run.Partial to the keys of a job file
experiment  `launcher import-nemo-run`: from a file that makes an experiment to job files
"""

try:
    import nemo_run as _nemo_run  # noqa: F401
except ImportError as error:
    raise ImportError(
        "launcher.nemo_run needs NeMo-Run, which this Python does not have or cannot import: install the launcher with "
        f"its extra `nemo-run` (launcher help nemo-run); the import ended with: {error}"
    ) from error

from launcher.nemo_run.executor import LauncherExecutor

__all__ = ["LauncherExecutor"]
