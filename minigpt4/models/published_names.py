"""The names of MiniGPT-v2's tensors in published checkpoints."""

from __future__ import annotations

BACKBONE = ("visual_encoder.", "ln_vision.")
"""Prefixes of the vision tower's tensors."""
_PUBLISHED = {
    "language_model.model.": "llama_model.",
    "vision_tower.vit.": "visual_encoder.",
    "vision_tower.ln_vision.": "ln_vision.",
    "vision_tower.": "visual_encoder.",
    "projector.linear.": "llama_proj.",
}
"""Prefixes of our parameters, and those of published checkpoints."""


def published_name(name: str) -> str:
    """Return a parameter's name as published checkpoints have it; a published name stays as it is."""
    for ours, published in _PUBLISHED.items():
        if name.startswith(ours):
            name = published + name.removeprefix(ours)
            break
    # newer releases of peft write the adapter's name
    return name.replace(".lora_A.default.", ".lora_A.").replace(".lora_B.default.", ".lora_B.")
