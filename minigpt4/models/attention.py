"""Attention inside each example of a packed stream, without a mask over all pairs of tokens."""

from __future__ import annotations

import functools
import inspect
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from minigpt4.models.kernels import check_apart

logger = logging.getLogger(__name__)

PACKED = "packed"
"""The name by which `transformers` finds this attention."""
PROBE_SIZES = (3, 300, 64)
"""Some kernels are chosen for short examples alone, so one is longer than 256 tokens."""
PROBE_TOLERANCE = 0.05
"""Of the largest value: several times the rounding of bfloat16, and far below what a wrong mask changes."""


def packed_attention(
    module: Any,
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

    query (1, heads, T, size), key and value with as many heads or a divisor of them. `sizes` are the tokens of the
    examples, sum T; PyTorch's kernel for all takes a bound of them too. `bounds` (B + 1,) int32 are their ends.
    Without `sizes` it is PyTorch's attention with the mask as given; with `cached` it reads and writes a KV cache.
    """
    if cached is not None:
        return cached.attend(module, query, key, value, scaling=scaling), None
    if sizes is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    assert scaling is None or math.isclose(scaling, query.shape[-1] ** -0.5)
    if bounds is not None and query.is_cuda and varlen_works(query.dtype, query.device):
        # [0] would fill and copy for its gradient
        stream = [x.squeeze(0).transpose(0, 1) for x in (query, key, value)]
        return varlen(stream, (bounds, bounds), (max(sizes), max(sizes)))[None], None
    if bounds is not None and len(sizes) + 1 != len(bounds):
        raise RuntimeError("one kernel an example needs the size of each: a padded batch has a bound of them alone")
    return one_by_one((query, key, value), sizes, sizes), None


def register_packed_attention() -> None:
    """Make the attention known to `transformers` under the name PACKED, with the masks of its SDPA."""
    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, sdpa_mask)


@functools.cache
def varlen_works(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether PyTorch's kernel for examples of different length computes rightly here; tried once a process."""
    what = "attention takes one kernel an example, as PyTorch's kernel for all"
    probe = functools.partial(_is_right, PROBE_SIZES, PROBE_SIZES, dtype, device, what, with_gradients=True)
    return dtype in (torch.float16, torch.bfloat16) and check_apart(probe, device)


@functools.cache
def varlen_prefix_works(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether the kernel is right where the tokens of a prompt follow a prefix; tried once a process."""
    what = "prompts after a shared prefix take one kernel each, as PyTorch's one for all"
    return dtype in (torch.float16, torch.bfloat16) and _is_right(
        (3, 130, 64, 1), (40, 150, 64, 300), dtype, device, what, with_gradients=False
    )


def _is_right(
    sizes: Sequence[int],
    seen_sizes: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
    what: str,
    *,
    with_gradients: bool,
) -> bool:
    """Return whether both ways agree on random numbers; `what` begins the warning where they do not."""
    generator = torch.Generator(device).manual_seed(0)
    qkv = [
        torch.randn(1, 2, sum(lengths), 128, dtype=dtype, device=device, generator=generator)
        for lengths in (sizes, seen_sizes, seen_sizes)
    ]
    offsets = [
        torch.tensor([0, *itertools.accumulate(x)], dtype=torch.int32, device=device) for x in (sizes, seen_sizes)
    ]
    longest = (max(sizes), max(seen_sizes))

    def all_at_once(qkv: Sequence[Tensor]) -> Tensor:
        return varlen([x.squeeze(0).transpose(0, 1) for x in qkv], (offsets[0], offsets[1]), longest)[None]

    def separately(qkv: Sequence[Tensor]) -> Tensor:
        masks = [causal_mask(*pair, qkv[0]) for pair in zip(sizes, seen_sizes, strict=True)]
        return one_by_one(qkv, sizes, seen_sizes, masks)

    try:
        found, wanted = (_outputs(attend, qkv, with_gradients) for attend in (all_at_once, separately))
        pairs = zip(found, wanted, strict=True)
        works = all(bool((a - b).abs().max() <= PROBE_TOLERANCE * b.abs().max()) for a, b in pairs)
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        logger.warning("%s fails here: %s", what, error)
        return False
    if not works:
        logger.warning("%s is wrong here", what)
    return works


def _outputs(attend: Callable[[Sequence[Tensor]], Tensor], qkv: list[Tensor], with_gradients: bool) -> list[Tensor]:
    if not with_gradients:
        return [attend(qkv)]
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in qkv]
        output = attend(leaves)
        return [output, *torch.autograd.grad(output.float().square().sum(), leaves)]


def varlen(qkv: Sequence[Tensor], bounds: tuple[Tensor, Tensor], longest: tuple[int, int]) -> Tensor:
    """Return causal attention (T, heads, size) by one kernel for all pieces of a stream.

    query (T, heads, size), key and value (seen, kv_heads, size); bounds and longest are those of queries and of keys.
    """
    from torch.nn.attention.varlen import varlen_attn

    attend: Any = varlen_attn
    query, key, value = qkv
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = (x.repeat_interleave(repeats, dim=1) for x in (key, value))
    output: Tensor = attend(query, key, value, *bounds, *longest, **_causal_option(attend))
    return output


@functools.cache
def _causal_option(attend: Any) -> dict[str, Any]:
    """Return the option of causal attention in this version of PyTorch."""
    return {"window_size": (-1, 0)} if "window_size" in inspect.signature(attend).parameters else {"is_causal": True}


def one_by_one(
    qkv: Sequence[Tensor], sizes: Sequence[int], seen_sizes: Sequence[int], masks: Sequence[Tensor | None] = ()
) -> Tensor:
    """Return causal attention (1, T, heads, size) by a kernel for each piece of a stream; `masks` are `causal_mask`s.

    query (1, heads, T, size), key and value (1, kv_heads, seen, size).
    """
    grouped = qkv[0].shape[1] != qkv[1].shape[1]
    pieces = (x.split(list(n), dim=2) for x, n in zip(qkv, (sizes, seen_sizes, seen_sizes), strict=True))
    outputs = [
        F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=q.shape[2] == k.shape[2], enable_gqa=grouped)
        for q, k, v, mask in zip(*pieces, masks or [None] * len(sizes), strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2)


def causal_mask(size: int, seen_size: int, like: Tensor) -> Tensor | None:
    """Return what is added to the scores of the last `size` of `seen_size` tokens; None where no mask is needed."""
    if size in (1, seen_size):
        return None
    mask = like.new_full((size, seen_size), -torch.inf)
    return mask.triu_(seen_size - size + 1)
