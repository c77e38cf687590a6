"""The KV cache: keys and values of several sequences, and the attention of prefill and decode steps over it."""

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

BUCKET, CPU_BUCKET = 256, 32
"""Attention reads a multiple of this many positions: few shapes on a GPU, few empty positions on a CPU."""


class KVCache:
    """Keys and values (layers, 2, slots, kv_heads, length, head_dim), written in place.

    `lengths` (slots,) int64 says how many positions of each slot are filled, `seq_lens` the same as numbers of the
    host; `active` (slots,) int64 is 1 where a decode step appends, and 0 in a free slot.
    """

    def __init__(self, config: Any, *, num_slots: int, length: int, dtype: torch.dtype, device: torch.device) -> None:
        self.bucket_size = CPU_BUCKET if device.type == "cpu" else BUCKET
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, 2, num_slots, config.num_key_value_heads, self._round_up(length), head_dim)
        # zeros: a masked position counts nothing, but zero times what memory may hold is not always zero
        self.data = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self.active = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self.slot_ids = torch.arange(num_slots, device=device)
        self.seq_lens = [0] * num_slots

    @property
    def num_slots(self) -> int:
        """The number of sequences that fit."""
        return self.data.shape[2]

    @property
    def length(self) -> int:
        """The number of positions of a slot."""
        return self.data.shape[4]

    def bucket(self, num_slots: int) -> int:
        """Return how many positions the next decode step of the first slots reads, a multiple of the bucket size."""
        return self._round_up(max(self.seq_lens[:num_slots]) + 1)

    def reserve(self, length: int) -> None:
        """Make room for `length` positions a slot, at least twice as many as before where that moves the data."""
        if length <= self.length:
            return
        wider = self.data.new_zeros(
            *self.data.shape[:4], self._round_up(max(length, 2 * self.length)), self.data.shape[5]
        )
        wider[..., : self.length, :] = self.data
        self.data = wider

    def free(self, slot: int) -> None:
        """Empty a slot: decode steps append nothing to it until it is filled again."""
        self.seq_lens[slot] = 0
        self.lengths[slot] = 0
        self.active[slot] = 0

    def move_to_own_memory(self) -> None:
        """Copy the memory that other caches share with this one, so that their steps do not change it."""
        self.data, self.lengths, self.active = self.data.clone(), self.lengths.clone(), self.active.clone()

    def clear(self) -> None:
        """Empty all slots."""
        self.data.zero_()
        self.lengths.zero_()
        self.active.zero_()
        self.seq_lens = [0] * self.num_slots

    def fill(self, slots: Sequence[int], seq_lens: Sequence[int]) -> None:
        """Take the first positions of these slots, which have been written, as their sequences."""
        for slot, seq_len in zip(slots, seq_lens, strict=True):
            self.seq_lens[slot] = seq_len
        where, lengths = upload([slots, seq_lens], self.data.device)
        self.lengths.index_copy_(0, where, lengths)
        self.active.index_fill_(0, where, 1)

    def advance(self, num_slots: int) -> None:
        """Count on the host what a decode step of the first slots appended."""
        for slot in range(num_slots):
            if self.seq_lens[slot]:
                self.seq_lens[slot] += 1

    def copy_prefix(self, source: int, targets: Sequence[int], length: int) -> None:
        """Copy the first positions of one slot into others."""
        if targets:
            [where] = upload([targets], self.data.device)
            shared = self.data[:, :, source : source + 1, :, :length]
            self.data[..., :length, :].index_copy_(2, where, shared.expand(-1, -1, len(targets), -1, -1, -1))

    def write(self, layer: int, slots: Tensor, positions: Tensor, keys_values: Tensor) -> None:
        """Write keys and values (T, 2, kv_heads, head_dim) of one layer at T places, given by slot and position."""
        self.data[layer].permute(1, 3, 0, 2, 4).index_put_((slots, positions), keys_values)

    def rows(self, slots: Tensor, positions: Tensor) -> Tensor:
        """Return where `read` finds T places of a layer, given by slot and position: (T * 2 * kv_heads,) int64."""
        num_slots, num_heads, length = self.data.shape[2:5]
        heads = torch.arange(num_heads, device=slots.device) * length
        keys = (slots * num_heads * length + positions)[:, None] + heads
        return torch.stack([keys, keys + num_slots * num_heads * length], dim=1).flatten()

    def read(self, layer: int, rows: Tensor) -> Tensor:
        """Return keys and values (T, 2, kv_heads, head_dim) of one layer at the places that `rows` made rows of."""
        found = self.data[layer].flatten(0, 3).index_select(0, rows)
        return found.view(-1, 2, self.data.shape[3], self.data.shape[5])

    def _round_up(self, length: int) -> int:
        return -(-max(length, 1) // self.bucket_size) * self.bucket_size


def upload(rows: Sequence[Sequence[int]], device: torch.device) -> list[Tensor]:
    """Return lists of numbers as int64 tensors on a device, sent in one copy that waits for nothing."""
    packed = torch.tensor([number for row in rows for number in row], dtype=torch.int64)
    return list(send(packed, device).split([len(row) for row in rows]))


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on a device, sent through page-locked memory where that spares a wait."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


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
