"""Parts of Llama's layers in training: joint products, LoRA inside, and less memory for the gradient.

They compute the same numbers as the parts of `transformers` that they replace.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm

from minigpt4.models.float8 import Float8Weight, quantise_joint, quantise_linears
from minigpt4.models.joint_weights import FrozenWeight, join, joined, plain_linears
from minigpt4.models.kernels import gated_silu, gated_silu_backward, rotate
from minigpt4.models.lora import Adapter, FusedLoraLinear, adapter_of


class JointProjections:
    """A part of a module whose linear layers `projections` share an input; one product serves them all.

    `takes_lora` says whether the module computes LoRA on these layers itself.
    """

    projections: ClassVar[tuple[str, ...]]
    takes_lora: ClassVar[bool] = False
    float8: Float8Weight | None = None

    def join_weights(self) -> None:
        """Lay the weights of the layers end to end, LoRA or not, if they are plain linear layers.

        Answering joins them too. When they are joined before, no captured graph has their old addresses.
        """
        linears = plain_linears([getattr(self, name) for name in self.projections])
        if linears is not None:
            join(linears)

    def quantise(self) -> None:
        """Quantise the joint weight to 8 bits, if the layers are plain linear layers."""
        linears = self._linears()
        if linears is not None:
            self.float8 = quantise_joint(linears)

    def joint_weight(self) -> FrozenWeight | Float8Weight | None:
        """Return the weights as one; None where they lie apart, or a layer is no plain linear layer."""
        linears = self._linears()
        return None if linears is None else self.float8 or joined(linears)

    def _linears(self) -> list[nn.Linear] | None:
        modules: list[Any] = [getattr(self, name) for name in self.projections]
        adapted = [one for one in modules if hasattr(one, "base_layer")]
        if not all(self.takes_lora and type(one) is FusedLoraLinear and one.is_active() for one in adapted):
            return None
        return plain_linears(modules)


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


class FusedRMSNorm(LlamaRMSNorm):
    """PyTorch's own RMS norm: one kernel on CUDA, which keeps its input as it came and not a float32 copy of it."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the normalised input, (.., hidden), in its type; computed in float32."""
        return F.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)


class _GatedSilu(torch.autograd.Function):
    """silu(gate) * up, of which the gradient computes silu(gate) again."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate) * up

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        gated = torch.ops.aten.silu_backward(grads[0] * up, gate)
        return gated, F.silu(gate).mul_(grads[0])


class _JointGatedSilu(torch.autograd.Function):
    """silu(gate(x)) * up(x) of rows x, gate and up being one frozen product; the gradient computes silu again."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, frozen: FrozenWeight | Float8Weight) -> Tensor:
        both = frozen.product(rows)
        ctx.frozen = frozen
        ctx.save_for_backward(both)
        return gated_silu(*both.chunk(2, 1))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None
        (both,) = ctx.saved_tensors
        to_both = torch.empty_like(both)
        gated_silu_backward(grads[0], *both.chunk(2, 1), *to_both.chunk(2, 1))
        return ctx.frozen.input_gradient(to_both), None


class RecomputeSiluMLP(JointProjections, LlamaMLP):
    """Llama's MLP, on CUDA without keeping silu(gate), a sixth of what a layer keeps.

    On a CPU, where memory is not what runs out, computing it again costs a twentieth of a step (docs/benchmarks.md).
    """

    projections = ("gate_proj", "up_proj")

    def forward(self, x: Tensor) -> Tensor:
        """Return down(silu(gate(x)) * up(x)), (.., hidden) -> (.., hidden)."""
        return self.recompute(x) if x.is_cuda or self.float8 else LlamaMLP.forward(self, x)

    def recompute(self, x: Tensor) -> Tensor:
        """Return the same, silu(gate(x)) being computed again for the gradient."""
        joint = self.joint_weight()
        if joint is not None:
            gated: Tensor = _JointGatedSilu.apply(x.flatten(0, -2), joint)
            out: Tensor = self.down_proj(gated)
            return out.view(x.shape)
        out = self.down_proj(_GatedSilu.apply(self.gate_proj(x), self.up_proj(x)))
        return out


def use_memory_efficient_layers(llama: LlamaForCausalLM) -> None:
    """Replace parts of a Llama by these; an MLP with another activation stays. Weights and their names stay."""
    for parent in list(llama.modules()):
        for name, part in parent.named_children():
            with torch.device("meta"):  # the weights are those of the part
                new = _replacement(part, llama.config)
            if new is not None:
                for inner, value in [*part.named_parameters(recurse=False), *part.named_children()]:
                    setattr(new, inner, value)
                new.training = part.training
                setattr(parent, name, new)


def _replacement(part: nn.Module, config: Any) -> nn.Module | None:
    """Return a module of ours for one of transformers; None where it stays."""
    if type(part) is LlamaRMSNorm:
        return FusedRMSNorm(len(part.weight), part.variance_epsilon)
    if type(part) is LlamaAttention:
        return FusedAttention(part.config, part.layer_idx)
    if type(part) is LlamaMLP and config.hidden_act == "silu":
        return RecomputeSiluMLP(part.config)  # type: ignore[no-untyped-call]  # LlamaMLP has no types
    return None


def join_weights(llama: nn.Module) -> None:
    """Lay end to end the frozen weights that one product can take; they must be where they stay."""
    for module in llama.modules():
        if isinstance(module, JointProjections):
            module.join_weights()


def quantise_layers(llama: LlamaForCausalLM) -> None:
    """Quantise the frozen weights of the layers of a Llama to 8 bits; embeddings and head keep theirs."""
    layers = llama.model.layers
    for module in layers.modules():
        if isinstance(module, JointProjections):
            module.quantise()
    quantise_linears(layers, gradient=True)
