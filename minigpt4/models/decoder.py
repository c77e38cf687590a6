"""Runs a causal language model with a KV cache: packed prompts first (prefill), then decode steps."""

from __future__ import annotations

import functools
import itertools
import math
import threading
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from minigpt4.models.attention import PACKED
from minigpt4.models.decode_graphs import DecodeGraphs
from minigpt4.models.fused_layer import FusedLayer, fused_layers, lora_is_merged, lora_layers
from minigpt4.models.kv_cache import CachedAttention, DecodeAttention, KVCache, PrefillAttention, Segment, upload
from minigpt4.models.precision import language_autocast, without_autocast

SharedPrefix = tuple[Hashable, int]
"""What a prompt begins with, and for how many tokens: prompts with equal prefixes begin alike."""


class ModelLock:
    """A lock that the same thread may take again. A copy of the model gets a new one."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return ModelLock, ()


class Decoder:
    """The forward passes of generation, on the weights of the model's own modules.

    A decode step runs `FusedLayer`s where all layers have Llama's shape and plain weights, else the modules of
    `transformers`. Both give the same numbers up to rounding. `cuda_graphs` captures a step once for each shape.
    """

    def __init__(self, causal_lm: Any, *, cuda_graphs: bool = False) -> None:
        self.cuda_graphs = cuda_graphs
        self._causal_lm = causal_lm
        self._layers: list[FusedLayer] | None = None
        self._lora_layers: list[Any] = []
        self._graphs = DecodeGraphs() if cuda_graphs else None
        everywhere = getattr(causal_lm.config, "sliding_window", None)
        attentions = [getattr(layer, "self_attn", None) for layer in causal_lm.base_model.layers]
        windows = [getattr(attention, "sliding_window", everywhere) for attention in attentions]
        self._window = min((window for window in windows if window), default=math.inf)

    @property
    def is_fused(self) -> bool:
        """Whether forward passes run fused layers: all have Llama's shape, and LoRA is merged now."""
        return self._layers is not None and lora_is_merged(self._lora_layers)

    def new_cache(self, num_slots: int, length: int) -> KVCache:
        """Return an empty cache for prompts and answers of `length` tokens together.

        With CUDA graphs this is the cache of the call before where it is large enough, as graphs hold its memory.
        Raises: ValueError when the model attends to fewer tokens than that.
        """
        config, weight = self._causal_lm.config, self._causal_lm.get_input_embeddings().weight
        self.check_window(length)
        self._layers, self._lora_layers = fused_layers(self._causal_lm), lora_layers(self._causal_lm)
        make = {"num_slots": num_slots, "length": length, "dtype": weight.dtype, "device": weight.device}
        if self._graphs is None:
            return KVCache(config, **make)
        addresses = [layer.addresses for layer in self._layers or ()]
        return self._graphs.cache_for(config, addresses, **make)

    def prefill(
        self,
        cache: KVCache,
        prompts: Sequence[Tensor],
        prefixes: Sequence[SharedPrefix] | None = None,
        *,
        slots: Sequence[int] | None = None,
    ) -> Tensor:
        """Fill empty slots (default: the first) with prompts (tokens, hidden); return their last states (B, hidden).

        A prefix that several prompts share is computed once, and its keys and values are copied to their slots.
        """
        slots = range(len(prompts)) if slots is None else slots
        lengths = [len(prompt) for prompt in prompts]
        starts = [0] * len(prompts)
        groups = _sharing(prefixes, lengths)
        if groups:  # each prefix goes into the slot of the first prompt that has it
            first = [prompts[shared_by[0]][:length] for shared_by, length in groups]
            self.forward_packed(cache, first, [Segment(slots[shared_by[0]], length) for shared_by, length in groups])
        for shared_by, length in groups:
            cache.copy_prefix(slots[shared_by[0]], [slots[number] for number in shared_by[1:]], length)
            for number in shared_by:
                starts[number] = length
        rest = [prompt[start:] for prompt, start in zip(prompts, starts, strict=True)]
        places = zip(slots, rest, starts, strict=True)
        hidden = self.forward_packed(cache, rest, [Segment(slot, len(one), start) for slot, one, start in places])
        cache.fill(slots, lengths)
        [ends] = upload([[end - 1 for end in itertools.accumulate(map(len, rest))]], hidden.device)
        return hidden[ends]

    def forward_packed(self, cache: KVCache, pieces: Sequence[Tensor], segments: Sequence[Segment]) -> Tensor:
        """Return the hidden states (T, hidden) of pieces (tokens, hidden) laid end to end, one for each segment."""
        return self._forward(torch.cat(list(pieces)), PrefillAttention(cache, segments))

    def decode_step(self, cache: KVCache, ids: Tensor) -> Tensor:
        """Append one token (B,) int64 to each of the first B slots; return the hidden states (B, hidden) after it.

        The state of a free slot means nothing. With CUDA graphs the next replay overwrites the states.
        Raises: RuntimeError when the step cannot be captured; ValueError as `new_cache`.
        """
        num_slots = len(ids)
        self.check_window(max(cache.seq_lens[:num_slots]) + 1)
        cache.reserve(max(cache.seq_lens[:num_slots]) + 1)
        bucket = cache.bucket(num_slots)
        step = functools.partial(self._step, cache, bucket)
        if self._graphs is None:
            hidden = step(ids)
        elif not self.is_fused:
            raise RuntimeError(
                "run.cuda_graphs: a decode step is captured over plain weights alone, not over LoRA that is not merged "
                "or weights that are sharded or of 8 or 4 bits; --options run.cuda_graphs=False"
            )
        else:
            hidden = self._graphs.run((num_slots, bucket), ids, cache, step)
        cache.lengths[:num_slots].add_(cache.active[:num_slots])
        cache.advance(num_slots)
        return hidden

    def head(self, hidden: Tensor) -> Tensor:
        """Return the logits (N, vocabulary) of hidden states (N, hidden)."""
        with language_autocast(self._causal_lm, hidden.device):
            logits: Tensor = self._causal_lm.get_output_embeddings()(hidden)
        return logits

    def check_window(self, length: int) -> None:
        """Raise ValueError when attention slides over fewer tokens than this."""
        if length > self._window:
            raise ValueError(f"prompt and answer have {length} tokens, but attention slides over {self._window:.0f}")

    def _step(self, cache: KVCache, bucket: int, ids: Tensor) -> Tensor:
        attention = DecodeAttention(cache, len(ids), bucket)
        return self._forward(self._causal_lm.get_input_embeddings()(ids), attention)

    def _forward(self, embeds: Tensor, attention: CachedAttention) -> Tensor:
        """Return the hidden states (T, hidden) of embeddings (T, hidden), which may be overwritten."""
        if self._layers is None or not self.is_fused:
            return self.run_modules(embeds, attention.position_ids, cached=attention)
        with without_autocast(embeds.device):
            cos, sin = self._causal_lm.model.rotary_emb(embeds, attention.position_ids[None])
            half = sin.shape[-1] // 2
            rotation = (cos[0, :, :half], sin[0, :, :half])
            for layer in self._layers:
                embeds = layer(embeds, rotation, attention)
            norm = self._causal_lm.model.norm
            return F.rms_norm(embeds, norm.weight.shape, norm.weight, norm.variance_epsilon)

    def run_modules(self, embeds: Tensor, position_ids: Tensor, **attention: Any) -> Tensor:
        """Return the hidden states (T, hidden) of a packed stream by the modules of `transformers`.

        `attention` are options of `packed_attention`.
        """
        assert self._causal_lm.config._attn_implementation == PACKED, "another attention would mix the examples"
        with language_autocast(self._causal_lm, embeds.device):
            output = self._causal_lm.base_model(
                inputs_embeds=embeds[None],
                # four dimensions: transformers then makes no mask, and the packed attention needs none
                attention_mask=embeds.new_empty(1, 1, 1, 1),
                position_ids=position_ids[None],
                use_cache=False,
                **attention,
            )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden


def _sharing(prefixes: Sequence[SharedPrefix] | None, lengths: Sequence[int]) -> list[tuple[list[int], int]]:
    """Return the prompts that share each prefix, and its length; a prompt keeps at least one token outside it."""
    sharing: dict[SharedPrefix, list[int]] = {}
    for number, prefix in enumerate(prefixes or ()):
        sharing.setdefault(prefix, []).append(number)
    groups = [
        (shared_by, min(length, *(lengths[number] - 1 for number in shared_by)))
        for (_, length), shared_by in sharing.items()
        if len(shared_by) > 1
    ]
    return [group for group in groups if group[1] > 0]
