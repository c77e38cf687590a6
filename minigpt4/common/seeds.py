"""Seeds: every random choice of a run derives from the configured seed and from the place of the choice."""

from __future__ import annotations

import hashlib
import random

import torch


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on the parts alone, on every machine and Python version.

    Example: `derive_seed(42, "gqa", 0, 17)` for the random choices of row 17 in pass 0.
    """
    key = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1


def derive_rng(*parts: int | str) -> random.Random:
    """Return Python's generator seeded by `derive_seed(*parts)`."""
    return random.Random(derive_seed(*parts))


def seed_torch(*parts: int | str) -> None:
    """Seed PyTorch's generators (CPU and CUDA) by `derive_seed(*parts)`: dropout masks of one step."""
    torch.manual_seed(derive_seed(*parts))
