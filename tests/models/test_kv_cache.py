"""The KV cache: what was written at slots and positions is read back there."""

from types import SimpleNamespace

import torch

from minigpt4.models.kv_cache import KVCache

SIZES = SimpleNamespace(num_hidden_layers=3, num_key_value_heads=2, num_attention_heads=4, hidden_size=32, head_dim=8)


def test_rows_find_the_keys_and_values_of_slots_and_positions():
    cache = KVCache(SIZES, num_slots=4, length=40, dtype=torch.float32, device=torch.device("cpu"))
    slots, positions = torch.tensor([2, 0, 3, 2]), torch.tensor([5, 0, 39, 6])
    written = torch.randn(4, 2, 2, 8, generator=torch.Generator().manual_seed(0))
    cache.write(1, slots, positions, written)
    order = torch.tensor([3, 0, 2, 1, 3])
    rows = cache.rows(slots[order], positions[order])
    assert torch.equal(cache.read(1, rows), written[order])
    assert not cache.read(0, rows).any() and not cache.read(2, rows).any()
    cache.reserve(100)
    assert torch.equal(cache.read(1, cache.rows(slots, positions)), written)
