"""In which type a part computes: without autocast where its weights have 16 bits."""

from __future__ import annotations

import contextlib
from typing import Any

import torch


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return a context without autocast."""
    return contextlib.nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def language_autocast(causal_lm: Any, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context of a causal language model: without autocast where all its weights have 16 bits."""
    dtype = causal_lm.get_output_embeddings().weight.dtype
    if dtype == torch.float32 or getattr(causal_lm, "is_quantized", False):
        return contextlib.nullcontext()
    return without_autocast(device)
