"""LoRA merged into the weights for as long as a model answers, and taken out again bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from minigpt4.models.lora import ADAPTER


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Hold a model with LoRA merged into the weights that it adapts; exact copies of these come back after.

    LoRA over 8-bit, 4-bit or sharded weights stays as it is, and so does LoRA that is merged already.
    """
    kept: list[tuple[Any, Tensor]] = []
    try:
        for module in _mergeable(model):
            kept.append((module, module.base_layer.weight.detach().clone()))
            _add_lora(module)
        yield
    finally:
        with torch.no_grad():
            for module, weight in kept:
                module.base_layer.weight.copy_(weight)
                if module.merged:
                    module.merged_adapters.remove(ADAPTER)


def merge_for_good(model: nn.Module) -> None:
    """Merge LoRA into the weights that it adapts, of which no copy stays: the model can answer, not be trained."""
    for module in _mergeable(model):
        _add_lora(module)


def _mergeable(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if can_merge(module)]


def can_merge(module: Any) -> bool:
    """Return whether a module is a plain linear layer with LoRA that is not merged yet."""
    if not isinstance(module, Linear) or module.merged or module.disable_adapters:
        return False
    inner = module.base_layer
    return type(inner) is nn.Linear and not isinstance(inner.weight, DTensor) and not inner.weight.is_meta


@torch.no_grad()
def _add_lora(module: Any) -> None:
    weight = module.base_layer.weight
    first, second = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
    wide = weight.float() if weight.dtype != torch.float32 else weight
    wide.addmm_(second.float(), first.float(), alpha=module.scaling[ADAPTER])
    if wide is not weight:
        weight.copy_(wide)
    module.merged_adapters.append(ADAPTER)
