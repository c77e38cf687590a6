"""One decoder layer of Llama's shape as a decode step runs it, from the weights of the model's modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from minigpt4.models.joint_weights import join, plain_linears
from minigpt4.models.kernels import gated_silu, rotate
from minigpt4.models.kv_cache import CachedAttention

_UNKNOWN = ("q_norm", "k_norm", "sinks")
"""Parts of an attention that a layer of Llama's shape does not have."""


class FusedLayer:
    """A layer with one product for queries, keys and values, and one for both inputs of the MLP's product.

    The joint weights are the memory of the separate ones.
    """

    def __init__(self, layer: Any, index: int, linears: Sequence[list[nn.Linear]]) -> None:
        """`linears` are the linear layers of a layer of Llama's shape, as `_linears` gives them."""
        self._index = index
        self._head_dim: int = layer.self_attn.head_dim
        self._scaling: float = layer.self_attn.scaling
        self._norms = [(norm.weight, norm.variance_epsilon) for norm in _norms(layer)]
        qkv, [self._output], gate_up, [self._down] = linears
        self._qkv, self._gate_up = join(qkv), join(gate_up)
        self._num_kv = 2 * qkv[1].out_features // self._head_dim

    @property
    def addresses(self) -> tuple[int, int]:
        """Where the joint weights lie: a captured graph reads them there."""
        return self._qkv[0].data_ptr(), self._gate_up[0].data_ptr()

    def __call__(self, hidden: Tensor, rotation: tuple[Tensor, Tensor], attention: CachedAttention) -> Tensor:
        """Return the hidden states (T, hidden) after this layer, computed in place of those before it.

        `rotation` holds cos and sin (T, head_dim / 2).
        """
        qkv = F.linear(self._normed(hidden, 0), *self._qkv).unflatten(1, (-1, self._head_dim))
        turning = qkv[:, : qkv.shape[1] - self._num_kv // 2]
        rotate(turning, turning, *rotation)
        query, keys_values = qkv.split([qkv.shape[1] - self._num_kv, self._num_kv], dim=1)
        attended = attention.run(self._index, query, keys_values.unflatten(1, (2, -1)), self._scaling)
        _add_linear(hidden, attended.flatten(1), self._output)
        gate, up = F.linear(self._normed(hidden, 1), *self._gate_up).chunk(2, dim=1)
        _add_linear(hidden, gated_silu(gate, up), self._down)
        return hidden

    def _normed(self, hidden: Tensor, number: int) -> Tensor:
        weight, epsilon = self._norms[number]
        return F.rms_norm(hidden, weight.shape, weight, epsilon)


def fused_layers(llama: Any) -> list[FusedLayer] | None:
    """Return all layers fused; None where one is not of Llama's shape, or has weights of 8 or 4 bits or in shards."""
    if getattr(llama.config, "hidden_act", None) != "silu" or not hasattr(llama.base_model, "rotary_emb"):
        return None
    layers = llama.base_model.layers
    linears = [found for layer in layers if (found := _linears(layer)) is not None]
    if len(linears) < len(layers):
        return None
    return [FusedLayer(layer, number, linears[number]) for number, layer in enumerate(layers)]


def lora_is_merged(lora_layers: Sequence[Any]) -> bool:
    """Return whether the weights of these layers hold their LoRA, so that they may be taken as they lie."""
    return all(layer.merged for layer in lora_layers)


def lora_layers(llama: Any) -> list[Any]:
    """Return the layers that carry LoRA."""
    return [module for module in llama.modules() if hasattr(module, "base_layer")]


def _norms(layer: Any) -> list[Any]:
    return [getattr(layer, name, None) for name in ("input_layernorm", "post_attention_layernorm")]


def _linears(layer: Any) -> list[list[nn.Linear]] | None:
    """Return the linear layers q, k and v; o; gate and up; down. None for another shape than Llama's."""
    attention, mlp = getattr(layer, "self_attn", None), getattr(layer, "mlp", None)
    if any(hasattr(attention, name) for name in _UNKNOWN):
        return None
    if not all(hasattr(norm, "variance_epsilon") for norm in _norms(layer)):
        return None
    groups = ((attention, "qkv"), (attention, "o"), (mlp, ("gate", "up")), (mlp, ("down",)))
    found = [plain_linears([getattr(part, f"{name}_proj", None) for name in names]) for part, names in groups]
    plain = [group for group in found if group and not any(isinstance(one.weight, DTensor) for one in group)]
    return plain if len(plain) == len(groups) else None


def _add_linear(hidden: Tensor, x: Tensor, linear: nn.Linear) -> None:
    """Add a linear layer's output to the hidden states in place, in the kernel of its product."""
    hidden.addmm_(x, linear.weight.T)
    if linear.bias is not None:
        hidden.add_(linear.bias)
