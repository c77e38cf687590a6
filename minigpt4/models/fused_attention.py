"""Llama's attention in training: one product for queries, keys and values, with LoRA and rotary embeddings inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaAttention

from minigpt4.models.float8 import Float8Weight
from minigpt4.models.joint_projections import JointProjections
from minigpt4.models.joint_weights import FrozenWeight
from minigpt4.models.kernels import rotate
from minigpt4.models.lora import Adapter, FusedLoraLinear, adapter_of


@dataclass(frozen=True, slots=True)
class _Slice:
    """The columns of one projection in the joint output, and the LoRA on it."""

    start: int
    stop: int
    adapter: Adapter | None


@dataclass(frozen=True, slots=True)
class _Layout:
    slices: tuple[_Slice, ...]
    head_dim: int

    @property
    def num_rotated(self) -> int:
        """Heads of queries and keys: those that turn."""
        return self.slices[1].stop // self.head_dim


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
    """Return which columns belong to which projection, and the tensors of LoRA: inputs, A and B of each."""
    slices: list[_Slice] = []
    adapted: list[Tensor | None] = []
    start = 0
    for module in modules:
        adapter = adapter_of(module, rows.dtype) if isinstance(module, FusedLoraLinear) else None
        slices.append(_Slice(start, start + module.out_features, adapter))
        start += module.out_features
        adapted += [None] * 3 if adapter is None else [adapter.dropout(rows), adapter.first, adapter.second]
    return _Layout(tuple(slices), head_dim), adapted


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
        for number, part in enumerate(layout.slices):
            inputs = adapted[3 * number]
            if part.adapter is None or inputs is None:
                saved += [None, None]
                continue
            low = part.adapter.lower(inputs)
            out[:, part.start : part.stop].addmm_(low, part.adapter.second_16.T)
            saved += [inputs, low]
        heads = out.unflatten(1, (-1, layout.head_dim))
        turning = heads[:, : layout.num_rotated]
        rotate(turning, turning, cos, sin)
        ctx.layout, ctx.frozen = layout, frozen
        ctx.save_for_backward(cos, sin, *saved)
        num_queries = layout.slices[0].stop // layout.head_dim
        return heads[:, :num_queries], heads[:, num_queries : layout.num_rotated], heads[:, layout.num_rotated :]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """Return the gradients of the rows and of LoRA."""
        layout: _Layout = ctx.layout
        cos, sin, *saved = ctx.saved_tensors
        out = grads[0].new_empty(len(grads[0]), layout.slices[-1].stop)
        heads = out.unflatten(1, (-1, layout.head_dim))
        num_queries = layout.slices[0].stop // layout.head_dim
        rotate(grads[0], heads[:, :num_queries], cos, sin, back=True)
        rotate(grads[1], heads[:, num_queries : layout.num_rotated], cos, sin, back=True)
        heads[:, layout.num_rotated :].copy_(grads[2])
        to_rows = ctx.frozen.input_gradient(out) if ctx.needs_input_grad[0] else None
        to_adapted: list[Tensor | None] = []
        for part, inputs, low in zip(layout.slices, saved[::2], saved[1::2], strict=True):
            if part.adapter is None:
                to_adapted += [None] * 3
                continue
            to_adapted += part.adapter.gradients(out[:, part.start : part.stop], inputs, low)
        return to_rows, None, None, None, None, *to_adapted
