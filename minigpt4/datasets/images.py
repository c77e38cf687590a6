"""Image files: folder listings, a dataset's image folder, and reading one image."""

from __future__ import annotations

import os
from collections.abc import Collection

from PIL import Image

from minigpt4.processors.pictures import AS_SEEN, decode_image


class Listings:
    """The files of folders; each folder is read once for all datasets."""

    def __init__(self) -> None:
        self._names: dict[str, Collection[str]] = {}

    def has(self, path: str) -> bool:
        """Return whether the file existed when its folder was read."""
        folder, _, name = path.rpartition("/")
        if folder not in self._names:
            self._names[folder] = ()
            if os.path.isdir(folder):
                with os.scandir(folder) as entries:
                    self._names[folder] = {entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)}
        return name in self._names[folder]


class ImageFolder:
    """The root of image names; `spelling` is a part of names with its alternative.

    With `listings` it answers from folder listings, without a system call for every file.
    """

    def __init__(self, root: str, *, spelling: tuple[str, str] | None = None) -> None:
        self.root, self.spelling = os.path.normpath(root), spelling
        self.listings: Listings | None = None

    def find(self, name: str) -> str:
        """Return the path of a file, in the other spelling if only that one exists."""
        path = self._path(name)
        if self.spelling is None or self.spelling[0] not in name or self.exists(path):
            return path
        other = self._path(name.replace(*self.spelling, 1))
        return other if self.exists(other) else path

    def exists(self, path: str) -> bool:
        """Return whether the file exists."""
        return os.path.exists(path) if self.listings is None else self.listings.has(path)

    def _path(self, name: str) -> str:
        return name if name.startswith("/") else f"{self.root}/{name}"


def read_image(path: str, pictures: str = AS_SEEN) -> Image.Image:
    """Return the RGB picture of a file, as `pictures` says. Raises: ValueError naming the file when it is none."""
    try:
        return decode_image(path, pictures)
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from error
