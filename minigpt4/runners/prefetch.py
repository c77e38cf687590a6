"""Copies packed batches to the device, with `run.look_ahead` one step before their use."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from minigpt4.conversation.conversation import Batch
from minigpt4.runners.loader import PackedBatch


class DevicePrefetcher:
    """Copies the items of a loader to a device, without waiting for the device, which holds at most two of them.

    With `look_ahead` an item is fetched and sent while the device computes the one before. With `encode_vision`, a
    frozen vision tower, a batch also gets its `vision_features`; on CUDA both run on a second stream. `context` is
    entered for `encode_vision`.
    """

    def __init__(
        self,
        source: Iterator[list[PackedBatch]],
        device: torch.device,
        *,
        look_ahead: bool = False,
        encode_vision: Callable[[Tensor], Tensor] | None = None,
        context: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        self.device, self.look_ahead = device, look_ahead
        self._source, self._encode_vision, self._context = source, encode_vision, context
        self._sent: list[PackedBatch] | None = None
        self.stream = torch.cuda.Stream(device) if encode_vision is not None and device.type == "cuda" else None
        if self.stream is not None:  # which may still copy the encoder's weights
            self.stream.wait_stream(torch.cuda.current_stream(device))

    def prefetch(self) -> None:
        """Fetch and send the next item, unless that is done or the source has ended."""
        if self._sent is None and (fetched := next(self._source, None)) is not None:
            with contextlib.nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
                self._sent = [self._send(packed) for packed in fetched]

    def wait(self) -> list[PackedBatch]:
        """Return the next item, which must exist; later work of the device waits for it."""
        self.prefetch()
        sent, self._sent = self._sent, None
        assert sent is not None, "the loader ended before the run"
        if self.stream is not None:
            here = torch.cuda.current_stream(self.device)
            here.wait_stream(self.stream)
            for packed in sent:
                for value in (packed.micro_batch_ids, *(getattr(packed.batch, one.name) for one in fields(Batch))):
                    if isinstance(value, Tensor):
                        value.record_stream(here)  # keeps its memory while `here` reads it
        return sent

    def _send(self, packed: PackedBatch) -> PackedBatch:
        packed = packed.to(self.device)
        if self._encode_vision is None or not len(packed.batch.images):
            return packed
        with self._context(), torch.no_grad():
            features = self._encode_vision(packed.batch.images)
        return replace(packed, batch=packed.batch.with_fields(vision_features=features))
