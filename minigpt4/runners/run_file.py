"""run.json: what a run is, written next to its checkpoints when it starts."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from minigpt4.common.dist_utils import get_world_size
from minigpt4.common.files import write_text
from minigpt4.common.weight_identity import labels
from minigpt4.datasets.samples import MixtureComponent, mixing_weights

PACKAGES = ("torch", "transformers", "peft", "timm", "numpy", "pillow", "sentencepiece", "omegaconf")


def describe_mixture(components: Sequence[MixtureComponent], *, num_steps: int) -> list[dict[str, Any]]:
    """Return each dataset's rows, batch size, ratio, and how many samples of it all ranks are expected to take."""
    num_draws = num_steps * get_world_size()
    return [
        {
            "dataset": component.name,
            "num_rows": component.num_rows,
            "batch_size": component.batch_size,
            "sample_ratio": component.ratio,
            "share": float(share),
            "expected_samples": round(share * num_draws * component.batch_size),
        }
        for component, share in zip(components, mixing_weights(components), strict=True)
    ]


def describe_run(
    model: Any,
    config: Mapping[str, Any],
    components: Sequence[MixtureComponent],
    *,
    num_steps: int,
    device: torch.device,
    frozen_weights_hash: Mapping[str, Any],
    changes: Sequence[Mapping[str, Any]],
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
        "fingerprint": labels(frozen_weights_hash),
        "mismatches": list(model.mismatches),
        "mixture": describe_mixture(components, num_steps=num_steps),
        "changed_options": list(changes),
        "config": dict(config),
    }


def write_run_file(path: Path, description: Mapping[str, Any]) -> None:
    """Write run.json, whole or not at all."""
    write_text(path, json.dumps(description, indent=2) + "\n")
