"""Selects the rows that a dataset keeps, given existing images and known bad samples, and counts the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np

from minigpt4.datasets.boxes import CLIP, DROP, DROPPED, FAULTS, KEEP, UNKNOWN
from minigpt4.datasets.images import ImageFolder
from minigpt4.datasets.row_table import IMAGE_SEPARATOR, RowRules, RowTable
from minigpt4.processors.pictures import shown_size

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


def select_rows(
    table: RowTable,
    images: ImageFolder,
    report: RowReport,
    *,
    by_rule: bool,
    bad_samples: Collection[str],
    faults: np.ndarray,
    drop: bool,
) -> np.ndarray | None:
    """Return the kept rows, (num_kept,) int32, None for all; `report` gets the counts.

    `by_rule` leaves out rows without image. `bad_samples` names image files and bad rows to leave out. `faults`,
    (num_rows,) uint8, are those of the rows' boxes; `drop` leaves out rows with DROPPED ones.
    """
    image_of = table.arrays["images"]
    paths = [_paths_of(names, images) for names in table.image_names()]

    def rows_with(is_meant: Callable[[list[str]], bool]) -> np.ndarray:
        """Return for each row whether its image files are meant, (num_rows,) bool."""
        mask: np.ndarray = np.fromiter(map(is_meant, paths), np.bool_, len(paths))[image_of]
        return mask

    missing = rows_with(lambda files: not all(map(images.exists, files)))
    excluded = rows_with(lambda files: any(file in bad_samples for file in files)) if bad_samples else missing & False
    for number, (row, _, reason) in enumerate(table.bad):
        excluded[row], missing[row] = (name := table.bad_row_name(number)) in bad_samples, False
        if not excluded[row]:
            report.num_bad += 1
            report.bad += [f"{name}: {reason}"] if len(report.bad) < MAX_EXAMPLES else []
    missing &= ~excluded
    left_out = missing & by_rule
    report.box_faults.update(count_faults(faults[~(excluded | left_out)]))
    dropped = np.isin(faults, DROPPED) & ~(excluded | left_out) if drop else missing & False
    missing &= ~(left_out | dropped)
    report.num_rows += len(table)
    report.num_left_out += int(left_out.sum())
    report.num_excluded += int(excluded.sum())
    report.num_missing += int(missing.sum())
    report.num_dropped += int(dropped.sum())
    named = np.unique(image_of[missing])[: MAX_EXAMPLES - len(report.missing)]
    report.missing += [next(path for path in paths[group] if not images.exists(path)) for group in named]
    report.remarks.update(table.remarks)
    kept = ~(excluded | left_out | dropped)
    return None if kept.all() else np.flatnonzero(kept).astype(np.int32)


def known_faults(table: RowTable, rules: RowRules, images: ImageFolder, pictures: str) -> np.ndarray:
    """Return the fault of each row's boxes, (num_rows,) uint8; image files give the sizes that no row states."""
    faults = table.arrays["faults"].copy()
    sizes: dict[str, tuple[int, int] | None] = {}
    for at in np.flatnonzero(faults == UNKNOWN).tolist():
        record, part = table[at]
        row = rules.rows_of(record)[part]
        path = images.find(rules.image_files(row)[0])
        if path not in sizes:
            try:
                sizes[path] = shown_size(path, pictures)
            except ValueError:  # counted as missing, or as an image that cannot be read
                sizes[path] = None
        if (size := sizes[path]) is not None:
            faults[at] = rules.box_fault_in(row, size)
    return faults


def count_faults(faults: np.ndarray) -> dict[int, int]:
    """Return the number of rows of each of the FAULTS."""
    counts = np.bincount(faults, minlength=UNKNOWN + 1).tolist()
    return {fault: counts[fault] for fault in FAULTS}


def image_paths(table: RowTable, kept: np.ndarray | None, images: ImageFolder) -> Counter[str]:
    """Return the image files of the kept rows, each with the number of rows that show it."""
    numbers = table.arrays["images"] if kept is None else table.arrays["images"][kept]
    names = table.image_names()
    counts = Counter[str]()
    for group, count in zip(names, np.bincount(numbers, minlength=len(names)).tolist(), strict=True):
        counts.update(dict.fromkeys(_paths_of(group, images), count) if count else {})
    return counts


def _paths_of(names: str, images: ImageFolder) -> list[str]:
    """Return the files of one entry of `RowTable.image_names`."""
    return [images.find(name) for name in names.split(IMAGE_SEPARATOR)] if names else []
