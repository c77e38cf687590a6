"""LoRA as peft lays it out: computed without the copies that peft makes, and merged while a model answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

ADAPTER = "default"


@dataclass(frozen=True, slots=True)
class Adapter:
    """The low-rank part of one layer: scaling B A dropout(x).

    first, second: A (rank, in) and B (out, rank) as they are trained; first_16, second_16: the same in the type of x.
    """

    first: Tensor
    second: Tensor
    first_16: Tensor
    second_16: Tensor
    scaling: float
    dropout: Callable[[Tensor], Tensor]

    def lower(self, inputs: Tensor) -> Tensor:
        """Return scaling A x of inputs (T, in), (T, rank)."""
        return _scaled_product(inputs, self.first_16.T, self.scaling)

    def gradients(self, grad: Tensor, inputs: Tensor, low: Tensor) -> list[Tensor]:
        """Return the gradients of the inputs, of A and of B for that of the output (T, out)."""
        to_low = _scaled_product(grad, self.second_16, self.scaling)
        to_first = _product_in(self.first.dtype, to_low.T, inputs)
        return [to_low @ self.first_16, to_first, _product_in(self.second.dtype, grad.T, low)]


class _AddLowRank(torch.autograd.Function):
    """Adds the low-rank part to a frozen layer's output, in place."""

    @staticmethod
    def forward(ctx: Any, result: Tensor, inputs: Tensor, first: Tensor, second: Tensor, adapter: Adapter) -> Tensor:
        """Return the result (T, out), to which the low-rank part of inputs (T, in) was added."""
        low = adapter.lower(inputs)
        ctx.mark_dirty(result)
        ctx.adapter = adapter
        ctx.save_for_backward(inputs, low)
        return result.addmm_(low, adapter.second_16.T)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """Return the gradients of the result, the inputs and the weights."""
        return grads[0], *ctx.adapter.gradients(grads[0], *ctx.saved_tensors), None


class FusedLoraLinear(Linear):
    """A linear layer with LoRA whose sum goes into the frozen layer's own output.

    peft widens the input to float32, and makes the low-rank part, its scaled copy and their sum one after the other;
    here the input stays in its type and one multiplication adds to the frozen output. Weights, names and random draws
    are peft's.
    """

    def is_active(self) -> bool:
        """Return whether the low-rank part is computed apart from the frozen one."""
        return not (self.disable_adapters or self.merged)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return frozen(x) + scaling B A dropout(x), x (.., in) -> (.., out) in the frozen layer's type."""
        if not self.is_active() or kwargs:
            return super().forward(x, *args, **kwargs)
        rows = x.flatten(0, -2)
        result: Tensor = self.base_layer(rows)
        adapter = adapter_of(self, result.dtype)
        inputs = adapter.dropout(rows).to(result.dtype)
        # nothing has saved the frozen layer's output, so that it may be written to
        result = _AddLowRank.apply(result, inputs, adapter.first, adapter.second, adapter)
        return result.view(*x.shape[:-1], -1)


class LowPrecisionCopies:
    """16-bit copies of all LoRA weights of a model, made in few launches by each forward that enters this context.

    Outside of it no layer takes them: an update by a fused optimizer leaves no trace that would tell an old copy.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.dtype = dtype
        layers = [module for module in model.modules() if isinstance(module, FusedLoraLinear)]
        parts = [part[ADAPTER] for one in layers for part in (one.lora_A, one.lora_B)]
        self._weights = [cast(Tensor, part.weight) for part in parts]
        self._copies = [torch.empty_like(weight, dtype=dtype) for weight in self._weights]

    @property
    def device(self) -> torch.device | None:
        """Return where the copies are; None where there are none."""
        return self._copies[0].device if self._copies else None

    def __enter__(self) -> None:
        if self._weights:
            torch._foreach_copy_(self._copies, [weight.detach() for weight in self._weights])
        for weight, copy in zip(self._weights, self._copies, strict=True):
            setattr(weight, _COPY, copy)

    def __exit__(self, *_: object) -> None:
        for weight in self._weights:
            delattr(weight, _COPY)


_COPY = "low_precision_copy"


def adapter_of(layer: FusedLoraLinear, dtype: torch.dtype) -> Adapter:
    """Return the low-rank part of a layer for inputs of a type."""
    first, second = (cast(Tensor, part[ADAPTER].weight) for part in (layer.lora_A, layer.lora_B))
    first_16, second_16 = (_in_type(weight, dtype) for weight in (first, second))
    return Adapter(first, second, first_16, second_16, layer.scaling[ADAPTER], layer.lora_dropout[ADAPTER])


def _in_type(weight: Tensor, dtype: torch.dtype) -> Tensor:
    copy: Tensor | None = getattr(weight, _COPY, None)
    return copy if copy is not None and copy.dtype == dtype else weight.detach().to(dtype)


def _scaled_product(left: Tensor, right: Tensor, scale: float) -> Tensor:
    out = left.new_empty(left.shape[0], right.shape[1])
    return out.addmm_(left, right, beta=0, alpha=scale)


def _product_in(dtype: torch.dtype, left: Tensor, right: Tensor) -> Tensor:
    """Return a product of 16-bit matrices in the type that the sums are kept in."""
    if left.dtype == dtype:
        return left @ right
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=dtype)
    return (left @ right).to(dtype)


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
