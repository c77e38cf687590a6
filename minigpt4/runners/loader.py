"""The one DataLoader: draws of the mixture to packed batches, in one pool of workers for all datasets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch.utils.data import DataLoader, Sampler

from minigpt4.conversation.conversation import Batch, Example
from minigpt4.conversation.encoder import ChatEncoder, SampleTooLong
from minigpt4.datasets.mixture import BadSample, Draw, MixtureDataset


@dataclass(slots=True, kw_only=True)
class Loaded:
    """What the loop takes from a worker: the batch, its samples' ids, and what was left out of it with the reason.

    `too_long` samples are dropped and counted; `bad` ones count against `run.max_bad_samples`.
    """

    batch: Batch
    ids: tuple[str, ...]
    too_long: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()

    def pin_memory(self) -> Loaded:
        """Return the same with the batch in page-locked memory; the DataLoader calls this when it pins."""
        return Loaded(batch=self.batch.pin_memory(), ids=self.ids, too_long=self.too_long, bad=self.bad)


class Collator:
    """Encodes fetched samples and packs those that can be used."""

    def __init__(self, encoder: ChatEncoder) -> None:
        self.encoder = encoder

    def __call__(self, fetched: Sequence[Example | BadSample]) -> Loaded:
        """Return one packed batch. Raises: ValueError when none of its labels is to be learnt."""
        encoded, too_long, bad = [], [], []
        for sample in fetched:
            if isinstance(sample, BadSample):
                bad.append(f"{sample.id}: {sample.reason}")
                continue
            try:
                encoded.append(self.encoder.encode_example(sample))
            except SampleTooLong as error:
                too_long.append(str(error))
        ids = tuple(item.example.id for item in encoded)
        return Loaded(batch=self.encoder.pack(encoded), ids=ids, too_long=tuple(too_long), bad=tuple(bad))


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
