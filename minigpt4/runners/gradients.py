"""Forward and backward of one accumulation window; each micro-batch keeps the mean loss of its targets."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minigpt4.common.dist_utils import get_world_size
from minigpt4.conversation.conversation import Batch
from minigpt4.runners.balance import group_losses, target_counts, weigh
from minigpt4.runners.loader import Loaded
from minigpt4.runners.spans import Span

if TYPE_CHECKING:
    from minigpt4.runners.runner_base import RunnerBase


def add_gradients(runner: RunnerBase, span: Span, sent: Sequence[tuple[Loaded, Batch]]) -> tuple[Tensor, float]:
    """Add the gradients of a span's batches, which are on the device; nothing here waits for it.

    Return this rank's part of every draw's loss, (steps, world_size), and the seconds before it waits for other ranks.
    """
    began = time.perf_counter()
    run, world_size = runner.run, get_world_size()
    num_draws = span.num_steps * world_size
    together = run.max_tokens_per_forward is not None
    counts = None
    if together or runner.balanced:
        counts = target_counts([one for one, _ in sent], num_draws=num_draws, device=runner.device)
    num_calls = runner.parallel.most_calls(len(sent)) if together else len(sent)
    missing = [(Loaded.empty(), Batch.empty().to(runner.device)) for _ in range(num_calls - len(sent))]
    losses = torch.zeros(num_draws, device=runner.device)
    values: list[Tensor] = []
    for loaded, batch in [*sent, *missing]:
        if counts is not None:
            batch = weigh(batch, loaded, counts)
        is_last = len(values) + 1 == num_calls
        with contextlib.nullcontext() if span.updates and is_last else runner.parallel.no_sync():
            graphs = runner.graphs if len(batch.input_ids) else None
            output = graphs(batch, num_accumulated=span.num_accumulated) if graphs else runner.forward(batch)
            losses += group_losses(output, batch, loaded, num_draws=num_draws)
            values.append(output.loss.detach())
            if not run.max_skipped_steps:
                runner.guard.watch(span.first, values[-1], loaded)
            own_seconds = time.perf_counter() - began
            if graphs is None:
                runner.backward(output, span.num_accumulated)
    if run.max_skipped_steps:
        parts = [one for one, _ in sent]
        runner.finite = not runner.guard.skips(span.first, values[: len(parts)], parts) and runner.finite
    return losses.view(span.num_steps, world_size), own_seconds
