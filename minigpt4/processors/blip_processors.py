"""The image processor (resize, normalise) and the caption processor (clean, cut)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minigpt4.common.registry import registry
from minigpt4.processors.pictures import AS_STORED, as_rgb

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_SEPARATORS = re.compile(r'[.!"()*#:;~]')
_GAPS = re.compile(r"\s{2,}")


@registry.register_processor("blip2_image_train")
@registry.register_processor("blip2_image_eval")
class BlipImageProcessor:
    """Stretches a picture to a square with Pillow's bicubic filter and normalises it by CLIP's mean and deviation.

    Training has no augmentation: a crop or a flip would make boxes wrong.
    """

    def __init__(
        self, image_size: int = 224, *, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD
    ) -> None:
        self.image_size = image_size
        self._mean = torch.tensor(tuple(mean), dtype=torch.float32).view(3, 1, 1)
        self._std = torch.tensor(tuple(std), dtype=torch.float32).view(3, 1, 1)

    @classmethod
    def from_config(cls, cfg: Mapping[str, Any]) -> BlipImageProcessor:
        """Build from `image_size`, `mean` and `std`; what is absent or null takes its default."""
        return cls(cfg.get("image_size") or 224, mean=cfg.get("mean") or CLIP_MEAN, std=cfg.get("std") or CLIP_STD)

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the picture as (3, image_size, image_size) float32."""
        size = (self.image_size, self.image_size)
        small = as_rgb(image, AS_STORED).resize(size, Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)
        values = pixels.to(torch.float32, memory_format=torch.contiguous_format)
        return values.div_(255).sub_(self._mean).div_(self._std)


@registry.register_processor("blip_caption")
class BlipCaptionProcessor:
    """Lowers a caption's case, drops its separators and cuts it to a number of words."""

    def __init__(self, prompt: str = "", *, max_words: int = 50) -> None:
        self.prompt = prompt
        self.max_words = max_words

    @classmethod
    def from_config(cls, cfg: Mapping[str, Any]) -> BlipCaptionProcessor:
        """Build from `prompt` and `max_words`; what is absent or null takes its default."""
        max_words = cfg.get("max_words")
        return cls(cfg.get("prompt") or "", max_words=50 if max_words is None else max_words)

    def __call__(self, caption: str) -> str:
        """Return the prompt followed by the cleaned caption."""
        text = _SEPARATORS.sub(" ", caption.lower())
        text = _GAPS.sub(" ", text).rstrip("\n").strip(" ")
        return self.prompt + " ".join(text.split(" ")[: self.max_words])
