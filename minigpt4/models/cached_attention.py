"""Attention that reads and writes the KV cache: of packed prompts (prefill) and of one new token a slot."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from minigpt4.models.attention import causal_mask, one_by_one, packed_attention, varlen, varlen_prefix_works
from minigpt4.models.kv_cache import KVCache, upload


@dataclass(frozen=True, slots=True)
class Segment:
    """`size` new tokens of a packed stream, which follow the first `start` positions of a slot.

    Their keys and values are written into the slot from position `write_at` on, by default right after `start`.
    """

    slot: int
    size: int
    start: int = 0
    write_at: int | None = None

    @property
    def written(self) -> range:
        """The positions of the slot that the new tokens take."""
        first = self.start if self.write_at is None else self.write_at
        return range(first, first + self.size)


class CachedAttention:
    """What reads and writes a KV cache in each layer; `position_ids` (T,) int64 are those of the new tokens."""

    position_ids: Tensor

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache

    def run(self, layer: int, query: Tensor, keys_values: Tensor, scaling: float | None = None) -> Tensor:
        """Write keys and values (T, 2, kv_heads, size); return the attention of `query` (T, heads, size)."""
        raise NotImplementedError

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, *, scaling: float | None = None) -> Tensor:
        """Do the same as `transformers` calls it: (1, heads, T, size) in, (1, T, heads, size) out."""
        dtype = self._cache.data.dtype
        keys_values = torch.stack([key[0], value[0]]).permute(2, 0, 1, 3)
        return self.run(module.layer_idx, query[0].transpose(0, 1).to(dtype), keys_values.to(dtype), scaling)[None]


class PrefillAttention(CachedAttention):
    """Causal attention of the segments of a packed stream, each over the beginning of its slot and itself."""

    def __init__(self, cache: KVCache, segments: Sequence[Segment]) -> None:
        super().__init__(cache)
        self.sizes = tuple(segment.size for segment in segments)
        self._has_prefix = any(segment.start for segment in segments)
        slots: list[int] = []
        written: list[int] = []
        positions: list[int] = []
        seen_slots: list[int] = []  # where what is attended to lies, segment after segment
        seen: list[int] = []
        for one in segments:
            slots += [one.slot] * one.size
            written += one.written
            positions += range(one.start, one.start + one.size)
            if self._has_prefix:
                seen_slots += [one.slot] * (one.start + one.size)
                seen += [*range(one.start), *one.written]
        self.seen_sizes = tuple(one.start + one.size for one in segments)
        bounds = [[0, *itertools.accumulate(sizes)] for sizes in (self.sizes, self.seen_sizes)]
        sent = upload([slots, written, positions, seen_slots, seen, *bounds], cache.data.device)
        self._slots, self._written, self.position_ids = sent[:3]
        self._seen_rows = cache.rows(*sent[3:5]) if self._has_prefix else None
        self._bounds, self._seen_bounds = (x.int() for x in sent[5:])
        self._masks: list[Tensor | None] | None = None

    def run(self, layer: int, query: Tensor, keys_values: Tensor, scaling: float | None = None) -> Tensor:
        """Write keys and values (T, 2, kv_heads, size); return the attention of `query` (T, heads, size)."""
        assert scaling is None or math.isclose(scaling, query.shape[-1] ** -0.5)
        self._cache.write(layer, self._slots, self._written, keys_values)
        if self._seen_rows is None:
            query, key, value = (x.transpose(0, 1)[None] for x in (query, *keys_values.unbind(1)))
            output, _ = packed_attention(None, query, key, value, None, sizes=self.sizes, bounds=self._bounds)
            return output[0]
        keys, values = self._cache.read(layer, self._seen_rows).unbind(1)
        if query.is_cuda and varlen_prefix_works(query.dtype, query.device):
            longest = (max(self.sizes), max(self.seen_sizes))
            return varlen((query, keys, values), (self._bounds, self._seen_bounds), longest)
        if self._masks is None:
            self._masks = [causal_mask(*pair, query) for pair in zip(self.sizes, self.seen_sizes, strict=True)]
        qkv = [x.transpose(0, 1)[None] for x in (query, keys, values)]
        return one_by_one(qkv, self.sizes, self.seen_sizes, self._masks)[0]


class DecodeAttention(CachedAttention):
    """Attention of one new token in each of the first slots over the first `bucket` positions of its slot."""

    def __init__(self, cache: KVCache, num_slots: int, bucket: int) -> None:
        super().__init__(cache)
        self._num_slots, self._bucket = num_slots, bucket
        self._slots, self.position_ids = cache.slot_ids[:num_slots], cache.lengths[:num_slots]
        places = torch.arange(bucket, device=cache.data.device)
        unseen = places > self.position_ids[:, None, None, None]
        self._mask = torch.zeros(unseen.shape, dtype=cache.data.dtype, device=unseen.device)
        self._mask.masked_fill_(unseen, -torch.inf)

    def run(self, layer: int, query: Tensor, keys_values: Tensor, scaling: float | None = None) -> Tensor:
        """Write keys and values (slots, 2, kv_heads, size); return the attention of `query` (slots, heads, size).

        The queries that share a key are taken as queries of one head, so that no key is repeated.
        """
        self._cache.write(layer, self._slots, self.position_ids, keys_values)
        keys, values = self._cache.data[layer, :, : self._num_slots, :, : self._bucket]
        grouped = query.unflatten(1, (keys.shape[1], -1))
        return F.scaled_dot_product_attention(grouped, keys, values, attn_mask=self._mask, scale=scaling).flatten(1, 2)
