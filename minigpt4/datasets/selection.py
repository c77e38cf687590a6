"""Selects the rows of a table that a dataset keeps, given the existing images and known bad samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

import numpy as np

from minigpt4.datasets.boxes import DROPPED, FAULTS, UNKNOWN
from minigpt4.datasets.images import ImageFolder
from minigpt4.datasets.row_report import MAX_EXAMPLES, RowReport
from minigpt4.datasets.row_rules import RowRules
from minigpt4.datasets.row_table import IMAGE_SEPARATOR, RowTable
from minigpt4.processors.pictures import shown_size


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
