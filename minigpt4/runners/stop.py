"""Stopping on a signal: clusters send SIGTERM or SIGUSR1 before they take a machine back; a user presses Ctrl-C."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from minigpt4.common.dist_utils import COLLECTIVE_TIMEOUT, is_distributed

logger = logging.getLogger(__name__)

EXIT_CODE = 75
"""The exit code of a run that a signal stopped after it saved; `run.resume_ckpt_path=auto` resumes it."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""Signals that stop a run; a second Ctrl-C (SIGINT) ends it at once."""
GRACE_SECONDS = 50
"""Seconds that a data worker lives on after SIGTERM, so that the step can finish and save."""


class StopRequest:
    """Catches a signal on any rank; the ranks agree on the update after which all of them stop.

    They exchange one number an update over gloo, while the update computes, so that no device waits for it.
    """

    def __init__(self) -> None:
        self._noticed = False
        self._group: Any = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT) if is_distributed() else None
        self._sent: tuple[torch.Tensor, Any] | None = None
        # only the main thread may set handlers; no signal stops a run in another thread
        signals = SIGNALS if threading.current_thread() is threading.main_thread() else ()
        self._before = {number: signal.signal(number, self._notice) for number in signals}

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self._noticed = True
        if number == signal.SIGINT:
            signal.signal(number, self._before[signal.SIGINT])
        logger.warning("got %s: finishing the step, saving, stopping", signal.Signals(number).name)

    def ask(self) -> None:
        """Send to the other ranks whether this one got a signal; every rank calls this before each update."""
        if self._group is not None:
            flag = torch.tensor([int(self._noticed)])
            self._sent = flag, dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group, async_op=True)

    def agreed(self) -> bool:
        """Return whether any rank had got a signal at the last `ask`, the same on all ranks."""
        if self._sent is None:
            return self._noticed and self._group is None
        flag, work = self._sent
        work.wait()
        return bool(flag.item())

    def close(self) -> None:
        """Restore the handlers of the signals and leave the group, after the last `agreed` of all ranks."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._group is not None and is_distributed():
            dist.destroy_process_group(self._group)


def ignore_stop_signals(worker_id: int) -> None:
    """Keep a data worker alive after a signal that stops the run, which then still saves.

    torchrun, a cluster and a terminal send the signal to the whole process group.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE_SECONDS))  # SIGALRM ends the worker
