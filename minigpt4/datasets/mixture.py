"""The mixture: which rows of which dataset every step takes, and their fetching."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from torch.utils.data import Dataset, Sampler

from minigpt4.common.seeds import derive_rng, derive_seed
from minigpt4.conversation.conversation import Example
from minigpt4.datasets.base_dataset import InstructionDataset
from minigpt4.datasets.draws import (
    ENDLESS,
    STREAM_BLOCK,
    BadSample,
    Draw,
    Fetched,
    Ingredient,
    share_out,
    shares,
)

__all__ = ["ENDLESS", "BadSample", "Draw", "Fetched", "Ingredient", "MixtureDataset", "MixtureSampler", "shares"]


class _Order:
    """In what order the rows of one dataset come: every pass all of them, shuffled anew."""

    def __init__(self, ingredient: Ingredient, *, seed: int) -> None:
        self.ingredient, self.seed = ingredient, seed
        self._orders: dict[int, np.ndarray] = {}

    def draw(self, position: int, group: int) -> Draw:
        """Return what stands at a position of the endless row of passes."""
        name, num_rows = self.ingredient.name, self.ingredient.num_rows
        if num_rows == ENDLESS:
            return Draw(name, position, 0, group)
        pass_index, place = divmod(position, num_rows)
        return Draw(name, int(self._order(pass_index)[place]), pass_index, group)

    def _order(self, pass_index: int) -> np.ndarray:
        """Return the rows of a pass, (num_rows,) int32."""
        if pass_index not in self._orders:
            key = derive_seed(self.seed, "order", self.ingredient.name, pass_index)
            order = np.argsort(_raw(key, self.ingredient.num_rows), kind="stable").astype(np.int32)
            # draws of one step reach over one border between passes, or over several when the dataset is small
            kept = {index: rows for index, rows in self._orders.items() if index >= pass_index - 1}
            self._orders = {**kept, pass_index: order}
        return self._orders[pass_index]


class MixtureSampler(Sampler[list[Draw]]):
    """Yields the draws of this rank for steps `start_step` to `num_steps`, a list a step.

    Where steps come together, as `together` says for one list after the other, a list is that of all of them.

    At every step each rank draws a dataset with probability ratio / sum of ratios, by (seed, rank, step), and takes its
    batch size of rows. All ranks take from one row of passes a dataset, in the order of steps and ranks: inside a pass
    no row is dropped or repeated, whatever the number of ranks. Starting at step k goes on exactly as if steps 0 to
    k - 1 had been drawn; `past` names their numbers of ranks where these were others: [(first step, world size), ..].
    A streaming dataset has rows of its own for each rank, whose blocks are begun anew when the number of ranks changes.
    With `balance` the samples of all ranks' draws of a step are shared out by their cost; `Draw.group` keeps whose they
    were.

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
        past: Sequence[tuple[int, int]] = (),
        balance: bool = False,
        together: Sequence[int] | None = None,
    ) -> None:
        assert 0 <= rank < world_size
        assert 0 <= start_step <= num_steps
        self.ingredients, self.seed, self.num_steps, self.start_step = list(ingredients), seed, num_steps, start_step
        self.rank, self.world_size, self.balance, self.together = rank, world_size, balance, together
        assert together is None or sum(together) == num_steps - start_step
        self._bounds = np.cumsum(shares(ingredients))
        self._bounds[np.flatnonzero(shares(ingredients))[-1] :] = 1.0  # rounding must not leave a gap at the end
        self.choices = np.stack([self._choices(r) for r in range(world_size)], axis=1)
        """Which ingredient each step takes on each rank, (num_steps, world_size) int32."""
        self._positions = self._first_positions(_segments(past, start_step, world_size))

    def __len__(self) -> int:
        """Return the number of lists to come."""
        return self.num_steps - self.start_step if self.together is None else len(self.together)

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield this rank's draws of each step, or of steps that come together."""
        if self.balance:
            for plan in self.plans():
                yield plan[self.rank]
            return
        for _, groups in self._drawn(ranks=[self.rank]):
            yield [draw for group in groups for draw in group]

    def plans(self) -> Iterator[list[list[Draw]]]:
        """Yield what every rank takes, a list a rank, of each step or of steps that come together."""
        for choices, groups in self._drawn(ranks=range(self.world_size)):
            if self.balance:
                taken = [self.ingredients[choice] for choice in choices]
                yield share_out(groups, taken, num_ranks=self.world_size)
            else:
                ranks = range(self.world_size)
                yield [[draw for group in groups[rank :: self.world_size] for draw in group] for rank in ranks]

    def _drawn(self, ranks: Sequence[int]) -> Iterator[tuple[np.ndarray, list[list[Draw]]]]:
        """Yield the choices of all ranks at steps that come together, and the draws of some of them."""
        orders = [_Order(ingredient, seed=self.seed) for ingredient in self.ingredients]
        first = 0
        for count in self.together or itertools.repeat(1, len(self)):
            steps = slice(first, first + count)
            first += count
            choices, positions = self.choices[self.start_step :][steps].ravel(), self._positions[steps].ravel()
            own = [number * self.world_size + rank for number in range(count) for rank in ranks]
            yield choices, [self._draws_of(orders, int(choices[g]), int(positions[g]), g) for g in own]

    def _draws_of(self, orders: Sequence[_Order], choice: int, position: int, group: int) -> list[Draw]:
        ingredient = self.ingredients[choice]
        positions = range(position, position + ingredient.batch_size)
        if ingredient.num_rows == ENDLESS:
            positions = [self._own_block(place, group % self.world_size) for place in positions]  # type: ignore[assignment]
        return [orders[choice].draw(place, group) for place in positions]

    def _own_block(self, position: int, rank: int) -> int:
        block, place = divmod(position, STREAM_BLOCK)
        return (block * self.world_size + rank) * STREAM_BLOCK + place

    def _choices(self, rank: int) -> np.ndarray:
        uniform = _raw(derive_seed(self.seed, "mixture", rank), self.num_steps) / 2.0**64
        last = len(self.ingredients) - 1
        return np.minimum(np.searchsorted(self._bounds, uniform, side="right"), last).astype(np.int32)

    def _first_positions(self, segments: Sequence[tuple[int, int, int]]) -> np.ndarray:
        """Return where in its dataset's stream each draw to come begins, (num_steps - start_step, world_size) int64."""
        num = len(self.ingredients)
        sizes = np.array([ingredient.batch_size for ingredient in self.ingredients])
        streams = np.array([ingredient.num_rows == ENDLESS for ingredient in self.ingredients])
        taken = np.zeros(num, np.int64)
        blocks = np.zeros(num, np.int64)  # of streams, over all ranks
        for first, last, world_size in segments:
            counts = np.stack([np.bincount(self._choices(r)[first:last], minlength=num) for r in range(world_size)])
            taken += counts.sum(0) * sizes
            if world_size != self.world_size:
                blocks += -(-counts.max(0) * sizes // STREAM_BLOCK) * world_size
        before = np.zeros((self.world_size, num), np.int64)
        same = [(first, last) for first, last, world_size in segments if world_size == self.world_size]
        for first, last in same:
            before += np.stack([np.bincount(c, minlength=num) for c in self.choices[first:last].T])
        nth = _numbered(self.choices[self.start_step :].ravel(), num).reshape(-1, self.world_size)
        nth_own = np.stack([_numbered(c, num) for c in self.choices[self.start_step :].T], axis=1)
        chosen = self.choices[self.start_step :]
        begun = -(-blocks // self.world_size) * STREAM_BLOCK
        own = begun[chosen] + (before[np.arange(self.world_size), chosen] + nth_own) * sizes[chosen]
        positions: np.ndarray = np.where(streams[chosen], own, taken[chosen] + nth * sizes[chosen])
        return positions


def _segments(past: Sequence[tuple[int, int]], start_step: int, world_size: int) -> list[tuple[int, int, int]]:
    """Return (first step, step behind the last, world size) of the parts of a run that lie before `start_step`."""
    begins = list(past) or [(0, world_size)]
    ends = [first for first, _ in begins[1:]] + [start_step]
    return [(first, last, size) for (first, size), last in zip(begins, ends, strict=True) if last > first]


def _numbered(choices: np.ndarray, num: int) -> np.ndarray:
    """Return for each choice how many equal ones stand before it, (len(choices),) int64."""
    order = np.argsort(choices, kind="stable")
    counts = np.bincount(choices, minlength=num)
    numbers = np.empty(len(choices), np.int64)
    numbers[order] = np.arange(len(choices)) - np.repeat(np.cumsum(counts) - counts, counts)
    return numbers


class MixtureDataset(Dataset[Example]):
    """Fetches draws from the datasets of a mixture; runs in the workers."""

    def __init__(self, datasets: Mapping[str, InstructionDataset], *, seed: int) -> None:
        self.datasets, self.seed = dict(datasets), seed

    def __getitems__(self, draws: Sequence[Draw]) -> list[Fetched]:
        """Return an Example for each draw, or a BadSample where file or row are bad; other errors are raised."""
        return [Fetched(draw, self._fetch(draw)) for draw in draws]

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
