"""run.json: versions, device, mixture and options of a run, written when it starts."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from minigpt4.common.dist_utils import get_world_size
from minigpt4.common.files import write_text
from minigpt4.common.weight_identity import labels
from minigpt4.datasets.samples import MixtureComponent, mixing_weights
from minigpt4.runners.train_state import TrainState

PACKAGES = ("torch", "transformers", "peft", "timm", "numpy", "pillow", "sentencepiece", "omegaconf")


def write_run_file(
    path: Path, state: TrainState, components: Sequence[MixtureComponent], *, num_steps: int, device: torch.device
) -> dict[str, Any]:
    """Write run.json, whole or not at all; return its content."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    model = state.model
    content = {
        "versions": {"python": platform.python_version(), **{p: metadata.version(p) for p in PACKAGES}},
        "device": f"{device.type}: {name}",
        "world_size": get_world_size(),
        "seed": state.config["run"]["seed"],
        "num_trainable": model.num_trainable(),
        "num_frozen": sum(p.numel() for p in model.parameters() if not p.requires_grad),
        "fingerprint": labels(state.frozen_weights_hash),
        "mismatches": list(model.mismatches),
        "mixture": _mixture(components, num_micro_batches=num_steps * get_world_size()),
        "changed_options": state.changes,
        "config": state.config,
    }
    write_text(path, json.dumps(content, indent=2) + "\n")
    return content


def _mixture(components: Sequence[MixtureComponent], *, num_micro_batches: int) -> list[dict[str, Any]]:
    """Return rows, batch size, ratio and expected number of samples of each dataset, over all ranks."""
    return [
        {
            "dataset": component.name,
            "num_rows": component.num_rows,
            "batch_size": component.batch_size,
            "sample_ratio": component.ratio,
            "share": float(share),
            "expected_samples": round(share * num_micro_batches * component.batch_size),
        }
        for component, share in zip(components, mixing_weights(components), strict=True)
    ]
