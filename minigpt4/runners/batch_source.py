"""Takes batches from the data workers: measures the wait, counts skipped samples, explains a worker's death."""

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

    `seconds_waited` is the time spent waiting; `num_bad` and `num_too_long` count the skipped samples of each dataset.
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
        """Return the loader's next item.

        Raises: ValueError when more samples are bad than `run.max_bad_samples` allows; RuntimeError when a worker died.
        """
        began = time.perf_counter()
        pulse.doing = READING
        try:
            packed_batches = next(self._loader)
        except (ConnectionError, EOFError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            raise _worker_died(error) from error
        pulse.doing = TRAINING
        self.seconds_waited += time.perf_counter() - began
        self._count_skipped(packed_batches)
        return packed_batches

    def _count_skipped(self, packed_batches: list[PackedBatch]) -> None:
        all_skipped = [skipped for packed in packed_batches for skipped in packed.skipped]
        for skipped in all_skipped:
            counts, kind = (self.num_too_long, "too long") if skipped.too_long else (self.num_bad, "bad")
            counts[skipped.dataset] += 1
            nth = counts[skipped.dataset]
            logger.warning("left out, %s (number %d of %s): %s", kind, nth, skipped.dataset, skipped.reason)
        if self.num_bad.total() > self.max_bad_samples:
            last = [skipped.reason for skipped in all_skipped if not skipped.too_long][-1]
            raise ValueError(
                f"{self.num_bad.total()} bad samples where run.max_bad_samples allows {self.max_bad_samples}; "
                f"the last: {last}"
            )


def _worker_died(error: Exception) -> RuntimeError:
    """Return the error to raise; a broken pipe is a worker whose death PyTorch did not see.

    PyTorch's SIGCHLD handler is removed: it would raise for the same worker again while a traceback is printed.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    reason = error if isinstance(error, RuntimeError) else "it was killed, or the machine ran out of memory"
    return RuntimeError(f"a data worker died: {reason}")
