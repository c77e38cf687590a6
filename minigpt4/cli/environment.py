"""`minigpt4 env`: versions and devices, for a bug report."""

from __future__ import annotations

import argparse
import os
import platform
from importlib import metadata

import torch

from minigpt4 import __version__

PACKAGES = (
    *("torch", "torchvision", "timm", "transformers", "peft", "tokenizers", "sentencepiece", "safetensors"),
    *("huggingface-hub", "omegaconf", "numpy", "pillow", "triton", "pandas", "openpyxl", "tensorboard", "matplotlib"),
    *("bitsandbytes", "wandb"),
)


def run(args: argparse.Namespace, prog: str) -> int:
    """Print one line for each fact: this package, Python, the system, installed packages and devices."""
    facts = {"minigpt4": __version__, "python": platform.python_version(), "system": platform.platform()}
    for name, value in {**facts, **{name: version_of(name) for name in PACKAGES}, **devices()}.items():
        print(f"{name:{max(map(len, PACKAGES))}}  {value}")
    return 0


def version_of(package: str) -> str:
    """Return the version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def devices() -> dict[str, str]:
    """Return the CPU, CUDA, cuDNN and each GPU."""
    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    facts = {"cpu": f"{platform.processor() or platform.machine()}, {cores}"}
    facts["cuda"] = f"built for {torch.version.cuda or 'no CUDA'}, cuDNN {torch.backends.cudnn.version() or 'absent'}"
    if not torch.cuda.is_available():
        return {**facts, "gpu": "none"}
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        memory = f"{about.total_memory / 2**30:.0f} GiB"
        facts[f"gpu {number}"] = f"{about.name}, {memory}, compute capability {about.major}.{about.minor}"
    return facts
