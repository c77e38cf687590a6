"""What a model asks of any vision tower: patches of images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from minigpt4.common.weight_files import Shapes


class VisionTower(nn.Module, ABC):
    """A vision tower; a subclass makes its modules, and overrides `encode`, `count_patches` and `from_config`.

    `blocks` are its layers: `run.compile` takes them when the tower is frozen, and FLOPs are counted by them. A tower
    that reads `model.vit_ckpt` overrides `weight_shapes` too; `weights_url` is where a user downloads that file.
    """

    weights_url: ClassVar[str] = ""

    blocks: Sequence[nn.Module]

    def __init__(self, *, image_size: int, num_patches: int, width: int, is_frozen: bool) -> None:
        super().__init__()
        self.image_size = image_size
        self.num_patches = num_patches
        self.width = width
        self.is_frozen = is_frozen

    @classmethod
    @abstractmethod
    def count_patches(cls, cfg: Any) -> int:
        """Return the number of patches of an image by a `model` section; no weights are read.

        Raises: ValueError naming the option when sizes disagree.
        """

    @classmethod
    @abstractmethod
    def from_config(cls, cfg: Any, *, dtype: torch.dtype) -> VisionTower:
        """Build from a `model` section, frozen weights in `dtype`; options of a plugin's tower are `vit_options`.

        Raises: ValueError naming the option when weights are missing or do not fit.
        """

    @classmethod
    def weight_shapes(cls, cfg: Any, given: Shapes) -> Shapes | None:
        """Return the tensors that the file of `model.vit_ckpt` must hold; None when the tower does not read it.

        `given` are those that it holds. Shapes that the tower converts as it loads them are returned as given.
        """
        return None

    @classmethod
    def wrong_options(cls, cfg: Any) -> Iterator[str]:
        """Yield what is wrong with the options of a `model` section that disagree with each other."""
        yield from ()

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Return the patches (N, patches, width) of images (N, 3, H, W); N is at least 1; no gradient if frozen."""

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
