"""The mixture: which rows of which dataset every step takes, and how they are fetched."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch.utils.data import Dataset, Sampler

from minigpt4.common.seeds import derive_rng, derive_seed
from minigpt4.conversation.conversation import Example
from minigpt4.datasets.base_dataset import InstructionDataset

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


class _Order:
    """The order of one dataset's rows: each pass takes all of them, newly shuffled."""

    def __init__(self, component: MixtureComponent, *, seed: int) -> None:
        self.component, self.seed = component, seed
        self._orders: dict[int, np.ndarray] = {}

    def ref_at(self, position: int, micro_batch_id: int) -> SampleRef:
        """Return the sample at a position of the endless sequence of passes."""
        name, num_rows = self.component.name, self.component.num_rows
        if num_rows is None:
            return SampleRef(name, position, 0, micro_batch_id)
        pass_index, place = divmod(position, num_rows)
        return SampleRef(name, int(self._order(pass_index, num_rows)[place]), pass_index, micro_batch_id)

    def _order(self, pass_index: int, num_rows: int) -> np.ndarray:
        """Return the rows of a pass, (num_rows,) int32."""
        if pass_index not in self._orders:
            key = derive_seed(self.seed, "order", self.component.name, pass_index)
            order = np.argsort(_raw(key, num_rows), kind="stable").astype(np.int32)
            # one step reaches over one border between passes, or over several when the dataset is small
            kept = {index: rows for index, rows in self._orders.items() if index >= pass_index - 1}
            self._orders = {**kept, pass_index: order}
        return self._orders[pass_index]


class MixtureSampler(Sampler[list[SampleRef]]):
    """Yields this rank's sample references, a list for each step from `start_step` to `num_steps`.

    `steps_per_batch` joins steps: a list then holds as many steps as its next number says.

    At every step each rank chooses a dataset with probability ratio / sum of ratios, by (seed, rank, step), and takes
    `batch_size` rows of it. Each dataset has one shuffled order a pass. All ranks consume it in the order of steps and
    ranks, so no row of a pass is dropped or repeated, whatever the number of ranks. A start at step k continues exactly
    as if steps 0 to k - 1 had run. `past` gives their numbers of ranks where these differ: [(first step, world size),
    ..]. A stream gives each rank its own blocks; a new number of ranks begins new blocks. `balance` redistributes the
    samples of all ranks' micro-batches by cost; `SampleRef.micro_batch_id` keeps where each belongs.

    Raises: ValueError for ratios and sizes that make no mixture.
    """

    def __init__(
        self,
        components: Sequence[MixtureComponent],
        *,
        num_steps: int,
        seed: int,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
        past: Sequence[tuple[int, int]] = (),
        balance: bool = False,
        steps_per_batch: Sequence[int] | None = None,
    ) -> None:
        assert 0 <= rank < world_size
        assert 0 <= start_step <= num_steps
        self.components, self.seed, self.num_steps, self.start_step = list(components), seed, num_steps, start_step
        self.rank, self.world_size, self.balance, self.steps_per_batch = rank, world_size, balance, steps_per_batch
        assert steps_per_batch is None or sum(steps_per_batch) == num_steps - start_step
        weights = mixing_weights(components)
        self._bounds = np.cumsum(weights)
        self._bounds[np.flatnonzero(weights)[-1] :] = 1.0  # rounding must not leave a gap at the end
        self.choices = np.stack([self._choices(r) for r in range(world_size)], axis=1)
        """Which component each step takes on each rank, (num_steps, world_size) int32."""
        self._positions = self._first_positions(_segments(past, start_step, world_size))

    def __len__(self) -> int:
        """Return the number of lists to come."""
        return self.num_steps - self.start_step if self.steps_per_batch is None else len(self.steps_per_batch)

    def __iter__(self) -> Iterator[list[SampleRef]]:
        """Yield this rank's samples of each step, or of the steps of each batch."""
        if self.balance:
            yield from (plan[self.rank] for plan in self.plans())
            return
        for _, micro_batches in self._micro_batches(ranks=[self.rank]):
            yield [ref for refs in micro_batches for ref in refs]

    def plans(self) -> Iterator[list[list[SampleRef]]]:
        """Yield what every rank takes, a list a rank, of each step or of the steps of each batch."""
        ranks = range(self.world_size)
        for choices, micro_batches in self._micro_batches(ranks):
            if self.balance:
                taken = [self.components[choice] for choice in choices]
                yield balance_by_cost(micro_batches, taken, num_ranks=self.world_size)
            else:
                yield [[ref for refs in micro_batches[rank :: self.world_size] for ref in refs] for rank in ranks]

    def _micro_batches(self, ranks: Sequence[int]) -> Iterator[tuple[np.ndarray, list[list[SampleRef]]]]:
        """Yield for each batch all ranks' choices, and the micro-batches of the given ranks."""
        orders = [_Order(component, seed=self.seed) for component in self.components]
        first = 0
        for count in self.steps_per_batch or itertools.repeat(1, len(self)):
            steps = slice(first, first + count)
            first += count
            choices, positions = self.choices[self.start_step :][steps].ravel(), self._positions[steps].ravel()
            ids = [number * self.world_size + rank for number in range(count) for rank in ranks]
            yield choices, [self._micro_batch(orders, int(choices[id_]), int(positions[id_]), id_) for id_ in ids]

    def _micro_batch(
        self, orders: Sequence[_Order], choice: int, position: int, micro_batch_id: int
    ) -> list[SampleRef]:
        component = self.components[choice]
        positions: Sequence[int] = range(position, position + component.batch_size)
        if component.num_rows is None:
            rank, blocks = micro_batch_id % self.world_size, (divmod(place, STREAM_BLOCK) for place in positions)
            positions = [(block * self.world_size + rank) * STREAM_BLOCK + place for block, place in blocks]
        return [orders[choice].ref_at(place, micro_batch_id) for place in positions]

    def _choices(self, rank: int) -> np.ndarray:
        uniform = _raw(derive_seed(self.seed, "mixture", rank), self.num_steps) / 2.0**64
        last = len(self.components) - 1
        return np.minimum(np.searchsorted(self._bounds, uniform, side="right"), last).astype(np.int32)

    def _first_positions(self, segments: Sequence[tuple[int, int, int]]) -> np.ndarray:
        """Return where in its dataset's order each micro-batch begins, (num_steps - start_step, world_size) int64."""
        num = len(self.components)
        sizes = np.array([component.batch_size for component in self.components])
        streams = np.array([component.num_rows is None for component in self.components])
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
    """Return (first step, step after the last, world size) of the parts of a run before `start_step`."""
    begins = list(past) or [(0, world_size)]
    ends = [first for first, _ in begins[1:]] + [start_step]
    return [(first, last, size) for (first, size), last in zip(begins, ends, strict=True) if last > first]


