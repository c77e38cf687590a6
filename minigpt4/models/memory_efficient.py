"""Parts of Llama's layers that keep less memory for the gradient than those of `transformers`, to the same numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm

from minigpt4.models.float8 import Float8Weight, quantise_linears
from minigpt4.models.fused_attention import FusedAttention
from minigpt4.models.joint_projections import JointProjections
from minigpt4.models.joint_weights import FrozenWeight
from minigpt4.models.kernels import gated_silu, gated_silu_backward


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
