"""Losses on held-out splits: every row once, in order, divided among the ranks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch.utils.data import Sampler

from minigpt4.common.dist_utils import all_reduce_sum, get_rank, get_world_size
from minigpt4.common.liveness import WAITING, pulse
from minigpt4.conversation.conversation import Batch, Losses
from minigpt4.datasets.mixture import MixtureDataset, SampleRef
from minigpt4.runners.loader import PackedBatch, iterating
from minigpt4.tasks.base_task import Datasets

logger = logging.getLogger(__name__)


class _EveryRow(Sampler[list[SampleRef]]):
    """This rank's rows of a dataset, `batch_size` at a time; all ranks have the same number of batches."""

    def __init__(self, name: str, num_rows: int, batch_size: int) -> None:
        self.name, self.num_rows, self.batch_size = name, num_rows, batch_size

    def __len__(self) -> int:
        return -(-self.num_rows // (self.batch_size * get_world_size()))

    def __iter__(self) -> Iterator[list[SampleRef]]:
        rows = range(get_rank(), self.num_rows, get_world_size())
        for number in range(len(self)):
            chunk = rows[number * self.batch_size : (number + 1) * self.batch_size]
            yield [SampleRef(self.name, row, 0) for row in chunk]


@torch.no_grad()
def mean_losses(
    forward: Callable[[Batch], Losses],
    loader: Callable[[MixtureDataset, Sampler[list[SampleRef]]], Iterable[list[PackedBatch]]],
    datasets: Datasets,
    splits: Sequence[str],
    *,
    batch_sizes: Mapping[str, int],
    seed: int,
    device: torch.device,
) -> dict[str, float]:
    """Return the mean loss of a target token for each "name/split" that the datasets have.

    `forward` is that of a model in eval mode. Raises: ValueError when no dataset has one of the splits.
    """
    found = {f"{name}/{s}": sets[s] for name, sets in datasets.items() for s in splits if s in sets}
    if not found:
        raise ValueError(f"no dataset has one of the splits {list(splits)}; they come from build_info.annotations")
    losses = {}
    for name, dataset in found.items():
        sampler = _EveryRow(name, len(dataset), batch_sizes[name.rpartition("/")[0]])
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        with iterating(loader(MixtureDataset({name: dataset}, seed=seed), sampler)) as batches:
            for [packed] in batches:
                if packed.skipped:
                    logger.warning("%s: left out: %s", name, "; ".join(skipped.reason for skipped in packed.skipped))
                output = forward(packed.batch.to(device))
                sums += torch.tensor([float(output.target_losses.sum()), output.num_targets], device=device)
        with pulse.during(WAITING):
            total, count = all_reduce_sum(sums).tolist()
        losses[name] = total / max(count, 1)
        logger.info("%s: loss %.4f over %d rows", name, losses[name], len(dataset))
    return losses
