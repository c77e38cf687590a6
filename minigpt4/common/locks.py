"""Locks between processes: waiting is logged and has an end.

On NFS, Lustre and other file servers a lock may never be granted, or stay with a machine that is gone.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

FIRST_LINE = 5.0
"""Seconds after which a process logs that it waits for a lock."""
NEXT_LINE = 60.0
NO_SIGN = 30.0
"""Seconds without a sign of work by the holder of a lock, after which waiting ends."""
SIGN_SECONDS = 5.0


def locked(path: str, *, holder: str, sign: Callable[[], Any], limit: float) -> FileLock | None:
    """Return a lock that was acquired, or None when waiting for it ended.

    `holder` is for the log, as in "x: another process writes its index". `sign` changes while that process works.
    Waiting ends when `sign` has not changed for NO_SIGN seconds, and after `limit` seconds.
    Raises: OSError when the lock's folder cannot be written.
    """
    lock = FileLock(path)
    started = time.monotonic()
    seen, seen_at, line_at, said = sign(), started, started + FIRST_LINE, False
    while True:
        try:
            lock.acquire(timeout=1, poll_interval=0.1)
            return lock
        except Timeout:
            now = time.monotonic()
        except NotImplementedError as error:  # a file system without locks
            raise OSError(f"{path}: {error}") from error
        if (found := sign()) != seen:
            seen, seen_at = found, now
        if now >= line_at:
            waited = f", since {now - started:.0f} s" if said else ""
            logger.info("%s (%s); waiting%s", holder, Path(path).name, waited)
            line_at, said = now + NEXT_LINE, True
        if now - seen_at >= NO_SIGN or now - started >= limit:
            logger.info("%s (%s) for %.0f s; continuing without it", holder, Path(path).name, now - started)
            return None


@contextlib.contextmanager
def signs_of_work(path: str | Path) -> Iterator[None]:
    """Renew the time of a file inside the context, as a sign of work for processes that wait for a lock."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(SIGN_SECONDS):
            with contextlib.suppress(OSError):
                Path(path).touch()

    thread = threading.Thread(target=renew, name="signs of work", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
