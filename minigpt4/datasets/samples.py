"""The parts of a mixture: its components, references to samples, and fetched samples."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from minigpt4.conversation.conversation import Example

STREAM_BLOCK = 4096
"""Rows of one block of a stream. They come from one shard, and each rank has other blocks."""


@dataclass(frozen=True)
class MixtureComponent:
    """One dataset of a mixture: its number of rows (None for a stream), its batch size and its sampling ratio."""

    name: str
    num_rows: int | None
    batch_size: int
    ratio: float
    lengths: np.ndarray | None = field(default=None, compare=False, repr=False)
    """Estimated tokens of each row, (num_rows,); balancing uses them."""
    length: float = 1.0
    """Estimated tokens of a row without `lengths`."""

    def cost(self, row: int) -> float:
        """Return the estimated tokens of a row."""
        return self.length if self.lengths is None else float(self.lengths[row])

    def __post_init__(self) -> None:
        if self.num_rows == 0:
            raise ValueError(f"datasets.{self.name} has no rows")
        if self.batch_size < 1:
            raise ValueError(f"datasets.{self.name}.batch_size should be 1 or more, not {self.batch_size}")
        if not (self.ratio >= 0 and math.isfinite(self.ratio)):
            raise ValueError(f"datasets.{self.name}.sample_ratio should be 0 or more, not {self.ratio}")


@dataclass(frozen=True, slots=True)
class SampleRef:
    """One sample to fetch. Its random choices derive from (seed, dataset, pass_index, row)."""

    dataset: str
    row: int
    pass_index: int
    micro_batch_id: int = 0  # the rank that took it, plus world_size times the step inside a batch of several steps


@dataclass(frozen=True, slots=True)
class BadSample:
    """Replaces a sample that could not be made; `reason` is for the user."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample reference with the fetched content."""

    ref: SampleRef
    content: Example | BadSample


def mixing_weights(components: Sequence[MixtureComponent]) -> np.ndarray:
    """Return each component's probability, (num_components,) float64. Raises: ValueError when all ratios are 0."""
    ratios = np.array([component.ratio for component in components], np.float64)
    if not ratios.sum() > 0:
        raise ValueError("datasets: at least one sample_ratio should be above 0")
    weights: np.ndarray = ratios / ratios.sum()
    return weights


def balance_by_cost(
    micro_batches: Sequence[Sequence[SampleRef]], components: Sequence[MixtureComponent], *, num_ranks: int
) -> list[list[SampleRef]]:
    """Return the samples of one or more steps, redistributed so that the ranks' costs come out even.

    `micro_batches` are those of every rank at the first step, then at the next; `components` are their datasets. The
    costliest samples go first, each to the rank with the lowest cost. Samples of streams stay on their rank. The result
    depends on the arguments only, so that every rank plans the same.
    """
    plan: list[list[SampleRef]] = [[] for _ in range(num_ranks)]
    loads = [0.0] * num_ranks
    movable = []
    for number, (refs, component) in enumerate(zip(micro_batches, components, strict=True)):
        if component.num_rows is None:
            plan[number % num_ranks] += refs
            loads[number % num_ranks] += component.length * len(refs)
        else:
            movable += [(-component.cost(ref.row), number, position) for position, ref in enumerate(refs)]
    heap = sorted((load, rank) for rank, load in enumerate(loads))
    for minus_cost, number, position in sorted(movable):
        load, rank = heapq.heappop(heap)
        plan[rank].append(micro_batches[number][position])
        heapq.heappush(heap, (load - minus_cost, rank))
    return plan
