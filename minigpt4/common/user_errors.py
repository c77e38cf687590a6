"""What a user's options and files can raise while a command starts: it ends with the message, without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError

USER_ERRORS = (ValueError, OSError, OmegaConfBaseException, SafetensorError, torch.OutOfMemoryError)
"""ValueError is our own word for it; the others come from libraries that read the user's files or take memory."""

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended, as shells have it."""


@contextmanager
def plain_errors(script: str) -> Iterator[None]:
    """End a script with the message alone where what the user gave is wrong, or where the user pressed Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt as error:
        print(f"\n{script}: interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from error
    except USER_ERRORS as error:
        text = str(error).strip() or type(error).__name__
        said = text if isinstance(error, ValueError) else text.splitlines()[0]  # advice of a library is left out
        raise SystemExit(f"{script}: {said}") from error
