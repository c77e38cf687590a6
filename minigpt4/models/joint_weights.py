"""Weights of linear layers that share an input, laid end to end in memory, so that one matrix product serves them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FrozenWeight(NamedTuple):
    """A weight (out, in) and a bias (out,) or None that are not trained."""

    weight: Tensor
    bias: Tensor | None

    def product(self, rows: Tensor) -> Tensor:
        """Return rows (T, in) times the weight, plus the bias: (T, out)."""
        return F.linear(rows, self.weight, self.bias)

    def input_gradient(self, grad: Tensor) -> Tensor:
        """Return the gradient of the rows (T, in) for that of the product (T, out)."""
        return grad @ self.weight


def join(linears: Sequence[nn.Linear]) -> FrozenWeight:
    """Return the weights of linear layers of one input as one (out, in), and their biases (out,) or None.

    Where they do not lie end to end in memory they are moved there; no second copy stays.
    """
    for parameters in _kinds(linears):
        if parameters and not _lie_end_to_end(parameters):
            joint = torch.cat([parameter.detach() for parameter in parameters])
            for parameter, rows in zip(parameters, joint.split([len(p) for p in parameters]), strict=True):
                parameter.data = rows
    found = joined(linears)
    assert found is not None
    return found


def plain_linears(modules: Sequence[Any]) -> list[nn.Linear] | None:
    """Return the linear layers, or those that LoRA wraps, where one product could take them; else None."""
    linears = [getattr(module, "base_layer", module) for module in modules]
    if not all(type(one) is nn.Linear for one in linears):
        return None
    return linears if len({linear.bias is None for linear in linears}) == 1 else None


def joined(linears: Sequence[nn.Linear]) -> FrozenWeight | None:
    """Return the same without moving anything: None where the weights do not lie end to end."""
    weights, biases = _kinds(linears)
    if not _lie_end_to_end(weights) or (biases and not _lie_end_to_end(biases)):
        return None
    return FrozenWeight(_as_one(weights), _as_one(biases) if biases else None)


def _kinds(linears: Sequence[nn.Linear]) -> tuple[list[Tensor], list[Tensor]]:
    return [one.weight for one in linears], [one.bias for one in linears if one.bias is not None]


def _as_one(parameters: Sequence[Tensor]) -> Tensor:
    first = parameters[0].detach()
    return first.as_strided((sum(map(len, parameters)), *first.shape[1:]), first.stride())


def _lie_end_to_end(parameters: Sequence[Tensor]) -> bool:
    if len({parameter.untyped_storage().data_ptr() for parameter in parameters}) > 1:
        return False
    if not all(parameter.is_contiguous() for parameter in parameters):
        return False
    ends = [parameter.data_ptr() + parameter.numel() * parameter.element_size() for parameter in parameters]
    return ends[:-1] == [parameter.data_ptr() for parameter in parameters[1:]]
