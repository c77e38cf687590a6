"""The old place of `minigpt4.api`, for one release."""

from __future__ import annotations

import warnings

from minigpt4.api import Assistant, Chat, build_model, load_model, open_picture

__all__ = ["Assistant", "Chat", "build_model", "load_model", "open_picture"]

warnings.warn("minigpt4.inference is minigpt4.api now", DeprecationWarning, stacklevel=2)
