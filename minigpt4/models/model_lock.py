"""The lock of a model: one thread at a time computes with it."""

from __future__ import annotations

import threading
from typing import Any


class ModelLock:
    """A lock that the same thread may take again. A copy of the model gets a new one."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return ModelLock, ()
