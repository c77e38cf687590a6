"""Stopping on a signal: clusters send SIGTERM or SIGUSR1 before they take a machine away, a user presses Ctrl-C."""

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
"""The exit code of a run that saved and stopped on a signal, sysexits' "try again": resume it with
`run.resume_ckpt_path=auto`."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""What asks a run to stop; a second Ctrl-C (SIGINT) ends it at once."""
GRACE_SECONDS = 50
"""Seconds that a data worker survives SIGTERM, so that the step can finish and save."""


class StopRequest:
    """Notices a signal on any rank; the ranks agree on the update after which all of them stop.

    The agreement is one number an update over gloo, sent while the update computes, so that no device waits for it.
    """

    def __init__(self) -> None:
        self._noticed = False
        self._group: Any = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT) if is_distributed() else None
        self._sent: tuple[torch.Tensor, Any] | None = None
        # only the main thread may set handlers; a run in another thread is stopped by none
        signals = SIGNALS if threading.current_thread() is threading.main_thread() else ()
        self._before = {number: signal.signal(number, self._notice) for number in signals}

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self._noticed = True
        if number == signal.SIGINT:
            signal.signal(number, self._before[signal.SIGINT])
        logger.warning("got %s: finishing the step, saving, stopping", signal.Signals(number).name)

    def ask(self) -> None:
        """Tell the other ranks whether this one was asked to stop; every rank calls this before each update."""
        if self._group is not None:
            flag = torch.tensor([int(self._noticed)])
            self._sent = flag, dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group, async_op=True)

    def agreed(self) -> bool:
        """Return whether any rank was asked to stop when the ranks last told each other: the same on all of them."""
        if self._sent is None:
            return self._noticed and self._group is None
        flag, work = self._sent
        work.wait()
        return bool(flag.item())

    def close(self) -> None:
        """Give the signals back to who had them, and leave the group; all ranks have agreed for the last time."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._group is not None and is_distributed():
            dist.destroy_process_group(self._group)


def outlast_signals(worker_id: int) -> None:
    """Let a data worker outlast the signals that stop a run: they go to the whole process group.

    torchrun, a cluster and a terminal send them so; a worker that died of one would take the run with it, unsaved.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE_SECONDS))  # whose own signal ends it
