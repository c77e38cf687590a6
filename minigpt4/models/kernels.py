"""Rotary embeddings, the MLP's product and quantisation: one launch each with Triton, else PyTorch's operators."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

logger = logging.getLogger(__name__)

TOLERANCE = 0.02
"""Of the largest value: a few roundings of bfloat16."""
FLOAT8 = torch.float8_e4m3fn
LARGEST_FLOAT8 = 448.0
MAX_QUANTISED_COLUMNS = 2**16
"""A row stays in the registers of one program: as much as 1024 threads hold."""
SMALLEST_ROW = 1e-30
"""Taken for the largest value of a row of zeros, whose scale must not be zero."""


def rotate(source: Tensor, target: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> None:
    """Write the heads of `source` (T, heads, size), turned by their positions, to `target` (T, heads, size).

    The pairs that turn are (i, i + size / 2), by angles of cos and sin (T, size / 2). `back` turns the other way.
    `target` may be `source` itself, and a view of a wider tensor.
    """
    half = source.shape[-1] // 2
    kernels = _triton(source) if half & (half - 1) == 0 else None
    (kernels.rotate if kernels else rotate_by_operators)(source, target, cos, sin, back=back)


def rotate_by_operators(source: Tensor, target: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> None:
    """Do what `rotate` says by PyTorch's operators."""
    source = source.clone() if source.data_ptr() == target.data_ptr() else source
    (first, second), (to_first, to_second) = source.chunk(2, -1), target.chunk(2, -1)
    cos, sin = cos[:, None, None], sin[:, None]
    sign = -1 if back else 1
    torch.mul(source.unflatten(-1, (2, -1)), cos, out=target.unflatten(-1, (2, -1)))
    to_first.addcmul_(second, sin, value=-sign)
    to_second.addcmul_(first, sin, value=sign)


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up of (T, columns)."""
    kernels = _triton(gate)
    return kernels.gated_silu(gate, up) if kernels else F.silu(gate).mul_(up)


def gated_silu_backward(grad: Tensor, gate: Tensor, up: Tensor, grad_gate: Tensor, grad_up: Tensor) -> None:
    """Write the gradients of `gated_silu` for `grad` (T, columns) to `grad_gate` and `grad_up` (T, columns)."""
    if kernels := _triton(gate):
        kernels.gated_silu_backward(grad.contiguous(), gate, up, grad_gate, grad_up)
        return
    torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
    torch.mul(F.silu(gate), grad, out=grad_up)


def quantise_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows (T, columns) in 8 bits, e4m3, and the scales (T, 1) float32 by which these are to be multiplied.

    The largest value of a row becomes LARGEST_FLOAT8.
    """
    fits_a_program = len(rows) > 0 and 0 < rows.shape[1] <= MAX_QUANTISED_COLUMNS
    if fits_a_program and (kernels := _triton(rows)) and triton_quantises(rows.device):
        quantised: tuple[Tensor, Tensor] = kernels.quantise_rows(
            rows, dtype=FLOAT8, largest=LARGEST_FLOAT8, smallest=SMALLEST_ROW
        )
        return quantised
    scales = rows.abs().amax(1, keepdim=True).float().clamp_(min=SMALLEST_ROW).div_(LARGEST_FLOAT8)
    return (rows * scales.reciprocal()).to(FLOAT8), scales


def _triton(tensor: Tensor) -> Any:
    """Return the module of Triton kernels where a tensor lies on a GPU for which they are right; else None."""
    if not (tensor.is_cuda and triton_works(tensor.device)):
        return None
    from minigpt4.models import triton_kernels

    return triton_kernels


@functools.cache
def triton_works(device: torch.device) -> bool:
    """Return whether the Triton kernels compile and compute rightly on a device; tried once a process."""
    return _passes(_agree, device)


@functools.cache
def triton_quantises(device: torch.device) -> bool:
    """Return the same of the kernel for 8 bits, which older GPUs lack."""
    return triton_works(device) and _passes(_quantises_closely, device)


def _passes(check: Callable[[torch.device], bool], device: torch.device) -> bool:
    try:
        works = check_apart(functools.partial(check, device), device)
    except Exception as error:  # whatever a compiler may raise: the operators of PyTorch are there
        logger.warning("PyTorch's operators replace the Triton kernels, which fail here: %s", error)
        return False
    if not works:
        logger.warning("PyTorch's operators replace the Triton kernels, which give wrong numbers here")
    return works


def _agree(device: torch.device) -> bool:
    """Return whether both ways compute the same from random numbers."""
    generator = torch.Generator(device).manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, generator=generator)

    from minigpt4.models import triton_kernels

    heads, cos, sin, grad = drawn(5, 20, 16), drawn(5, 8), drawn(5, 8), drawn(5, 1030)
    gate, up = drawn(5, 2060).chunk(2, 1)
    found, wanted = [], []
    for back in (False, True):
        found.append(heads.clone())
        wanted.append(torch.empty_like(heads))
        triton_kernels.rotate(found[-1], found[-1], cos, sin, back=back)
        rotate_by_operators(heads, wanted[-1], cos, sin, back=back)
    to_gate, to_up = torch.empty(5, 2060, device=device).chunk(2, 1)
    triton_kernels.gated_silu_backward(grad, gate, up, to_gate, to_up)
    leaves = [x.detach().clone().requires_grad_() for x in (gate, up)]
    with torch.enable_grad():
        out = F.silu(leaves[0]) * leaves[1]
        grads = torch.autograd.grad(out, leaves, grad)
    found += [triton_kernels.gated_silu(gate, up), to_gate, to_up]
    wanted += [out.detach(), *grads]
    return all(bool((a - b).abs().max() <= TOLERANCE * b.abs().max()) for a, b in zip(found, wanted, strict=True))


def _quantises_closely(device: torch.device) -> bool:
    """Return whether the kernel rounds random numbers to e4m3: by a sixteenth at most, or a fraction of a scale."""
    from minigpt4.models import triton_kernels

    generator = torch.Generator(device).manual_seed(0)
    rows = torch.randn(5, 1030, device=device, generator=generator).bfloat16()
    rows[3] = 0
    values, scales = triton_kernels.quantise_rows(rows, dtype=FLOAT8, largest=LARGEST_FLOAT8, smallest=SMALLEST_ROW)
    errors = (values.float() * scales - rows.float()).abs()
    return bool((errors <= rows.float().abs() / 15 + scales / 500).all())


def check_apart(check: Callable[[], bool], device: torch.device) -> bool:
    """Return the result of a check of a kernel, run in a thread whose GPU is `device`.

    Autocast and the hooks of a recomputed layer belong to a thread, so they do not reach the check.
    """

    def run() -> bool:
        if device.type == "cuda":
            torch.cuda.set_device(device)  # a new thread begins on GPU 0
        return check()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()
