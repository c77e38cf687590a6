"""Endless streams from WebDataset tar shards (cc_sbu, laion): captions of web images.

Shards are drawn again and again. Which sample a row is follows from (seed, row) alone, so a resumed run goes on exactly
on any number of workers; rows come in blocks, each from one shard, so that a worker reads few shards' headers.
"""

from __future__ import annotations

import io
import logging
import os
import random
import tarfile
from collections.abc import Collection, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import get_worker_info

from minigpt4.common.json_records import parse_record
from minigpt4.common.registry import registry
from minigpt4.common.seeds import derive_rng, derive_seed
from minigpt4.conversation.conversation import Example, Turn
from minigpt4.datasets import addresses
from minigpt4.datasets.base_dataset import InstructionDataset, Row, with_image
from minigpt4.datasets.boxes import DROP, DROPPED, FAULTS
from minigpt4.datasets.builders.base_dataset_builder import BaseDatasetBuilder
from minigpt4.datasets.draws import ENDLESS, STREAM_BLOCK
from minigpt4.datasets.files import Place
from minigpt4.datasets.images import Listings
from minigpt4.datasets.rows import require
from minigpt4.processors.pictures import decode_image

logger = logging.getLogger(__name__)

IMAGES, TEXT = ("jpg", "jpeg", "png", "webp"), "json"
MAX_TRIES = 100
"""After so many unreadable samples in a row a stream gives up."""
NUM_BLOCKS_KEPT = 2
MAX_WORKERS = 256
"""So many workers count what they skip in places of their own."""


class StreamDataset(InstructionDataset):
    """Samples of tar shards: an image, and beside it a .json with its `caption`.

    A sample that does not decode is skipped: another of its block takes its place, and `num_skipped` counts it.
    """

    fields: ClassVar = {"caption": str}
    pool_name: ClassVar[str | None] = "caption"

    def build(self, annotations: Sequence[str], listings: Listings, bad_samples: Collection[str]) -> None:
        """Keep the paths of the shards, which are opened when their turn comes.

        Raises: ValueError when no shard has a sample.
        """
        self.shards = list(annotations)
        self._skipped = torch.zeros(MAX_WORKERS, dtype=torch.int64).share_memory_()  # a place a worker: no races
        self._blocks: dict[int, tuple[str, np.ndarray]] = {}
        self._block(0)

    @property
    def num_skipped(self) -> int:
        """Return how many samples this process and its workers have skipped so far."""
        return int(self._skipped.sum())

    def __len__(self) -> int:
        """Return ENDLESS."""
        return ENDLESS

    def get(self, index: int, rng: random.Random) -> Example:
        """Return the sample of a row. Raises: ValueError when its block has none that can be read."""
        block, place = divmod(index, STREAM_BLOCK)
        path, members = self._block(block)
        sample_id = f"{self.name}[{index}] {path}"
        instead = derive_rng(self.seed, self.name, "instead", index)
        for _ in range(MAX_TRIES):
            try:
                return self._read(path, members[place % len(members)], sample_id, rng)
            except (OSError, ValueError) as error:
                self._skip(sample_id, error)
            place = instead.randrange(len(members))
        raise ValueError(f"{sample_id}: {MAX_TRIES} samples in a row cannot be read")

    def turns(self, row: Row, rng: random.Random) -> list[Turn]:
        """Ask for a caption in one of the pool's wordings."""
        return [Turn(with_image(rng.choice(self.pool)), self.text_processor(row["caption"]))]

    def _read(self, path: str, member: np.ndarray, sample_id: str, rng: random.Random) -> Example:
        image_start, image_size, text_start, text_size = (int(number) for number in member)
        with open(path, "rb") as file:
            file.seek(image_start)
            image = decode_image(io.BytesIO(file.read(image_size)), self.pictures)
            file.seek(text_start)
            [row] = self.rows_of(parse_record(file.read(text_size)))
        require(row, self.fields)
        if self.bad_boxes == DROP and (fault := self.box_fault(row)) in DROPPED:
            raise ValueError(f"a box of its text is {FAULTS[fault]}")
        return Example(turns=self.clipped_turns(row, rng), images=(self.vis_processor(image),), id=sample_id)

    def _skip(self, sample_id: str, error: Exception) -> None:
        worker = get_worker_info()
        self._skipped[worker.id % MAX_WORKERS if worker else 0] += 1
        count = self.num_skipped
        if count.bit_count() == 1:  # 1, 2, 4, 8, ...: the log stays short
            logger.warning("%s is skipped (%d skipped so far): %s", sample_id, count, error)

    def _block(self, block: int) -> tuple[str, np.ndarray]:
        """Return a block's shard and where its samples lie there, in the block's order, (num_samples, 4) int64."""
        if block not in self._blocks:
            rng = derive_rng(self.seed, self.name, "shard", block)
            for path in rng.sample(self.shards, len(self.shards)):
                members = np.array(list(samples_of(path)), np.int64).reshape(-1, 4)
                if len(members):
                    break
                logger.warning("%s: %s has no sample that can be read", self.name, path)
            else:
                raise ValueError(f"{self.name}: none of its {len(self.shards)} shards has a sample that can be read")
            order = np.random.Philox(key=derive_seed(self.seed, self.name, "order", block)).random_raw(len(members))
            for old in sorted(self._blocks)[: -NUM_BLOCKS_KEPT + 1]:
                del self._blocks[old]
            self._blocks[block] = path, members[np.argsort(order, kind="stable")]
        return self._blocks[block]


