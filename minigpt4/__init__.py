"""MLLM-DataEngine for MiniGPT-v2: training, evaluation, and `load_model` for asking a model about pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minigpt4.inference import load_model

__version__ = "0.1.0"
__all__ = ["load_model"]


def __getattr__(name: str) -> Any:
    """Return `load_model`, imported on first use so that importing the package stays cheap."""
    if name == "load_model":
        from minigpt4.inference import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
