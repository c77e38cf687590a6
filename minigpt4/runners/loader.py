"""The DataLoader: one pool of workers turns sample references of the mixture into packed batches.

`BatchSource` takes them: it measures the wait, counts skipped samples and explains a worker's death.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from minigpt4.common.liveness import READING, TRAINING, pulse
from minigpt4.conversation.conversation import IGNORE_INDEX, Batch
from minigpt4.conversation.encoder import ChatEncoder, Encoded, SampleTooLong
from minigpt4.datasets.lengths import token_costs
from minigpt4.datasets.mixture import BadSample, MixtureComponent, MixtureDataset, Sample, SampleRef
from minigpt4.runners.stop import ignore_stop_signals

logger = logging.getLogger(__name__)

SECONDS_TO_END = 5.0
"""Seconds to wait for the end of a loader's thread."""
MEAN_TEXT_TOKENS = 60
"""The text length that balancing assumes for a row of a stream."""


@dataclass(frozen=True, slots=True)
class SkippedSample:
    """A sample that is not in its batch, and why; one that is too long is not bad."""

    dataset: str
    reason: str
    too_long: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch:
    """A Batch with the names and micro-batches of its examples; a worker makes it.

    ids: names of the examples; micro_batch_ids (targets,) int64: the micro-batch of each target, numbered by rank and
    inside a packed update also by step; num_targets: targets of each micro-batch; skipped: samples that are left out;
    host_batch: the worker's batch, once `batch` is on another device.
    """

    batch: Batch
    ids: tuple[str, ...] = ()
    micro_batch_ids: Tensor
    num_targets: Mapping[int, int] = field(default_factory=dict)
    skipped: tuple[SkippedSample, ...] = ()
    host_batch: Batch | None = None

    @classmethod
    def empty(cls, device: torch.device) -> PackedBatch:
        """Return a batch of no examples."""
        none = torch.empty(0, dtype=torch.int64, device=device)
        return cls(batch=Batch.empty().to(device), micro_batch_ids=none)

    def pin_memory(self) -> PackedBatch:
        """Return the same in page-locked memory, for the DataLoader."""
        return replace(self, batch=self.batch.pin_memory(), micro_batch_ids=self.micro_batch_ids.pin_memory())

    def to(self, device: torch.device) -> PackedBatch:
        """Return the same on a device, without waiting for it; `host_batch` stays where it is."""
        ids = self.micro_batch_ids.to(device, non_blocking=True)
        batch = self.batch.to(device, non_blocking=True)
        return replace(self, batch=batch, micro_batch_ids=ids, host_batch=self.batch)


@dataclass(frozen=True, slots=True)
class _Usable:
    encoded: Encoded
    micro_batch_id: int
    num_targets: int


class Collator:
    """Encodes samples and packs the usable ones, at most `max_tokens` in a batch when given."""

    def __init__(self, encoder: ChatEncoder, *, max_tokens: int | None = None) -> None:
        self.encoder, self.max_tokens = encoder, max_tokens

    def __call__(self, fetched: Sequence[Sample]) -> list[PackedBatch]:
        """Return one packed batch, which may be empty, or several of at most `max_tokens`."""
        found = [self._encode(item) for item in fetched]
        usable = [item for item in found if isinstance(item, _Usable)]
        first, *others = [self._pack(part) for part in _in_parts(usable, self.max_tokens)]
        return [replace(first, skipped=tuple(item for item in found if isinstance(item, SkippedSample))), *others]

    def _encode(self, item: Sample) -> _Usable | SkippedSample:
        name, sample = item.ref.dataset, item.content
        if isinstance(sample, BadSample):
            return SkippedSample(name, f"{sample.id}: {sample.reason}")
        try:
            example = self.encoder.encode_example(sample)
        except SampleTooLong as error:
            return SkippedSample(name, str(error), too_long=True)
        num_targets = int((example.labels != IGNORE_INDEX).sum())
        if not num_targets:
            return SkippedSample(name, f"{sample.id}: nothing to learn, every label is masked")
        return _Usable(example, item.ref.micro_batch_id, num_targets)

    def _pack(self, part: Sequence[_Usable]) -> PackedBatch:
        batch = self.encoder.pack([item.encoded for item in part])
        ids = torch.tensor([item.micro_batch_id for item in part], dtype=torch.int64)
        num_targets: Counter[int] = Counter()
        for item in part:
            num_targets[item.micro_batch_id] += item.num_targets
        return PackedBatch(
            batch=batch,
            ids=tuple(item.encoded.example.id for item in part),
            micro_batch_ids=ids.repeat_interleave(batch.lengths)[batch.target_positions],
            num_targets=dict(num_targets),
        )


