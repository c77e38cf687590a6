"""Hooks that turn annotation files into rows. A dataset overrides them; an index keeps their answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from minigpt4.common.json_records import JsonRecords
from minigpt4.datasets.boxes import INSIDE
from minigpt4.datasets.lengths import mean_chars

Row = dict[str, Any]


class RowRules:
    """Finds the rows of annotation files. All answers but those of `box_fault_in` depend on the files alone."""

    fields: ClassVar[dict[str, Any]] = {}
    """The keys that every row must have, with the types of their values."""
    other_files: Sequence[str] = ()
    """Further files that the rows depend on."""

    def load_rows(self, path: str) -> Iterable[Any]:
        """Return the records of an annotation file; `JsonRecords` stay in the file, others are copied."""
        return JsonRecords(path)

    def rows_of(self, record: Any) -> Sequence[Row]:
        """Return the rows of a record, by default the record itself; [] leaves it out."""
        return [record]

    def remark(self, record: Any) -> str | None:
        """Return a remark about a record; the log counts equal ones."""
        return None

    def image_files(self, row: Row) -> list[str]:
        """Return the names of the row's images, below the image folder or absolute; [] for a row of text only.

        By default the row's `image`.
        """
        return [row["image"]]

    def text_chars(self, row: Row) -> tuple[int, int]:
        """Return about how many characters the first question has, and all that follows it.

        Images and the prompt template do not count. Balancing the ranks uses it. By default all texts of the row count
        as its answer.
        """
        images = self.image_files(row)
        values: list[list[Any]] = [value if isinstance(value, list) else [value] for value in map(row.get, self.fields)]
        answers = (texts for texts in values if all(isinstance(text, str) and text not in images for text in texts))
        return 0, sum(map(mean_chars, answers))

    def box_fault(self, row: Row) -> int:
        """Return the fault of the row's boxes, see `datasets.boxes`; by default it has none."""
        return INSIDE

    def box_fault_in(self, row: Row, image_size: tuple[int, int]) -> int:
        """Return the fault of a row whose `box_fault` is UNKNOWN, given its image's (width, height)."""
        raise NotImplementedError
