"""Turns of threads: one of them uses a model at a time."""

from __future__ import annotations

import threading
from typing import Any


class Turns:
    """A lock that the same thread may take again; a copy of its owner gets another one."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return Turns, ()
