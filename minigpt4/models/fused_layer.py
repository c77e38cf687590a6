"""One decoder layer of Llama's shape as a decode step runs it, from the weights of the model's modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from minigpt4.models.cached_attention import CachedAttention
from minigpt4.models.joint_weights import join
from minigpt4.models.kernels import gated_silu, rotate

_ATTENTION, _MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
_UNKNOWN = ("q_norm", "k_norm", "sinks")
"""Parts of an attention that a layer of Llama's shape does not have."""


class FusedLayer:
    """A layer with one product for queries, keys and values, and one for both inputs of the MLP's product.

    The joint weights are the memory of the separate ones.
    """

    def __init__(self, layer: Any, index: int) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._index = index
        self._head_dim: int = attention.head_dim
        self._scaling: float = attention.scaling
        self._norms = [(norm.weight, norm.variance_epsilon) for norm in _norms(layer)]
        self._qkv = join([_inner(getattr(attention, name)) for name in _ATTENTION[:3]])
        self._gate_up = join([_inner(getattr(mlp, name)) for name in _MLP[:2]])
        self._output, self._down = _inner(attention.o_proj), _inner(mlp.down_proj)
        self._num_kv = 2 * _inner(attention.k_proj).out_features // self._head_dim

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
    known = getattr(llama.config, "hidden_act", None) == "silu" and hasattr(llama.base_model, "rotary_emb")
    if not known or not all(_is_llama_like(layer) for layer in llama.base_model.layers):
        return None
    return [FusedLayer(layer, number) for number, layer in enumerate(llama.base_model.layers)]


def lora_is_merged(lora_layers: Sequence[Any]) -> bool:
    """Return whether the weights of these layers hold their LoRA, so that they may be taken as they lie."""
    return all(layer.merged for layer in lora_layers)


def lora_layers(llama: Any) -> list[Any]:
    """Return the layers that carry LoRA."""
    return [module for module in llama.modules() if hasattr(module, "base_layer")]


def _inner(module: Any) -> Any:
    """Return the linear layer inside, whether or not it carries LoRA."""
    return getattr(module, "base_layer", module)


def _norms(layer: Any) -> list[Any]:
    return [getattr(layer, name, None) for name in ("input_layernorm", "post_attention_layernorm")]


def _is_llama_like(layer: Any) -> bool:
    attention, mlp = getattr(layer, "self_attn", None), getattr(layer, "mlp", None)
    if any(hasattr(attention, name) for name in _UNKNOWN):
        return False
    if not all(hasattr(norm, "variance_epsilon") for norm in _norms(layer)):
        return False
    named = [(attention, name) for name in _ATTENTION] + [(mlp, name) for name in _MLP]
    linears = [_inner(getattr(module, name, None)) for module, name in named]
    if not all(type(linear) is nn.Linear and not isinstance(linear.weight, DTensor) for linear in linears):
        return False
    return all(len({linear.bias is None for linear in joint}) == 1 for joint in (linears[:3], linears[4:6]))


def _add_linear(hidden: Tensor, x: Tensor, linear: nn.Linear) -> None:
    """Add a linear layer's output to the hidden states in place, in the kernel of its product."""
    hidden.addmm_(x, linear.weight.T)
    if linear.bias is not None:
        hidden.add_(linear.bias)
