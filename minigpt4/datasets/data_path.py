"""The path of a dataset's file or folder, and the message when it is missing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from minigpt4.common.paths import wrong_path


@dataclass(frozen=True)
class DataPath:
    """One file or folder: its possible paths (the first that exists counts), and the YAML key that sets it."""

    key: str
    paths: Sequence[str]
    url: str = ""
    folder: bool = False

    def find(self) -> str | None:
        """Return the first path that exists, or None."""
        exists = os.path.isdir if self.folder else os.path.isfile
        return next((path for path in self.paths if exists(path)), None)

    def problem(self) -> str | None:
        """Return the message for the user if it is missing or unusable, else None."""
        there = next((path for path in self.paths if os.path.lexists(path)), None)
        if there is not None:
            wrong = wrong_path(self.find() or there, folder=self.folder)
            return f"{self.key}: {wrong}" if wrong else None
        kind = "folder" if self.folder else "file"
        where = " or ".join(self.paths) if self.paths else "is set"
        return f"{self.key}: no {kind} {where}" + (f"; download it from {self.url}" if self.url else "")
