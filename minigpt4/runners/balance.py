"""The loss of samples that do not all belong to one draw: the gradient is that of the draws.

Samples are shared out over the ranks, and the draws of an update may go through together. Every draw keeps its mean
over its own targets, as if its rank had computed it alone: over ranks and batches the sum of
loss / (targets of its draw) / ranks over all targets is the sum over steps of the mean of the ranks' means.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minigpt4.common.dist_utils import all_reduce_sum, get_rank
from minigpt4.conversation.conversation import Batch, Losses
from minigpt4.runners.loader import Loaded


def target_counts(parts: Sequence[Loaded], *, num_draws: int, device: torch.device) -> Tensor:
    """Return how many targets each draw has, (num_draws,) float32, from this rank's parts of it and the others'.

    These are added up in one small collective.
    """
    counts = torch.zeros(num_draws)
    for loaded in parts:
        counts.index_add_(0, loaded.groups, loaded.num_targets.float())
    return all_reduce_sum(counts.to(device, non_blocking=True))


def weigh(batch: Batch, loaded: Loaded, counts: Tensor) -> Batch:
    """Return a batch, on its device, with a weight for each label: one over the number of targets of its draw."""
    groups = loaded.groups.to(counts.device, non_blocking=True)
    return batch.with_fields(weights=_each_token(counts.reciprocal()[groups], batch))


def group_losses(output: Losses, batch: Batch, loaded: Loaded, *, num_draws: int) -> Tensor:
    """Return a batch's part of each draw's mean loss, (num_draws,) float32; over batches and ranks they add up to it.

    A batch without weights is one draw, this rank's.
    """
    losses = torch.zeros(num_draws, device=batch.input_ids.device)
    if batch.weights is None:
        losses[get_rank()] = output.loss.detach()
        return losses
    groups = _each_token(loaded.groups.to(losses.device, non_blocking=True), batch)
    places = output.target_positions
    return losses.index_add_(0, groups[places], output.target_losses * batch.weights[places])


def _each_token(values: Tensor, batch: Batch) -> Tensor:
    """Return the value of its example for each token, (B,) -> (T,)."""
    return values.repeat_interleave(batch.lengths, output_size=len(batch.input_ids))
