"""Losses on held-out splits: every row once, in order, shared over the ranks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch.utils.data import Sampler

from minigpt4.common.dist_utils import all_reduce_sum, get_rank, get_world_size
from minigpt4.common.liveness import WAITING, pulse
from minigpt4.datasets.mixture import Draw, MixtureDataset

if TYPE_CHECKING:
    from minigpt4.runners.runner_base import RunnerBase

logger = logging.getLogger(__name__)


class _EveryRow(Sampler[list[Draw]]):
    """This rank's rows of a dataset, `batch_size` at a time; ranks have equally many batches, the last may be empty."""

    def __init__(self, name: str, num_rows: int, batch_size: int) -> None:
        self.name, self.num_rows, self.batch_size = name, num_rows, batch_size

    def __len__(self) -> int:
        return -(-self.num_rows // (self.batch_size * get_world_size()))

    def __iter__(self) -> Iterator[list[Draw]]:
        rows = range(get_rank(), self.num_rows, get_world_size())
        for number in range(len(self)):
            chunk = rows[number * self.batch_size : (number + 1) * self.batch_size]
            yield [Draw(self.name, row, 0) for row in chunk]


@torch.no_grad()
def mean_losses(runner: RunnerBase, splits: Sequence[str]) -> dict[str, float]:
    """Return the mean loss a target token of every dataset that has one of the splits, as "name/split".

    Raises: ValueError when no dataset has one of them.
    """
    found = {f"{name}/{s}": sets[s] for name, sets in runner.datasets.items() for s in splits if s in sets}
    if not found:
        raise ValueError(f"no dataset has one of the splits {list(splits)}; they come from build_info.annotations")
    runner.model.eval()
    losses = {}
    for name, dataset in found.items():
        batch_size = runner.cfg.datasets_cfg[name.rpartition("/")[0]].batch_size
        sampler = _EveryRow(name, len(dataset), batch_size)
        sums = torch.zeros(2, dtype=torch.float64, device=runner.device)
        for [loaded] in runner.loader(MixtureDataset({name: dataset}, seed=runner.run.seed), sampler):
            if loaded.left_out:
                logger.warning("%s: left out: %s", name, "; ".join(item.reason for item in loaded.left_out))
            with runner.autocast():
                losses_of = runner.task.train_step(runner.parallel.module, loaded.batch.to(runner.device))
            sums += torch.tensor([float(losses_of.target_losses.sum()), losses_of.num_targets], device=runner.device)
        with pulse.during(WAITING):
            total, count = all_reduce_sum(sums).tolist()
        losses[name] = total / max(count, 1)
        logger.info("%s: loss %.4f over %d rows", name, losses[name], len(dataset))
    runner.model.train()
    return losses
