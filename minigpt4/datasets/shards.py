"""The samples of a tar shard (an image and a .json of the same name), and its members without a sample."""

from __future__ import annotations

import io
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from minigpt4.datasets.picture_kinds import kinds_of_file

IMAGES, TEXT = ("jpg", "jpeg", "png", "webp"), "json"
DOT, NAMELESS = "a dot in the name", "no name before the first dot"
ALONE, LINK = "an image without a .json of its name, or the reverse", "a link, not a file"
GZIP = b"\x1f\x8b"
MAX_NAMED = 5
Sample = tuple[int, int, int, int]
"""Image start, image bytes, text start, text bytes."""


@dataclass
class Shard:
    """The samples of one shard; `unused` has (name, reason) of images and .json files of no sample.

    `others` counts members of other kinds. `cut` says why the shard could not be read to its end.
    """

    path: str
    samples: list[Sample] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    unused: list[tuple[str, str]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    cut: str | None = None

    def remarks(self) -> list[str]:
        """Return remarks about faults of the shard; each begins with its path."""
        found = [f"{self.path}: cannot be read to its end: {self.cut}"] if self.cut else []
        if self.unused:
            first = {reason: name for name, reason in reversed(self.unused)}
            reasons = "; ".join(
                f"e.g. {first[reason]}: {reason}" for reason in dict.fromkeys(r for _, r in self.unused)
            )
            total = f"{len(self.unused):,} members are no image or .json of this layout"
            found.append(f"{self.path}: {total}, {reasons}")
        return found

    def why_empty(self) -> str:
        """Return why the shard has no sample."""
        kinds = ", ".join(sorted(self.others)[:MAX_NAMED])
        return "; ".join(self.remarks()) or f"{self.path}: no image with a .json beside it" + (
            f", only members of the kinds {kinds}" if kinds else ""
        )

    def leave_out(self, member: tarfile.TarInfo, key: str | None) -> None:
        """Count a member that is no part of a sample by its name or its type."""
        name = os.path.basename(member.name)
        kind = _kind_of(name.rpartition(".")[2]) if "." in name else "no ending"
        if member.isdir():
            return
        if kind in ("image", TEXT):
            self.unused.append((member.name, LINK if not member.isfile() else NAMELESS if key is None else DOT))
        else:
            self.others[kind] += 1


def read_shard(path: str) -> Shard:
    """Return the samples of a shard up to its end or cut; reads no content."""
    # webdataset's reader yields contents in the order of the file; finding a row again needs byte positions
    from webdataset.tariterators import base_plus_ext

    shard = Shard(path)
    waiting: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        for member in _members(path):
            key, extension = base_plus_ext(member.name)
            kind = _kind_of(extension or "")
            if key is None or kind not in ("image", TEXT) or not member.isfile():
                shard.leave_out(member, key)
                continue
            parts = waiting.setdefault(key, {})
            shard.unused += [(parts[kind].name, ALONE)] if kind in parts else []
            parts[kind] = member
            if len(parts) == 2:
                image, text = parts["image"], parts[TEXT]
                del waiting[key]
                shard.samples.append((image.offset_data, image.size, text.offset_data, text.size))
                shard.names.append(image.name)
    except (tarfile.TarError, OSError, ValueError, ArithmeticError, LookupError) as error:
        shard.cut = _why_cut(path, error)
    shard.unused += [(member.name, ALONE) for parts in waiting.values() for member in parts.values()]
    return shard


def _members(path: str) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a shard. Raises: tarfile.ReadError where it is cut off."""
    with tarfile.open(path, "r:") as tar:
        while member := tar.next():
            yield member
        if os.path.getsize(path) < tar.offset + tarfile.BLOCKSIZE:
            raise tarfile.ReadError("its end mark is missing")


def _kind_of(ending: str) -> str:
    return "image" if ending.lower() in IMAGES else ending.lower()


def _why_cut(path: str, error: Exception) -> str:
    try:
        with open(path, "rb") as file:
            if file.read(2) == GZIP:
                return "it is compressed; a stream needs a plain .tar"
    except OSError as unreadable:
        return str(unreadable)
    return "it is empty (0 bytes)" if os.path.getsize(path) == 0 else str(error) or type(error).__name__


def open_shards(read_row: Callable[[bytes], Any], paths: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read every sample; return under `shards` each one's number of samples, bad samples, kinds and remarks."""
    found = {}
    for path in paths:
        shard = read_shard(path)
        bad: dict[str, str] = {}
        kinds: dict[str, list[str]] = {}
        for name, (image_start, image_size, text_start, text_size) in zip(shard.names, shard.samples, strict=True):
            try:
                with open(path, "rb") as file:
                    file.seek(image_start)
                    found_kinds = kinds_of_file(io.BytesIO(file.read(image_size)))
                    file.seek(text_start)
                    read_row(file.read(text_size))
            except (OSError, ValueError) as error:
                bad[name] = str(error)
            else:
                if found_kinds:
                    kinds[name] = found_kinds
        remarks = shard.remarks() if shard.samples else [shard.why_empty()]
        found[path] = {"num_samples": len(shard.samples), "bad": bad, "kinds": kinds, "remarks": remarks}
    return {"shards": found}


def cut_shards(paths: Sequence[str]) -> list[str]:
    """Return the shards whose last bytes are not the end of a tar file."""
    return [path for path in paths if not _has_end(path)]


def _has_end(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            if file.seek(0, os.SEEK_END) < 2 * tarfile.BLOCKSIZE:
                return False
            file.seek(-tarfile.BLOCKSIZE, os.SEEK_END)
            return not file.read().strip(b"\0")
    except OSError:
        return False


def named(paths: Sequence[str]) -> str:
    """Return the first few paths, and the number of the others."""
    more = f" and {len(paths) - MAX_NAMED:,} more" if len(paths) > MAX_NAMED else ""
    return ", ".join(paths[:MAX_NAMED]) + more
