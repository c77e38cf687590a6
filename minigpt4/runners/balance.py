"""The loss of shared-out samples: each rank computes some of all ranks' draws, the gradient is that of the draws.

Every draw keeps its mean over its own targets, as if its rank had computed it alone, so that
sum over ranks of sum over targets of loss / (targets of its draw) / ranks is the mean of the draws' means.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minigpt4.common.dist_utils import all_reduce_sum, get_rank
from minigpt4.conversation.conversation import Batch
from minigpt4.runners.loader import Loaded


def weigh(batch: Batch, loaded: Loaded, *, world_size: int) -> Batch:
    """Give a batch on its device the weights of its labels: one over the number of targets of the draw of each.

    The counts of all draws are added up over the ranks in one small collective.
    """
    device = batch.input_ids.device
    groups, num_targets = loaded.groups.to(device), loaded.num_targets.to(device)
    counts = torch.zeros(world_size, device=device).index_add_(0, groups, num_targets.float())
    per_example = all_reduce_sum(counts).reciprocal()[groups]
    batch.weights = per_example.repeat_interleave(batch.lengths, output_size=len(batch.input_ids))
    return batch


def group_losses(output: dict[str, Tensor], batch: Batch, loaded: Loaded, *, world_size: int) -> Tensor:
    """Return this rank's part of each draw's mean loss, (world_size,) float32; over the ranks they add up to it."""
    losses = torch.zeros(world_size, device=batch.input_ids.device)
    if batch.weights is None:
        losses[get_rank()] = output["loss"].detach()
        return losses
    groups = loaded.groups.to(losses.device).repeat_interleave(batch.lengths, output_size=len(batch.input_ids))
    places = output["target_places"]
    return losses.index_add_(0, groups[places], output["target_losses"] * batch.weights[places])
