"""Gives torchrun the reason why a rank ends, and kills a torchrun that hangs.

With a c10d rendezvous, torchrun waits without a time-out for a store whose machine is lost. This file also runs as a
script, so it imports the standard library alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PATIENCE = 8.0
"""Seconds that torchrun has to notice that its rank has ended."""


def tell_reason(reason: str) -> None:
    """Have torchrun end with this reason; otherwise it says that it knows none."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        message = {"message": reason, "extraInfo": {"timestamp": str(int(time.time()))}}
        Path(file).write_text(json.dumps({"message": message}), encoding="utf-8")


def end_if_it_hangs() -> None:
    """Start a process that watches the torchrun which started this one; without torchrun nothing happens."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        command = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(os.getppid())]
        subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)


def watch(rank: int, agent: int, *, patience: float = PATIENCE) -> bool:
    """Kill `agent`, the parent of the process `rank`, when it does not notice that `rank` has ended.

    Return whether it was killed.
    """
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if _state(rank) is None:
            return False
        time.sleep(0.2)
    if _state(rank) != ("Z", agent):
        return False
    print(f"torchrun (process {agent}) hangs, as the store of the job is lost: it is killed", file=sys.stderr)
    os.kill(agent, signal.SIGKILL)
    return True


def _state(pid: int) -> tuple[str, int] | None:
    """Return the state of a process (Z: it ended, its parent did not notice) and its parent, None when it is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return words[0], int(words[1])


if __name__ == "__main__":
    watch(int(sys.argv[1]), int(sys.argv[2]))
