"""MLLM-DataEngine for MiniGPT-v2: training, evaluation, and `load_model` for asking a model about pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minigpt4.api import evaluate, load_model

__all__ = ["evaluate", "load_model"]


def __getattr__(name: str) -> Any:
    """Return a function of `api`, imported on first use so that importing the package stays cheap."""
    if name in __all__:
        from minigpt4 import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
