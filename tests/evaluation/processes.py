"""Watching and killing the processes of an evaluation."""

import os
import signal
from pathlib import Path


def num_lines(path: Path) -> int:
    """Return the lines of a file, 0 where it is not there."""
    return path.read_text().count("\n") if path.is_file() else 0


def kill_tree(number: int) -> None:
    """Kill a process and all that it started, at once."""
    for pid in [*descendants(number), number]:
        os.kill(pid, signal.SIGKILL)


def descendants(number: int) -> list[int]:
    """Return the processes that a process started, and those that they started."""
    children: list[int] = []
    for task in Path(f"/proc/{number}/task").iterdir():
        children += map(int, (task / "children").read_text().split())
    return [pid for child in children for pid in (child, *descendants(child))]
