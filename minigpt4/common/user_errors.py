"""Ends a command with a message and no traceback when the user's options or files are wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError

USER_ERRORS = (ValueError, FloatingPointError, OSError, OmegaConfBaseException, SafetensorError, torch.OutOfMemoryError)
"""We raise ValueError, and FloatingPointError for a loss; libraries that read files or take memory raise the others."""

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended, as in shells."""


@contextmanager
def plain_errors(script: str) -> Iterator[None]:
    """End a script with the message alone after a mistake of the user or Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt as error:
        print(f"\n{script}: interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from error
    except USER_ERRORS as error:
        text = str(error).strip() or type(error).__name__
        said = text if isinstance(error, ValueError) else text.splitlines()[0]  # advice of a library is left out
        raise SystemExit(f"{script}: {said}") from error
