"""Model FLOPs of a training step, and their share of the device's peak (MFU).

2 a multiply-add; frozen weights have no weight gradient, recomputation does not count; P is a number of weights:
    ViT         2 P_vit n + 4 depth d n^2 an image of n patch tokens          (forward only; trained: three times that)
    projection  6 P_proj an image token                                      (forward, both gradients)
    LLM         4 P_llm a token + 6 layers d len^2 an example                (forward, activation gradient; causal half)
    LoRA        6 P_lora a token;   head  4 P_head a target token
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import nn

from minigpt4.conversation.conversation import Batch

PEAK_FLOPS = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H200 NVL": 835e12,
    "H100": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIE": 756e12,
    "A100": 312e12,
    "A800": 312e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L4": 121e12,
    "V100": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Dense 16-bit peak with float32 accumulation of a device, FLOP/s, by words of its name."""


class ModelFlops:
    """The formula above with the sizes of a model's four parts filled in; call it with a batch."""

    def __init__(self, model: Any) -> None:
        tower, projector, language_model = model.vision_tower, model.projector.linear, model.language_model
        lora, llm = _count(language_model, is_lora=True), sum(_count(layer) for layer in language_model.layers)
        self._token = 4 * llm + 6 * lora
        self._squared_length = 6 * language_model.hidden_size * len(language_model.layers)
        self._target = 4.0 * _count(language_model.causal_lm.get_output_embeddings())
        passes = 1 if tower.is_frozen else 3
        attention = 4 * len(tower.blocks) * tower.width * tower.num_patches**2
        vit = 2 * sum(_count(block) for block in tower.blocks) * tower.num_patches + attention
        num_image_tokens = tower.num_patches * tower.width // projector.in_features
        self._image = {"vit": passes * vit, "projection": 6 * _count(projector) * num_image_tokens}

    def __call__(self, batch: Batch) -> float:
        """Return the FLOPs of one step on a batch, without waiting for the device."""
        return sum(self.parts(batch).values())

    def parts(self, batch: Batch) -> dict[str, float]:
        """Return the same by part: vit, projection, llm (with LoRA), head."""
        llm = self._token * sum(batch.sizes) + self._squared_length * float(sum(size**2 for size in batch.sizes))
        images = {part: float(each * len(batch.images)) for part, each in self._image.items()}
        return {**images, "llm": llm, "head": self._target * len(batch.target_positions)}


def model_flops(model: Any) -> ModelFlops | None:
    """Return the counter of a model, or None for one without vision tower, projector and language model."""
    parts = ("vision_tower", "projector", "language_model")
    return ModelFlops(model) if all(hasattr(model, part) for part in parts) else None


def peak_flops(device_name: str) -> float | None:
    """Return the peak of a device by its CUDA name; None for an unknown device or a MIG slice."""
    words = re.split(r"[^A-Z0-9]+", device_name.upper())
    if {"MIG", "LAPTOP"} & set(words):
        return None
    fitting = [name for name in PEAK_FLOPS if set(name.split()) <= set(words)]
    return PEAK_FLOPS[max(fitting, key=len)] if fitting else None


def utilisation(flops: float, *, seconds: float, device: torch.device, num_devices: int = 1) -> float | None:
    """Return the MFU: `flops` of all devices together as a share of their peak; None where no peak is known."""
    peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return flops / seconds / (peak * num_devices) if peak and seconds > 0 else None


def _count(module: nn.Module, *, is_lora: bool = False) -> int:
    """Return the number of weights of a module's LoRA, or of all the rest; 4-bit weights count as unpacked."""
    named = [parameter for name, parameter in module.named_parameters() if ("lora_" in name) == is_lora]
    packed = [getattr(parameter, "quant_state", None) for parameter in named]
    return sum(p.numel() if one is None else math.prod(one.shape) for p, one in zip(named, packed, strict=True))
