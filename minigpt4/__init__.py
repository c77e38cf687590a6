"""MLLM-DataEngine for MiniGPT-v2: `train`, and `load_model` for asking a model about pictures."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minigpt4.api import Results, RunResult, evaluate, load_model, train

__version__ = "0.1.0"
__all__ = ["Results", "RunResult", "evaluate", "load_model", "train"]


def __getattr__(name: str) -> Any:
    """Return a name of `api`, imported on first use so that importing the package stays cheap."""
    if name in __all__:
        return getattr(import_module("minigpt4.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
