"""Triton kernels for what PyTorch takes several launches for: rotary embeddings, the MLP's product, quantisation.

Imported on CUDA alone; `minigpt4.models.kernels` chooses between these and PyTorch's operators. Triton reads the
annotations of kernels itself: no `from __future__ import annotations` here.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

HEADS_A_PROGRAM = 16
COLUMNS_A_PROGRAM = 1024


@triton.jit
def _rotate(source, target, cos, sin, source_row, source_head, target_row, angle_row, num_heads, direction,
            half: tl.constexpr, heads: tl.constexpr):  # fmt: skip
    row = tl.program_id(0)
    head = tl.program_id(1) * heads + tl.arange(0, heads)[:, None]
    column = tl.arange(0, half)[None, :]
    inside = head < num_heads
    c = tl.load(cos + row * angle_row + column).to(tl.float32)
    s = tl.load(sin + row * angle_row + column).to(tl.float32) * direction
    read = source + row.to(tl.int64) * source_row + head * source_head + column
    write = target + row.to(tl.int64) * target_row + head * (2 * half) + column
    first = tl.load(read, mask=inside).to(tl.float32)
    second = tl.load(read + half, mask=inside).to(tl.float32)
    tl.store(write, (first * c - second * s).to(target.dtype.element_ty), mask=inside)
    tl.store(write + half, (second * c + first * s).to(target.dtype.element_ty), mask=inside)


@triton.jit
def _gated_silu(gate, up, out, gate_row, up_row, num_columns, columns: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * columns + tl.arange(0, columns)
    inside = column < num_columns
    g = tl.load(gate + row * gate_row + column, mask=inside).to(tl.float32)
    u = tl.load(up + row * up_row + column, mask=inside).to(tl.float32)
    tl.store(out + row * num_columns + column, (g * tl.sigmoid(g) * u).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gated_silu_backward(grad, gate, up, grad_gate, grad_up, gate_row, up_row, grad_row, num_columns,
                         columns: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * columns + tl.arange(0, columns)
    inside = column < num_columns
    d = tl.load(grad + row * num_columns + column, mask=inside).to(tl.float32)
    g = tl.load(gate + row * gate_row + column, mask=inside).to(tl.float32)
    u = tl.load(up + row * up_row + column, mask=inside).to(tl.float32)
    sigmoid = tl.sigmoid(g)
    silu = g * sigmoid
    slope = sigmoid + silu * (1 - sigmoid)
    tl.store(grad_gate + row * grad_row + column, (d * u * slope).to(grad_gate.dtype.element_ty), mask=inside)
    tl.store(grad_up + row * grad_row + column, (d * silu).to(grad_up.dtype.element_ty), mask=inside)


@triton.jit
def _quantise_rows(source, target, scales, source_row, num_columns, largest, smallest, columns: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, columns)
    inside = column < num_columns
    x = tl.load(source + row * source_row + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(x), 0), smallest) / largest
    tl.store(scales + row, scale)
    tl.store(target + row * num_columns + column, (x * (1.0 / scale)).to(target.dtype.element_ty), mask=inside)


def rotate(source: Tensor, target: Tensor, cos: Tensor, sin: Tensor, *, back: bool) -> None:
    """Write the rotated heads of `source` (T, heads, size) to `target` (T, heads, size), which may be the same.

    cos and sin (T, size / 2) with one row stride; the rows of `target` may be strided, its heads lie end to end.
    size / 2 is a power of two. `back` turns the other way, as the gradient does.
    """
    num_tokens, num_heads, size = source.shape
    assert source.stride(2) == 1 and target.stride()[1:] == (size, 1)
    assert cos.stride() == sin.stride() and cos.stride(1) == 1
    grid = (num_tokens, triton.cdiv(num_heads, HEADS_A_PROGRAM))
    strides = (source.stride(0), source.stride(1), target.stride(0), cos.stride(0))
    _launch(_rotate, grid, source, target, cos, sin, *strides, num_heads, -1.0 if back else 1.0,
            half=size // 2, heads=HEADS_A_PROGRAM)  # fmt: skip


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up of (T, columns), computed in float32; rows may be strided."""
    out = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    _launch(_gated_silu, _tiles(gate), gate, up, out, gate.stride(0), up.stride(0), gate.shape[1],
            columns=COLUMNS_A_PROGRAM)  # fmt: skip
    return out


def gated_silu_backward(grad: Tensor, gate: Tensor, up: Tensor, grad_gate: Tensor, grad_up: Tensor) -> None:
    """Write the gradients of `gated_silu` for `grad` (T, columns), contiguous; both results have one row stride."""
    assert grad.is_contiguous() and grad_gate.stride() == grad_up.stride()
    strides = (gate.stride(0), up.stride(0), grad_gate.stride(0))
    _launch(_gated_silu_backward, _tiles(gate), grad, gate, up, grad_gate, grad_up, *strides, gate.shape[1],
            columns=COLUMNS_A_PROGRAM)  # fmt: skip


def quantise_rows(rows: Tensor, *, dtype: torch.dtype, largest: float, smallest: float) -> tuple[Tensor, Tensor]:
    """Return rows (T, columns), T > 0, so scaled that the largest value of each becomes `largest`, and (T, 1) scales.

    Multiplying by the scales, float32, gives the rows back. `smallest` is taken where a row has no larger value.
    """
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    num_rows, num_columns = rows.shape
    values = torch.empty(num_rows, num_columns, dtype=dtype, device=rows.device)
    scales = torch.empty(num_rows, 1, dtype=torch.float32, device=rows.device)
    columns = triton.next_power_of_2(num_columns)
    _launch(_quantise_rows, (num_rows, 1), rows, values, scales, rows.stride(0), num_columns, largest, smallest,
            columns=columns, num_warps=min(max(columns // 1024, 4), 32))  # fmt: skip
    return values, scales


def _tiles(rows: Tensor) -> tuple[int, int]:
    return len(rows), triton.cdiv(rows.shape[1], COLUMNS_A_PROGRAM)


def _launch(kernel: Any, grid: tuple[int, int], *arguments: Any, **constants: int) -> None:
    kernel[grid](*arguments, **constants)
