"""Which rows of a table a dataset keeps, given the images that are there and the samples known to be bad."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from minigpt4.datasets.images import ImageFolder
from minigpt4.datasets.report import MAX_EXAMPLES, Report
from minigpt4.datasets.row_table import IMAGE_SEPARATOR, RowTable


def select_rows(
    table: RowTable, images: ImageFolder, report: Report, *, by_rule: bool, bad_samples: Collection[str]
) -> np.ndarray | None:
    """Return the kept rows, (num_kept,) int32, None for all; `report` gets the counts.

    `by_rule`: rows without image are left out. `bad_samples` names image files and bad rows that are left out anyway.
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
    _count(report, table, is_bad=is_bad, excluded=excluded, missing=missing & ~left_out, left_out=left_out)
    shown = np.unique(table.arrays["images"][missing & ~left_out])[: MAX_EXAMPLES - len(report.missing)]
    report.missing += [next(path for path in paths[group] if not images.exists(path)) for group in shown]
    kept = ~(excluded | left_out)
    return None if kept.all() else np.flatnonzero(kept).astype(np.int32)


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


def _count(report: Report, table: RowTable, **masks: np.ndarray) -> None:
    report.num_rows += len(table)
    report.num_left_out += int(masks["left_out"].sum())
    report.num_excluded += int(masks["excluded"].sum())
    report.num_missing += int(masks["missing"].sum())
    for number, row in enumerate(table.arrays["bad_rows"].tolist()):
        if not masks["excluded"][row]:
            report.num_bad += 1
            if len(report.bad) < MAX_EXAMPLES:
                report.bad.append(f"{table.bad_row_name(number)}: {table.reasons[number]}")
    report.remarks.update(table.remarks)
