"""The base of all training datasets: selects rows once, and turns a fetched row into an Example."""

from __future__ import annotations

import logging
import os
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import ClassVar

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from minigpt4.common.row_checks import ROW_ERRORS, reason_of, require
from minigpt4.conversation.conversation import IMAGE_PLACEHOLDER, IMAGE_SPAN, Example, Turn
from minigpt4.datasets.boxes import CLIP, DROP, KEEP, clip_boxes
from minigpt4.datasets.images import ImageFolder, Listings, read_image
from minigpt4.datasets.lengths import TokenCosts, mean_chars
from minigpt4.datasets.row_index import table_of
from minigpt4.datasets.row_table import Row, RowRules, RowTable
from minigpt4.datasets.selection import RowReport, count_faults, image_paths, known_faults, select_rows
from minigpt4.processors.pictures import AS_STORED

logger = logging.getLogger(__name__)


def with_image(question: str) -> str:
    """Return the prompt of a question about an image: the image span, the question, one space."""
    return f"{IMAGE_SPAN} {question} "


class InstructionDataset(RowRules, Dataset[Example]):
    """Rows of annotation files; a subclass overrides the hooks in which its dataset differs.

    `report` counts what the files contain. `templates` are the prompt templates of
    `templates_name`; a sample takes one at random.
    `bad_samples` names image files and bad rows to leave out. The index of a large file keeps the answers of the hooks
    of RowRules, so these depend on the files alone (`other_files` included). `pictures` says how images are shown,
    `bad_boxes` how bad boxes are treated.
    """

    templates_name: ClassVar[str | None] = None
    is_stream: ClassVar[bool] = False
    """Whether rows are numbered without end; such a dataset has no length."""
    leaves_out_rows_without_image: ClassVar[bool] = False
    image_spelling: ClassVar[tuple[str, str] | None] = None
    """A part of image names and its alternative, used when only that file exists."""

    def __init__(
        self,
        *,
        name: str,
        annotations: Sequence[str],
        image_folder: str | None,
        vis_processor: Callable[[Image.Image], Tensor],
        text_processor: Callable[[str], str],
        other_files: Sequence[str] = (),
        templates: Sequence[str] = (),
        seed: int = 0,
        listings: Listings | None = None,
        bad_samples: Collection[str] = frozenset(),
        pictures: str = AS_STORED,
        bad_boxes: str = KEEP,
    ) -> None:
        self.name, self.seed = name, seed
        self.pictures, self.bad_boxes = pictures, bad_boxes
        self.vis_processor, self.text_processor = vis_processor, text_processor
        self.templates = list(templates)
        self.other_files = list(other_files)
        folder = image_folder or os.path.dirname(annotations[0]) or "."
        self.images = ImageFolder(folder, spelling=self.image_spelling)
        self.report = RowReport()
        self._tables: list[tuple[RowTable, np.ndarray | None]] = []
        self._ends: list[int] = []
        self.build(annotations, listings or Listings(), bad_samples)

    def build(self, annotations: Sequence[str], listings: Listings, bad_samples: Collection[str]) -> None:
        """Select the rows of the annotation files. Raises: ValueError for a broken file, or when no row can be used."""
        self.images.listings = listings
        for path in annotations:
            table, drop = table_of(path, self), self.bad_boxes == DROP
            kept = select_rows(
                table,
                self.images,
                self.report,
                by_rule=self.leaves_out_rows_without_image,
                bad_samples=bad_samples,
                faults=self._faults(table) if drop else table.arrays["faults"],
                drop=drop,
            )
            self._tables.append((table, kept))
            self._ends.append(len(self) + (len(table) if kept is None else len(kept)))
        self.images.listings = None  # files may come and go, and the listings would travel to the workers
        self._tell(annotations)

    def turns(self, row: Row, rng: random.Random) -> list[Turn]:
        """Return the questions and answers of a row, which also has `index` and `image_size`, (width, height)."""
        raise NotImplementedError

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._ends[-1] if self._ends else 0

    def row(self, index: int) -> Row:
        """Return one row, with `index`. Raises: ValueError when it lacks a key or has a value of a wrong type."""
        number = bisect_right(self._ends, index)
        table, kept = self._tables[number]
        at = index - (self._ends[number - 1] if number else 0)
        at = at if kept is None else int(kept[at])
        record, part = table[at]
        try:
            row = self.rows_of(record)[part]
            require(row, self.fields)
        except ROW_ERRORS as error:
            raise ValueError(f"{table.place_of(at)}: {reason_of(error)}") from error
        return {**row, "index": index}

    def get(self, index: int, rng: random.Random) -> Example:
        """Return one row as an Example; all its random choices use `rng`.

        Raises: ValueError that names dataset, index and file when row or image is bad.
        """
        sample_id = f"{self.name}[{index}]"
        images: list[Tensor] = []
        try:
            row = self.row(index)
            for name in self.image_files(row):
                path = self.images.find(name)
                sample_id = f"{sample_id} {path}"
                image = read_image(path, self.pictures)
                row.setdefault("image_size", image.size)
                images.append(self.vis_processor(image))
            turns = self.clipped_turns(row, rng)
        except (OSError, *ROW_ERRORS) as error:
            raise ValueError(f"{self.name}[{index}]: {reason_of(error)}") from error
        if sum(turn.prompt.count(IMAGE_PLACEHOLDER) for turn in turns) > len(images):
            raise ValueError(f"{sample_id}: its own text contains {IMAGE_PLACEHOLDER}, the placeholder of an image")
        return Example(turns=turns, images=tuple(images), id=sample_id)

    def clipped_turns(self, row: Row, rng: random.Random) -> tuple[Turn, ...]:
        """Return the turns of a row, with boxes moved into their image if `bad_boxes` is clip."""
        turns = self.turns(row, rng)
        if self.bad_boxes == CLIP:
            turns = [Turn(clip_boxes(turn.prompt), clip_boxes(turn.answer)) for turn in turns]
        return tuple(turns)

    def row_lengths(self, costs: TokenCosts) -> np.ndarray:
        """Return the estimated tokens of each row, (num_rows,) uint16."""
        around = mean_chars([template.replace("{}", "") for template in self.templates])
        parts = [table.token_estimates(kept, costs, around=around) for table, kept in self._tables]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def image_paths(self, listings: Listings) -> dict[str, int]:
        """Return all image files of the dataset, each with the number of rows that show it."""
        counts = Counter[str]()
        self.images.listings = listings
        for table, kept in self._tables:
            counts.update(image_paths(table, kept, self.images))
        self.images.listings = None
        return counts

    def look_at_boxes(self) -> None:
        """Count bad boxes in `report`, also those that need the size of the image file."""
        if self.bad_boxes == DROP:
            return  # done when the dataset was built, without those rows
        counts: Counter[int] = Counter()
        for table, kept in self._tables:
            faults = self._faults(table)
            counts.update(count_faults(faults if kept is None else faults[kept]))
        self.report.box_faults = counts

    def _faults(self, table: RowTable) -> np.ndarray:
        return known_faults(table, self, self.images, self.pictures)

    def bad_rows(self) -> dict[str, str]:
        """Return the reason for each bad row, by its file and its number there."""
        return {
            table.bad_row_name(number): reason
            for table, _ in self._tables
            for number, (_, _, reason) in enumerate(table.bad)
        }

    def _tell(self, annotations: Sequence[str]) -> None:
        """Log the report. Raises: ValueError when no usable row is left."""
        report, root = self.report, self.images.root
        boxes = report.boxes(self.name, self.bad_boxes)
        if report.num_rows == 0:
            raise ValueError(f"{self.name}: there is no row for it in {', '.join(annotations)}")
        if report.num_unusable == report.num_kept:
            without = f"none of them has an image below {root}"
            why = report.bad[0] if report.bad else "; ".join(boxes) if report.num_dropped else without
            raise ValueError(f"{self.name}: not one of its {report.num_rows:,} rows can be used: {why}")
        for line in [*report.left_out(root), *boxes]:
            logger.info("%s: %s", self.name, line)
        for line in [*report.mistakes(), *report.remarked()]:
            logger.warning("%s: %s", self.name, line)
