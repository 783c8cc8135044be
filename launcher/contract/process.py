"""What /proc says of a process: for both halves, which tell a process from a later one with the same number."""

from pathlib import Path
from typing import Optional


def stat(pid: int) -> Optional[list[str]]:
    """The fields of /proc/PID/stat from the third (state) on, see proc(5); None if there is no such process."""
    try:
        # The second field is the program's name in parentheses, which may hold anything.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def start_ticks(fields: list[str]) -> int:
    """When a process was started, in clock ticks since boot (field 22)."""
    return int(fields[19])
