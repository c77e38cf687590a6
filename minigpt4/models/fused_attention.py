"""Llama's attention in training: one product for queries, keys and values, with LoRA and rotary embeddings inside."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaAttention

from minigpt4.models.float8 import Float8Weight
from minigpt4.models.joint_projections import JointProjections
from minigpt4.models.joint_weights import FrozenWeight
from minigpt4.models.kernels import rotate
from minigpt4.models.lora import Adapter, FusedLoraLinear, adapter_of


class _Layout(NamedTuple):
    """Where queries, keys and values begin and end among the columns of the joint output, and the LoRA on each."""

    ends: tuple[int, int, int, int]
    adapters: tuple[Adapter | None, ...]
    head_dim: int

    @property
    def heads(self) -> tuple[slice, slice, slice]:
        """The heads of queries, keys and values."""
        first, second, third = (end // self.head_dim for end in self.ends[1:])
        return slice(first), slice(first, second), slice(second, third)


class FusedAttention(JointProjections, LlamaAttention):
    """The same attention from weights that lie end to end, over examples laid end to end.

    Where the weights lie apart (sharded, of 8 or 4 bits), or when answering, it is the attention of `transformers`.
    """

    projections = ("q_proj", "k_proj", "v_proj")
    takes_lora = True

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the attention output (1, T, hidden) and no weights."""
        joint = self.joint_weight() if options.get("sizes") is not None and not _is_cast(hidden_states) else None
        if joint is None or position_embeddings is None:
            return super().forward(hidden_states, position_embeddings, attention_mask, past_key_values, **options)
        modules = [getattr(self, name) for name in self.projections]
        rows = hidden_states.flatten(0, 1)
        half = self.head_dim // 2
        cos, sin = (x[0, :, :half] for x in position_embeddings)
        layout, adapted = _layout(modules, self.head_dim, rows)
        query, key, value = _QueryKeyValue.apply(rows, joint, cos, sin, layout, *adapted)
        query, key, value = (x.transpose(0, 1)[None] for x in (query, key, value))
        attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        attended, _ = attend(self, query, key, value, attention_mask, scaling=self.scaling, **options)
        return self.o_proj(attended.flatten(2)), None


def _is_cast(hidden_states: Tensor) -> bool:
    """Return whether autocast would give products of these states another type."""
    device = hidden_states.device.type
    return device != "meta" and hidden_states.dtype == torch.float32 and torch.is_autocast_enabled(device)


def _layout(modules: Sequence[Any], head_dim: int, rows: Tensor) -> tuple[_Layout, list[Tensor | None]]:
    """Return the layout of projections, and the tensors of LoRA: inputs, A and B of each."""
    lora = [adapter_of(one, rows.dtype) if isinstance(one, FusedLoraLinear) else None for one in modules]
    adapted: list[Tensor | None] = []
    for one in lora:
        adapted += [None] * 3 if one is None else [one.dropout(rows), one.first, one.second]
    first, second, third = itertools.accumulate(one.out_features for one in modules)
    return _Layout((0, first, second, third), tuple(lora), head_dim), adapted


class _QueryKeyValue(torch.autograd.Function):
    """Frozen product plus low-rank products, the heads of queries and keys turned by their positions.

    The base weights are frozen: only the input and LoRA get gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        frozen: FrozenWeight | Float8Weight,
        cos: Tensor,
        sin: Tensor,
        layout: _Layout,
        *adapted: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values (T, heads, size) of rows (T, hidden)."""
        out = frozen.product(rows)
        saved: list[Tensor | None] = []
        for (start, stop), adapter, inputs in zip(pairwise(layout.ends), layout.adapters, adapted[::3], strict=True):
            if adapter is None or inputs is None:
                saved += [None, None]
                continue
            low = adapter.lower(inputs)
            out[:, start:stop].addmm_(low, adapter.second_16.T)
            saved += [inputs, low]
        heads = out.unflatten(1, (-1, layout.head_dim))
        queries, keys, values = layout.heads
        turning = heads[:, : keys.stop]
        rotate(turning, turning, cos, sin)
        ctx.layout, ctx.frozen = layout, frozen
        ctx.save_for_backward(cos, sin, *saved)
        return heads[:, queries], heads[:, keys], heads[:, values]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """Return the gradients of the rows and of LoRA."""
        layout: _Layout = ctx.layout
        cos, sin, *saved = ctx.saved_tensors
        out = grads[0].new_empty(len(grads[0]), layout.ends[-1])
        heads = out.unflatten(1, (-1, layout.head_dim))
        queries, keys, values = layout.heads
        rotate(grads[0], heads[:, queries], cos, sin, back=True)
        rotate(grads[1], heads[:, keys], cos, sin, back=True)
        heads[:, values].copy_(grads[2])
        to_rows = ctx.frozen.input_gradient(out) if ctx.needs_input_grad[0] else None
        to_adapted: list[Tensor | None] = []
        parts = zip(pairwise(layout.ends), layout.adapters, saved[::2], saved[1::2], strict=True)
        for (start, stop), adapter, inputs, low in parts:
            to_adapted += [None] * 3 if adapter is None else adapter.gradients(out[:, start:stop], inputs, low)
        return to_rows, None, None, None, None, *to_adapted
