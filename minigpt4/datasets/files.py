"""Where a dataset's files are looked for, and what to tell the user when they are not there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """One file or folder: the paths where it may lie (the first that exists counts), and the YAML key that sets it."""

    key: str
    paths: Sequence[str]
    address: str = ""
    folder: bool = False

    def find(self) -> str | None:
        """Return the first path that is there, or None."""
        exists = os.path.isdir if self.folder else os.path.isfile
        return next((path for path in self.paths if exists(path)), None)

    def problem(self) -> str | None:
        """Return what is wrong, in words for the user, or None."""
        if self.find() is not None:
            return None
        kind = "folder" if self.folder else "file"
        where = " or ".join(self.paths) if self.paths else "is set"
        return f"{self.key}: no {kind} {where}" + (f"; to be had from {self.address}" if self.address else "")


class ImageFolder:
    """A folder of images; while `listed`, it answers from folder listings instead of asking for every file."""

    def __init__(self, root: str) -> None:
        self.root = os.path.normpath(root)
        self._names: dict[str, frozenset[str]] | None = None
        self._last = ("", False)

    def listed(self, on: bool) -> None:
        """Begin or end to answer from listings; each folder is read once, when it is first asked about."""
        self._names, self._last = {} if on else None, ("", False)

    def exists(self, path: str) -> bool:
        """Return whether the file is there."""
        if self._names is None:
            return os.path.exists(path)
        if path != self._last[0]:  # rows of one image often follow each other
            folder, _, name = path.rpartition("/")
            if folder not in self._names:
                self._names[folder] = frozenset(os.listdir(folder)) if os.path.isdir(folder) else frozenset()
            self._last = path, name in self._names[folder]
        return self._last[1]

    def find(self, *names: str) -> str:
        """Return the path of the first of these files that is there; of the first name when none is."""
        first = names[0] if names[0].startswith("/") else f"{self.root}/{names[0]}"
        if len(names) == 1 or self.exists(first):
            return first
        others = (f"{self.root}/{name}" for name in names[1:])
        return next((path for path in others if self.exists(path)), first)
