"""The mixture: which rows of which dataset every step takes, and their fetching."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset, Sampler

from minigpt4.common.seeds import derive_rng, derive_seed
from minigpt4.conversation.conversation import Example
from minigpt4.datasets.base_dataset import InstructionDataset

ENDLESS = sys.maxsize
"""The length of a dataset that streams: its rows are numbered without end and never come again."""
STREAM_BLOCK = 4096
"""So many rows of a stream belong together (one shard of files); each rank has blocks of its own."""


@dataclass(frozen=True)
class Ingredient:
    """One dataset of a mixture: how many rows it has, how many a step takes, and how often relative to the others."""

    name: str
    num_rows: int
    batch_size: int
    ratio: float

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


@dataclass(frozen=True, slots=True)
class BadSample:
    """What stands in a batch for a sample that could not be made, with the reason for the user."""

    id: str
    reason: str


def shares(ingredients: Sequence[Ingredient]) -> np.ndarray:
    """Return the probability of each ingredient, (num_ingredients,) float64. Raises: ValueError when all are 0."""
    ratios = np.array([ingredient.ratio for ingredient in ingredients], np.float64)
    if not ratios.sum() > 0:
        raise ValueError("datasets: at least one sample_ratio should be above 0")
    share: np.ndarray = ratios / ratios.sum()
    return share


class _Stream:
    """One rank's endless stream of one dataset: every pass all rows in a new order, split evenly over the ranks."""

    def __init__(self, ingredient: Ingredient, *, seed: int, position: int, rank: int, world_size: int) -> None:
        self.ingredient, self.seed, self.position = ingredient, seed, position
        self.rank, self.world_size = rank, world_size
        self.num_rows = -(-ingredient.num_rows // world_size)  # of one rank in one pass
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int32))

    def take(self) -> list[Draw]:
        """Return the next batch; it may straddle passes."""
        positions = range(self.position, self.position + self.ingredient.batch_size)
        self.position = positions.stop
        return [self._draw(position) for position in positions]

    def _draw(self, position: int) -> Draw:
        if self.ingredient.num_rows == ENDLESS:
            block, place = divmod(position, STREAM_BLOCK)
            return Draw(self.ingredient.name, (block * self.world_size + self.rank) * STREAM_BLOCK + place, 0)
        pass_index, place = divmod(position, self.num_rows)
        return Draw(self.ingredient.name, int(self._rows(pass_index)[place]), pass_index)

    def _rows(self, pass_index: int) -> np.ndarray:
        """Return this rank's rows of a pass, (num_rows,) int32; the first rows come again where ranks need padding."""
        if self._order[0] != pass_index:
            key = derive_seed(self.seed, "order", self.ingredient.name, pass_index)
            order = np.argsort(_raw(key, self.ingredient.num_rows), kind="stable").astype(np.int32)
            self._order = pass_index, np.resize(order, self.num_rows * self.world_size)[self.rank :: self.world_size]
        return self._order[1]


class MixtureSampler(Sampler[list[Draw]]):
    """Yields the draws of steps `start_step` to `num_steps`, one batch of one dataset a step.

    The dataset of a step is drawn with probability ratio / sum of ratios, by (seed, rank, step). Inside a pass no row
    is dropped, and none repeated except to give all ranks equally many. Starting at step k goes on exactly as if
    steps 0 to k - 1 had been drawn.

    Raises: ValueError for ratios and sizes that make no mixture.
    """

    def __init__(
        self,
        ingredients: Sequence[Ingredient],
        *,
        num_steps: int,
        seed: int,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        assert 0 <= rank < world_size
        assert 0 <= start_step <= num_steps
        self.ingredients, self.seed, self.start_step = list(ingredients), seed, start_step
        self.rank, self.world_size = rank, world_size
        bounds = np.cumsum(shares(ingredients))
        bounds[np.flatnonzero(shares(ingredients))[-1] :] = 1.0  # rounding must not leave a gap at the end
        uniform = _raw(derive_seed(seed, "mixture", rank), num_steps) / 2.0**64
        self.choices = np.minimum(np.searchsorted(bounds, uniform, side="right"), len(bounds) - 1).astype(np.int32)
        """Which ingredient each step takes, (num_steps,) int32."""

    def __len__(self) -> int:
        """Return the number of steps to come."""
        return len(self.choices) - self.start_step

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield the draws of each step."""
        drawn = np.bincount(self.choices[: self.start_step], minlength=len(self.ingredients))
        streams = [
            _Stream(
                ingredient,
                seed=self.seed,
                position=int(count) * ingredient.batch_size,
                rank=self.rank,
                world_size=self.world_size,
            )
            for ingredient, count in zip(self.ingredients, drawn, strict=True)
        ]
        for choice in self.choices[self.start_step :]:
            yield streams[choice].take()


class MixtureDataset(Dataset[Example]):
    """Fetches draws from the datasets of a mixture; runs in the workers."""

    def __init__(self, datasets: Mapping[str, InstructionDataset], *, seed: int) -> None:
        self.datasets, self.seed = dict(datasets), seed

    def __getitems__(self, draws: Sequence[Draw]) -> list[Example | BadSample]:
        """Return one Example a draw, or a BadSample where file or row are bad; other errors are raised."""
        return [self._fetch(draw) for draw in draws]

    def _fetch(self, draw: Draw) -> Example | BadSample:
        rng = derive_rng(self.seed, draw.dataset, draw.pass_index, draw.row)
        try:
            return self.datasets[draw.dataset].get(draw.row, rng)
        except (OSError, ValueError) as error:
            sample_id = f"{draw.dataset}[{draw.row}]"
            return BadSample(sample_id, str(error).removeprefix(sample_id).lstrip(": "))


def _raw(key: int, count: int) -> np.ndarray:
    """Return (count,) uint64 that are a function of the key alone; longer calls begin with the same numbers."""
    numbers: np.ndarray = np.random.Philox(key=key).random_raw(count)
    return numbers