def _numbered(choices: np.ndarray, num: int) -> np.ndarray:
    """Return for each choice the number of equal ones before it, (len(choices),) int64."""
    order = np.argsort(choices, kind="stable")
    counts = np.bincount(choices, minlength=num)
    numbers = np.empty(len(choices), np.int64)
    numbers[order] = np.arange(len(choices)) - np.repeat(np.cumsum(counts) - counts, counts)
    return numbers


class MixtureDataset(Dataset[Example]):
    """Fetches samples from the datasets of a mixture; runs in the workers."""

    def __init__(self, datasets: Mapping[str, InstructionDataset], *, seed: int) -> None:
        self.datasets, self.seed = dict(datasets), seed

    def __getitems__(self, refs: Sequence[SampleRef]) -> list[Sample]:
        """Return an Example for each reference, or a BadSample where file or row are bad; other errors are raised."""
        return [Sample(ref, self._fetch(ref)) for ref in refs]

    def _fetch(self, ref: SampleRef) -> Example | BadSample:
        rng = derive_rng(self.seed, ref.dataset, ref.pass_index, ref.row)
        try:
            return self.datasets[ref.dataset].get(ref.row, rng)
        except (OSError, ValueError) as error:
            sample_id = f"{ref.dataset}[{ref.row}]"
            return BadSample(sample_id, str(error).removeprefix(sample_id).lstrip(": "))


def _raw(key: int, count: int) -> np.ndarray:
    """Return (count,) uint64 that depend on the key only; longer calls begin with the same numbers."""
    numbers: np.ndarray = np.random.Philox(key=key).random_raw(count)
    return numbers
