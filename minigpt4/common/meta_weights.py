"""Random weights for a model that was built on the meta device, where it takes no memory."""

from __future__ import annotations

import torch
from torch import nn


def init_from_meta(module: nn.Module, device: torch.device) -> None:
    """Initialise a module's meta tensors on a device; others stay.

    Matrices come from N(0, 0.02^2), norms are one; biases, buffers and LoRA's second factor are zero.
    """
    for path, part in module.named_modules():
        own = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        if not any(value.is_meta for value in own):
            continue
        part.to_empty(device=device, recurse=False)
        for name, parameter in part.named_parameters(recurse=False):
            if "lora_B" in path or "bias" in name:
                nn.init.zeros_(parameter)
            elif parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
            else:
                nn.init.ones_(parameter)
        for buffer in part.buffers(recurse=False):
            buffer.zero_()
