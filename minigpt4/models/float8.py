"""Frozen weights in 8 bits (float8 e4m3) for training: products on the tensor cores' 8-bit path, LoRA stays 16-bit.

Each row of the activations and each output of a weight has a scale, so that its largest value becomes LARGEST_FLOAT8.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from timm.models.eva import EvaAttention
from torch import Tensor, nn

from minigpt4.models.joint_weights import join
from minigpt4.models.kernels import FLOAT8, quantise_rows

logger = logging.getLogger(__name__)
STEP = 16
"""Both sizes of an 8-bit weight are multiples of this, or the tensor cores do not take it."""
FAST_SUMS = True
"""Whether tensor cores may sum in fewer bits than float32, which is faster: e4m3 has rounded far more before."""


@dataclass(frozen=True, slots=True)
class Float8Weight:
    """A frozen weight (out, in), quantised along its inputs for the output and along its outputs for the gradient.

    The gradient of the input gets e4m3 too: its rows have scales, so that they need precision and not the range of
    e5m2. `for_gradient` and `gradient_scales` are None where no gradient is asked for.
    """

    values: Tensor  # (out, in)
    scales: Tensor  # (1, out) float32
    bias: Tensor | None  # (out,), not quantised
    for_gradient: Tensor | None  # (in, out)
    gradient_scales: Tensor | None  # (1, in) float32

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, *, gradient: bool) -> Float8Weight:
        """Return the 8-bit form of a weight (out, in) of more bits."""
        values, scales = quantise_rows(weight.detach())
        columns, column_scales = quantise_rows(weight.detach().T.contiguous()) if gradient else (None, None)
        bias = None if bias is None else bias.detach()
        return cls(values, scales.T, bias, columns, None if column_scales is None else column_scales.T)

    def product(self, rows: Tensor) -> Tensor:
        """Return rows (T, in) times the weight, plus the bias: (T, out) in the type of the rows."""
        return _product(rows, self.values, self.scales, self.bias)

    def input_gradient(self, grad: Tensor) -> Tensor:
        """Return the gradient of the rows (T, in) for that of the product (T, out)."""
        assert self.for_gradient is not None and self.gradient_scales is not None
        return _product(grad, self.for_gradient, self.gradient_scales, None)


def _product(rows: Tensor, values: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    """Return rows (T, in), quantised, times 8-bit values (out, in) with scales (1, out).

    On a CPU the 8-bit numbers are widened and multiplied in float32.
    """
    quantised, row_scales = quantise_rows(rows)
    if rows.is_cuda:
        return torch._scaled_mm(
            quantised,
            values.T,
            scale_a=row_scales,
            scale_b=scales,
            bias=bias,
            out_dtype=rows.dtype,
            use_fast_accum=FAST_SUMS,
        )
    out = (quantised.float() * row_scales) @ (values.T.float() * scales)
    return (out if bias is None else out + bias).to(rows.dtype)


class _Float8Product(torch.autograd.Function):
    """A product with a frozen 8-bit weight, which keeps nothing of its input."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Float8Weight) -> Tensor:
        ctx.weight = weight
        return weight.product(rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None]:
        return ctx.weight.input_gradient(grads[0]) if ctx.needs_input_grad[0] else None, None


class Float8Linear(nn.Linear):
    """A frozen linear layer that computes in 8 bits, in place of one of more bits.

    `weight` is the parameter of that layer, and holds the 8-bit values without their scales from now on.
    """

    def __init__(self, linear: nn.Linear, *, gradient: bool) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.float8 = Float8Weight.of(linear.weight, linear.bias, gradient=gradient)
        self.weight, self.bias, self.training = linear.weight, linear.bias, linear.training
        self.weight.data = self.float8.values

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output (.., out) for (.., in)."""
        if input.ndim == 2:  # no view: LoRA adds to the result in place
            return cast(Tensor, _Float8Product.apply(input, self.float8))
        out: Tensor = _Float8Product.apply(input.flatten(0, -2), self.float8)
        return out.view(*input.shape[:-1], self.out_features)


def fits(weight: Tensor) -> bool:
    """Return whether the tensor cores take a weight of this size in 8 bits."""
    return all(size % STEP == 0 for size in weight.shape)


@torch.no_grad()
def quantise_joint(linears: Sequence[nn.Linear]) -> Float8Weight | None:
    """Quantise frozen linear layers of one input together; None where their sizes do not fit, and they stay.

    Their `weight` becomes the 8-bit values: the 16-bit ones leave memory.
    """
    joint, bias = join(linears)
    if not fits(joint):
        return None
    quantised = Float8Weight.of(joint, bias, gradient=True)
    for linear, values in zip(linears, quantised.values.split([one.out_features for one in linears]), strict=True):
        linear.weight.data = values
    return quantised


@torch.no_grad()
def quantise_linears(root: nn.Module, *, gradient: bool) -> None:
    """Replace the frozen linear layers inside a module, unless they have 8 bits already or their sizes do not fit."""
    left = 0
    for parent in list(root.modules()):
        for name, part in parent.named_children():
            if type(part) is not nn.Linear or part.weight.requires_grad or part.weight.dtype == FLOAT8:
                continue
            if fits(part.weight):
                setattr(parent, name, Float8Linear(part, gradient=gradient))
            else:
                left += 1
    if left:
        logger.warning("%d frozen weights keep their bits: a size is no multiple of %d", left, STEP)


@torch.no_grad()
def quantise_vit(blocks: nn.Module) -> None:
    """Quantise the frozen blocks of a vision transformer to 8 bits, without gradients."""
    for module in blocks.modules():
        if isinstance(module, EvaAttention):
            _move_bias(module)
    quantise_linears(blocks, gradient=False)


def _move_bias(attention: EvaAttention) -> None:
    """Give the joint layer of queries, keys and values its bias: timm calls it as a layer then, not its weight."""
    parts: list[Tensor] = [part for part in (attention.q_bias, attention.k_bias, attention.v_bias) if part is not None]
    if attention.qkv is None or len(parts) < 3:
        return
    attention.qkv.bias = nn.Parameter(torch.cat(parts), requires_grad=False)
    attention.register_parameter("q_bias", None)
    attention.register_buffer("k_bias", None)
    attention.register_parameter("v_bias", None)
