"""The full check: processes open every image, and a report for training names those that do not decode."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from minigpt4.common.files import append_text
from minigpt4.datasets.images import Listings
from minigpt4.datasets.picture_kinds import kinds_of_file, lines_of
from minigpt4.datasets.selection import MAX_EXAMPLES
from minigpt4.datasets.shards import open_shards
from minigpt4.preflight.preflight_report import PreflightReport, write_bad_samples

logger = logging.getLogger(__name__)
CHUNK = 128
"""Images that a process opens before it reports."""


class Opened(NamedTuple):
    """What was found in images: the reasons of those that do not decode, the kinds of those that have some."""

    bad: dict[str, str]
    kinds: dict[str, list[str]]


def check_images(report: PreflightReport, run_cfg: Any) -> None:
    """Open every image of every dataset, add what does not decode to the report, and write the file of bad samples."""
    path = run_cfg.bad_samples_report or os.path.join(run_cfg.output_dir, "bad_samples.json")
    num_processes = run_cfg.num_workers or os.cpu_count() or 1
    listings = Listings()
    finite = [(one, one.dataset) for one in report.datasets if one.dataset is not None and not one.is_stream]
    shown = {one.name: dataset.image_paths(listings) for one, dataset in finite}
    paths = sorted({image for images in shown.values() for image in images})
    bad, kinds = open_images(paths, Path(f"{path}.part"), num_processes=num_processes)
    rows: dict[str, str] = {}
    for one, dataset in finite:
        rows |= dataset.bad_rows()
        unreadable = {image: count for image, count in shown[one.name].items() if image in bad and listings.has(image)}
        one.num_unreadable = sum(unreadable.values())
        if unreadable:
            report.remarks.append(
                f"{one.name}: {len(unreadable):,} images cannot be read: {_examples(bad, unreadable)}"
            )
        report.remarks += lines_of(one.name, shown[one.name], kinds, dataset.pictures)
        dataset.look_at_boxes()
    shards = _open_shards(report, Path(f"{path}.shards.part"), num_processes)
    num_images = len(paths) + sum(shard["num_samples"] for shard in shards.values())
    write_bad_samples(Path(path), images=bad, rows=rows, num_images=num_images, shards=shards)
    report.remarks.append(f"{num_images:,} images were opened; {path} names the bad samples")
    num_unreadable = sum(one.num_unreadable for one in report.datasets)
    if num_unreadable > run_cfg.max_bad_samples and not run_cfg.bad_samples_report:
        report.problems.append(
            f"{num_unreadable:,} rows show an image that cannot be read, run.max_bad_samples allows "
            f"{run_cfg.max_bad_samples}; leave them out with run.bad_samples_report={path}"
        )


def _examples(bad: Mapping[str, str], names: Mapping[str, Any]) -> str:
    return "; ".join(f"{name}: {bad[name]}" for name in list(names)[:MAX_EXAMPLES])


def _open_shards(report: PreflightReport, journal: Path, num_processes: int) -> dict[str, Any]:
    """Open every sample of every shard of the streams; add what is wrong to the report and return it by shard."""
    shards: dict[str, Any] = {}
    for one in report.datasets:
        if not one.is_stream:
            continue
        stream: Any = one.dataset
        look = partial(open_shards, stream.read_row)
        opened = open_each(stream.shards, look, journal, chunk=1, unit="shard", num_processes=num_processes)
        found = opened.get("shards", {})
        shards |= found
        num_samples = sum(shard["num_samples"] for shard in found.values())
        bad, kinds = (
            {f"{path}/{name}": value for path, shard in found.items() for name, value in shard[part].items()}
            for part in ("bad", "kinds")
        )
        remarks = [f"{one.name}: {remark}" for shard in found.values() for remark in shard["remarks"]]
        remarks += lines_of(one.name, kinds, kinds, stream.pictures)
        if bad:
            named = _examples(bad, bad)
            remarks.append(f"{one.name}: {len(bad):,} of {num_samples:,} samples cannot be read: {named}")
        report.remarks += [remark for remark in remarks if remark not in report.remarks]
        report.problems += [
            f"{one.name}: not one of the {shard['num_samples']:,} samples of {path} can be read"
            for path, shard in found.items()
            if shard["num_samples"] and len(shard["bad"]) == shard["num_samples"]
        ]
    return shards


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

    An interrupted check continues from its `journal`, which is removed at the end.
    """
    names = digest(paths)
    done = _read_journal(journal, names)
    num_opened = sum(line["opened"] for line in done)
    if num_opened:
        logger.info("%s: %d of %d %ss were opened before; continuing there", journal, num_opened, len(paths), unit)
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
    """Return a name for a list of paths: a check continues the journal of the same list only."""
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
    """Return what an earlier check of the same paths wrote, up to a line that was cut off."""
    lines: list[dict[str, Any]] = []
    try:
        for text in journal.read_text(encoding="utf-8").splitlines():
            lines.append(json.loads(text))
    except (OSError, ValueError) as error:
        logger.debug("%s: %s", journal, error)
    return lines[1:] if lines and lines[0].get("names") == names else []
