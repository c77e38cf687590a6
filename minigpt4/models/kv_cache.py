"""The KV cache: keys and values of several sequences, each in a slot that may be freed and filled again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

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
