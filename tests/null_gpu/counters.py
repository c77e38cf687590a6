"""What the null GPU counts, as a driver process sees it: launches, and waits by the function that caused them."""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
from collections import Counter

BACKWARD = "backward"

_library = ctypes.CDLL(os.environ["LD_PRELOAD"])
_waits: Counter[str] = Counter()


def launches() -> int:
    """Return how many kernels and matrix products were launched so far."""
    return _library.null_launches()


def waits() -> Counter[str]:
    """Return how often each function of ours waited so far, as "runners.train_step.check: cudaEventSynchronize"."""
    return Counter(_waits)


def function() -> str:
    """Return the innermost function of minigpt4 that is under way, or the innermost of all where none is."""
    frame = sys._getframe(2)
    innermost = None
    while frame is not None:
        module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        if not name.startswith("<"):  # a comprehension belongs to the function around it
            if module.startswith("minigpt4."):
                return f"{module.removeprefix('minigpt4.')}.{name}"
            innermost = innermost or f"{module}.{name}"
        frame = frame.f_back
    return innermost or BACKWARD  # autograd's thread has no frame


@ctypes.CFUNCTYPE(None, ctypes.c_char_p)
def _on_wait(call: bytes) -> None:
    _waits[f"{function()}: {call.decode()}"] += 1


_library.null_on_wait(_on_wait)
atexit.register(_library.null_on_wait, None)
