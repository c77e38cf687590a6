"""run.json: what a run is, written next to its checkpoints when it starts."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minigpt4.common.dist_utils import get_world_size
from minigpt4.common.files import write_text
from minigpt4.datasets.mixture import ENDLESS, Ingredient, shares

PACKAGES = ("torch", "transformers", "peft", "timm", "numpy", "pillow", "sentencepiece", "omegaconf")
NUM_PROBES = 32


def fingerprint(model: nn.Module) -> str:
    """Return a short name of the frozen weights: of their names, shapes, types and some values of each.

    Another base model, another size or another 16-bit type has another one. To be called before weights are sharded.
    """
    digest = hashlib.blake2b(digest_size=8)
    if any(parameter.is_meta for parameter in model.parameters()):
        return "random weights"
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            continue
        flat = parameter.detach().flatten()
        probes = flat[:: max(flat.numel() // NUM_PROBES, 1)][:NUM_PROBES].float().cpu()
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode() + probes.numpy().tobytes())
    return digest.hexdigest()


def describe_mixture(ingredients: Sequence[Ingredient], *, num_steps: int) -> list[dict[str, Any]]:
    """Return each dataset's rows, batch size, ratio, and how many samples of it all ranks are expected to take."""
    num_draws = num_steps * get_world_size()
    return [
        {
            "dataset": ingredient.name,
            "num_rows": None if ingredient.num_rows == ENDLESS else ingredient.num_rows,
            "batch_size": ingredient.batch_size,
            "sample_ratio": ingredient.ratio,
            "share": float(share),
            "expected_samples": round(share * num_draws * ingredient.batch_size),
        }
        for ingredient, share in zip(ingredients, shares(ingredients), strict=True)
    ]


def describe_run(
    model: Any,
    config: Mapping[str, Any],
    ingredients: Sequence[Ingredient],
    *,
    num_steps: int,
    device: torch.device,
    base_model: str,
) -> dict[str, Any]:
    """Return what run.json says."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "versions": {"python": platform.python_version(), **{p: metadata.version(p) for p in PACKAGES}},
        "device": f"{device.type}: {name}",
        "world_size": get_world_size(),
        "seed": config["run"]["seed"],
        "num_trainable": model.num_trainable(),
        "num_frozen": sum(p.numel() for p in model.parameters() if not p.requires_grad),
        "fingerprint": base_model,
        "mixture": describe_mixture(ingredients, num_steps=num_steps),
        "config": dict(config),
    }


def write_run_file(path: Path, description: Mapping[str, Any]) -> None:
    """Write run.json, whole or not at all."""
    write_text(path, json.dumps(description, indent=2) + "\n")