def _in_parts(usable: Sequence[_Usable], max_tokens: int | None) -> list[list[_Usable]]:
    """Return the samples in few parts of at most `max_tokens`: the longest first, each in the first part with room.

    A sample above the limit gets its own part. Without samples there is one empty part.
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


def components_of(datasets: Mapping[str, Any], options: Any, encoder: ChatEncoder) -> list[MixtureComponent]:
    """Return the datasets of a mixture, with batch size and ratio of the YAML.

    The cost of a row is estimated from its number of images and the size of its text; that of a stream's row is one
    image and MEAN_TEXT_TOKENS.
    """
    costs = token_costs(encoder)
    mean = float(encoder.num_image_tokens + MEAN_TEXT_TOKENS)
    return [
        MixtureComponent(
            name,
            None if dataset.is_stream else len(dataset),
            options[name].batch_size,
            options[name].sample_ratio,
            lengths=None if dataset.is_stream else dataset.row_lengths(costs),
            length=mean,
        )
        for name, dataset in datasets.items()
    ]


def build_loader(
    dataset: MixtureDataset,
    sampler: Sampler[list[SampleRef]],
    encoder: ChatEncoder,
    *,
    num_workers: int,
    prefetch_factor: int,
    pin_memory: bool,
    max_tokens: int | None = None,
) -> Iterable[list[PackedBatch]]:
    """Return the loader: an item of the sampler becomes one list of packed batches; 0 workers load in this process."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=Collator(encoder, max_tokens=max_tokens),
        num_workers=num_workers,
        prefetch_factor=prefetch_factor if num_workers else None,
        pin_memory=pin_memory,
        worker_init_fn=ignore_stop_signals,
    )


@contextlib.contextmanager
def iterating(loader: Iterable[list[PackedBatch]]) -> Iterator[Iterator[list[PackedBatch]]]:
    """Iterate over a loader; its workers and threads end with the context."""
    before = set(threading.enumerate())
    batches = iter(loader)
    threads = set(threading.enumerate()) - before
    try:
        yield batches
    finally:
        shut_down = getattr(batches, "_shutdown_workers", None)  # otherwise they end when the iterator is deleted
        if shut_down is not None:
            shut_down()
        for thread in threads:
            thread.join(SECONDS_TO_END)


class BatchSource:
    """Iterates over a loader of packed batches.

    `seconds_waited` is the time spent waiting; `num_bad` and `num_too_long` count the skipped samples of each dataset.
    """

    def __init__(self, loader: Iterable[list[PackedBatch]], *, max_bad_samples: int) -> None:
        self.max_bad_samples = max_bad_samples
        self.num_bad: Counter[str] = Counter()
        self.num_too_long: Counter[str] = Counter()
        self.seconds_waited = 0.0
        self._loader = iter(loader)

    def __iter__(self) -> BatchSource:
        return self

    def __next__(self) -> list[PackedBatch]:
        """Return the loader's next item.

        Raises: ValueError when more samples are bad than `run.max_bad_samples` allows; RuntimeError when a worker died.
        """
        began = time.perf_counter()
        pulse.doing = READING
        try:
            packed_batches = next(self._loader)
        except (ConnectionError, EOFError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            raise _worker_died(error) from error
        pulse.doing = TRAINING
        self.seconds_waited += time.perf_counter() - began
        self._count_skipped(packed_batches)
        return packed_batches

    def _count_skipped(self, packed_batches: list[PackedBatch]) -> None:
        all_skipped = [skipped for packed in packed_batches for skipped in packed.skipped]
        for skipped in all_skipped:
            counts, kind = (self.num_too_long, "too long") if skipped.too_long else (self.num_bad, "bad")
            counts[skipped.dataset] += 1
            nth = counts[skipped.dataset]
            logger.warning("left out, %s (number %d of %s): %s", kind, nth, skipped.dataset, skipped.reason)
        if self.num_bad.total() > self.max_bad_samples:
            last = [skipped.reason for skipped in all_skipped if not skipped.too_long][-1]
            raise ValueError(
                f"{self.num_bad.total()} bad samples where run.max_bad_samples allows {self.max_bad_samples}; "
                f"the last: {last}"
            )


def _worker_died(error: Exception) -> RuntimeError:
    """Return the error to raise; a broken pipe is a worker whose death PyTorch did not see.

    PyTorch's SIGCHLD handler is removed: it would raise for the same worker again while a traceback is printed.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    reason = error if isinstance(error, RuntimeError) else "it was killed, or the machine ran out of memory"
    return RuntimeError(f"a data worker died: {reason}")
