"""The full check: every image is opened, in processes; what does not decode goes into a report for training."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from multiprocessing import Pool
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from minigpt4.common.files import append_text, write_text
from minigpt4.datasets.picture_kinds import kinds_of_file

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


def write_report(
    path: Path, *, images: dict[str, str], rows: dict[str, str], num_images: int, shards: dict[str, Any] | None = None
) -> None:
    """Write what is wrong with which images and rows, and what the shards of streams hold."""
    report = {"num_images_opened": num_images, "images": images, "rows": rows}
    report |= {"shards": shards} if shards else {}
    write_text(path, json.dumps(report, indent=1, ensure_ascii=False) + "\n")


class Opened(NamedTuple):
    """What was found in images: the reasons of those that do not decode, the kinds of those that have some."""

    bad: dict[str, str]
    kinds: dict[str, list[str]]


def open_images(paths: Sequence[str], journal: Path, *, num_processes: int) -> Opened:
    """Open every image; return those that do not decode, each with the reason, and those of the kinds to count."""
    found = open_each(paths, _open_each, journal, chunk=CHUNK, unit="image", num_processes=num_processes)
    return Opened(found.get("bad", {}), found.get("kinds", {}))


def open_each(
    paths: Sequence[str],
    look: Callable[[Sequence[str]], Mapping[str, dict[str, Any]]],
    journal: Path,
    *,
    chunk: int,
    unit: str,
    num_processes: int,
) -> dict[str, dict[str, Any]]:
    """Return what `look` finds, called in processes with `chunk` paths at a time: findings of each kind by path.

    `journal` says how far it has come, so that a check that was broken off goes on there; it is removed at the end.
    """
    names = digest(paths)
    done = _read_journal(journal, names)
    num_opened = sum(line["opened"] for line in done)
    if num_opened:
        logger.info("%s: %d of %d %ss were opened before; going on there", journal, num_opened, len(paths), unit)
    journal.parent.mkdir(parents=True, exist_ok=True)
    chunks = [list(paths[at : at + chunk]) for at in range(num_opened, len(paths), chunk)]
    bar = tqdm(total=len(paths), initial=num_opened, unit=unit, disable=not sys.stderr.isatty())
    with journal.open("w", encoding="utf-8") as file, Pool(num_processes) as pool, bar:
        append_text(file, journal, "".join(json.dumps(line) + "\n" for line in [{"names": names}, *done]))
        for part, found in zip(chunks, pool.imap(look, chunks), strict=True):
            done.append({"opened": len(part), **found})
            append_text(file, journal, json.dumps(done[-1]) + "\n")
            bar.update(len(part))
    os.remove(journal)
    merged: dict[str, dict[str, Any]] = {}
    for line in done:
        for kind, found in line.items():
            if kind != "opened":
                merged.setdefault(kind, {}).update(found)
    return merged


def digest(paths: Sequence[str]) -> str:
    """Return a name for a list of images: a check goes on only with the same."""
    return hashlib.blake2b("\n".join(map(str, paths)).encode(), digest_size=16).hexdigest()


def _open_each(paths: Sequence[str]) -> dict[str, dict[str, Any]]:
    bad: dict[str, str] = {}
    kinds: dict[str, list[str]] = {}
    for path in paths:
        try:
            found = kinds_of_file(path)
        except ValueError as error:
            bad[path] = str(error)
        else:
            if found:
                kinds[path] = found
    return {"bad": bad, "kinds": kinds}


def _read_journal(journal: Path, names: str) -> list[dict[str, Any]]:
    """Return what an earlier check of the same images wrote, up to a line that was cut off."""
    lines: list[dict[str, Any]] = []
    try:
        for text in journal.read_text(encoding="utf-8").splitlines():
            lines.append(json.loads(text))
    except (OSError, ValueError) as error:
        logger.debug("%s: %s", journal, error)
    return lines[1:] if lines and lines[0].get("names") == names else []
