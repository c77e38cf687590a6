"""Optimizer updates: the steps of each, and its batches on the device."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

from minigpt4.common.liveness import pulse
from minigpt4.common.schema import RunConfig
from minigpt4.runners.loader import PackedBatch
from minigpt4.runners.prefetch import DevicePrefetcher


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
