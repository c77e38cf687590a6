"""Which steps come together: what the loader gives at once, and which steps share an update."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from omegaconf import DictConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Steps `first` to `last`, which the loader gives at once: one of them, or all that share an update.

    num_accumulated: the steps that share the update; updates: whether it follows these; ends_epoch: whether they are
    the last of their epoch.
    """

    first: int
    last: int
    num_accumulated: int
    updates: bool
    ends_epoch: bool

    @property
    def num_steps(self) -> int:
        """Return the number of steps."""
        return self.last + 1 - self.first

    def completes(self, every: int | None) -> bool:
        """Return whether a multiple of `every` steps is done with these."""
        return every is not None and (self.last + 1) // every > self.first // every

    def completes_since_update(self, every: int | None) -> bool:
        """Return whether a multiple of `every` steps was done since the update before the one that follows these."""
        done = self.last + 1
        return self.updates and every is not None and done // every > (done - self.num_accumulated) // every


def spans(run_cfg: DictConfig, *, start: int, num_steps: int) -> Iterator[Span]:
    """Yield the spans of a run from step `start` on.

    An update follows every `accum_grad_iters` steps and the last step of an epoch. Its steps come one by one, or with
    `max_tokens_per_forward` all at once.
    """
    accumulated, per_epoch = run_cfg.accum_grad_iters, run_cfg.iters_per_epoch
    step = start
    while step < num_steps:
        iteration = step % per_epoch
        first = iteration - iteration % accumulated
        num_accumulated = min(accumulated, per_epoch - first)
        left = first + num_accumulated - iteration
        num_taken = 1 if run_cfg.max_tokens_per_forward is None else left
        yield Span(
            first=step,
            last=step + num_taken - 1,
            num_accumulated=num_accumulated,
            updates=num_taken == left,
            ends_epoch=iteration + num_taken == per_epoch,
        )
        step += num_taken
