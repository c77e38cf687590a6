"""Image files: folder listings, the folder that a dataset's images lie in, and reading one."""

from __future__ import annotations

import os
from collections.abc import Collection

from PIL import Image

from minigpt4.processors.pictures import AS_SEEN, decode_image


class Listings:
    """What lies in which folder; each folder is read once, however many datasets ask for files of it."""

    def __init__(self) -> None:
        self._names: dict[str, Collection[str]] = {}

    def has(self, path: str) -> bool:
        """Return whether the file was there when its folder was read."""
        folder, _, name = path.rpartition("/")
        if folder not in self._names:
            self._names[folder] = _files_in(folder) if os.path.isdir(folder) else ()
        return name in self._names[folder]


def _files_in(folder: str) -> frozenset[str]:
    """Return the names of what a folder holds, without its subfolders."""
    with os.scandir(folder) as entries:
        return frozenset(entry.name for entry in entries if not entry.is_dir(follow_symlinks=False))


class ImageFolder:
    """The folder that image names start from; `spelling` is a part of names that may be written in another way too.

    While `listings` is set, it answers from folder listings instead of asking for every file.
    """

    def __init__(self, root: str, *, spelling: tuple[str, str] | None = None) -> None:
        self.root, self.spelling = os.path.normpath(root), spelling
        self.listings: Listings | None = None

    def find(self, name: str) -> str:
        """Return the path of a file: as it is named, or in the other spelling when only that one is there."""
        path = self._path(name)
        if self.spelling is None or self.spelling[0] not in name or self.exists(path):
            return path
        other = self._path(name.replace(*self.spelling, 1))
        return other if self.exists(other) else path

    def exists(self, path: str) -> bool:
        """Return whether the file is there."""
        return os.path.exists(path) if self.listings is None else self.listings.has(path)

    def _path(self, name: str) -> str:
        return name if name.startswith("/") else f"{self.root}/{name}"


def read_image(path: str, pictures: str = AS_SEEN) -> Image.Image:
    """Return the RGB picture of a file, as `pictures` says. Raises: ValueError naming the file when it is none."""
    try:
        return decode_image(path, pictures)
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from error
