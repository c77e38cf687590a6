"""Optimizer updates: the steps of each, and its batches, which are copied to the device ahead of their use."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from minigpt4.common.liveness import pulse
from minigpt4.common.schema import RunConfig
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


@dataclass(frozen=True, slots=True, kw_only=True)
class AccumulationWindow:
    """The steps `first` to `last` of one optimizer update.

    num_accumulated: the micro-batches of the update on a rank, also when a resumed run takes only the last of them;
    is_packed: whether they are packed together (`run.max_tokens_per_forward`); ends_epoch: whether `last` ends an
    epoch.
    """

    first: int
    last: int
    num_accumulated: int
    is_packed: bool = False
    ends_epoch: bool = False

    @property
    def num_steps(self) -> int:
        """Return the number of steps."""
        return self.last + 1 - self.first

    @property
    def steps_at_once(self) -> int:
        """Return how many steps one item of the loader holds: all or one."""
        return self.num_steps if self.is_packed else 1

    def completed(self, every: int) -> list[int]:
        """Return the steps that complete a multiple of `every` steps; a packed window returns its last step."""
        steps = [step for step in range(self.first, self.last + 1) if (step + 1) % every == 0]
        return [self.last] if self.is_packed and steps else steps

    def completes_since_update(self, every: int | None) -> bool:
        """Return whether a multiple of `every` steps was completed since the last update."""
        done = self.last + 1
        return every is not None and done // every > (done - self.num_accumulated) // every


def accumulation_windows(run_cfg: RunConfig, *, start: int, num_steps: int) -> Iterator[AccumulationWindow]:
    """Yield the windows of a run from step `start`: one for every `accum_grad_iters` steps; an epoch ends one too."""
    accumulated, per_epoch = run_cfg.accum_grad_iters, run_cfg.iters_per_epoch
    step = start
    while step < num_steps:
        iteration = step % per_epoch
        first = iteration - iteration % accumulated
        num_accumulated = min(accumulated, per_epoch - first)
        left = first + num_accumulated - iteration
        yield AccumulationWindow(
            first=step,
            last=step + left - 1,
            num_accumulated=num_accumulated,
            is_packed=run_cfg.max_tokens_per_forward is not None,
            ends_epoch=iteration + left == per_epoch,
        )
        step += left


def steps_at_once(windows: Sequence[AccumulationWindow]) -> list[int]:
    """Return the number of steps of each item that the loader yields."""
    return [window.steps_at_once for window in windows for _ in range(window.num_steps // window.steps_at_once)]


@dataclass(frozen=True, slots=True)
class Update:
    """The micro-batches of one optimizer update, on the device.

    They are fetched and sent during the iteration, so that a long window takes no more memory than a short one. With
    look-ahead, the first item of the next update is sent before this one ends.
    """

    window: AccumulationWindow
    _prefetcher: DevicePrefetcher = field(repr=False)

    def __iter__(self) -> Iterator[tuple[int, list[PackedBatch]]]:
        """Yield the first step and the packed batches of each item of the loader."""
        window = self.window
        for step in range(window.first, window.last + 1, window.steps_at_once):
            pulse.step = step
            yield step, self._prefetcher.wait()
            if self._prefetcher.look_ahead:  # while the device computes this item
                self._prefetcher.prefetch()


def updates(windows: Sequence[AccumulationWindow], prefetcher: DevicePrefetcher) -> Generator[Update]:
    """Yield the updates of a run; an item of `prefetcher` holds `steps_at_once` steps of a window."""
    for window in windows:
        pulse.step = window.first
        prefetcher.prefetch()
        yield Update(window, prefetcher)
