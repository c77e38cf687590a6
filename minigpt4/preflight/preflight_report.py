"""What the preflight found: a table of all files, remarks, and the reasons why training could not start."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minigpt4.common.files import write_text
from minigpt4.common.tables import as_table
from minigpt4.datasets.base_builder import DataPath
from minigpt4.datasets.base_dataset import InstructionDataset
from minigpt4.datasets.selection import MAX_EXAMPLES
from minigpt4.preflight.weights import WeightFile

HEADER = ("", "rows", "kept", "no image", "unreadable", "", "file or folder", "set by", "download from")


@dataclass
class DatasetCheck:
    """What was found of one dataset; `splits` stays None when it cannot be built."""

    name: str
    data_paths: Sequence[DataPath] = ()
    splits: dict[str, InstructionDataset] | None = None
    num_unreadable: int = 0  # rows whose image does not decode; only a full check knows
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def dataset(self) -> InstructionDataset | None:
        """The dataset that is trained on; None when it cannot be built."""
        return None if self.splits is None else self.splits["train"]

    @property
    def is_stream(self) -> bool:
        """Whether the dataset is a stream without an end."""
        return self.dataset is not None and self.dataset.is_stream

    def lines(self) -> list[Sequence[str]]:
        """Return the dataset's lines of the table: its counts, and each of its files."""
        counts = ["endless"] * 2 + ["-"] * 2 if self.is_stream else ["-"] * 4
        if self.dataset is not None and not self.is_stream:
            report = self.dataset.report
            without_image, unreadable = report.num_left_out + report.num_missing, report.num_bad + self.num_unreadable
            counts = [f"{count:,}" for count in (report.num_rows, len(self.dataset), without_image, unreadable)]
        first, *more = _lines_of(self.data_paths)
        return [(self.name, *counts, _state(self.problems), *first), *(("",) * 6 + line for line in more)]


@dataclass
class PreflightReport:
    """What was found of a whole run: `problems` are the reasons why training could not start, all of them."""

    datasets: list[DatasetCheck]
    weights: list[WeightFile]
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def built(self) -> dict[str, dict[str, Any]]:
        """Return {name: {split: dataset}} of what could be built."""
        return {one.name: one.splits for one in self.datasets if one.splits is not None}

    def table(self) -> str:
        """Return the table of all datasets and weight files, then what the user should know."""
        lines = [line for one in self.datasets for line in one.lines()]
        for file in self.weights:
            name = file.key.rpartition(".")[2]
            lines.append((name, "", "", "", "", _state(file.problem), file.path, file.key, file.url))
        remarks = [*self.remarks, *self.boxes()]
        return "\n".join([as_table([HEADER, *lines], right=(1, 2, 3, 4)), *(f"- {text}" for text in remarks)])

    def boxes(self) -> list[str]:
        """Return what is wrong with the boxes of each dataset."""
        datasets = [splits["train"] for splits in self.built().values()]
        return [f"{one.name}: {line}" for one in datasets for line in one.report.boxes(one.name, one.bad_boxes)]

    def summary(self) -> str:
        """Return whether training could start, and every problem."""
        if not self.problems:
            return "training could start"
        return "\n  - ".join(["training cannot start:", *self.problems])


def _state(problems: str | Sequence[str] | None) -> str:
    return "PROBLEM" if problems else "ok"


def _lines_of(data_paths: Sequence[DataPath]) -> list[tuple[str, str, str]]:
    """Return (file or folder, key, URL) of each path; many files of one key are one line."""
    lines: dict[tuple[str, bool], list[DataPath]] = {}
    for data_path in data_paths:
        several = len(data_paths) > 2 * MAX_EXAMPLES
        lines.setdefault(
            (data_path.key if several else f"{data_path.key} {data_path.paths}", data_path.folder), []
        ).append(data_path)
    texts = []
    for first, *more in lines.values():
        path = first.find() or (f"{first.paths[0]} (MISSING)" if first.paths else "(not set)")
        texts.append((path + (f" and {len(more):,} more" if more else ""), first.key, first.url))
    return texts or [("", "", "")]


def read_bad_samples(path: str | None) -> frozenset[str]:
    """Return the names of the samples that a report lists as bad; none without a report.

    Raises: ValueError when the file is absent or is no report.
    """
    if path is None:
        return frozenset()
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
        return frozenset(report["images"]) | frozenset(report["rows"])
    except OSError as error:
        raise ValueError(f"run.bad_samples_report: cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"run.bad_samples_report: {path} is no report of `--check full`: {error}") from error


def write_bad_samples(
    path: Path,
    *,
    images: Mapping[str, str],
    rows: Mapping[str, str],
    num_images: int,
    shards: Mapping[str, Any] | None = None,
) -> None:
    """Write the reason of each bad image and row by its name, and what the shards of streams hold."""
    report = {"num_images_opened": num_images, "images": images, "rows": rows}
    report |= {"shards": shards} if shards else {}
    write_text(path, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
