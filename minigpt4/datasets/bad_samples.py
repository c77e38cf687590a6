"""The full check: every image is opened, in processes; what does not decode goes into a report for training."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from multiprocessing import Pool
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minigpt4.common.files import append_text, write_text
from minigpt4.datasets.images import read_image

logger = logging.getLogger(__name__)
CHUNK = 128
"""Images that a process opens before it reports."""


def read_report(path: str | None) -> Collection[str]:
    """Return the names of the samples that a report tells to leave out; none without a report.

    Raises: ValueError when the file is not there or is no report.
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


def write_report(path: Path, *, images: dict[str, str], rows: dict[str, str], num_images: int) -> None:
    """Write what is wrong with which images and rows."""
    report = {"num_images_opened": num_images, "images": images, "rows": rows}
    write_text(path, json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def open_images(paths: Sequence[str], journal: Path, *, num_processes: int) -> dict[str, str]:
    """Return the images that do not decode, each with the reason.

    `journal` says how far it has come, so that a check that was broken off goes on there; it is removed at the end.
    """
    names = digest(paths)
    done = _read_journal(journal, names)
    num_opened = sum(line["opened"] for line in done)
    if num_opened:
        logger.info("%s: %d of %d images were opened before; going on there", journal, num_opened, len(paths))
    journal.parent.mkdir(parents=True, exist_ok=True)
    chunks = [list(paths[at : at + CHUNK]) for at in range(num_opened, len(paths), CHUNK)]
    bar = tqdm(total=len(paths), initial=num_opened, unit="image", disable=not sys.stderr.isatty())
    with journal.open("w", encoding="utf-8") as file, Pool(num_processes) as pool, bar:
        append_text(file, journal, "".join(json.dumps(line) + "\n" for line in [{"names": names}, *done]))
        for chunk, found in zip(chunks, pool.imap(_bad_ones, chunks), strict=True):
            done.append({"opened": len(chunk), "bad": found})
            append_text(file, journal, json.dumps(done[-1]) + "\n")
            bar.update(len(chunk))
    os.remove(journal)
    return {path: reason for line in done for path, reason in line["bad"].items()}


def digest(paths: Sequence[str]) -> str:
    """Return a name for a list of images: a check goes on only with the same."""
    return hashlib.blake2b("\n".join(map(str, paths)).encode(), digest_size=16).hexdigest()


def _bad_ones(paths: Sequence[str]) -> dict[str, str]:
    return dict(_open_each(paths))


def _open_each(paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    for path in paths:
        try:
            read_image(path)
        except ValueError as error:
            yield path, str(error).removeprefix(f"cannot read {path}: ")


def _read_journal(journal: Path, names: str) -> list[dict[str, Any]]:
    """Return what an earlier check of the same images wrote, up to a line that was cut off."""
    lines: list[dict[str, Any]] = []
    try:
        for text in journal.read_text(encoding="utf-8").splitlines():
            lines.append(json.loads(text))
    except (OSError, ValueError) as error:
        logger.debug("%s: %s", journal, error)
    return lines[1:] if lines and lines[0].get("names") == names else []
