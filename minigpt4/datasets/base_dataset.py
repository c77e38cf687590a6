"""What all training datasets share: rows are selected once, and a row becomes an Example when it is fetched."""

from __future__ import annotations

import logging
import random
import struct
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, ClassVar

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from minigpt4.conversation.conversation import IMAGE_PLACEHOLDER, IMAGE_SPAN, Example, Turn
from minigpt4.datasets.files import ImageFolder
from minigpt4.datasets.rows import JsonRecords, RowTable, require

logger = logging.getLogger(__name__)
Row = dict[str, Any]
MAX_EXAMPLES = 5
"""So many of the rows that something is wrong with are named; the others are only counted."""


def with_image(question: str) -> str:
    """Return the prompt that asks a question about an image: behind the image span, with one closing space."""
    return f"{IMAGE_SPAN} {question} "


@dataclass
class Report:
    """What was found when a dataset was built; the lists hold the first few of the counted rows."""

    num_rows: int = 0  # rows of the annotation files, before any is left out for its missing image
    num_left_out: int = 0  # rows without image, left out by the rule of their dataset
    num_missing: int = 0  # rows kept although their image is not there: each will be a bad sample
    num_bad: int = 0  # rows that lack a key or have a wrong type: each will be a bad sample
    missing: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    remarks: Counter[str] = field(default_factory=Counter)

    @property
    def num_kept(self) -> int:
        """Return how many rows the dataset has."""
        return self.num_rows - self.num_left_out


