"""What a rank that ends owes torchrun: its reason, and an end where torchrun itself hangs.

With a c10d rendezvous torchrun waits, without a time-out, for a store whose machine is lost. This file also runs as a
script, so it imports nothing but the standard library.
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
"""Seconds in which torchrun takes note that its rank has ended."""


def tell_reason(reason: str) -> None:
    """Have torchrun end with this reason, where it would else say that it knows none."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        message = {"message": reason, "extraInfo": {"timestamp": str(int(time.time()))}}
        Path(file).write_text(json.dumps({"message": message}), encoding="utf-8")


def end_if_it_hangs() -> None:
    """Start the watch over the torchrun that started this process; without one nothing happens."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        command = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(os.getppid())]
        subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)


def watch(rank: int, agent: int, *, patience: float = PATIENCE) -> bool:
    """Kill `agent` when the process `rank` has ended and `agent`, its parent, does not take note; return whether."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if _state(rank) is None:
            return False  # the agent took note
        time.sleep(0.2)
    if _state(rank) != ("Z", agent):
        return False
    print(f"torchrun (process {agent}) hangs, as the store of the job is lost: it is killed", file=sys.stderr)
    os.kill(agent, signal.SIGKILL)
    return True


def _state(pid: int) -> tuple[str, int] | None:
    """Return the state of a process, Z when it has ended and nobody took note, and its parent; None when it is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return words[0], int(words[1])


if __name__ == "__main__":
    watch(int(sys.argv[1]), int(sys.argv[2]))
