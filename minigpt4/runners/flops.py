"""Model FLOPs of a training step, and which share of the device's peak they are (MFU).

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
"""Dense 16-bit peak with float32 accumulation of a whole device, FLOP/s, by words of its name."""
PARTS = (("vit", "vision_tower.vit.blocks"), ("proj", "projector"), ("lora", "lora_"), ("llm", ".layers."))


class ModelFlops:
    """The formula above with a model's sizes filled in; call it with a batch."""

    def __init__(self, model: Any) -> None:
        named = dict(model.named_parameters())
        self._size = {
            part: sum(
                _num_weights(p) for name, p in named.items() if key in name and ("lora_" in name) == (part == "lora")
            )
            for part, key in PARTS
        }
        self._head = _num_weights(model.language_model.causal_lm.get_output_embeddings().weight)
        width = model.projector.linear.out_features
        self._attention = 6 * width * sum(name.endswith("self_attn.o_proj.weight") for name in named)
        vit = model.vision_tower.vit
        num_patches = vit.patch_embed.num_patches
        passes = 3 if any(p.requires_grad for p in vit.parameters()) else 1
        seeing = 2 * self._size["vit"] * num_patches + 4 * len(vit.blocks) * vit.embed_dim * num_patches**2
        num_image_tokens = num_patches * vit.embed_dim // model.projector.linear.in_features
        self._image = {"vit": passes * seeing, "projection": 6 * self._size["proj"] * num_image_tokens}

    def __call__(self, batch: Batch) -> float:
        """Return the FLOPs of one step on a batch; waits for nothing."""
        return sum(self.parts(batch).values())

    def parts(self, batch: Batch) -> dict[str, float]:
        """Return the same by part: vit, projection, llm (with LoRA), head."""
        tokens = (4 * self._size["llm"] + 6 * self._size["lora"]) * sum(batch.sizes)
        attention = self._attention * float(sum(size**2 for size in batch.sizes))
        images = {part: float(each * len(batch.images)) for part, each in self._image.items()}
        return {**images, "llm": tokens + attention, "head": 4.0 * self._head * len(batch.target_positions)}


def model_flops(model: Any) -> ModelFlops | None:
    """Return the counter of a model, or None for one that is not built of a ViT, a projection and a Llama."""
    parts = ("vision_tower", "projector", "language_model")
    return ModelFlops(model) if all(hasattr(model, part) for part in parts) else None


def peak_flops(device_name: str) -> float | None:
    """Return the peak of a device by the name that CUDA gives it, None where it is not known, as of a MIG slice."""
    words = re.split(r"[^A-Z0-9]+", device_name.upper())
    if {"MIG", "LAPTOP"} & set(words):
        return None
    fitting = [name for name in PEAK_FLOPS if set(name.split()) <= set(words)]
    return PEAK_FLOPS[max(fitting, key=len)] if fitting else None


def utilisation(flops: float, *, seconds: float, device: torch.device, num_devices: int = 1) -> float | None:
    """Return the MFU: the share of the devices' peak that `flops`, done by all of them together, are."""
    peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return flops / seconds / (peak * num_devices) if peak and seconds > 0 else None


def _num_weights(parameter: nn.Parameter) -> int:
    """Return how many weights a parameter stands for; one of 4 bits is packed and tells its shape elsewhere."""
    packed = getattr(parameter, "quant_state", None)
    return parameter.numel() if packed is None else math.prod(packed.shape)
