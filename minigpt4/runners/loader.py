"""The one DataLoader: draws of the mixture to packed batches, in one pool of workers for all datasets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from minigpt4.conversation.conversation import IGNORE_INDEX, Batch
from minigpt4.conversation.encoder import ChatEncoder, SampleTooLong
from minigpt4.conversation.token_costs import token_costs
from minigpt4.datasets.mixture import ENDLESS, BadSample, Draw, Fetched, Ingredient, MixtureDataset

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
    """What the loop takes from a worker.

    ids: the batch's examples; groups (B,) int64: the rank whose draw each belongs to; num_targets (B,) int64: the
    labels of each; left_out: what was drawn but did not come in.
    """

    batch: Batch
    ids: tuple[str, ...]
    groups: Tensor
    num_targets: Tensor
    left_out: tuple[LeftOut, ...] = ()

    def pin_memory(self) -> Loaded:
        """Return the same in page-locked memory; the DataLoader calls this when it pins."""
        pinned: dict[str, Any] = {"groups": self.groups.pin_memory(), "num_targets": self.num_targets.pin_memory()}
        return replace(self, batch=self.batch.pin_memory(), **pinned)


class Collator:
    """Encodes fetched samples and packs those that can be used."""

    def __init__(self, encoder: ChatEncoder) -> None:
        self.encoder = encoder

    def __call__(self, fetched: Sequence[Fetched]) -> Loaded:
        """Return one packed batch; it may be empty."""
        encoded, groups, num_targets, left_out = [], [], [], []
        for item in fetched:
            name, sample = item.draw.dataset, item.sample
            if isinstance(sample, BadSample):
                left_out.append(LeftOut(name, f"{sample.id}: {sample.reason}"))
                continue
            try:
                example = self.encoder.encode_example(sample)
            except SampleTooLong as error:
                left_out.append(LeftOut(name, str(error), too_long=True))
                continue
            count = int((example.labels != IGNORE_INDEX).sum())
            if not count:
                left_out.append(LeftOut(name, f"{sample.id}: nothing to learn, every label is masked"))
                continue
            encoded.append(example)
            groups.append(item.draw.group)
            num_targets.append(count)
        return Loaded(
            batch=self.encoder.pack(encoded),
            ids=tuple(item.example.id for item in encoded),
            groups=torch.tensor(groups, dtype=torch.int64),
            num_targets=torch.tensor(num_targets, dtype=torch.int64),
            left_out=tuple(left_out),
        )


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
) -> Iterable[Loaded]:
    """Return the loader whose item is one step's `Loaded`; 0 workers load in this process."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=Collator(encoder),
        num_workers=num_workers,
        prefetch_factor=prefetch_factor if num_workers else None,
        pin_memory=pin_memory,
    )