def samples_of(path: str) -> Iterator[tuple[int, int, int, int]]:
    """Yield (image start, image bytes, text start, text bytes) of the samples of a shard that have both.

    Stops, with a warning, where the shard is cut off.
    """
    # webdataset's own reader gives contents in the order of the file; a row that can be found again needs their places
    from webdataset.tariterators import base_plus_ext

    found: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            while member := tar.next():
                key, extension = base_plus_ext(member.name)
                if key is None:
                    continue
                kind = "image" if extension.lower() in IMAGES else extension.lower()
                parts = found.setdefault(key, {})
                parts[kind] = (member.offset_data, member.size)
                if "image" in parts and TEXT in parts:
                    yield (*parts.pop("image"), *parts.pop(TEXT))
            if os.path.getsize(path) < tar.offset + tarfile.BLOCKSIZE:
                raise tarfile.ReadError("its end mark is missing")
    except (tarfile.TarError, OSError) as error:
        logger.warning("%s: cannot be read to its end: %s", path, error)


class StreamBuilder(BaseDatasetBuilder):
    """What both share: `storage` is a pattern of shards, or several; those that are there are used."""

    train_dataset_cls = StreamDataset
    annotations_address = addresses.STREAMS

    def annotation_places(self) -> list[Place]:
        """Return the shards that are there; when none is, the patterns."""
        from webdataset.shardlists import expand_urls

        storage: Any = self._option("storage")
        patterns = [storage] if isinstance(storage, str) else list(storage or ())
        paths = [path for pattern in patterns for path in expand_urls(pattern)]
        present = [path for path in paths if os.path.isfile(path)]
        if 0 < len(present) < len(paths):
            logger.warning("%s: %d of its %d shards are not there", self.name, len(paths) - len(present), len(paths))
        return [self.place("storage", path, self.annotations_address) for path in present or patterns or [None]]

    def image_place(self) -> Place | None:
        """Return None: the images are in the shards."""
        return None


@registry.register_builder("cc_sbu")
class CCSBUBuilder(StreamBuilder):
    """cc_sbu."""

    DATASET_CONFIG_DICT: ClassVar = {"default": "configs/datasets/cc_sbu.yaml"}


@registry.register_builder("laion")
class LaionBuilder(StreamBuilder):
    """laion."""

    DATASET_CONFIG_DICT: ClassVar = {"default": "configs/datasets/laion.yaml"}