class InstructionDataset(Dataset[Example]):
    """Rows of annotation files, asked as `turns` says; a subclass overrides what is particular and nothing else.

    `report` says what was found in the files. `pool` holds the wordings of `pool_name`, of which a sample draws one.
    """

    fields: ClassVar[dict[str, Any]] = {}
    """The keys that every row must have, with the types of their values."""
    pool_name: ClassVar[str | None] = None
    leaves_out_rows_without_image: ClassVar[bool] = False

    def __init__(
        self,
        *,
        name: str,
        annotations: Sequence[str],
        image_folder: str | None,
        vis_processor: Callable[[Image.Image], Tensor],
        text_processor: Callable[[str], str],
        pool: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        self.name, self.seed = name, seed
        self.vis_processor, self.text_processor = vis_processor, text_processor
        self.pool = list(pool)
        self.images = ImageFolder(image_folder or ".")
        self.report = Report()
        self._tables: list[RowTable] = []
        self._ends: list[int] = []
        self.build(annotations)

    def build(self, annotations: Sequence[str]) -> None:
        """Select the rows of the annotation files. Raises: ValueError for a broken file, or when no row can be used."""
        self.images.listed(True)
        for path in annotations:
            self._path, self._num_records = path, 0
            self._tables.append(RowTable(self.load_rows(path), self.select))
            self._ends.append(len(self) + len(self._tables[-1]))
        self.images.listed(False)
        self._tell(annotations)

    def load_rows(self, path: str) -> Iterable[Any]:
        """Return the records of an annotation file; `JsonRecords` stay in the file, others are kept in memory."""
        return JsonRecords(path)

    def rows_of(self, record: Any) -> list[Row]:
        """Return the rows that a record holds; the record itself when not overridden, [] leaves it out."""
        return [record]

    def image_file(self, row: Row) -> str | None:
        """Return the path of the row's image, None for a row of text only."""
        raise NotImplementedError

    def turns(self, row: Row, rng: random.Random) -> list[Turn]:
        """Return what is asked and answered; the row has `index`, and `image_size` (width, height) in pixels too."""
        raise NotImplementedError

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._ends[-1] if self._ends else 0

    def row(self, index: int) -> Row:
        """Return one row, with `index`. Raises: ValueError when it lacks a key or has a value of a wrong type."""
        table = bisect_right(self._ends, index)
        record, part = self._tables[table][index - (self._ends[table - 1] if table else 0)]
        row = self.rows_of(record)[part]
        require(row, self.fields)
        return {**row, "index": index}

    def get(self, index: int, rng: random.Random) -> Example:
        """Return one row as an Example; all that is drawn for it is drawn from `rng`.

        Raises: ValueError that names dataset, index and file when row or image is bad.
        """
        sample_id = f"{self.name}[{index}]"
        images: tuple[Tensor, ...] = ()
        try:
            row = self.row(index)
            path = self.image_file(row)
            if path is not None:
                sample_id = f"{sample_id} {path}"
                image = read_image(path)
                row["image_size"] = image.size
                images = (self.vis_processor(image),)
            turns = tuple(self.turns(row, rng))
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.name}[{index}]: {error}") from error
        for number, turn in enumerate(turns):
            if turn.prompt.count(IMAGE_PLACEHOLDER) > (len(images) if number == 0 else 0):
                raise ValueError(f"{sample_id}: its own text holds {IMAGE_PLACEHOLDER}, which stands for an image")
        return Example(turns=turns, images=images, id=sample_id)

    def select(self, record: Any) -> list[int]:
        """Return which rows of a record belong to the dataset, and note in `report` what is wrong with them."""
        self._num_records += 1
        report, selected = self.report, []
        try:
            rows = self.rows_of(record)
        except ValueError as error:
            rows = []
            report.num_rows += 1
            self._note_bad(error)
            selected.append(0)  # it counts as one row
        for part, row in enumerate(rows):
            report.num_rows += 1
            try:
                require(row, self.fields)
                path = self.image_file(row)
            except ValueError as error:
                self._note_bad(error)
                selected.append(part)
                continue
            if path is not None and not self.images.exists(path):
                if self.leaves_out_rows_without_image:
                    report.num_left_out += 1
                    continue
                report.num_missing += 1
                if report.num_missing <= MAX_EXAMPLES:
                    report.missing.append(path)
            selected.append(part)
        return selected

    def _note_bad(self, error: ValueError) -> None:
        self.report.num_bad += 1
        if self.report.num_bad <= MAX_EXAMPLES:
            self.report.bad.append(f"{self._path}: record {self._num_records}: {error}")

    def _tell(self, annotations: Sequence[str]) -> None:
        """Log what the report says. Raises: ValueError when no usable row is left."""
        report, name, root = self.report, self.name, self.images.root
        if report.num_rows == 0:
            raise ValueError(f"{name}: there is no row for it in {', '.join(annotations)}")
        if report.num_left_out + report.num_missing + report.num_bad == report.num_rows:
            why = report.bad[0] if report.bad else f"none of them has an image below {root}"
            raise ValueError(f"{name}: not one of its {report.num_rows:,} rows can be used: {why}")
        logger.info("%s: %s rows", name, f"{len(self):,}")
        if report.num_left_out:
            counts = f"{report.num_left_out:,} of {report.num_rows:,}"
            logger.info("%s: %s rows have no image below %s and are left out", name, counts, root)
        if report.num_missing:
            counts = f"{report.num_missing:,} of {report.num_rows:,}"
            logger.warning("%s: the images of %s rows are not there: %s", name, counts, ", ".join(report.missing))
        if report.num_bad:
            logger.warning("%s: %s of its rows are bad: %s", name, f"{report.num_bad:,}", "; ".join(report.bad))
        for remark, count in report.remarks.items():
            logger.warning("%s: %s (%d times)", name, remark, count)


def read_image(path: str) -> Image.Image:
    """Return the decoded image, in the mode that the file has.

    Raises: ValueError naming the file when it is missing or does not decode.
    """
    try:
        return decode_image(path)
    except FileNotFoundError as error:
        raise ValueError(f"cannot read {path}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def decode_image(source: str | IO[bytes]) -> Image.Image:
    """Return the decoded image of a file. Raises: OSError or ValueError, whatever the decoder finds wrong."""
    try:
        with Image.open(source) as image:
            image.load()
            return image
    except (SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error
