"""Counts of a dataset's rows: all, kept, left out, and bad, with examples and messages."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from minigpt4.datasets.boxes import CLIP, DROP, FAULTS, KEEP

MAX_EXAMPLES = 5
"""The number of bad rows that a message names; the others are only counted."""


@dataclass
class RowReport:
    """Counts of rows; the lists hold the first few of the counted ones."""

    num_rows: int = 0  # rows of the annotation files, before any is left out for its image
    num_left_out: int = 0  # rows without image, left out by the rule of their dataset
    num_excluded: int = 0  # rows left out because run.bad_samples_report names them
    num_dropped: int = 0  # rows left out for their box, where `bad_boxes` is drop
    num_missing: int = 0  # rows kept without their image: each will be a bad sample
    num_bad: int = 0  # rows that lack a key or have a wrong type: each will be a bad sample
    missing: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    remarks: Counter[str] = field(default_factory=Counter)
    box_faults: Counter[int] = field(default_factory=Counter)  # rows by what is wrong with their boxes

    @property
    def num_kept(self) -> int:
        """The number of rows that the dataset has."""
        return self.num_rows - self.num_left_out - self.num_excluded - self.num_dropped

    @property
    def num_unusable(self) -> int:
        """The number of kept rows that will be bad samples."""
        return self.num_missing + self.num_bad

    def left_out(self, root: str) -> list[str]:
        """Return messages about the rows that are left out."""
        lines = []
        if self.num_left_out:
            counts = f"{self.num_left_out:,} of {self.num_rows:,}"
            lines.append(f"{counts} rows have no image below {root} and are left out")
        if self.num_excluded:
            counts = f"{self.num_excluded:,} of {self.num_rows:,}"
            lines.append(f"{counts} rows are left out because run.bad_samples_report names them")
        return lines

    def boxes(self, name: str, bad_boxes: str) -> list[str]:
        """Return a message about the bad boxes of a dataset and how they are handled."""
        faults = {fault: count for fault, count in self.box_faults.items() if count}
        if not faults:
            return []
        what = ", ".join(f"{count:,} {FAULTS[fault]}" for fault, count in sorted(faults.items()))
        done = {
            KEEP: "kept as published",
            CLIP: "moved into their image",
            DROP: f"the {self.num_dropped:,} rows outside, empty or reversed are left out",
        }[bad_boxes]
        counts = f"{sum(faults.values()):,} of {self.num_rows:,}"
        return [f"{counts} rows have a bad box: {what}; {done} (datasets.{name}.bad_boxes: {bad_boxes})"]

    def remarked(self) -> list[str]:
        """Return the remarks on records, each with its count."""
        return [f"{remark} ({count} times)" for remark, count in self.remarks.items()]

    def mistakes(self) -> list[str]:
        """Return messages about the rows that are kept and bad."""
        lines = []
        if self.num_missing:
            counts = f"{self.num_missing:,} of {self.num_rows:,}"
            lines.append(f"the images of {counts} rows are not there: {', '.join(self.missing)}")
        if self.num_bad:
            lines.append(f"{self.num_bad:,} of {self.num_rows:,} rows are bad: {'; '.join(self.bad)}")
        return lines
