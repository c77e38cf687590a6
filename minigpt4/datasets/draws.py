"""What a mixture is made of: its ingredients, the draws of a step, and how these are shared out evenly."""

from __future__ import annotations

import heapq
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from minigpt4.conversation.conversation import Example

ENDLESS = sys.maxsize
"""The length of a dataset that streams: its rows are numbered without end and never come again."""
STREAM_BLOCK = 4096
"""Rows of one block of a stream, which come from one shard; each rank has other blocks."""


@dataclass(frozen=True)
class Ingredient:
    """One dataset of a mixture: how many rows it has, how many a step takes, and how often relative to the others."""

    name: str
    num_rows: int
    batch_size: int
    ratio: float
    lengths: np.ndarray | None = field(default=None, compare=False, repr=False)
    """Estimated tokens of each row, (num_rows,); what balancing goes by."""
    length: float = 1.0
    """Estimated tokens of a row where `lengths` are not known."""

    def cost(self, row: int) -> float:
        """Return the estimated tokens of a row."""
        return self.length if self.lengths is None else float(self.lengths[row])

    def __post_init__(self) -> None:
        if self.num_rows < 1:
            raise ValueError(f"datasets.{self.name} has no rows")
        if self.batch_size < 1:
            raise ValueError(f"datasets.{self.name}.batch_size should be 1 or more, not {self.batch_size}")
        if not (self.ratio >= 0 and math.isfinite(self.ratio)):
            raise ValueError(f"datasets.{self.name}.sample_ratio should be 0 or more, not {self.ratio}")


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample to fetch; what is drawn for it derives from (seed, dataset, pass_index, row)."""

    dataset: str
    row: int
    pass_index: int
    group: int = 0  # the rank whose draw it belongs to; where steps come together, plus their number times the ranks


@dataclass(frozen=True, slots=True)
class BadSample:
    """What stands in a batch for a sample that could not be made, with the reason for the user."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """A draw with what it gave."""

    draw: Draw
    sample: Example | BadSample


def shares(ingredients: Sequence[Ingredient]) -> np.ndarray:
    """Return the probability of each ingredient, (num_ingredients,) float64. Raises: ValueError when all are 0."""
    ratios = np.array([ingredient.ratio for ingredient in ingredients], np.float64)
    if not ratios.sum() > 0:
        raise ValueError("datasets: at least one sample_ratio should be above 0")
    share: np.ndarray = ratios / ratios.sum()
    return share


def share_out(
    groups: Sequence[Sequence[Draw]], ingredients: Sequence[Ingredient], *, num_ranks: int
) -> list[list[Draw]]:
    """Return the draws of steps that come together, shared out so that the ranks' costs come out even.

    `groups` are the draws of every rank at the first step, then at the next. The costliest samples go first, each to
    the rank with least; samples of streams stay with the rank that drew them. A function of its arguments alone, so
    that every rank plans the same.
    """
    shares: list[list[Draw]] = [[] for _ in range(num_ranks)]
    loads = [0.0] * num_ranks
    movable = []
    for number, (draws, ingredient) in enumerate(zip(groups, ingredients, strict=True)):
        if ingredient.num_rows == ENDLESS:
            shares[number % num_ranks] += draws
            loads[number % num_ranks] += ingredient.length * len(draws)
        else:
            movable += [(-ingredient.cost(draw.row), number, place) for place, draw in enumerate(draws)]
    heap = sorted((load, rank) for rank, load in enumerate(loads))
    for minus_cost, group, place in sorted(movable):
        load, rank = heapq.heappop(heap)
        shares[rank].append(groups[group][place])
        heapq.heappush(heap, (load - minus_cost, rank))
    return shares
