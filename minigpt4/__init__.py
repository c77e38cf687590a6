"""MLLM-DataEngine for MiniGPT-v2: `train`, and `load_model` for asking a model about pictures."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minigpt4.api import RunResult, train
    from minigpt4.inference import load_model

__version__ = "0.1.0"
__all__ = ["RunResult", "load_model", "train"]
_MODULES = {"RunResult": "minigpt4.api", "load_model": "minigpt4.inference", "train": "minigpt4.api"}


def __getattr__(name: str) -> Any:
    """Return a public name, imported on first use so that importing the package stays cheap."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
