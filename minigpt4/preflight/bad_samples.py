"""The file of `--check full`: the images, rows and samples that a training leaves out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minigpt4.common.files import write_text


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
