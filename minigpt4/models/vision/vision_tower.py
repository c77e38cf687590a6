"""What a model asks of any vision tower: patches of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class VisionTower(nn.Module):
    """A vision tower; a subclass makes its modules, and overrides `encode`, `count_patches` and `from_config`.

    `blocks` are its layers: `run.compile` takes them when the tower is frozen, and FLOPs are counted by them.
    """

    blocks: Sequence[nn.Module]

    def __init__(self, *, image_size: int, num_patches: int, width: int, is_frozen: bool) -> None:
        super().__init__()
        self.image_size = image_size
        self.num_patches = num_patches
        self.width = width
        self.is_frozen = is_frozen

    @classmethod
    def count_patches(cls, cfg: Any) -> int:
        """Return the number of patches of an image by a `model` section; no weights are read.

        Raises: ValueError naming the option when sizes disagree.
        """
        raise NotImplementedError

    @classmethod
    def from_config(cls, cfg: Any, *, dtype: torch.dtype) -> VisionTower:
        """Build from a `model` section, frozen weights in `dtype`; options of a plugin's tower are `vit_options`.

        Raises: ValueError naming the option when weights are missing or do not fit.
        """
        raise NotImplementedError

    def encode(self, images: Tensor) -> Tensor:
        """Return the patches (N, patches, width) of images (N, 3, H, W); N is at least 1; no gradient if frozen."""
        raise NotImplementedError

    def quantise(self) -> None:
        """Keep frozen weights in 8 bits where the tower can; called once they are where they stay."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the patches (N, patches, width) float32 of images (N, 3, H, W). N may be 0."""
        if not len(images):
            return images.new_zeros(0, self.num_patches, self.width, dtype=torch.float32)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            return self.encode(images).float()

    def train(self, mode: bool = True) -> VisionTower:
        """Set the mode; a frozen tower is always in eval mode."""
        super().train(mode and not self.is_frozen)
        return self
