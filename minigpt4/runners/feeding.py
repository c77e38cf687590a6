"""Batches on their way to the device, and images seen ahead of their step."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from minigpt4.conversation.conversation import Batch
from minigpt4.runners.loader import Loaded


class Feeder:
    """Copies batches to a device without waiting for it.

    With `encode_vision`, a frozen vision tower, a batch gets its `vision_features` on the way; on CUDA both happen on a
    second stream, beside the device's other work. `context` is entered for it.
    """

    def __init__(
        self, device: torch.device, *, encode_vision: Any = None, context: Any = contextlib.nullcontext
    ) -> None:
        self.device, self.encode_vision, self.context = device, encode_vision, context
        self.stream = torch.cuda.Stream(device) if encode_vision is not None and device.type == "cuda" else None
        if self.stream is not None:  # the encoder's weights may still be on their way
            self.stream.wait_stream(torch.cuda.current_stream(device))

    def send(self, parts: Sequence[Loaded]) -> list[tuple[Loaded, Batch]]:
        """Return each part with its batch on the device."""
        with contextlib.nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
            return [(loaded, self._bring(loaded.batch)) for loaded in parts]

    def arrive(self, sent: Sequence[tuple[Loaded, Batch]]) -> None:
        """Have the device's work from here on wait for what was sent."""
        if self.stream is None:
            return
        here = torch.cuda.current_stream(self.device)
        here.wait_stream(self.stream)
        for _, batch in sent:
            for tensor in _tensors(batch):
                tensor.record_stream(here)  # else its memory could be given away while `here` still reads it

    def _bring(self, batch: Batch) -> Batch:
        batch = batch.to(self.device, non_blocking=True)
        if self.encode_vision is not None and len(batch.images):
            with self.context(), torch.no_grad():
                return batch.with_fields(vision_features=self.encode_vision(batch.images))
        return batch


def _tensors(batch: Batch) -> list[Tensor]:
    values = (getattr(batch, one.name) for one in fields(batch))
    return [value for value in values if isinstance(value, Tensor)]
