"""The names of MiniGPT-v2's tensors in published checkpoints."""

from __future__ import annotations

BACKBONE = ("visual_encoder.", "ln_vision.")
"""The names of the vision encoder's tensors begin so."""
_PUBLISHED = {
    "language_model.model.": "llama_model.",
    "vision_tower.vit.": "visual_encoder.",
    "vision_tower.ln_vision.": "ln_vision.",
    "vision_tower.": "visual_encoder.",
    "projector.linear.": "llama_proj.",
}
"""How names of the model's parts begin, and what published checkpoints have in the place of that."""


def published_name(name: str) -> str:
    """Return a parameter's name as published checkpoints have it; a published name stays as it is."""
    for ours, published in _PUBLISHED.items():
        if name.startswith(ours):
            name = published + name.removeprefix(ours)
            break
    # peft has since put the adapter's name into it
    return name.replace(".lora_A.default.", ".lora_A.").replace(".lora_B.default.", ".lora_B.")
