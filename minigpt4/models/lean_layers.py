"""Parts of Llama's layers that keep less for the gradient than those of `transformers`, to the same numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm


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


class FrugalMLP(LlamaMLP):
    """Llama's MLP, on CUDA without keeping silu(gate), a sixth of what a layer keeps.

    On a CPU, where memory is not what runs out, computing it again costs a twentieth of a step (docs/benchmarks.md).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return down(silu(gate(x)) * up(x)), (.., hidden) -> (.., hidden)."""
        return self.frugal(x) if x.is_cuda else super().forward(x)

    def frugal(self, x: Tensor) -> Tensor:
        """Return the same, silu(gate(x)) being computed again for the gradient."""
        gated: Tensor = _GatedSilu.apply(self.gate_proj(x), self.up_proj(x))
        return self.down_proj(gated)


def make_lean(llama: LlamaForCausalLM) -> None:
    """Have a Llama compute with these parts; one whose MLP has another activation keeps its own."""
    for module in llama.modules():
        if type(module) is LlamaRMSNorm:
            module.__class__ = FusedRMSNorm
        elif type(module) is LlamaMLP and llama.config.hidden_act == "silu":
            module.__class__ = FrugalMLP
