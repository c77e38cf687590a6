"""Endless streams from WebDataset tar shards (cc_sbu, laion): captions of web images.

Shards repeat without end. A row's sample depends on (seed, row) only, so a resumed run continues exactly on any number
of workers. Rows come in blocks, each from one shard, so that a worker reads the headers of few shards.
"""

from __future__ import annotations

import io
import logging
import os
import random
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import get_worker_info

from minigpt4.common.json_records import parse_record
from minigpt4.common.row_checks import require
from minigpt4.common.seeds import derive_rng, derive_seed
from minigpt4.conversation.conversation import Example, Turn
from minigpt4.datasets import urls
from minigpt4.datasets.base_builder import BaseDatasetBuilder, DataPath, dataset
from minigpt4.datasets.base_dataset import InstructionDataset, with_image
from minigpt4.datasets.boxes import DROP, DROPPED, FAULTS
from minigpt4.datasets.images import Listings
from minigpt4.datasets.mixture import STREAM_BLOCK
from minigpt4.datasets.row_table import Row
from minigpt4.datasets.shards import Shard, cut_shards, named, read_shard
from minigpt4.processors.pictures import decode_image

logger = logging.getLogger(__name__)

MAX_TRIES = 100
"""The number of unreadable samples in a row after which a stream raises an error."""
NUM_BLOCKS_KEPT = 2
MAX_WORKERS = 256
"""Workers up to this number each have their own counter of skipped samples."""


class StreamBuilder(BaseDatasetBuilder):
    """Builds streams: `storage` is one or more patterns of shards; those that exist are used."""

    annotations_url = urls.STREAMS
    has_images = False  # they are in the shards

    def annotation_paths(self) -> list[DataPath]:
        present, absent, patterns = self._shards()
        if present and absent:
            counts = f"{len(absent)} of its {len(present) + len(absent)}"
            logger.warning("%s: %s shards are not there", self.name, counts)
        return [self.data_path("storage", path, self.annotations_url) for path in (present or patterns)] or [
            self.data_path("storage", None, self.annotations_url)
        ]

    def remarks(self) -> list[str]:
        present, absent, _ = self._shards()
        counts = {"are not there": absent, "are cut off or no tar files": cut_shards(present)}
        total = len(present) + len(absent)
        return [
            f"{self.name}: {len(paths):,} of its {total:,} shards {what}: {named(paths)}"
            for what, paths in counts.items()
            if paths and present
        ]

    def _shards(self) -> tuple[list[str], list[str], list[str]]:
        """Return the shards that exist, those that do not, and their patterns."""
        from webdataset.shardlists import expand_urls

        patterns = self.option_list("storage")
        try:
            paths = [path for pattern in patterns for path in expand_urls(pattern)]
        except ValueError as error:
            raise ValueError(f"datasets.{self.name}.build_info.storage: {error}") from error
        there = {path: os.path.isfile(path) for path in paths}
        return [p for p in paths if there[p]], [p for p in paths if not there[p]], patterns


@dataset("cc_sbu", builder=StreamBuilder)
@dataset("laion", builder=StreamBuilder)
class StreamDataset(InstructionDataset):
    """Samples of tar shards: an image, and a .json of its name with its `caption`.

    A sample that does not decode is skipped: another of its block replaces it, and `num_skipped` counts it. `remarks`
    are those about the first block's shard, which `build` reads.
    """

    is_stream = True
    fields: ClassVar = {"caption": str}
    templates_name: ClassVar[str | None] = "caption"

    def build(self, annotations: Sequence[str], listings: Listings, bad_samples: Collection[str]) -> None:
        """Keep the paths of the shards, which are opened later.

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
        """Raises: TypeError, since a stream has no last row."""
        raise TypeError(f"{self.name} is a stream and has no number of rows")

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

    @classmethod
    def rows_of(cls, record: Any) -> list[Row]:
        return [record]

    @classmethod
    def read_row(cls, content: bytes) -> Row:
        """Return the row of a .json member. Raises: ValueError when it is no JSON, or lacks a key."""
        [row] = cls.rows_of(parse_record(content))
        require(row, cls.fields)
        return row

    def turns(self, row: Row, rng: random.Random) -> list[Turn]:
        return [Turn(with_image(rng.choice(self.templates)), self.text_processor(row["caption"]))]

    def _read(self, path: str, member: np.ndarray, sample_id: str, rng: random.Random) -> Example:
        image_start, image_size, text_start, text_size = (int(number) for number in member)
        with open(path, "rb") as file:
            file.seek(image_start)
            image = decode_image(io.BytesIO(file.read(image_size)), self.pictures)
            file.seek(text_start)
            row = self.read_row(file.read(text_size))
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
        """Return a block's shard and the positions of its samples, in the block's order, (num_samples, 4) int64."""
        if block not in self._blocks:
            rng = derive_rng(self.seed, self.name, "shard", block)
            shard = self._first_with_samples(rng.sample(self.shards, len(self.shards)))
            members = np.array(shard.samples, np.int64).reshape(-1, 4)
            order = np.random.Philox(key=derive_seed(self.seed, self.name, "order", block)).random_raw(len(members))
            for old in sorted(self._blocks)[: -NUM_BLOCKS_KEPT + 1]:
                del self._blocks[old]
            self._blocks[block] = shard.path, members[np.argsort(order, kind="stable")]
            if block == 0:
                self.remarks = [f"{self.name}: {remark}" for remark in shard.remarks()]
        return self._blocks[block]

    def _first_with_samples(self, shards: Sequence[str]) -> Shard:
        """Return the first shard that has samples. Raises: ValueError when none has one."""
        reasons = []
        for path in shards:
            shard = read_shard(path)
            if shard.cut:
                logger.warning("%s: cannot be read to its end: %s", path, shard.cut)
            if shard.samples:
                return shard
            reasons.append(shard.why_empty())
            logger.warning("%s: %s has no sample that can be read", self.name, path)
        total = f"none of its {len(shards)} shards has a sample that can be read"
        raise ValueError(f"{self.name}: {total}: {reasons[0]}")
