"""Which rows of a table a dataset keeps, given the images that are there and the samples known to be bad."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

import numpy as np

from minigpt4.datasets.boxes import DROPPED, FAULTS, UNKNOWN
from minigpt4.datasets.images import ImageFolder
from minigpt4.datasets.row_report import MAX_EXAMPLES, RowReport
from minigpt4.datasets.row_table import IMAGE_SEPARATOR, RowTable
from minigpt4.processors.pictures import shown_size


class BoxRules(Protocol):
    """What of a dataset says where a row's box is."""

    images: ImageFolder
    pictures: str

    def rows_of(self, record: Any) -> Sequence[Any]:
        """Return the rows of a record."""

    def image_files(self, row: Any) -> Sequence[str]:
        """Return the names of a row's images."""

    def box_fault_in(self, row: Any, image_size: tuple[int, int]) -> int:
        """Return what is wrong with the row's box in an image of this (width, height)."""


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

    `by_rule`: rows without image are left out. `bad_samples` names image files and bad rows that are left out anyway.
    `faults`, (num_rows,) uint8, says what is wrong with each row's boxes; `drop` leaves out those with DROPPED ones.
    """
    names = table.image_names()
    paths = [paths_of(group, images) for group in names]
    is_bad = np.zeros(len(table), bool)
    is_bad[table.arrays["bad_rows"]] = True
    excluded = np.zeros(len(table), bool)
    if bad_samples:
        known_bad = (any(path in bad_samples for path in group) for group in paths)
        excluded = np.fromiter(known_bad, np.bool_, len(paths))[table.arrays["images"]]
        for number, row in enumerate(table.arrays["bad_rows"].tolist()):
            excluded[row] = table.bad_row_name(number) in bad_samples
    absent = np.fromiter((not all(map(images.exists, group)) for group in paths), np.bool_, len(paths))
    missing = absent[table.arrays["images"]] & ~is_bad & ~excluded if len(table) else excluded
    left_out = missing if by_rule else np.zeros_like(missing)
    report.box_faults.update(count_faults(faults[~(excluded | left_out)]))
    dropped = np.isin(faults, DROPPED) & ~(excluded | left_out) if drop else np.zeros_like(missing)
    missing = missing & ~(left_out | dropped)
    _count(report, table, is_bad=is_bad, excluded=excluded, missing=missing, left_out=left_out, dropped=dropped)
    shown = np.unique(table.arrays["images"][missing])[: MAX_EXAMPLES - len(report.missing)]
    report.missing += [next(path for path in paths[group] if not images.exists(path)) for group in shown]
    kept = ~(excluded | left_out | dropped)
    return None if kept.all() else np.flatnonzero(kept).astype(np.int32)


def known_faults(table: RowTable, dataset: BoxRules) -> np.ndarray:
    """Return what is wrong with each row's boxes, (num_rows,) uint8; where sizes are not stated, images are asked."""
    faults = table.arrays["faults"].copy()
    sizes: dict[str, tuple[int, int] | None] = {}
    for at in np.flatnonzero(faults == UNKNOWN).tolist():
        record, part = table[at]
        row = dataset.rows_of(record)[part]
        path = dataset.images.find(dataset.image_files(row)[0])
        if path not in sizes:
            sizes[path] = _size_of(path, dataset.pictures)
        size = sizes[path]
        if size is not None:
            faults[at] = dataset.box_fault_in(row, size)
    return faults


def count_faults(faults: np.ndarray) -> dict[int, int]:
    """Return the number of rows of each of the FAULTS."""
    counts = np.bincount(faults, minlength=UNKNOWN + 1).tolist()
    return {fault: counts[fault] for fault in FAULTS}


def _size_of(path: str, pictures: str) -> tuple[int, int] | None:
    try:
        return shown_size(path, pictures)
    except ValueError:  # counted as missing, or as an image that cannot be read
        return None


def paths_of(names: str, images: ImageFolder) -> list[str]:
    """Return the files of one entry of `RowTable.image_names`."""
    return [images.find(name) for name in names.split(IMAGE_SEPARATOR)] if names else []


def image_paths(table: RowTable, kept: np.ndarray | None, images: ImageFolder) -> dict[str, int]:
    """Return the image files of the kept rows, each with the number of rows that show it."""
    numbers = table.arrays["images"] if kept is None else table.arrays["images"][kept]
    names = table.image_names()
    counts: dict[str, int] = {}
    for group, count in zip(names, np.bincount(numbers, minlength=len(names)).tolist(), strict=True):
        for path in paths_of(group, images) if count else ():
            counts[path] = counts.get(path, 0) + count
    return counts


def _count(report: RowReport, table: RowTable, **masks: np.ndarray) -> None:
    report.num_rows += len(table)
    report.num_left_out += int(masks["left_out"].sum())
    report.num_excluded += int(masks["excluded"].sum())
    report.num_missing += int(masks["missing"].sum())
    report.num_dropped += int(masks["dropped"].sum())
    for number, row in enumerate(table.arrays["bad_rows"].tolist()):
        if not masks["excluded"][row]:
            report.num_bad += 1
            if len(report.bad) < MAX_EXAMPLES:
                report.bad.append(f"{table.bad_row_name(number)}: {table.reasons[number]}")
    report.remarks.update(table.remarks)
