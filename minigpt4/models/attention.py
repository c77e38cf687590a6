"""Attention inside each example of a packed stream, without a mask over all pairs of tokens."""

from __future__ import annotations

import functools
import inspect
import itertools
import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from minigpt4.models.probe import check_apart

logger = logging.getLogger(__name__)

PACKED = "packed"
"""The name by which `transformers` finds this attention."""
PROBE_SIZES = (3, 300, 64)
"""Some kernels are chosen for short examples alone, so one is longer than 256 tokens."""
PROBE_TOLERANCE = 0.05
"""Of the largest value: several times the rounding of bfloat16, and far below what a wrong mask changes."""


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    sizes: Sequence[int] | None = None,
    bounds: Tensor | None = None,
    cached: Any = None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Return causal attention inside each example of a stream, (1, T, heads, size).

    query (1, heads, T, size), key and value with as many heads or a divisor of them; `sizes` are the tokens of the
    examples, sum T, or with PyTorch's kernel for all a bound of them, and `bounds` (B + 1,) int32 where they begin and
    end. Without `sizes`, as when answering, it is
    PyTorch's attention with the mask as given; with `cached` it reads and writes a KV cache.
    """
    if cached is not None:
        return cached.attend(module, query, key, value, scaling=scaling), None
    if sizes is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    assert scaling is None or math.isclose(scaling, query.shape[-1] ** -0.5)
    if bounds is not None and query.is_cuda and varlen_works(query.dtype, query.device):
        return _varlen(query, key, value, bounds, longest=max(sizes)), None
    if bounds is not None and len(sizes) + 1 != len(bounds):
        raise RuntimeError("one kernel an example needs the size of each: a padded batch has a bound of them alone")
    return _one_by_one(query, key, value, sizes), None


def register_packed_attention() -> None:
    """Make the attention known to `transformers` under the name PACKED, with the masks of its SDPA."""
    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, sdpa_mask)


@functools.cache
def varlen_works(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether PyTorch's kernel for examples of different length computes rightly here; tried once a process."""
    if dtype not in (torch.float16, torch.bfloat16):
        return False
    return check_apart(functools.partial(_probe_varlen, dtype, device), device)


def _probe_varlen(dtype: torch.dtype, device: torch.device) -> bool:
    generator = torch.Generator(device).manual_seed(0)
    shape = (1, 2, sum(PROBE_SIZES), 128)
    qkv = [torch.randn(shape, dtype=dtype, device=device, generator=generator) for _ in range(3)]
    bounds = torch.tensor([0, *itertools.accumulate(PROBE_SIZES)], dtype=torch.int32, device=device)
    try:
        found = _with_gradients(qkv, lambda q, k, v: _varlen(q, k, v, bounds, longest=max(PROBE_SIZES)))
        wanted = _with_gradients(qkv, lambda q, k, v: _one_by_one(q, k, v, PROBE_SIZES))
        pairs = zip(found, wanted, strict=True)
        works = all(bool((a - b).abs().max() <= PROBE_TOLERANCE * b.abs().max()) for a, b in pairs)
    except (ImportError, RuntimeError, TypeError) as error:
        logger.warning("attention takes one kernel an example, as PyTorch's kernel for all fails here: %s", error)
        return False
    if not works:
        logger.warning("attention takes one kernel an example, as PyTorch's kernel for all is wrong here")
    return works


def _with_gradients(qkv: Sequence[Tensor], attend: Any) -> list[Tensor]:
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in qkv]
        output = attend(*leaves)
        return [output, *torch.autograd.grad(output.float().square().sum(), leaves)]


def _varlen(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, *, longest: int) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    attend: Any = varlen_attn
    causal = causal_option(attend)
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = (x.repeat_interleave(repeats, dim=1) for x in (key, value))
    stream = [x.squeeze(0).transpose(0, 1) for x in (query, key, value)]  # [0] would fill and copy for its gradient
    output: Tensor = attend(*stream, bounds, bounds, longest, longest, **causal)
    return output[None]


@functools.cache
def causal_option(attend: Any) -> dict[str, Any]:
    """Return how this version of PyTorch is asked for causal attention."""
    return {"window_size": (-1, 0)} if "window_size" in inspect.signature(attend).parameters else {"is_causal": True}


def _one_by_one(query: Tensor, key: Tensor, value: Tensor, sizes: Sequence[int]) -> Tensor:
    pieces = [x.split(list(sizes), dim=2) for x in (query, key, value)]
    grouped = key.shape[1] != query.shape[1]
    outputs = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        for q, k, v in zip(*pieces, strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2)
