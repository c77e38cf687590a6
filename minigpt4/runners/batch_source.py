"""Takes batches from the data workers: times the wait, names skipped samples, and explains a worker's death."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable

from minigpt4.common.liveness import READING, TRAINING, pulse
from minigpt4.runners.loader import PackedBatch

logger = logging.getLogger(__name__)


class BatchSource:
    """Iterates over a loader of packed batches.

    `seconds_waited` grows with every wait; `num_bad` and `num_too_long` count the skipped samples of each dataset.
    """

    def __init__(self, loader: Iterable[list[PackedBatch]], *, max_bad_samples: int) -> None:
        self.max_bad_samples = max_bad_samples
        self.num_bad: Counter[str] = Counter()
        self.num_too_long: Counter[str] = Counter()
        self.seconds_waited = 0.0
        self._loader = iter(loader)

    def __iter__(self) -> BatchSource:
        return self

    def __next__(self) -> list[PackedBatch]:
        """Return what the loader yields next.

        Raises: ValueError when more samples are bad than `run.max_bad_samples` allows; RuntimeError when a worker died.
        """
        began = time.perf_counter()
        pulse.doing = READING
        try:
            packed_batches = next(self._loader)
        except (ConnectionError, EOFError) as error:  # what its broken pipe raises when PyTorch did not see it die
            _expect_no_signal_of_it()
            raise RuntimeError("a data worker died: it was killed, or the machine ran out of memory") from error
        except RuntimeError as error:
            if "DataLoader worker" in str(error):
                _expect_no_signal_of_it()
                raise RuntimeError(f"a data worker died: {error}") from error
            raise
        pulse.doing = TRAINING
        self.seconds_waited += time.perf_counter() - began
        self._count_skipped(packed_batches)
        return packed_batches

    def _count_skipped(self, packed_batches: list[PackedBatch]) -> None:
        all_skipped = [skipped for packed in packed_batches for skipped in packed.skipped]
        for skipped in all_skipped:
            counts = self.num_too_long if skipped.too_long else self.num_bad
            counts[skipped.dataset] += 1
            kind = "too long" if skipped.too_long else "bad"
            nth = counts[skipped.dataset]
            logger.warning("left out, %s (number %d of %s): %s", kind, nth, skipped.dataset, skipped.reason)
        if self.num_bad.total() > self.max_bad_samples:
            last = [skipped.reason for skipped in all_skipped if not skipped.too_long][-1]
            raise ValueError(
                f"{self.num_bad.total()} bad samples where run.max_bad_samples allows {self.max_bad_samples}; "
                f"the last: {last}"
            )


def _expect_no_signal_of_it() -> None:
    """Remove PyTorch's SIGCHLD handler: it would raise for the same worker again while a traceback is printed."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
