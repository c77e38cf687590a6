"""The one DataLoader: draws of the mixture to packed batches, in one pool of workers for all datasets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from minigpt4.conversation.conversation import IGNORE_INDEX, Batch
from minigpt4.conversation.encoder import ChatEncoder, Encoded, SampleTooLong
from minigpt4.conversation.token_costs import token_costs
from minigpt4.datasets.mixture import (
    ENDLESS,
    BadSample,
    Draw,
    Fetched,
    Ingredient,
    MixtureDataset,
)
from minigpt4.runners.stop import outlast_signals

MEAN_TEXT_TOKENS = 60
"""What balancing takes the text of a stream's row to cost."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A sample that did not come into its batch, and why; a too long one is not held against the data."""

    dataset: str
    reason: str
    too_long: bool = False


@dataclass(slots=True, kw_only=True)
class Loaded:
    """One packed batch; the loop takes a list of them from a worker, mostly of one.

    ids: the batch's examples; groups (B,) int64: the draw that each belongs to, by the rank that drew it and where
    steps come together by step; num_targets (B,) int64: the labels of each; left_out: what was drawn but did not come
    in.
    """

    batch: Batch
    ids: tuple[str, ...]
    groups: Tensor
    num_targets: Tensor
    left_out: tuple[LeftOut, ...] = ()

    @classmethod
    def empty(cls) -> Loaded:
        """Return a batch of no examples."""
        none = torch.empty(0, dtype=torch.int64)
        return cls(batch=Batch.empty(), ids=(), groups=none, num_targets=none)

    def pin_memory(self) -> Loaded:
        """Return the same in page-locked memory; the DataLoader calls this when it pins."""
        pinned: dict[str, Any] = {"groups": self.groups.pin_memory(), "num_targets": self.num_targets.pin_memory()}
        return replace(self, batch=self.batch.pin_memory(), **pinned)


@dataclass(frozen=True, slots=True)
class _Usable:
    encoded: Encoded
    group: int
    num_targets: int


class Collator:
    """Encodes fetched samples and packs those that can be used, at most `max_tokens` at a time when given."""

    def __init__(self, encoder: ChatEncoder, *, max_tokens: int | None = None) -> None:
        self.encoder, self.max_tokens = encoder, max_tokens

    def __call__(self, fetched: Sequence[Fetched]) -> list[Loaded]:
        """Return one packed batch, which may be empty, or as many as `max_tokens` makes of it."""
        usable: list[_Usable] = []
        left_out: list[LeftOut] = []
        for item in fetched:
            found = self._use(item)
            if isinstance(found, LeftOut):
                left_out.append(found)
            else:
                usable.append(found)
        packed = [self._pack(part) for part in _in_parts(usable, self.max_tokens)]
        packed[0].left_out = tuple(left_out)
        return packed

    def _use(self, item: Fetched) -> _Usable | LeftOut:
        name, sample = item.draw.dataset, item.sample
        if isinstance(sample, BadSample):
            return LeftOut(name, f"{sample.id}: {sample.reason}")
        try:
            example = self.encoder.encode_example(sample)
        except SampleTooLong as error:
            return LeftOut(name, str(error), too_long=True)
        num_targets = int((example.labels != IGNORE_INDEX).sum())
        if not num_targets:
            return LeftOut(name, f"{sample.id}: nothing to learn, every label is masked")
        return _Usable(example, item.draw.group, num_targets)

    def _pack(self, part: Sequence[_Usable]) -> Loaded:
        return Loaded(
            batch=self.encoder.pack([item.encoded for item in part]),
            ids=tuple(item.encoded.example.id for item in part),
            groups=torch.tensor([item.group for item in part], dtype=torch.int64),
            num_targets=torch.tensor([item.num_targets for item in part], dtype=torch.int64),
        )


def _in_parts(usable: Sequence[_Usable], max_tokens: int | None) -> list[list[_Usable]]:
    """Return samples in few parts of at most `max_tokens`: long ones first, each where it first fits.

    A longer sample is alone in its part. There is always a part, if an empty one.
    """
    if max_tokens is None or not usable:
        return [list(usable)]
    parts: list[list[_Usable]] = []
    room: list[int] = []
    for item in sorted(usable, key=lambda item: -len(item.encoded.input_ids)):
        length = len(item.encoded.input_ids)
        place = next((number for number, left in enumerate(room) if left >= length), None)
        if place is None:
            place = len(parts)
            parts.append([])
            room.append(max_tokens)
        parts[place].append(item)
        room[place] -= length
    return parts


def ingredients_of(datasets: Mapping[str, Any], options: Any, encoder: ChatEncoder) -> list[Ingredient]:
    """Return the ingredients of a mixture: rows of the datasets, sizes and ratios of the YAML.

    What a row costs is estimated from its number of images and the size of its text; every row of a stream is taken to
    cost an image and MEAN_TEXT_TOKENS.
    """
    costs = token_costs(encoder)
    mean = float(encoder.num_image_tokens + MEAN_TEXT_TOKENS)
    return [
        Ingredient(
            name,
            len(dataset),
            options[name].batch_size,
            options[name].sample_ratio,
            lengths=None if len(dataset) == ENDLESS else dataset.row_lengths(costs),
            length=mean,
        )
        for name, dataset in datasets.items()
    ]


def build_loader(
    dataset: MixtureDataset,
    sampler: Sampler[list[Draw]],
    encoder: ChatEncoder,
    *,
    num_workers: int,
    prefetch_factor: int,
    pin_memory: bool,
    max_tokens: int | None = None,
) -> Iterable[list[Loaded]]:
    """Return the loader whose item is what the sampler gives at once, packed; 0 workers load in this process."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=Collator(encoder, max_tokens=max_tokens),
        num_workers=num_workers,
        prefetch_factor=prefetch_factor if num_workers else None,
        pin_memory=pin_memory,
        worker_init_fn=outlast_signals,
    )
