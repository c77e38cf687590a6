"""What all training datasets share: rows are selected once, and a row becomes an Example when it is fetched."""

from __future__ import annotations

import logging
import os
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from minigpt4.conversation.conversation import IMAGE_PLACEHOLDER, IMAGE_SPAN, Example, Turn
from minigpt4.conversation.token_costs import TokenCosts
from minigpt4.datasets.boxes import CLIP, DROP, INSIDE, KEEP, clip_boxes
from minigpt4.datasets.images import ImageFolder, Listings, read_image
from minigpt4.datasets.lengths import row_lengths, size_of_one
from minigpt4.datasets.row_index import table_of
from minigpt4.datasets.row_report import RowReport
from minigpt4.datasets.row_table import RowTable
from minigpt4.datasets.rows import JsonRecords, require
from minigpt4.datasets.selection import count_faults, image_paths, known_faults, select_rows
from minigpt4.processors.pictures import AS_STORED

logger = logging.getLogger(__name__)
Row = dict[str, Any]


def with_image(question: str) -> str:
    """Return the prompt that asks a question about an image: behind the image span, with one closing space."""
    return f"{IMAGE_SPAN} {question} "


class InstructionDataset(Dataset[Example]):
    """Rows of annotation files, asked as `turns` says; a subclass overrides what is particular and nothing else.

    `report` says what was found in the files. `pool` holds the wordings of `pool_name`, of which a sample draws one.
    `bad_samples` names image files and bad rows that are left out. What `load_rows`, `rows_of`, `image_files`,
    `text_sizes`, `box_fault` and `remark` say of a large file is kept beside it, so they depend on the files alone
    (`other_files` included). `pictures` says how images are shown, `bad_boxes` what is done with bad boxes.
    """

    fields: ClassVar[dict[str, Any]] = {}
    """The keys that every row must have, with the types of their values."""
    pool_name: ClassVar[str | None] = None
    leaves_out_rows_without_image: ClassVar[bool] = False
    image_spelling: ClassVar[tuple[str, str] | None] = None
    """A part of image names, and how it may be written instead: the other is taken when only that file is there."""

    def __init__(
        self,
        *,
        name: str,
        annotations: Sequence[str],
        image_folder: str | None,
        vis_processor: Callable[[Image.Image], Tensor],
        text_processor: Callable[[str], str],
        other_files: Sequence[str] = (),
        pool: Sequence[str] = (),
        seed: int = 0,
        listings: Listings | None = None,
        bad_samples: Collection[str] = frozenset(),
        pictures: str = AS_STORED,
        bad_boxes: str = KEEP,
    ) -> None:
        self.name, self.seed = name, seed
        self.pictures, self.bad_boxes = pictures, bad_boxes
        self.vis_processor, self.text_processor = vis_processor, text_processor
        self.pool = list(pool)
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
            table = table_of(path, self.load_rows, self, others=self.other_files)
            drop = self.bad_boxes == DROP
            kept = select_rows(
                table,
                self.images,
                self.report,
                by_rule=self.leaves_out_rows_without_image,
                bad_samples=bad_samples,
                faults=known_faults(table, self) if drop else table.arrays["faults"],
                drop=drop,
            )
            self._tables.append((table, kept))
            self._ends.append(len(self) + (len(table) if kept is None else len(kept)))
        self.images.listings = None  # what is there may change; and it would travel to the workers
        self._tell(annotations)

    def load_rows(self, path: str) -> Iterable[Any]:
        """Return the records of an annotation file; `JsonRecords` stay in the file, others are copied."""
        return JsonRecords(path)

    def rows_of(self, record: Any) -> Sequence[Row]:
        """Return the rows that a record holds; the record itself when not overridden, [] leaves it out."""
        return [record]

    def remark(self, record: Any) -> str | None:
        """Return what the user should know about a record, of which the log has the count."""
        return None

    def image_files(self, row: Row) -> list[str]:
        """Return the names of the row's images, below the image folder or absolute; [] for a row of text only."""
        raise NotImplementedError

    def text_sizes(self, row: Row) -> tuple[int, int]:
        """Return about how many characters the first question has (without image and wording), and all that follows.

        Ranks are balanced by it. When not overridden: nothing is asked, and all texts of the row follow.
        """
        images = self.image_files(row)
        values: list[list[Any]] = [value if isinstance(value, list) else [value] for value in map(row.get, self.fields)]
        told = (texts for texts in values if all(isinstance(text, str) and text not in images for text in texts))
        return 0, sum(map(size_of_one, told))

    def box_fault(self, row: Row) -> int:
        """Return what is wrong with the row's boxes, as of `datasets.boxes`; a row without boxes has nothing wrong."""
        return INSIDE

    def box_fault_in(self, row: Row, image_size: tuple[int, int]) -> int:
        """Return the same for a row whose `box_fault` is UNKNOWN without its image's (width, height)."""
        raise NotImplementedError

    def turns(self, row: Row, rng: random.Random) -> list[Turn]:
        """Return what is asked and answered; the row has `index`, and `image_size` (width, height) in pixels too."""
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
        except ValueError as error:
            raise ValueError(f"{table.place_of(at)}: {error}") from error
        return {**row, "index": index}

    def get(self, index: int, rng: random.Random) -> Example:
        """Return one row as an Example; all that is drawn for it is drawn from `rng`.

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
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.name}[{index}]: {error}") from error
        if sum(turn.prompt.count(IMAGE_PLACEHOLDER) for turn in turns) > len(images):
            raise ValueError(f"{sample_id}: its own text holds {IMAGE_PLACEHOLDER}, which stands for an image")
        return Example(turns=turns, images=tuple(images), id=sample_id)

    def clipped_turns(self, row: Row, rng: random.Random) -> tuple[Turn, ...]:
        """Return the turns of a row; boxes are moved into their image where `bad_boxes` says so."""
        turns = self.turns(row, rng)
        if self.bad_boxes == CLIP:
            turns = [Turn(clip_boxes(turn.prompt), clip_boxes(turn.answer)) for turn in turns]
        return tuple(turns)

    def row_lengths(self, costs: TokenCosts) -> np.ndarray:
        """Return about how many tokens each row takes, (num_rows,) uint16."""
        wordings = [wording.replace("{}", "") for wording in self.pool]
        parts = [row_lengths(table, kept, costs, wording=size_of_one(wordings)) for table, kept in self._tables]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def image_paths(self, listings: Listings) -> dict[str, int]:
        """Return all image files of the dataset, each with the number of rows that show it."""
        counts: dict[str, int] = {}
        self.images.listings = listings
        for table, kept in self._tables:
            for path, count in image_paths(table, kept, self.images).items():
                counts[path] = counts.get(path, 0) + count
        self.images.listings = None
        return counts

    def look_at_boxes(self) -> None:
        """Let `report` count the boxes whose image has to be asked for its size too."""
        if self.bad_boxes == DROP:
            return  # has been done, and those rows are gone
        counts: Counter[int] = Counter()
        for table, kept in self._tables:
            faults = known_faults(table, self)
            counts.update(count_faults(faults if kept is None else faults[kept]))
        self.report.box_faults = counts

    def bad_rows(self) -> dict[str, str]:
        """Return the rows that lack a key or have a wrong type, by file and place there, with what is wrong."""
        return {
            table.bad_row_name(number): reason
            for table, _ in self._tables
            for number, reason in enumerate(table.reasons)
        }

    def _tell(self, annotations: Sequence[str]) -> None:
        """Log what the report says. Raises: ValueError when no usable row is left."""
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
